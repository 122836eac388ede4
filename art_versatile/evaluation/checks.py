"""
What tells a robust defence from one that hides its gradient, from the records alone.

The signs are those of Athalye et al. (arXiv 1802.00420, section 3.1) and Carlini et al. (arXiv 1902.06705, section 5);
the negative controls are defences that are known to fall. A failed check is no verdict on the defence: it says that its
figures are too good, because the attacks were too weak.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from art_versatile.evaluation.metrics import wilson_interval
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, UNBOUNDED, Check, EvaluationRecord

__all__ = ["CHECKS", "CONTROL_CHECKS", "LABELS", "control_checks", "masking_checks", "verdict", "with_flags"]

#: Of the classifier and the labels themselves.
LABELS = "labels"
#: Name of a check -> what it asks.
CHECKS = {
    LABELS: "The classifier alone gets more of the clean images right than chance would: the labels are its class "
    "indices, the images of its size and range.",
    "adaptive": "An adaptive white-box attack was run. Static figures alone say nothing of an attacker who knows the "
    "defence.",
    "gradients": "The gradient through the defence is neither zero nor infinite at any image that was looked at.",
    "iterative": "Iterative attacks through the defence are at least as strong as one step (FGSM) at the same budget.",
    "white-box": "Attacks with gradients through the defence are at least as strong as queries, static and transferred "
    "attacks at the same budget.",
    "steps": "More iterations or restarts of an attack never make it weaker.",
    "budget": "A larger budget never makes an iterative attack weaker.",
    "unbounded": "With a budget of half the pixel range or more, some attack through the defence leaves nothing.",
}
#: The same, of the negative controls.
CONTROL_CHECKS = {
    "identity": "A defence that does nothing scores what no defence scores, and an attack through it is as strong.",
    "known to fall": "A defence that is known to fall to an adaptive attack falls to the attacks of this evaluation.",
}
# An attack starts at random: one image, or a fiftieth of them, more or less says nothing.
_SLACK = 0.02
_NOTHING = 0.01  # one image of a hundred may have lost its way
_MASKED = "masked gradient"
_FALLEN = 0.1
_CHANCE = 0.05  # what chance gets as often as this is no evidence of a classifier that works
_FEW = 5  # of fewer images a classifier that works may get none right
_CHECK = "check "


def masking_checks(records: Iterable[EvaluationRecord]) -> list[Check]:
    """
    Every check: of the labels once (its defence is "none"), then of every defence.

    :param records: Of one data set and one classifier.
    :return: In the order of the defences' first records, then of :data:`CHECKS`.
    """
    records = list(records)
    by_defence: dict[str, list[EvaluationRecord]] = {}
    for record in records:
        if record.defence != NO_DEFENCE:
            by_defence.setdefault(record.defence, []).append(record)
    return [Check(LABELS, CHECKS[LABELS], NO_DEFENCE, *_labels(records))] + [
        Check(name, CHECKS[name], defence, *function(attacked))
        for defence, own in by_defence.items()
        for attacked in [[record for record in own if record.attack != CLEAN]]
        for name, function in _FUNCTIONS.items()
    ]


def control_checks(records: Iterable[EvaluationRecord], identity: str, *broken: str) -> list[Check]:
    """
    Whether the evaluation finds what is known of its negative controls.

    :param records: With the controls under static and adaptive attacks.
    :param identity: Name of the defence that does nothing.
    :param broken: Names of the defences that are known to fall (at most 10% right).
    :return: One check for the identity, one for each other.
    """
    records = list(records)
    bare = {(r.attack, r.eps, r.n): r.correct for r in records if r.defence == NO_DEFENCE}
    pairs = [(r, bare.get((r.attack, r.eps, r.n))) for r in records if r.defence == identity]
    same = [(record, expected) for record, expected in pairs if expected is not None]
    differing = [
        f"{_said(record)} in place of {expected}/{record.n}" for record, expected in same if record.correct != expected
    ]
    static = [r for r in records if r.defence == NO_DEFENCE and r.threat_model == "static"]
    through = [r for r in records if r.defence == identity and r.threat_model == "adaptive"]
    weaker = _stronger(through, static)  # through a defence that does nothing an attack is the static one
    if weaker is not None and not weaker[0]:
        differing.append(weaker[1])
    passed = None if not same else not differing
    said = "; ".join(differing) or (", ".join(_said(record) for record, _ in same) if same else "was not attacked")
    checks = [Check("identity", CONTROL_CHECKS["identity"], identity, passed, said)]
    for name in broken:
        adaptive = [r for r in records if r.defence == name and r.threat_model == "adaptive"]
        worst = min(adaptive, key=lambda record: record.accuracy) if adaptive else None
        fell = None if worst is None else worst.accuracy <= _FALLEN
        found = "was not attacked" if worst is None else _said(worst)
        checks.append(Check("known to fall", CONTROL_CHECKS["known to fall"], name, fell, found))
    return checks


def with_flags(records: Iterable[EvaluationRecord]) -> list[EvaluationRecord]:
    """
    The records, with what their checks found beside the figures that it concerns: the attacked ones of the defence, or,
    of wrong labels, all.

    :param records: Of one data set and one classifier.
    """
    # What checks said of an earlier state of the records may no longer be so.
    records = [
        dataclasses.replace(record, flags=tuple(flag for flag in record.flags if not flag.startswith(_CHECK)))
        for record in records
    ]
    failed: dict[str, list[str]] = {}
    for check in masking_checks(records):
        if check.passed is False:
            failed.setdefault(check.defence, []).append(f"{_CHECK}{check.name!r} failed: {check.said}")
    wrong_labels = failed.pop(NO_DEFENCE, [])

    def flags(record: EvaluationRecord) -> tuple[str, ...]:
        own = [] if record.attack == CLEAN else failed.get(record.defence, [])
        return (*record.flags, *wrong_labels, *own)

    return [dataclasses.replace(record, flags=flags(record)) for record in records]


def verdict(records: Iterable[EvaluationRecord], defence: str) -> str:
    """
    One sentence on a defence that no reader can take for more than was measured.

    :param records: Of one data set and one classifier, those without a defence among them.
    :param defence: Name of the defence.
    :raises ValueError: If there are no records of it.
    """
    records = list(records)
    own = [record for record in records if record.defence == defence]
    if not own:
        raise ValueError(f"Expected records of {defence!r}. Received none.")
    fits, found = _labels(records)
    if fits is False:
        return (
            f"{defence}: nothing is said, for the classifier alone is no better than chance: {found}. Are the labels "
            "its class indices (from 0), the images of its size and range?"
        )
    adaptive = [record for record in own if record.threat_model == "adaptive" and not record.is_unbounded]
    if not adaptive:
        return f"{defence}: no adaptive attack was run, so nothing is said of robustness."
    # Of equals the smallest budget says most; an attack without one says least.
    worst = min(adaptive, key=lambda record: (record.worst, math.inf if record.eps is None else record.eps))
    low, high = wilson_interval(round(worst.worst * worst.n), worst.n)
    way = ", BPDA" if worst.gradient == "bpda" else ""
    several = f" in the worst of {len(worst.evaluations)} evaluations" if worst.evaluations else ""
    text = (
        f"{defence}: an adaptive attacker ({worst.attack}{way}{_at(worst)}) leaves {100 * worst.worst:.1f}%{several} "
        f"(n = {worst.n}, 95% interval {100 * low:.0f} to {100 * high:.0f}%)."
    )
    if worst.worst == 0:  # nothing is left that a stronger attack could take
        return text
    outcome = {check.name: check.passed for check in masking_checks(own) if check.defence == defence}
    failed = [name for name, passed in outcome.items() if passed is False]
    missing = [name for name, passed in outcome.items() if passed is None]
    if failed:
        text += f" Not to be relied on: the checks {', '.join(failed)} failed, so a stronger attack is there."
    if missing:
        text += f" Not run: the checks {', '.join(missing)}."
    return text


Result = tuple[bool | None, str]


def _at(record: EvaluationRecord) -> str:
    if record.eps is None:
        return ""
    if record.norm == "inf":
        return f" at {record.eps * 255:.3g}/255"
    return f" at {record.eps:.3g}" if record.norm is None else f" at L{record.norm} {record.eps:.3g}"


def _said(record: EvaluationRecord) -> str:
    way = ", BPDA" if record.gradient == "bpda" else ""
    return f"{record.attack} ({record.threat_model}{way}{_at(record)}) {100 * record.accuracy:.1f}%"


def _adaptive(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    return [record for record in records if record.threat_model == "adaptive"]


def _no_weaker(strong: EvaluationRecord, weak: EvaluationRecord) -> bool:
    """Whether an attack leaves no more than another, but for chance."""
    return strong.accuracy <= weak.accuracy + max(_SLACK, 1 / strong.n) + 1e-9


def _result(compared: Sequence[str], wrong: Sequence[str]) -> Result | None:
    """What a check found of what was compared; None where nothing was."""
    if wrong:
        return False, "; ".join(wrong)
    return (True, "; ".join(compared)) if compared else None


def _stronger(strong: Sequence[EvaluationRecord], weak: Sequence[EvaluationRecord]) -> Result | None:
    """Whether the strongest of some records is at least as strong as the strongest of others, at each equal budget."""
    compared: list[str] = []
    wrong: list[str] = []
    for norm, eps in sorted({(str(r.norm), r.eps) for r in weak if r.eps is not None}):
        pair = [[r for r in group if (str(r.norm), r.eps) == (norm, eps)] for group in (strong, weak)]
        if not pair[0]:
            continue
        first, second = (min(group, key=lambda record: record.accuracy) for group in pair)
        (compared if _no_weaker(first, second) else wrong).append(f"{_said(first)}, {_said(second)}")
    return _result(compared, wrong)


def _labels(records: Sequence[EvaluationRecord]) -> Result:
    clean = next((r for r in records if r.attack == CLEAN and r.defence == NO_DEFENCE), None)
    if clean is None:
        return None, "needs clean images without a defence"
    said = f"{clean.correct} of {clean.n} clean images right"
    above = clean.correct > 0
    if clean.classes is not None:
        from scipy.stats import binom  # SciPy's statistics are slow to import

        said += f", chance {100 / clean.classes:.3g}%"
        above = bool(binom.sf(clean.correct - 1, clean.n, 1 / clean.classes) <= _CHANCE)
    if not above and clean.n < _FEW:
        return None, f"{said}: too few images to tell"
    return above, said


def _adaptive_was_run(records: Sequence[EvaluationRecord]) -> Result:
    names = list(dict.fromkeys(record.attack for record in _adaptive(records)))
    return bool(names), ", ".join(names) if names else "none was run"


def _gradients(records: Sequence[EvaluationRecord]) -> Result:
    adaptive = _adaptive(records)
    if not adaptive:
        return None, "needs an adaptive attack"
    flags = list(dict.fromkeys(flag for record in adaptive for flag in record.flags if flag.startswith(_MASKED)))
    return (False, "; ".join(flags)) if flags else (True, "looked at for each attack")


def _iterative(records: Sequence[EvaluationRecord]) -> Result:
    adaptive = _adaptive(records)
    one = [record for record in adaptive if record.iterations == 1]
    more = [record for record in adaptive if (record.iterations or 0) > 1]
    return _stronger(more, one) or (None, "needs FGSM and an iterative attack through the defence, at one budget")


def _white_box(records: Sequence[EvaluationRecord]) -> Result:
    others = [record for record in records if record.threat_model != "adaptive"]
    return _stronger(_adaptive(records), others) or (
        None,
        "needs an attack through the defence, and one by queries, static or transferred, at one budget",
    )


def _ordered(
    records: Sequence[EvaluationRecord],
    name: str,
    value: Callable[[EvaluationRecord], float | None],
    same: Callable[[EvaluationRecord], object],
) -> Result:
    """Whether accuracy does not rise with a value, among records that are alike in all else."""
    groups: dict[object, list[EvaluationRecord]] = {}
    for record in _adaptive(records):
        if value(record) is not None:
            groups.setdefault(same(record), []).append(record)
    compared: list[str] = []
    wrong: list[str] = []
    for group in groups.values():
        ordered = sorted(group, key=lambda record: value(record) or 0)
        for weak, strong in itertools.pairwise(ordered):
            if value(weak) == value(strong):
                continue
            said = f"{name} {value(weak):.3g} to {value(strong):.3g}: {_said(weak)}, {_said(strong)}"
            (compared if _no_weaker(strong, weak) else wrong).append(said)
    return _result(compared, wrong) or (None, f"needs one attack through the defence with two values of {name}")


def _steps_taken(record: EvaluationRecord) -> float | None:
    steps = record.iterations
    restarts = [record.attack_parameters.get(name) for name in ("num_random_init", "nb_random_init", "nb_restarts")]
    return None if steps is None else steps * max([n for n in restarts if isinstance(n, int)], default=1) or steps


def _kind(record: EvaluationRecord) -> tuple[object, ...]:
    names = ("class", "loss_type")
    return (record.norm, record.gradient, record.eot_samples, *(record.attack_parameters.get(name) for name in names))


def _steps(records: Sequence[EvaluationRecord]) -> Result:
    return _ordered(records, "iterations x restarts", _steps_taken, lambda record: (*_kind(record), record.eps))


def _budget(records: Sequence[EvaluationRecord]) -> Result:
    # One large step may overshoot: FGSM is often weaker at the larger budget, without any defence too.
    iterative = [record for record in records if record.iterations != 1]
    return _ordered(iterative, "eps", lambda record: record.eps, lambda record: (*_kind(record), _steps_taken(record)))


def _unbounded(records: Sequence[EvaluationRecord]) -> Result:
    large = [record for record in _adaptive(records) if record.is_unbounded]
    if not large:
        return None, f"needs an L-infinity attack through the defence with eps of at least {UNBOUNDED:g}"
    worst = min(large, key=lambda record: record.accuracy)
    return worst.accuracy <= _NOTHING, _said(worst)


_FUNCTIONS: dict[str, Callable[[Sequence[EvaluationRecord]], Result]] = {
    "adaptive": _adaptive_was_run,
    "gradients": _gradients,
    "iterative": _iterative,
    "white-box": _white_box,
    "steps": _steps,
    "budget": _budget,
    "unbounded": _unbounded,
}
