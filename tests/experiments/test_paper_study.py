"""The whole experiment at the scale of a test, and how it goes on."""

from __future__ import annotations

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

from art_versatile.classifiers import wrap
from art_versatile.evaluation.records import load_records
from art_versatile.experiments import paper_study
from art_versatile.experiments.paper_results import MARKERS, results_table, write_between
from art_versatile.experiments.paper_scale import SCALES
from art_versatile.experiments.paper_study import PaperStudy
from art_versatile.images import save_png
from art_versatile.pix2pix import PerceptualLoss

pytest.importorskip("foolbox")


def classifier(classes=1000):
    """Pictures of any size by their colours; the head that R-CAM needs."""
    init = [keras.initializers.HeNormal(seed=seed) for seed in range(2)]
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 5, 2, activation="relu", kernel_initializer=init[0], name="convolution")(image)
    x = keras.layers.Dense(classes, kernel_initializer=init[1])(keras.layers.GlobalAveragePooling2D()(x))
    return wrap(keras.Model(image, keras.layers.Rescaling(40.0)(x), name="tiny"), 32, classes)


@pytest.fixture(scope="module")
def patches():
    """Pictures of 32x32 patches of colour."""
    return np.float32(np.random.default_rng(0).uniform(0, 1, (10, 4, 4, 3)).repeat(8, 1).repeat(8, 2))


@pytest.fixture(scope="module")
def study(patches, tmp_path_factory):
    """Makes the experiment in one folder, anew at each call."""
    base = tmp_path_factory.mktemp("study")
    for number, image in enumerate(patches[:7]):
        save_png(image, base / "photographs" / f"{number}.png")
    keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]).save(base / "tiny.keras")

    def make(scale=None, classes=1000, out="out", **changes):
        target = classifier(classes)
        x = patches[6:]
        y = target.predict(x).argmax(1)
        y[0] = (y[0] + 1) % classes  # one that it gets wrong
        image = keras.Input((None, None, 3))
        features = keras.Model(image, keras.layers.Conv2D(2, 3, name="f")(image), name="features")
        features.set_weights([np.full(w.shape, 0.1, np.float32) for w in features.get_weights()])
        given = {
            "classifier": target, "photographs": [base / "photographs"], "x": x, "y": y, "dataset": "patches",
            "perceptual": PerceptualLoss(features, ["f"]), "verbose": False,
        }  # fmt: skip
        scale = scale or SCALES["smoke"]
        scale = dataclasses.replace(scale, classifier=str(base / "tiny.keras"))
        return PaperStudy(scale, base / out, **{**given, **changes})

    return make


@pytest.mark.slow
def test_all_of_it_interrupted_and_again(study, monkeypatch, capsys):
    whole = PaperStudy._train
    # Curves are drawn after every epoch; that they are right is tested elsewhere.
    monkeypatch.setattr("art_versatile.training.folder.draw_curves", lambda path, history: path.write_bytes(b"curves"))

    def interrupted(self, name):
        whole(self, name)
        if name == "fixed-weights":
            raise KeyboardInterrupt

    monkeypatch.setattr(PaperStudy, "_train", interrupted)
    first = study()
    with pytest.raises(KeyboardInterrupt):
        first.run()
    monkeypatch.setattr(PaperStudy, "_train", whole)
    before = first.seconds()
    known = json.loads((first.out / "stages" / "training-fixed-weights.json").read_text())
    assert (known["done"], set(before)) == (False, {s.name for s in first.stages()[: len(before)]})

    again = study(verbose=True)
    folder = again.run()
    said = capsys.readouterr().out
    assert "pairs/versatile:" not in said  # done, and not done again
    assert "training/fixed-weights: about" in said
    assert "all that is left about" in said
    finished = {name: seconds for name, seconds in before.items() if name != "training/fixed-weights"}
    assert {name: again.seconds()[name] for name in finished} == finished

    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "README.md", "figure_3.png", "figure_4.png", "figure_5.png", "records.json", "report.html", "strengths.json",
        "study.json", "tables.md", "variants.json", "tables/table_1.csv", "tables/table_2.tex",
        "trainings/versatile-log.csv", "trainings/PGD-curves.png",
    } <= files  # fmt: skip
    for table in ("table_1", "table_2", "figure_3", "figure_4", "png", "variants", "trainings"):
        assert (folder / "tables" / f"{table}.csv").stat().st_size > 100
    records = load_records(folder / "records.json")
    assert {r.n for r in records} == {3}  # those that the classifier gets right
    assert {r.defence for r in records} == {
        "none", "VersatilePurifier", "trained on PGD", "RandomResizing", "PixelDeflection", "SuperResolution",
        "PixelDeflection, R-CAM", "GaussianNoise", "GaussianBlur",
    }  # fmt: skip
    assert {r.defence for r in records if r.file_format == "PNG"} == {"none", "VersatilePurifier"}
    attacks = {r.attack: r.attack_parameters for r in records if r.attack != "clean"}
    assert attacks["C&W"]["max_iter"] == 2
    assert attacks["PGD"]["max_iter"] == 2
    variants = load_records(folder / "variants.json")
    assert {r.defence for r in variants} == {"none", "VersatilePurifier", "fixed-weights", "versatile-4-255"}
    assert {r.eps for r in variants if r.attack == "PGD"} == {16 / 255, 4 / 255}
    assert {(r.iterations, r.n) for r in load_records(folder / "strengths.json") if r.eps} == {(1, 2), (2, 2)}

    # Equal steps, equal networks; each purifier its own weights; both losses of the adversaries are logged.
    cards = {name: json.loads((again.out / "training" / name / "last" / "card.json").read_text())
             for name in again.scale.trainings()}  # fmt: skip
    assert {card["training"]["steps_per_epoch"] for card in cards.values()} == {1}
    assert len({card["weights"]["sha256"] for card in cards.values()}) == 4
    assert cards["PGD"]["pairs"]["attacks"] == ["PGD"]
    assert len(cards["versatile"]["pairs"]["attacks"]) == 6
    assert cards["versatile"]["training"]["schedule"] == [[1, 100, 100], [1, 100, 50], [1, 100, 1]]
    assert cards["fixed-weights"]["training"]["schedule"] == [[3, 100, 1]]
    assert cards["versatile"]["training"]["generator_options"]["encoder"] is None
    with (folder / "trainings" / "versatile-log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(float(row["adversarial"]) > 0 and float(row["discriminator"]) > 0 for row in rows)

    # Nothing of this machine, and no photograph: the page and Figure 5 show the demonstration's.
    text = "".join((folder / name).read_text() for name in ("README.md", "study.json", "records.json", "report.html"))
    assert str(again.out.parent) not in text
    assert "imagenet_00" in text or "data:image" in text
    assert not (again.out / "measuring" / "tables" / "pictures").exists()
    with Image.open(folder / "figure_5.png") as picture:
        assert picture.width > 6 * 200  # six attacks

    readme = again.out / "page.md"
    readme.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    write_between(readme, results_table(folder))
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    (header,) = [line for line in lines if line.startswith("| Attack")]
    assert "Noise of 0.02 | Blur of 1.5 pixels |" in header
    (clean,) = [line for line in lines if line.startswith("| Clean")]
    assert clean.startswith("| Clean | 100.0 (100) |")

    # Done: nothing is trained or attacked; other sizes are refused before anything is.
    def refuse(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(PaperStudy, "_do", refuse)
    kept = (folder / "records.json").read_bytes()
    study().run()
    assert (folder / "records.json").read_bytes() == kept
    other = dataclasses.replace(SCALES["smoke"], learning_rate=1e-3)
    with pytest.raises(ValueError, match="training/versatile to be made with the same settings.*learning_rate"):
        study(other).run()


def test_what_is_refused_before_anything_is_attacked(study, patches, monkeypatch):
    with pytest.raises(ValueError, match="Expected 8 photographs. Received 7"):
        study(dataclasses.replace(SCALES["smoke"], photographs=8))
    with pytest.raises(ValueError, match="Expected 6 photographs of per_class=2 in a folder.*Received 1 folders"):
        study(dataclasses.replace(SCALES["smoke"], per_class=2))
    with pytest.raises(ValueError, match="1,000 classes with photographs of the demonstration.*Received 10 classes"):
        study(classes=10)
    with pytest.raises(FileNotFoundError):
        study(photographs=["absent"])
    monkeypatch.setattr(PaperStudy, "_do", lambda *_: pytest.fail("attacked"))
    with pytest.raises(ValueError, match="Expected images that the classifier gets right"):
        study(y=np.zeros(4, int), out="never").run()
    with pytest.raises(ValueError, match="Expected RGB images, or crops of them in multiples of 4"):
        study(dataclasses.replace(SCALES["smoke"], crop=30), out="never").run()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (100, "2 min"), (3570, "1 h 0 min"), (12_000, "3 h 20 min")]
)
def test_times(seconds, text):
    assert paper_study._minutes(seconds) == text


def test_a_readme_without_the_lines(tmp_path):
    file = tmp_path / "README.md"
    for text in ("nothing\n", f"{MARKERS[1]}\n{MARKERS[0]}\n", f"{MARKERS[0]}\n" * 2 + f"{MARKERS[1]}\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="Expected the lines"):
            write_between(file, "table")
        assert file.read_text() == text
    with pytest.raises(FileNotFoundError, match="Expected records.json"):
        results_table(tmp_path)
