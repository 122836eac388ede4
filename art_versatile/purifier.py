"""VersatilePurifier: the ART preprocessor that a user plugs in."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from art_versatile import weights
from art_versatile._checks import check_batch_size, check_bool, check_choice
from art_versatile._defence import ImageDefence, differentiated_as, in_chunks
from art_versatile.pix2pix.generators import purified
from art_versatile.pix2pix.precision import computed_in, faster_policy
from art_versatile.pix2pix.tiles import images_at_once, in_tiles

__all__ = ["VersatilePurifier"]


class VersatilePurifier(ImageDefence):
    """
    Purify images with one generator trained against many attacks, before a classifier sees them.

    ``VersatilePurifier()`` loads the weights that ship with the package. It is differentiable, so that a white-box
    attack goes through it; evaluate it with one. Purifiers trained on static examples have fallen to attacks through
    them (HGD, arXiv 1712.02976, broken in arXiv 1804.03286).

    Memory is bounded: at most 2^22 pixels (2,048 x 2,048) go through the generator at once, 1.2 GB with the shipped
    weights, and the images take about six times their own float32 pixels besides. A larger image goes through in
    overlapping tiles, whose pixels are those of the whole image to within 1/255 (measured with the shipped weights:
    0.3/255 at most). It goes whole inside a ``tf.function`` that does not know its size, and through a generator that
    sees the image as a whole: ``unet256``, or a Keras model without an attribute ``halo``.

    | Paper: "Versatile Defense Against Adversarial Attacks on Image Recognition", Zhang, Yao and Sakurai.

    :param generator: (N, H, W, 3) in [0, 1] -> the same shape; its attribute ``size_multiple`` (1 where it has none)
        says what H and W must be multiples of. None loads the shipped weights.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param batch_size: Images purified at once, at most; larger inputs go through in chunks, in a pass with a gradient
        too (except inside a ``tf.function`` that does not know the number of images: there a gradient holds every
        chunk).
    :param gradient: "exact" differentiates through the generator; "bpda" is the identity on the way back (backward pass
        differentiable approximation, arXiv 1802.00420).
    :param stochastic: Keep the generator's noise z at test time; a white-box evaluation then needs EOT.
    :param precision: "float32" computes the generator as it is; "bfloat16" in mixed precision, to within 2/255 of that
        (3/255 on a GPU, where its frozen encoder follows; many times slower on a CPU without instructions for it);
        "auto" times both at the first use in a process, on one image of 128x128, and takes bfloat16 where it is at
        least 1.2 times as fast.
    :param apply_fit: Purify when the classifier is fitted.
    :param apply_predict: Purify when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is of another kind or out of its range.
    """

    params = ["clip_values", "channels_first", "batch_size", "gradient", "stochastic", "precision"]  # noqa: RUF012

    def __init__(
        self,
        generator: keras.Model | None = None,
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        batch_size: int = 32,
        gradient: str = "exact",
        stochastic: bool = False,
        precision: str = "float32",
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.clip_values = clip_values
        self.channels_first = channels_first
        self.batch_size = batch_size
        self.gradient = gradient
        self.stochastic = stochastic
        self.precision = precision
        self._check_params()
        self.card: dict[str, Any] = {}
        if generator is None:
            generator, self.card = weights.load_shipped("compact")
        if not isinstance(generator, keras.Model):
            raise TypeError(f"Expected generator to be a keras.Model or None. Received {type(generator).__name__}.")
        self._generator = generator
        self._compiled: Callable[[tf.Tensor], tf.Tensor] | None = None

    @property
    def generator(self) -> keras.Model:
        """The Keras model that purifies pixels in [0, 1]."""
        return self._generator

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the generator's weights: in a record, which purifier was measured."""
        digest = hashlib.sha256()
        for array in self._generator.get_weights():
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()[:12]

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> VersatilePurifier:
        """
        A purifier from a weights folder.

        :param name_or_path: A name that ships with the package ("compact"), or a folder written by :meth:`save`. A
            ``Path``, or a string with a separator ("./compact"), is a folder.
        :param kwargs: Passed to the constructor.
        :raises FileNotFoundError: If there is no such name or folder.
        :raises ValueError: If a file is corrupted (its checksum is verified), or the name is also that of a folder.
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

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        low, high = self.clip_values
        images = (images - low) / (high - low)
        # The identity's gradient stands for the generator's in BPDA.
        purify = differentiated_as(self._purify, tf.identity) if self.gradient == "bpda" else self._purify
        # With the noise z a second pass on the way back would draw another one.
        at_once = images_at_once(images, self.batch_size)
        purified = in_chunks(purify, images, at_once, recompute=not self.stochastic)
        return tf.ensure_shape(tf.clip_by_value(purified * (high - low) + low, low, high), images.shape)

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name.

        :raises ValueError: If a name is unknown or a value out of its range; nothing is changed then.
        """
        super().set_params(**kwargs)
        self._compiled = None

    def _check_params(self) -> None:
        super()._check_params()
        self.batch_size = check_batch_size(self.batch_size)
        check_choice("gradient", self.gradient, ("exact", "bpda"))
        self.stochastic = check_bool("stochastic", self.stochastic)
        check_choice("precision", self.precision, ("float32", "bfloat16", "auto"))

    def _purify(self, images: tf.Tensor) -> tf.Tensor:
        """(N, H, W, 3) in [0, 1], of any size."""
        # In a pass with a gradient one tile's activations at a time are held.
        tile = self._generate if self.stochastic else differentiated_as(self._generate, self._generate)
        large = images_at_once(images, 2) == 1
        return in_tiles(tile if large else self._generate, self._generator, images)

    def _generate(self, images: tf.Tensor) -> tf.Tensor:
        if self._compiled is None:
            policy = self._policy()

            @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
            def compiled(images: tf.Tensor) -> tf.Tensor:
                # The policies count while this is traced, and are not the generator's own.
                with computed_in(self._generator, policy) if policy else contextlib.nullcontext():
                    return tf.cast(purified(self._generator, images, training=self.stochastic), tf.float32)

            self._compiled = compiled
        return tf.ensure_shape(self._compiled(images), images.shape)

    def _policy(self) -> str | None:
        if self.precision == "float32":
            return None
        if self.precision == "bfloat16":
            return "mixed_bfloat16"
        return faster_policy(self._generator, lambda images: purified(self._generator, images))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": None}

    def _described(self) -> list[str]:
        return [f"generator={self._generator.name!r}", *super()._described()]
