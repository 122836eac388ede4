"""ART attacks, set as in the paper. Knows ART, knows nothing of purifiers."""

from art_versatile.attacks.suite import attack_parameters, numpy_seed, paper_attacks, unseen_attacks

__all__ = ["attack_parameters", "numpy_seed", "paper_attacks", "unseen_attacks"]
