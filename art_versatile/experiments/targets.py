"""A classifier of this package, or of a file, with the paper's attacks on it: what each worker builds for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["attacked_classifier", "pixels_of", "right_images"]


def attacked_classifier(
    classifier: str,
    image_size: int = 256,
    *,
    names: Sequence[str] | None = None,
    budgets: Mapping[str, float] | None = None,
    max_iter: int | None = None,
    effort: str = "paper",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 32,
) -> tuple[Any, dict[str, Any]]:
    """
    A compiled classifier, and compiled attacks on it.

    With several budgets an attack's name says its own, "PGD 8/255"; C&W and DeepFool, which have none, are there once.

    :param classifier: Name of a classifier of this package, or a ``.keras`` file.
    :param image_size: Height and width in pixels.
    :param names: Of the attacks, out of :func:`art_versatile.attacks.paper_attacks`'s; None takes the paper's six.
    :param budgets: How a budget is written -> its value, a share of the pixel range.
    :param max_iter: Iterations of BIM, PGD and MI-FGSM; None takes the effort's.
    :param effort: "quick" or "paper".
    :param changes: Other settings than the effort's, see :func:`art_versatile.attacks.paper_attacks`.
    :param batch_size: Images attacked at once.
    :return: The classifier, and name -> attack.
    :raises ValueError: If a name, an effort, a budget or a count is not as expected.
    """
    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.classifiers import load_classifier

    budgets = {"16/255": 16 / 255} if budgets is None else budgets
    target = compile_classifier(load_classifier(classifier, image_size))
    attacks = {}
    settings: dict[str, Any] = {"max_iter": max_iter, "effort": effort, "changes": changes, "batch_size": batch_size}
    for text, eps in budgets.items():
        suite = paper_attacks(target, eps, names=names, **settings)
        for name, attack in suite.items():
            bounded = len(budgets) > 1 and hasattr(attack, "eps")
            attacks[f"{name} {text}" if bounded else name] = compile_attack(attack)
    return target, attacks


def pixels_of(classifier: Any) -> dict[str, Any]:
    """
    What a defence of this package is told of a classifier's pixels: ``clip_values`` and ``channels_first``.

    :param classifier: An ART classifier with ``clip_values``.
    """
    return {
        "clip_values": tuple(float(value) for value in classifier.clip_values),
        "channels_first": bool(getattr(classifier, "channels_first", False)),
    }


def right_images(classifier: Any, x: np.ndarray, y: np.ndarray, batch_size: int = 16) -> list[int]:
    """
    Which images a classifier gets right.

    :param classifier: An ART classifier.
    :param x: Images (N, H, W, 3), or (N, 3, H, W) with channels first, in its ``clip_values``.
    :param y: True class indices (N,).
    :param batch_size: Images classified at once.
    :return: Their places, ascending.
    :raises ValueError: If there is none.
    """
    from art_versatile.attacks.compiled import compile_classifier
    from art_versatile.evaluation.metrics import hits

    target = compile_classifier(classifier)
    parts = [slice(i, i + batch_size) for i in range(0, len(x), batch_size)]
    right = np.concatenate([hits(target.predict(x[part]), y[part]) for part in parts])
    if not right.any():
        raise ValueError(f"Expected images that the classifier gets right. Received {len(x)} that it gets wrong.")
    return [int(i) for i in np.flatnonzero(right)]
