from __future__ import annotations

import pytest

from art_versatile.baselines import Identity, WaveletDenoising
from art_versatile.evaluation import load_records
from art_versatile.experiments.paper import OURS, STRENGTHS, reproduce


@pytest.fixture
def run(any_size_classifier, tiny_images, tmp_path):
    def run(wrong=1, **arguments):
        x = tiny_images[:4]
        y = any_size_classifier.predict(x).argmax(1)
        y[:wrong] = (y[:wrong] + 1) % 10
        defaults = {"dataset": "patches", "classifier_name": "tiny", "eps": 0.1, "evaluations": 2, "verbose": False}
        return reproduce(any_size_classifier, Identity(), x, y, tmp_path / "out", **{**defaults, **arguments})

    return run


def test_tables_and_figures(run, tmp_path, monkeypatch):
    monkeypatch.setitem(STRENGTHS, "quick", ((0.05,), (1, 3)))
    arguments = {"specific": {"FGSM": WaveletDenoising()}, "strength_images": 2}
    found = run(**arguments)
    folder = tmp_path / "out"
    assert {"figure_3.png", "figure_4.png", "figure_5.png", "records.json", "report.html", "tables.md"} <= {
        path.name for path in folder.iterdir()
    }
    assert (found.kept, found.given) == (3, 4)
    records = found.records
    assert load_records(folder / "records.json") == records
    assert {r.n for r in records} == {3}
    assert {r.correct for r in records if r.attack == "clean" and r.defence in ("none", OURS)} == {3}
    assert {r.defence for r in records} == {
        "none", OURS, "trained on FGSM", "RandomResizing", "PixelDeflection", "SuperResolution",
    }  # fmt: skip
    assert {r.defence for r in records if r.evaluations} == {"RandomResizing", "PixelDeflection"}
    assert {r.file_format for r in records if r.attack == "FGSM"} == {None, "PNG"}
    # A defence that does nothing is the undefended classifier, in every cell.
    for cell in {(r.attack, r.file_format) for r in records}:
        pair = {r.defence: r for r in records if (r.attack, r.file_format) == cell}
        assert pair["none"].right == pair[OURS].right
    assert {(r.attack, r.iterations, r.n) for r in found.strengths if r.attack != "clean"} == {
        (name, steps, 2) for name in ("PGD", "MI-FGSM") for steps in (1, 3)
    }
    text = (folder / "tables.md").read_text()
    for words in ("Purifiers trained on one attack", "Comparison of defences", "Floats against PNG", "attack strength"):
        assert words in text

    # Called again nothing is attacked again, and all of it is written again.
    def refuse(*_, **__):
        raise AssertionError("attacked again")

    (folder / "figure_5.png").unlink()
    monkeypatch.setattr("art_versatile.evaluation.benchmark.Benchmark._generate", refuse)
    again = run(**arguments)
    assert again.records == records
    assert again.tables == found.tables
    assert (folder / "figure_5.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"eps": 16}, "eps"),
        ({"effort": "full"}, "effort"),
        ({"specific": {"DeepFool": None}}, "specific"),
        ({"strength_images": -1}, "strength_images"),
        ({"wrong": 4}, "images that the classifier gets right"),
    ],
)
def test_bad_values(run, tmp_path, arguments, name):
    with pytest.raises(ValueError, match=f"Expected {name}"):
        run(**arguments)
    assert not (tmp_path / "out").exists()
