"""ART attacks, set as in the paper, and made fast on TensorFlow. Knows ART, knows nothing of purifiers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_versatile.attacks.adaptive import adaptive_attacks
    from art_versatile.attacks.compiled import (
        CompiledDeepFool,
        CompiledTensorFlowV2Classifier,
        DifferenceLogitsRatio,
        compile_attack,
        compile_classifier,
    )
    from art_versatile.attacks.description import attack_parameters
    from art_versatile.attacks.seeding import isolated_seed
    from art_versatile.attacks.suite import paper_attacks, unseen_attacks

__all__ = [
    "CompiledDeepFool",
    "CompiledTensorFlowV2Classifier",
    "DifferenceLogitsRatio",
    "adaptive_attacks",
    "attack_parameters",
    "compile_attack",
    "compile_classifier",
    "isolated_seed",
    "paper_attacks",
    "unseen_attacks",
]

_HOME = {
    "CompiledDeepFool": "compiled",
    "CompiledTensorFlowV2Classifier": "compiled",
    "DifferenceLogitsRatio": "compiled",
    "adaptive_attacks": "adaptive",
    "attack_parameters": "description",
    "compile_attack": "compiled",
    "compile_classifier": "compiled",
    "isolated_seed": "seeding",
    "paper_attacks": "suite",
    "unseen_attacks": "suite",
}


def __getattr__(name: str) -> Any:
    # As in the package above: importing ART and TensorFlow takes seconds.
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
