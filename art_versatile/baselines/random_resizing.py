"""RandomResizing: each image is resized to a random size and padded at a random place before a classifier sees it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from art_versatile._checks import (
    check_batch_size,
    check_choice,
    check_integer,
    check_number,
    check_output_size,
    check_pair,
)
from art_versatile._defence import ImageDefence

__all__ = ["RandomResizing"]


class RandomResizing(ImageDefence):
    """
    Random resizing and random padding, drawn anew for each image of each call.

    An image of 299 pixels is resized to Rnd x Rnd, Rnd uniform in [299, 331), and put at a place drawn uniformly on a
    grey 331 x 331 canvas. Other sizes scale in proportion; the sides of an image that is no square keep theirs. By
    default the result is the larger canvas, as in the paper, for a classifier that takes it
    (``input_shape=(None, None, 3)``); one of a single input size needs ``output_size="input"``.

    Differentiable: the gradient is that of the very draw that the images went through, in the shape of ``x``. It is
    random all the same: an attack needs the mean over many draws (EOT), under which this defence fell to 0% (Athalye et
    al., arXiv 1802.00420). ART's ``KerasClassifier`` draws once on the way forward and again on the way back.

    Not covered, as a preprocessor sees one prediction only: the sum over 30 passes (and the auxiliary head's scores)
    of the official NIPS 2017 code. Predict k times and average the probabilities; each prediction draws anew. That
    code draws once for a whole batch, too.

    | Paper: "Mitigating Adversarial Effects Through Randomization", Xie et al., arXiv 1711.01991.

    :param sizes: (smallest Rnd, side of the canvas), Rnd below the canvas; pixels for an image of ``reference`` pixels.
    :param reference: Side of the images that ``sizes`` are meant for.
    :param interpolation: "bilinear" or "nearest", as in ``tf.image.resize``. The paper names none.
    :param flip_probability: Probability of a mirrored image.
    :param padding: Value of the canvas, 0 for the lower end of ``clip_values``, 1 for the upper. The official code pads
        with 0 after scaling to [-1, 1]: the middle.
    :param output_size: None leaves the canvas, as the paper; "input" resizes it (bilinear) to the size of ``x``; an
        integer or (height, width) to that.
    :param seed: Seed of the draws; None takes one from the operating system.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param batch_size: Images resized at once (all of them inside a ``tf.function`` that does not know their number).
    :param apply_fit: Resize when the classifier is fitted.
    :param apply_predict: Resize when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is of another kind or out of its range.
    """

    params = [  # noqa: RUF012
        "sizes",
        "reference",
        "interpolation",
        "flip_probability",
        "padding",
        "output_size",
        "seed",
        "clip_values",
        "channels_first",
        "batch_size",
    ]

    def __init__(
        self,
        *,
        sizes: tuple[int, int] = (299, 331),
        reference: int = 299,
        interpolation: str = "bilinear",
        flip_probability: float = 0.0,
        padding: float = 0.5,
        output_size: int | tuple[int, int] | str | None = None,
        seed: int | None = None,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        batch_size: int = 32,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.sizes = sizes
        self.reference = reference
        self.interpolation = interpolation
        self.flip_probability = flip_probability
        self.padding = padding
        self.output_size = output_size
        self.seed = seed
        self.clip_values = clip_values
        self.channels_first = channels_first
        self.batch_size = batch_size
        self._check_params()
        # A generator of TensorFlow's: a tf.function draws from it anew at every call.
        self._generator = _generator(self.seed)

    @classmethod
    def paper(cls, **kwargs: Any) -> RandomResizing:
        """
        The paper's: Rnd in [299, 331), no flip. The defaults.

        :param kwargs: Passed to the constructor.
        """
        return cls(**kwargs)

    @classmethod
    def nips2017(cls, **kwargs: Any) -> RandomResizing:
        """
        One pass of the authors' entry in the NIPS 2017 competition: Rnd in [310, 331), nearest neighbour, flips.

        :param kwargs: Passed to the constructor.
        """
        return cls(**{"sizes": (310, 331), "interpolation": "nearest", "flip_probability": 0.5, **kwargs})

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name. Setting ``seed`` starts its draws again.

        :raises ValueError: If a name is unknown or a value out of its range; nothing is changed then.
        """
        super().set_params(**kwargs)
        if "seed" in kwargs:
            self._generator.reset(_generator(self.seed).state)  # in place: a trace holds on to the generator

    def _check_params(self) -> None:
        super()._check_params()
        self.sizes = check_pair("sizes", self.sizes)
        if self.sizes[0] >= self.sizes[1]:
            raise ValueError(f"Expected sizes (smallest, canvas) with smallest < canvas. Received {self.sizes!r}.")
        self.reference = check_integer("reference", self.reference)
        check_choice("interpolation", self.interpolation, ("bilinear", "nearest"))
        self.flip_probability = check_number("flip_probability", self.flip_probability, 0, 1)
        self.padding = check_number("padding", self.padding, 0, 1)
        self.output_size = check_output_size(self.output_size)
        if self.seed is not None:
            self.seed = check_integer("seed", self.seed, 0)
        self.batch_size = check_batch_size(self.batch_size)

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        count, size = images.shape[0], self.batch_size
        # All draws at once: they do not depend on the chunks.
        draws = self._generator.uniform((tf.shape(images)[0], 4), dtype=tf.float64)
        if count is None or count <= size:
            return self._resize(images, draws)
        chunks = [self._resize(images[i : i + size], draws[i : i + size]) for i in range(0, count, size)]
        return tf.concat(chunks, axis=0)

    def _resize(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """
        Resize, flip, pad: a product with one matrix on the left (rows) and one on the right (columns).

        :param images: (n, H, W, 3) in ``clip_values``.
        :param draws: (n, 4) uniform in [0, 1): size, flip, place from the top, place from the left.
        :return: (n, H', W', 3) in ``clip_values``.
        """
        height, width = (images.shape[axis] or tf.shape(images)[axis] for axis in (1, 2))
        canvas = [self._scaled(side, self.sizes[1]) for side in (height, width)]
        smallest = self._scaled(height, self.sizes[0])
        # Of a very small image the canvas may be no larger than the smallest size.
        rows = smallest + _floor(draws[:, 0] * _float(tf.maximum(canvas[0] - smallest, 1)))
        ratio = _float(width) / _float(height)
        columns = tf.clip_by_value(tf.cast(tf.round(_float(rows) * ratio), tf.int32), 1, canvas[1])
        flipped = draws[:, 1] < self.flip_probability
        top = _floor(draws[:, 2] * _float(canvas[0] - rows + 1))
        left = _floor(draws[:, 3] * _float(canvas[1] - columns + 1))

        by_row, row_inside = self._axis(height, canvas[0], rows, top)
        by_column, column_inside = self._axis(width, canvas[1], columns, left)
        by_column = tf.where(flipped[:, None, None], tf.reverse(by_column, [2]), by_column)
        resized = tf.einsum("nqw,npwc->npqc", by_column, tf.einsum("nph,nhwc->npwc", by_row, images))
        outside = 1.0 - row_inside[:, :, None] * column_inside[:, None, :]
        low, high = self.clip_values
        resized += (low + self.padding * (high - low)) * outside[..., None]

        if self.output_size is not None:
            target = (height, width) if self.output_size == "input" else self.output_size
            target = (target, target) if isinstance(target, int) else target
            resized = tf.image.resize(resized, target)
        # Interpolation may leave the range by a rounding error; clipping alone would cut the gradient there.
        return resized + tf.stop_gradient(tf.clip_by_value(resized, low, high) - resized)

    def _scaled(self, side: Any, size: int) -> Any:
        if isinstance(side, int):
            return max(round(side * size / self.reference), 1)
        return tf.maximum(tf.cast(tf.round(_float(side) * size / self.reference), tf.int32), 1)

    def _axis(self, length: Any, canvas: Any, size: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """
        What each place on one axis of the canvas takes from each place of the image.

        :param length: Pixels of the image.
        :param canvas: Pixels of the canvas.
        :param size: (n,) pixels of the resized images.
        :param start: (n,) where they start.
        :return: Weights (n, canvas, length), those of ``tf.image.resize``; and (n, canvas), 1 inside the image, else 0.
        """
        place = tf.range(canvas)[None, :] - start[:, None]
        inside = tf.cast((place >= 0) & (place < size[:, None]), tf.float32)
        scale = tf.cast(length, tf.float32) / tf.cast(size, tf.float32)
        source = (tf.cast(place, tf.float32) + 0.5) * scale[:, None]  # pixels are their centres
        if self.interpolation == "nearest":
            nearest = tf.clip_by_value(tf.cast(tf.floor(source), tf.int32), 0, length - 1)
            weights = tf.one_hot(nearest, length)
        else:
            source = tf.clip_by_value(source - 0.5, 0.0, tf.cast(length - 1, tf.float32))
            weights = tf.nn.relu(1.0 - tf.abs(source[..., None] - tf.range(length, dtype=tf.float32)))
        return weights * inside[..., None], inside

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_generator": self._generator.state.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._generator = tf.random.Generator.from_state(state["_generator"], alg="philox")


def _generator(seed: int | None) -> tf.random.Generator:
    if seed is None:
        return tf.random.Generator.from_non_deterministic_state(alg="philox")
    return tf.random.Generator.from_seed(seed, alg="philox")


def _float(value: Any) -> tf.Tensor:
    return tf.cast(value, tf.float64)


def _floor(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.floor(value), tf.int32)
