"""EDSR (Lim et al., arXiv 1707.02921): a network that doubles height and width; and bicubic interpolation, its measure.

Pixels are float32 in [0, 1], (N, H, W, 3). A network's answer may leave [0, 1] by a little, as bicubic's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from art_versatile._checks import check_choice, check_integer, check_positive
from art_versatile.pix2pix.layers import DepthToSpace

__all__ = ["EDSR", "NETWORKS", "PRESETS", "RGB_MEAN", "Bicubic", "bicubic_resize", "build_network"]

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K, which EDSR subtracts."""

_register = keras.saving.register_keras_serializable(package="art_versatile")


def bicubic_resize(images: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
    """
    Bicubic interpolation with Keys' kernel (a = -0.5), widened by the factor where it shrinks (antialiasing).

    MATLAB's ``imresize``, by which the super-resolution literature makes its low resolution, but for the edges: there
    the kernel is cut off and normalised anew, where MATLAB mirrors the image. It may overshoot [0, 1].

    :param images: (N, H, W, C) float32.
    :param height: The new one, an integer or a scalar tensor.
    :param width: The same.
    :return: (N, height, width, C) float32.
    """
    return tf.image.resize(images, tf.stack([height, width]), "bicubic", antialias=True)


@_register
class Bicubic(layers.Layer):
    """(N, H, W, C) -> (N, 2H, 2W, C) by :func:`bicubic_resize`."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Double height and width."""
        # Antialiasing changes nothing where an image grows, and TensorFlow takes seven times as long for it.
        large = tf.image.resize(inputs, 2 * tf.shape(inputs)[1:3], "bicubic")
        return tf.ensure_shape(large, self.compute_output_shape(inputs.shape))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the output."""
        n, h, w, c = input_shape
        return n, h and 2 * h, w and 2 * w, c


@_register
class EDSR(keras.Model):
    """
    Enhanced deep super-resolution network, x2: residual blocks without normalisation, then pixel shuffle.

    The defaults are the paper's EDSR-baseline (16 blocks, 64 features; 1,369,859 parameters): head convolution, blocks
    of convolution-ReLU-convolution, one more convolution and the skip over all of them, a convolution to four times the
    features and pixel shuffle, and the last convolution at twice the size. All kernels are 3x3.

    :param blocks: Residual blocks, 64 at most.
    :param features: Channels, 1,024 at most; multiples of 16 suit a CPU's vector units.
    :param residual_scale: What a block's branch is multiplied by: 1 in the baseline, 0.1 in the large EDSR.
    :param upsampler: "pixelshuffle", the paper's; "pixelshuffledirect" makes the 12 channels of the 2x2 output pixels
        with one convolution at the small size, which costs a fraction.
    :param skip: "none", the paper's; "bicubic" adds the interpolated image to the answer, whose last convolution then
        starts from zero: the untrained network is bicubic interpolation.
    :param pixel_range: What pixels in [0, 1], less the mean colour, are multiplied by inside: 255 in the paper's code.
    :param seed: Seed of the initial weights (He, truncated normal, scaled down in the branches).
    """

    architecture = "edsr"

    def __init__(
        self,
        *,
        blocks: int = 16,
        features: int = 64,
        residual_scale: float = 1.0,
        upsampler: str = "pixelshuffle",
        skip: str = "none",
        pixel_range: float = 255.0,
        seed: int = 0,
        name: str = "edsr",
    ) -> None:
        blocks, features = check_integer("blocks", blocks, most=64), check_integer("features", features, most=1024)
        residual_scale = check_positive("residual_scale", residual_scale)
        pixel_range = check_positive("pixel_range", pixel_range)
        seed = check_integer("seed", seed, 0)
        check_choice("upsampler", upsampler, ("pixelshuffle", "pixelshuffledirect"))
        check_choice("skip", skip, ("none", "bicubic"))
        rng = np.random.default_rng(seed)

        def conv(x: Any, channels: int, gain: float = 1.0, activation: str | None = None, **kwargs: Any) -> Any:
            start = int(rng.integers(2**31))
            init = keras.initializers.VarianceScaling(gain, "fan_in", "truncated_normal", start) if gain else "zeros"
            return layers.Conv2D(channels, 3, 1, "same", activation=activation, kernel_initializer=init, **kwargs)(x)

        image = keras.Input((None, None, 3), name="image")
        offset = [-pixel_range * mean for mean in RGB_MEAN]
        x = head = conv(layers.Rescaling(pixel_range, offset, name="less_mean")(image), features, name="head")
        for _ in range(blocks):
            # The sum of the branches should not drown what it is added to.
            branch = conv(conv(x, features, gain=2.0, activation="relu"), features, gain=1.0 / blocks)
            if residual_scale != 1:
                branch = layers.Rescaling(residual_scale)(branch)
            x = layers.Add()([x, branch])
        x = layers.Add(name="features")([head, conv(x, features)])
        gain = 0.0 if skip == "bicubic" else 1.0
        if upsampler == "pixelshuffle":
            x = conv(DepthToSpace(2, name="shuffle")(conv(x, 4 * features)), 3, gain, name="tail")
        else:
            x = DepthToSpace(2, name="shuffle")(conv(x, 12, gain, name="tail"))
        if skip == "bicubic":
            x = layers.Rescaling(1.0 / pixel_range)(x)
            x = layers.Add(name="large")([Bicubic(name="bicubic")(image), x])
        else:
            x = layers.Rescaling(1.0 / pixel_range, list(RGB_MEAN), name="large")(x)
        super().__init__(image, x, name=name)
        self._arguments = {
            "blocks": blocks,
            "features": features,
            "residual_scale": residual_scale,
            "upsampler": upsampler,
            "skip": skip,
            "pixel_range": pixel_range,
            "seed": seed,
        }

    @classmethod
    def least_parameters(cls, config: dict[str, Any]) -> int:
        """
        Parameters that it has at least, from its configuration alone: the kernels of its blocks and of its head.

        :param config: Of :meth:`get_config`.
        """
        return 9 * config["features"] * (3 + (2 * config["blocks"] + 1) * config["features"])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, JSON-able."""
        return dict(self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> EDSR:
        """Build from :meth:`get_config`."""
        return cls(**config)


NETWORKS = {"edsr": EDSR}
"""Architectures by the name that a weights card gives them."""

PRESETS: dict[str, dict[str, Any]] = {
    "edsr_baseline": {},
    "small": {"blocks": 6, "features": 32, "upsampler": "pixelshuffledirect", "skip": "bicubic", "pixel_range": 1.0},
}
"""Arguments of :class:`EDSR`: the paper's baseline, and the one whose weights ship."""


def build_network(preset: str = "small", **config: Any) -> EDSR:
    """
    The untrained network of that name.

    :param preset: "small" or "edsr_baseline".
    :param config: Arguments of :class:`EDSR` that differ.
    :raises ValueError: If the name is unknown or an argument out of its range.
    """
    if preset not in PRESETS:
        raise ValueError(f"Expected a network in {sorted(PRESETS)}. Received {preset!r}.")
    return EDSR(**{**PRESETS[preset], **config})
