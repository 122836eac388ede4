"""Pairs and their batches, whose order and augmentation a seed and the epoch decide; on disk and in memory alike."""

from __future__ import annotations

import abc
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_batch_size, check_bool, check_integer, check_number

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["Pairs", "Reader", "check_attacks", "check_crop", "check_scale", "quotas"]


@dataclass(frozen=True)
class Reader:
    """
    How pairs are read.

    :param records: Two stateless seeds, of one epoch alone -> that epoch's records, in its order.
    :param decode: Record -> pair (2, H, W, C), adversarial first; label, int64; attack, int64.
    :param count: Records of an epoch.
    """

    records: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]
    decode: Callable[[Any], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    count: int


class Pairs(abc.ABC):
    """(adversarial, clean) pairs, as training reads them."""

    @property
    @abc.abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""

    @property
    @abc.abstractmethod
    def clip_values(self) -> tuple[float, float]:
        """Range of the pixels."""

    @property
    @abc.abstractmethod
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order of their indices."""

    @property
    @abc.abstractmethod
    def counts(self) -> dict[str, int]:
        """Number of pairs of each attack."""

    @property
    def has_labels(self) -> bool:
        """Whether the pairs have labels."""
        return True

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells the pairs from others, JSON-able: a training run that goes on has to have the same."""

    @abc.abstractmethod
    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        How the pairs of some attacks are read.

        :param names: Attacks.
        :param shuffle: Each epoch in an order of its own.
        :param shuffle_buffer: Bytes that the shuffling of a store may hold in memory.
        """

    def only(self, names: Sequence[str]) -> Pairs:
        """
        The pairs of some attacks: what an attack-specific purifier is trained on.

        :param names: Names of attacks; each also stands for its budgets ("PGD" for "PGD 4/255" and "PGD 8/255").
        :raises ValueError: If there is no name, or one stands for no attack of the pairs.
        """
        return _ChosenPairs(self, names)

    def __len__(self) -> int:
        return sum(self.counts.values())

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
        marked: Sequence[str] | None = None,
        repeat: bool = False,
        first_epoch: int = 0,
        drop_remainder: bool = False,
        fill_remainder: bool = False,
        shuffle_buffer: int = 256 * 2**20,
    ) -> tf.data.Dataset:
        """
        Batches of (adversarial, clean) for training.

        Order and augmentation are functions of ``seed`` and the epoch alone, whatever the global seed, and every epoch
        has its own. Without ``repeat``, each pass over the dataset is the next epoch, from ``first_epoch`` on, as in
        ``model.fit(dataset, epochs=...)``. With ``repeat`` one pass holds all the epochs, and each pass starts
        again at ``first_epoch``.

        :param batch_size: Pairs in a batch.
        :param crop: Height and width (or one number for both) of a random window, the same in both images; None
            keeps the whole image.
        :param crop_step: The window's top and left are multiples of so many pixels. An attack depends on the grid on
            which the classifier samples: moved by anything but a multiple of its stride (32 for most), or mirrored, a
            perturbation loses most of its effect, and what is left is no example of it.
        :param flip: Mirror half of the pairs, left to right, both images alike.
        :param shuffle: Shuffle them: pairs in memory as a whole; of a store the shards, and their records within a
            buffer; several stores are mixed evenly over the epoch. Otherwise the order is that of the arrays, of the
            manifest and of the stores.
        :param seed: Of order and augmentation.
        :param scale: Each perturbation is multiplied by a factor drawn uniformly from this range, then clipped to
            ``clip_values``: (0.25, 1.0) trains against smaller budgets than those attacked.
        :param whole: Names of attacks whose perturbations are not scaled: the smallest one that fools (C&W, DeepFool)
            fools no more when it is made smaller.
        :param clean_share: Probability, 0 to 1, that a pair is (clean, clean).
        :param attacks: Names of the attacks to read; None reads all.
        :param labels: Yield (adversarial, clean, label) instead.
        :param marked: Names of attacks: yield also whether a pair is of one of them.
        :param repeat: Go on for ever.
        :param first_epoch: Number of the first epoch: training that was stopped sees what it would have seen.
        :param drop_remainder: Leave out an epoch's last batch where it is smaller.
        :param fill_remainder: Fill it with the epoch's first pairs, with an augmentation of their own: batches of one
            shape, which XLA compiles once.
        :param shuffle_buffer: Bytes that the shuffling of a store may hold in memory, whatever its size.
        :return: float32 (batch, H, W, C) in ``clip_values``, twice; with ``labels``, int64 (batch,) too; with
            ``marked``, bool (batch,) last.
        :raises ValueError: If a parameter is out of its range, an attack is unknown, or there is no pair, or no
            label where labels are asked for.
        """
        names = check_attacks(self.attacks if attacks is None else attacks, self.attacks)
        unscaled = [self.attacks.index(name) for name in check_attacks(whole, self.attacks, "whole", least=0)]
        marks = None
        if marked is not None:
            marks = [self.attacks.index(name) for name in check_attacks(marked, self.attacks, "marked", least=0)]
        check_bool("shuffle", shuffle)
        shuffle_buffer = check_integer("shuffle_buffer", shuffle_buffer)
        if check_bool("labels", labels) and not self.has_labels:
            raise ValueError("Expected pairs with labels. Received pairs without.")
        return _make_batches(
            self.read(names, shuffle=shuffle, shuffle_buffer=shuffle_buffer),
            image_shape=self.image_shape,
            clip_values=self.clip_values,
            batch_size=batch_size,
            crop=crop,
            crop_step=crop_step,
            flip=flip,
            seed=seed,
            scale=scale,
            whole=unscaled,
            clean_share=clean_share,
            labels=labels,
            marked=marks,
            repeat=repeat,
            first_epoch=first_epoch,
            drop_remainder=drop_remainder,
            fill_remainder=fill_remainder,
        )


def _make_batches(
    reader: Reader,
    *,
    image_shape: tuple[int, int, int],
    clip_values: tuple[float, float],
    batch_size: int,
    crop: int | tuple[int, int] | None,
    crop_step: int,
    flip: bool,
    seed: int,
    scale: tuple[float, float],
    whole: Sequence[int],
    clean_share: float,
    labels: bool,
    marked: Sequence[int] | None,
    repeat: bool,
    first_epoch: int,
    drop_remainder: bool,
    fill_remainder: bool,
) -> tf.data.Dataset:
    """What :meth:`Pairs.dataset` returns; ``whole`` and ``marked`` are numbers of attacks."""
    import tensorflow as tf

    batch_size = check_batch_size(batch_size)
    window = check_crop(crop, image_shape)
    crop_step = check_integer("crop_step", crop_step)
    low, high = check_scale(scale)
    check_number("clean_share", clean_share, 0, 1)
    flags = {"flip": flip, "repeat": repeat, "drop_remainder": drop_remainder, "fill_remainder": fill_remainder}
    for name, value in flags.items():
        check_bool(name, value)
    if drop_remainder and fill_remainder:
        raise ValueError("Expected drop_remainder or fill_remainder. Received both.")
    seed = check_integer("seed", seed, least=0)
    first_epoch = check_integer("first_epoch", first_epoch, least=0)
    count = reader.count
    steps = count // batch_size if drop_remainder else -(-count // batch_size)
    if steps == 0:
        raise ValueError(f"Expected at least one batch of {batch_size}. Received {count} pairs.")
    # Stateless throughout: stateful ops would mix the global seed in.
    stateless = tf.random.experimental
    root = tf.constant([seed & 0x7FFFFFFF, seed >> 31], tf.int64)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        of_sources, of_records, of_pairs = tf.unstack(
            stateless.stateless_split(stateless.stateless_fold_in(root, epoch), 3)
        )
        records = reader.records(of_sources, of_records)
        if fill_remainder:
            records = records.repeat().take(steps * batch_size)
        pairs = records.enumerate().map(
            lambda index, record: example(stateless.stateless_fold_in(of_pairs, index), record),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        # Batched here: no batch spans two epochs.
        return pairs.batch(batch_size, drop_remainder=drop_remainder or fill_remainder)

    def example(key: tf.Tensor, record: Any) -> tuple[tf.Tensor, ...]:
        pair, label, attack = reader.decode(record)
        keys = tf.unstack(stateless.stateless_split(key, 5))
        if window != image_shape[:2]:
            pair = _cropped(pair, window, image_shape, crop_step, keys[:2])
        if flip:
            pair = tf.cond(tf.random.stateless_uniform([], keys[2]) < 0.5, lambda: tf.reverse(pair, [2]), lambda: pair)
        adversarial, clean = tf.unstack(tf.cast(pair, tf.float32))
        if (low, high) != (1.0, 1.0):
            factor = tf.random.stateless_uniform([], keys[3], low, high)
            if whole:
                factor = tf.where(tf.reduce_any(attack == tf.constant(whole, tf.int64)), 1.0, factor)
            adversarial = tf.clip_by_value(clean + factor * (adversarial - clean), *clip_values)
        if clean_share > 0:
            adversarial = tf.where(tf.random.stateless_uniform([], keys[4]) < clean_share, clean, adversarial)
        parts = (adversarial, clean, label) if labels else (adversarial, clean)
        if marked is None:
            return parts
        return *parts, tf.reduce_any(attack == tf.constant(list(marked), tf.int64))

    if repeat:
        epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    else:
        numbers = itertools.count(first_epoch)
        epochs = tf.data.Dataset.from_generator(
            lambda: iter([next(numbers)]), output_signature=tf.TensorSpec([], tf.int64)
        )
    cardinality = tf.data.INFINITE_CARDINALITY if repeat else steps
    dataset = epochs.flat_map(epoch_batches).apply(tf.data.experimental.assert_cardinality(cardinality))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _cropped(
    pair: tf.Tensor, window: tuple[int, int], image_shape: tuple[int, int, int], step: int, keys: Sequence[tf.Tensor]
) -> tf.Tensor:
    """A window of a pair (2, H, W, C), at a place of the grid that two seeds draw."""
    import tensorflow as tf

    places = [(image_shape[axis] - window[axis]) // step + 1 for axis in range(2)]
    top, left = (
        step * tf.random.stateless_uniform([], keys[axis], maxval=places[axis], dtype=tf.int32) for axis in range(2)
    )
    return tf.slice(pair, [0, top, left, 0], [2, *window, image_shape[2]])


def check_attacks(attacks: Sequence[str], known: Sequence[str], name: str = "attacks", least: int = 1) -> list[str]:
    """Check names of attacks: at least so many, different ones, among the known."""
    if isinstance(attacks, str) or len(attacks) < least or len(set(attacks)) < len(attacks):
        raise ValueError(f"Expected {name} to be a list of different names. Received {attacks!r}.")
    if unknown := [attack for attack in attacks if attack not in known]:
        raise ValueError(f"Expected {name} among {list(known)}. Received {unknown}.")
    return list(attacks)


def quotas(counts: Mapping[str, int], limit: int | None) -> dict[str, int]:
    """How many of each to take, out of so many, for ``limit`` in all, evenly; None takes all."""
    found = dict(counts)
    if limit is not None:
        left = check_integer("limit", limit)
        # The smallest first, so that what they lack goes to the others.
        for done, name in enumerate(sorted(found, key=lambda name: found[name])):
            found[name] = min(found[name], -(-left // (len(found) - done)))
            left -= found[name]
    return found


def check_crop(crop: int | tuple[int, int] | None, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of a crop inside images; None means the whole image."""
    height, width, _ = image_shape
    if crop is None:
        return height, width
    message = f"Expected crop to be one or two integers from 1 to {(height, width)}. Received {crop!r}."
    try:
        window = tuple(operator.index(side) for side in (crop if isinstance(crop, tuple | list) else (crop, crop)))
    except TypeError as err:
        raise ValueError(message) from err
    if len(window) != 2 or not (1 <= window[0] <= height and 1 <= window[1] <= width):
        raise ValueError(message)
    return window[0], window[1]


def check_scale(scale: tuple[float, float]) -> tuple[float, float]:
    """Check a range of factors on perturbations."""
    message = f"Expected scale to be two finite numbers (low, high) with 0 <= low <= high. Received {scale!r}."
    try:
        low, high = (float(value) for value in scale)
    except (TypeError, ValueError) as err:
        raise ValueError(message) from err
    if not (np.isfinite(high) and 0 <= low <= high):
        raise ValueError(message)
    return low, high


class _ChosenPairs(Pairs):
    """What :meth:`Pairs.only` returns."""

    def __init__(self, pairs: Pairs, names: Sequence[str]) -> None:
        self._pairs = pairs
        chosen: dict[str, None] = {}
        for wanted in names:
            found = [name for name in pairs.attacks if name == wanted or name.startswith(f"{wanted} ")]
            if not found:
                raise ValueError(f"Expected attacks among {list(pairs.attacks)}. Received {wanted!r}.")
            chosen |= dict.fromkeys(found)
        if not chosen:
            raise ValueError("Expected at least one attack. Received none.")
        self._attacks = tuple(chosen)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._pairs.image_shape

    @property
    def clip_values(self) -> tuple[float, float]:
        return self._pairs.clip_values

    @property
    def attacks(self) -> tuple[str, ...]:
        return self._attacks

    @property
    def counts(self) -> dict[str, int]:
        return {name: self._pairs.counts[name] for name in self._attacks}

    @property
    def has_labels(self) -> bool:
        return self._pairs.has_labels

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._pairs.identity, "attacks": list(self._attacks)}

    def __repr__(self) -> str:
        return f"{self._pairs!r}.only({list(self._attacks)})"

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        import tensorflow as tf

        reader = self._pairs.read(names, shuffle=shuffle, shuffle_buffer=shuffle_buffer)
        indices = [self._attacks.index(name) if name in self._attacks else -1 for name in self._pairs.attacks]

        def decode(record: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            pair, label, attack = reader.decode(record)
            return pair, label, tf.gather(tf.constant(indices, tf.int64), attack)

        return Reader(reader.records, decode, reader.count)
