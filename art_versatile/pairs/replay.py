"""Old pairs that are trained on again, and held ones: drawn, joined and split in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from art_versatile._checks import check_integer, check_number
from art_versatile.pairs._sources import attacks_per_image
from art_versatile.pairs.attacking import attack_in_memory, check_target
from art_versatile.pairs.batches import Pairs, quotas
from art_versatile.pairs.joined import JoinedPairs
from art_versatile.pairs.memory import MemoryPairs
from art_versatile.pairs.store import PairStore

__all__ = ["HELD_SHARE", "UpdateSource", "drawn", "joined", "split_off"]

HELD_SHARE = 0.2
"""Of the images, or of the pairs, that are held out where no others are given to be held."""


def drawn(pairs: Pairs, limit: int, seed: int = 0) -> MemoryPairs:
    """
    At most so many pairs in memory, evenly over the attacks: of pairs in memory at random, of a store the first of each
    attack, which are in random order; of several stores evenly over the stores.

    :param pairs: A store, several (:class:`~art_versatile.pairs.JoinedPairs`), or pairs in memory.
    :param limit: At least 1.
    :param seed: Of what is drawn.
    :raises ValueError: If the limit is below 1.
    :raises TypeError: If the pairs are of another kind.
    """
    check_integer("limit", limit)
    if isinstance(pairs, PairStore):
        return pairs.arrays(limit)
    if isinstance(pairs, JoinedPairs):
        shares = quotas({str(i): len(store) for i, store in enumerate(pairs.stores)}, limit)
        return joined(
            [store.arrays(share) for store, share in zip(pairs.stores, shares.values(), strict=True) if share]
        )
    if not isinstance(pairs, MemoryPairs):
        raise TypeError(f"Expected pairs in memory or in stores. Received {type(pairs).__name__}.")
    rng, rows = np.random.default_rng(seed), []
    for number, quota in enumerate(quotas(pairs.counts, limit).values()):
        rows.append(rng.permutation(np.flatnonzero(pairs.indices == number))[:quota])
    return _taken(pairs, np.sort(np.concatenate(rows)))


def joined(parts: Sequence[MemoryPairs]) -> MemoryPairs:
    """
    Pairs in memory, one after another; an attack of the same name is one attack.

    :param parts: At least one; of one image shape and range of pixels.
    :return: The pairs. Images of different parts have different numbers.
    :raises ValueError: If there is none, or they do not belong together.
    """
    if not parts:
        raise ValueError("Expected at least one part. Received none.")
    for name in ("image_shape", "clip_values"):
        if len(found := {getattr(part, name) for part in parts}) > 1:
            raise ValueError(f"Expected pairs of one {name}. Received {sorted(found)}.")
    names = list(dict.fromkeys(name for part in parts for name in part.attacks))
    images, first = [], 0
    for part in parts:
        if part.images is not None:
            images.append(part.images + first)
            first += int(part.images.max()) + 1
    return MemoryPairs(
        np.concatenate([part.adversarial for part in parts]),
        np.concatenate([part.clean for part in parts]),
        np.concatenate([part.labels for part in parts]) if all(part.has_labels for part in parts) else None,
        np.concatenate([np.array([names.index(name) for name in part.attacks])[part.indices] for part in parts]),
        names,
        images=np.concatenate(images) if len(images) == len(parts) else None,
        clip_values=parts[0].clip_values,
    )


def split_off(pairs: MemoryPairs, share: float, seed: int = 0) -> tuple[MemoryPairs, MemoryPairs]:
    """
    Two parts that have no image in common, where the images are known; else no pair.

    :param pairs: The pairs.
    :param share: Of the images in the second part, 0 to 1; at least one image is in each part.
    :param seed: Of the choice.
    :raises ValueError: If the share is not from 0 to 1, or there are fewer than two images.
    """
    check_number("share", share, 0, 1)
    of_pairs = np.arange(len(pairs)) if pairs.images is None else pairs.images
    images = np.random.default_rng(seed).permutation(np.unique(of_pairs))
    if len(images) < 2:
        raise ValueError(f"Expected at least two images to split. Received {len(images)}.")
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    second = np.isin(of_pairs, images[:count])
    return _taken(pairs, np.flatnonzero(~second)), _taken(pairs, np.flatnonzero(second))


def _taken(pairs: MemoryPairs, rows: np.ndarray) -> MemoryPairs:
    return MemoryPairs(
        pairs.adversarial[rows],
        pairs.clean[rows],
        pairs.labels[rows] if pairs.has_labels else None,
        pairs.indices[rows],
        pairs.attacks,
        images=None if pairs.images is None else pairs.images[rows],
        clip_values=pairs.clip_values,
    )


@dataclass(frozen=True)
class UpdateSource:
    """
    Where the pairs of an update come from: new ones, old ones that are replayed, held ones of both.

    :param classifier: ART classifier.
    :param known: Name -> old attack.
    :param new: Images (N, H, W, 3) in the classifier's ``clip_values`` and their labels or None; or pairs of the new
        attacks.
    :param attacks: Name -> new attack; empty where ``new`` is pairs.
    :param old: Pairs of old attacks; None makes them of the images, with the old attacks.
    :param memory: Old pairs that are replayed, at most; 0 replays none.
    :param held: Held pairs; or images and labels, which are attacked; or None: a fifth of the images, or of the pairs.
    :param split: Attacks an image, as in :func:`~art_versatile.pairs.attack_in_memory`.
    :param batch_size: As there.
    :param seed: As there, and of the choice of what is held.
    :param verbose: As there.
    :raises ValueError: If something is missing or does not go together.
    :raises TypeError: If pairs are not in memory or in stores.
    """

    classifier: Any
    known: Mapping[str, Any]
    new: Pairs | tuple[np.ndarray, np.ndarray | None]
    attacks: Mapping[str, Any]
    old: Pairs | None = None
    memory: int = 256
    held: MemoryPairs | tuple[np.ndarray, np.ndarray | None] | None = None
    split: str | int = "one_per_image"
    batch_size: int = 32
    seed: int = 0
    verbose: bool = True

    def __post_init__(self) -> None:
        check_integer("memory", self.memory, least=0)
        for pairs in (self.new, self.old):
            if isinstance(pairs, Pairs) and not isinstance(pairs, MemoryPairs | PairStore | JoinedPairs):
                raise TypeError(f"Expected pairs in memory or in stores. Received {type(pairs).__name__}.")
            if isinstance(pairs, Pairs) and pairs.image_shape != self.image_shape:
                raise ValueError(f"Expected old pairs of {self.image_shape}. Received {pairs.image_shape}.")
        if self.old is not None and not self.memory:
            raise ValueError("Expected a memory of at least 1 with old pairs. Received 0.")
        if isinstance(self.new, Pairs):
            if self.attacks:
                raise ValueError(f"Expected no attacks with pairs of them. Received {list(self.attacks)}.")
            if isinstance(self.held, tuple):
                raise ValueError("Expected held pairs, or None, with pairs of the new attacks. Received images.")
            return
        check_target((self.classifier, self.attacks))
        if clash := sorted(set(self.attacks) & set(self.known if self.old is None else self.old.attacks)):
            raise ValueError(f"Expected new attacks of other names than the old ones. Received {clash} as both.")
        kept, replayed, held = self._rows(len(self.new[0]))
        old = {} if self.old is not None else self.known
        needed = [("images", kept, self.attacks)]
        if self.memory:
            needed.append(("images for the memory", replayed, old))
        if not isinstance(self.held, MemoryPairs):
            size = held if self.held is None else np.arange(len(self.held[0]))
            needed += [("held images", size, self.attacks), ("held images", size, old)]
        for what, rows, attacks in needed:
            if len(rows) * self._each(attacks) < len(attacks):
                raise ValueError(f"Expected {what} for each of {list(attacks)}. Received {len(rows)}.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        if isinstance(self.new, Pairs):
            return self.new.image_shape
        height, width, channels = self.new[0].shape[1:]
        return height, width, channels

    @property
    def count(self) -> int:
        """Pairs that are held in memory, at most."""
        new = len(self.new) if isinstance(self.new, Pairs) else len(self.new[0]) * self._each(self.attacks)
        held = 0 if self.held is None or isinstance(self.held, Pairs) else 2 * len(self.held[0])
        return new + (self.memory + self.memory // 4 if self.replayed_names else 0) + held

    @property
    def new_names(self) -> tuple[str, ...]:
        """Of the new attacks."""
        return _filled(self.new) if isinstance(self.new, Pairs) else tuple(self.attacks)

    @property
    def replayed_names(self) -> tuple[str, ...]:
        """Of the attacks whose pairs are replayed."""
        if self.old is not None:
            return _filled(self.old)
        return () if isinstance(self.new, Pairs) or not self.memory else tuple(self.known)

    @property
    def held_names(self) -> tuple[str, ...]:
        """Of the attacks of held pairs."""
        if isinstance(self.held, MemoryPairs):
            return _filled(self.held)
        old = self.replayed_names if self.old is not None or isinstance(self.new, Pairs) else tuple(self.known)
        return tuple(dict.fromkeys([*self.new_names, *old]))

    @property
    def unscaled(self) -> tuple[str, ...]:
        """Names of attacks without a budget: a part of what they do is no example of them."""
        stores = [s for p in (self.new, self.old) for s in (getattr(p, "stores", [p]) if isinstance(p, Pairs) else [])]
        described = [a for s in stores if isinstance(s, PairStore) for a in s.manifest["parameters"]["attacks"]]
        return (
            *(name for name, attack in {**self.known, **self.attacks}.items() if not hasattr(attack, "eps")),
            *(a["name"] for a in described if "eps" not in a.get("parameters", {"eps": None})),
        )

    def make(self) -> tuple[MemoryPairs, MemoryPairs | None, MemoryPairs]:
        """
        Attack what is to be attacked.

        :return: Pairs of the new attacks, those that are replayed (None for none), held ones of both.
        """
        held: list[MemoryPairs] = [self.held] if isinstance(self.held, MemoryPairs) else []
        old = None
        if self.old is not None:
            # The memory, and a fifth of the whole to hold where no pairs are held.
            old = drawn(self.old, self.memory if held else -(-5 * self.memory // 4), self.seed)
            if not isinstance(self.held, MemoryPairs):
                old, part = split_off(old, HELD_SHARE, self.seed)
                held.append(part)
        if isinstance(self.new, Pairs):
            new = drawn(self.new, len(self.new), self.seed)
            if not isinstance(self.held, MemoryPairs):
                new, part = split_off(new, HELD_SHARE, self.seed)
                held.insert(0, part)
            return new, old, joined(held)
        x, y = self.new
        kept, replayed, rest = self._rows(len(x))
        new = self._attacked(self.attacks, x, y, kept)
        if self.old is None and self.memory:
            old = self._attacked(self.known, x, y, replayed)
        if not isinstance(self.held, MemoryPairs):
            xv, yv, rows = (x, y, rest) if self.held is None else (*self.held, np.arange(len(self.held[0])))
            held.insert(0, self._attacked(self.attacks, xv, yv, rows))
            if self.old is None:
                held.append(self._attacked(self.known, xv, yv, rows))
        return new, old, joined(held)

    def _rows(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images for the new attacks, for the old ones among them, and those that are held out."""
        order = np.random.default_rng([self.seed, 2]).permutation(count)
        out = max(round(HELD_SHARE * count), 1) if self.held is None else 0
        kept = order[out:]
        return np.sort(kept), np.sort(kept[: self.memory]), np.sort(order[:out])

    def _split(self, attacks: Mapping[str, Any]) -> str | int:
        return self.split if isinstance(self.split, str) else min(self.split, max(len(attacks), 1))

    def _each(self, attacks: Mapping[str, Any]) -> int:
        return attacks_per_image(self._split(attacks), max(len(attacks), 1))

    def _attacked(
        self, attacks: Mapping[str, Any], x: np.ndarray, y: np.ndarray | None, rows: np.ndarray
    ) -> MemoryPairs:
        return attack_in_memory(
            x[rows],
            self.classifier,
            attacks,
            labels=None if y is None else y[rows],
            split=self._split(attacks),
            batch_size=self.batch_size,
            seed=self.seed,
            verbose=self.verbose,
        )


def _filled(pairs: Pairs) -> tuple[str, ...]:
    return tuple(name for name, count in pairs.counts.items() if count)
