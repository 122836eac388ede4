"""One self-contained HTML page: the figures, the pictures behind them, and what they do not show."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_images, check_integer
from art_versatile._files import write_text_atomically
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, Check, EvaluationRecord
from art_versatile.reports.tables import (
    AVERAGES,
    PAPER_TABLE_2,
    AccuracyTable,
    PaperTable,
    accuracy_table,
    attack_name,
    format_eps,
    format_measure,
    format_percent,
    format_spread,
    format_value,
)

__all__ = ["CITATIONS", "Panel", "Prediction", "magnification", "write_report"]

#: What the page asks to be cited, as BibTeX: the paper, and the toolbox whose attacks were run.
CITATIONS = (
    """@misc{zhang2024versatile,
  title = {Versatile Defense Against Adversarial Attacks on Image Recognition},
  author = {Zhang, Haibo and Yao, Zhihua and Sakurai, Kouichi},
  year = {2024},
  eprint = {2403.08170},
  archivePrefix = {arXiv}
}""",
    """@misc{nicolae2018art,
  title = {Adversarial Robustness Toolbox v1.0.0},
  author = {Nicolae, Maria-Irina and Sinn, Mathieu and Tran, Minh Ngoc and Buesser, Beat and others},
  year = {2018},
  eprint = {1807.01069},
  archivePrefix = {arXiv}
}""",
)

_THREAT_MODELS = {
    "static": (
        "Static, grey-box",
        "Each attack was computed on the classifier alone, without a defence. The attacker has the classifier and its "
        "weights but does not know that a defence stands in front of it. The same attacked images were then shown to "
        "the classifier without and with the defence.",
    ),
    "transfer": (
        "Transfer",
        "The attacks were computed on another classifier or on another purifier, and carried over.",
    ),
    "query": (
        "Query black-box",
        "The attacker sees the answers of the defended classifier, and neither weights nor gradients.",
    ),
    "adaptive": (
        "Adaptive, white-box",
        "The attacker knows the classifier and the defence, and takes the gradient through both.",
    ),
}

_THROUGH = ("query", "adaptive")
# Half the full contrast: the pattern shows better than in black and white. The 0.01 lets 8/255 have x8 (0.251).
_CONTRAST = 0.26
_FACTORS = (128, 64, 32, 16, 8, 4, 2, 1)
# Below this many images the page says that they are few: the interval is wider than 6 points.
_FEW = 1000
# Below this, the page shows the pixels as squares, and JPEG would be the larger loss.
_SMALL_SIDE = 96


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """
    What the classifier says of one image.

    :param label: Name of the class.
    :param confidence: Its probability, 0 to 1, or None.
    :param correct: Whether it is the true class; None compares the names (ImageNet has two classes named "crane").
    :raises ValueError: If a value is not as expected.
    """

    label: str
    confidence: float | None = None
    correct: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label.strip():
            raise ValueError(f"Expected label to be a non-empty string. Received {self.label!r}.")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"Expected confidence between 0 and 1, or None. Received {self.confidence!r}.")
        if self.correct is not None and not isinstance(self.correct, bool | np.bool_):
            raise ValueError(f"Expected correct to be True, False or None. Received {self.correct!r}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """
    One row of the gallery: one image under one attack.

    :param name: Name of the image.
    :param attack: Name of the attack.
    :param clean: The image (H, W, 3), in [0, 1].
    :param adversarial: The attacked image, same shape and range.
    :param purified: The attacked image behind the defence, same range; a defence may change the size.
    :param true_label: Name of the true class.
    :param clean_prediction: What the classifier says of the clean image.
    :param adversarial_prediction: What it says of the attacked image.
    :param purified_prediction: What it says of the purified image.
    :raises ValueError: If a value is not as expected.
    """

    name: str
    attack: str
    clean: np.ndarray
    adversarial: np.ndarray
    purified: np.ndarray
    true_label: str
    clean_prediction: Prediction
    adversarial_prediction: Prediction
    purified_prediction: Prediction

    def __post_init__(self) -> None:
        for name in ("name", "attack", "true_label"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ValueError(f"Expected {name} to be a non-empty string. Received {getattr(self, name)!r}.")
        for name in ("clean", "adversarial", "purified"):
            image = np.asarray(getattr(self, name))
            if image.ndim != 3:
                raise ValueError(f"Expected {name} to be one image (H, W, 3). Received shape {image.shape}.")
            check_images(image[None], (0.0, 1.0), name=name)
            if name != "purified" and image.shape != np.shape(self.clean):
                raise ValueError(
                    f"Expected {name} to have the shape of clean, {np.shape(self.clean)}. Received {image.shape}."
                )
        for name in ("clean_prediction", "adversarial_prediction", "purified_prediction"):
            if not isinstance(getattr(self, name), Prediction):
                raise TypeError(f"Expected {name} to be a Prediction. Received {type(getattr(self, name)).__name__}.")

    def __repr__(self) -> str:
        height, width = np.shape(self.clean)[:2]
        return f"Panel(name={self.name!r}, attack={self.attack!r}, true_label={self.true_label!r}, {height}x{width})"


def magnification(perturbation: np.ndarray) -> int:
    """
    Choose how much to magnify a perturbation so that it is seen and hardly clipped.

    :param perturbation: Attacked minus clean image, pixels in [0, 1].
    :return: The largest power of two, at most 128, with which 95% of the values stay within mid-grey plus or minus
        0.26: 4 for a perturbation that is 16/255 everywhere, 8 at 8/255, 16 at 4/255. 1 for no perturbation.
    """
    sizes = np.abs(perturbation)
    # A perturbation of a few pixels is zero at most quantiles.
    size = float(np.quantile(sizes, 0.95)) or float(sizes.max())
    if size == 0:
        return 1
    return next((factor for factor in _FACTORS if factor * size <= _CONTRAST), 1)


def write_report(
    path: str | os.PathLike[str],
    records: Iterable[EvaluationRecord],
    panels: Iterable[Panel] = (),
    *,
    title: str = "Before and after the purifier",
    summary: str | None = None,
    threat_model_text: str | None = None,
    settings: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
    citations: Sequence[str] = CITATIONS,
    paper_table: PaperTable | None = PAPER_TABLE_2,
    max_side: int = 256,
    jpeg_quality: int = 90,
) -> Path:
    """
    Write the page. It has no script and refers to nothing outside itself; pictures are embedded.

    :param path: The file, written atomically.
    :param records: Records of one data set and one classifier; :func:`~art_versatile.reports.tables.accuracy_table`
        says what they must be.
    :param panels: Rows of the gallery, in order.
    :param title: Title of the page.
    :param summary: What was found, in plain words; None makes a sentence from the records.
    :param threat_model_text: What the attacker knows; empty lines part paragraphs. None writes it from the records.
    :param settings: More lines for the settings, name to value.
    :param checks: What :func:`art_versatile.evaluation.masking_checks` found; empty leaves the section out.
    :param citations: What to cite; empty leaves the section out.
    :param paper_table: A published table to show below; None leaves it out.
    :param max_side: Larger pictures are shown reduced to this many pixels.
    :param jpeg_quality: Quality of the embedded photographs, 1 to 95.
    :return: The path.
    :raises ValueError: If a value is not as expected.
    :raises TypeError: If an item is not a record or not a panel.
    """
    if not isinstance(title, str) or not title.strip():
        raise ValueError(f"Expected title to be a non-empty string. Received {title!r}.")
    for name, value, low, high in (("max_side", max_side, 16, 4096), ("jpeg_quality", jpeg_quality, 1, 95)):
        check_integer(name, value, low, high)
    panels = list(panels)
    for panel in panels:
        if not isinstance(panel, Panel):
            raise TypeError(f"Expected panels to be Panels. Received {type(panel).__name__}.")
    table = accuracy_table(records)
    shown = _first_defended(table)
    context = {
        "title": title,
        "summary": _summary(table, shown) if summary is None else summary,
        "badges": _badges(table),
        "tiles": _tiles(table, shown),
        "table": _table_context(table),
        "flags": _flags(table),
        "panels": [_panel_context(panel, max_side, jpeg_quality) for panel in panels],
        "threat_model": _threat_model(table, threat_model_text),
        "adaptive": _adaptive(table),
        "limits": _limits(table),
        "checks": _checks(checks),
        "paper": None if paper_table is None else _paper_context(paper_table),
        "facts": _facts(table, settings or {}),
        "runs": _runs(table),
        "citations": list(citations),
    }
    return write_text_atomically(path, _render(context))


def _render(context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    source = resources.files("art_versatile.reports").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A long name may break before its bracket.
    environment.filters["breakable"] = lambda text: escape(text).replace("(", Markup("<wbr>("))
    return environment.from_string(source).render(context) + "\n"


# What the figures say


def _first_defended(table: AccuracyTable) -> int | None:
    """The column that the first lines of the page speak of."""
    for index, column in enumerate(table.columns):
        if column.defence != NO_DEFENCE and column.threat_model != CLEAN:
            return index
    return None


def _undefended(table: AccuracyTable, column: int) -> int | None:
    model = table.columns[column].threat_model
    places = [i for i, c in enumerate(table.columns) if c.defence == NO_DEFENCE and c.threat_model == model]
    return places[0] if places else None


def _clean_record(table: AccuracyTable, column: int) -> EvaluationRecord | None:
    return next((cells[column] for row, cells in zip(table.rows, table.cells, strict=True) if row.is_clean), None)


def _attacked(table: AccuracyTable, column: int) -> list[tuple[str, EvaluationRecord]]:
    cells = zip(table.rows, (line[column] for line in table.cells), strict=True)
    return [(row.label, record) for row, record in cells if record is not None and not row.is_clean]


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _summary(table: AccuracyTable, shown: int | None) -> str:
    first = table.records[0]
    figure = None if shown is None else _figure(table, shown)
    if shown is None or figure is None:
        return f"{first.classifier} on {first.dataset}, in {_count(len(table.records), 'measurement')}."
    bare, defence = _undefended(table, shown), table.columns[shown].defence
    before = None if bare is None else _figure(table, bare)
    (attacked, words), behind = figure, f"{first.classifier} behind {defence}"
    if before is None:
        text = f"Under attack, {behind} gets {format_percent(attacked)}% of the images right"
    else:
        text = (
            f"Under attack, {first.classifier} gets {format_percent(before[0])}% of the images right; "
            f"with {defence} in front of it, {format_percent(attacked)}%"
        )
    text += f" ({words})." if words else "."
    clean = _clean_record(table, shown)
    bare_clean = None if bare is None else _clean_record(table, bare)
    if clean is not None and bare_clean is not None:
        text += f" Clean images: {format_percent(bare_clean.accuracy)}% without it"
        text += f", {format_percent(clean.accuracy)}% with it."
    elif clean is not None:
        text += f" Clean images: {format_percent(clean.accuracy)}%."
    adaptive = _worst_adaptive(table, shown)
    if adaptive is not None:
        text += f" Against an attacker who knows the defence: {format_percent(adaptive[1].accuracy)}%."
    return text


def _figure(table: AccuracyTable, column: int) -> tuple[float, str] | None:
    """The one figure of a column's attacks, and what it is: their mean, or where there is none the least."""
    attacked = [record for _, record in _attacked(table, column)]
    if not attacked:
        return None
    mean = table.average(column, "attacks")
    count = _count(len(attacked), "attack")
    if len(attacked) == 1:
        return attacked[0].accuracy, ""
    if mean is not None:
        return mean, f"mean over {count}"
    return min(record.accuracy for record in attacked), f"the strongest of {count}"


def _worst_adaptive(table: AccuracyTable, shown: int) -> tuple[str, EvaluationRecord] | None:
    """The worst adaptive figure of the shown column's defence at a budget of interest, unless that column is it."""
    columns = table.columns
    if columns[shown].threat_model == "adaptive":
        return None
    labels = [
        item
        for i, column in enumerate(columns)
        if column.threat_model == "adaptive" and column.defence == columns[shown].defence
        for item in _attacked(table, i)
        if not item[1].is_unbounded
    ]
    return min(labels, key=lambda item: item[1].accuracy) if labels else None


def _badges(table: AccuracyTable) -> list[str]:
    first = table.records[0]
    models = [column.threat_model for column in table.columns if column.threat_model != CLEAN]
    counts = " / ".join(f"{n:,}" for n in dict.fromkeys(record.n for record in table.records))
    presets = dict.fromkeys(record.preset for record in table.records if record.preset)
    badges = [first.classifier, first.dataset, f"n = {counts}"]
    badges += [f"{preset} preset" for preset in presets]
    badges += [_THREAT_MODELS[model][0] for model in dict.fromkeys(models)]
    return badges


def _tiles(table: AccuracyTable, shown: int | None) -> list[dict[str, Any]]:
    if shown is None:
        return []
    attacked, bare, clean = _attacked(table, shown), _undefended(table, shown), _clean_record(table, shown)
    tiles: list[tuple[str, float | None, str, str]] = []
    for label, column, kind in (("Attacked, no defence", bare, "before"), ("Attacked, defended", shown, "")):
        figure = None if column is None else _figure(table, column)
        if figure is not None:
            tiles.append((label, figure[0], figure[1] or "one attack", kind))
    if len(attacked) > 1:
        label, worst = min(attacked, key=lambda item: item[1].accuracy)
        tiles.append(("Worst attack, defended", worst.accuracy, label, ""))
    adaptive = _worst_adaptive(table, shown)
    if adaptive is not None:
        tiles.append(("Adaptive attack, defended", adaptive[1].accuracy, adaptive[0], "risk"))
    if clean is not None:
        before = None if bare is None else _clean_record(table, bare)
        note = "" if before is None else f"no defence: {format_percent(before.accuracy)}%"
        tiles.append(("Clean, defended", clean.accuracy, note, ""))
    return [
        {"label": label, "value": format_percent(share), "note": note, "kind": kind}
        for label, share, note, kind in tiles
        if share is not None
    ]


def _main_columns(table: AccuracyTable) -> list[int]:
    """Those of attacks on the classifier alone; attacks on a defence have a section of their own."""
    chosen = [i for i, column in enumerate(table.columns) if column.threat_model not in _THROUGH]
    return chosen or list(range(len(table.columns)))


def _table_context(table: AccuracyTable) -> dict[str, Any]:
    lines, chosen = [], _main_columns(table)
    for row, every in zip(table.rows, table.cells, strict=True):
        cells = [every[i] for i in chosen]
        if all(cell is None for cell in cells):
            continue
        budget = ""
        for record in cells:
            if record is not None and record.eps is not None:
                budget = f"{_norm_name(record.norm)} ≤ {format_eps(record.eps)}"
            elif record is not None and record.norm is not None:
                budget = f"{_norm_name(record.norm)}, no limit"
        lines.append({"label": row.label, "budget": budget, "cells": [_cell(record) for record in cells]})
    averages = [
        {"label": label, "cells": [_share_cell(None if worst is None else worst.accuracy) for worst in shown]}
        for label, worsts in table.worst_rows
        for shown in [[worsts[i] for i in chosen]]
        if any(worst is not None for worst in shown)
    ]
    averages += [
        {"label": AVERAGES[kind], "cells": [_share_cell(share) for share in shares]}
        for kind in table.averages
        for shares in [[table.average(i, kind) for i in chosen]]
        if any(share is not None for share in shares)
    ]
    shown_columns = [table.columns[i] for i in chosen]
    columns = [{"label": column.label, "bare": column.defence == NO_DEFENCE} for column in shown_columns]
    shown = dataclasses.replace(
        table,
        columns=tuple(shown_columns),
        cells=tuple(tuple(every[i] for i in chosen) for every in table.cells),
    )
    return {"columns": columns, "rows": lines, "averages": averages, "note": shown.note, "title": shown.title}


def _cell(record: EvaluationRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    low, high = record.interval
    measures = []
    if record.psnr is not None:
        measures.append("unchanged" if math.isinf(record.psnr) else f"PSNR {format_measure(record.psnr, 1)} dB")
    # An image equal to the clean one has no further measures worth reading.
    if record.mae is not None and not (record.psnr is not None and math.isinf(record.psnr)):
        measures.append(f"MAE {format_measure(record.mae, 4)}")
        if record.ssim is not None:
            measures.append(f"SSIM {format_measure(record.ssim, 3)}")
    measures.append(f"n {record.n:,}")
    return {
        "value": format_percent(record.accuracy),
        "interval": format_spread(record),
        "width": f"{100 * record.accuracy:.2f}",
        "low": f"{100 * low:.2f}",
        "span": f"{100 * (high - low):.2f}",
        "measures": measures,
    }


def _share_cell(share: float | None) -> dict[str, Any] | None:
    return None if share is None else {"value": format_percent(share), "width": f"{100 * share:.2f}"}


def _norm_name(norm: str | None) -> str:
    return {None: "ε", "inf": "L∞"}.get(norm, f"L{norm}")


def _flags(table: AccuracyTable) -> list[str]:
    said: dict[str, list[str]] = {}
    for column, definition in enumerate(table.columns):
        for row, cells in zip(table.rows, table.cells, strict=True):
            record = cells[column]
            for flag in record.flags if record is not None else ():
                place = f"{row.label}, {definition.label}"
                if place not in said.setdefault(flag, []):
                    said[flag].append(place)
    return [f"{flag} ({'; '.join(places)})" for flag, places in said.items()]


# What the figures do not say


def _threat_model(table: AccuracyTable, text: str | None) -> list[dict[str, str]]:
    if text is not None:
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        return [{"name": "", "text": part} for part in paragraphs if part]
    models = dict.fromkeys(column.threat_model for column in table.columns if column.threat_model != CLEAN)
    if not models:
        return [{"name": "", "text": "No attack was run."}]
    return [{"name": _THREAT_MODELS[model][0], "text": _THREAT_MODELS[model][1]} for model in models]


def _adaptive(table: AccuracyTable) -> dict[str, Any] | None:
    places = [i for i, column in enumerate(table.columns) if column.threat_model in _THROUGH]
    if not places:
        return None
    lines = []
    for place in places:
        clean = _clean_record(table, place)
        for label, record in _attacked(table, place):
            lines.append(
                {
                    "defence": record.defence,
                    "attack": label,
                    "budget": "" if record.eps is None else f"{_norm_name(record.norm)} ≤ {format_eps(record.eps)}",
                    "clean": "–" if clean is None else f"{format_percent(clean.accuracy)}%",
                    "cell": _cell(record),
                }
            )
        for label, norm, eps in table.budgets:
            worst = table.worst(place, norm, eps)
            if worst is not None:
                lines.append(
                    {
                        "defence": table.columns[place].defence,
                        "attack": "Worst case per image",
                        "budget": label,
                        "clean": "",
                        "cell": {"value": format_percent(worst.accuracy), "interval": f"{worst.correct} of {worst.n}"},
                    }
                )
    faced = {table.columns[i].defence for i in places if table.columns[i].threat_model == "adaptive"}
    spared = dict.fromkeys(c.defence for c in table.columns if c.defence not in faced and c.defence != NO_DEFENCE)
    return {"rows": lines, "spared": list(spared), "faced": bool(faced)}


def _checks(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Each check once, with what it found for each defence; the defences without an adaptive attack are left out."""
    attacked = {check.defence for check in checks if check.name != "adaptive" and check.passed is not None}
    lines: dict[str, dict[str, Any]] = {}
    for check in checks:
        if check.defence in attacked:
            line = lines.setdefault(check.name, {"name": check.name, "asks": check.asks, "found": []})
            word = {True: "passed", False: "failed", None: "not run"}[check.passed]
            line["found"].append({"defence": check.defence, "word": word, "said": check.said})
    return list(lines.values())


def _limits(table: AccuracyTable) -> list[str]:
    records = table.records
    limits = []
    if any(record.preset == "quick" for record in records):
        limits.append("The attacks ran with the quick preset, that is with few iterations. Full attacks are stronger.")
    widest = max(records, key=lambda record: record.interval[1] - record.interval[0])
    low, high = (100 * bound for bound in widest.interval)
    if widest.n < _FEW:
        limits.append(
            f"{widest.n} images are few: an accuracy of {format_percent(widest.accuracy)}% measured on them is "
            f"compatible with anything from {low:.0f}% to {high:.0f}%."
        )
    limits.append(
        f"One classifier ({records[0].classifier}) and one set of images ({records[0].dataset}) were measured. "
        "Other classifiers, images and attacks can behave otherwise."
    )
    return limits


# The rest of the page


def _paper_context(table: PaperTable) -> dict[str, Any]:
    lines = [{"label": attack, "cells": [f"{value:g}" for value in line]} for attack, line in table.rows.items()]
    columns = range(len(table.columns))
    averages = [
        {"label": "Average, as printed", "cells": ["–" if a is None else f"{a:g}" for a in table.printed_averages]}
    ]
    for kind, label in AVERAGES.items():
        averages.append({"label": f"{label}, recomputed", "cells": [f"{table.average(i, kind):.2f}" for i in columns]})
    return {
        "title": table.title,
        "source": table.source,
        "setting": table.setting,
        "columns": table.columns,
        "rows": lines,
        "averages": averages,
        "notes": table.notes,
    }


def _facts(table: AccuracyTable, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    records = table.records
    first = records[0]
    facts = [("Classifier", first.classifier), ("Images", first.dataset)]
    facts.append(("n", " / ".join(f"{n:,}" for n in dict.fromkeys(record.n for record in records))))
    for record in {record.defence: record for record in records if record.defence != NO_DEFENCE}.values():
        parameters = _parameters(record.defence_parameters)
        facts.append(("Defence", f"{record.defence}: {parameters}" if parameters else record.defence))
    budgets = dict.fromkeys(
        f"{_norm_name(record.norm)} {format_eps(record.eps)}" for record in records if record.eps is not None
    )
    if budgets:
        facts.append(("Budget", ", ".join(budgets)))
    presets = dict.fromkeys(record.preset for record in records if record.preset)
    if presets:
        facts.append(("Preset", ", ".join(presets)))
    seeds = dict.fromkeys(str(record.seed) for record in records if record.seed is not None)
    if seeds:
        facts.append(("Seed", ", ".join(seeds)))
    times = [record.seconds for record in records if record.seconds is not None]
    if times:
        facts.append(("Time, all cells", f"{sum(times):,.1f} s"))
    versions = dict.fromkeys(f"{name} {version}" for record in records for name, version in record.versions.items())
    if versions:
        facts.append(("Versions", ", ".join(versions)))
    facts += [(str(name), format_value(value)) for name, value in settings.items()]
    return facts


def _parameters(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {format_value(value)}" for name, value in parameters.items())


def _runs(table: AccuracyTable) -> list[dict[str, str]]:
    runs = []
    for row, cells in zip(table.rows, table.cells, strict=True):
        present = [(column.label, record) for column, record in zip(table.columns, cells, strict=True) if record]
        record = present[0][1]
        # The budget has a column of its own.
        said = {"norm": str(record.norm), "eps": str(record.eps)}
        parameters = {name: v for name, v in record.attack_parameters.items() if said.get(name) != str(v)}
        times = dict.fromkeys(f"{label} {one.seconds:,.1f} s" for label, one in present if one.seconds is not None)
        runs.append(
            {
                "label": row.label,
                "budget": "–" if record.norm is None else f"{_norm_name(record.norm)} {format_eps(record.eps)}",
                "parameters": _parameters(parameters) or "–",
                "seconds": ", ".join(times) or "–",
            }
        )
    return runs


# Pictures


def _panel_context(panel: Panel, max_side: int, quality: int) -> dict[str, Any]:
    clean, attacked, purified = (
        np.asarray(image, dtype=np.float64) for image in (panel.clean, panel.adversarial, panel.purified)
    )
    attack = attack_name(panel.attack)
    perturbation = attacked - clean
    factor = magnification(perturbation)
    largest, length = float(np.abs(perturbation).max()), float(np.linalg.norm(perturbation))
    shots = [
        _shot("Clean", clean, panel.clean_prediction, panel),
        _shot(f"After {attack}", attacked, panel.adversarial_prediction, panel),
        {
            "title": f"Perturbation ×{factor}" if largest else "Perturbation",
            "alt": f"Perturbation of {panel.name} by {attack}, magnified {factor} times around mid-grey",
            "image": 0.5 + factor * perturbation,
            "prediction": None,
            "note": f"L∞ {255 * largest:.1f}/255 · L2 {length:.2f}" if largest else "none: the image is unchanged",
        },
        _shot("Purified", purified, panel.purified_prediction, panel),
    ]
    for shot in shots:
        shot["source"] = _data_uri(shot.pop("image"), max_side, quality)
    return {
        "name": panel.name,
        "attack": attack,
        "true_label": panel.true_label,
        "small": max(clean.shape[:2]) <= _SMALL_SIDE,
        "shots": shots,
    }


def _shot(title: str, image: np.ndarray, prediction: Prediction, panel: Panel) -> dict[str, Any]:
    right = prediction.label == panel.true_label if prediction.correct is None else bool(prediction.correct)
    verdict = "right" if right else "wrong"
    confidence = "" if prediction.confidence is None else f"{100 * prediction.confidence:.0f}%"
    return {
        "title": title,
        "alt": f"{panel.name}, {title[0].lower()}{title[1:]}: classified as {prediction.label}, {verdict}",
        "image": image,
        "prediction": {"label": prediction.label, "confidence": confidence, "right": right, "verdict": verdict},
        "note": "",
    }


def _data_uri(image: np.ndarray, max_side: int, quality: int) -> str:
    from PIL import Image

    picture = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    buffer = io.BytesIO()
    if max(picture.size) <= _SMALL_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        # Subsampled colour would blur the perturbation; optimize=True overflows Pillow's buffer on noise.
        picture.save(buffer, "JPEG", quality=quality, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
