"""What of ART's objects has no public name: the attack inside an attack, a copy that shares its parts."""

from __future__ import annotations

import types
from typing import Any

__all__ = ["copied", "inner_attack"]


def copied(thing: Any, kind: type | None = None) -> Any:
    """
    A shallow copy of an ART attack or classifier.

    Not ``copy.copy``: ART's ``PyTorchClassifier`` would write its weights to a file and read them back.

    :param thing: The attack or classifier.
    :param kind: Class of the copy, one with the same attributes; None takes that of ``thing``.
    :return: The copy; a method that ``thing`` keeps of itself (``SquareAttack.loss``) is the copy's own.
    """
    made: Any = object.__new__(kind or type(thing))
    for name, value in vars(thing).items():
        bound = isinstance(value, types.MethodType) and value.__self__ is thing
        vars(made)[name] = types.MethodType(value.__func__, made) if bound else value
    return made


def inner_attack(attack: Any) -> Any:
    """
    The implementation that an attack hands its work to, as ``ProjectedGradientDescent`` does.

    :param attack: An ART attack.
    :return: An ART attack, or None. (``HopSkipJump`` has a method of that name, which is none.)
    """
    inner = getattr(attack, "_attack", None)
    return inner if hasattr(inner, "attack_params") else None
