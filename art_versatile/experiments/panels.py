"""What an evaluation shows on the way and at the end: a line of text an attack, the rows of a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from art_versatile.evaluation.records import CLEAN, EvaluationRecord
from art_versatile.reports.pictures import Panel, Prediction
from art_versatile.reports.text import attack_name, format_eps

if TYPE_CHECKING:
    from art_versatile.evaluation.benchmark import Benchmark, Picture

__all__ = ["make_panels", "progress_line"]


def progress_line(records: Sequence[EvaluationRecord]) -> str:
    """
    What the records of one attack say, in one line.

    :param records: What :meth:`~art_versatile.evaluation.Benchmark.run` or ``clean`` gave.
    :return: As ``"static PGD at 8/255: none 0/20, VersatilePurifier 15/20 (3 s)"``.
    """
    first = records[0]
    name = CLEAN if first.attack == CLEAN else f"{first.threat_model} {_called(first)}"
    budget = "" if first.eps is None else f" at {format_eps(first.eps)}"
    said = ", ".join(f"{record.defence} {record.correct}/{record.n}" for record in records if not record.file_format)
    return f"{name}{budget}: {said} ({sum(record.seconds or 0 for record in records):.0f} s)"


def make_panels(
    benchmark: Benchmark,
    defence: str,
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Panel]:
    """
    One image an attack, of those that a benchmark keeps.

    :param benchmark: With ``pictures=True``.
    :param defence: Name of the defence that is shown. Attacks on another one are left out, and of an attack at several
        budgets all but the first.
    :param names: Of the images; by default their numbers.
    :param class_names: Of the classes; by default their numbers.
    :return: In the order in which the attacks were run.
    """

    def called(label: int) -> str:
        return f"class {label}" if class_names is None else class_names[label]

    def said(image: np.ndarray, label: int) -> Prediction:
        probabilities = softmax(benchmark.predict(image[None])[0].astype(np.float64))
        top = int(probabilities.argmax())
        return Prediction(label=called(top), confidence=float(probabilities[top]), correct=top == label)

    def unit(image: np.ndarray) -> np.ndarray:
        return np.clip(benchmark.unit(image[None])[0], 0, 1)

    chosen: dict[tuple[str | None, ...], Picture] = {}
    for picture in benchmark.kept_pictures:
        record = picture.record
        if record.threat_model in ("static", "transfer") or record.defence == defence:
            chosen.setdefault((record.attack, record.threat_model, record.gradient), picture)
    panels = []
    for picture in chosen.values():
        clean, label = benchmark.x[picture.index], int(benchmark.y[picture.index])
        purified = benchmark.purified(defence, picture.image[None])[0]
        panels.append(
            Panel(
                name=f"image {picture.index}" if names is None else names[picture.index],
                attack=_called(picture.record),
                threat_model=picture.record.threat_model,
                clean=unit(clean),
                adversarial=unit(picture.image),
                purified=unit(purified),
                true_label=called(label),
                clean_prediction=said(clean, label),
                adversarial_prediction=said(picture.image, label),
                purified_prediction=said(purified, label),
            )
        )
    return panels


def _called(record: EvaluationRecord) -> str:
    return f"{attack_name(record.attack)}, BPDA" if record.gradient == "bpda" else attack_name(record.attack)
