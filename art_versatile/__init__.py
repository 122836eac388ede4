"""One purifier against many adversarial attacks, for the Adversarial Robustness Toolbox."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from art_versatile._version import __version__

if TYPE_CHECKING:
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule
    from art_versatile.purifier import VersatilePurifier
    from art_versatile.trainer import VersatileTrainer

__all__ = [
    "PAPER_SCHEDULE",
    "LossSchedule",
    "VersatilePurifier",
    "VersatileTrainer",
    "__version__",
    "paper_attacks",
]

_HOME = {
    "PAPER_SCHEDULE": "art_versatile.pix2pix.schedule",
    "LossSchedule": "art_versatile.pix2pix.schedule",
    "VersatilePurifier": "art_versatile.purifier",
    "VersatileTrainer": "art_versatile.trainer",
    "paper_attacks": "art_versatile.attacks.suite",
}


def __getattr__(name: str) -> Any:
    # Importing TensorFlow takes seconds; it waits until a name that needs it is used.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
