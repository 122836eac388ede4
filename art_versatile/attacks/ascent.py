"""Projected gradient ascent inside a graph: FGSM, BIM, PGD and MI-FGSM of any objective, where an attack is part of a
training step. What is measured is measured with ART's own attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["NORMS", "ascend", "project", "random_start"]

NORMS = ("inf", "2")

_AXES = (1, 2, 3)
_TINY = 1e-12


def _length(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(x), axis=_AXES, keepdims=True) + _TINY)


def _wide(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.cast(values, tf.float32), (-1, 1, 1, 1))


def project(moved: tf.Tensor, clean: tf.Tensor, eps: tf.Tensor, norm: str = "inf") -> tf.Tensor:
    """
    The nearest image in the ball, then in [0, 1].

    :param moved: (N, H, W, C).
    :param clean: The centres of the balls, of the same shape, in [0, 1].
    :param eps: Radii, (N,).
    :param norm: "inf" or "2".
    """
    change, radius = moved - clean, _wide(eps)
    if norm == "inf":
        change = tf.clip_by_value(change, -radius, radius)
    else:
        change *= tf.minimum(1.0, radius / _length(change))
    return tf.clip_by_value(clean + change, 0.0, 1.0)


def random_start(clean: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor, norm: str = "inf") -> tf.Tensor:
    """
    Uniform in the ball, then in [0, 1].

    :param clean: (N, H, W, C) in [0, 1].
    :param eps: Radii, (N,).
    :param seed: (2,), stateless.
    :param norm: "inf" or "2".
    """
    if norm == "inf":
        return tf.clip_by_value(
            clean + _wide(eps) * tf.random.stateless_uniform(tf.shape(clean), seed, -1.0, 1.0), 0, 1
        )
    direction = tf.random.stateless_normal(tf.shape(clean), seed)
    share = tf.random.stateless_uniform(tf.shape(clean)[:1], seed)
    dimensions = tf.cast(tf.reduce_prod(tf.shape(clean)[1:]), tf.float32)
    length = _wide(eps * share ** (1.0 / dimensions))
    return tf.clip_by_value(clean + length * direction / _length(direction), 0.0, 1.0)


def ascend(
    objective: Callable[[tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    clean: tf.Tensor,
    eps: tf.Tensor,
    eps_step: tf.Tensor,
    steps: Any,
    *,
    norm: str = "inf",
    decay: Any = 0.0,
) -> tf.Tensor:
    """
    Climb.

    :param objective: Images (N, H, W, C) -> the sum of what is to grow, a scalar.
    :param start: Where it begins, inside the ball.
    :param clean: The centres of the balls, in [0, 1].
    :param eps: Radii, (N,), pixels in [0, 1].
    :param eps_step: Length of a step, (N,).
    :param steps: How many; a tensor makes a loop in the graph.
    :param norm: "inf" (signs of the gradient) or "2" (its direction).
    :param decay: Of the momentum (MI-FGSM, arXiv 1710.06081); 0 takes each gradient as it is.
    :return: Adversarial images in [0, 1].
    """
    length, image, momentum = _wide(eps_step), start, tf.zeros_like(clean)
    for _ in tf.range(steps) if tf.is_tensor(steps) else range(steps):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            value = objective(image)
        gradient = tape.gradient(value, image)
        size = tf.reduce_mean(tf.abs(gradient), axis=_AXES, keepdims=True) + _TINY
        momentum = decay * momentum + gradient / size
        direction = tf.sign(momentum) if norm == "inf" else momentum / _length(momentum)
        image = tf.ensure_shape(project(image + length * direction, clean, eps, norm), clean.shape)
    return tf.stop_gradient(image)
