"""The paper's claims, one sentence each: whether they held in records of one's own, by how much, on how many images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, EvaluationRecord
from art_versatile.reports.paper import SEEN, TRAINED_ON
from art_versatile.reports.text import attack_name, format_eps, unique

__all__ = ["Claim", "Difference", "paired_difference", "paper_claims"]

ATTACKS = (*SEEN, "DeepFool")
#: Points within which an accuracy counts as the same at any number of iterations.
STABLE = 0.05


@dataclass(frozen=True)
class Difference:
    """
    The mean difference of two accuracies on the same images, with its 95% interval.

    :param mean: -1 to 1.
    :param low: Lower end of the interval.
    :param high: Upper end.
    :param n: Images.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """Whether it is above zero: "held", "did not hold", or that the images do not tell."""
        return "held" if self.low > 0 else "did not hold" if self.high < 0 else "not decided on these images"

    def __str__(self) -> str:
        points = [f"{100 * value:+.1f}" for value in (self.mean, self.low, self.high)]
        return f"{points[0]} points (95% interval {points[1]} to {points[2]}, n = {self.n:,})"


@dataclass(frozen=True)
class Claim:
    """
    What the paper says, and what was found here.

    :param said: The claim.
    :param verdict: "held", "did not hold", "not decided on these images", "not measured".
    :param found: The figures.
    """

    said: str
    verdict: str
    found: str

    def __str__(self) -> str:
        return f"{self.said}: **{self.verdict}**. {self.found}"


def paired_difference(
    pairs: Iterable[tuple[EvaluationRecord | None, EvaluationRecord | None]],
) -> Difference | None:
    """
    The mean over pairs of records, and over images, of what the first gets right and the second does not.

    The interval is the normal one over images, each with its mean over the pairs, so that what an image has in common
    under several attacks is not counted several times.

    :param pairs: Records of the same images, image by image; of a random defence an image counts as right where it was
        at every evaluation.
    :return: None where a record is missing, or does not say which images were right.
    """
    rows = []
    for first, second in pairs:
        if first is None or second is None or first.right is None or second.right is None:
            return None
        rows.append([int(a) - int(b) for a, b in zip(first.right, second.right, strict=True)])
    if not rows:
        return None
    images = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    n = len(images)
    mean = sum(images) / n
    spread = math.sqrt(sum((value - mean) ** 2 for value in images) / (n - 1) / n) if n > 1 else math.inf
    return Difference(mean, mean - 1.96 * spread, mean + 1.96 * spread, n)


class _Cells:
    """Records by attack and defence: of the main budget, images as arrays, clean or static."""

    def __init__(self, records: Sequence[EvaluationRecord]) -> None:
        own = [r for r in records if r.threat_model in (CLEAN, "static") and r.file_format is None]
        self.found = {(r.attack, r.defence): r for r in reversed(own)}
        self.attacks = [name for name in ATTACKS if (name, NO_DEFENCE) in self.found]

    def __call__(self, attack: str, defence: str) -> EvaluationRecord | None:
        return self.found.get((attack, defence))

    def average(self, defence: str) -> float | None:
        values = [self(attack, defence) for attack in self.attacks]
        known = [record.accuracy for record in values if record is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def between(self, first: str, second: str | Callable[[str], str], attacks: Sequence[str]) -> Difference | None:
        other = second if callable(second) else lambda _: second
        return paired_difference((self(attack, first), self(attack, other(attack))) for attack in attacks)


def paper_claims(
    tables: Sequence[EvaluationRecord],
    strengths: Sequence[EvaluationRecord] = (),
    variants: Sequence[EvaluationRecord] = (),
    *,
    defence: str,
    others: Sequence[str] = (),
    further: Sequence[str] = (),
    fixed: str = "fixed-weights",
    weaker: Sequence[str] = (),
) -> list[Claim]:
    """
    The claims in the order of the paper.

    :param tables: Static records of Tables 1 and 2, and of images from PNG files.
    :param strengths: Those of Figure 4.
    :param variants: Those of purifiers that were trained otherwise.
    :param defence: Name of the versatile purifier.
    :param others: Names of the paper's comparison defences.
    :param further: Names of defences that the paper lacks.
    :param fixed: Name of the purifier that was trained with fixed weights.
    :param weaker: Names of those that were trained on weaker attacks.
    """
    cells = _Cells(tables)
    trained_on = {attack: TRAINED_ON.format(attack) for attack in SEEN}
    trained_on = {attack: name for attack, name in trained_on.items() if cells(CLEAN, name) is not None}
    unseen = [
        (cells(attack, name), cells(attack, NO_DEFENCE))
        for own, name in trained_on.items()
        for attack in cells.attacks
        if attack != own
    ]
    risen = sum(a is not None and b is not None and a.accuracy > b.accuracy for a, b in unseen)
    trained = {name: value for name in trained_on.values() if (value := cells.average(name)) is not None}
    best = max(trained, key=lambda name: trained[name], default="")
    claims = [
        _decided(
            "A purifier that was trained on one attack helps against the others (Table 1)",
            paired_difference(unseen),
            f"Accuracy rose in {risen} of {len(unseen)} cells of other attacks.",
        ),
        _decided(
            "The versatile purifier recovers the accuracy under attack (Table 2)",
            cells.between(defence, NO_DEFENCE, cells.attacks),
            _averages(cells, [NO_DEFENCE, defence]),
        ),
        _decided(
            "It is better on average than the best purifier of one attack",
            cells.between(defence, best, cells.attacks),
            _averages(cells, [defence, best]) if best else "",
        ),
    ]
    claims += [
        _decided(
            f"Against {attack} it is better than the purifier that was trained on it",
            cells.between(defence, TRAINED_ON.format(attack), [attack]),
        )
        for attack in ("PGD", "MI-FGSM")
    ]
    own = cells.between(defence, TRAINED_ON.format, [attack for attack in trained_on if attack in cells.attacks])
    claims.append(
        Claim(
            "It is about as good as six purifiers, each against its own attack (the paper: one point below)",
            "not measured" if own is None else "held" if abs(own.mean) <= STABLE else "did not hold",
            "" if own is None else f"Difference {own}; within {100 * STABLE:g} points counts as held.",
        )
    )
    deepfool = [(cells("DeepFool", defence), cells("DeepFool", name)) for name in trained_on.values()]
    claims.append(
        _decided("On DeepFool, which none has seen, it is better than they are on average", paired_difference(deepfool))
    )
    for said, names in (
        ("It is better than the other defences", others),
        ("It is better than noise, a blur and pixel deflection with R-CAM, which the paper lacks", further),
    ):
        known = {name: value for name in names if (value := cells.average(name)) is not None}
        rival = max(known, key=lambda name: known[name], default="")
        claims.append(
            _decided(
                said,
                cells.between(defence, rival, cells.attacks),
                _averages(cells, [defence, *known]) + " Of random ones an image counts as right in the difference "
                "where it was at every evaluation."
                if rival
                else "",
            )
        )
    claims += [_nearer(cells, defence), _stable(strengths, defence)]
    claims += _variant_claims(variants, defence, fixed, weaker)
    filed = {r.attack: r for r in tables if r.file_format is not None and r.defence == NO_DEFENCE}
    claims.append(
        _decided(
            "Attacked images that were saved as PNG and read again are classified better (3.4.1)",
            paired_difference((record, cells(attack, NO_DEFENCE)) for attack, record in filed.items()),
            "Without a defence.",
        )
    )
    return claims


def _decided(said: str, difference: Difference | None, found: str = "") -> Claim:
    if difference is None:
        return Claim(said, "not measured", "")
    return Claim(said, difference.verdict, f"{found} Difference {difference}.".strip())


def _averages(cells: _Cells, names: Sequence[str]) -> str:
    said = [f"{name} {100 * value:.1f}%" for name in names if (value := cells.average(name)) is not None]
    return f"Average over {len(cells.attacks)} attacks: {', '.join(said)}."


def _nearer(cells: _Cells, defence: str) -> Claim:
    said = "Purifying brings attacked images nearer to the clean ones (Figure 3)"
    rows = []
    for attack in cells.attacks:
        before, after = cells(attack, NO_DEFENCE), cells(attack, defence)
        if before is not None and after is not None and before.psnr is not None and after.psnr is not None:
            rows.append((attack, before.psnr, after.psnr, (after.mae or 0.0) < (before.mae or 0.0)))
    if not rows:
        return Claim(said, "not measured", "")
    nearer = [name for name, before, after, _ in rows if after > before]
    verdict = "held" if len(nearer) == len(rows) else "did not hold" if not nearer else "held in part"
    figures = "; ".join(f"{attack_name(name)} {before:.1f} to {after:.1f}" for name, before, after, _ in rows)
    by_mae = sum(smaller for *_, smaller in rows)
    return Claim(
        said,
        verdict,
        f"PSNR in dB, attacked to purified: {figures}. By MAE nearer under {by_mae} of {len(rows)} attacks.",
    )


def _stable(strengths: Sequence[EvaluationRecord], defence: str) -> Claim:
    said = "Its accuracy is nearly the same for any number of iterations (Figure 4)"
    own = [r for r in strengths if r.defence == defence and r.threat_model == "static" and r.iterations]
    steps = sorted({r.iterations or 0 for r in own})
    found = {(r.attack, r.eps, r.iterations): r for r in own}
    pairs = [
        (found.get((a, e, steps[-1])), found.get((a, e, steps[0]))) for a, e in unique((r.attack, r.eps) for r in own)
    ]
    difference = paired_difference(pairs) if len(steps) > 1 else None
    if difference is None:
        return Claim(said, "not measured", "")
    within = difference.low >= -STABLE and difference.high <= STABLE
    outside = difference.low > STABLE or difference.high < -STABLE
    ranges = []
    for attack, eps in unique((r.attack, r.eps) for r in own):
        line = [r.accuracy for r in own if (r.attack, r.eps) == (attack, eps)]
        ranges.append(f"{attack} {format_eps(eps)}: {100 * min(line):.1f} to {100 * max(line):.1f}%")
    return Claim(
        said,
        "held" if within else "did not hold" if outside else "not decided on these images",
        f"{steps[-1]} against {steps[0]} iterations: {difference}; within {100 * STABLE:g} points counts as held. "
        f"{'; '.join(ranges)}.",
    )


def _variant_claims(
    variants: Sequence[EvaluationRecord], defence: str, fixed: str, weaker: Sequence[str]
) -> list[Claim]:
    own = [r for r in variants if r.threat_model == "static"]
    found = {(r.attack, r.eps, r.defence): r for r in own}
    columns = unique((r.attack, r.eps) for r in own)
    main = [column for column in columns if column[1] == columns[0][1]]

    def against(name: str, chosen: Sequence[tuple[str, float | None]]) -> Difference | None:
        return paired_difference((found.get((*column, defence)), found.get((*column, name))) for column in chosen)

    def psnr(name: str) -> float | None:
        values = [r.psnr for column in main if (r := found.get((*column, name))) is not None and r.psnr is not None]
        return sum(values) / len(values) if values else None

    ours, theirs = psnr(defence), psnr(fixed)
    figures = (
        "" if ours is None or theirs is None else f"PSNR {ours:.2f} dB with the schedule, {theirs:.2f} dB without."
    )
    budgets = ", ".join(format_eps(eps) for eps in unique(eps for _, eps in columns))
    return [
        _decided(
            "Training in three stages is better than fixed weights 100 and 1 (3.2)", against(fixed, main), figures
        ),
        *(
            _decided(
                f"Stronger attacks train a better purifier (3.1.4), against {name}",
                against(name, columns),
                f"Mean over {budgets}.",
            )
            for name in weaker
        ),
    ]
