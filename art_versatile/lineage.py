"""Where weights come from and what each update changed, read from their cards alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from art_versatile import weights

__all__ = ["Listed", "Matrix", "accuracy_matrix", "find_weights"]


@dataclass(frozen=True)
class Listed:
    """
    Weights with their card.

    :param name: A shipped name, or the path of a folder.
    :param card: The card.
    """

    name: str
    card: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """Of the weights file."""
        return self.card["weights"]["sha256"]

    @property
    def updates(self) -> Sequence[Mapping[str, Any]]:
        """What the card says of each update, the first one first."""
        return self.card.get("lineage", [])


@dataclass(frozen=True)
class Matrix:
    """
    Accuracy of two purifiers.

    :param rows: "clean" and each attack -> both accuracies, 0 to 1; None where one was not measured.
    :param same_pairs: Whether both were measured on the same held images.
    """

    rows: Mapping[str, tuple[float | None, float | None]]
    same_pairs: bool


def find_weights(folders: Iterable[str | Path] = (), *, depth: int = 3) -> list[Listed]:
    """
    The weights that ship, and those under folders.

    :param folders: Folders.
    :param depth: How many folders below one a card may be; hidden ones are left out.
    :return: Shipped ones by name, then the others by path. What is no card of this package is left out.
    """
    found = [Listed(name, card) for name, card in weights.shipped_cards().items()]
    for folder in folders:
        cards = {card for level in range(depth + 1) for card in Path(folder).glob("*/" * level + weights.CARD)}
        for path in sorted(cards):
            if any(part.startswith(".") and part not in (".", "..") for part in path.relative_to(folder).parts):
                continue
            try:
                found.append(Listed(str(path.parent), weights.read_card(path.parent)))
            except ValueError:
                continue
    return found


def accuracy_matrix(first: Listed, second: Listed) -> Matrix:
    """
    What two purifiers do against each attack, as their updates measured it.

    :param first: The one.
    :param second: The other: where an update of its line began with ``first``, what was measured before that one counts
        for ``first``.
    :raises ValueError: If one has not been measured.
    """
    (a, held_a), (b, held_b) = _measured(first, second), _measured(second, first)
    return Matrix({name: (a.get(name), b.get(name)) for name in dict.fromkeys([*b, *a])}, held_a == held_b)


def _measured(one: Listed, other: Listed) -> tuple[Mapping[str, float], str]:
    """Accuracy by attack, and the checksum of the held images."""
    for update in reversed(other.updates):
        if update["parent"]["sha256"] == one.sha256:
            return update["accuracy"]["before"], update["held"]["clean_sha256"]
    if one.updates:
        return one.updates[-1]["accuracy"]["after"], one.updates[-1]["held"]["clean_sha256"]
    raise ValueError(
        f"Expected weights that an update made, or that the other ones were updated from. Received {one.name!r}, whose "
        "card has no such figures."
    )
