"""One purifier against many adversarial attacks, for the Adversarial Robustness Toolbox."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from art_versatile._version import __version__ as __version__

if TYPE_CHECKING:
    from art_versatile.attacks.adaptive import adaptive_attacks as adaptive_attacks
    from art_versatile.attacks.compiled import compile_attack as compile_attack
    from art_versatile.attacks.compiled import compile_classifier as compile_classifier
    from art_versatile.attacks.suite import paper_attacks as paper_attacks
    from art_versatile.experiments.robustness import evaluate as evaluate
    from art_versatile.pairs.generate import generate_pairs as generate_pairs
    from art_versatile.pix2pix.schedule import PAPER_SCHEDULE as PAPER_SCHEDULE
    from art_versatile.pix2pix.schedule import LossSchedule as LossSchedule
    from art_versatile.purifier import VersatilePurifier as VersatilePurifier
    from art_versatile.trainer import VersatileTrainer as VersatileTrainer
    from art_versatile.training import train as train

# Importing TensorFlow takes seconds; it waits until a name that needs it is used.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "attacks.adaptive": ["adaptive_attacks"],
        "attacks.compiled": ["compile_attack", "compile_classifier"],
        "attacks.suite": ["paper_attacks"],
        "experiments.robustness": ["evaluate"],
        "pairs.generate": ["generate_pairs"],
        "pix2pix.schedule": ["PAPER_SCHEDULE", "LossSchedule"],
        "purifier": ["VersatilePurifier"],
        "trainer": ["VersatileTrainer"],
        "training": ["train"],
    },
)
__all__ += ["__version__"]
