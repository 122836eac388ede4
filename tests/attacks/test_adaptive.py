from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.defences.preprocessor import JpegCompression, Preprocessor
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, KerasClassifier

from art_versatile.attacks.adaptive import (
    BUDGETS,
    BackwardPassIdentity,
    adaptive_attacks,
    adaptive_pgd,
    attacked_classifiers,
    check_pixels,
    defend,
    goes_through,
    one_range,
    query_attacks,
    takes_gradients,
    through,
)
from art_versatile.attacks.compiled import CompiledTensorFlowV2Classifier
from art_versatile.attacks.suite import paper_attacks
from art_versatile.baselines import Identity, PixelDeflection, RandomResizing
from art_versatile.classifiers import wrap

EPS = 0.1


class Rounding(Preprocessor):
    """Eight grey levels: NumPy, no gradient of its own worth anything."""

    params = ["levels"]  # noqa: RUF012

    def __init__(self, levels=7):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.levels = levels

    def __call__(self, x, y=None):
        return np.round(x * self.levels) / self.levels, y

    def estimate_gradient(self, x, grad):
        return np.zeros_like(grad)


class Dimming(Identity):
    """Half of each pixel, in TensorFlow: its exact gradient is half."""

    def _defend(self, images):
        return 0.5 * images


@pytest.fixture(scope="module")
def one_hot(tiny_labels):
    return np.eye(10, dtype=np.float32)[tiny_labels]


class TestBackwardPassIdentity:
    def test_forward_is_the_defence(self, tiny_images):
        for defence in (Rounding(), Dimming()):
            answer, y = BackwardPassIdentity(defence)(tiny_images, np.arange(8))
            np.testing.assert_allclose(answer, defence(tiny_images)[0], atol=1e-6)
            np.testing.assert_array_equal(y, np.arange(8))

    @pytest.mark.parametrize("defence", [Rounding(), Dimming()])
    def test_the_gradient_is_the_models_at_what_it_was_shown(self, tiny_classifier, tiny_images, one_hot, defence):
        """The definition of BPDA: forward through the defence, backward as if it were not there."""
        shown = defence(tiny_images)[0].astype(np.float32)
        expected = tiny_classifier.loss_gradient(shown, one_hot)
        attacked = through(tiny_classifier, defence, gradient="bpda")
        np.testing.assert_allclose(attacked.loss_gradient(tiny_images.copy(), one_hot), expected, rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(attacked.predict(tiny_images), tiny_classifier.predict(shown), atol=1e-4)

    def test_exact_differs(self, tiny_classifier, tiny_images, one_hot):
        exact = through(tiny_classifier, Dimming()).loss_gradient(tiny_images.copy(), one_hot)
        bpda = through(tiny_classifier, Dimming(), gradient="bpda").loss_gradient(tiny_images.copy(), one_hot)
        np.testing.assert_allclose(exact, 0.5 * bpda, rtol=1e-3, atol=1e-9)
        assert np.abs(bpda).max() > 1e-4

    def test_another_size_comes_back_through_a_resize(self, any_size_classifier, tiny_images, one_hot):
        class Enlarging(Identity):
            def _defend(self, images):
                return tf.image.resize(images, (48, 40), "nearest")

        shown = tf.image.resize(tiny_images, (48, 40), "nearest")
        upstream = tf.constant(any_size_classifier.loss_gradient(shown.numpy(), one_hot))
        with tf.GradientTape() as tape:
            images = tf.Variable(tiny_images)
            resized = tf.image.resize(images, (48, 40))
        expected = tape.gradient(resized, images, upstream).numpy()
        found = through(any_size_classifier, Enlarging(), gradient="bpda").loss_gradient(tiny_images.copy(), one_hot)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_channels_first(self, tiny_images):
        first = tf.constant(tiny_images.transpose(0, 3, 1, 2))
        wrapped = BackwardPassIdentity(Dimming(channels_first=True), channels_first=True)
        with tf.GradientTape() as tape:
            tape.watch(first)
            answer = wrapped.forward(first)[0]
        np.testing.assert_array_equal(tape.gradient(answer, first), np.ones(first.shape))

    def test_a_network_inside(self, tiny_images):
        """The weights of a defence get no gradient, and are no error."""
        network = keras.layers.Conv2D(3, 3, padding="same")

        class Network(Identity):
            def _defend(self, images):
                return network(images)

        network.build((None, None, None, 3))
        with tf.GradientTape() as tape:
            x = tf.constant(tiny_images)
            tape.watch(x)
            answer = BackwardPassIdentity(Network()).forward(x)[0]
        np.testing.assert_array_equal(tape.gradient(answer, x), np.ones(x.shape))

    @pytest.mark.parametrize("gradient", ["exact", "bpda"])
    def test_draws_of_a_generator_of_numpy_are_not_frozen(self, any_size_classifier, tiny_images, one_hot, gradient):
        """Inside a trace they would be constants, and EOT the mean of equal terms."""

        class Noise(Identity):
            def __init__(self):
                super().__init__()
                self._rng = np.random.default_rng(0)

            def _defend(self, images):
                return images + self._rng.normal(0, 0.3, images.shape[1:]).astype(np.float32)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*runs on ART's eager path.*")
            attacked = through(any_size_classifier, Noise(), gradient=gradient)
            first, second = (attacked.loss_gradient(tiny_images.copy(), one_hot) for _ in range(2))
        assert not np.array_equal(first, second)

    def test_what_is_no_defence(self):
        with pytest.raises(TypeError, match=r"Expected an ART preprocessor\. Received int\."):
            BackwardPassIdentity(1)


class TestThrough:
    def test_the_classifier_stays_as_it_was(self, tiny_classifier, tiny_images):
        before = tiny_classifier.predict(tiny_images)
        defended = through(tiny_classifier, Dimming())
        assert isinstance(defended, CompiledTensorFlowV2Classifier)
        assert tiny_classifier.preprocessing_defences in (None, [])
        np.testing.assert_array_equal(tiny_classifier.predict(tiny_images), before)
        np.testing.assert_allclose(defended.predict(tiny_images), tiny_classifier.predict(0.5 * tiny_images), atol=1e-4)

    def test_eot_is_the_mean_over_draws(self, any_size_classifier, tiny_images, one_hot):
        """The gradient's variance falls as one over the number of draws."""
        variances = []
        for samples in (1, 16):
            defence = RandomResizing(sizes=(28, 40), reference=32, seed=0)
            classifier = through(any_size_classifier, defence, eot_samples=samples, seed=0)
            draws = [classifier.loss_gradient(tiny_images.copy(), one_hot) for _ in range(12)]
            variances.append(np.var(draws, axis=0).mean())
        assert 4 < variances[0] / variances[1] < 64

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"gradient": "none"}, r"Expected gradient to be one of \['exact', 'bpda'\]\. Received 'none'\."),
            ({"eot_samples": 0}, "Expected eot_samples to be an integer of at least 1"),
        ],
    )
    def test_bad_values(self, tiny_classifier, arguments, message):
        with pytest.raises(ValueError, match=message):
            through(tiny_classifier, Identity(), **arguments)

    def test_eot_of_a_black_box(self, tiny_classifier):
        box = BlackBoxClassifierNeuralNetwork(
            tiny_classifier.predict, (32, 32, 3), 10, clip_values=(0, 1), channels_first=False
        )
        through(box, Identity())
        with pytest.raises(TypeError, match="Expected a TensorFlow classifier with eot_samples > 1"):
            through(box, Identity(), eot_samples=2)

    def test_pixels_of_another_kind(self, tiny_classifier):
        for build in (defend, check_pixels, through, lambda *args: through(*args, gradient="bpda")):
            with pytest.raises(ValueError, match=r"the classifier's clip_values \(0\.0, 1\.0\)\. Received \(0\.0, 255"):
                build(tiny_classifier, Identity(clip_values=(0, 255)))
            with pytest.raises(ValueError, match=r"the classifier's channels_first\. Received True"):
                build(tiny_classifier, Identity(channels_first=True))
        check_pixels(tiny_classifier, JpegCompression((0, 1)))

    def test_a_defence_that_is_not_applied(self, tiny_classifier):
        """ART would pass it by, and the attack be one on the undefended classifier."""
        defence = Identity(apply_predict=False)
        with pytest.raises(ValueError, match=r"Expected a defence with apply_predict=True\. Received Identity without"):
            defend(tiny_classifier, defence)

    def test_one_range(self):
        assert one_range((np.zeros(3), np.full(3, 255))) == (0.0, 255.0)
        with pytest.raises(ValueError, match="one range for all channels"):
            one_range((np.zeros(3), np.arange(3)))


class TestAdaptiveAttacks:
    def test_what_there_is(self, tiny_classifier):
        defence = Dimming()
        attacks = adaptive_attacks(tiny_classifier, defence, EPS, batch_size=4)
        assert list(attacks) == ["FGSM", "PGD", "PGD, BPDA", "APGD-CE", "APGD-DLR"]
        for attack in attacks.values():
            assert goes_through(attack, defence)
            assert takes_gradients(attack)
            assert (attack.norm, attack.eps, attack.batch_size) == (np.inf, EPS, 4)
        assert attacks["PGD"].max_iter == BUDGETS["quick"]["PGD"]["max_iter"] == 10
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
            any_size_classifier, defence, EPS, preset="full", max_iter=7, eot_samples=5, bpda=False, seed=1
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

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"eps": 0}, "Expected eps to be a number from"),
            ({"eps": 1.5}, "Expected eps to be a number from"),
            ({"preset": "paper"}, r"Expected preset to be one of \['quick', 'full'\]"),
            ({"max_iter": 0}, "Expected max_iter to be an integer of at least 1"),
        ],
    )
    @pytest.mark.parametrize("make", [adaptive_attacks, query_attacks])
    def test_bad_values(self, tiny_classifier, make, arguments, message):
        with pytest.raises(ValueError, match=message):
            make(tiny_classifier, Identity(), **arguments)


class TestQueryAttacks:
    def test_square(self, tiny_classifier, tiny_images, tiny_labels, one_hot):
        defence = Rounding(63)
        (attack,) = query_attacks(tiny_classifier, defence, 4 * EPS, max_iter=60).values()
        assert isinstance(attack, SquareAttack)
        assert goes_through(attack, defence)
        assert not takes_gradients(attack)
        x_adv = attack.generate(tiny_images.copy(), y=one_hot)
        assert np.abs(x_adv - tiny_images).max() <= 4 * EPS + 1e-6
        assert (tiny_classifier.predict(defence(x_adv)[0]).argmax(1) == tiny_labels).mean() < 0.8


class TestWhatAnAttackComputesOn:
    def test_classifiers_of_attacks_inside(self, tiny_classifier):
        attack = paper_attacks(tiny_classifier, preset="quick")["AutoAttack"]
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

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (FastGradientMethod, True),
            (ProjectedGradientDescent, True),
            (CarliniL2Method, True),
            (DeepFool, True),
            (SquareAttack, False),
        ],
    )
    def test_gradients(self, tiny_classifier, kind, expected):
        assert takes_gradients(kind(tiny_classifier)) is expected

    def test_gradients_of_members(self, tiny_classifier):
        square = SquareAttack(tiny_classifier)
        assert not takes_gradients(AutoAttack(tiny_classifier, attacks=[square]))
        apgd = AutoProjectedGradientDescent(tiny_classifier, loss_type="cross_entropy")
        assert takes_gradients(AutoAttack(tiny_classifier, attacks=[square, apgd]))

    def test_no_attack_at_all(self):
        assert attacked_classifiers(object()) == []
        assert not goes_through(object(), Identity())


def test_pixel_deflection_falls(tiny_classifier, tiny_images, tiny_labels, one_hot):
    """Athalye and Carlini broke it with BPDA and EOT (arXiv 1804.03286); so must this harness."""
    defence = PixelDeflection(deflections=40, window=3, sigma=0.005, seed=0)
    attack = adaptive_attacks(tiny_classifier, defence, EPS, eot_samples=4, bpda=False)["PGD"]
    x_adv = attack.generate(tiny_images.copy(), y=one_hot)
    assert (tiny_classifier.predict(defence(x_adv)[0]).argmax(1) == tiny_labels).mean() <= 0.25
