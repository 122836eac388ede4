"""An ART attack by the name of its class and its parameters, as ``ElasticNet:max_iter=20,beta=0.01``."""

from __future__ import annotations

import ast
import inspect
from typing import Any

__all__ = ["attack_class", "named_attack", "parse_attack"]

_NEVER = ("summary_writer",)  # it writes files


def parse_attack(text: str) -> tuple[str, dict[str, Any]]:
    """
    Name of the class and parameters. Nothing is evaluated but literals and the quotient of two numbers, as 8/255; ART
    is not imported.

    :param text: ``Class`` or ``Class:name=literal,name=literal``.
    :raises ValueError: If it is anything else.
    """
    name, _, given = text.partition(":")
    name = name.strip()
    form = "Expected an attack as Class:name=literal,name=literal, for example ElasticNet:max_iter=20."
    if not name.isidentifier():
        raise ValueError(f"{form} Received {text!r}.")
    try:
        call = ast.parse(f"f({given})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("a value without a name")
        found: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in found:
                raise ValueError("a name that is missing or there twice")
            found[keyword.arg] = _literal(keyword.value)
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError) as err:
        raise ValueError(f"{form} Received {text!r}: {err}") from err
    return name, found


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        numerator, denominator = ast.literal_eval(node.left), ast.literal_eval(node.right)
        return numerator / denominator
    return ast.literal_eval(node)


def attack_class(name: str, parameters: dict[str, Any]) -> type:
    """
    The class of ``art.attacks.evasion`` of that name.

    :param name: Of the class.
    :param parameters: That it is to be given.
    :raises ValueError: If there is no such class, it does not return images of the shape of those that it is given, a
        parameter is none of its, or the attack would be targeted.
    """
    import art.attacks.evasion as evasion
    from art.attacks import EvasionAttack

    from art_versatile.attacks.description import class_returns_images

    kinds = {
        key: kind
        for key, kind in vars(evasion).items()
        if isinstance(kind, type) and issubclass(kind, EvasionAttack) and class_returns_images(kind)
    }
    if name not in kinds:
        there = hasattr(evasion, name) and isinstance(getattr(evasion, name), type)
        raise ValueError(
            f"Expected a class of art.attacks.evasion that returns images of the shape of those it is given: "
            f"{sorted(kinds)}. Received {name!r}{', which returns something else' * there}."
        )
    # The first one is the classifier.
    known = [key for key in list(inspect.signature(kinds[name]).parameters)[1:] if key not in _NEVER]
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"Expected parameters of {name} among {known}. Received {unknown}.")
    if parameters.get("targeted"):
        raise ValueError(f"Expected an untargeted attack. Received {name} with targeted={parameters['targeted']!r}.")
    return kinds[name]


def named_attack(text: str, classifier: Any, *, batch_size: int | None = None) -> Any:
    """
    An attack on a classifier, compiled.

    :param text: As for :func:`parse_attack`.
    :param classifier: An ART ``TensorFlowV2Classifier``.
    :param batch_size: Images attacked at once, where the attack takes such a number and the text has none.
    :raises ValueError: As :func:`parse_attack` and :func:`attack_class` say, or if ART refuses the parameters or the
        classifier.
    """
    from art_versatile.attacks.compiled import compile_attack

    name, parameters = parse_attack(text)
    kind = attack_class(name, parameters)
    if batch_size is not None and "batch_size" in inspect.signature(kind).parameters:
        parameters.setdefault("batch_size", batch_size)
    try:
        return compile_attack(kind(classifier, **parameters))
    except Exception as err:  # whatever a class of ART's raises on parameters or a classifier that are none of its
        raise ValueError(f"Expected an attack that ART can make on this classifier. Received {text!r}: {err}") from err
