"""The defence against its parts called by hand: the wavelet, Pillow's JPEG, the network, the resize."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.estimators.classification import TensorFlowV2Classifier
from PIL import Image

from art_versatile import VersatilePurifier, weights
from art_versatile.baselines import SuperResolution, wavelet_denoise
from art_versatile.baselines._edsr import EDSR, NETWORKS, bicubic_resize
from art_versatile.baselines.super_resolution_training import super_resolution_psnr
from art_versatile.images import demo_images
from art_versatile.pix2pix import build_generator


def make_network(seed=0, scale=0.03, **config):
    """Not bicubic: each weight is moved off its start."""
    network = EDSR(blocks=1, features=4, skip="bicubic", pixel_range=1.0, upsampler="pixelshuffledirect", **config)
    rng = np.random.default_rng(seed)
    network.set_weights([w + rng.normal(0, scale, w.shape) for w in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def photographs():
    """(5, 32, 32, 3) float32: smooth colours and some noise, so that the wavelet has something to remove."""
    rng = np.random.default_rng(1)
    coarse = tf.image.resize(rng.uniform(0.1, 0.9, (5, 4, 4, 3)), (32, 32), "bilinear")
    return np.clip(coarse + rng.normal(0, 0.03, coarse.shape), 0, 1).astype(np.float32)


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray((image * 255).round().astype(np.uint8)).save(stream, format="JPEG", quality=quality)
    return np.asarray(Image.open(stream)).astype(np.float32) / 255


def after(network, denoised, size=None):
    """Network and resize, without any of the defence's code."""
    large = tf.clip_by_value(network(denoised), 0, 1)
    if size is None:
        return large
    return tf.clip_by_value(tf.image.resize(large, size, "bicubic", antialias=True), 0, 1)


def vjp(function, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, tf.constant(upstream)).numpy()


class TestValues:
    @pytest.mark.parametrize(("output_size", "size"), [("input", (32, 32)), (None, None), (24, (24, 24))])
    def test_wavelet_then_network_then_resize(self, network, photographs, output_size, size):
        expected = after(network, wavelet_denoise(photographs, sigma=0.01, rescale_sigma=False), size)
        y, _ = SuperResolution(network, output_size=output_size)(photographs)
        assert y.shape == (5, *(size or (64, 64)), 3)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, expected, atol=1e-5)
        # The denoising is no formality here.
        assert np.abs(y - after(network, photographs, size)).max() > 1e-3

    @pytest.mark.parametrize("sigma", [None, 0.01, 0.05])
    def test_rescale_sigma_is_handed_on(self, network, photographs, sigma):
        old, new = (SuperResolution(network, sigma=sigma, rescale_sigma=r)(photographs)[0] for r in (False, True))
        expected = after(network, wavelet_denoise(photographs, sigma=sigma, rescale_sigma=True))
        np.testing.assert_allclose(new, expected, atol=1e-5)
        if sigma is not None:
            assert np.abs(old - new).max() > 1e-3

    def test_sigma_zero_is_super_resolution_alone(self, network, photographs):
        y, _ = SuperResolution(network, sigma=0)(photographs)
        np.testing.assert_allclose(y, after(network, photographs), atol=1e-5)

    @pytest.mark.parametrize("quality", [30, 90])
    def test_jpeg_is_pillows(self, network, photographs, quality):
        denoised = wavelet_denoise(photographs, sigma=0.01)
        stored = np.stack([jpeg(image, quality) for image in denoised])
        y, _ = SuperResolution(network, jpeg_quality=quality)(photographs)
        np.testing.assert_allclose(y, after(network, stored), atol=1e-5)
        assert np.abs(stored - denoised).max() > 0.01

    def test_bicubic_ablation(self, photographs):
        y, _ = SuperResolution("bicubic", sigma=0, output_size=None)(photographs)
        np.testing.assert_allclose(y, np.clip(bicubic_resize(photographs, 64, 64), 0, 1), atol=1e-6)

    @pytest.mark.parametrize("shape", [(33, 20), (2, 2)])
    def test_any_size(self, network, shape):
        x = np.random.default_rng(2).random((2, *shape, 3)).astype(np.float32)
        y, _ = SuperResolution(network, output_size="input")(x)
        assert y.shape == x.shape
        np.testing.assert_allclose(y, after(network, wavelet_denoise(x, sigma=0.01), shape), atol=1e-5)

    def test_range(self, photographs):
        """A network that overshoots is clipped, before the resizing and after it."""

        class Bright(keras.Model):
            def call(self, x, training=False):
                return 3.0 * tf.repeat(tf.repeat(x, 2, 1), 2, 2) - 1.0

        for output_size in ("input", None, 40):
            y, _ = SuperResolution(Bright(), output_size=output_size)(photographs)
            assert (y.min(), y.max()) == (0, 1)

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_chunks_change_nothing(self, network, photographs, batch_size):
        chunked = SuperResolution(network, batch_size=batch_size, output_size=None)
        whole = SuperResolution(network, output_size=None)
        np.testing.assert_allclose(chunked(photographs)[0], whole(photographs)[0], atol=1e-6)

    def test_network_never_sees_more_than_batch_size(self, photographs):
        seen = []

        class Spy(keras.Model):
            def call(self, x, training=False):
                tf.py_function(lambda n: seen.append(int(n)), [tf.shape(x)[0]], [])
                return tf.repeat(tf.repeat(x, 2, 1), 2, 2)

        defence = SuperResolution(Spy(), sigma=0, batch_size=2)
        defence(photographs)
        assert seen == [2, 2, 1]
        seen.clear()
        unknown = tf.function(lambda x: defence.forward(x)[0], input_signature=[tf.TensorSpec((None, 32, 32, 3))])
        unknown(photographs)
        assert seen == [2, 2, 1]

    @pytest.mark.parametrize("signature", [(5, 32, 32, 3), (None, None, None, 3)], ids=str)
    @pytest.mark.parametrize("output_size", ["input", None])
    def test_inside_tf_function(self, network, photographs, signature, output_size):
        defence = SuperResolution(network, batch_size=2, output_size=output_size)
        compiled = tf.function(lambda x: defence.forward(x)[0], input_signature=[tf.TensorSpec(signature)])
        np.testing.assert_allclose(compiled(photographs), defence(photographs)[0], atol=1e-5)


class TestGradients:
    @pytest.mark.parametrize("batch_size", [2, 8])
    @pytest.mark.parametrize(("output_size", "size"), [("input", (32, 32)), (None, None), (24, (24, 24))])
    def test_exact_is_that_of_network_and_resize_alone(self, network, photographs, batch_size, output_size, size):
        defence = SuperResolution(network, jpeg_quality=80, batch_size=batch_size, output_size=output_size)
        denoised = wavelet_denoise(photographs, sigma=0.01)
        stored = np.stack([jpeg(image, 80) for image in denoised])
        upstream = np.random.default_rng(3).normal(size=(5, *(size or (64, 64)), 3)).astype(np.float32)
        expected = vjp(lambda x: after(network, x, size), stored, upstream)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(vjp(lambda x: defence.forward(x)[0], photographs, upstream), expected, atol=1e-4)
        np.testing.assert_allclose(defence.estimate_gradient(photographs, upstream), expected, atol=1e-4)

    @pytest.mark.parametrize("output_size", ["input", None])
    def test_class_axis(self, network, photographs, output_size):
        defence = SuperResolution(network, output_size=output_size, batch_size=2)
        shape = defence(photographs)[0].shape
        upstream = np.random.default_rng(3).normal(size=(5, 3, *shape[1:])).astype(np.float32)
        got = defence.estimate_gradient(photographs, upstream)
        assert got.shape == (5, 3, 32, 32, 3)
        for k in range(3):
            one = vjp(lambda x: defence.forward(x)[0], photographs, upstream[:, k])
            np.testing.assert_allclose(got[:, k], one, atol=1e-5)

    def test_bpda(self, network, photographs):
        defence = SuperResolution(network, gradient="bpda", output_size="input", batch_size=2)
        upstream = np.random.default_rng(3).normal(size=photographs.shape).astype(np.float32)
        # Clipping to the range comes after it and is exact.
        inside = defence(photographs)[0]
        assert 0 < inside.min() < inside.max() < 1
        np.testing.assert_allclose(vjp(lambda x: defence.forward(x)[0], photographs, upstream), upstream, atol=1e-6)
        exact = SuperResolution(network, output_size="input", batch_size=2)
        np.testing.assert_array_equal(inside, exact(photographs)[0])

    def test_bpda_of_another_size_is_bicubic(self, network, photographs):
        defence = SuperResolution(network, gradient="bpda")
        upstream = np.random.default_rng(3).normal(size=(5, 64, 64, 3)).astype(np.float32)
        expected = vjp(lambda x: bicubic_resize(x, 64, 64), photographs, upstream)
        np.testing.assert_allclose(vjp(lambda x: defence.forward(x)[0], photographs, upstream), expected, atol=1e-5)

    def test_range_cancels(self, network, photographs):
        upstream = np.random.default_rng(3).normal(size=(5, 64, 64, 3)).astype(np.float32)
        unit = SuperResolution(network).estimate_gradient(photographs, upstream)
        got = SuperResolution(network, clip_values=(0, 255)).estimate_gradient(photographs * 255, upstream)
        np.testing.assert_allclose(got, unit, atol=1e-3)

    @pytest.mark.parametrize("gradient", ["exact", "bpda"])
    def test_inside_tf_function_of_unknown_batch(self, network, photographs, gradient):
        defence = SuperResolution(network, batch_size=2, gradient=gradient)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
        def inside(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = defence.forward(x)[0]
            return tape.gradient(y, x)

        expected = vjp(lambda x: defence.forward(x)[0], photographs, np.ones((5, 64, 64, 3), np.float32))
        np.testing.assert_allclose(inside(photographs), expected, atol=1e-5)


def test_the_size_that_a_classifier_knows(network, photographs, tiny_classifier):
    """Of one input size: it needs ``output_size="input"``, through which ART's gradient goes."""
    defended = TensorFlowV2Classifier(
        model=tiny_classifier.model,
        nb_classes=10,
        input_shape=(32, 32, 3),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
        preprocessing_defences=[SuperResolution(network, output_size="input")],
    )
    labels, model = np.eye(10, dtype=np.float32)[[0, 1, 2, 3, 4]], tiny_classifier.model
    denoised = wavelet_denoise(photographs, sigma=0.01)
    expected = model(after(network, denoised, (32, 32)))
    np.testing.assert_allclose(defended.predict(photographs), expected, rtol=1e-3, atol=1e-3)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    expected = vjp(lambda x: loss(labels, model(after(network, x, (32, 32)))), denoised, np.float32(1))
    got = defended.loss_gradient(photographs, labels)
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


class TestParameters:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"sigma": -0.1}, "Expected sigma to be a number from 0 to 1. Received -0.1"),
            ({"sigma": "0.01"}, "Expected sigma"),
            ({"rescale_sigma": 1}, "Expected rescale_sigma to be True or False. Received 1"),
            ({"jpeg_quality": 0}, "Expected jpeg_quality to be an integer from 1 to 100. Received 0"),
            ({"jpeg_quality": 101}, "Expected jpeg_quality to be an integer from 1 to 100. Received 101"),
            ({"output_size": "double"}, r"Expected output_size to be one of \['input'\]. Received 'double'"),
            ({"output_size": 0}, "Expected output_size to be an integer of at least 1. Received 0"),
            ({"output_size": 2.5}, "Expected output_size to be an integer"),
            ({"batch_size": 0}, "Expected batch_size to be an integer of at least 1. Received 0"),
            ({"gradient": "identity"}, r"Expected gradient to be one of \['exact', 'bpda'\]. Received 'identity'"),
        ],
        ids=str,
    )
    def test_bad_parameters(self, network, kwargs, message):
        with pytest.raises(ValueError, match=message):
            SuperResolution(network, **kwargs)

    def test_unknown_network(self):
        expected = r"Expected network to be one of \['small', 'bicubic'\], or a folder .* Received 'edsr'"
        with pytest.raises(ValueError, match=expected):
            SuperResolution("edsr")
        with pytest.raises(TypeError, match="Expected network to be a name, a folder .* Received NoneType"):
            SuperResolution(None)

    def test_network_that_does_not_double(self, photographs):
        with pytest.raises(ValueError, match=r"Expected a network that answers \(5, 64, 64, 3\) to \(5, 32, 32, 3\)"):
            SuperResolution(keras.Sequential([keras.Input((32, 32, 3)), keras.layers.ReLU()]))(photographs)

    def test_set_params(self, network, photographs):
        defence = SuperResolution("bicubic")
        defence(photographs)
        settings = {
            "network": network, "sigma": 0.05, "rescale_sigma": True, "jpeg_quality": 50, "output_size": 20,
            "clip_values": (0, 255), "channels_first": True, "batch_size": 3, "gradient": "bpda",
        }  # fmt: skip
        assert set(settings) == set(SuperResolution.params)
        defence.set_params(**settings)
        x = 255 * photographs.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(defence(x)[0], SuperResolution(**settings)(x)[0])
        assert defence.model is network

    def test_set_params_changes_nothing_when_refused(self, network, photographs):
        defence = SuperResolution(network)
        expected = defence(photographs)[0]
        for bad in ({"network": "bicubic", "batch_size": 0}, {"sigma": 0.5, "network": "nowhere"}, {"eps": 1}):
            with pytest.raises(ValueError, match="Expected"):
                defence.set_params(**bad)
            np.testing.assert_array_equal(defence(photographs)[0], expected)


class TestWeights:
    @pytest.fixture
    def folder(self, network, tmp_path):
        return weights.save(network, tmp_path / "mine", card={"note": "tiny"}, networks=NETWORKS)

    @pytest.mark.parametrize("kind", [str, lambda path: path])
    def test_round_trip(self, network, photographs, folder, kind):
        defence = SuperResolution(kind(folder))
        assert defence.card["architecture"] == "edsr"
        assert defence.card["config"] == network.get_config()
        assert defence.card["note"] == "tiny"
        np.testing.assert_allclose(defence(photographs)[0], SuperResolution(network)(photographs)[0], atol=1e-6)

    def test_a_purifier_is_no_super_resolution_network(self, tmp_path):
        generator = build_generator(widths=(16, 16), blocks=(1, 1))
        expected = r"Expected weights of an architecture in \['edsr'\]. Received those of 'compact'"
        with pytest.raises(ValueError, match=expected):
            SuperResolution(weights.save(generator, tmp_path / "purifier"))
        with pytest.raises(ValueError, match="Expected .*'edsr'.* Received 'compact'"):
            weights.save(generator, tmp_path / "other", networks=NETWORKS)
        assert not (tmp_path / "other").exists()

    def test_a_super_resolution_network_is_no_purifier(self, network, folder, tmp_path):
        expected = r"Expected weights of an architecture in \['compact', 'unet256'\]. Received those of 'edsr'"
        with pytest.raises(ValueError, match=expected):
            VersatilePurifier.from_pretrained(folder)
        with pytest.raises(ValueError, match="Expected a generator"):
            weights.save(network, tmp_path / "other")


@pytest.fixture(scope="module")
def shipped():
    return SuperResolution()


class TestShipped:
    """What a user gets without any argument."""

    def test_default_loads_the_shipped_weights(self, shipped):
        assert isinstance(shipped.model, EDSR)
        assert shipped.model.count_params() == shipped.card["parameters"]
        start = EDSR.from_config(shipped.model.get_config())
        assert np.abs(start.get_weights()[0] - shipped.model.get_weights()[0]).max() > 1e-3

    def test_beats_bicubic_on_photographs(self, shipped):
        """Ten photographs that it was not trained on, at 128x128."""
        by_network, by_bicubic = super_resolution_psnr(shipped.model, list(demo_images(10, 128)[0]))
        assert (by_network > by_bicubic).sum() >= 9
        assert (by_network - by_bicubic).mean() > 0.5

    def test_resizing_back_undoes_the_network(self, shipped):
        """What the class says of ``output_size="input"``."""
        x = demo_images(4, 128)[0]
        given = {"sigma": 0, "output_size": "input"}
        changes = [np.abs(SuperResolution(network, **given)(x)[0] - x).mean() for network in (shipped.model, "bicubic")]
        assert changes[0] < 0.003
        assert 3 * changes[0] < changes[1]
