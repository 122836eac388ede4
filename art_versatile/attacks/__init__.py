"""ART attacks, set as in the paper, and made fast on TensorFlow. Knows ART, knows nothing of purifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from art_versatile.attacks.adaptive import BackwardPassIdentity as BackwardPassIdentity
    from art_versatile.attacks.adaptive import adaptive_attacks as adaptive_attacks
    from art_versatile.attacks.adaptive import query_attacks as query_attacks
    from art_versatile.attacks.adaptive import through as through
    from art_versatile.attacks.compiled import CompiledDeepFool as CompiledDeepFool
    from art_versatile.attacks.compiled import CompiledTensorFlowV2Classifier as CompiledTensorFlowV2Classifier
    from art_versatile.attacks.compiled import DifferenceLogitsRatio as DifferenceLogitsRatio
    from art_versatile.attacks.compiled import compile_attack as compile_attack
    from art_versatile.attacks.compiled import compile_classifier as compile_classifier
    from art_versatile.attacks.description import attack_parameters as attack_parameters
    from art_versatile.attacks.seeding import isolated_seed as isolated_seed
    from art_versatile.attacks.suite import UNSEEN as UNSEEN
    from art_versatile.attacks.suite import paper_attacks as paper_attacks

# Importing ART and TensorFlow takes seconds: it waits until a name that needs them is used.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "adaptive": ["BackwardPassIdentity", "adaptive_attacks", "query_attacks", "through"],
        "compiled": [
            "CompiledDeepFool",
            "CompiledTensorFlowV2Classifier",
            "DifferenceLogitsRatio",
            "compile_attack",
            "compile_classifier",
        ],
        "description": ["attack_parameters"],
        "seeding": ["isolated_seed"],
        "suite": ["UNSEEN", "paper_attacks"],
    },
)
