"""(adversarial, clean) image pairs, the training data of a purifier: made from ART attacks, stored as tensors."""

from __future__ import annotations

from art_versatile.pairs.attacking import attack_in_memory
from art_versatile.pairs.batches import Pairs
from art_versatile.pairs.generate import generate_pairs
from art_versatile.pairs.joined import JoinedPairs
from art_versatile.pairs.memory import MemoryPairs
from art_versatile.pairs.store import PairStore

__all__ = ["JoinedPairs", "MemoryPairs", "PairStore", "Pairs", "attack_in_memory", "generate_pairs"]
