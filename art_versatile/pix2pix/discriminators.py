"""PatchGAN, Pix2pix's discriminator (arXiv 1611.07004, section 6.1.2)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from art_versatile._checks import check_integer
from art_versatile.pix2pix.precision import follow_global_policy

__all__ = ["patchgan"]


def patchgan(filters: int = 64, *, seed: int = 0) -> keras.Model:
    """
    The 70x70 PatchGAN: each logit judges one 70x70 patch of the pair (input, output).

    4x4 convolutions 64 (no normalisation)-128-256 of stride 2, 512 and 1 of stride 1, each after a zero padding of one
    pixel; LeakyReLU 0.2; InstanceNorm stands for the BatchNorm of batch size 1.

    :param filters: Channels of the first layer, 64 in the paper.
    :param seed: Seed of the initial weights (normal, mean 0, standard deviation 0.02).
    :return: [(N, H, W, 3), (N, H, W, 3)] in [0, 1] -> (N, H/8 - 2, W/8 - 2, 1) logits; 30x30 at 256x256.
    :raises ValueError: If ``filters`` is not a positive integer.
    """
    check_integer("filters", filters)
    rng = np.random.default_rng(seed)

    def block(x: Any, n: int, stride: int, normed: bool, name: str | None = None) -> Any:
        init = keras.initializers.RandomNormal(0.0, 0.02, seed=int(rng.integers(2**31)))
        x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(n, 4, stride, "valid", use_bias=not normed, kernel_initializer=init, name=name)(x)
        return layers.GroupNormalization(groups=-1, epsilon=1e-5)(x) if normed else x

    condition = keras.Input((None, None, 3), name="condition")
    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(2.0, -1.0)(layers.Concatenate()([condition, image]))
    for level, stride in enumerate((2, 2, 2, 1)):
        x = layers.LeakyReLU(0.2)(block(x, filters * 2**level, stride, normed=level > 0))
    model = keras.Model([condition, image], block(x, 1, 1, normed=False, name="logits"), name="patchgan")
    model.full_precision = ("logits",)
    follow_global_policy(model)
    return model
