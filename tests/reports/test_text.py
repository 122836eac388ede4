from __future__ import annotations

import math
from typing import Any

import pytest

from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports.text import (
    attack_name,
    format_budget,
    format_eps,
    format_interval,
    format_measure,
    format_percent,
    format_value,
    measured_on,
)


def record(correct: int = 13, n: int = 20, **more: Any) -> EvaluationRecord:
    facts = {
        "dataset": "d",
        "classifier": "c",
        "attack": "PGD",
        "threat_model": "static",
        "norm": "inf",
        "eps": 8 / 255,
    }
    return EvaluationRecord(**{**facts, "correct": correct, "n": n, **more})


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("AutoAttack", "ART AutoAttack"),
        ("AutoAttack through the purifier", "ART AutoAttack through the purifier"),
        ("ART AutoAttack", "ART AutoAttack"),
        ("AutoAttacker", "AutoAttacker"),
        ("PGD", "PGD"),
    ],
)
def test_arts_autoattack_is_called_arts(name: str, shown: str) -> None:
    assert attack_name(name) == shown


def test_percent_and_measures() -> None:
    assert format_percent(0.85957) == "86.0"
    assert format_percent(None) == "–"
    assert format_measure(None, 2) == "–"
    assert format_measure(math.inf, 1) == "∞"
    assert format_measure(0.01234, 3) == "0.012"


def test_interval_has_decimals_only_where_they_mean_something() -> None:
    assert format_interval(record()) == "43–82"
    assert format_interval(record(4300, 5000)) == "85.0–86.9"


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (1 / 255, "1/255"), (0.5, "0.5"), (3.0, "3"), (0.03, "0.03"), (1e-4, "0.0001"), (None, "–")],
)
def test_eps(eps: float | None, text: str) -> None:
    assert format_eps(eps) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, "0.3"), (40, "40"), ("inf", "inf"), (True, "true"), (None, "null"), (["a", 1], '["a", 1]')],
)
def test_values(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_budgets() -> None:
    assert format_budget(record()) == "L∞ ≤ 8/255"
    assert format_budget(record(norm="2", eps=None)) == "L2, no limit"
    assert format_budget(record(norm=None, eps=None)) == ""


def test_what_was_measured() -> None:
    records = [record(effort="quick"), record(n=5000, eps=4 / 255, threat_model="adaptive")]
    assert measured_on(records) == "c · d · n = 20 / 5,000 · quick effort · eps 4/255, 8/255 · static · adaptive"
    assert measured_on([]) == "nothing was measured"
