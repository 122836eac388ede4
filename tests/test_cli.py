import csv
import functools
import json
import re
import shutil
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

import art_versatile
from art_versatile import VersatilePurifier, cli, training
from art_versatile.classifiers import CLASSIFIERS, wrap
from art_versatile.images import load_image, save_png
from art_versatile.pairs import PairStore, generate_pairs
from art_versatile.pix2pix import CompactGenerator, UNet256Generator, build_generator
from art_versatile.training import PRESETS


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def weights(tmp_path):
    """Small and quick; the shipped ones are tested by the demo."""
    return VersatilePurifier(CompactGenerator(widths=(8, 8), blocks=(1, 1))).save(tmp_path / "weights")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 30)), ("inner/b.png", (17, 23))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


class TestPurify:
    def test_folder(self, run, pictures, weights, tmp_path):
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 0, result.output
        purifier = VersatilePurifier.from_pretrained(weights)
        for source, target in (("a.jpg", "a.png"), ("inner/b.png", "inner/b.png")):
            expected = purifier(load_image(pictures / source)[None])[0][0]
            got = load_image(tmp_path / "out" / target)
            assert np.abs(got - expected).max() <= 0.5 / 255 + 1e-6
        assert "2 of 2 images" in result.output

    def test_broken_image_is_named_and_skipped(self, run, pictures, weights, tmp_path):
        (pictures / "broken.png").write_bytes(b"\x89PNG not really")
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 1
        assert "broken.png" in result.output
        assert "2 of 3 images" in result.output
        assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["a.png", "b.png"]

    def test_nothing_is_overwritten_without_force(self, run, pictures, weights, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "a.png").write_bytes(b"mine")
        result = run("purify", pictures / "a.jpg", "--out", out, "--weights", weights)
        assert result.exit_code == 1
        assert "--force" in result.output
        assert (out / "a.png").read_bytes() == b"mine"
        assert run("purify", pictures / "a.jpg", "--out", out, "--weights", weights, "--force").exit_code == 0
        assert load_image(out / "a.png").shape == (40, 30, 3)

    def test_two_images_for_one_name(self, run, pictures, weights, tmp_path):
        Image.new("RGB", (8, 8)).save(pictures / "a.bmp")
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 2
        assert "Expected one image for" in result.output

    @pytest.mark.parametrize(
        ("source", "name", "message"),
        [
            ("missing", "compact", "Expected an image file or a folder of them"),
            ("pictures", "missing", "Received 'missing'"),
        ],
    )
    def test_missing(self, run, pictures, tmp_path, source, name, message):
        result = run("purify", tmp_path / source, "--out", tmp_path / "out", "--weights", name)
        assert result.exit_code == 2
        assert message in result.output
        assert not (tmp_path / "out").exists()


class TestDemo:
    def test_on_real_photographs(self, run, tmp_path):
        """The main job, on three photographs, with the shipped weights."""
        result = run("demo", "--out", tmp_path / "out", "--images", 3, "--seed", 5, "--eps", "8/255")
        assert result.exit_code == 0, result.output
        records = json.loads((tmp_path / "out" / "records.json").read_text())["records"]
        attacks = {r["attack"] for r in records}
        assert {"clean", "FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool"} <= attacks
        assert {r["threat_model"] for r in records} == {"clean", "static", "adaptive"}
        assert {r["n"] for r in records} == {3}
        page = (tmp_path / "out" / "report.html").read_text()
        assert "data:image" in page
        assert "DeepFool" in page
        assert "DeepFool" in result.output

    @pytest.mark.parametrize("eps", ["0", "two", "1/0", "2"])
    def test_bad_eps(self, run, tmp_path, eps):
        result = run("demo", "--out", tmp_path / "out", "--eps", eps)
        assert result.exit_code == 2
        assert "Expected" in result.output
        assert not (tmp_path / "out").exists()


class TestEvaluate:
    @pytest.fixture
    def photographs(self, tmp_path):
        rng = np.random.default_rng(0)
        folder = tmp_path / "photographs"
        folder.mkdir()
        for i in range(3):
            save_png(rng.random((40, 40, 3)).astype(np.float32), folder / f"{i}.png")
        table = tmp_path / "labels.csv"
        table.write_text("name,index\n" + "".join(f"{i}.png,{i}\n" for i in range(3)) + "absent.png,7\n")
        return folder, table

    def test_a_folder(self, run, photographs, tmp_path, monkeypatch):
        monkeypatch.setitem(CLASSIFIERS, "tiny", tiny_classifier)
        arguments = ["--file-column", "name", "--label-column", "index", "--limit", 2, "--classifier", "tiny"]
        arguments += [
            "--image-size",
            32,
            "--eps",
            "8/255,4/255",
            "--threats",
            "static, adaptive",
            "--out",
            tmp_path / "o",
        ]
        result = run("evaluate", *photographs, *arguments)
        assert result.exit_code == 0, result.output
        records = json.loads((tmp_path / "o" / "records.json").read_text())["records"]
        assert {r["n"] for r in records} == {2}
        assert {r["threat_model"] for r in records} == {"clean", "static", "adaptive"}
        static = [r for r in records if r["threat_model"] == "static"]
        assert {r["eps"] for r in static if r["attack"] == "PGD"} == {8 / 255, 4 / 255}
        assert "Was the attack strong enough?" in result.output
        assert "VersatilePurifier: an adaptive attacker (" in result.output.replace("\n", " ")
        assert "Threat model: static" in " ".join(result.output.split())
        assert "0.png" in (tmp_path / "o" / "report.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--eps", "two"], "Expected a number such as 0.03 or 8/255"),
            (["--threats", "black-box"], "Expected threats to be one of"),
            (["--effort", "full"], "Expected effort to be one of"),
            (["--weights", "missing"], "Received 'missing'"),
            (["--label-column", "missing"], "Expected"),
            (["--classifier", "missing"], "Expected a classifier in"),
        ],
    )
    def test_bad_values(self, run, photographs, tmp_path, monkeypatch, arguments, message):
        monkeypatch.setitem(CLASSIFIERS, "tiny", tiny_classifier)
        given = ["--file-column", "name", "--label-column", "index", "--classifier", "tiny", "--image-size", 32]
        result = run("evaluate", *photographs, *given, "--out", tmp_path / "o", *arguments)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())
        assert not (tmp_path / "o").exists()

    @pytest.mark.parametrize("command", ["evaluate", "reproduce"])
    def test_a_folder_without_labels(self, run, photographs, command):
        result = run(command, photographs[0])
        assert result.exit_code == 2
        assert "Expected both a folder and a table of labels, or neither." in " ".join(result.output.split())


class TestReproduce:
    def test_on_real_photographs(self, run, tmp_path):
        """Two photographs, the shipped weights, the paper's defences; without Figure 4."""
        arguments = ["--limit", 2, "--image-size", 224, "--strength-images", 0, "--evaluations", 2]
        arguments += ["--specific", "PGD=compact", "--out", tmp_path / "o"]
        result = run("reproduce", *arguments)
        assert result.exit_code == 0, result.output
        output = " ".join(result.output.split())
        for words in ("classified right; the others are left out", "Comparison of defences", "Floats against PNG"):
            assert words in output
        assert {path.name for path in (tmp_path / "o").iterdir()} == {
            "figure_3.png", "figure_5.png", "pictures", "records.json", "report.html", "tables.md",
        }  # fmt: skip
        records = json.loads((tmp_path / "o" / "records.json").read_text())["records"]
        assert {r["eps"] for r in records if r["attack"] == "FGSM"} == {16 / 255}
        assert "trained on PGD" in {r["defence"] for r in records}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--specific", "DeepFool=compact"], "Expected specific to be one of"),
            (["--specific", "FGSM"], "Expected ATTACK=FOLDER. Received 'FGSM'"),
            (["--eps", "two"], "Expected a number such as"),
        ],
    )
    def test_bad_values(self, run, tmp_path, arguments, message):
        result = run("reproduce", "--limit", 2, "--image-size", 64, "--out", tmp_path / "o", *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert not (tmp_path / "o").exists()


def tiny_classifier(size, **_):
    """Any size; 4 classes by colour; convolutions to take features of."""
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(2)]
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=init[0], name="conv_1")(image)
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=init[1], name="conv_2")(x)
    x = keras.layers.Rescaling(50.0)(keras.layers.GlobalAveragePooling2D()(x))
    return wrap(keras.Model(image, x, name="tiny"), size, 4)


def colourful(folder, count, size):
    """Pictures of random patches, in PNG files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        patches = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(size // 4, 0).repeat(size // 4, 1)
        Image.fromarray(patches).save(folder / f"{i}.png")
    return folder


def make_pairs(path, size, count=6):
    images = np.stack([load_image(file) for file in sorted(colourful(path / "images", count, size).iterdir())])
    build = functools.partial(cli._attacked_classifier, "tiny", size, ("FGSM", "PGD"), {"0.1": 0.1}, 2, "quick", 8)
    return generate_pairs(images, None, build, path / "store", verbose=False)


@pytest.fixture
def _tiny(monkeypatch):
    """A small classifier under a name of the package."""
    monkeypatch.setitem(CLASSIFIERS, "tiny", tiny_classifier)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A store of 6 pairs of 32x32, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CLASSIFIERS, "tiny", tiny_classifier)
        return make_pairs(tmp_path_factory.mktemp("pairs"), 32).path


SMALL = ("--classifier", "tiny", "--crop", 32, "--batch-size", 3)


@pytest.mark.usefixtures("_tiny")
class TestTrain:
    def test_run_and_resume(self, run, pairs, weights, tmp_path):
        out = tmp_path / "run"
        command = ("train", "--pairs", pairs, "--out", out, "--weights", weights, "--epochs", 2, "--schedule",
                   "1:100:20,1:100:1", "--validation", pairs, "--validation-limit", 4, "--clean-share", 0.5,
                   "--learning-rate", 0.001, "--seed", 3, *SMALL)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert f"2 epochs; weights in {out / 'last'} and {out / 'best'}" in result.output.replace("\n", "")
        with (out / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2
        assert {"pixel", "perceptual", "adversarial", "val_recovered_accuracy", "val_accuracy/PGD"} < set(rows[0])
        purifier = VersatilePurifier.from_pretrained(out / "last")
        start = VersatilePurifier.from_pretrained(weights).generator.get_weights()
        assert any(not np.array_equal(a, b) for a, b in zip(start, purifier.generator.get_weights(), strict=True))
        facts = purifier.card["training"]
        assert facts["schedule"] == [[1, 100.0, 20.0], [1, 100.0, 1.0]]
        assert (facts["seed"], facts["clean_share"], facts["learning_rate"]) == (3, 0.5, 0.001)
        assert (facts["crop"], facts["batch_size"], facts["pairs"]) == (32, 3, 6)
        # What was trained further, not what the preset would have built.
        assert (facts["architecture"], facts["generator_options"]["widths"]) == ("compact", [8, 8])
        origin = json.loads((weights / "card.json").read_text())["weights"]
        assert purifier.card["initial_weights"] == {"name": "weights", "sha256": origin["sha256"]}
        assert str(tmp_path) not in json.dumps(purifier.card)
        assert purifier.card["pairs"]["images"] == 6
        assert [attack["name"] for attack in purifier.card["pairs"]["attacks"]] == ["FGSM", "PGD"]

        again = run(*command)
        assert again.exit_code == 2
        assert "Expected no run in" in again.output
        assert run(*command, "--resume").exit_code == 0
        other = run(*command[: -len(SMALL)], "--resume", "--classifier", "tiny", "--crop", 32, "--batch-size", 2)
        assert other.exit_code == 2
        assert "batch_size: 3 there, 2 now" in other.output.replace("\n", " ")

    def test_from_images(self, run, weights, tmp_path):
        """Attack, then train, in one command; a second call takes the pairs that are there."""
        images, out = colourful(tmp_path / "images", 4, 40), tmp_path / "run"
        command = ("train", "--images", images, "--out", out, "--weights", weights, "--epochs", 1, "--attacks",
                   "FGSM,PGD", "--eps", "8/255", "--image-size", 32, "--no-adversarial", *SMALL)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        store = PairStore(out / "pairs")
        assert (store.attacks, len(store), store.image_shape) == (("FGSM", "PGD"), 4, (32, 32, 3))
        held = store.arrays()
        assert np.abs(held.adversarial - held.clean).max() <= 8 / 255 + 1e-3
        card = json.loads((out / "last" / "card.json").read_text())
        assert card["training"]["discriminator"] is None
        assert not (out / "best").exists()
        assert run(*command, "--resume").exit_code == 0

    def test_several_stores(self, run, pairs, weights, tmp_path):
        """Read as one; the card describes each."""
        out = tmp_path / "run"
        command = ("train", "--pairs", pairs, "--pairs", pairs, "--out", out, "--weights", weights, "--epochs", 1,
                   "--no-adversarial", *SMALL)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        card = json.loads((out / "last" / "card.json").read_text())
        assert card["training"]["pairs"] == 12
        assert [store["images"] for store in card["pairs"]] == [6, 6]

    def test_an_attack_specific_purifier(self, run, pairs, weights, tmp_path):
        command = ("train", "--pairs", pairs, "--weights", weights, "--epochs", 1, "--no-adversarial", *SMALL)
        result = run(*command, "--only", "PGD", "--out", tmp_path / "run")
        assert result.exit_code == 0, result.output
        card = json.loads((tmp_path / "run" / "last" / "card.json").read_text())
        assert card["training"]["pairs"] == PairStore(pairs).counts["PGD"] == 3
        assert card["only"] == ["PGD"]
        both = run("train", "--images", tmp_path, "--only", "PGD", "--out", tmp_path / "other", *SMALL)
        assert both.exit_code == 2
        assert "Expected --only with --pairs" in " ".join(both.output.split())
        unknown = run(*command, "--only", "BIM", "--out", tmp_path / "other")
        assert unknown.exit_code == 2
        assert "Expected attacks among ['FGSM', 'PGD']. Received 'BIM'." in " ".join(unknown.output.split())
        assert not (tmp_path / "other").exists()

    def test_new_networks_by_default(self, run, pairs, tmp_path, monkeypatch):
        """Without --weights the preset's own generator is built, with the noise that is asked for."""
        asked = []
        monkeypatch.setattr(training, "Training", lambda **k: asked.append(k) or (_ for _ in ()).throw(ValueError))
        run("train", "--pairs", pairs, "--out", tmp_path, "--noise", 0.02, "--steps-per-epoch", 7, "--patience", 2,
            "--precision", "mixed_bfloat16", "--monitor", "val_psnr", *SMALL)  # fmt: skip
        (arguments,) = asked
        assert arguments["generator"] is None
        assert arguments["preset"].generator_options == {**PRESETS["compact"].generator_options, "noise": 0.02}
        assert (arguments["steps_per_epoch"], arguments["patience"]) == (7, 2)
        assert (arguments["precision"], arguments["monitor"]) == ("mixed_bfloat16", "val_psnr")
        weight = PRESETS["compact"].features_options["prediction_weight"]
        assert f"prediction_weight={weight}" in repr(arguments["perceptual"])

    @pytest.mark.slow
    @pytest.mark.parametrize("features", ["classifier", "vgg19"])
    def test_the_papers_preset(self, run, tmp_path, features):
        """U-Net-256 and PatchGAN at 256x256, one step, over the classifier or over VGG19 with weights from a file."""
        small = VersatilePurifier(UNet256Generator(filters=2)).save(tmp_path / "weights")
        network = keras.applications.VGG19(include_top=False, weights=None)
        network.save_weights(tmp_path / "vgg19.weights.h5")
        store = make_pairs(tmp_path, 256, count=2)
        result = run(
            "train", "--pairs", store.path, "--out", tmp_path / "run", "--preset", "paper", "--weights", small,
            "--features", features, "--classifier", "tiny", "--vgg19-weights", tmp_path / "vgg19.weights.h5",
            "--epochs", 1, "--steps-per-epoch", 1,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        facts = json.loads((tmp_path / "run" / "last" / "card.json").read_text())["training"]
        assert facts["perceptual"].startswith(f"PerceptualLoss({'vgg19' if features == 'vgg19' else 'tiny'!r}")
        assert (facts["architecture"], facts["discriminator"], facts["batch_size"]) == ("unet256", 64, 1)
        assert facts["features_options"] == ({"weights": "vgg19.weights.h5"} if features == "vgg19" else {})

    def test_a_loss_that_is_not_finite(self, run, pairs, weights, tmp_path):
        result = run("train", "--pairs", pairs, "--out", tmp_path / "run", "--weights", weights, "--epochs", 1,
                     "--learning-rate", 1e38, "--no-adversarial", *SMALL)  # fmt: skip
        assert result.exit_code == 2
        assert "error: Expected finite losses and weights. Received" in result.output
        assert not (tmp_path / "run" / "last").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "Expected either --pairs or --images. Received both or neither."),
            (("--pairs", "a", "--images", "b"), "Expected either --pairs or --images. Received both or neither."),
            (("--pairs", "missing"), "Expected a store of pairs at 'missing'. Received no manifest.json there."),
            (("--images", "missing"), "Expected an image file or a folder of them"),
            (("--pairs", "STORE", "--validation", "missing"), "Expected a store of pairs at 'missing'."),
            (("--pairs", "STORE", "--schedule", "40:100"), "Expected stages epochs:pixel:perceptual, as 40:100:100,"),
            (
                ("--pairs", "STORE", "--schedule", "0:1:1"),
                "Expected epochs to be an integer of at least 1. Received 0.",
            ),
            (("--pairs", "STORE", "--preset", "big"), "Expected --preset to be one of ['paper', 'compact']."),
            (("--pairs", "STORE", "--features", "vgg"), "Expected features to be 'vgg19', 'classifier' or None."),
            (("--pairs", "STORE", "--classifier", "none"), "Expected a classifier in ["),
            (("--pairs", "STORE", "--weights", "missing"), "Expected one of ["),
            (("--pairs", "STORE", "--precision", "half"), "Expected precision to be one of ['float32',"),
            (("--pairs", "STORE", "--crop", "64"), "Expected crop to be one or two integers from 1 to (32, 32)."),
            (("--images", "STORE", "--eps", "two"), "Expected a number such as 0.03 or 8/255. Received 'two'."),
            (
                ("--pairs", "STORE", "--features", "vgg19", "--vgg19-weights", "missing.h5"),
                "Expected --vgg19-weights to be imagenet or a file. Received 'missing.h5'.",
            ),
        ],
    )
    def test_errors(self, run, pairs, tmp_path, arguments, message):
        given = [pairs if argument == "STORE" else argument for argument in arguments]
        defaults = [] if "--classifier" in given else ["--classifier", "tiny"]
        result = run("train", "--out", tmp_path / "run", *given, *defaults)
        assert result.exit_code == 2, result.output
        assert message in result.output.replace("\n", " ")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--weights", "missing"), "Expected one of ["),
            (("--precision", "half"), "Expected precision to be one of ['float32',"),
            (("--monitor", "x", "--validation", "STORE"), "Expected monitor to be one of ['val_clean_accuracy',"),
            (("--patience", 2), "Expected validation pairs with patience. Received none."),
            (("--crop", 28), "in multiples of 8 pixels for compact. Received crop=28 of images 32x32x3."),
            (("--clean-share", 2), "Expected clean_share to be a number from 0 to 1. Received 2.0."),
            (("--tensorboard",), "Expected the package tensorboard"),
            (("--eps", "two"), "Expected a number such as 0.03 or 8/255. Received 'two'."),
            (("--validation", "missing"), "Expected a store of pairs at 'missing'."),
        ],
    )
    def test_errors_come_before_images_are_attacked(
        self, run, pairs, pictures, weights, tmp_path, monkeypatch, arguments, message
    ):
        monkeypatch.setattr(cli, "_make_pairs", lambda *_: pytest.fail("an attack"))
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        given = {"--weights": weights, "--classifier": "tiny", "--crop": 32, "--image-size": 32}
        defaults = [part for option in given.items() if option[0] not in arguments for part in option]
        arguments = [pairs if argument == "STORE" else argument for argument in arguments]
        result = run("train", "--images", pictures, "--out", tmp_path / "run", *defaults, *arguments)
        assert result.exit_code == 2, result.output
        assert message in result.output.replace("\n", " ")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("damaged", ["--pairs", "--validation"])
    def test_a_damaged_shard(self, run, pairs, weights, tmp_path, damaged):
        """TensorFlow's error, in one line."""
        shutil.copytree(pairs, tmp_path / "store")
        shard = sorted((tmp_path / "store").rglob("*.tfrecord"))[0]
        content = bytearray(shard.read_bytes())
        content[100] ^= 255
        shard.write_bytes(content)
        stores = {"--pairs": pairs, "--validation": pairs, damaged: tmp_path / "store"}
        result = run("train", "--out", tmp_path / "run", "--weights", weights, "--epochs", 1, "--no-adversarial",
                     *[part for option in stores.items() for part in option], *SMALL)  # fmt: skip
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.output.splitlines() if "error" in line.lower()]
        assert re.fullmatch(r"error: DataLossError: corrupted record at \d+; the command pairs, called again .*", line)

    def test_no_network_for_vgg19(self, run, pictures, weights, tmp_path, monkeypatch):
        """Keras's bare Exception, before images are attacked."""

        def fetch(**_):
            raise Exception("URL fetch failure on https://example.org/vgg19.h5: None -- [Errno -3]")

        monkeypatch.setattr(keras.applications, "VGG19", fetch)
        monkeypatch.setattr(cli, "_make_pairs", lambda *_: pytest.fail("an attack"))
        result = run("train", "--images", pictures, "--out", tmp_path / "run", "--weights", weights, "--features",
                     "vgg19", "--image-size", 32, *SMALL)  # fmt: skip
        assert result.exit_code == 2, result.output
        assert "--vgg19-weights FILE. Received URL fetch failure on https://example.org" in result.output

    def test_other_errors_are_not_hidden(self, run, pairs, tmp_path, monkeypatch):
        monkeypatch.setattr(cli, "_preset", lambda *_, **__: (_ for _ in ()).throw(Exception("a bug")))
        result = run("train", "--pairs", pairs, "--out", tmp_path / "run")
        assert result.exit_code == 1
        assert str(result.exception) == "a bug"

    def test_a_run_is_found_before_images_are_attacked(self, run, pictures, tmp_path, monkeypatch):
        monkeypatch.setattr(cli, "_make_pairs", lambda *_: pytest.fail("an attack"))
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
        (tmp_path / "checkpoints" / "ckpt-1.index").touch()
        result = run("train", "--images", pictures, "--out", tmp_path)
        assert result.exit_code == 2
        assert "resume=True goes on with it" in result.output.replace("\n", " ")


@pytest.mark.usefixtures("_tiny")
def test_compare_schedules(run, pairs, tmp_path, monkeypatch):
    # The preset's own generator is large for a test.
    small = {"widths": (8,), "blocks": (1,)}
    monkeypatch.setattr("art_versatile.pix2pix.build_generator",
                        lambda name, **options: build_generator(name, **{**options, **small}))  # fmt: skip
    result = run("compare-schedules", "--pairs", pairs, "--validation", pairs, "--out", tmp_path, "--epochs", 3,
                 "--steps-per-epoch", 1, *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "recovered accuracy, %" in result.output
    assert {f.name for f in tmp_path.iterdir()} == {"multi-step", "fixed", "schedules.json"}
    missing = run("compare-schedules", "--pairs", "missing", "--validation", pairs, "--out", tmp_path)
    assert missing.exit_code == 2
    assert "Expected a store of pairs" in missing.output


@pytest.mark.parametrize("option", ["--preset", "--attack-preset"])
def test_attack_preset_of_pairs(run, tmp_path, monkeypatch, option):
    asked = []
    monkeypatch.setattr(
        "art_versatile.pairs.generate_pairs", lambda *a, **_: asked.append(a) or (_ for _ in ()).throw(OSError)
    )
    for chosen in ((option, "quick"), ()):
        run("pairs", tmp_path, "--out", tmp_path / "out", *chosen)
    assert [build.args[5] for _, _, build, _ in asked] == ["quick", "paper"]


@pytest.mark.usefixtures("_tiny")
def test_pairs_at_several_budgets(run, tmp_path):
    """Each attack at each budget; C&W, which has none, once."""
    command = ("pairs", colourful(tmp_path / "images", 5, 32), "--out", tmp_path / "store", "--attacks", "FGSM,C&W",
               "--eps", "4/255, 16/255", "--split", 2, "--preset", "quick", "--classifier", "tiny",
               "--image-size", 32)  # fmt: skip
    result = run(*command)
    assert result.exit_code == 0, result.output
    store = PairStore(tmp_path / "store")
    assert store.attacks == ("FGSM 4/255", "C&W", "FGSM 16/255")
    assert sum(store.counts.values()) == 10
    pairs = store.arrays()
    change = np.abs(pairs.adversarial - pairs.clean).max(axis=(1, 2, 3))
    for name, budget in (("FGSM 4/255", 4 / 255), ("FGSM 16/255", 16 / 255)):
        np.testing.assert_allclose(change[pairs.attacks == store.attacks.index(name)], budget, atol=5e-4)


@pytest.mark.parametrize("text", ["8/255,8/255", "", "8/255,", "x"])
def test_bad_budgets(text):
    with pytest.raises(ValueError, match=r"Expected (different budgets|a number)"):
        cli._budgets(text)


@pytest.mark.parametrize("command", ["demo", "evaluate", "reproduce", "purify", "pairs", "train", "compare-schedules"])
def test_help_is_shown_as_it_is_written(run, monkeypatch, command):
    """Rich takes a word between colons for an emoji, and one in brackets for a style."""
    helps = [option.help for option in get_command(cli.app).commands[command].params if option.help]
    assert len(helps) > 3
    for text in helps:
        assert Text.from_markup(text).plain == text
    monkeypatch.setenv("COLUMNS", "400")
    shown = run(command, "--help").output
    for text in helps:
        assert text in shown


def test_help_says_which_preset(run):
    def preset(command, name):
        (option,) = [option for option in get_command(cli.app).commands[command].params if option.name == name]
        return option.help

    assert "attack preset" in preset("pairs", "preset").lower()
    assert "attack preset" in preset("train", "attack_preset")
    assert "training preset" in preset("train", "preset").lower()


def test_version(run):
    assert run("--version").output.strip() == art_versatile.__version__
