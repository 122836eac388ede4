"""What the experiments show on the way and at the end: a line of text an attack, the rows of a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from art_versatile.reports.html import Panel, Prediction
from art_versatile.reports.tables import attack_name, format_eps

if TYPE_CHECKING:
    from art_versatile.evaluation.benchmark import Benchmark
    from art_versatile.evaluation.records import EvaluationRecord

__all__ = ["in_turn", "make_panels", "progress_line"]


def progress_line(records: Sequence[EvaluationRecord], attack: str, threat_model: str) -> str:
    """
    What the last cells of an attack say, in one line.

    :param records: Of one run.
    :param attack: Name of the attack.
    :param threat_model: Its threat model.
    :return: As ``"PGD at 8/255: none 0/20, VersatilePurifier 15/20 (3 s)"``.
    """
    found = [r for r in records if r.attack == attack and r.threat_model == threat_model]
    if found:  # of several budgets the last
        last = found[-1]
        found = [r for r in found if (r.eps, r.attack_parameters) == (last.eps, last.attack_parameters)]
    eps = next((record.eps for record in found if record.eps is not None), None)
    budget = "" if eps is None else f" at {format_eps(eps)}"
    said = ", ".join(f"{record.defence} {record.correct}/{record.n}" for record in found)
    return f"{attack_name(attack)}{budget}: {said} ({sum(record.seconds or 0 for record in found):.0f} s)"


def in_turn(shown: dict[str, tuple[int, np.ndarray]], attack: str, images: np.ndarray) -> None:
    """
    Keep one image of an attack for the gallery: of the first attack the first, of the second the second, none chosen.

    :param shown: What is kept; an attack that is there stays as it is.
    :param attack: Name of the attack.
    :param images: All its images.
    """
    if attack not in shown:
        place = len(shown) % len(images)
        shown[attack] = place, images[place].copy()


def make_panels(
    benchmark: Benchmark,
    defence: str,
    attacked: Mapping[str, tuple[int, np.ndarray]],
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Panel]:
    """
    One image an attack.

    :param benchmark: Of pixels in [0, 1], channels last.
    :param defence: Name of the defence that is shown; it keeps the size.
    :param attacked: Name of an attack -> number of an image in the benchmark, and what the attack made of it.
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
    for attack, (i, image) in attacked.items():
        label = int(benchmark.y[i])
        purified = benchmark.purified(defence, image[None])[0]
        panels.append(
            Panel(
                name=f"image {i}" if names is None else names[i],
                attack=attack,
                clean=benchmark.x[i],
                adversarial=image,
                purified=purified,
                true_label=called(label),
                clean_prediction=said(benchmark.x[i], label),
                adversarial_prediction=said(image, label),
                purified_prediction=said(purified, label),
            )
        )
    return panels
