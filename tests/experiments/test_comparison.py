from __future__ import annotations

import re

import numpy as np
import pytest

from art_versatile.baselines import Identity
from art_versatile.evaluation import EvaluationRecord
from art_versatile.experiments import Plan
from art_versatile.experiments.comparison import SIMPLE, compare, comparison_table


@pytest.fixture
def given(any_size_classifier, tiny_images):
    """One classifier under two names; the labels of the first two images are wrong for "b"."""
    right = any_size_classifier.predict(tiny_images[:6]).argmax(1)
    wrong = np.where(np.arange(6) < 2, (right + 1) % 10, right)
    return dict.fromkeys("ab", any_size_classifier), {"a": (tiny_images[:6], right), "b": (tiny_images[:6], wrong)}


def test_each_classifier_has_its_rows(given, tmp_path):
    classifiers, images = given
    plan = Plan(eps=0.1, attacks=["FGSM", "C&W"], threats=("query",))
    run = {"dataset": "patches", "limit": 5, "verbose": False}
    records, table = compare(classifiers, {"mine": Identity()}, images, tmp_path / "out", plan, **run)
    assert {(r.classifier, r.n) for r in records} == {("a", 5), ("b", 4)}
    assert {r.threat_model for r in records} == {"clean", "static"}
    assert [row[2] for row in table.rows] == ["no defence", "mine", *SIMPLE] * 2
    assert {row[3] for row in table.rows if row[2] in ("no defence", "mine")} == {"100.0%"}
    by_defence = {row[2]: row[3:] for row in table.rows[:6]}
    assert by_defence["mine"] == by_defence["no defence"]  # it does nothing
    assert (tmp_path / "out" / "table.md").read_text() == table.to_markdown()
    assert compare(classifiers, {"mine": Identity()}, images, tmp_path / "out", plan, **run)[0] == records


def test_figures_stand_where_they_belong():
    facts = {"dataset": "d", "n": 10, "classifier": "c"}
    records = [EvaluationRecord(**facts, attack="clean", threat_model="clean", correct=9)]
    for attack, eps, correct, psnr in (("FGSM", 0.02, 4, 30.0), ("FGSM", 0.04, 2, 24.0), ("PGD", 0.02, 2, 33.0)):
        of = {"attack": attack, "threat_model": "static", "norm": "inf", "eps": eps}
        records.append(EvaluationRecord(**facts, **of, correct=correct, psnr=psnr))
    records.append(EvaluationRecord(**facts, attack="C&W", threat_model="static", norm="2", correct=0, psnr=50.0))
    table = comparison_table(records)
    assert table.header == (
        "classifier",
        "eps",
        "defence",
        "clean",
        "FGSM",
        "PGD",
        "C&W",
        "average",
        "PSNR, L-infinity",
    )
    first, second = table.rows
    assert first == ("c (n = 10)", "5.1/255", "no defence", "90.0%", "40.0%", "20.0%", "0.0%", "20.0%", "31.5 dB")
    assert second == ("c (n = 10)", "10.2/255", "no defence", "90.0%", "20.0%", "", "", "20.0%", "24.0 dB")


def test_attacks_without_a_budget():
    facts = {"dataset": "d", "n": 10, "classifier": "c"}
    clean = EvaluationRecord(**facts, attack="clean", threat_model="clean", correct=9)
    attacked = EvaluationRecord(**facts, attack="C&W", threat_model="static", norm="2", correct=2, psnr=50.0)
    assert comparison_table([clean, attacked]).rows == (
        ("c (n = 10)", "–", "no defence", "90.0%", "20.0%", "20.0%", ""),
    )


@pytest.mark.parametrize(
    ("change", "message"), [({"limit": 0}, "Expected limit"), ({"images": {}}, "Expected images of each")]
)
def test_refused(given, tmp_path, change, message):
    classifiers, images = given
    arguments = {"images": images, "dataset": "patches", **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        compare(classifiers, {"mine": Identity()}, arguments.pop("images"), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
