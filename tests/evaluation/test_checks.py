from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from art_versatile.evaluation import CHECKS, EvaluationRecord, masking_checks, verdict, with_flags
from art_versatile.evaluation.checks import CONTROL_CHECKS, control_checks

N = 100
CLASSES = {"FGSM": "FastGradientMethod", "PGD": "ProjectedGradientDescent", "Square": "SquareAttack"}


def record(
    attack: str, correct: int, threat_model: str = "adaptive", eps: float = 8, steps: int = 10, **more: Any
) -> EvaluationRecord:
    """``eps`` in 255ths."""
    facts: dict[str, Any] = {
        "dataset": "d",
        "n": N,
        "classifier": "c",
        "defence": "purifier",
        "correct": correct,
        "classes": 10,
    }
    facts |= {"attack": attack, "threat_model": threat_model}
    if attack != "clean":
        parameters = {"class": CLASSES[attack], **({} if attack == "FGSM" else {"num_random_init": 1})}
        facts |= {"norm": "inf", "eps": eps / 255, "attack_parameters": parameters}
        facts["iterations"] = 1 if attack == "FGSM" else steps
        facts |= {"gradient": "exact", "eot_samples": 1} if threat_model == "adaptive" else {}
    return EvaluationRecord(**{**facts, **more})


def sound() -> list[EvaluationRecord]:
    """What a defence without a masked gradient looks like."""
    return [
        record("clean", 95, "clean", defence="none"),
        record("clean", 90, "clean"),
        record("PGD", 0, "static", defence="none"),
        record("PGD", 80, "static"),
        record("Square", 60, "query"),
        record("FGSM", 30),
        record("PGD", 10),
        record("PGD", 8, steps=100),
        record("PGD", 40, eps=2),
        record("PGD", 0, eps=128),
    ]


def outcome(records: list[EvaluationRecord]) -> dict[str, bool | None]:
    return {check.name: check.passed for check in masking_checks(records) if check.defence in ("none", "purifier")}


def test_a_sound_evaluation_passes_every_check() -> None:
    assert outcome(sound()) == dict.fromkeys(CHECKS, True)
    assert [check.asks for check in masking_checks(sound())] == list(CHECKS.values())


def test_static_attacks_alone_pass_nothing() -> None:
    found = outcome(sound()[:4])
    assert found.pop("labels") is True
    assert found.pop("adaptive") is False
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("labels", record("clean", 12, "clean", defence="none"), "12 of 100 clean images right, chance 10%"),
        ("gradients", record("PGD", 10, flags=["masked gradient: zero at 3 of 16 images"]), "zero at 3 of 16"),
        ("iterative", record("FGSM", 5), "PGD (adaptive at 8/255) 8.0%, FGSM (adaptive at 8/255) 5.0%"),
        ("white-box", record("Square", 5, "query"), "PGD (adaptive at 8/255) 8.0%, Square (query at 8/255) 5.0%"),
        ("white-box", record("PGD", 2, "static"), "PGD (static at 8/255) 2.0%"),
        ("steps", record("PGD", 13, steps=100), "iterations x restarts 10 to 100"),
        ("budget", record("PGD", 3, eps=2), "eps 0.00784 to 0.0314"),
        ("unbounded", record("PGD", 2, eps=128), "PGD (adaptive at 128/255) 2.0%"),
    ],
)
def test_each_check_can_fail(name: str, changed: EvaluationRecord, said: str) -> None:
    """One figure changed, one check fails: each of them is hand-made to break its own rule."""

    def cell(item: EvaluationRecord) -> tuple[Any, ...]:
        return item.attack, item.threat_model, item.eps, item.defence, item.iterations

    records = [changed if cell(item) == cell(changed) else item for item in sound()]
    assert changed in records
    failed = {check.name: check.said for check in masking_checks(records) if check.passed is False}
    assert name in failed
    assert said in failed[name]


def test_one_image_is_no_evidence() -> None:
    records = [record("FGSM", 9), record("PGD", 10)]
    assert outcome(records)["iterative"] is True
    assert outcome([record("FGSM", 7), record("PGD", 10)])["iterative"] is False


def test_fgsm_may_overshoot() -> None:
    """FGSM at a larger budget is often weaker, with no defence at all: that tells nothing of the gradient."""
    assert outcome([record("FGSM", 30, eps=4), record("FGSM", 50, eps=16)])["budget"] is None


def test_attacks_with_other_gradients_are_not_compared() -> None:
    assert outcome([record("PGD", 10), record("PGD", 60, steps=100, gradient="bpda")])["steps"] is None


def test_norms_are_not_compared() -> None:
    """Half the pixel range in L2 is hardly anything, in L-infinity everything."""
    other = record("PGD", 60, eps=128, norm="2")
    assert outcome([*sound(), other]) == dict.fromkeys(CHECKS, True)


@pytest.mark.parametrize(
    ("correct", "n", "classes", "passed"),
    [
        (0, 20, 1000, False),
        (1, 20, 10, False),
        (2, 20, 1000, True),  # far from good, and far above chance
        (6, 20, 10, True),
        (0, 4, 1000, None),  # a classifier that works may miss four
        (4, 4, 2, None),  # so may a coin hit four
        (4, 4, 10, True),
        (0, 20, None, False),
        (9, 20, None, True),
    ],
)
def test_labels_against_chance(correct: int, n: int, classes: int | None, passed: bool | None) -> None:
    clean = record("clean", correct, "clean", defence="none", n=n, classes=classes)
    assert outcome([clean])["labels"] is passed


def test_wrong_labels_are_said_everywhere() -> None:
    """Labels shifted by one, or images of another size: whatever else is measured means nothing."""
    records = [record("clean", 0, "clean", defence="none"), *sound()[1:]]
    assert verdict(records, "purifier").startswith("purifier: nothing is said, for the classifier alone is no better")
    assert all("check 'labels' failed" in " ".join(item.flags) for item in with_flags(records))


def test_old_flags_of_checks_go() -> None:
    old = with_flags(sound()[:4])
    assert any(item.flags for item in old)
    assert not any(item.flags for item in with_flags([*old, *sound()[4:]]))


def test_flags_stand_beside_the_figures_they_concern() -> None:
    other = record("PGD", 50, "static", defence="other", flags=["own"])
    clean, static = record("clean", 90, "clean"), record("PGD", 80, "static")
    flagged = with_flags([clean, static, other])
    assert flagged[0] == clean
    assert flagged[1].flags == ("check 'adaptive' failed: none was run",)
    assert flagged[2].flags == ("own", "check 'adaptive' failed: none was run")
    assert with_flags(flagged) == flagged
    assert with_flags(sound()) == sound()


class TestVerdict:
    def test_static_only(self) -> None:
        assert verdict(sound()[:4], "purifier") == (
            "purifier: no adaptive attack was run, so nothing is said of robustness."
        )

    def test_the_strongest_attack_counts(self) -> None:
        """Not the one at half the pixel range, which breaks anything."""
        said = verdict(sound(), "purifier")
        assert said == ("purifier: an adaptive attacker (PGD at 8/255) leaves 8.0% (n = 100, 95% interval 4 to 15%).")

    def test_of_equals_the_smallest_budget_is_named(self) -> None:
        """That less is enough says more; what has no budget at all says least."""
        unlimited = record("PGD", 5, eps=8, norm="2")
        unlimited = dataclasses.replace(unlimited, eps=None, attack_parameters={"class": "CarliniL2Method"})
        records = [unlimited, record("PGD", 5, eps=8), record("PGD", 5, eps=4), record("PGD", 60, eps=2)]
        for order in (records, records[::-1]):
            assert "(PGD at 4/255) leaves 5.0%" in verdict(order, "purifier")

    def test_the_worst_evaluation_has_its_own_interval(self) -> None:
        said = verdict([record("PGD", 50, evaluations=(20, 60, 70))], "purifier")
        assert "leaves 20.0% in the worst of 3 evaluations (n = 100, 95% interval 13 to 29%)." in said

    def test_nothing_left_needs_no_caveat(self) -> None:
        """A masked gradient that BPDA gets round fails a check, and the figure is 0 all the same."""
        said = verdict([record("FGSM", 0), record("PGD", 90), record("PGD", 0, gradient="bpda")], "purifier")
        assert said.endswith("(n = 100, 95% interval 0 to 4%).")

    def test_what_was_not_run_is_said(self) -> None:
        said = verdict([record("FGSM", 70)], "purifier")
        assert "Not run: the checks iterative, white-box, steps, budget, unbounded." in said

    def test_half_the_range_is_a_usual_budget_in_l2(self) -> None:
        said = verdict([record("PGD", 60), record("PGD", 5, eps=128, norm="2")], "purifier")
        assert "(PGD at L2 0.502) leaves 5.0%" in said

    def test_failed_checks(self) -> None:
        said = verdict([record("PGD", 60), record("FGSM", 50)], "purifier")
        assert "Not to be relied on: the checks iterative failed" in said

    def test_nothing_of_it(self) -> None:
        with pytest.raises(ValueError, match=r"Expected records of 'other'\. Received none\."):
            verdict(sound(), "other")


class TestControls:
    def records(self, identity: int = 10, fallen: int = 3) -> list[EvaluationRecord]:
        return [
            record("PGD", 10, "static", defence="none"),
            record("PGD", identity, "static", defence="identity"),
            record("PGD", fallen, defence="broken"),
        ]

    def test_they_pass(self) -> None:
        checks = control_checks(self.records(), "identity", "broken")
        assert [(check.name, check.passed) for check in checks] == [("identity", True), ("known to fall", True)]
        assert [check.asks for check in checks] == list(CONTROL_CHECKS.values())

    def test_they_fail(self) -> None:
        identity, broken = control_checks(self.records(11, 40), "identity", "broken")
        assert identity.passed is False
        assert identity.said == "PGD (static at 8/255) 11.0% in place of 10/100"
        assert broken.passed is False
        assert broken.said == "PGD (adaptive at 8/255) 40.0%"

    def test_an_attack_through_nothing_has_to_be_as_strong(self) -> None:
        through = record("PGD", 40, defence="identity")
        identity, _ = control_checks([*self.records(), through], "identity", "broken")
        assert identity.passed is False
        assert "PGD (adaptive at 8/255) 40.0%" in identity.said

    def test_not_run(self) -> None:
        assert {check.passed for check in control_checks(self.records()[:1], "identity", "broken")} == {None}
