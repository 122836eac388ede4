"""Several stores of pairs, read as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_bool
from art_versatile.pairs.batches import check_attacks, make_batches
from art_versatile.pairs.store import PairStore

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["JoinedPairs"]


class JoinedPairs:
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

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stores!r})"

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

        Shuffled, the stores are mixed evenly over the epoch; otherwise they come one after the other.

        :param batch_size: Pairs in a batch.
        :param crop: See there, as for the following.
        :param crop_step: Places of the windows.
        :param flip: Mirror half of the pairs.
        :param shuffle: Otherwise the order is that of the stores.
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
        names = check_attacks(self.attacks if attacks is None else attacks, self.attacks)
        taken = [[name for name in store.attacks if name in names] for store in self.stores]
        counts = [sum(store.counts[name] for name in own) for store, own in zip(self.stores, taken, strict=True)]
        readers = [
            (number, store.records(own, shuffle=shuffle))
            for number, (store, own, count) in enumerate(zip(self.stores, taken, counts, strict=True))
            if count
        ]
        turns = tf.constant(np.repeat(np.arange(len(readers)), [count for count in counts if count]))
        # From a store's number of an attack to the number here.
        indices = [tf.constant([self.attacks.index(name) for name in store.attacks], tf.int64) for store in self.stores]
        stateless = tf.random.experimental

        def records(of_shards: tf.Tensor, of_records: tf.Tensor) -> tf.data.Dataset:
            def part(number: int, read: Any) -> tf.data.Dataset:
                seeds = [stateless.stateless_fold_in(seed, number) for seed in (of_shards, of_records)]
                return read(*seeds).map(lambda record: (record, tf.constant(number)))

            parts = [part(number, read) for number, read in readers]
            order = stateless.stateless_shuffle(turns, seed=of_records) if shuffle else turns
            return tf.data.Dataset.choose_from_datasets(
                parts, tf.data.Dataset.from_tensor_slices(order), stop_on_empty_dataset=False
            )

        def decode(record: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            def of(store: PairStore, index: tf.Tensor) -> Any:
                def branch() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                    pair, label, attack = store.decode(record)
                    return tf.cast(pair, tf.float32), label, tf.gather(index, attack)

                return branch

            return tf.switch_case(number, [of(*one) for one in zip(self.stores, indices, strict=True)])

        return make_batches(
            records,
            lambda record: decode(*record),
            count=len(turns),
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
