"""(adversarial, clean) image pairs, the training data of a purifier: made from ART attacks, stored as tensors."""

from __future__ import annotations

from art_versatile.pairs.batches import Pairs
from art_versatile.pairs.generate import generate_pairs
from art_versatile.pairs.joined import ChosenPairs, JoinedPairs
from art_versatile.pairs.memory import ArrayPairs
from art_versatile.pairs.store import PairArrays, PairStore

__all__ = ["ArrayPairs", "ChosenPairs", "JoinedPairs", "PairArrays", "PairStore", "Pairs", "generate_pairs"]
