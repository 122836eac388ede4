"""Loss weights by epoch: the paper's multi-step training (section 3.2)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from art_versatile._checks import check_integer, check_number

__all__ = ["PAPER_SCHEDULE", "LossSchedule", "Stage"]


@dataclass(frozen=True)
class Stage:
    """
    Loss weights that hold for some epochs.

    :param epochs: How many, at least 1.
    :param pixel: Weight lambda of the L1 loss, relative to the adversarial loss.
    :param perceptual: Weight mu of the perceptual loss, relative to the adversarial loss.
    """

    epochs: int
    pixel: float
    perceptual: float

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs)
        check_number("pixel", self.pixel, 0, sys.float_info.max)
        check_number("perceptual", self.perceptual, 0, sys.float_info.max)


class LossSchedule:
    """
    Stages, one after the other; the last one holds from then on.

    :param stages: At least one :class:`Stage`, or (epochs, pixel, perceptual) triples. One stage is a fixed weight.
    """

    def __init__(self, stages: Iterable[Stage | tuple[int, float, float]]) -> None:
        self.stages = tuple(s if isinstance(s, Stage) else Stage(*s) for s in stages)
        if not self.stages:
            raise ValueError("Expected at least one stage. Received none.")

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def __call__(self, epoch: int) -> tuple[float, float]:
        """
        Weights (pixel, perceptual) in an epoch.

        :param epoch: From 0.
        :raises ValueError: If it is negative.
        """
        if epoch < 0:
            raise ValueError(f"Expected an epoch of at least 0. Received {epoch!r}.")
        end = 0
        for stage in self.stages:
            end += stage.epochs
            if epoch < end:
                break
        return stage.pixel, stage.perceptual

    def scaled_to(self, epochs: int) -> LossSchedule:
        """
        The same stages in the same proportions over another number of epochs; a stage keeps at least one epoch where
        there are enough.

        :param epochs: At least 1.
        """
        check_integer("epochs", epochs)
        ends: list[int] = []
        passed, last = 0, len(self.stages) - 1
        for index, stage in enumerate(self.stages):
            passed += stage.epochs
            end = round(passed * epochs / self.epochs)
            if epochs > last:  # one epoch at least for this stage, and for each that follows
                end = min(max(end, ends[-1] + 1 if ends else 1), epochs - (last - index))
            ends.append(end)
        stages = [
            Stage(end - start, stage.pixel, stage.perceptual)
            for stage, start, end in zip(self.stages, [0, *ends], ends, strict=False)
            if end > start
        ]
        return LossSchedule(stages)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossSchedule) and self.stages == other.stages

    def __hash__(self) -> int:
        return hash(self.stages)

    def __repr__(self) -> str:
        return f"LossSchedule({[(s.epochs, s.pixel, s.perceptual) for s in self.stages]})"


PAPER_SCHEDULE = LossSchedule([(40, 100.0, 100.0), (30, 100.0, 50.0), (30, 100.0, 1.0)])
"""Section 3.2: epochs 0-39 (100, 100), 40-69 (100, 50), 70-99 (100, 1)."""
