from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    DeepFool,
    FastGradientMethod,
    MomentumIterativeMethod,
    SquareAttack,
)

from art_versatile.attacks.seeding import isolated_seed
from art_versatile.attacks.suite import (
    PRESETS,
    DeepFoolByImage,
    MomentumIterativeMethodNumpy,
    paper_attacks,
    unseen_attacks,
)

NAMES = ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack")
BOUNDED = ("FGSM", "BIM", "PGD", "MI-FGSM", "AutoAttack")
EPS = 16 / 255


@pytest.fixture(scope="module")
def adversarial(tiny_classifier, tiny_images, tiny_labels):
    """Each attack's images, preset quick."""
    attacks = {**paper_attacks(tiny_classifier, preset="quick"), **unseen_attacks(tiny_classifier, preset="quick")}
    assert tuple(attacks) == (*NAMES, "DeepFool")
    made, before = {}, [w.copy() for w in tiny_classifier.model.get_weights()]
    for name, attack in attacks.items():
        with isolated_seed(0):
            made[name] = attack.generate(tiny_images.copy(), y=np.eye(10)[tiny_labels])
    for a, b in zip(before, tiny_classifier.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    return made


class TestAttacksRun:
    @pytest.mark.parametrize("name", [*NAMES, "DeepFool"])
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
        assert tuple(attacks) == NAMES
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

    def test_quick_is_less_of_everything(self):
        assert list(PRESETS) == ["paper", "quick"]
        for name, budget in PRESETS["quick"].items():
            assert budget["max_iter"] <= PRESETS["paper"][name]["max_iter"]
            for parameter in ("nb_random_init", "nb_restarts", "binary_search_steps", "nb_grads"):
                assert budget.get(parameter, 0) <= PRESETS["paper"][name].get(parameter, 0)

    def test_quick(self, tiny_classifier):
        attacks = paper_attacks(tiny_classifier, preset="quick")
        assert [attacks[n].max_iter for n in ("BIM", "PGD", "MI-FGSM", "C&W")] == [10] * 4
        assert attacks["AutoAttack"].attacks[2].max_iter == 50
        assert unseen_attacks(tiny_classifier, preset="quick")["DeepFool"].max_iter == 10

    def test_presets_are_not_shared(self, tiny_classifier):
        before = json.dumps(PRESETS)
        paper_attacks(tiny_classifier, preset="quick", max_iter=7)["BIM"].set_params(max_iter=8)
        assert json.dumps(PRESETS) == before

    def test_a_small_eps(self, tiny_classifier, tiny_images):
        """A step larger than the ball is cut back to it."""
        attacks = paper_attacks(tiny_classifier, 2 / 255, preset="quick", max_iter=2)
        for name in ("BIM", "PGD", "MI-FGSM"):
            change = np.abs(attacks[name].generate(tiny_images[:2]) - tiny_images[:2]).max()
            assert change <= 2 / 255 + 1e-6

    @pytest.mark.parametrize("make", [paper_attacks, unseen_attacks])
    def test_preset(self, tiny_classifier, make):
        with pytest.raises(ValueError, match=r"Expected preset to be one of \['paper', 'quick'\]\. Received 'fast'\."):
            make(tiny_classifier, preset="fast")

    @pytest.mark.parametrize("batch_size", [0, 1.5, True])
    def test_batch_size(self, tiny_classifier, batch_size):
        with pytest.raises(ValueError, match="Expected batch_size to be an integer of at least 1"):
            paper_attacks(tiny_classifier, batch_size=batch_size)

    @pytest.mark.parametrize("value", [0, -0.1, np.inf, np.nan, True, "0.1", None])
    @pytest.mark.parametrize("name", ["eps", "eps_step"])
    def test_budget(self, tiny_classifier, name, value):
        expected = f"Expected {name} to be a positive number, in units of the pixels. Received {value!r}."
        with pytest.raises(ValueError, match=re.escape(expected)):
            paper_attacks(tiny_classifier, **{name: value})

    def test_unseen(self, tiny_classifier):
        attacks = unseen_attacks(tiny_classifier, verbose=True)
        assert list(attacks) == ["DeepFool"]
        assert isinstance(attacks["DeepFool"], DeepFool)
        assert (attacks["DeepFool"].max_iter, attacks["DeepFool"].nb_grads) == (100, 10)
        assert attacks["DeepFool"].verbose


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


def mi_fgsm(model, x, labels, eps, step, iterations, decay):
    """Algorithm 1 of arXiv 1710.06081, written out."""
    adversarial, velocity = x.astype(np.float64), np.zeros(x.shape)
    for _ in range(iterations):
        image = tf.Variable(adversarial.astype(np.float32))
        with tf.GradientTape() as tape:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(image))
        gradient = tape.gradient(loss, image).numpy().astype(np.float64)
        velocity = decay * velocity + gradient / np.abs(gradient).sum((1, 2, 3), keepdims=True)
        adversarial = np.clip(adversarial + step * np.sign(velocity), np.maximum(x - eps, 0), np.minimum(x + eps, 1))
    return adversarial


class TestMomentumIterativeMethod:
    @pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
    def test_against_the_algorithm(self, tiny_classifier, tiny_images, tiny_labels, decay):
        attack = MomentumIterativeMethodNumpy(
            tiny_classifier, decay=decay, eps=0.05, eps_step=0.01, max_iter=8, batch_size=3, verbose=False
        )
        expected = mi_fgsm(tiny_classifier.model, tiny_images, tiny_labels, 0.05, 0.01, 8, decay)
        np.testing.assert_allclose(attack.generate(tiny_images, y=np.eye(10)[tiny_labels]), expected, atol=1e-6)

    def test_the_momentum_matters(self, tiny_classifier, tiny_images):
        with_it, without = (
            MomentumIterativeMethodNumpy(
                tiny_classifier, decay=d, eps=0.05, eps_step=0.01, max_iter=8, verbose=False
            ).generate(tiny_images)
            for d in (1.0, 0.0)
        )
        assert np.abs(with_it - without).max() > 0.005

    def test_set_params_reaches_the_loop(self, tiny_classifier, tiny_images, tiny_labels):
        attack = paper_attacks(tiny_classifier)["MI-FGSM"]
        attack.set_params(eps=0.03, eps_step=0.02, max_iter=5, decay=0.5, batch_size=2)
        assert (attack.eps, attack.decay, attack.max_iter) == (0.03, 0.5, 5)
        expected = mi_fgsm(tiny_classifier.model, tiny_images, tiny_labels, 0.03, 0.02, 5, 0.5)
        np.testing.assert_allclose(attack.generate(tiny_images, y=np.eye(10)[tiny_labels]), expected, atol=1e-6)

    def test_it_is_arts(self, tiny_classifier, tiny_images):
        attack = MomentumIterativeMethodNumpy(tiny_classifier)
        assert isinstance(attack, MomentumIterativeMethod)
        assert attack.estimator is tiny_classifier
        assert attack.decay == 1.0
        # The day that this no longer raises, ART's own will do.
        with pytest.raises(NotImplementedError):
            MomentumIterativeMethod(tiny_classifier, max_iter=1, verbose=False).generate(tiny_images[:1])
