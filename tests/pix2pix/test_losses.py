from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pix2pix.losses import discriminator_loss, generator_adversarial_loss, gradient_penalty, pixel_loss


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_generator_adversarial_loss():
    # Undecided patches cost log 2 each; D = 3/4 at a logit of log 3.
    assert float(generator_adversarial_loss(tf.zeros((2, 3, 3, 1)))) == pytest.approx(math.log(2))
    logits = tf.constant([0.0, math.log(3), -math.log(3), 2.0])
    expected = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4) + math.log(sigmoid(2))) / 4
    assert float(generator_adversarial_loss(logits)) == pytest.approx(expected, rel=1e-6)


def test_discriminator_loss():
    zero = tf.zeros((1, 2, 2, 1))
    assert float(discriminator_loss(zero, zero)) == pytest.approx(math.log(2))
    real = tf.constant([math.log(3), 0.0])  # D = 3/4, 1/2
    fake = tf.constant([math.log(3), -math.log(4)])  # D = 3/4, 1/5
    # Half of -mean(log D(real)) - mean(log(1 - D(fake))).
    expected = 0.5 * (-(math.log(3 / 4) + math.log(1 / 2)) / 2 - (math.log(1 / 4) + math.log(4 / 5)) / 2)
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-6)
    assert float(discriminator_loss(fake, real)) != pytest.approx(expected, rel=1e-3)


def test_smoothed_labels():
    # A real patch is to be 0.9: at D = 3/4 it costs -0.9 log(3/4) - 0.1 log(1/4); a fake one is as before.
    real, fake = tf.constant([math.log(3)]), tf.constant([0.0])
    expected = 0.5 * (-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4) - math.log(1 / 2))
    assert float(discriminator_loss(real, fake, 0.9)) == pytest.approx(expected, rel=1e-6)


def test_gradient_penalty():
    # Two images of one pixel: squared norms 1 + 4 + 4 = 9 and 0; half of their mean, over four patches each.
    gradient = tf.constant([[[[1.0, 2.0, -2.0]]], [[[0.0, 0.0, 0.0]]]])
    assert float(gradient_penalty(gradient, tf.zeros((2, 2, 2, 1)))) == pytest.approx(0.5 * 4.5 / 4)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_certain_patches_cost_finite_nats(logit):
    logits = tf.fill((4,), logit)
    assert float(generator_adversarial_loss(logits)) == pytest.approx(max(-logit, 0))
    assert float(discriminator_loss(logits, tf.fill((4,), -logit))) == pytest.approx(max(-logit, 0))


def test_pixel_loss():
    purified = tf.constant([0.1, 0.5, 0.9, 0.0, 1.0, 0.3], shape=(1, 1, 2, 3))
    clean = tf.constant([0.2, 0.5, 0.4, 0.0, 0.0, 0.6], shape=(1, 1, 2, 3))
    assert float(pixel_loss(purified, clean)) == pytest.approx((0.1 + 0.5 + 1.0 + 0.3) / 6)
    assert float(pixel_loss(clean, clean)) == 0
    assert float(pixel_loss(clean, purified)) == float(pixel_loss(purified, clean))


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")]
)
def test_dtypes(dtype, expected):
    logits = tf.constant([0.5, -0.5], dtype)
    for loss in (
        generator_adversarial_loss(logits),
        discriminator_loss(logits, logits),
        pixel_loss(logits, 2 * logits),
    ):
        assert loss.dtype == expected
        assert loss.shape == ()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_averaged_in_full(dtype):
    purified = tf.ones((1, 32, 64, 3), dtype)
    assert float(pixel_loss(purified, tf.zeros((1, 32, 64, 3)))) == 1
    logits = tf.zeros((1, 64, 64, 1), dtype)
    assert float(generator_adversarial_loss(logits)) == pytest.approx(math.log(2), rel=1e-5)


def test_gradients():
    """d/dz of -log sigmoid(z) is sigmoid(z) - 1; of -log(1 - sigmoid(z)) it is sigmoid(z)."""
    z = tf.constant([-1.0, 0.0, 2.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        adversarial = generator_adversarial_loss(z)
        real, fake = discriminator_loss(z, tf.zeros(3)), discriminator_loss(tf.zeros(3), z)
    d = np.array([sigmoid(v) for v in (-1, 0, 2)])
    np.testing.assert_allclose(tape.gradient(adversarial, z), (d - 1) / 3, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(real, z), (d - 1) / 6, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(fake, z), d / 6, rtol=1e-5)
