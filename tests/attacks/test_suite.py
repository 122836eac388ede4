from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, DeepFool, FastGradientMethod, SquareAttack
from art.estimators.classification import TensorFlowV2Classifier

from art_versatile.attacks.compiled.objects import copied
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.attacks.suite import EFFORTS, PAPER_ATTACKS, UNSEEN, DeepFoolByImage, paper_attacks

BOUNDED = ("FGSM", "BIM", "PGD", "MI-FGSM", "AutoAttack")
EPS = 16 / 255


@pytest.fixture(scope="module")
def adversarial(tiny_classifier, tiny_images, tiny_labels):
    """Each attack's images, effort quick."""
    attacks = paper_attacks(tiny_classifier, names=(*PAPER_ATTACKS, *UNSEEN), effort="quick")
    made, before = {}, [w.copy() for w in tiny_classifier.model.get_weights()]
    for name, attack in attacks.items():
        with isolated_seed(0):
            made[name] = attack.generate(tiny_images.copy(), y=np.eye(10)[tiny_labels])
    for a, b in zip(before, tiny_classifier.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    return made


class TestAttacksRun:
    @pytest.mark.parametrize("name", [*PAPER_ATTACKS, "DeepFool"])
    def test_images(self, adversarial, tiny_classifier, tiny_images, tiny_labels, name):
        x = adversarial[name]
        assert x.shape == tiny_images.shape
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert x.max() <= 1
        fooled = tiny_classifier.predict(x).argmax(1) != tiny_labels
        assert fooled.mean() >= 0.5
        change = np.abs(x - tiny_images).max((1, 2, 3))
        assert (change[fooled] > 0).all()

    @pytest.mark.parametrize("name", BOUNDED)
    def test_bounds(self, adversarial, tiny_images, name):
        change = np.abs(adversarial[name] - tiny_images).max()
        assert EPS / 2 < change <= EPS + 1e-6

    def test_iterations_beat_one_step(self, adversarial, tiny_classifier, tiny_labels):
        def loss(name):
            logits = tiny_classifier.predict(adversarial[name])
            return tf.nn.sparse_softmax_cross_entropy_with_logits(tiny_labels, logits).numpy().mean()

        for name in ("BIM", "PGD", "MI-FGSM"):
            assert loss(name) > loss("FGSM")

    def test_minimal_attacks_change_less(self, adversarial, tiny_images):
        sizes = {name: np.sqrt(((x - tiny_images) ** 2).sum((1, 2, 3))).mean() for name, x in adversarial.items()}
        assert max(sizes["C&W"], sizes["DeepFool"]) < min(sizes["FGSM"], sizes["PGD"])


class TestPaperAttacks:
    def test_parameters_of_the_paper(self, tiny_classifier):
        attacks = paper_attacks(tiny_classifier)
        assert tuple(attacks) == PAPER_ATTACKS == ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack")
        for name in BOUNDED:
            assert attacks[name].eps == EPS
            assert attacks[name].norm == np.inf
        for name in ("BIM", "PGD", "MI-FGSM"):
            assert (attacks[name].eps_step, attacks[name].max_iter) == (0.01, 40)
        assert attacks["PGD"].num_random_init == 1
        assert attacks["BIM"].num_random_init == attacks["MI-FGSM"].num_random_init == 0
        assert attacks["MI-FGSM"].decay == 1.0
        assert isinstance(attacks["FGSM"], FastGradientMethod)
        assert not attacks["FGSM"].minimal
        assert not any(attack.targeted for attack in attacks.values())

    def test_auto_attack_leaves_deepfool_unseen(self, tiny_classifier):
        attack = paper_attacks(tiny_classifier)["AutoAttack"]
        assert isinstance(attack, AutoAttack)
        ce, dlr, square = attack.attacks
        assert isinstance(square, SquareAttack)
        assert isinstance(ce, AutoProjectedGradientDescent)
        assert (ce.loss_type, dlr.loss_type) == ("cross_entropy", "difference_logits_ratio")
        for member in (ce, dlr):
            assert (member.max_iter, member.nb_random_init, member.eps, member.eps_step) == (100, 5, EPS, 2 * EPS)
        assert (square.max_iter, square.nb_restarts, square.eps, square.p_init) == (5000, 5, EPS, 0.8)

    def test_what_the_caller_sets(self, tiny_classifier):
        attacks = paper_attacks(tiny_classifier, 0.1, eps_step=0.02, max_iter=3, batch_size=5, verbose=True)
        for name in ("BIM", "PGD", "MI-FGSM"):
            assert (attacks[name].eps, attacks[name].eps_step, attacks[name].max_iter) == (0.1, 0.02, 3)
        every = [*attacks.values(), *attacks["AutoAttack"].attacks]
        assert {attack.batch_size for attack in every} == {5}
        assert all(attack.verbose for attack in every if not isinstance(attack, FastGradientMethod | AutoAttack))
        assert attacks["AutoAttack"].attacks[0].max_iter == 100
        assert attacks["FGSM"].eps == attacks["AutoAttack"].eps == 0.1

    def test_by_name(self, tiny_classifier):
        assert list(paper_attacks(tiny_classifier, names=["PGD", "DeepFool", "FGSM"])) == ["PGD", "DeepFool", "FGSM"]
        (deepfool,) = paper_attacks(tiny_classifier, names=UNSEEN, verbose=True).values()
        assert isinstance(deepfool, DeepFool)
        assert (deepfool.max_iter, deepfool.nb_grads, deepfool.batch_size, deepfool.verbose) == (100, 10, 1, True)

    def test_an_attack_that_is_not_asked_for_asks_nothing_of_the_classifier(self):
        """ART's AutoAttack takes logits alone, its DLR three classes."""
        model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        classifier = TensorFlowV2Classifier(model, 2, (4, 4, 3), clip_values=(0, 1))
        assert list(paper_attacks(classifier, names=["FGSM", "PGD"])) == ["FGSM", "PGD"]

    @pytest.mark.parametrize("clip_values", [(0, 255), (-1, 1), (np.zeros(3), np.full(3, 255))])
    def test_budgets_are_shares_of_the_range_of_the_pixels(self, tiny_classifier, clip_values):
        classifier = copied(tiny_classifier)
        classifier.set_params(clip_values=clip_values)
        width = float(np.max(clip_values[1]) - np.min(clip_values[0]))
        attacks = paper_attacks(classifier)
        members = attacks["AutoAttack"].attacks
        for attack in [*(attacks[name] for name in BOUNDED), *members]:
            assert attack.eps == pytest.approx(EPS * width)
        for name in ("BIM", "PGD", "MI-FGSM"):
            assert attacks[name].eps_step == pytest.approx(0.01 * width)
        assert members[0].eps_step == pytest.approx(2 * EPS * width)

    def test_deepfool_is_for_a_width_of_one(self, tiny_classifier):
        """ART multiplies its step by the width."""
        classifier = copied(tiny_classifier)
        classifier.set_params(clip_values=(-0.5, 0.5))
        paper_attacks(classifier, names=UNSEEN)
        classifier.set_params(clip_values=(0, 255))
        with pytest.raises(ValueError, match=r"Expected clip_values of width 1, as \(0, 1\), for DeepFool"):
            paper_attacks(classifier, names=UNSEEN)

    def test_quick_is_less_of_everything(self, tiny_classifier):
        assert list(EFFORTS) == ["paper", "quick"]
        for name, spent in EFFORTS["quick"].items():
            assert spent["max_iter"] <= EFFORTS["paper"][name]["max_iter"]
            for parameter in ("nb_random_init", "nb_restarts", "binary_search_steps", "nb_grads"):
                assert spent.get(parameter, 0) <= EFFORTS["paper"][name].get(parameter, 0)
        attacks = paper_attacks(tiny_classifier, names=(*PAPER_ATTACKS, *UNSEEN), effort="quick")
        assert [attacks[n].max_iter for n in ("BIM", "PGD", "MI-FGSM", "C&W", "DeepFool")] == [10] * 5
        assert attacks["AutoAttack"].attacks[2].max_iter == 50

    def test_efforts_are_not_shared(self, tiny_classifier):
        before = json.dumps(EFFORTS)
        paper_attacks(tiny_classifier, effort="quick", max_iter=7)["BIM"].set_params(max_iter=8)
        assert json.dumps(EFFORTS) == before

    def test_a_small_eps(self, tiny_classifier, tiny_images):
        """A step larger than the ball is cut back to it."""
        attacks = paper_attacks(tiny_classifier, 2 / 255, names=["BIM", "PGD", "MI-FGSM"], max_iter=2)
        for attack in attacks.values():
            assert np.abs(attack.generate(tiny_images[:2]) - tiny_images[:2]).max() <= 2 / 255 + 1e-6

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("effort", "full"),
            ("names", ["PGD", "CW"]),
            ("max_iter", 0),
            *(("batch_size", value) for value in (0, 1.5, True)),
            *(
                (name, value)
                for name in ("eps", "eps_step")
                for value in (0, -0.1, 16, np.inf, np.nan, True, "0.1", None)
            ),
        ],
    )
    def test_bad_values(self, tiny_classifier, name, value):
        with pytest.raises(ValueError, match=f"Expected {name} to be .* Received"):
            paper_attacks(tiny_classifier, **{name: value})

    def test_without_a_range_of_pixels_there_is_no_share(self, tiny_classifier):
        classifier = copied(tiny_classifier)
        classifier.set_params(clip_values=None)
        with pytest.raises(ValueError, match="Expected an ART classifier with clip_values"):
            paper_attacks(classifier)


class TestDeepFoolByImage:
    def test_each_image_as_arts_gives_it_alone(self, tiny_classifier, tiny_images):
        budget = {"max_iter": 5, "nb_grads": 3, "epsilon": 0.02, "batch_size": 1, "verbose": False}
        reference = DeepFool(tiny_classifier, **budget)
        alone = np.concatenate([reference.generate(tiny_images[i : i + 1]) for i in range(3)])
        attack = DeepFoolByImage(tiny_classifier, **budget)
        np.testing.assert_allclose(attack.generate(tiny_images[:3]), alone, atol=1e-6)
        np.testing.assert_allclose(attack.generate(tiny_images[1:2])[0], alone[1], atol=1e-6)

    @pytest.mark.parametrize("verbose", [True, False])
    def test_verbose_is_put_back(self, tiny_classifier, tiny_images, verbose):
        attack = DeepFoolByImage(tiny_classifier, max_iter=1, nb_grads=2, verbose=verbose)
        attack.generate(tiny_images[:1])
        assert attack.verbose is verbose
        with pytest.raises(TypeError):
            attack.generate([None])
        assert attack.verbose is verbose


def test_changes_of_an_effort(tiny_classifier):
    changes = {"C&W": {"max_iter": 7}, "APGD": {"nb_random_init": 2}, "iterative": {"max_iter": 3}}
    made = paper_attacks(tiny_classifier, effort="quick", changes=changes)
    assert (made["C&W"].max_iter, made["C&W"].binary_search_steps) == (7, 1)
    assert [attack.nb_random_init for attack in made["AutoAttack"].attacks[:2]] == [2, 2]
    assert (made["PGD"].max_iter, made["BIM"].max_iter) == (3, 3)
    assert EFFORTS["quick"]["C&W"]["max_iter"] == 10  # as it was
    for wrong in ({"PGD": {"max_iter": 1}}, {"C&W": {"eps": 1}}):
        with pytest.raises(ValueError, match="Expected changes"):
            paper_attacks(tiny_classifier, changes=wrong)
