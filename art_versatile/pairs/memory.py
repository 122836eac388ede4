"""(adversarial, clean) pairs held in memory, with the interface of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_clip_values, check_images
from art_versatile.pairs.batches import Pairs, Reader

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["MemoryPairs"]


class MemoryPairs(Pairs):
    """
    Pairs in memory.

    The arguments are attributes of the same names, except that missing labels and indices are zeros there.

    :param adversarial: (N, H, W, 3), floats in ``clip_values``; held as float32.
    :param clean: The images that were attacked, of the same shape.
    :param labels: The labels that the attacks were to change: class indices (N,); None where they are not needed.
    :param indices: Index into ``attacks`` for each pair, (N,); None takes all pairs as the first attack's.
    :param attacks: Names of the attacks.
    :param images: For each pair, the index of its clean image among those that were attacked, (N,); None where it is
        not known.
    :param clip_values: Range of the pixels.
    :raises ValueError: If the arrays do not belong together, or there is no pair.
    :raises TypeError: If the images are not floats.
    """

    def __init__(
        self,
        adversarial: np.ndarray,
        clean: np.ndarray,
        labels: np.ndarray | None = None,
        indices: np.ndarray | None = None,
        attacks: Sequence[str] = ("attack",),
        *,
        images: np.ndarray | None = None,
        clip_values: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._clip_values = check_clip_values(clip_values)
        self.adversarial, self.clean = (
            check_images(array, self._clip_values, name=name).astype(np.float32, copy=False)
            for name, array in (("adversarial", adversarial), ("clean", clean))
        )
        if self.adversarial.shape != self.clean.shape:
            raise ValueError(f"Expected arrays of one shape. Received {self.adversarial.shape} and {self.clean.shape}.")
        count = len(self.clean)
        for name, numbers in (("labels", labels), ("indices", indices), ("images", images)):
            if numbers is None:
                continue
            dtype, shape = np.asarray(numbers).dtype, np.shape(numbers)
            if shape != (count,) or not np.issubdtype(dtype, np.integer):
                raise ValueError(f"Expected {name} to be {count} integers. Received {dtype} {shape}.")
            if np.min(numbers) < 0:
                raise ValueError(f"Expected {name} of at least 0. Received {np.min(numbers)}.")
        if indices is not None and np.max(indices) >= len(attacks):
            raise ValueError(
                f"Expected indices below {len(attacks)}, the number of attacks. Received {np.max(indices)}."
            )
        self._attacks = tuple(attacks)
        zeros = np.zeros(count, np.int64)
        self.labels = zeros if labels is None else np.asarray(labels, np.int64)
        self.indices = zeros if indices is None else np.asarray(indices, np.int64)
        self.images = None if images is None else np.asarray(images, np.int64)
        self._has_labels = labels is not None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.clean.shape[1:]
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
        return dict(zip(self.attacks, np.bincount(self.indices, minlength=len(self.attacks)).tolist(), strict=True))

    @property
    def has_labels(self) -> bool:
        """Whether labels were given."""
        return self._has_labels

    @property
    def clean_sha256(self) -> str:
        """SHA-256 of the clean images: of their pixels as float32, in their order."""
        return hashlib.sha256(np.ascontiguousarray(self.clean, "<f4").data.cast("B")).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """The attacks and the clean images: perturbations that are made anew may differ in the last bit."""
        return {"attacks": list(self.attacks), "clean_sha256": self.clean_sha256}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pairs={len(self)}, attacks={list(self.attacks)}, image_shape={self.image_shape})"

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        How the pairs of some attacks are read.

        :param names: Attacks.
        :param shuffle: Each epoch in an order of its own; every order is equally likely.
        :param shuffle_buffer: Not used: all is in memory.
        """
        import tensorflow as tf

        chosen = [self.attacks.index(name) for name in names]
        arrays = self.adversarial, self.clean, self.labels, self.indices
        numbers = np.flatnonzero(np.isin(self.indices, chosen))
        with tf.device("CPU"):  # whole on the first GPU otherwise
            rows = tf.constant(numbers)
            adversarial, clean, classes, indices = (tf.constant(array) for array in arrays)

        def records(_: tf.Tensor, of_records: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(rows, seed=of_records) if shuffle else rows
            return tf.data.Dataset.from_tensor_slices(order)

        return Reader(
            records, lambda row: (tf.stack([adversarial[row], clean[row]]), classes[row], indices[row]), len(numbers)
        )
