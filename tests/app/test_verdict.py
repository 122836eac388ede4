import numpy as np
import pytest

from art_versatile.app.service import Answer, Attacked
from art_versatile.app.verdict import adaptive_verdict, static_verdict

CAT, DOG, FOX = (Answer(i, ((name, 0.9),)) for i, name in enumerate(("cat", "dog", "fox")))
IMAGE = np.zeros((8, 8, 3), np.float32)


def attacked(answer):
    return Attacked("PGD", 8 / 255, 10, IMAGE, IMAGE, CAT, answer, 1.0)


@pytest.mark.parametrize(
    ("answer", "purified", "winner", "headline"),
    [
        (CAT, None, "nobody", "The attack failed"),
        (CAT, CAT, "nobody", "Nothing to undo"),
        (CAT, DOG, "attack", "The purifier does harm"),
        (DOG, None, "attack", "The classifier is fooled"),
        (DOG, CAT, "defence", "The purifier wins"),
        (DOG, DOG, "attack", "The attack wins"),
        (DOG, FOX, "attack", "The attack wins"),
    ],
)
def test_static(answer, purified, winner, headline):
    verdict = static_verdict(attacked(answer), purified)
    assert (verdict.winner, verdict.headline) == (winner, headline)
    assert "PGD at 8/255" in verdict.text
    for said in (answer, purified or answer):
        assert f"“{said.label}” (90%)" in verdict.text


@pytest.mark.parametrize(
    ("before", "after", "winner", "headline"),
    [
        (CAT, CAT, "defence", "The purifier holds"),
        (CAT, DOG, "attack", "The attacker wins"),
        (DOG, DOG, "nobody", "No contest"),
        (DOG, CAT, "nobody", "No contest"),
    ],
)
def test_adaptive_looks_at_the_defended_answers_alone(before, after, winner, headline):
    for bare in (CAT, DOG, FOX):
        verdict = adaptive_verdict(attacked(bare), before, after)
        assert (verdict.winner, verdict.headline) == (winner, headline)
        assert f"“{after.label}” (90%)" in verdict.text
