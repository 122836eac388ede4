from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)

from art_versatile.attacks import compile_attack, compile_classifier
from art_versatile.attacks.compiled.objects import inner_attack
from art_versatile.attacks.description import (
    attack_parameters,
    attacked_classifiers,
    describe_attack,
    goes_through,
    plain_value,
    takes_gradients,
)
from art_versatile.attacks.suite import EFFORTS, PAPER_ATTACKS, UNSEEN, paper_attacks
from art_versatile.baselines import Identity
from art_versatile.defended import defend

EPS = 16 / 255


class TestAttackParameters:
    @pytest.mark.parametrize("effort", EFFORTS)
    def test_plain_data_that_says_the_same_each_time(self, tiny_classifier, effort):
        first, second = (
            {name: attack_parameters(attack) for name, attack in made.items()}
            for made in (
                paper_attacks(tiny_classifier, names=(*PAPER_ATTACKS, *UNSEEN), effort=effort) for _ in range(2)
            )
        )
        assert first == second
        assert json.loads(json.dumps(first, allow_nan=False)) == first
        assert not any(part in json.dumps(first) for part in ("0x", "<"))  # no address, no object

    def test_what_they_say(self, tiny_classifier):
        attacks = paper_attacks(tiny_classifier)
        said = attack_parameters(attacks["PGD"])
        assert said["class"] == "ProjectedGradientDescent"
        assert (said["norm"], said["eps"], said["eps_step"], said["max_iter"]) == ("inf", EPS, 0.01, 40)
        assert not {"verbose", "summary_writer", "estimator"} & set(said)
        assert attack_parameters(attacks["MI-FGSM"])["decay"] == 1.0
        assert attack_parameters(attacks["C&W"])["binary_search_steps"] == 10
        auto = attack_parameters(attacks["AutoAttack"])
        assert [m["class"] for m in auto["attacks"]] == ["AutoProjectedGradientDescent"] * 2 + ["SquareAttack"]
        assert auto["attacks"][2]["max_iter"] == 5000
        # Objects and functions of a run; Square's loss is one.
        assert not {"estimator_orig", "parallel_pool_size"} & set(auto)
        assert not {"criterion", "loss", "adv_criterion"} & set(auto["attacks"][2])

    def test_one_step_is_of_eps_and_no_other_is_said(self, tiny_classifier):
        one = FastGradientMethod(tiny_classifier, eps=0.1, eps_step=0.7, num_random_init=1)
        assert attack_parameters(one)["eps"] == 0.1
        assert "eps_step" not in attack_parameters(one)
        minimal = FastGradientMethod(tiny_classifier, eps=0.1, eps_step=0.02, minimal=True)
        assert attack_parameters(minimal)["eps_step"] == 0.02
        # ART's loops are subclasses of the one step.
        loop = inner_attack(ProjectedGradientDescent(tiny_classifier, eps=0.1, eps_step=0.02))
        assert isinstance(loop, FastGradientMethod)
        assert attack_parameters(loop)["eps_step"] == 0.02

    def test_numpy_numbers(self, tiny_classifier):
        attack = FastGradientMethod(tiny_classifier, eps=0.1, norm=2)
        attack.eps = np.float64(0.25)
        attack.batch_size = np.int64(4)
        said = attack_parameters(attack)
        assert (said["eps"], said["batch_size"], said["norm"]) == (0.25, 4, 2)
        assert type(said["eps"]) is float
        assert type(said["batch_size"]) is int


class TestDescribeAttack:
    def test_the_form_of_the_manifests_that_there_are(self, tiny_classifier):
        """Another form would refuse stores made before. Written out, so that a change is noticed."""
        assert describe_attack(FastGradientMethod(tiny_classifier, eps=0.1)) == {
            "class": "FastGradientMethod",
            "parameters": {
                "norm": "inf",
                "eps": 0.1,
                "eps_step": 0.1,
                "targeted": False,
                "num_random_init": 0,
                "batch_size": 32,
                "minimal": False,
            },
        }
        shared = {
            "norm": "inf",
            "eps": 0.1,
            "eps_step": 0.05,
            "decay": None,
            "targeted": False,
            "num_random_init": 1,
            "batch_size": 32,
            "max_iter": 3,
            "random_eps": False,
        }
        pgd = ProjectedGradientDescent(tiny_classifier, eps=0.1, eps_step=0.05, max_iter=3, num_random_init=1)
        assert describe_attack(pgd) == {
            "class": "ProjectedGradientDescent",
            "parameters": shared,
            "inner": {"class": "ProjectedGradientDescentTensorFlowV2", "parameters": {**shared, "minimal": False}},
        }

    def test_attacks_inside_attacks(self, tiny_classifier):
        members = [SquareAttack(tiny_classifier, norm=2), FastGradientMethod(tiny_classifier)]
        auto = AutoAttack(tiny_classifier, eps=0.1, attacks=members)
        described = describe_attack(auto)
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        inner = [member["class"] for member in described["parameters"]["attacks"]]
        assert inner == ["SquareAttack", "FastGradientMethod"]
        assert described["parameters"]["norm"] == "inf"
        assert "0x" not in json.dumps(described)

    @pytest.mark.parametrize("name", ["BIM", "PGD", "MI-FGSM"])
    def test_the_same_images_sooner_are_the_same_attack(self, tiny_classifier, name):
        make = lambda: paper_attacks(compile_classifier(tiny_classifier))[name]  # noqa: E731
        described = describe_attack(compile_attack(make()))
        assert described == describe_attack(make())
        assert "Lean" not in json.dumps(described)


class TestWhatAnAttackComputesOn:
    def test_classifiers_of_attacks_inside(self, tiny_classifier):
        attack = paper_attacks(tiny_classifier, effort="quick")["AutoAttack"]
        found = attacked_classifiers(attack)
        assert tiny_classifier in found
        assert len(found) == 3  # APGD makes a classifier of its own, twice
        assert not goes_through(attack, Identity())

    def test_one_member_round_the_defence(self, tiny_classifier):
        defence = Identity()
        defended = defend(tiny_classifier, defence)
        inside = FastGradientMethod(defended)
        outside = FastGradientMethod(tiny_classifier)
        for members, expected in (([inside], True), ([inside, outside], False)):
            attack = AutoAttack(defended, attacks=members)
            assert goes_through(attack, defence) is expected

    def test_gradients(self, tiny_classifier):
        for kind in (FastGradientMethod, ProjectedGradientDescent, CarliniL2Method, DeepFool):
            assert takes_gradients(kind(tiny_classifier))
        square = SquareAttack(tiny_classifier)
        assert not takes_gradients(square)
        assert not takes_gradients(AutoAttack(tiny_classifier, attacks=[square]))
        apgd = AutoProjectedGradientDescent(tiny_classifier, loss_type="cross_entropy")
        assert takes_gradients(AutoAttack(tiny_classifier, attacks=[square, apgd]))

    def test_no_attack_at_all(self):
        assert attacked_classifiers(object()) == []
        assert not goes_through(object(), Identity())


def function():
    """It has a name."""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.array([[1.0, np.inf]]), [[1.0, "inf"]]),
        (
            np.arange(17.0),
            {"shape": [17], "dtype": "float64", "sha256": hashlib.sha256(np.arange(17.0).tobytes()).hexdigest()},
        ),
        (np.nan, "nan"),
        (np.float32(0.5), 0.5),
        ((1, (True, None)), [1, [True, None]]),
        (function, "function"),
        (object(), "object"),
    ],
)
def test_plain_value(value, plain):
    assert plain_value(value) == plain
    assert json.loads(json.dumps(plain_value(value), allow_nan=False)) == plain
