"""VersatilePurifier: the ART preprocessor that a user plugs in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2

from art_versatile import weights
from art_versatile._checks import check_batch_size, check_bool, check_choice, check_clip_values, check_images

__all__ = ["VersatilePurifier"]


class VersatilePurifier(PreprocessorTensorFlowV2):
    """
    Purify images with one generator trained against many attacks, before a classifier sees them.

    ``VersatilePurifier()`` loads the weights that ship with the package. It is differentiable, so that a white-box
    attack goes through it; evaluate it with one. Purifiers trained on static examples have fallen to attacks through
    them (HGD, arXiv 1712.02976, broken in arXiv 1804.03286).

    | Paper: "Versatile Defense Against Adversarial Attacks on Image Recognition", Zhang, Yao and Sakurai.

    :param generator: (N, H, W, 3) in [0, 1] -> the same shape; its attribute ``size_multiple`` (1 where it has none)
        says what H and W must be multiples of. None loads the shipped weights.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param batch_size: Images purified at once; larger inputs go through in chunks, in a pass with a gradient too
        (except inside a ``tf.function`` that does not know the number of images: there a gradient holds every chunk).
    :param gradient: "exact" differentiates through the generator; "bpda" is the identity on the way back (backward pass
        differentiable approximation, arXiv 1802.00420).
    :param stochastic: Keep the generator's noise z at test time; a white-box evaluation then needs EOT.
    :param apply_fit: Purify when the classifier is fitted.
    :param apply_predict: Purify when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is not as expected.
    """

    params = ["clip_values", "channels_first", "batch_size", "gradient", "stochastic"]  # noqa: RUF012

    def __init__(
        self,
        generator: keras.Model | None = None,
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        batch_size: int = 32,
        gradient: str = "exact",
        stochastic: bool = False,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.clip_values = clip_values
        self.channels_first = channels_first
        self.batch_size = batch_size
        self.gradient = gradient
        self.stochastic = stochastic
        self._check_params()
        self.card: dict[str, Any] = {}
        if generator is None:
            generator, self.card = weights.load("compact")
        if not isinstance(generator, keras.Model):
            raise TypeError(f"Expected generator to be a keras.Model or None. Received {type(generator).__name__}.")
        self._generator = generator
        self._compiled: Callable[[tf.Tensor], tf.Tensor] | None = None

    @property
    def generator(self) -> keras.Model:
        """The Keras model that purifies pixels in [0, 1]."""
        return self._generator

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> VersatilePurifier:
        """
        A purifier from a weights folder.

        :param name_or_path: A name that ships with the package ("compact"), or a folder written by :meth:`save`.
        :param kwargs: Passed to the constructor.
        :raises FileNotFoundError: If there is no such name or folder.
        :raises ValueError: If a file is corrupted (its checksum is verified).
        """
        generator, card = weights.load(name_or_path)
        purifier = cls(generator, **kwargs)
        purifier.card = card
        return purifier

    def save(self, path: str | Path, *, dtype: str = "float32", card: dict[str, Any] | None = None) -> Path:
        """
        Write the generator's weights and their card into a folder, all or nothing.

        :param path: The folder; what it held before stays whole until the new files are complete.
        :param dtype: "float32" or "float16".
        :param card: Further facts for the card (training data, figures); JSON-able.
        :return: The folder.
        """
        kept = {key: value for key, value in self.card.items() if key not in weights.RESERVED}
        return weights.save(self._generator, path, dtype=dtype, card={**kept, **(card or {})})

    def forward(self, x: tf.Tensor, y: Any = None) -> tuple[tf.Tensor, Any]:
        """
        Purify.

        :param x: Floats in ``clip_values``, (N, H, W, 3) or with ``channels_first`` (N, 3, H, W), any H and W.
        :param y: Passed through.
        :return: The purified images, of the same shape, dtype and range, and ``y``.
        :raises ValueError: If the shape is another, or (outside ``tf.function``) a value is NaN or out of range.
        :raises TypeError: If the dtype is not floating.
        """
        x = tf.convert_to_tensor(x)
        self._check_tensor(x)
        low, high = self.clip_values
        images = tf.cast(x, tf.float32)
        if self.channels_first:
            images = tf.transpose(images, (0, 2, 3, 1))
        images = (images - low) / (high - low)
        purified = self._in_chunks(self._bpda if self.gradient == "bpda" else self._purify, images)
        purified = tf.clip_by_value(purified * (high - low) + low, low, high)
        if self.channels_first:
            purified = tf.transpose(purified, (0, 3, 1, 2))
        return tf.ensure_shape(tf.cast(purified, x.dtype), x.shape), y

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        """
        Purify an array; see :meth:`forward`.

        :param x: Floats in ``clip_values``.
        :param y: Passed through, whatever it is.
        """
        x = check_images(x, self.clip_values, channels_first=self.channels_first)
        return self.forward(x)[0].numpy(), y

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name.

        :raises ValueError: If a name is unknown or a value not as expected; nothing is changed then.
        """
        unknown = sorted(set(kwargs) - set(self.params))
        if unknown:
            raise ValueError(f"Expected parameters among {self.params}. Received {unknown}.")
        before = {key: getattr(self, key) for key in kwargs}
        try:
            super().set_params(**kwargs)
        except ValueError:
            for key, value in before.items():
                setattr(self, key, value)
            raise
        self._compiled = None

    def _check_params(self) -> None:
        self.clip_values = check_clip_values(self.clip_values)
        self.channels_first = check_bool("channels_first", self.channels_first)
        self.batch_size = check_batch_size(self.batch_size)
        check_choice("gradient", self.gradient, ("exact", "bpda"))
        self.stochastic = check_bool("stochastic", self.stochastic)
        check_bool("apply_fit", self._apply_fit)
        check_bool("apply_predict", self._apply_predict)

    def _check_tensor(self, x: tf.Tensor) -> None:
        if hasattr(x, "numpy"):
            check_images(x.numpy(), self.clip_values, channels_first=self.channels_first)
            return
        # Inside tf.function only the type is known, not the values.
        layout = "(N, 3, H, W)" if self.channels_first else "(N, H, W, 3)"
        if not x.dtype.is_floating:
            raise TypeError(f"Expected x to be an array of floats, {layout}. Received dtype {x.dtype.name}.")
        if x.shape.rank != 4 or x.shape[1 if self.channels_first else 3] not in (3, None):
            raise ValueError(f"Expected x to be a batch of images {layout}. Received shape {x.shape}.")

    def _in_chunks(self, purify: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        """Apply ``purify`` to ``batch_size`` images at a time."""
        count, size = images.shape[0], self.batch_size
        if count is not None:
            if count <= size:
                return purify(images)
            return tf.concat([self._recomputed(purify)(images[i : i + size]) for i in range(0, count, size)], axis=0)
        # A function that recomputes cannot stand in a tf.while_loop with a gradient (TensorFlow 2.21).
        total = tf.shape(images)[0]

        def every_chunk() -> tf.Tensor:
            chunks = tf.TensorArray(tf.float32, tf.math.floordiv(total + size - 1, size), infer_shape=False)
            _, chunks = tf.while_loop(
                lambda i, _: i * size < total,
                lambda i, done: (i + 1, done.write(i, purify(images[i * size : (i + 1) * size]))),
                (tf.constant(0), chunks),
                parallel_iterations=1,
            )
            return tf.ensure_shape(chunks.concat(), images.shape)

        return tf.cond(total <= size, lambda: purify(images), every_chunk)

    def _recomputed(self, purify: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        """The same function, computed anew on the way back, so that only one chunk's activations are ever held."""
        if self.stochastic:  # a second pass would draw other noise
            return purify

        @tf.custom_gradient
        def recomputed(images: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch(images)
                    purified = purify(images)
                grads = tape.gradient(purified, [images, *(variables or [])], upstream)
                return (grads[0], grads[1:]) if variables is not None else grads[0]

            return purify(images), gradient

        return recomputed

    def _bpda(self, images: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def straight_through(images: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def identity(upstream: tf.Tensor, variables: Any = None) -> Any:
                return (upstream, [None] * len(variables)) if variables is not None else upstream

            return self._purify(images), identity

        return straight_through(images)

    def _purify(self, images: tf.Tensor) -> tf.Tensor:
        """Pad, generate, crop; (N, H, W, 3) in [0, 1]."""
        if self._compiled is None:
            multiple = int(getattr(self._generator, "size_multiple", 1))

            @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
            def compiled(images: tf.Tensor) -> tf.Tensor:
                height, width = tf.shape(images)[1], tf.shape(images)[2]
                padded = _reflect_to_multiple(_reflect_to_multiple(images, 1, multiple), 2, multiple)
                return self._generator(padded, training=self.stochastic)[:, :height, :width]

            self._compiled = compiled
        return tf.ensure_shape(self._compiled(images), images.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": None}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(generator={self._generator.name!r}, clip_values={self.clip_values}, "
            f"channels_first={self.channels_first}, batch_size={self.batch_size}, gradient={self.gradient!r}, "
            f"stochastic={self.stochastic}, apply_fit={self.apply_fit}, apply_predict={self.apply_predict})"
        )


def _reflect_to_multiple(images: tf.Tensor, axis: int, multiple: int) -> tf.Tensor:
    """Mirror the far edge until the axis is a multiple; by index, as ``tf.pad`` cannot mirror more than one image."""
    size = tf.shape(images)[axis]
    period = tf.maximum(2 * size - 2, 1)
    place = tf.range(tf.math.floordiv(size + multiple - 1, multiple) * multiple) % period
    return tf.cond(
        size % multiple == 0,
        lambda: images,
        lambda: tf.gather(images, tf.minimum(place, period - place) % size, axis=axis),
    )
