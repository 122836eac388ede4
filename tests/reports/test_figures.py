from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports import figures
from art_versatile.reports.figures import distance_figure, gallery_figure, printed_figure, strength_figure
from art_versatile.reports.pictures import Panel, Prediction


def record(attack: str, defence: str = "none", correct: int = 10, **more: Any) -> EvaluationRecord:
    facts = {"dataset": "d", "n": 20, "classifier": "c", "threat_model": "static", "norm": "inf", "eps": 8 / 255}
    return EvaluationRecord(**{**facts, "attack": attack, "defence": defence, "correct": correct, **more})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they were before they became pixels."""
    kept: list[Figure] = []
    saved = figures._saved

    def keep(figure: Figure, path: Any) -> Path:
        kept.append(figure)
        return saved(figure, path)

    monkeypatch.setattr(figures, "_saved", keep)
    return kept


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 100


def test_distances(tmp_path: Path, drawn: list[Figure]) -> None:
    records = [
        record("FGSM", psnr=30.0, mae=8 / 255),
        record("FGSM", "ours", psnr=27.5, mae=10 / 255),
        record("AutoAttack", psnr=math.inf, mae=0.0),
        record("AutoAttack", "ours", psnr=29.0, mae=4 / 255),
        record("PGD", psnr=30.0, mae=0.1),  # not defended
        record("FGSM", "ours", psnr=1.0, mae=0.9, file_format="PNG"),
    ]
    assert is_png(distance_figure(records, "ours", tmp_path / "figure.png"))
    left, right = drawn[0].axes
    assert [bar.get_height() for bar in left.patches] == pytest.approx([8, 0, 10, 4])
    assert [bar.get_height() for bar in right.patches] == pytest.approx([30, 0, 27.5, 29])
    assert [label.get_text() for label in left.get_xticklabels()] == ["FGSM", "ART AutoAttack"]
    assert drawn[0].get_suptitle() == "c · d · n = 20 · eps 8/255 · static"
    assert "inf" in [text.get_text() for text in right.texts]


def test_strengths(tmp_path: Path, drawn: list[Figure]) -> None:
    records = [
        record(attack, "ours", correct, eps=eps / 255, iterations=steps)
        for attack in ("PGD", "MI-FGSM")
        for eps in (2, 10)
        for steps, correct in ((100, 12), (10, 16))
    ]
    assert is_png(strength_figure(records, "ours", tmp_path / "figure.png"))
    assert [axes.get_title() for axes in drawn[0].axes] == ["PGD", "MI-FGSM"]
    for axes in drawn[0].axes:
        assert [line.get_label() for line in axes.lines] == ["eps 2/255", "eps 10/255"]
        for line in axes.lines:
            np.testing.assert_allclose(line.get_xydata(), [[10, 80], [100, 60]])


def test_gallery(tmp_path: Path, drawn: list[Figure]) -> None:
    image = np.random.default_rng(0).random((32, 32, 3))
    right, wrong = Prediction(label="cat $1", correct=True), Prediction(label="dog", correct=False)
    panels = [
        Panel(
            name="a",
            attack=attack,
            clean=image,
            adversarial=image,
            purified=image,
            true_label="cat",
            clean_prediction=right,
            adversarial_prediction=wrong,
            purified_prediction=right,
        )
        for attack in ("FGSM", "AutoAttack")
    ]
    assert is_png(gallery_figure(panels, tmp_path / "figure.png"))
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == [
        "true class: cat",
        "true class: cat",
        "After FGSM",
        "After ART AutoAttack",
        "Purified",
        "Purified",
    ]
    assert [axes.get_xlabel() for axes in drawn[0].axes[2:4]] == ["dog", "dog"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: distance_figure([record("FGSM")], "ours", path), "Expected static records of 'ours' with PSNR"),
        (lambda path: strength_figure([record("FGSM", "ours")], "ours", path), "with iterations and a budget"),
        (lambda path: gallery_figure([], path), "Expected at least one panel"),
    ],
)
def test_nothing_to_draw(tmp_path: Path, draw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_printed_study(tmp_path: Path, drawn: list[Figure]) -> None:
    facts = {"attack": "PGD", "eps": 8 / 255, "threat_model": "static"}
    clean = {"attack": "clean", "eps": 0.0, "threat_model": "clean", "eot_samples": 0}
    rows = [
        {**clean, "defence": "none", "accuracy": 0.75, "accuracy_unprinted": 1.0},
        {**clean, "defence": "ours", "accuracy": 0.5, "accuracy_unprinted": 0.875},
        {**facts, "eot_samples": 4, "defence": "ours", "accuracy": 0.25, "accuracy_unprinted": 0.125},
    ]
    assert is_png(printed_figure(rows, tmp_path / "f.png", title="n = 8"))
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clean", "PGD 8/255, static, knows of printing"]
    bars = [(round(bar.get_y() + bar.get_height() / 2, 6), bar.get_width()) for bar in axes.patches]
    assert bars == [(-0.2, 75.0), (0.2, 50.0), (1.2, 25.0)]
    strokes = [tuple(map(float, place)) for marks in axes.collections for place in marks.get_offsets()]
    assert strokes == [(100.0, -0.2), (87.5, 0.2), (12.5, 1.2)]
    with pytest.raises(ValueError, match="Expected at least one row"):
        printed_figure([], tmp_path / "g.png")
