"""What an attack is, as JSON: for the manifest of a store of pairs, and for the records of an evaluation."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from art.attacks.evasion import (
    CarliniL0Method,
    CarliniL2Method,
    CarliniLInfMethod,
    DeepFool,
    FastGradientMethod,
    NewtonFool,
)
from art.estimators.classification.classifier import ClassGradientsMixin
from art.estimators.estimator import LossGradientsMixin

from art_versatile.attacks.compiled.objects import inner_attack

__all__ = [
    "attack_norm",
    "attack_parameters",
    "attacked_classifiers",
    "class_returns_images",
    "describe_attack",
    "goes_through",
    "plain_value",
    "returns_images",
    "takes_gradients",
]

# Those whose class says it, not a parameter; a subclass before its base.
_NORMS = {CarliniL0Method: "0", CarliniL2Method: "2", CarliniLInfMethod: "inf", DeepFool: "2", NewtonFool: "2"}

# Classes whose ``generate`` returns a patch, a texture or a pair of arrays; several cannot be imported without PyTorch.
_NO_IMAGES = {
    "AdversarialPatch",
    "AdversarialPatchNumpy",
    "AdversarialPatchPyTorch",
    "AdversarialPatchTensorFlowV2",
    "AdversarialTexturePyTorch",
    "DPatch",
    "RobustDPatch",
}

# They change no result.
_UNSAID = ("summary_writer", "verbose")
_UNSAID_IN_RECORDS = ("estimator", "estimator_orig", "parallel", "parallel_pool_size")


def attack_parameters(attack: Any) -> dict[str, Any]:
    """
    The parameters of an attack, for a reader: those that change its result, in one level.

    :param attack: An ART attack.
    :return: "class" and the parameters, JSON values; under "attacks" (of AutoAttack) one such dictionary for each
        member. ``FastGradientMethod`` takes one step of ``eps``; its ``eps_step``, which only a search for the minimal
        perturbation uses, is left out where there is none.
    """
    described = describe_attack(attack)
    parameters = {"class": described["class"]}
    for name, value in described["parameters"].items():
        given = getattr(attack, name, None)
        if name == "attacks":
            parameters[name] = [attack_parameters(member) for member in given or []]
        elif name in _UNSAID_IN_RECORDS or callable(given) or (name == "eps_step" and _takes_one_step(attack)):
            continue
        else:
            parameters[name] = value
    return parameters


def attack_norm(attack: Any) -> str | float | None:
    """
    The norm that an attack keeps its perturbation small in.

    :param attack: An ART attack.
    :return: Its parameter ``norm``; without one, what its class is known for (C&W, DeepFool, ...); else None.
    """
    norm = getattr(attack, "norm", None)
    if norm is not None:
        return plain_value(norm)
    return next((name for kind, name in _NORMS.items() if isinstance(attack, kind)), None)


def describe_attack(attack: Any) -> dict[str, Any]:
    """
    Everything that the result of an attack depends on, as the manifest of a store holds it.

    Stores are compared by it when they are gone on with: another form of it would refuse the stores that there are.
    A class that makes another's images by other means is described as the other (``described_as``).

    :param attack: An ART attack.
    :return: "class", "parameters", and the same of the attack's implementation as "inner" where it has one.
    """
    inner = inner_attack(attack)
    description: dict[str, Any] = {
        "class": getattr(attack, "described_as", type(attack).__name__),
        "parameters": {
            name: plain_value(getattr(attack, name, getattr(inner, name, None)))
            for name in attack.attack_params
            if name not in _UNSAID
        },
    }
    if inner is not None:
        description["inner"] = describe_attack(inner)
    return description


def attacked_classifiers(attack: Any) -> list[Any]:
    """
    Every classifier that an attack computes on, its own and those of the attacks inside it.

    :param attack: An ART attack.
    :return: Each once.
    """
    found = [getattr(attack, name, None) for name in ("estimator", "estimator_orig")]
    for part in _parts(attack):
        found += attacked_classifiers(part)
    return list({id(item): item for item in found if item is not None}.values())


def goes_through(attack: Any, defence: Any) -> bool:
    """
    Whether every classifier that an attack computes on has the defence and no other, itself or with another way back.

    :param attack: An ART attack.
    :param defence: An ART preprocessor.
    """
    classifiers = attacked_classifiers(attack)
    for classifier in classifiers:
        defences = classifier.preprocessing_defences or []
        if len(defences) != 1 or not defences[0].apply_predict:
            return False
        if defence is not defences[0] and defence is not getattr(defences[0], "defence", None):
            return False
    return bool(classifiers)


def takes_gradients(attack: Any) -> bool:
    """
    Whether an attack asks its classifier for gradients, and not for predictions alone.

    :param attack: An ART attack.
    """
    needed = getattr(attack, "estimator_requirements", ())
    if any(isinstance(kind, type) and issubclass(kind, LossGradientsMixin | ClassGradientsMixin) for kind in needed):
        return True
    return any(takes_gradients(part) for part in _parts(attack))


def returns_images(attack: Any) -> bool:
    """
    Whether an attack answers with images of the shape of those that it is given.

    :param attack: An ART attack; those that make a patch or a texture answer with that.
    """
    return class_returns_images(type(attack))


def class_returns_images(kind: type) -> bool:
    """
    Whether the attacks of a class answer with images of the shape of those that they are given.

    :param kind: A class of ART's attacks.
    """
    return not any(base.__name__ in _NO_IMAGES for base in kind.__mro__)


def _parts(attack: Any) -> list[Any]:
    """The attacks inside an attack: its implementation, the members of an ensemble."""
    inner = inner_attack(attack)
    return [*([] if inner is None else [inner]), *(getattr(attack, "attacks", None) or [])]


def plain_value(value: Any) -> Any:
    """
    A parameter in JSON, the same at each start: no address of an object is in it.

    :param value: A number, an array, an attack, a function, ...
    :return: Numbers, strings, lists, None; infinity and NaN as strings; the checksum of a large array; the name of
        anything else.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= 16):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.ndarray):
        sha256 = hashlib.sha256(value.tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": sha256}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if hasattr(value, "attack_params"):
        return describe_attack(value)
    return getattr(value, "__name__", type(value).__name__)


def _takes_one_step(attack: Any) -> bool:
    # ART's projected gradient descents are its subclasses, with steps of eps_step.
    single = isinstance(attack, FastGradientMethod) and "max_iter" not in attack.attack_params
    return single and not attack.minimal
