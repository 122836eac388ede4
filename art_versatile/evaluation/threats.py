"""Whether an attack is of the threat model that is said, and what a record says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from art_versatile._checks import check_choice
from art_versatile.attacks.description import (
    attack_norm,
    attack_parameters,
    attacked_classifiers,
    goes_through,
    returns_images,
    takes_gradients,
)
from art_versatile.evaluation.records import THREAT_MODELS

__all__ = ["attack_facts", "budget_flags", "check_threat"]


def check_threat(
    attack: Any, threat_model: str, classifier: Any, defences: Mapping[str, Any], defence: str | None
) -> None:
    """
    Check that an attack is what its record will say.

    :param attack: An ART attack.
    :param threat_model: "static", "transfer", "query" or "adaptive".
    :param classifier: The undefended classifier that is measured.
    :param defences: Name -> ART preprocessor.
    :param defence: Name of the defence that is attacked, None for static and transferred attacks.
    :raises ValueError: If the attack is targeted or returns no images, goes round the defence or through one too many,
        is on another classifier, or takes gradients where it is said to take none or none where it is said to take
        them.
    """
    check_choice("threat_model", threat_model, THREAT_MODELS[1:])
    if getattr(attack, "targeted", False):
        raise ValueError(f"Expected an untargeted attack. Received a targeted {type(attack).__name__}.")
    if not returns_images(attack):
        raise ValueError(
            "Expected an attack that returns images of the shape of those it is given. Received "
            f"{type(attack).__name__}."
        )
    classifiers = attacked_classifiers(attack)
    behind = [getattr(item, "preprocessing_defences", None) for item in classifiers]
    if threat_model in ("query", "adaptive"):
        check_choice("defence", defence or "", list(defences))
        if not goes_through(attack, defences[str(defence)]):
            raise ValueError(
                f"Expected an attack built on the classifier behind {defence!r} alone. Received "
                f"{type(attack).__name__} on {behind}."
            )
        if takes_gradients(attack) != (threat_model == "adaptive"):
            wanted = "with" if threat_model == "adaptive" else "without"
            raise ValueError(f"Expected an attack {wanted} gradients. Received {type(attack).__name__}.")
    elif defence is not None:
        raise ValueError(f"Expected defence to be None for a {threat_model} attack. Received {defence!r}.")
    elif threat_model == "static" and any(behind):
        raise ValueError(
            f"Expected a static attack to be built on the undefended classifier. Received one through {behind}."
        )
    model = getattr(classifier, "model", None)
    own = all(item is classifier or getattr(item, "model", None) is model for item in classifiers)
    if threat_model != "transfer" and not own:
        raise ValueError(
            "Expected an attack on the classifier that is defended. Received one on another: that is "
            "threat_model='transfer'."
        )


def attack_facts(attack: Any, clip_values: tuple[float, float]) -> dict[str, Any]:
    """
    What a record says of an attack, but for its name and threat model.

    :param attack: An ART attack.
    :param clip_values: Range of the classifier's pixels; ``eps`` becomes a share of its width.
    :return: Fields of an :class:`~art_versatile.evaluation.EvaluationRecord`.
    """
    parameters = attack_parameters(attack)
    eps = parameters.get("eps")
    iterations = 1 if parameters["class"] == "FastGradientMethod" else parameters.get("max_iter")
    facts: dict[str, Any] = {
        "attack_parameters": parameters,
        "norm": attack_norm(attack),
        # ART takes arrays, too.
        "eps": eps / (clip_values[1] - clip_values[0]) if isinstance(eps, int | float) else None,
        "iterations": iterations if isinstance(iterations, int) and iterations > 0 else None,
    }
    for classifier in attacked_classifiers(attack)[:1]:
        if classifier.preprocessing_defences and takes_gradients(attack):
            bpda = any(hasattr(item, "defence") for item in classifier.preprocessing_defences)
            facts |= {"gradient": "bpda" if bpda else "exact", "eot_samples": getattr(classifier, "eot_samples", 1)}
    return facts


def budget_flags(change: np.ndarray, norm: Any, eps: float | None) -> tuple[str, ...]:
    """
    Whether images are within the budget that their record states.

    :param change: Attacked minus clean images (N, ...), as a share of the pixel range.
    :param norm: Norm of the budget.
    :param eps: The budget, or None.
    :return: Flags for the record: none, or one.
    """
    if eps is None:
        return ()
    order = {"inf": np.inf, "1": 1, "2": 2}.get(str(norm))
    if order is None:
        return (f"the budget was not measured: norm {norm}",)
    largest = float(np.linalg.norm(change.reshape(len(change), -1).astype(np.float64), ord=order, axis=1).max())
    return () if largest <= eps * (1 + 1e-4) + 1e-6 else (f"over budget: {largest:.6g} in place of {eps:.6g}",)
