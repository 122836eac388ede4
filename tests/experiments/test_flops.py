from __future__ import annotations

import keras
import pytest

from art_versatile.experiments.flops import forward_cost
from art_versatile.pix2pix import UNet256Generator


def test_layers_by_hand():
    """Operations: outputs, times values of the kernel that each sees, times two."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, "same")(image)  # 8 x 8 x 4 outputs, 3 x 3 x 3 values each
    x = keras.layers.DepthwiseConv2D(5, padding="same")(x)  # 8 x 8 x 4, 5 x 5
    x = keras.layers.Conv2DTranspose(2, 4, 2, "same", use_bias=False)(x)  # from each of 8 x 8 x 4 inputs 4 x 4 x 2
    x = keras.layers.Dense(7, use_bias=False)(keras.layers.GlobalAveragePooling2D()(x))  # 7 outputs, 2 each
    cost = forward_cost(keras.Model(image, x), (16, 16, 3))
    assert cost.flops == 2 * (256 * 27 + 256 * 25 + 256 * 32 + 7 * 2)
    # At least what the four layers give, at most a few times that: with biases and the pooling.
    assert 256 + 256 + 16 * 16 * 2 + 7 < cost.activations < 5 * 1100


def test_two_images():
    """Each argument has a shape of its own."""
    images = [keras.Input((None, None, 3)) for _ in range(2)]
    model = keras.Model(images, keras.layers.Conv2D(1, 1)(keras.layers.Concatenate()(images)))
    assert forward_cost(lambda a, b: model([a, b]), (4, 4, 3), (4, 4, 3)).flops == 2 * 16 * 6


def test_the_papers_generator():
    """From its table of layers: halved eight times, doubled eight times, skips beside."""
    filters = [8 * factor for factor in (1, 2, 4, 8, 8, 8, 8, 8)]
    down = sum(a * b * (128 >> level) ** 2 for level, (a, b) in enumerate(zip([3, *filters], filters, strict=False)))
    taken = [filters[-1], *(2 * width for width in filters[-2::-1])]
    given = [*filters[-2::-1], 3]
    up = sum(a * b * (1 << level) ** 2 for level, (a, b) in enumerate(zip(taken, given, strict=True)))
    generator = UNet256Generator(filters=8)
    cost = forward_cost(lambda image: generator(image, training=True), (256, 256, 3))
    assert cost.flops == pytest.approx(2 * 16 * (down + up))
