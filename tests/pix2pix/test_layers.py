"""The packed mixture against SciPy's Gaussian filter; the rearrangements against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from art_versatile.pix2pix.layers import DepthToSpace, LowPassMix, Noise, SpaceToDepth


def images(n=2, height=32, width=32, seed=0):
    return np.random.default_rng(seed).random((n, height, width, 3)).astype(np.float32)


def blur(x, sigma):
    """Each channel of each image; an edge is a mirror; cut at 2.5 standard deviations, rounded up."""
    if sigma == 0:
        return x
    radius = int(np.ceil(2.5 * sigma))
    return gaussian_filter(x.astype(np.float64), (0, sigma, sigma, 0), mode="mirror", radius=(0, radius, radius, 0))


class TestLowPassMix:
    @pytest.mark.parametrize("factor", [2, 3, 4])
    @pytest.mark.parametrize("sigma", [0.3, 1.3, 2.0, 3.7])
    def test_each_blur_at_each_packing(self, factor, sigma):
        x = images(1, 24, 36)
        gates = tf.zeros((1, 24 // factor, 36 // factor, factor**2))
        mixed = tf.nn.depth_to_space(LowPassMix([sigma], factor)(x, gates), factor)
        np.testing.assert_allclose(mixed, blur(x, sigma), atol=1e-6)

    @pytest.mark.parametrize("sides", [(4, 36), (36, 4), (4, 4), (8, 12)])
    def test_an_image_smaller_than_the_blur(self, sides):
        """Mirrored as often as it takes: 12 pixels around one of 4. Also where its size is not known beforehand."""
        x, layer = images(1, *sides), LowPassMix([4.3], 4)
        gates = tf.zeros((1, sides[0] // 4, sides[1] // 4, 16))
        traced = tf.function(lambda x: tf.nn.depth_to_space(layer(x, gates), 4))
        unknown = tf.function(traced, input_signature=[tf.TensorSpec((None, None, None, 3))])
        for function in (traced, unknown):
            np.testing.assert_allclose(function(x), blur(x, 4.3), atol=1e-6)
        # The blur is linear: the gradient along a change is the blurred change.
        upstream, change = images(1, *sides, seed=1), images(1, *sides, seed=2)
        with tf.GradientTape() as tape:
            image = tf.constant(x)
            tape.watch(image)
            answer = unknown(image)
        along = tf.reduce_sum(tape.gradient(answer, image, upstream) * change)
        np.testing.assert_allclose(along, np.sum(upstream * blur(change, 4.3)), rtol=1e-5)

    def test_gates_are_a_softmax_for_each_pixel(self):
        sigmas, factor = (0.0, 1.0, 2.0), 2
        x = images(2, 16, 24)
        scores = np.random.default_rng(1).normal(0, 3, (2, 16, 24, len(sigmas))).astype(np.float32)
        packed = [tf.nn.space_to_depth(scores[..., k : k + 1], factor) for k in range(len(sigmas))]
        mixed = LowPassMix(sigmas, factor)(x, tf.concat(packed, -1))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        expected = sum(shares[..., k : k + 1] * blur(x, s) for k, s in enumerate(sigmas))
        np.testing.assert_allclose(tf.nn.depth_to_space(mixed, factor), expected, atol=1e-6)

    def test_large_gates_do_not_overflow(self):
        x = images(1, 16, 16)
        gates = tf.concat([tf.fill((1, 8, 8, 4), 1e4), tf.fill((1, 8, 8, 4), -1e4)], -1)
        np.testing.assert_allclose(LowPassMix([0.0, 2.0], 2)(x, gates), tf.nn.space_to_depth(x, 2), atol=1e-6)

    def test_a_constant_image_stays_constant(self):
        x = np.full((1, 24, 24, 3), 0.7, np.float32)
        mixed = LowPassMix([0.8, 3.2], 4)(x, tf.random.stateless_normal((1, 6, 6, 32), [1, 2]))
        np.testing.assert_allclose(mixed, tf.fill(mixed.shape, 0.7), atol=1e-6)

    def test_config(self):
        layer = LowPassMix([0, 1.5], 4, name="base")
        again = LowPassMix.from_config(layer.get_config())
        assert (again.sigmas, again.factor, again.name) == ((0.0, 1.5), 4, "base")
        assert layer.compute_output_shape((None, 32, None, 3), (None, 8, None, 32)) == (None, 8, None, 48)


def test_noise_config():
    layer = Noise.from_config(Noise(0.1, 5, name="z").get_config())
    assert (layer.stddev, layer.seed, layer.name) == (0.1, 5, "z")
    assert layer.compute_output_shape((None, None, 32, 3)) == (None, None, 32, 3)


def test_space_to_depth_shapes():
    layer = SpaceToDepth(4)
    assert layer.compute_output_shape((None, 32, None, 3)) == (None, 8, None, 48)
    assert layer(images(1, 32, 16)).shape == (1, 8, 4, 48)
    assert SpaceToDepth.from_config(layer.get_config()).factor == 4
    assert DepthToSpace(4).compute_output_shape((None, 8, None, 48)) == (None, 32, None, 3)


class TestDepthToSpace:
    @pytest.mark.parametrize("factor", [2, 3])
    def test_order(self, factor):
        x = np.random.default_rng(0).random((2, 3, 4, 5 * factor**2)).astype(np.float32)
        y = DepthToSpace(factor)(x).numpy()
        for row in range(factor):
            for column in range(factor):
                first = (row * factor + column) * 5
                np.testing.assert_array_equal(y[:, row::factor, column::factor], x[..., first : first + 5])
        np.testing.assert_array_equal(SpaceToDepth(factor)(y), x)

    def test_weights_in_the_order_of_pytorch_need_a_permutation(self):
        """``torch.nn.PixelShuffle`` is a reshape (C, f, f, H, W) -> (C, H, f, W, f)."""
        x = np.random.default_rng(0).random((2, 3, 4, 12)).astype(np.float32)
        torch = x.transpose(0, 3, 1, 2).reshape(2, 3, 2, 2, 3, 4).transpose(0, 1, 4, 2, 5, 3).reshape(2, 3, 6, 8)
        order = [(c * 2 + row) * 2 + column for row in range(2) for column in range(2) for c in range(3)]
        np.testing.assert_array_equal(DepthToSpace(2)(x[..., order]), torch.transpose(0, 2, 3, 1))
