"""The paper's Figures 3, 4 and 5, certified accuracy and the printed study, as PNG files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._files import atomic_path
from art_versatile.evaluation.records import NO_DEFENCE, EvaluationRecord
from art_versatile.reports.pictures import Panel, shots
from art_versatile.reports.text import attack_name, format_eps, measured_on, printed_attack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["certified_figure", "distance_figure", "gallery_figure", "printed_figure", "strength_figure"]

_BEFORE, _AFTER = "#8a94a3", "#0f766e"


def distance_figure(records: Iterable[EvaluationRecord], defence: str, path: str | os.PathLike[str]) -> Path:
    """
    The paper's Figure 3: distance to the clean image before and after the defence, as MAE and PSNR, for each attack.

    :param records: Static records with distances.
    :param defence: Name of the defence.
    :param path: The PNG file, written atomically.
    :return: The path.
    :raises ValueError: If no attack has both.
    """
    own = [r for r in records if r.threat_model == "static" and r.file_format is None]
    bare = {r.attack: r for r in own if r.defence == NO_DEFENCE}
    pairs = {r.attack: (bare[r.attack], r) for r in own if r.defence == defence and r.attack in bare}
    pairs = {name: pair for name, pair in pairs.items() if all(r.mae is not None and r.psnr is not None for r in pair)}
    if not pairs:
        raise ValueError(f"Expected static records of {defence!r} with PSNR and MAE. Received none.")
    figure = _figure(11, 4)
    places = np.arange(len(pairs))
    for axes, (name, unit, scale) in zip(
        figure.subplots(1, 2), (("mae", "MAE, 255ths", 255.0), ("psnr", "PSNR, dB", 1.0)), strict=True
    ):
        for offset, index, label, colour in ((-0.2, 0, "attacked", _BEFORE), (0.2, 1, f"behind {defence}", _AFTER)):
            values = [scale * getattr(pair[index], name) for pair in pairs.values()]
            heights = [0.0 if math.isinf(value) else value for value in values]
            bars = axes.bar(places + offset, heights, 0.38, label=label, color=colour)
            axes.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=7)
        axes.set_xticks(places, [attack_name(attack) for attack in pairs], rotation=30, ha="right")
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.suptitle(measured_on([record for pair in pairs.values() for record in pair]), fontsize=9)
    return _saved(figure, path)


def strength_figure(records: Iterable[EvaluationRecord], defence: str, path: str | os.PathLike[str]) -> Path:
    """
    The paper's Figure 4: accuracy behind the defence against the number of iterations, a line a budget.

    :param records: Static records of iterative attacks.
    :param defence: Name of the defence.
    :param path: The PNG file, written atomically.
    :return: The path.
    :raises ValueError: If there is no such record.
    """
    own = [r for r in records if r.defence == defence and r.threat_model == "static" and r.eps is not None]
    own = [r for r in own if r.iterations is not None and r.file_format is None]
    attacks = list(dict.fromkeys(record.attack for record in own))
    if not attacks:
        raise ValueError(f"Expected static records of {defence!r} with iterations and a budget. Received none.")
    figure = _figure(5.5 * len(attacks), 4)
    for axes, attack in zip(np.atleast_1d(figure.subplots(1, len(attacks), sharey=True)), attacks, strict=True):
        for eps in sorted({record.eps for record in own if record.attack == attack and record.eps}):
            line = [r for r in own if r.attack == attack and r.eps == eps]
            line.sort(key=lambda record: record.iterations or 0)
            steps = [record.iterations or 0 for record in line]
            bounds = np.array([record.interval for record in line]).T * 100
            (drawn,) = axes.plot(steps, [100 * r.accuracy for r in line], marker=".", label=f"eps {format_eps(eps)}")
            axes.fill_between(steps, *bounds, color=drawn.get_color(), alpha=0.12, linewidth=0)
        axes.set(title=attack_name(attack), xlabel="iterations", ylim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(measured_on(own), fontsize=9)
    figure.axes[0].set_ylabel(f"accuracy behind {defence}, % (95% interval)")
    return _saved(figure, path)


def gallery_figure(panels: Sequence[Panel], path: str | os.PathLike[str]) -> Path:
    """
    The paper's Figure 5: clean, attacked and purified pictures, a column an attack, with what the classifier says.

    :param panels: One a column.
    :param path: The PNG file, written atomically.
    :return: The path.
    :raises ValueError: If there is no panel.
    """
    if not panels:
        raise ValueError("Expected at least one panel. Received none.")
    figure = _figure(2.1 * len(panels), 7.2)
    grid = figure.subplots(3, len(panels), squeeze=False)
    for column, panel in enumerate(panels):
        spoken_of = [(shot, shot.prediction) for shot in shots(panel) if shot.prediction is not None]
        for axes, (shot, prediction) in zip(grid[:, column], spoken_of, strict=True):
            title = f"true class: {panel.true_label}" if axes is grid[0, column] else shot.title
            axes.imshow(np.clip(shot.image, 0, 1))
            axes.set_title(title, fontsize=8, parse_math=False)
            colour = "#0b5d57" if prediction.correct else "#a5301d"
            axes.set_xlabel(prediction.label, fontsize=8, color=colour, parse_math=False)
            axes.set_xticks([])
            axes.set_yticks([])
    return _saved(figure, path)


def certified_figure(
    radii: Sequence[float], accuracies: Sequence[float], path: str | os.PathLike[str], *, title: str = ""
) -> Path:
    """
    Certified accuracy against the radius.

    :param radii: L2, in units of a pixel range of 1, rising.
    :param accuracies: Certified accuracy at each, 0 to 1.
    :param path: The PNG file, written atomically.
    :param title: What was certified how.
    :return: The path.
    :raises ValueError: If there is no radius, or there are not as many accuracies.
    """
    if not len(radii) or len(radii) != len(accuracies):
        raise ValueError(f"Expected an accuracy for each radius. Received {len(radii)} and {len(accuracies)}.")
    figure = _figure(5.0, 3.4)
    axes = figure.subplots()
    # At a radius the images count whose certificates reach it: the curve falls just beyond.
    steps, heights = [*radii, radii[-1]], [*(100 * accuracy for accuracy in accuracies), 0.0]
    axes.step(steps, heights, where="pre", color=_AFTER)
    axes.set(xlabel="L2 radius, pixels in [0, 1]", ylabel="certified accuracy, %", ylim=(0, 100))
    axes.set_xlim(0, max(1.0, radii[-1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=9, parse_math=False)
    return _saved(figure, path)


def printed_figure(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> Path:
    """
    A simulated study of printed pictures: accuracy after printing, a colour a defence; before it, a stroke.

    :param rows: From :func:`art_versatile.physical.printed_study`.
    :param path: The PNG file, written atomically.
    :param title: What was studied how.
    :return: The path.
    :raises ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("Expected at least one row. Received none.")
    attacks, defences = (list(dict.fromkeys(map(name, rows))) for name in (printed_attack, itemgetter("defence")))
    figure = _figure(9, 1.2 + 0.5 * len(attacks))
    axes = figure.subplots()
    height = 0.8 / len(defences)
    for number, defence in enumerate(defences):
        own = [row for row in rows if row["defence"] == defence]
        places = [attacks.index(printed_attack(row)) + (number - (len(defences) - 1) / 2) * height for row in own]
        colour = {NO_DEFENCE: _BEFORE}.get(defence, _AFTER if number == 1 else None)
        label = "no defence" if defence == NO_DEFENCE else defence
        bars = axes.barh(places, [100 * row["accuracy"] for row in own], height * 0.9, label=label, color=colour)
        axes.bar_label(bars, [f"{100 * row['accuracy']:.0f}" for row in own], fontsize=7, padding=4)
        before = [100 * row["accuracy_unprinted"] for row in own]
        label = "not printed" if number == 0 else None
        axes.scatter(before, places, marker="|", s=60, color="black", label=label, clip_on=False, zorder=3)
    axes.set(xlim=(0, 100), xlabel="accuracy after printing and photographing (simulated), %")
    axes.set_yticks(range(len(attacks)), attacks)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, ncols=len(defences) + 1, loc="outside lower center")
    axes.set_title(title, fontsize=8, parse_math=False, wrap=True)
    return _saved(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Figure, path: str | os.PathLike[str]) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    return Path(path)
