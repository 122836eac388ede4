"""The defence against its parts called by hand: the wavelet, Pillow's JPEG, the network, the resize."""

from __future__ import annotations

import io
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import TensorFlowV2Classifier
from PIL import Image

from art_versatile import VersatilePurifier, weights
from art_versatile.baselines import SuperResolution, wavelet_denoise
from art_versatile.baselines._edsr import EDSR, NETWORKS, bicubic_resize, build_network
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
        expected = after(network, wavelet_denoise(photographs, sigma=sigma, rescale_sigma=True), (32, 32))
        np.testing.assert_allclose(new, expected, atol=1e-5)
        if sigma is not None:
            assert np.abs(old - new).max() > 1e-3

    def test_sigma_zero_is_super_resolution_alone(self, network, photographs):
        y, _ = SuperResolution(network, sigma=0)(photographs)
        np.testing.assert_allclose(y, after(network, photographs, (32, 32)), atol=1e-5)

    @pytest.mark.parametrize("quality", [30, 90])
    def test_jpeg_is_pillows(self, network, photographs, quality):
        denoised = wavelet_denoise(photographs, sigma=0.01)
        stored = np.stack([jpeg(image, quality) for image in denoised])
        y, _ = SuperResolution(network, jpeg_quality=quality)(photographs)
        np.testing.assert_allclose(y, after(network, stored, (32, 32)), atol=1e-5)
        assert np.abs(stored - denoised).max() > 0.01

    def test_bicubic_ablation(self, photographs):
        y, _ = SuperResolution("bicubic", sigma=0, output_size=None)(photographs)
        np.testing.assert_allclose(y, np.clip(bicubic_resize(photographs, 64, 64), 0, 1), atol=1e-6)

    @pytest.mark.parametrize("shape", [(33, 20), (5, 48), (2, 2)])
    def test_any_size(self, network, shape):
        x = np.random.default_rng(2).random((2, *shape, 3)).astype(np.float32)
        y, _ = SuperResolution(network)(x)
        assert y.shape == x.shape
        np.testing.assert_allclose(y, after(network, wavelet_denoise(x, sigma=0.01), shape), atol=1e-5)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_dtype_is_kept(self, network, photographs, dtype):
        defence = SuperResolution(network, sigma=0)
        y, _ = defence(photographs.astype(dtype))
        assert y.dtype == dtype
        np.testing.assert_allclose(y, defence(photographs)[0], atol=5e-3 if dtype == np.float16 else 1e-6)

    def test_range(self, photographs):
        """A network that overshoots is clipped, before the resizing and after it."""

        class Bright(keras.Model):
            def call(self, x, training=False):
                return 3.0 * tf.repeat(tf.repeat(x, 2, 1), 2, 2) - 1.0

        for output_size in ("input", None, 40):
            y, _ = SuperResolution(Bright(), output_size=output_size)(photographs)
            assert (y.min(), y.max()) == (0, 1)

    def test_channels_first_is_the_same_transposed(self, network, photographs):
        first = SuperResolution(network, channels_first=True, output_size=None)
        last = SuperResolution(network, output_size=None)
        y, _ = first(photographs.transpose(0, 3, 1, 2))
        assert y.shape == (5, 3, 64, 64)
        np.testing.assert_allclose(y, last(photographs)[0].transpose(0, 3, 1, 2), atol=1e-6)

    @pytest.mark.parametrize("clip", [(0.0, 255.0), (-1.0, 1.0)])
    def test_other_ranges_are_the_same_rescaled(self, network, photographs, clip):
        low, high = clip
        y, _ = SuperResolution(network, clip_values=clip)(photographs * (high - low) + low)
        np.testing.assert_allclose((y - low) / (high - low), SuperResolution(network)(photographs)[0], atol=1e-4)
        assert low <= y.min() < y.max() <= high

    def test_labels_pass_through_untouched(self, network, photographs):
        labels = np.array([{"any": "object"}] * 5, dtype=object)
        assert SuperResolution(network)(photographs, labels)[1] is labels

    @pytest.mark.parametrize("batch_size", [1, 2, 5])
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

    @pytest.mark.parametrize("signature", [(5, 32, 32, 3), (None, 32, 32, 3), (None, None, None, 3)], ids=str)
    @pytest.mark.parametrize("output_size", ["input", None, 24])
    def test_inside_tf_function(self, network, photographs, signature, output_size):
        defence = SuperResolution(network, batch_size=2, output_size=output_size)
        compiled = tf.function(lambda x: defence.forward(x)[0], input_signature=[tf.TensorSpec(signature)])
        np.testing.assert_allclose(compiled(photographs), defence(photographs)[0], atol=1e-5)


class TestGradients:
    @pytest.mark.parametrize("batch_size", [2, 8])
    @pytest.mark.parametrize(("output_size", "size"), [("input", (32, 32)), (None, None), (24, (24, 24))])
    def test_bpda_is_that_of_network_and_resize_alone(self, network, photographs, batch_size, output_size, size):
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

    def test_identity(self, network, photographs):
        defence = SuperResolution(network, gradient="identity", batch_size=2)
        upstream = np.random.default_rng(3).normal(size=photographs.shape).astype(np.float32)
        # Clipping to the range comes after it and is exact.
        inside = defence(photographs)[0]
        assert 0 < inside.min() < inside.max() < 1
        np.testing.assert_allclose(vjp(lambda x: defence.forward(x)[0], photographs, upstream), upstream, atol=1e-6)
        np.testing.assert_array_equal(inside, SuperResolution(network, batch_size=2)(photographs)[0])

    def test_identity_of_another_size_is_bicubic(self, network, photographs):
        defence = SuperResolution(network, gradient="identity", output_size=None)
        upstream = np.random.default_rng(3).normal(size=(5, 64, 64, 3)).astype(np.float32)
        expected = vjp(lambda x: bicubic_resize(x, 64, 64), photographs, upstream)
        np.testing.assert_allclose(vjp(lambda x: defence.forward(x)[0], photographs, upstream), expected, atol=1e-5)

    @pytest.mark.parametrize("clip", [(0.0, 255.0), (-1.0, 1.0)])
    def test_range_cancels(self, network, photographs, clip):
        low, high = clip
        upstream = np.random.default_rng(3).normal(size=photographs.shape).astype(np.float32)
        unit = SuperResolution(network).estimate_gradient(photographs, upstream)
        scaled = SuperResolution(network, clip_values=clip)
        got = scaled.estimate_gradient(photographs * (high - low) + low, upstream)
        np.testing.assert_allclose(got, unit, atol=1e-3)

    @pytest.mark.parametrize("gradient", ["bpda", "identity"])
    def test_inside_tf_function_of_unknown_batch(self, network, photographs, gradient):
        defence = SuperResolution(network, batch_size=2, gradient=gradient)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
        def inside(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = defence.forward(x)[0]
            return tape.gradient(y, x)

        expected = vjp(lambda x: defence.forward(x)[0], photographs, np.ones_like(photographs))
        np.testing.assert_allclose(inside(photographs), expected, atol=1e-5)


class TestInArt:
    @pytest.fixture
    def labels(self):
        return np.eye(10, dtype=np.float32)[[0, 1, 2, 3, 4]]

    def defended(self, classifier, defence, **kwargs):
        return TensorFlowV2Classifier(
            model=classifier.model,
            nb_classes=10,
            input_shape=(32, 32, 3),
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
            preprocessing_defences=[defence],
            **kwargs,
        )

    def test_predictions_and_gradient(self, network, photographs, tiny_classifier, labels):
        defended = self.defended(tiny_classifier, SuperResolution(network))
        denoised = wavelet_denoise(photographs, sigma=0.01)
        model = tiny_classifier.model
        np.testing.assert_allclose(
            defended.predict(photographs), model(after(network, denoised, (32, 32))), rtol=1e-3, atol=1e-3
        )
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        expected = vjp(lambda x: loss(labels, model(after(network, x, (32, 32)))), denoised, np.float32(1))
        got = defended.loss_gradient(photographs, labels)
        np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())

    def test_the_large_image_goes_to_a_classifier_that_takes_it(self, network, photographs, labels):
        image = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(8, 3, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1))(image)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(image, keras.layers.Dense(10, kernel_initializer=keras.initializers.HeNormal(seed=2))(x))
        large = TensorFlowV2Classifier(
            model=model,
            nb_classes=10,
            input_shape=(32, 32, 3),
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
            preprocessing_defences=[SuperResolution(network, output_size=None)],
        )
        expected = model(after(network, wavelet_denoise(photographs, sigma=0.01)))
        np.testing.assert_allclose(large.predict(photographs), expected, rtol=1e-4, atol=1e-5)
        assert large.loss_gradient(photographs, labels).shape == photographs.shape

    def test_pgd_runs_through(self, network, tiny_classifier, tiny_images, tiny_labels):
        defended = self.defended(tiny_classifier, SuperResolution(network))
        attack = ProjectedGradientDescent(defended, eps=0.1, eps_step=0.03, max_iter=5, batch_size=8, verbose=False)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        labels = np.eye(10, dtype=np.float32)[tiny_labels]
        x_adv = attack.generate(tiny_images, y=labels)
        assert np.abs(x_adv - tiny_images).max() <= 0.1 + 1e-6
        assert loss(labels, defended.predict(x_adv)) > loss(labels, defended.predict(tiny_images)) + 0.5

    def test_flags(self, network):
        defence = SuperResolution(network)
        assert (defence.is_fitted, defence.apply_fit, defence.apply_predict) == (True, False, True)


class TestParameters:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"sigma": -0.1}, "Expected sigma to be a number from 0 to 1. Received -0.1"),
            ({"sigma": "0.01"}, "Expected sigma"),
            ({"rescale_sigma": 1}, "Expected rescale_sigma to be True or False. Received 1"),
            ({"jpeg_quality": 0}, "Expected jpeg_quality to be an integer of at least 1. Received 0"),
            ({"jpeg_quality": 101}, "Expected jpeg_quality from 1 to 100, or None. Received 101"),
            ({"output_size": "double"}, r"Expected output_size to be one of \['input'\]. Received 'double'"),
            ({"output_size": 0}, "Expected output_size to be an integer of at least 1. Received 0"),
            ({"output_size": 2.5}, "Expected output_size to be an integer"),
            ({"clip_values": (1, 0)}, "Expected clip_values"),
            ({"channels_first": "no"}, "Expected channels_first to be True or False"),
            ({"batch_size": 0}, "Expected batch_size to be an integer of at least 1. Received 0"),
            ({"gradient": "exact"}, r"Expected gradient to be one of \['bpda', 'identity'\]. Received 'exact'"),
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
            "clip_values": (0, 255), "channels_first": True, "batch_size": 3, "gradient": "identity",
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

    def test_repr_names_every_parameter(self, network):
        for name in SuperResolution.params:
            assert f"{name}=" in repr(SuperResolution(network))
        assert "network='bicubic'" in repr(SuperResolution("bicubic"))

    def test_pickle(self, network, photographs):
        defence = SuperResolution(network, batch_size=2)
        expected = defence(photographs)[0]
        again = pickle.loads(pickle.dumps(defence))
        np.testing.assert_array_equal(again(photographs)[0], expected)

    @pytest.mark.parametrize(
        ("spoil", "error"), [(lambda x: x[0], ValueError), (lambda x: x * 255, ValueError), (np.uint8, TypeError)]
    )
    def test_bad_images(self, network, photographs, spoil, error):
        with pytest.raises(error, match="Expected x"):
            SuperResolution(network)(spoil(photographs))


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

    def test_corrupted(self, folder):
        (file,) = folder.glob("*.safetensors")
        block = bytearray(file.read_bytes())
        block[-5] ^= 1
        file.write_bytes(block)
        with pytest.raises(ValueError, match=r"Expected .* with SHA-256 .*: the file is corrupted"):
            SuperResolution(folder)

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

    def test_shipped_names_are_kept_apart(self):
        assert "super_resolution_small" not in weights.pretrained_names()
        assert weights.pretrained_names(NETWORKS) == ["super_resolution_small"]
        with pytest.raises(FileNotFoundError, match=r"Expected one of \['compact'.*Received 'super_resolution_small'"):
            VersatilePurifier.from_pretrained("super_resolution_small")


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

    def test_card(self, shipped):
        assert {"data", "images", "loss", "steps", "patch", "low_resolution"} <= set(shipped.card["training"])
        figures = shipped.card["evaluation"]
        assert {"data", "n", "metric", "psnr", "bicubic_psnr", "gain"} <= set(figures)
        assert figures["gain"] >= 0.5
        assert figures["gain"] == pytest.approx(figures["psnr"] - figures["bicubic_psnr"], abs=2e-3)

    def test_beats_bicubic_on_photographs(self, shipped):
        """Ten photographs that it was not trained on, at 128x128."""
        by_network, by_bicubic = super_resolution_psnr(shipped.model, list(demo_images(10, 128)[0]))
        assert (by_network > by_bicubic).sum() >= 9
        assert (by_network - by_bicubic).mean() > 0.5

    def test_resizing_back_undoes_the_network(self, shipped):
        """What the class says of its default."""
        x = demo_images(4, 128)[0]
        changes = [np.abs(SuperResolution(network, sigma=0)(x)[0] - x).mean() for network in (shipped.model, "bicubic")]
        assert changes[0] < 0.003
        assert 3 * changes[0] < changes[1]

    def test_small_is_the_preset(self, shipped):
        small = build_network("small").get_config()
        assert {**shipped.model.get_config(), "seed": 0} == {**small, "seed": 0}

    def test_card_is_json_of_the_folder(self, shipped):
        card = weights._PRETRAINED / "super_resolution_small" / "card.json"
        assert json.loads(card.read_text()) == shipped.card
