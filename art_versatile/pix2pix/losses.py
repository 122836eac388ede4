"""Pix2pix's losses as small pure functions on tensors (paper, equations 1 to 3; arXiv 1611.07004)."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["discriminator_loss", "generator_adversarial_loss", "gradient_penalty", "pixel_loss"]


def _full(x: tf.Tensor) -> tf.Tensor:
    """Half precision, in which a mean over many would be lost, as float32; others as they are."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def _bce(logits: tf.Tensor, label: float) -> tf.Tensor:
    logits = _full(logits)
    labels = tf.fill(tf.shape(logits), tf.cast(label, logits.dtype))
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def generator_adversarial_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """
    What the generator pays for patches that the discriminator sees through: mean of -log D(x, G(x)).

    :param fake_logits: The discriminator's logits on (x, G(x)).
    :return: A scalar, in nats.
    """
    return _bce(fake_logits, 1.0)


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor, real_label: float = 1.0) -> tf.Tensor:
    """
    Binary cross-entropy over real and generated patches, halved to slow the discriminator down (Pix2pix, section 3.3).

    :param real_logits: Logits on (x, y).
    :param fake_logits: Logits on (x, G(x)).
    :param real_label: What a real patch is to be called, 1 in the paper; below it is one-sided label smoothing (arXiv
        1606.03498, section 3.4).
    :return: A scalar, in nats.
    """
    return 0.5 * (_bce(real_logits, real_label) + _bce(fake_logits, 0.0))


def gradient_penalty(gradient: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """
    R1 (arXiv 1801.04406, equation 9, without its weight): the squared gradient of the discriminator at real images.

    :param gradient: Of the sum of the logits with respect to the images, (N, H, W, 3) of pixels in [0, 1].
    :param logits: One a patch, (N, h, w, 1); a patch is a sample, so that the sum over the image is divided by them.
    :return: A scalar: the mean over images of half the squared norm a patch.
    """
    patches = tf.cast(tf.reduce_prod(tf.shape(logits)[1:]), tf.float32)
    return 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(_full(gradient)), axis=[1, 2, 3])) / patches


def pixel_loss(purified: tf.Tensor, clean: tf.Tensor) -> tf.Tensor:
    """
    L1: mean absolute difference of the pixels (equation 3).

    :param purified: (N, H, W, 3) in [0, 1].
    :param clean: The same shape.
    :return: A scalar, in units of the pixel range.
    """
    return tf.reduce_mean(tf.abs(_full(purified) - _full(clean)))
