"""EDSR against the paper's numbers and a forward pass by hand; bicubic interpolation against Pillow."""

from __future__ import annotations

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from art_versatile.baselines._edsr import EDSR, Bicubic, bicubic_resize, build_network

SMALL = {"blocks": 2, "features": 4}


def images(n=2, height=9, width=7, seed=0):
    return np.random.default_rng(seed).random((n, height, width, 3)).astype(np.float32)


def moved(network, scale=0.1, seed=0):
    """Every weight off its start, biases and the last layer too."""
    rng = np.random.default_rng(seed)
    network.set_weights([w + scale * rng.standard_normal(w.shape) for w in network.get_weights()])
    return network


class TestBicubic:
    @pytest.mark.parametrize("size", [(18, 14), (9, 7), (5, 4), (13, 20)], ids=str)
    def test_against_pillow(self, size):
        """Pillow's filter on 32-bit floats: Keys' kernel with a = -0.5, widened where it shrinks, cut off at edges."""
        x = images()
        pillow = [
            [np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BICUBIC)) for channel in planes]
            for planes in x.transpose(0, 3, 1, 2)
        ]
        np.testing.assert_allclose(bicubic_resize(x, *size), np.transpose(pillow, (0, 2, 3, 1)), atol=1e-5)

    def test_the_layer_doubles(self):
        x = images()
        np.testing.assert_allclose(Bicubic()(x), bicubic_resize(x, 18, 14), atol=1e-6)

    def test_one_row_by_hand(self):
        """Half-way between the pixels' quarters: Keys' weights at distances 1.25, 0.25, 0.75, 1.75."""
        t = np.array([1.25, 0.25, 0.75, 1.75])
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weights = np.where(t < 1, near, far)
        assert weights.sum() == pytest.approx(1)
        row = np.array([0.1, 0.9, 0.3, 0.6, 0.2, 0.7], np.float32)
        large = Bicubic()(np.tile(row[None, None, :, None], (1, 6, 1, 3)))
        # Pixel 5 of the large row lies at 5.5 / 2 - 0.5 = 2.25, between pixels 2 and 3.
        assert float(large[0, 6, 5, 0]) == pytest.approx(float(weights @ row[1:5]), abs=1e-6)


class TestEDSR:
    def test_parameters_of_the_paper(self):
        """
        3x3 kernels and biases. Head 3 -> 64: 1,792. 16 blocks of two 64 -> 64, and one after them: 33 x 36,928.
        64 -> 256 before the shuffle: 147,712. Tail 64 -> 3: 1,731.
        """
        expected = 1_792 + 33 * 36_928 + 147_712 + 1_731
        assert expected == 1_369_859
        assert build_network("edsr_baseline").count_params() == expected

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"residual_scale": 0.1, "pixel_range": 1.0},
            {"upsampler": "pixelshuffledirect"},
            {"skip": "bicubic", "upsampler": "pixelshuffledirect", "pixel_range": 1.0},
            {"skip": "bicubic"},
        ],
        ids=str,
    )
    def test_forward_by_hand(self, config):
        network = moved(EDSR(**SMALL, **config))
        x, scale = images(), config.get("pixel_range", 255.0)
        weights = iter(network.get_weights())

        def conv(t):
            return tf.nn.conv2d(t, next(weights), 1, "SAME") + next(weights)

        mean = np.array([0.4488, 0.4371, 0.4040], np.float32)
        t = head = conv((x - mean) * scale)
        for _ in range(2):
            t = t + config.get("residual_scale", 1.0) * conv(tf.nn.relu(conv(t)))
        t = head + conv(t)
        if config.get("upsampler") == "pixelshuffledirect":
            t = tf.nn.depth_to_space(conv(t), 2)
        else:
            t = conv(tf.nn.depth_to_space(conv(t), 2))
        base = tf.image.resize(x, (18, 14), "bicubic") if config.get("skip") == "bicubic" else mean
        assert next(weights, None) is None
        np.testing.assert_allclose(network(x), t / scale + base, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect"])
    def test_untrained_with_the_skip_is_bicubic(self, upsampler):
        x = images(height=16, width=12)
        network = build_network(upsampler=upsampler)
        np.testing.assert_allclose(network(x), bicubic_resize(x, 32, 24), atol=1e-6)

    def test_seed_and_config(self):
        network = EDSR(**SMALL, seed=3)
        again, other = EDSR.from_config(network.get_config()), EDSR(**SMALL, seed=4)
        assert again.get_config() == network.get_config()
        for a, b in zip(network.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(network.get_weights()[0], other.get_weights()[0])
        # No two layers start alike.
        kernels = [w for w in network.get_weights() if w.shape == (3, 3, 4, 4)]
        assert len(kernels) == 5
        assert len({k.flat[0] / k.std() for k in kernels}) == 5

    def test_pickle_and_keras_file(self, tmp_path):
        network, x = moved(EDSR(**SMALL, skip="bicubic")), images()
        network.save(tmp_path / "network.keras")
        for again in (pickle.loads(pickle.dumps(network)), keras.models.load_model(tmp_path / "network.keras")):
            assert type(again) is EDSR
            assert again.get_config() == network.get_config()
            np.testing.assert_array_equal(again(x), network(x))

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"blocks": 0}, "Expected blocks to be an integer from 1 to 64. Received 0"),
            ({"features": 2.0}, "Expected features to be an integer from 1 to 1024. Received 2.0"),
            ({"residual_scale": 0}, "Expected residual_scale to be a positive finite number. Received 0"),
            ({"pixel_range": float("nan")}, "Expected pixel_range to be a positive finite number. Received nan"),
            ({"upsampler": "bilinear"}, r"Expected upsampler to be one of \['pixelshuffle', .* Received 'bilinear'"),
            ({"skip": None}, r"Expected skip to be one of \['none', 'bicubic'\]. Received None"),
        ],
        ids=str,
    )
    def test_bad_parameters(self, config, message):
        with pytest.raises(ValueError, match=message):
            EDSR(**config)

    def test_unknown_preset(self):
        with pytest.raises(ValueError, match=r"Expected a network in \['edsr_baseline', 'small'\]. Received 'edsr'"):
            build_network("edsr")
