"""The rows of a page's gallery, from a benchmark and what its attacks made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from art_versatile.reports.html import Panel, Prediction

if TYPE_CHECKING:
    from art_versatile.evaluation.benchmark import Benchmark

__all__ = ["make_panels"]


def make_panels(
    benchmark: Benchmark,
    defence: str,
    attacked: Mapping[str, np.ndarray],
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Panel]:
    """
    The first image under the first attack, the second under the second, and so on: in order, none chosen.

    :param benchmark: Of pixels in [0, 1], channels last.
    :param defence: Name of the defence that is shown; it keeps the size.
    :param attacked: Name of an attack -> its images, in the benchmark's order.
    :param names: Of the images; by default their numbers.
    :param class_names: Of the classes; by default their numbers.
    :return: One panel an attack.
    """

    def called(label: int) -> str:
        return f"class {label}" if class_names is None else class_names[label]

    def said(image: np.ndarray, label: int) -> Prediction:
        probabilities = softmax(benchmark.predict(image[None])[0].astype(np.float64))
        top = int(probabilities.argmax())
        return Prediction(label=called(top), confidence=float(probabilities[top]), correct=top == label)

    panels = []
    for place, (attack, images) in enumerate(attacked.items()):
        i = place % len(benchmark.x)
        label = int(benchmark.y[i])
        purified = benchmark.purified(defence, images[i : i + 1])[0]
        panels.append(
            Panel(
                name=f"image {i}" if names is None else names[i],
                attack=attack,
                clean=benchmark.x[i],
                adversarial=images[i],
                purified=purified,
                true_label=called(label),
                clean_prediction=said(benchmark.x[i], label),
                adversarial_prediction=said(images[i], label),
                purified_prediction=said(purified, label),
            )
        )
    return panels
