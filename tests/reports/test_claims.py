from __future__ import annotations

import dataclasses
import math

import pytest

from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports.claims import Difference, paired_difference, paper_claims
from art_versatile.reports.paper import SEEN, TRAINED_ON

OURS = "VersatilePurifier"


def record(attack, right, defence="none", **more):
    facts = {"dataset": "d", "n": len(right), "classifier": "c", "correct": right.count("1"), "right": right}
    clean = attack == "clean"
    return EvaluationRecord(
        **{**facts, "attack": attack, "defence": defence, "threat_model": "clean" if clean else "static", **more}
    )


def claim(claims, words):
    (found,) = [claim for claim in claims if words in claim.said]
    return found


def test_paired_difference_by_hand():
    first, second = record("PGD", "1110", OURS), record("PGD", "1000")
    found = paired_difference([(first, second)])
    # 0, 1, 1, 0: mean 1/2, variance (4 x 1/4) / 3 = 1/3, of the mean 1/12.
    half = 1.96 * math.sqrt(1 / 12)
    assert (found.mean, found.n) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.verdict == "not decided on these images"
    # The same images under a second attack that tells nothing: half of each difference, and of the interval.
    both = paired_difference([(first, second), (record("FGSM", "0000", OURS), record("FGSM", "0000"))])
    assert (both.mean, both.high - both.mean) == pytest.approx((0.25, half / 2))
    assert paired_difference([(first, None)]) is None
    assert paired_difference([(first, dataclasses.replace(second, right=None))]) is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "held"), (-0.2, -0.1, "did not hold"), (-0.1, 0.1, "not decided on these images")],
)
def test_verdicts(low, high, verdict):
    found = Difference((low + high) / 2, low, high, 1200)
    assert found.verdict == verdict
    assert f"interval {100 * low:+.1f} to {100 * high:+.1f}, n = 1,200" in str(found)


def test_claims():
    attacks = (*SEEN, "DeepFool")
    names = {TRAINED_ON.format(attack): attack for attack in SEEN}
    bad, good = "0" * 20, "1" * 20
    tables = [record("clean", good, name) for name in ("none", OURS, *names, "PixelDeflection", "GaussianBlur")]
    for attack in attacks:
        tables.append(record(attack, bad, psnr=30.0, mae=0.01))
        tables.append(record(attack, "1" * 18 + "00", OURS, psnr=31.0 if attack == "PGD" else 29.0, mae=0.02))
        tables += [record(attack, good if own == attack else bad[:10] + good[:10], n) for n, own in names.items()]
        tables.append(record(attack, bad, "PixelDeflection"))
        tables.append(record(attack, good, "GaussianBlur"))
        tables.append(record(attack, bad[:1] + good[:19], file_format="PNG"))
    strengths = [
        record("PGD", "1" * 10 + ("0" if steps == 100 else "1") * 10, OURS, eps=8 / 255, norm="inf", iterations=steps)
        for steps in (10, 100)
    ]
    variants = [
        record("PGD", right, name, eps=eps, norm="inf", psnr=psnr)
        for eps in (16 / 255, 4 / 255)
        for name, right, psnr in ((OURS, good, 30.0), ("fixed-weights", good, 31.0), ("weak", bad, 20.0))
    ]
    found = paper_claims(
        tables, strengths, variants, defence=OURS, others=["PixelDeflection"], further=["GaussianBlur"], weaker=["weak"]
    )
    said = {words: claim(found, words) for words in (
        "helps against the others", "recovers", "best purifier of one attack", "Against PGD", "six purifiers",
        "On DeepFool", "other defences", "a blur", "nearer", "number of iterations", "three stages", "Stronger", "PNG",
    )}  # fmt: skip
    assert {words: one.verdict for words, one in said.items()} == {
        "helps against the others": "held",
        "recovers": "held",
        "best purifier of one attack": "held",  # 90% against (100 + 6 x 50) / 7 = 57%
        "Against PGD": "not decided on these images",  # two images of twenty
        "six purifiers": "did not hold",  # 10 points below
        "On DeepFool": "held",
        "other defences": "held",
        "a blur": "not decided on these images",
        "nearer": "held in part",
        "number of iterations": "did not hold",
        "three stages": "not decided on these images",
        "Stronger": "held",
        "PNG": "held",
    }
    assert "in 36 of 36 cells" in said["helps against the others"].found
    assert "VersatilePurifier 90.0%, trained on FGSM 57.1%" in said["best purifier of one attack"].found
    assert "100 against 10 iterations: -50.0 points" in said["number of iterations"].found
    assert "PSNR 30.00 dB with the schedule, 31.00 dB without" in said["three stages"].found
    assert "Difference +100.0 points" in said["Stronger"].found
    assert str(said["PNG"]).startswith("Attacked images that were saved as PNG and read again are classified better")


def test_what_was_not_measured():
    found = paper_claims([record("clean", "11"), record("PGD", "00")], defence=OURS, weaker=["weak"])
    assert {claim.verdict for claim in found} == {"not measured"}
