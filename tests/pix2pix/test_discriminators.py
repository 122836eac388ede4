from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from art_versatile.pix2pix.discriminators import patchgan


def pair(size=64, n=2, seed=0):
    return tf.unstack(tf.constant(np.random.default_rng(seed).random((2, n, size, size, 3)), tf.float32))


def without_norm(model):
    """InstanceNorm joins every pixel to every logit; the patch is what the convolutions see."""

    def clone(layer):
        if isinstance(layer, layers.GroupNormalization):
            return layers.Identity()
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def test_parameters_of_the_published_network():
    """
    4x4 kernels; biases where there is no normalisation; two numbers a channel for each of three normalisations:

    6*64*16 + 64 = 6,208; 64*128*16 = 131,072; 128*256*16 = 524,288; 256*512*16 = 2,097,152; 512*1*16 + 1 = 8,193;
    2*(128 + 256 + 512) = 1,792. Together 2,768,705: the "2.769 M" of the published PatchGAN.
    """
    assert patchgan().count_params() == 2_768_705


@pytest.mark.parametrize(("height", "width"), [(256, 256), (64, 96)])
def test_logits(height, width):
    assert patchgan(1)([tf.zeros((1, height, width, 3))] * 2).shape == (1, height // 8 - 2, width // 8 - 2, 1)


@pytest.mark.parametrize("which", ["condition", "image"])
def test_each_logit_sees_70_by_70_pixels(which):
    """Field of one logit: 1 -> 4 -> 7 (stride 1) -> 16 -> 34 -> 70 (stride 2); the next logit's is 8 pixels on."""
    model = without_norm(patchgan(2))
    condition, image = (tf.Variable(x) for x in pair(160, 1))
    seen = []
    for row, column in ((8, 8), (8, 9), (9, 8)):
        with tf.GradientTape() as tape:
            logit = model([condition, image])[0, row, column, 0]
        gradient = tape.gradient(logit, condition if which == "condition" else image)
        touched = np.abs(gradient.numpy()[0]).sum(-1) > 0
        rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
        seen.append((rows[0], rows[-1], columns[0], columns[-1]))
        assert touched.sum() == 70 * 70
    (top, bottom, left, right), beside, below = seen
    assert (bottom - top + 1, right - left + 1) == (70, 70)
    assert beside == (top, bottom, left + 8, right + 8)
    assert below == (top + 8, bottom + 8, left, right)


def test_against_an_independent_computation():
    """The same network written out in plain operations, from the same weights."""
    model = patchgan(3, seed=4)
    condition, image = pair(64)
    rng = np.random.default_rng(1)
    weights = [w + 0.1 * rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    model.set_weights(weights)
    rest = iter(weights)
    x = tf.concat([condition, image], -1) * 2 - 1
    for level, stride in enumerate((2, 2, 2, 1, 1)):
        x = tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), next(rest), stride, "VALID")
        if level in (0, 4):
            x += next(rest)
        else:
            mean, variance = tf.nn.moments(x, (1, 2), keepdims=True)
            x = (x - mean) / tf.sqrt(variance + 1e-5) * next(rest) + next(rest)
        if level < 4:
            x = tf.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(model([condition, image]), x, atol=1e-4)


def test_an_answer_does_not_depend_on_its_batch():
    model = patchgan(4)
    condition, image = pair(n=4)
    alone = tf.concat([model([condition[i : i + 1], image[i : i + 1]], training=True) for i in range(4)], 0)
    np.testing.assert_allclose(model([condition, image], training=True), alone, atol=1e-6)


def test_initial_weights():
    model = patchgan(32)
    kernels = [w for w in model.get_weights() if w.ndim == 4]
    for kernel in kernels[1:4]:
        assert kernel.mean() == pytest.approx(0, abs=1e-3)
        assert kernel.std() == pytest.approx(0.02, rel=0.02)
    for a, b in zip(model.get_weights(), patchgan(32).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(kernels[0], patchgan(32, seed=1).get_weights()[0])


@pytest.mark.parametrize("filters", [0, 1.5, True, None])
def test_filters(filters):
    with pytest.raises(ValueError, match=f"Expected filters to be an integer of at least 1. Received {filters!r}"):
        patchgan(filters)
