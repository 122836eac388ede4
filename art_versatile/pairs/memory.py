"""(adversarial, clean) pairs held in memory, with the interface of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from art_versatile._checks import check_bool, check_clip_values, check_images
from art_versatile.pairs.batches import check_attacks, make_batches

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["ArrayPairs"]


class ArrayPairs:
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
        self.clip_values = check_clip_values(clip_values)
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
        self.attacks = tuple(names)
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
    def counts(self) -> dict[str, int]:
        """Number of pairs of each attack."""
        return dict(zip(self.attacks, np.bincount(self._numbers, minlength=len(self.attacks)).tolist(), strict=True))

    @property
    def clean_sha256(self) -> str:
        """SHA-256 of the clean images: of their pixels as float32, in their order."""
        return hashlib.sha256(np.ascontiguousarray(self._clean, "<f4").data.cast("B")).hexdigest()

    def __len__(self) -> int:
        return len(self._clean)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pairs={len(self)}, attacks={list(self.attacks)}, image_shape={self.image_shape})"

    def dataset(
        self,
        batch_size: int,
        *,
        crop: int | tuple[int, int] | None = None,
        crop_step: int = 1,
        flip: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        scale: tuple[float, float] = (1.0, 1.0),
        whole: Sequence[str] = (),
        clean_share: float = 0.0,
        attacks: Sequence[str] | None = None,
        labels: bool = False,
        repeat: bool = False,
        first_epoch: int = 0,
        drop_remainder: bool = False,
    ) -> tf.data.Dataset:
        """
        Batches of (adversarial, clean) for training, as :meth:`art_versatile.pairs.PairStore.dataset` gives them.

        Shuffled as a whole: every order of the pairs is equally likely.

        :param batch_size: Pairs in a batch.
        :param crop: See there, as for the following.
        :param crop_step: Places of the windows.
        :param flip: Mirror half of the pairs.
        :param shuffle: Otherwise the order is that of the arrays.
        :param seed: Of order and augmentation.
        :param scale: Range of the factor on the perturbation.
        :param whole: Names of the attacks whose perturbations are not scaled.
        :param clean_share: Share of (clean, clean) pairs.
        :param attacks: Names of the attacks to take; None takes all.
        :param labels: Yield (adversarial, clean, label) instead.
        :param repeat: Go on for ever.
        :param first_epoch: Number of the first epoch.
        :param drop_remainder: Leave out the last batch where it is smaller.
        :return: float32 (batch, H, W, 3) in ``clip_values``, twice; with ``labels``, int64 (batch,) too.
        :raises ValueError: If a parameter is out of its range, an attack is unknown, or there is no pair.
        """
        import tensorflow as tf

        check_bool("shuffle", shuffle)
        if labels and not self._has_labels:
            raise ValueError("Expected pairs with labels. Received pairs without.")
        names = check_attacks(self.attacks if attacks is None else attacks, self.attacks)
        chosen = [self.attacks.index(name) for name in names]
        rows = tf.constant(np.flatnonzero(np.isin(self._numbers, chosen)))
        arrays = self._adversarial, self._clean, self._labels, self._numbers
        adversarial, clean, classes, numbers = (tf.constant(array) for array in arrays)

        def records(_: tf.Tensor, of_records: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(rows, seed=of_records) if shuffle else rows
            return tf.data.Dataset.from_tensor_slices(order)

        return make_batches(
            records,
            lambda row: (tf.stack([adversarial[row], clean[row]]), classes[row], numbers[row]),
            count=len(rows),
            image_shape=self.image_shape,
            clip_values=self.clip_values,
            batch_size=batch_size,
            crop=crop,
            crop_step=crop_step,
            flip=flip,
            seed=seed,
            scale=scale,
            whole=[self.attacks.index(name) for name in check_attacks(whole, self.attacks, "whole", least=0)],
            clean_share=clean_share,
            labels=labels,
            repeat=repeat,
            first_epoch=first_epoch,
            drop_remainder=drop_remainder,
        )
