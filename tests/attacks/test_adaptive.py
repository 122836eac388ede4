from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import ProjectedGradientDescent, SquareAttack
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import KerasClassifier

from art_versatile.attacks.adaptive import ADAPTIVE_EFFORTS, adaptive_attacks, adaptive_pgd, query_attacks
from art_versatile.attacks.compiled.objects import copied
from art_versatile.attacks.description import attacked_classifiers, goes_through, takes_gradients
from art_versatile.baselines import Identity, PixelDeflection, RandomResizing
from art_versatile.classifiers import wrap
from art_versatile.defended import defend

EPS = 0.1


class Dimming(Identity):
    """Half of each pixel, in TensorFlow: its exact gradient is half."""

    def _defend(self, images):
        return 0.5 * images


@pytest.fixture(scope="module")
def one_hot(tiny_labels):
    return np.eye(10, dtype=np.float32)[tiny_labels]


class TestAdaptiveAttacks:
    def test_what_there_is(self, tiny_classifier):
        defence = Dimming()
        attacks = adaptive_attacks(tiny_classifier, defence, EPS, batch_size=4)
        assert list(attacks) == ["FGSM", "PGD", "PGD, BPDA", "APGD-CE", "APGD-DLR"]
        for attack in attacks.values():
            assert goes_through(attack, defence)
            assert takes_gradients(attack)
            assert (attack.norm, attack.eps, attack.batch_size) == (np.inf, EPS, 4)
        assert attacks["PGD"].max_iter == ADAPTIVE_EFFORTS["quick"]["PGD"]["max_iter"] == 10
        assert attacks["PGD"].eps_step == pytest.approx(EPS / 4)

    @pytest.mark.parametrize("name", ["FGSM", "PGD", "PGD, BPDA", "APGD-CE", "APGD-DLR"])
    def test_each_breaks_a_defence_that_does_little(self, tiny_classifier, tiny_images, tiny_labels, one_hot, name):
        attack = adaptive_attacks(tiny_classifier, Identity(), EPS, max_iter=5)[name]
        x_adv = attack.generate(tiny_images.copy(), y=one_hot)
        assert np.abs(x_adv - tiny_images).max() <= EPS + 1e-6
        assert (tiny_classifier.predict(x_adv).argmax(1) == tiny_labels).mean() <= 0.25

    def test_a_masked_gradient_holds_only_without_bpda(self, tiny_classifier, tiny_images, tiny_labels, one_hot):
        """The textbook case of arXiv 1802.00420: rounding has no gradient, and is no defence."""

        class NoGradient(Identity):
            def _defend(self, images):
                return tf.stop_gradient(tf.round(images * 63) / 63) + 0 * images

        attacks = adaptive_attacks(tiny_classifier, NoGradient(), EPS)
        right = {}
        for name in ("PGD", "PGD, BPDA"):
            attacks[name].set_params(num_random_init=0)
            x_adv = attacks[name].generate(tiny_images.copy(), y=one_hot)
            right[name] = (attacks[name].estimator.predict(x_adv).argmax(1) == tiny_labels).mean()
        assert right == {"PGD": 1.0, "PGD, BPDA": 0.0}

    def test_equal_to_arts_own(self, tiny_classifier, tiny_images, one_hot):
        defence = Dimming()
        ours = adaptive_attacks(tiny_classifier, defence, EPS)["PGD"]
        ours.set_params(num_random_init=0)
        theirs = ProjectedGradientDescent(
            defend(tiny_classifier, defence), eps=EPS, eps_step=EPS / 4, max_iter=10, batch_size=32, verbose=False
        )
        expected = theirs.generate(tiny_images.copy(), y=one_hot)
        np.testing.assert_allclose(ours.generate(tiny_images.copy(), y=one_hot), expected, atol=1e-6)

    def test_further_budgets_on_the_compiled_classifier(self, tiny_classifier):
        attacks = adaptive_attacks(tiny_classifier, Identity(), EPS)
        further = adaptive_pgd(attacks["PGD"].estimator, 0.5, max_iter=20)
        assert further.estimator is attacks["PGD"].estimator is attacks["FGSM"].estimator
        assert (further.eps, further.max_iter, further.eps_step) == (0.5, 20, 2.5 * 0.5 / 20)

    def test_options(self, any_size_classifier):
        defence = RandomResizing(sizes=(28, 40), reference=32, seed=0)
        attacks = adaptive_attacks(
            any_size_classifier, defence, EPS, effort="full", max_iter=7, eot_samples=5, bpda=False, seed=1
        )
        assert list(attacks) == ["FGSM", "PGD"]  # of random defences ART's APGD keeps what one draw favours
        assert attacks["PGD"].max_iter == 7
        assert attacks["PGD"].num_random_init == 5
        for attack in attacks.values():
            assert {classifier.eot_samples for classifier in attacked_classifiers(attack)} == {5}

    def test_of_a_keras_classifier_and_of_probabilities(self, tiny_classifier, tiny_images, tiny_labels, one_hot):
        """APGD-DLR takes logits, which these are not."""
        model = keras.Sequential([tiny_classifier.model, keras.layers.Softmax()])
        model.compile(loss="categorical_crossentropy")
        attacks = adaptive_attacks(KerasClassifier(model, clip_values=(0, 1)), Identity(), EPS)
        assert list(attacks) == ["FGSM", "PGD", "PGD, BPDA", "APGD-CE"]
        x_adv = attacks["APGD-CE"].generate(tiny_images.copy(), y=one_hot)
        assert (tiny_classifier.predict(x_adv).argmax(1) == tiny_labels).mean() <= 0.25

    def test_two_classes(self):
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
        assert list(adaptive_attacks(wrap(model, 32, 2), Identity(), EPS)) == ["FGSM", "PGD", "PGD, BPDA", "APGD-CE"]

    def test_the_budget_is_a_share_of_the_range_of_the_pixels(self, tiny_classifier):
        classifier = copied(tiny_classifier)
        classifier.set_params(clip_values=(0, 255))
        defence = Identity(clip_values=(0, 255))
        made = {**adaptive_attacks(classifier, defence, EPS), **query_attacks(classifier, defence, EPS)}
        assert {attack.eps for attack in made.values()} == {EPS * 255}
        assert made["PGD"].eps_step == pytest.approx(EPS * 255 / 4)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("eps", 0), ("eps", 1.5), ("eps", True), ("effort", "paper"), ("max_iter", 0)],
    )
    @pytest.mark.parametrize("make", [adaptive_attacks, query_attacks])
    def test_bad_values(self, tiny_classifier, make, name, value):
        with pytest.raises(ValueError, match=f"Expected {name} to be .* Received {value!r}"):
            make(tiny_classifier, Identity(), **{name: value})


class TestQueryAttacks:
    def test_square(self, tiny_classifier, tiny_images, tiny_labels, one_hot):
        defence = FeatureSqueezing((0, 1), bit_depth=6)
        (attack,) = query_attacks(tiny_classifier, defence, 4 * EPS, max_iter=60).values()
        assert isinstance(attack, SquareAttack)
        assert goes_through(attack, defence)
        assert not takes_gradients(attack)
        x_adv = attack.generate(tiny_images.copy(), y=one_hot)
        assert np.abs(x_adv - tiny_images).max() <= 4 * EPS + 1e-6
        assert (tiny_classifier.predict(defence(x_adv)[0]).argmax(1) == tiny_labels).mean() < 0.8


def test_pixel_deflection_falls(tiny_classifier, tiny_images, tiny_labels, one_hot):
    """Athalye and Carlini broke it with BPDA and EOT (arXiv 1804.03286); so must this harness."""
    defence = PixelDeflection(deflections=40, window=3, sigma=0.005, seed=0)
    attack = adaptive_attacks(tiny_classifier, defence, EPS, eot_samples=4, bpda=False)["PGD"]
    x_adv = attack.generate(tiny_images.copy(), y=one_hot)
    assert (tiny_classifier.predict(defence(x_adv)[0]).argmax(1) == tiny_labels).mean() <= 0.25
