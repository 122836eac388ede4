from __future__ import annotations

import pytest
from art.attacks.evasion import (
    BasicIterativeMethod,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SquareAttack,
)
from compiled_cases import make_classifier

from art_versatile.attacks.compiled.objects import copied, inner_attack


class Renamed(SquareAttack):
    pass


@pytest.mark.parametrize("kind", [None, Renamed])
def test_a_copy_shares_everything_but_itself(model, kind):
    attack = SquareAttack(make_classifier(model), eps=0.1)
    copy = copied(attack, kind)
    assert type(copy) is (kind or SquareAttack)
    assert copy.estimator is attack.estimator
    assert copy.loss.__self__ is copy  # ART keeps a method of the attack in the attack
    copy.set_params(eps=0.2)
    assert (attack.eps, copy.eps) == (0.1, 0.2)


def test_inner_attack(model):
    classifier = make_classifier(model)
    for kind in (ProjectedGradientDescent, BasicIterativeMethod):
        assert "Descent" in type(inner_attack(kind(classifier, verbose=False))).__name__
    for kind in (FastGradientMethod, HopSkipJump):  # the second has a method of that name
        assert inner_attack(kind(classifier)) is None
    assert inner_attack(object()) is None
