"""The paper's schedule of loss weights against fixed weights (section 3.2): the same training, twice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_versatile._files import write_text_atomically

if TYPE_CHECKING:
    import rich.table

    from art_versatile.pairs import Pairs
    from art_versatile.pix2pix.schedule import LossSchedule
    from art_versatile.training import Validation

__all__ = ["ScheduleRun", "compare_schedules", "schedule_table", "schedules"]


@dataclass(frozen=True)
class ScheduleRun:
    """
    One of the two runs.

    :param name: Of the schedule.
    :param stages: (epochs, pixel weight, perceptual weight) of each stage.
    :param final: The last row of the log: losses, and accuracies (0 to 1) and PSNR (dB) on the held pairs.
    :param best_epoch: Epoch of the best recovered accuracy, from 0.
    :param best: Its recovered accuracy.
    :param parameters: What was trained how.
    """

    name: str
    stages: list[tuple[int, float, float]]
    final: dict[str, float]
    best_epoch: int
    best: float
    parameters: dict[str, Any]


def schedules(epochs: int) -> dict[str, LossSchedule]:
    """
    The two schedules.

    :param epochs: Of each; the paper's 100 are scaled to them.
    """
    from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule

    return {"multi-step": PAPER_SCHEDULE.scaled_to(epochs), "fixed": LossSchedule([(epochs, 100.0, 1.0)])}


def compare_schedules(
    pairs: Pairs, validation: Validation, out: str | Path, *, epochs: int = 100, **arguments: Any
) -> list[ScheduleRun]:
    """
    Train with the paper's schedule, then with the weights 100 and 1 throughout; all else, the seed too, is the same.

    :param pairs: A pair store, or pairs in memory.
    :param validation: Held pairs.
    :param out: Folder: one run in ``multi-step``, one in ``fixed``, and the comparison as ``schedules.json``.
    :param epochs: Of each run; the paper's 100 are scaled to them.
    :param arguments: Passed to :meth:`art_versatile.training.Training.of`.
    :return: The two runs.
    :raises ValueError: If a parameter is not as expected, or is an object that both runs would train: a generator, an
        optimizer, a discriminator that is a network.
    """
    from art_versatile.training import Training

    _check_apart(arguments)
    folder, chosen = Path(out), schedules(epochs)
    prepared = {
        name: Training.of(schedule=schedule, validation=validation, **arguments).prepare(
            pairs.image_shape, folder / name
        )
        for name, schedule in chosen.items()
    }
    runs = []
    for name, schedule in chosen.items():
        result = prepared[name].run(pairs)
        measured = [row for row in result.history if "val_recovered_accuracy" in row]
        best = max(measured, key=lambda row: row["val_recovered_accuracy"])
        stages = [(stage.epochs, stage.pixel, stage.perceptual) for stage in schedule.stages]
        runs.append(
            ScheduleRun(
                name, stages, result.history[-1], int(best["epoch"]), best["val_recovered_accuracy"], result.parameters
            )
        )
    write_text_atomically(folder / "schedules.json", json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    return runs


def _check_apart(arguments: dict[str, Any]) -> None:
    """Whether each run builds what it trains."""
    import keras

    shared = {name: arguments.get(name) for name in ("generator", "optimizer")}
    discriminator = arguments.get("discriminator", getattr(arguments.get("preset"), "discriminator", None))
    if isinstance(discriminator, keras.Model):
        shared["discriminator"] = discriminator
    for name, value in shared.items():
        if value is not None:
            raise ValueError(f"Expected no {name} that both runs would train: each builds its own. Received {value!r}.")


def schedule_table(runs: list[ScheduleRun]) -> rich.table.Table:
    """
    The runs side by side: final losses, without the total, which each weighs in its own way; final accuracies in
    percent.

    :param runs: From :func:`compare_schedules`.
    """
    from rich.table import Table

    table = Table("after the last epoch", title="pixel and perceptual weights by epoch")
    for run in runs:
        stages = ", ".join(f"{count} x ({pixel:g}, {perceptual:g})" for count, pixel, perceptual in run.stages)
        table.add_column(f"{run.name}: {stages}", justify="right")
    for key in runs[0].final:
        if key in ("epoch", "learning_rate", "loss"):
            continue
        values = [run.final[key] for run in runs]
        if "accuracy" in key:
            label = key.removeprefix("val_").removeprefix("accuracy/").replace("_", " ") + ", %"
            table.add_row(label, *(f"{100 * value:.1f}" for value in values))
        elif key == "val_psnr":
            table.add_row("PSNR, dB", *(f"{value:.2f}" for value in values))
        else:
            table.add_row(f"{key} loss", *(f"{value:.4g}" for value in values))
    table.add_row("best recovered accuracy, %", *(f"{100 * run.best:.1f} (epoch {run.best_epoch})" for run in runs))
    return table
