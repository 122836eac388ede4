"""The layers of the generators: packing by space-to-depth, the noise z, the mixture of low-pass versions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

__all__ = ["NOISE_SIDE", "DepthToSpace", "LowPassMix", "Noise", "SpaceToDepth", "Strength", "mirrored"]

NOISE_SIDE = 64
"""Pixels along a side of the fixed pattern of noise, which is repeated over an image."""

_register = keras.saving.register_keras_serializable(package="art_versatile")


def mirrored(images: tf.Tensor, axis: int, before: int | tf.Tensor, after: int | tf.Tensor) -> tf.Tensor:
    """
    Images mirrored beyond two opposite edges, as often as it takes; the pixels at the edges are not repeated.

    ``tf.pad`` mirrors once: it refuses more pixels than the image has, less one.

    :param images: (N, H, W, C).
    :param axis: 1 or 2.
    :param before: Pixels that are added at the beginning of the axis.
    :param after: Pixels that are added at its end.
    """
    size = tf.shape(images)[axis]
    period = tf.maximum(2 * size - 2, 1)
    place = tf.abs(tf.range(-before, size + after)) % period  # ONNX has another remainder of negative numbers
    return tf.gather(images, tf.minimum(place, period - place) % size, axis=axis)


@_register
class SpaceToDepth(layers.Layer):
    """(N, H, W, C) -> (N, H/f, W/f, C f^2)."""

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the rearrangement."""
        return tf.nn.space_to_depth(inputs, self.factor)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the output."""
        n, h, w, c = input_shape
        f = self.factor
        return n, h and h // f, w and w // f, c and c * f * f

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "factor": self.factor}


@_register
class DepthToSpace(SpaceToDepth):
    """
    (N, H, W, C f^2) -> (N, H f, W f, C), the sub-pixel convolution's rearrangement (Shi et al., arXiv 1609.05158).

    Channels are in TensorFlow's order, ``(row * f + column) * C + c``; PyTorch's PixelShuffle has
    ``(c * f + row) * f + column``.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the rearrangement."""
        return tf.nn.depth_to_space(inputs, self.factor)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the output."""
        n, h, w, c = input_shape
        f = self.factor
        return n, h and h * f, w and w * f, c and c // (f * f)


class _SeedGenerator(keras.random.SeedGenerator):
    """Keras's; of several replicas, whose states are the same, each draws other numbers."""

    def next(self, ordered: bool = True) -> tf.Tensor:
        """The seed of the next draw."""
        seed = super().next(ordered)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, tf.cast(replica.replica_id_in_sync_group, seed.dtype))


@_register
class Noise(layers.Layer):
    """
    The noise z: Gaussian, new at each call with ``training=True``, one fixed pattern otherwise.

    A perturbation that was computed without the noise loses to a fixed pattern as it does to a random one, and the
    generator stays a deterministic function, differentiable and without need of EOT.

    :param stddev: Standard deviation, in units of the pixels.
    :param seed: Seed of the fixed pattern (64x64 pixels, repeated over the image) and of the random one.

    With the attribute ``drawn`` False, an image is left as it is with ``training=True``.
    """

    def __init__(self, stddev: float, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stddev, self.seed = float(stddev), int(seed)
        self.drawn = True
        self._random = _SeedGenerator(seed)
        self._fixed = (
            np.random.default_rng(seed).normal(0.0, self.stddev, (1, NOISE_SIDE, NOISE_SIDE, 3)).astype(np.float32)
        )

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Add the noise to (N, H, W, 3)."""
        shape = tf.shape(image)
        if training and not self.drawn:
            return image
        if training:
            return image + keras.random.normal(shape, stddev=self.stddev, dtype=image.dtype, seed=self._random)
        repeats = [1, *(tf.math.floordiv(shape[axis] + NOISE_SIDE - 1, NOISE_SIDE) for axis in (1, 2)), 1]
        return image + tf.cast(tf.tile(self._fixed, repeats)[:, : shape[1], : shape[2]], image.dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        """Shape of the output: the input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}


@_register
class Strength(layers.Layer):
    """
    From an image towards an answer, and beyond it above 1: image + strength * (answer - image).

    :param strength: How far.

    With the attribute ``trained`` False, the answer is left as it is with ``training=True``.
    """

    def __init__(self, strength: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strength, self.trained = float(strength), True

    def call(self, image: tf.Tensor, answer: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Of (N, H, W, 3), twice."""
        if training and not self.trained:
            return answer
        return self.strength * answer + (1.0 - self.strength) * tf.cast(image, answer.dtype)

    def compute_output_shape(
        self, image_shape: Sequence[int | None], answer_shape: Sequence[int | None]
    ) -> Sequence[int | None]:
        """Shape of the output: the answer's."""
        return answer_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "strength": self.strength}


def _surrounded(image: tf.Tensor, pad: int) -> tf.Tensor:
    """An image of any size, mirrored by ``pad`` pixels at every edge."""

    def once() -> tf.Tensor:
        return tf.pad(image, [[0, 0], [pad, pad], [pad, pad], [0, 0]], "REFLECT")

    def often() -> tf.Tensor:
        return mirrored(mirrored(image, 1, pad, pad), 2, pad, pad)

    sides = image.shape[1:3]
    if None in sides:
        return tf.cond(tf.reduce_min(tf.shape(image)[1:3]) > pad, once, often)
    return once() if min(sides) > pad else often()


@_register
class LowPassMix(layers.Layer):
    """
    Per-pixel mixture of Gaussian low-pass versions of an image, computed on the packed image.

    ``y = sum_k softmax(gates)_k * (g_{sigma_k} * x)``: a pixel that looks untouched can be kept as it is, one that
    carries a perturbation can be taken from a blurred version, where the perturbation is weakest. A Gaussian is cut
    at 2.5 standard deviations. On a space-to-depth image a blur is one dense convolution, which a CPU computes far
    faster than a depthwise one over three channels.

    :param sigmas: Standard deviations in pixels; 0 is the image itself.
    :param factor: Space-to-depth factor.
    :raises ValueError: If the kernels would hold more than 2^24 numbers together.
    """

    def __init__(self, sigmas: Sequence[float], factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sigmas = tuple(float(s) for s in sigmas)
        self.factor = factor
        reaches = [math.ceil(math.ceil(2.5 * s) / factor) for s in self.sigmas if s > 0]
        if sum(((2 * reach + 1) * 3 * factor**2) ** 2 for reach in reaches) > 2**24:
            raise ValueError(f"Expected sigmas whose kernels are small at factor {factor}. Received {self.sigmas}.")
        # One (reach in packed pixels, kernel) for each sigma > 0.
        self._kernels = [self._packed_kernel(s) for s in self.sigmas if s > 0]

    def _packed_kernel(self, sigma: float) -> tuple[int, np.ndarray]:
        f = self.factor
        radius = math.ceil(2.5 * sigma)
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        taps /= taps.sum()
        reach = math.ceil(radius / f)
        # rows[b, i, o]: weight of pixel i of packed neighbour b in pixel o of the packed pixel itself.
        rows = np.zeros((2 * reach + 1, f, f))
        for out in range(f):
            for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
                block, inside = divmod(out + offset, f)
                rows[block + reach, inside, out] += tap
        kernel = np.einsum("ayp,bxq,cd->abyxcpqd", rows, rows, np.eye(3))
        size, channels = 2 * reach + 1, 3 * f * f
        return reach, kernel.reshape(size, size, channels, channels).astype(np.float32)

    def call(self, image: tf.Tensor, gates: tf.Tensor, other: tf.Tensor | None = None) -> tf.Tensor:
        """
        Mix (N, H, W, 3) by gates (N, H/f, W/f, K f^2) into (N, H/f, W/f, 3 f^2).

        :param image: The image of the low-pass versions.
        :param gates: Of the K versions, in the order of ``sigmas``; of ``other``, last.
        :param other: One more image to mix in, as it is.
        """
        f = self.factor
        blurred = []
        kernels = iter(self._kernels)
        for sigma in self.sigmas:
            if sigma == 0:
                blurred.append(tf.nn.space_to_depth(image, f))
                continue
            reach, kernel = next(kernels)
            padded = tf.nn.space_to_depth(_surrounded(image, reach * f), f)
            blurred.append(tf.nn.conv2d(padded, tf.constant(kernel, image.dtype), 1, "VALID"))
        if other is not None:
            blurred.append(tf.nn.space_to_depth(other, f))
        gates = tf.split(gates, len(blurred), axis=-1)
        peak = tf.stop_gradient(functools.reduce(tf.maximum, gates))
        weights = [tf.exp(gate - peak) for gate in gates]
        total = tf.add_n(weights)
        return tf.add_n([tf.repeat(w / total, 3, axis=-1) * b for w, b in zip(weights, blurred, strict=True)])

    def compute_output_shape(
        self, image_shape: Sequence[int | None], gates_shape: Sequence[int | None], other_shape: Any = None
    ) -> Any:
        """Shape of the output."""
        return (*gates_shape[:3], 3 * self.factor**2)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "sigmas": self.sigmas, "factor": self.factor}
