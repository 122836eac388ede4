"""
Two fixed operations that need no training: a Gaussian blur, and a fixed pattern of Gaussian noise.

They cost nothing and deflate a static table: what a purifier adds is its distance to the best of them and of JPEG.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from art_versatile._checks import check_integer, check_number
from art_versatile._defence import ImageDefence

__all__ = ["GaussianBlur", "GaussianNoise"]


class GaussianBlur(ImageDefence):
    """
    Blur with a Gaussian, cut at four standard deviations, mirrored at the edges. Differentiable and deterministic.

    :param sigma: Standard deviation in pixels.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param apply_fit: Apply it when the classifier is fitted.
    :param apply_predict: Apply it when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is not as expected, or an image is smaller than the kernel's reach.
    """

    params = ["sigma", "clip_values", "channels_first"]  # noqa: RUF012

    def __init__(
        self,
        sigma: float = 1.5,
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.sigma = sigma
        self.clip_values = clip_values
        self.channels_first = channels_first
        self._check_params()

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        reach = math.floor(4 * self.sigma + 0.5)
        height, width = images.shape[1:3]
        if min(height or math.inf, width or math.inf) <= reach:
            raise ValueError(f"Expected images of more than {reach} pixels a side. Received {height}x{width}.")
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        taps = (taps / taps.sum()).astype(np.float32)
        images = tf.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "REFLECT")
        for shape in ((-1, 1), (1, -1)):
            kernel = np.tile(taps.reshape(*shape, 1, 1), (1, 1, 3, 1))
            images = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "VALID")
        return tf.clip_by_value(images, *self.clip_values)  # rounding passes the range by an ulp

    def _check_params(self) -> None:
        super()._check_params()
        self.sigma = check_number("sigma", self.sigma, 0.1, 100)


class GaussianNoise(ImageDefence):
    """
    Add one fixed pattern of Gaussian noise: 64x64 pixels, repeated. Differentiable and deterministic.

    A perturbation that was computed without it loses to a fixed pattern as it does to a random one.

    :param stddev: Standard deviation, as a share of the pixel range.
    :param seed: Of the pattern.
    :param clip_values: Minimum and maximum of the pixels; the sum is clipped to them.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param apply_fit: Apply it when the classifier is fitted.
    :param apply_predict: Apply it when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is not as expected.
    """

    params = ["stddev", "seed", "clip_values", "channels_first"]  # noqa: RUF012

    def __init__(
        self,
        stddev: float = 0.02,
        *,
        seed: int = 0,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.stddev, self.seed = stddev, seed
        self.clip_values = clip_values
        self.channels_first = channels_first
        self._check_params()

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        low, high = self.clip_values
        rng = np.random.default_rng(self.seed)
        tile = rng.normal(0.0, self.stddev * (high - low), (1, 64, 64, 3)).astype(np.float32)
        shape = tf.shape(images)
        repeats = [1, (shape[1] + 63) // 64, (shape[2] + 63) // 64, 1]
        noise = tf.tile(tile, repeats)[:, : shape[1], : shape[2]]
        return tf.clip_by_value(images + noise, low, high)

    def _check_params(self) -> None:
        super()._check_params()
        self.stddev = check_number("stddev", self.stddev, 0, 1)
        self.seed = check_integer("seed", self.seed, 0)
