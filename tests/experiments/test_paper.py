from __future__ import annotations

import numpy as np
import pytest

from art_versatile.baselines import Identity, WaveletDenoising
from art_versatile.evaluation import load_records
from art_versatile.experiments.paper import OURS, STRENGTHS, png_round_trip, reproduce


@pytest.fixture
def run(any_size_classifier, tiny_images, tmp_path):
    def run(wrong=1, **arguments):
        x = tiny_images[:4]
        y = any_size_classifier.predict(x).argmax(1)
        y[:wrong] = (y[:wrong] + 1) % 10
        defaults = {"dataset": "patches", "classifier_name": "tiny", "eps": 0.1, "evaluations": 2}
        return reproduce(any_size_classifier, Identity(), x, y, tmp_path / "out", **{**defaults, **arguments})

    return run


def test_tables_and_figures(run, tmp_path, monkeypatch):
    monkeypatch.setitem(STRENGTHS, "quick", ((0.05,), (1, 3)))
    lines = []
    found = run(specific={"FGSM": WaveletDenoising()}, strength_images=2, report=lines.append)
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "figure_3.png", "figure_4.png", "figure_5.png", "records.json", "strengths.json", "tables.md",
    ]  # fmt: skip
    assert (found.kept, found.given) == (3, 4)
    assert lines[0].startswith("3 of 4 images are classified right")
    records = load_records(folder / "records.json")
    assert records == found.records
    assert {r.n for r in records} == {3}
    assert {r.correct for r in records if r.attack == "clean" and r.defence in ("none", OURS)} == {3}
    assert {r.defence for r in records} == {
        "none", OURS, "trained on FGSM", "RandomResizing", "PixelDeflection", "SuperResolution",
    }  # fmt: skip
    random = {r.defence for r in records if r.evaluations}
    assert random == {"RandomResizing", "PixelDeflection"}
    # A defence that does nothing is the undefended classifier, in every cell.
    for attack in {r.attack for r in records}:
        pair = {r.defence: r for r in records if r.attack == attack}
        assert pair["none"].right == pair[OURS].right
    assert {(r.attack, r.attack_parameters["max_iter"], r.n) for r in found.strengths} == {
        (name, steps, 2) for name in ("PGD", "MI-FGSM") for steps in (1, 3)
    }
    text = (folder / "tables.md").read_text()
    for words in ("Purifiers trained on one attack", "Comparison of defences", "Floats against PNG", "attack strength"):
        assert words in text


def test_called_again_nothing_is_attacked_again(run, monkeypatch):
    first = run(strength_images=0)

    def refuse(*_, **__):
        raise AssertionError("attacked again")

    monkeypatch.setattr("art_versatile.evaluation.benchmark.Benchmark._generate", refuse)
    again = run(strength_images=0)
    assert again.records == first.records
    assert again.tables == first.tables


def test_another_budget_in_the_same_folder(run):
    """The tables are of this call alone."""
    run(strength_images=0)
    found = run(strength_images=0, eps=0.01, specific={"FGSM": WaveletDenoising()})
    assert {record.eps for record in found.records} == {None, 0.01}
    assert {r.defence for r in found.records if r.attack == "clean"} >= {"none", "trained on FGSM"}
    rows = {line[0]: line for line in found.tables[0].rows}
    assert rows["Clean"][2].startswith(("100.0", "66.7", "33.3", "0.0"))


def test_png(tiny_images):
    back = png_round_trip(tiny_images)
    np.testing.assert_array_equal(np.round(back * 255), np.round(tiny_images * 255))
    np.testing.assert_allclose(back * 255, np.round(back * 255), atol=1e-4)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(png_round_trip(back), back)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 16}, "Expected eps to be a number from"),
        ({"preset": "full"}, "Expected preset to be one of"),
        ({"specific": {"DeepFool": Identity()}}, "Expected specific to be one of"),
        ({"strength_images": -1}, "Expected strength_images to be an integer of at least 0"),
        ({"wrong": 4}, r"Expected images that the classifier gets right\. Received 4 that it gets wrong"),
    ],
)
def test_bad_values(run, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**arguments)
    assert not (tmp_path / "out").exists()
