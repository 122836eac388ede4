"""(adversarial, clean) pairs held in memory, with the interface of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from art_versatile._checks import check_clip_values, check_images
from art_versatile.pairs.batches import Pairs, Reader

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["ArrayPairs"]


class ArrayPairs(Pairs):
    """
    Pairs in memory, for training.

    :param adversarial: (N, H, W, 3), floats in ``clip_values``; held as float32.
    :param clean: The images that were attacked, of the same shape.
    :param labels: Class indices (N,); None where they are not needed.
    :param attacks: Index into ``names`` for each pair, (N,); None takes all pairs as the first attack's.
    :param names: Names of the attacks.
    :param clip_values: Range of the pixels.
    :raises ValueError: If the arrays do not belong together.
    :raises TypeError: If the images are not floats.
    """

    def __init__(
        self,
        adversarial: np.ndarray,
        clean: np.ndarray,
        labels: np.ndarray | None = None,
        attacks: np.ndarray | None = None,
        names: Sequence[str] = ("attack",),
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._clip_values = check_clip_values(clip_values)
        adversarial = check_images(adversarial, self.clip_values, name="adversarial").astype(np.float32, copy=False)
        clean = check_images(clean, self.clip_values, name="clean").astype(np.float32, copy=False)
        if adversarial.shape != clean.shape:
            raise ValueError(f"Expected arrays of one shape. Received {adversarial.shape} and {clean.shape}.")
        count = len(clean)
        for name, numbers in (("labels", labels), ("attacks", attacks)):
            if numbers is None:
                continue
            if np.shape(numbers) != (count,) or not np.issubdtype(np.asarray(numbers).dtype, np.integer):
                raise ValueError(f"Expected {name} to be {count} integers. Received {np.asarray(numbers).dtype} "
                                 f"{np.shape(numbers)}.")  # fmt: skip
            if np.min(numbers) < 0:
                raise ValueError(f"Expected {name} of at least 0. Received {np.min(numbers)}.")
        if attacks is not None and np.max(attacks) >= len(names):
            raise ValueError(f"Expected attacks below {len(names)}, the number of names. Received {np.max(attacks)}.")
        self._attacks = tuple(names)
        self._adversarial, self._clean = adversarial, clean
        self._labels = np.zeros(count, np.int64) if labels is None else np.asarray(labels, np.int64)
        self._numbers = np.zeros(count, np.int64) if attacks is None else np.asarray(attacks, np.int64)
        self._has_labels = labels is not None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self._clean.shape[1:]
        return height, width, channels

    @property
    def clip_values(self) -> tuple[float, float]:
        """Range of the pixels."""
        return self._clip_values

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks."""
        return self._attacks

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs of each attack."""
        return dict(zip(self.attacks, np.bincount(self._numbers, minlength=len(self.attacks)).tolist(), strict=True))

    @property
    def clean_sha256(self) -> str:
        """SHA-256 of the clean images: of their pixels as float32, in their order."""
        return hashlib.sha256(np.ascontiguousarray(self._clean, "<f4").data.cast("B")).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pairs={len(self)}, attacks={list(self.attacks)}, image_shape={self.image_shape})"

    @property
    def has_labels(self) -> bool:
        """Whether labels were given."""
        return self._has_labels

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        See :meth:`art_versatile.pairs.batches.Pairs.read`.

        :param names: Attacks.
        :param shuffle: See :meth:`dataset`.
        :param shuffle_buffer: Not used: all is in memory.
        """
        import tensorflow as tf

        chosen = [self.attacks.index(name) for name in names]
        rows = tf.constant(np.flatnonzero(np.isin(self._numbers, chosen)))
        arrays = self._adversarial, self._clean, self._labels, self._numbers
        adversarial, clean, classes, numbers = (tf.constant(array) for array in arrays)

        def records(_: tf.Tensor, of_records: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(rows, seed=of_records) if shuffle else rows
            return tf.data.Dataset.from_tensor_slices(order)

        return Reader(
            records, lambda row: (tf.stack([adversarial[row], clean[row]]), classes[row], numbers[row]), len(rows)
        )
