"""
A purifier learns a new attack and keeps what it knew: old pairs are replayed, the old answers on them kept
(learning without forgetting, arXiv 1606.09282; experience replay, arXiv 1811.11682), held pairs of both decide.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np

from art_versatile import weights
from art_versatile._checks import check_number
from art_versatile.pairs.memory import MemoryPairs
from art_versatile.pairs.replay import joined
from art_versatile.pix2pix.distillation import Distillation, frozen_copy
from art_versatile.training.monitor import RecoveredAccuracy, Validation, purifying
from art_versatile.training.presets import Preset
from art_versatile.training.run import PreparedTraining, Training

__all__ = ["SCORE", "EpochClock", "PreparedUpdate", "UpdateResult", "UpdateValidation", "accuracies", "prepare_update"]

SCORE = "val_score"
"""What the best weights of an update are best in (:class:`UpdateValidation`)."""


@dataclass(frozen=True)
class UpdateValidation(Validation):
    """
    Held pairs of old and new attacks.

    Besides what :class:`Validation` measures: ``val_new_accuracy`` and ``val_old_accuracy`` on all purified pairs of
    the new and of the old attacks (0 to 1), and ``val_score``, which says which weights are best: the new accuracy
    where neither the old one nor that on clean images has dropped by more than ``tolerance``, else the larger drop,
    negative.

    :param new: Names of the new attacks; the others are old.
    :param tolerance: 0 to 1.
    :param before: What was measured before the update.
    """

    new: Sequence[str] = ()
    tolerance: float = 0.01
    before: Mapping[str, float] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[str, ...]:
        """Keys that a measurement adds to the logs."""
        old = ("val_old_accuracy",) if set(self.attacks) - set(self.new) else ()
        return *super().measures, "val_new_accuracy", *old, SCORE

    def measurement(self, held: MemoryPairs) -> Callable[[Callable[[np.ndarray], np.ndarray]], dict[str, float]]:
        """
        What measures: purify -> the values of :attr:`measures`; without ``before`` all but the score.

        :param held: The pairs.
        """
        measure = RecoveredAccuracy(held, self.classify)

        def of_both(purify: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
            values = measure(purify)
            for key, is_new in (("val_new_accuracy", True), ("val_old_accuracy", False)):
                counts = {n: count for n, count in held.counts.items() if count and (n in self.new) == is_new}
                if counts:
                    right = sum(count * values[f"val_accuracy/{name}"] for name, count in counts.items())
                    values[key] = right / sum(counts.values())
            if self.before:
                values[SCORE] = self._score(values)
            return values

        return of_both

    def _score(self, values: Mapping[str, float]) -> float:
        kept = [key for key in ("val_clean_accuracy", "val_old_accuracy") if key in values]
        drop = max(self.before[key] - values[key] for key in kept)
        # A share of so many pairs is never exact.
        return values["val_new_accuracy"] if drop <= self.tolerance + 1e-9 else -drop


@dataclass(frozen=True)
class UpdateResult:
    """
    A finished update.

    :param accepted: Whether an epoch was better on the new attacks than before and kept the old ones; where not, the
        generator is as it was.
    :param epoch: The epoch that was taken, from 0, or the one of the best score.
    :param before: Accuracy on the held pairs before, 0 to 1: "clean", and each attack.
    :param after: The same of that epoch.
    :param history: One dictionary an epoch: losses, accuracies, seconds.
    :param seconds: Of the training, all calls together.
    :param parameters: What was trained how; JSON-able.
    :param lineage: What the card says of the update (:meth:`art_versatile.VersatileTrainer.update`).
    """

    accepted: bool
    epoch: int
    before: dict[str, float]
    after: dict[str, float]
    history: list[dict[str, float]]
    seconds: float
    parameters: dict[str, Any]
    lineage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedUpdate:
    """
    An update whose settings are checked and whose networks are built; :func:`prepare_update` makes it, for one run.

    :param training: The training.
    :param validation: What measures it.
    """

    training: PreparedTraining
    validation: UpdateValidation

    def run(self, new: MemoryPairs, old: MemoryPairs | None, held: MemoryPairs) -> UpdateResult:
        """
        Train; the generator ends with the best weights, or as it was.

        :param new: Pairs of the new attacks.
        :param old: Pairs that are replayed; None replays none.
        :param held: Held pairs of both, with labels.
        :raises ValueError: If the pairs are not as prepared for; nothing has been written then.
        :raises FloatingPointError: If a loss or a weight was not finite; the generator is as it was then.
        """
        generator, settings, out = self.training.generator, self.training.settings, self.training.folder.path
        if out is None:
            raise ValueError("Expected an update with a folder. Received None.")
        if not set(self.validation.new) & {name for name, count in held.counts.items() if count}:
            raise ValueError(f"Expected held pairs of {list(self.validation.new)}. Received {held!r}.")
        pairs = joined([new] if old is None else [new, old])
        measured_at_first = generator.get_weights()
        before = self.validation.measurement(held)(purifying(generator))
        validation = dataclasses.replace(self.validation, pairs=held, before=before)
        training = dataclasses.replace(self.training, settings=dataclasses.replace(settings, validation=validation))
        try:
            result = training.run(pairs)
            best = max((row for row in result.history if SCORE in row), key=lambda row: row[SCORE])
            accepted = best[SCORE] > max(before["val_new_accuracy"], 0.0)
            generator.set_weights(weights.load(out / "best")[0].get_weights() if accepted else measured_at_first)
        except BaseException:
            generator.set_weights(measured_at_first)
            raise
        return UpdateResult(
            accepted,
            int(best["epoch"]),
            accuracies(before),
            accuracies(best),
            result.history,
            sum(row["seconds"] for row in result.history),
            result.parameters,
        )


def prepare_update(
    generator: keras.Model,
    image_shape: tuple[int, int, int],
    out: str | Path,
    *,
    preset: str | Preset,
    new: Sequence[str],
    replayed: Sequence[str],
    held: Sequence[str],
    classify: Callable[[np.ndarray], np.ndarray],
    distillation: float = 1.0,
    tolerance: float = 0.01,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> PreparedUpdate:
    """
    Check all that can be wrong and build the networks, before there are pairs.

    :param generator: The generator to train further, made by :func:`art_versatile.pix2pix.build_generator`.
    :param image_shape: (H, W, C) of the pairs.
    :param out: Folder of the run.
    :param preset: As in :class:`Training`.
    :param new: Names of the new attacks.
    :param replayed: Names of the attacks whose old pairs are replayed; none replays none.
    :param held: Names of the attacks of the held pairs, old and new.
    :param classify: Images (N, H, W, 3) in [0, 1] -> class scores (N, classes).
    :param distillation: Weight of the old answers on the old pairs, :class:`Distillation`.
    :param tolerance: By how much the accuracy on old pairs and on clean images may drop, 0 to 1.
    :param callbacks: Further Keras callbacks.
    :param settings: Passed to :meth:`Training.of`.
    :raises ValueError: If a setting is not as expected; nothing has been written.
    :raises FileExistsError: If ``out`` holds a run and ``resume`` is False.
    """
    check_number("tolerance", tolerance, 0, 1)
    if clash := sorted(set(new) & set(replayed)):
        raise ValueError(f"Expected new attacks of other names than the old ones. Received {clash} as both.")
    if missing := sorted(set(new) - set(held)):
        raise ValueError(f"Expected held pairs of all new attacks. Received none of {missing}.")
    if distillation and not replayed:
        raise ValueError(f"Expected distillation=0 without old pairs, on which it counts. Received {distillation!r}.")
    validation = UpdateValidation(_not_made, classify, attacks=tuple(held), new=tuple(new), tolerance=tolerance)
    training = Training.of(
        preset,
        generator=generator,
        # Also with weight 0: a run that goes on has to have begun with the same weights.
        distillation=Distillation(frozen_copy(generator), distillation, tuple(replayed)),
        validation=validation,
        monitor=SCORE,
        callbacks=(*callbacks, EpochClock()),
        **settings,
    )
    return PreparedUpdate(training.prepare(image_shape, out), validation)


def accuracies(row: Mapping[str, float]) -> dict[str, float]:
    """
    Accuracy on clean images ("clean") and on each attack, out of what :class:`RecoveredAccuracy` measured.

    :param row: Its values.
    """
    prefix = "val_accuracy/"
    return {
        "clean": row["val_clean_accuracy"],
        **{key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)},
    }


def _not_made() -> NoReturn:
    raise ValueError("Expected held pairs: PreparedUpdate.run is given them. Received none.")


class EpochClock(keras.callbacks.Callback):
    """
    Seconds of each epoch, as ``seconds`` in the logs: a run that was stopped and goes on has its whole cost in its
    history. What is measured after the epoch is among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time."""
        if logs is not None:
            logs["seconds"] = time.perf_counter() - self._started
