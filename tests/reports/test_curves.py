from __future__ import annotations

from typing import Any

from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports.curves import accuracy_curves, curves_svg, legend


def record(attack: str, correct: int, eps: float | None, defence: str = "mine", model: str = "static", **more: Any):
    facts = {"dataset": "d", "n": 20, "classifier": "c", "norm": "inf", "eps": eps, "threat_model": model}
    return EvaluationRecord(**{**facts, "attack": attack, "defence": defence, "correct": correct, **more})


def clean(correct: int, defence: str = "mine") -> EvaluationRecord:
    return record("clean", correct, None, defence, "clean", norm=None)


RECORDS = [
    clean(19),
    clean(20, "none"),
    record("FGSM", 9, 8 / 255),
    record("PGD", 12, 8 / 255),
    record("PGD", 15, 4 / 255),
    record("PGD", 10, 16 / 255),  # 9 of FGSM at 8/255 is within this budget, too
    record("PGD", 1, 8 / 255, "none"),
    record("PGD", 0, 0.5, model="adaptive"),
    record("PGD", 2, 8 / 255, model="adaptive"),
    record("C&W", 0, None, norm="2"),
]


def test_the_strongest_attack_within_each_budget() -> None:
    found = {
        curve.label: [(round(255 * eps), r.correct) for eps, r in curve.points] for curve in accuracy_curves(RECORDS)
    }
    assert found == {
        "mine, static": [(0, 19), (4, 15), (8, 9), (16, 9)],
        "no defence, static": [(0, 20), (8, 1)],
        "mine, adaptive": [(0, 19), (8, 2)],  # half the pixel range breaks anything
    }
    assert accuracy_curves(RECORDS[:2]) == []


def test_drawn() -> None:
    curves = accuracy_curves(RECORDS)
    svg = curves_svg(curves)
    assert svg.count("<polyline") == 3
    assert svg.count('class="whisker"') == svg.count("<circle") == 8
    assert [text in svg for text in (">clean<", ">4/255<", ">8/255<", ">16/255<")] == [True] * 4
    assert "mine, adaptive: PGD, 10.0% (3–30)" in svg
    assert [(label, colour) for label, colour, _ in legend(curves)] == [
        ("mine, static", "c0"), ("no defence, static", "c1"), ("mine, adaptive", "c0"),
    ]  # fmt: skip
