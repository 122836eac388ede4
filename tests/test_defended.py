from __future__ import annotations

import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.defences.preprocessor import JpegCompression, Preprocessor
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, EnsembleClassifier

from art_versatile._checks import pixel_range
from art_versatile.attacks.compiled import CompiledTensorFlowV2Classifier
from art_versatile.attacks.compiled.objects import copied
from art_versatile.baselines import Identity, RandomResizing
from art_versatile.defended import BackwardPassIdentity, check_pixels, defend, through


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

    @pytest.mark.parametrize("build", [defend, through, lambda *args: through(*args, gradient="bpda")])
    def test_a_classifier_that_would_stay_undefended(self, tiny_classifier, build):
        """ART's ensemble takes defences and applies none; its members can be defended."""
        ensemble = EnsembleClassifier([tiny_classifier] * 2, clip_values=(0.0, 1.0), channels_first=False)
        with pytest.raises(TypeError, match=r"Expected a single classifier: .* Received an EnsembleClassifier"):
            build(ensemble, Dimming())
        with pytest.raises(TypeError, match=r"Expected classifier to be an ART classifier\. Received SimpleNamespace"):
            build(types.SimpleNamespace(clip_values=(0.0, 1.0)), Dimming())

    def test_a_defence_that_is_not_applied(self, tiny_classifier):
        """ART would pass it by, and the attack be one on the undefended classifier."""
        defence = Identity(apply_predict=False)
        with pytest.raises(ValueError, match=r"Expected a defence with apply_predict=True\. Received Identity without"):
            defend(tiny_classifier, defence)

    def test_pixel_range(self, tiny_classifier):
        classifier = copied(tiny_classifier)
        for clip_values, expected in (((0, 1), (0, 1)), ((np.zeros(3), np.full(3, 255)), (0.0, 255.0))):
            classifier.set_params(clip_values=clip_values)
            assert pixel_range(classifier) == expected
        classifier.set_params(clip_values=(np.zeros(3), np.arange(1, 4)))
        with pytest.raises(ValueError, match="one range for all channels"):
            pixel_range(classifier)
        with pytest.raises(ValueError, match="Expected an ART classifier with clip_values"):
            pixel_range(object())
