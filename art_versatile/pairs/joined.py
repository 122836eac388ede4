"""Several stores of pairs read as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile.pairs.batches import Pairs, Reader
from art_versatile.pairs.store import PairStore

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["JoinedPairs"]


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

    @property
    def identity(self) -> dict[str, Any]:
        """Their checksum."""
        return {"pairs_sha256": self.sha256}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stores!r})"

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        How the pairs of some attacks are read.

        :param names: Attacks.
        :param shuffle: Mix the stores evenly over the epoch, each epoch in an order of its own.
        :param shuffle_buffer: Bytes that the shuffling of each store may hold in memory.
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
