"""Large images through a generator in overlapping tiles: bounded memory, the same pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from art_versatile.pix2pix.generators import mirrored_up, padded_sides
from art_versatile.pix2pix.layers import NOISE_SIDE

__all__ = ["LARGEST_SIDE", "PIXELS_AT_ONCE", "images_at_once", "in_tiles"]

#: Pixels, images times height times width, that go through a generator at once.
PIXELS_AT_ONCE = 2**22
#: The side of a tile with its surroundings, at most.
LARGEST_SIDE = 2048


def images_at_once(images: tf.Tensor, most: int) -> int:
    """
    How many images go through a generator at once: of ``PIXELS_AT_ONCE`` pixels together at most, at least one.

    :param images: (N, H, W, 3); where H or W is unknown (inside ``tf.function``), ``most``.
    :param most: Images at most.
    """
    _, height, width, _ = images.shape
    return most if None in (height, width) else max(1, min(most, PIXELS_AT_ONCE // (height * width)))


def in_tiles(function: Callable[[tf.Tensor], tf.Tensor], generator: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """
    Apply a generator to images of any size, those above ``PIXELS_AT_ONCE`` in tiles that overlap.

    Tiles begin at multiples of what the generator takes and of its fixed noise: each sees the grid and the noise that
    it sees in the whole image. What is nearer to a cut than the generator's ``halo`` is taken from the next tile.

    :param function: What applies the generator: (N, h, w, 3) -> the same shape.
    :param generator: Its attribute ``halo`` says how far around a pixel it looks. Without one (``unet256`` normalises
        over the whole image), or where that is half a tile or more, images go through whole.
    :param images: (N, H, W, 3); where H or W is unknown (inside ``tf.function``) they go through whole.
    """
    _, height, width, _ = images.shape
    halo = getattr(generator, "halo", None)
    if halo is None or None in (height, width) or height * width <= PIXELS_AT_ONCE:
        return function(images)
    unit = math.lcm(int(getattr(generator, "size_multiple", 1)), NOISE_SIDE)
    halo = -(-int(halo) // unit) * unit
    step = (LARGEST_SIDE - 2 * halo) // unit * unit
    if step < unit:
        return function(images)
    images = mirrored_up(generator, images)
    bottom, right = padded_sides(generator, height, width)

    def row(first: int) -> tf.Tensor:
        """The answers from one line of tiles."""
        top, last = max(0, first - halo), min(bottom, first + step)
        line = images[:, top : min(bottom, last + halo)]
        answers = []
        for left in range(0, right, step):
            begin, end = max(0, left - halo), min(right, left + step)
            answer = function(line[:, :, begin : min(right, end + halo)])
            answers.append(answer[:, first - top : last - top, left - begin : end - begin])
        return tf.concat(answers, axis=2)

    return tf.concat([row(first) for first in range(0, bottom, step)], axis=1)[:, :height, :width]
