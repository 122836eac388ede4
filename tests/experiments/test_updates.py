from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from art.attacks.evasion import FastGradientMethod

from art_versatile import LossSchedule, VersatilePurifier
from art_versatile.experiments import updates
from art_versatile.experiments.updates import (
    SCALES,
    StepRecord,
    StudyPlan,
    forgetting,
    seconds_to_equal,
    study_tables,
    update_study,
)
from art_versatile.pix2pix import CompactGenerator
from art_versatile.training import Preset

PLAIN = Preset(
    "compact", {"widths": (4,), "blocks": (1,), "factor": 2}, discriminator=None, features=None,
    schedule=LossSchedule([(1, 10.0, 1.0)]), learning_rate=3e-3, flip=False,
)  # fmt: skip
PLAN = dataclasses.replace(SCALES["smoke"], modes=("replay and distillation", "neither"), learning_rate=3e-3)


def record(mode, step, attack, learnt, accuracy, **changes):
    given = {
        "mode": mode, "step": step, "attack": attack, "learnt": learnt, "accuracy": accuracy, "accepted": True,
        "pairs": 10, "replayed": 5, "attack_seconds": 1.0, "training_seconds": 20.0, "epochs": 3, "weights_sha256": "0",
    }  # fmt: skip
    return StepRecord(**{**given, **changes})


CHAIN = [
    record("base", 0, "A", ["A"], {"clean": 1.0, "A": 0.8, "B": 0.1, "C": 0.2}, replayed=0),
    record("replay", 1, "B", ["A", "B"], {"clean": 0.9, "A": 0.9, "B": 0.7, "C": 0.2}),
    record("replay", 2, "C", ["A", "B", "C"], {"clean": 0.9, "A": 0.6, "B": 0.8, "C": 0.5}, accepted=False),
]


class TestByHand:
    def test_forgetting(self):
        """A: 0.9 at best, 0.6 at last; B: 0.7 since it was learnt, 0.8 at last."""
        assert forgetting(CHAIN) == pytest.approx((0.3 - 0.1) / 2)
        assert forgetting(CHAIN[:2]) == pytest.approx(-0.1)
        assert forgetting(CHAIN[:1]) is None

    def test_seconds_to_equal(self):
        history = [
            {"seconds": 5.0, "val_accuracy/A": 0.9, "val_accuracy/B": 0.1, "val_accuracy/C": 0.9},  # A and B: 0.5
            {"seconds": 7.0, "val_accuracy/A": 0.8, "val_accuracy/B": 0.78, "val_accuracy/C": 0.4},  # C too low
            {"seconds": 9.0, "val_accuracy/A": 0.78, "val_accuracy/B": 0.78, "val_accuracy/C": 0.48},  # just within
        ]
        target = {"clean": 1.0, "A": 0.9, "B": 0.7, "C": 0.5}
        assert seconds_to_equal(history, target, ["A", "B", "C"], 0.02) == 21.0
        assert seconds_to_equal(history, target, ["A", "B", "C"], 0.01) is None
        assert seconds_to_equal(history, {"C": 0.9}, ["C"], 0.0) == 5.0

    def test_tables(self):
        anew = record("anew", 2, "C", ["A", "B", "C"], {"clean": 0.8, "A": 0.7, "B": 0.6, "C": 0.5}, equal_seconds=9.6)
        lines = study_tables([*CHAIN, anew]).splitlines()
        assert "| A | 100.0 | 80.0 | 10.0\\* | 20.0\\* |" in lines
        assert "| + B | 90.0 | 90.0 | 70.0 | 20.0\\* |" in lines
        assert "| + C (refused) | 90.0 | 60.0 | 80.0 | 50.0 |" in lines
        assert "| all anew | 80.0 | 70.0 | 60.0 | 50.0 |" in lines
        assert "| replay | +10.0 | 90.0 | 63.3 |" in lines
        assert "| replay: + B | 10 | 5 | 1 | 20 | 3 | – |" in lines
        assert "| anew | 10 | 5 | 1 | 20 | 3 | 10 |" in lines
        never = dataclasses.replace(anew, equal_seconds=None)
        assert "| anew | 10 | 5 | 1 | 20 | 3 | never |" in study_tables([*CHAIN, never]).splitlines()


def test_study(tiny_classifier, tmp_path, monkeypatch):
    """All stages; called again, and stopped and called again, none is made twice."""
    images = np.random.default_rng(0).random((14, 4, 4, 3), np.float32).repeat(8, 1).repeat(8, 2)
    attacks = {f"FGSM {eps}": FastGradientMethod(tiny_classifier, eps=eps) for eps in (0.1, 0.2)}

    def study(**changes):
        return update_study(
            tiny_classifier, attacks, images, tmp_path, **{"plan": PLAN, "preset": PLAIN, "verbose": False, **changes}
        )

    with monkeypatch.context() as stopped:
        stopped.setattr(updates._Study, "_update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            study()
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["base-00.json"]

    records = study()
    assert [(r.mode, r.step, r.attack) for r in records] == [
        ("base", 0, "FGSM 0.1"), ("replay and distillation", 1, "FGSM 0.2"), ("neither", 1, "FGSM 0.2"),
        ("anew", 1, "FGSM 0.2"),
    ]  # fmt: skip
    assert [(r.pairs, r.replayed) for r in records] == [(6, 0), (6, 4), (6, 0), (12, 0)]
    assert [r.epochs for r in records] == [1, 1, 1, 2]
    for found in records:
        assert set(found.accuracy) == {"clean", *attacks}
        assert found.training_seconds > 0
        assert found.attack_seconds > 0
    # The accuracy is that of the purifier on disk, on images that nothing was trained on.
    clean = images[10:14]
    expected = tiny_classifier.predict(clean).argmax(1)
    purifier = VersatilePurifier.from_pretrained(tmp_path / "base" / "purifier")
    again = updates._Study(tiny_classifier, attacks, images, None, tmp_path, PLAN, None, 1, PLAIN, False)
    pairs = again._stores("FGSM 0.2")["test"].arrays()
    np.testing.assert_allclose(np.sort(pairs.clean, 0), np.sort(clean, 0), atol=1e-3)
    right = tiny_classifier.predict(purifier(pairs.adversarial)[0]).argmax(1) == pairs.labels
    assert records[0].accuracy["FGSM 0.2"] == right.mean()
    assert sorted(pairs.labels) == sorted(expected)
    parent = VersatilePurifier.from_pretrained(tmp_path / "base" / "purifier").card["weights"]["sha256"]
    for found, mode in ((records[1], "replay-and-distillation"), (records[2], "neither")):
        card = VersatilePurifier.from_pretrained(tmp_path / mode / "01" / "purifier").card
        assert [entry["parent"]["sha256"] for entry in card.get("lineage", [])] == [parent] * found.accepted
    assert json.loads((tmp_path / "records.json").read_text())[1]["accuracy"] == records[1].accuracy
    assert (tmp_path / "updates.md").read_text() == study_tables(records)

    monkeypatch.setattr(updates._Study, "_trainer", lambda *_: pytest.fail("made again"))
    assert study() == records
    with pytest.raises(ValueError, match="Expected the settings of the study"):
        study(plan=dataclasses.replace(PLAN, memory=5))


def test_from_a_trained_purifier(tiny_classifier, tmp_path):
    """It is measured, not trained, and the attacks that it knows are replayed and not added."""
    images = np.random.default_rng(0).random((14, 4, 4, 3), np.float32).repeat(8, 1).repeat(8, 2)
    attacks = {f"FGSM {eps}": FastGradientMethod(tiny_classifier, eps=eps) for eps in (0.1, 0.2, 0.3)}
    start = VersatilePurifier(CompactGenerator(widths=(4,), blocks=(1,), factor=2))
    records = update_study(
        tiny_classifier, attacks, images, tmp_path, start=start, known=2, preset=PLAIN, verbose=False,
        plan=dataclasses.replace(PLAN, modes=("replay",), anew_epochs=0),
    )  # fmt: skip
    assert [(r.mode, r.step, r.attack, r.learnt) for r in records] == [
        ("base", 0, "FGSM 0.2", ["FGSM 0.1", "FGSM 0.2"]), ("replay", 1, "FGSM 0.3", list(attacks))
    ]  # fmt: skip
    assert [(r.pairs, r.replayed) for r in records] == [(0, 0), (6, 4)]
    assert (records[0].attack_seconds, records[0].training_seconds, records[0].epochs) == (0, 0, 0)
    assert VersatilePurifier.from_pretrained(tmp_path / "base" / "purifier").fingerprint == start.fingerprint
    assert "| FGSM 0.1, FGSM 0.2 |" in study_tables(records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 0}, "train"), ({"anew_epochs": -1}, "anew_epochs"), ({"tolerance": 2}, "tolerance"),
        ({"modes": ("x",)}, "modes"),
    ],
)  # fmt: skip
def test_plan_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StudyPlan(**change)


def test_too_little(tiny_classifier, tiny_images, tmp_path):
    attacks = {eps: FastGradientMethod(tiny_classifier, eps=float(eps)) for eps in ("0.1", "0.2")}
    with pytest.raises(ValueError, match="at least 14 images"):
        update_study(tiny_classifier, attacks, tiny_images, tmp_path, plan=PLAN)
    with pytest.raises(ValueError, match="two attacks"):
        update_study(tiny_classifier, {"0.1": attacks["0.1"]}, tiny_images, tmp_path, plan=PLAN)
    for known in (0, 2):
        with pytest.raises(ValueError, match="known from 1 to 1"):
            update_study(tiny_classifier, attacks, tiny_images, tmp_path, plan=PLAN, known=known)
    with pytest.raises(ValueError, match="Expected start"):
        update_study(tiny_classifier, attacks | {"c": attacks["0.1"]}, tiny_images, tmp_path, plan=PLAN, known=2)
