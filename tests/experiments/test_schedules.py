from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
from pathlib import Path

import keras
import pytest
from rich.console import Console

from art_versatile import PAPER_SCHEDULE, LossSchedule
from art_versatile.experiments.schedules import ScheduleRun, compare_schedules, schedule_table, schedules
from art_versatile.pix2pix import CompactGenerator, patchgan
from art_versatile.training import Validation

_spec = importlib.util.spec_from_file_location(
    "training_process", Path(__file__).parents[1] / "training" / "process.py"
)
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)


def validation():
    return Validation(process.arrays(), lambda images: images.mean((1, 2))[:, :1] * [0, 1, 2, 3], every=3)


def compare(out, **arguments):
    return compare_schedules(
        process.arrays(), validation(), out, preset=process.PRESET, perceptual=process.make_perceptual(),
        **{"epochs": 4, "steps_per_epoch": 2, "discriminator": None, "verbose": False, "seed": 3, **arguments},
    )  # fmt: skip


def test_the_two_schedules():
    assert schedules(100) == {"multi-step": PAPER_SCHEDULE, "fixed": LossSchedule([(100, 100.0, 1.0)])}
    assert schedules(10)["multi-step"] == LossSchedule([(4, 100.0, 100.0), (3, 100.0, 50.0), (3, 100.0, 1.0)])


def test_two_runs_that_differ_in_the_schedule_alone(tmp_path):
    runs = compare(tmp_path)
    assert [run.name for run in runs] == ["multi-step", "fixed"]
    assert runs[0].stages == [(2, 100.0, 100.0), (1, 100.0, 50.0), (1, 100.0, 1.0)]
    assert runs[1].stages == [(4, 100.0, 1.0)]
    differing = {key for key, value in runs[0].parameters.items() if runs[1].parameters[key] != value}
    assert differing == {"schedule"}
    for run in runs:
        assert run.final["epoch"] == 3
        assert run.final["val_recovered_accuracy"] <= run.best
        assert run.best_epoch in (2, 3)  # measured every third epoch, and at the end
        assert (tmp_path / run.name / "last" / "card.json").is_file()
    # The stages weigh the perceptual loss otherwise, so the networks are others.
    assert runs[0].final["perceptual"] != runs[1].final["perceptual"]
    written = json.loads((tmp_path / "schedules.json").read_text())
    assert [run["final"] for run in written] == [run.final for run in runs]

    with pytest.raises(FileExistsError, match="Expected no run in"):
        compare(tmp_path)
    again = compare(tmp_path, resume=True)
    assert [run.final for run in again] == [run.final for run in runs]


@pytest.mark.parametrize("name", ["generator", "optimizer", "discriminator", "preset"])
def test_what_both_runs_would_train(tmp_path, name):
    discriminator = patchgan(2)
    given = {
        "generator": {"generator": CompactGenerator(widths=(4,), blocks=(1,), factor=2)},
        "optimizer": {"optimizer": keras.optimizers.SGD(0.1)},
        "discriminator": {"discriminator": discriminator},
        "preset": {"preset": dataclasses.replace(process.PRESET, discriminator=discriminator)},
    }[name]
    expected = f"Expected no {name.replace('preset', 'discriminator')} that both runs would train: each builds its own"
    arguments = {"preset": process.PRESET, "perceptual": process.make_perceptual(), "epochs": 4, **given}
    with pytest.raises(ValueError, match=expected):
        compare_schedules(process.arrays(), validation(), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_table():
    def run(name, stages, accuracy):
        final = {
            "epoch": 9, "learning_rate": 1e-3, "loss": 123.0, "pixel": 0.0125, "perceptual": 0.5,
            "val_clean_accuracy": 0.875, "val_recovered_accuracy": accuracy, "val_psnr": 30.125,
            "val_accuracy/FGSM": accuracy,
        }  # fmt: skip
        return ScheduleRun(name, stages, final, 8, accuracy + 0.1, {})

    table = schedule_table([
        run("multi-step", [(6, 100.0, 100.0), (4, 100.0, 0.5)], 0.75), run("fixed", [(10, 100.0, 1.0)], 0.5),
    ])  # fmt: skip
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [
        ["pixel loss", "0.0125", "0.0125"],
        ["perceptual loss", "0.5", "0.5"],
        ["clean accuracy, %", "87.5", "87.5"],
        ["recovered accuracy, %", "75.0", "50.0"],
        ["PSNR, dB", "30.12", "30.12"],
        ["FGSM, %", "75.0", "50.0"],
        ["best recovered accuracy, %", "85.0 (epoch 8)", "60.0 (epoch 8)"],
    ]
    assert "multi-step: 6 x (100, 100), 4 x (100, 0.5)" in console.file.getvalue()
