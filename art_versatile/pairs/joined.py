"""Several stores of pairs read as one, or some attacks of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile.pairs.batches import Pairs, Reader
from art_versatile.pairs.store import PairStore

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["ChosenPairs", "JoinedPairs"]


class JoinedPairs(Pairs):
    """
    Several stores, for training: of other images, attacks, budgets or classifiers. An epoch is one pass over all.

    :param stores: The stores; of one image shape and range of pixels. An attack of the same name is one attack.
    :raises ValueError: If there is none, or they do not belong together.
    """

    def __init__(self, stores: Sequence[PairStore]) -> None:
        self.stores = list(stores)
        if not self.stores:
            raise ValueError("Expected at least one store. Received none.")
        for name in ("image_shape", "clip_values"):
            if len(found := {getattr(store, name) for store in self.stores}) > 1:
                raise ValueError(f"Expected stores of one {name}. Received {sorted(found)}.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.stores[0].image_shape

    @property
    def clip_values(self) -> tuple[float, float]:
        """Range of the pixels."""
        return self.stores[0].clip_values

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, each once."""
        return tuple(dict.fromkeys(name for store in self.stores for name in store.attacks))

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs of each attack."""
        return {name: sum(store.counts.get(name, 0) for store in self.stores) for name in self.attacks}

    @property
    def sha256(self) -> str:
        """Of the stores' checksums, in their order."""
        return hashlib.sha256("".join(store.sha256 for store in self.stores).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stores!r})"

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        See :meth:`art_versatile.pairs.batches.Pairs.read`.

        :param names: Attacks.
        :param shuffle: See :meth:`dataset`.
        :param shuffle_buffer: See there; of each store.
        """
        import tensorflow as tf

        readers = [
            store.read([n for n in store.attacks if n in names], shuffle=shuffle, shuffle_buffer=shuffle_buffer)
            for store in self.stores
        ]
        filled = [number for number, reader in enumerate(readers) if reader.count]
        turns = tf.constant(np.repeat(np.arange(len(filled)), [readers[number].count for number in filled]))
        # From a store's number of an attack to the number here.
        indices = [tf.constant([self.attacks.index(name) for name in store.attacks], tf.int64) for store in self.stores]
        stateless = tf.random.experimental

        def records(of_shards: tf.Tensor, of_records: tf.Tensor) -> tf.data.Dataset:
            def part(number: int) -> tf.data.Dataset:
                seeds = [stateless.stateless_fold_in(seed, number) for seed in (of_shards, of_records)]
                return readers[number].records(*seeds).map(lambda record: (record, tf.constant(number)))

            parts = [part(number) for number in filled]
            order = stateless.stateless_shuffle(turns, seed=of_records) if shuffle else turns
            return tf.data.Dataset.choose_from_datasets(
                parts, tf.data.Dataset.from_tensor_slices(order), stop_on_empty_dataset=False
            )

        def decode(record: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            def of(reader: Reader, index: tf.Tensor) -> Any:
                def branch() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                    pair, label, attack = reader.decode(record)
                    return tf.cast(pair, tf.float32), label, tf.gather(index, attack)

                return branch

            return tf.switch_case(number, [of(*one) for one in zip(readers, indices, strict=True)])

        return Reader(records, lambda record: decode(*record), len(turns))


class ChosenPairs(Pairs):
    """
    The pairs of some attacks: what an attack-specific purifier is trained on.

    :param pairs: A store, several joined, or pairs in memory.
    :param attacks: Names of attacks; each also stands for its budgets ("PGD" for "PGD 4/255" and "PGD 8/255").
    :raises ValueError: If a name stands for no attack of the pairs.
    """

    def __init__(self, pairs: Pairs, attacks: Sequence[str]) -> None:
        self.pairs = pairs
        self._attacks: list[str] = []
        for wanted in attacks:
            found = [name for name in pairs.attacks if name == wanted or name.startswith(f"{wanted} ")]
            if not found:
                raise ValueError(f"Expected attacks among {list(pairs.attacks)}. Received {wanted!r}.")
            self._attacks += [name for name in found if name not in self._attacks]
        if not self._attacks:
            raise ValueError("Expected at least one attack. Received none.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.pairs.image_shape

    @property
    def clip_values(self) -> tuple[float, float]:
        """Range of the pixels."""
        return self.pairs.clip_values

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the chosen attacks."""
        return tuple(self._attacks)

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs of each of them."""
        return {name: self.pairs.counts[name] for name in self._attacks}

    @property
    def has_labels(self) -> bool:
        """Whether the pairs have labels."""
        return self.pairs.has_labels

    @property
    def sha256(self) -> str:
        """Of what the pairs are known by, and of the names."""
        known = getattr(self.pairs, "sha256", None) or getattr(self.pairs, "clean_sha256", "")
        return hashlib.sha256("\n".join([str(known), *self._attacks]).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pairs!r}, {self._attacks!r})"

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        See :meth:`art_versatile.pairs.batches.Pairs.read`.

        :param names: Attacks.
        :param shuffle: See :meth:`dataset`.
        :param shuffle_buffer: See there.
        """
        import tensorflow as tf

        reader = self.pairs.read(names, shuffle=shuffle, shuffle_buffer=shuffle_buffer)
        numbers = [self._attacks.index(name) if name in self._attacks else -1 for name in self.pairs.attacks]

        def decode(record: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            pair, label, attack = reader.decode(record)
            return pair, label, tf.gather(tf.constant(numbers, tf.int64), attack)

        return Reader(reader.records, decode, reader.count)
