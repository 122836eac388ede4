"""One self-contained HTML page: the figures, the pictures behind them, and what they do not show."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from art_versatile._files import write_text_atomically
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, Check, EvaluationRecord
from art_versatile.reports.curves import accuracy_curves, curves_svg, legend
from art_versatile.reports.lead import badges, level, tiles
from art_versatile.reports.paper import PAPER_TABLE_2, PaperTable
from art_versatile.reports.pictures import SMALL_SIDE, Panel, data_uri, shots, story
from art_versatile.reports.tables import AccuracyTable, accuracy_table, tables_by_threat_model
from art_versatile.reports.templates import render
from art_versatile.reports.text import (
    ABSENT,
    AVERAGES,
    attack_name,
    format_budget,
    format_eps,
    format_measure,
    format_percent,
    format_spread,
    format_value,
    join_counts,
    norm_symbol,
    unique,
)

__all__ = ["CITATIONS", "write_report"]

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
# Below this many images the page says that they are few: the interval is wider than 6 points.
_FEW = 1000
# More pictures than these are folded away.
_OPEN_PANELS = 8


def write_report(
    path: str | os.PathLike[str],
    records: Iterable[EvaluationRecord],
    panels: Iterable[Panel] = (),
    *,
    title: str = "Before and after the purifier",
    summary: str = "",
    settings: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
    paper_table: PaperTable | None = PAPER_TABLE_2,
) -> Path:
    """
    Write the page. It has no script and refers to nothing outside itself; pictures are embedded.

    :param path: The file, written atomically.
    :param records: Records of one data set and one classifier, one a cell.
    :param panels: Rows of the gallery, in order.
    :param title: Title of the page.
    :param summary: What was found, in plain words, as the verdict; empty leaves it out.
    :param settings: More lines for the settings, name to value.
    :param checks: What :func:`art_versatile.evaluation.masking_checks` found; empty leaves the section out.
    :param paper_table: A published table to show below; None leaves it out.
    :return: The path.
    :raises ValueError: If there is no title or no record, or the records do not fit into one table.
    :raises TypeError: If an item is not a record or not a panel.
    """
    if not isinstance(title, str) or not title.strip():
        raise ValueError(f"Expected title to be a non-empty string. Received {title!r}.")
    panels = list(panels)
    for panel in panels:
        if not isinstance(panel, Panel):
            raise TypeError(f"Expected panels to be Panels. Received {type(panel).__name__}.")
    everything = accuracy_table(records)
    records = everything.records
    tables = tables_by_threat_model(records) or [everything]
    curves = accuracy_curves(records)
    context = {
        "title": title,
        "summary": summary,
        "badges": badges(tables),
        "tiles": tiles(tables),
        "flags": _flags(tables),
        "adaptive": _adaptive([table for table in tables if _is_through(table)]),
        "curves": {"svg": curves_svg(curves), "legend": legend(curves)} if curves else None,
        "tables": [_table_context(table) for table in tables if not _is_through(table)],
        "panels": [_panel_context(panel) for panel in panels],
        "open_panels": _OPEN_PANELS,
        "threat_model": _threat_model(records),
        "limits": _limits(records),
        "checks": _checks(checks),
        "paper": None if paper_table is None else _paper_context(paper_table),
        "facts": _facts(records, settings or {}),
        "runs": _runs(records),
        "citations": CITATIONS,
    }
    return write_text_atomically(path, render("report.html.j2", context))


def _is_through(table: AccuracyTable) -> bool:
    return table.columns[-1].threat_model in _THROUGH


def _flags(tables: Sequence[AccuracyTable]) -> list[str]:
    said: dict[str, list[str]] = {}
    for table in tables:
        for row, cells in zip(table.rows, table.cells, strict=True):
            for column, record in zip(table.columns, cells, strict=True):
                for flag in record.flags if record is not None else ():
                    said.setdefault(flag, []).append(f"{row.label}, {column.label}")
    return [f"{flag} ({'; '.join(unique(places))})" for flag, places in said.items()]


# Tables


def _table_context(table: AccuracyTable) -> dict[str, Any]:
    rows = []
    for row, cells in zip(table.rows, table.cells, strict=True):
        budgets = [format_budget(record) for record in cells if record is not None]
        rows.append({"label": row.label, "budget": (budgets or [""])[-1], "cells": [_cell(record) for record in cells]})
    averages = [
        {
            "label": label,
            "budget": "",
            "cells": [_share_cell(None if worst is None else worst.accuracy) for worst in worsts],
        }
        for label, worsts in table.worst_rows
    ]
    for kind in table.averages:
        shares = [table.average(index, kind) for index in range(len(table.columns))]
        if any(share is not None for share in shares):
            averages.append({"label": AVERAGES[kind], "budget": "", "cells": [_share_cell(share) for share in shares]})
    return {
        "model": table.columns[-1].threat_model,
        "columns": [column.label for column in table.columns],
        "rows": rows,
        "averages": averages,
        "note": table.note,
        "title": table.title,
    }


def _cell(record: EvaluationRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    low, high = record.interval
    unchanged = record.psnr is not None and math.isinf(record.psnr)
    measures = []
    if record.psnr is not None:
        measures.append("unchanged" if unchanged else f"PSNR {format_measure(record.psnr, 1)} dB")
    # An image equal to the clean one has no further measures worth reading.
    if record.mae is not None and not unchanged:
        measures.append(f"MAE {format_measure(record.mae, 4)}")
        if record.ssim is not None:
            measures.append(f"SSIM {format_measure(record.ssim, 3)}")
    measures.append(f"n {record.n:,}")
    return {
        **(_share_cell(record.accuracy) or {}),
        "interval": format_spread(record),
        "low": f"{100 * low:.2f}",
        "span": f"{100 * (high - low):.2f}",
        "measures": measures,
    }


def _share_cell(share: float | None) -> dict[str, Any] | None:
    if share is None:
        return None
    bar = {"width": f"{100 * share:.2f}", "level": level(share), "low": "", "span": ""}
    return {"value": format_percent(share), "interval": "", **bar, "measures": []}


def _adaptive(tables: Sequence[AccuracyTable]) -> dict[str, Any] | None:
    """Attacks through a defence: a row each, of each defence the strongest first, then the worst case per image."""
    if not tables:
        return None
    lines: list[dict[str, Any]] = []
    for table in reversed(tables):  # adaptive before queries
        for place, column in enumerate(table.columns):
            cells = [line[place] for line in table.cells]
            clean = next((r for row, r in zip(table.rows, cells, strict=True) if row.is_clean and r is not None), None)
            attacked = [
                (row, r) for row, r in zip(table.rows, cells, strict=True) if r is not None and not row.is_clean
            ]
            common = {"defence": column.defence, "model": column.threat_model}
            for row, record in sorted(attacked, key=lambda item: (item[1].is_unbounded, item[1].accuracy)):
                before = ABSENT if clean is None else f"{format_percent(clean.accuracy)}%"
                said = {"attack": row.label, "budget": format_budget(record), "clean": before, "cell": _cell(record)}
                lines.append({**common, **said})
            for label, norm, eps in table.budgets:
                worst = table.worst(place, norm, eps)
                if worst is not None:
                    cell = {**(_share_cell(worst.accuracy) or {}), "interval": f"{worst.correct} of {worst.n}"}
                    said = {"attack": "Worst case per image", "budget": label, "clean": "", "cell": cell}
                    lines.append({**common, **said})
    return {"rows": lines, "faced": any(line["model"] == "adaptive" for line in lines)}


# What the figures do not say


def _threat_model(records: Sequence[EvaluationRecord]) -> list[tuple[str, str]]:
    models = unique(record.threat_model for record in records if record.attack != CLEAN)
    return [_THREAT_MODELS[model] for model in models] or [("", "No attack was run.")]


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


def _limits(records: Sequence[EvaluationRecord]) -> list[str]:
    limits = []
    faced = {record.defence for record in records if record.threat_model == "adaptive"}
    spared = unique(r.defence for r in records if r.defence not in faced and r.defence != NO_DEFENCE)
    if spared:
        limits.append(
            f"No adaptive attack was run on {', '.join(spared)}: of an attacker who knows it, nothing is shown."
        )
    if any(record.effort == "quick" for record in records):
        limits.append("The attacks ran with quick effort, that is with few iterations. Full attacks are stronger.")
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
    rows = [(attack, [f"{value:g}" for value in line]) for attack, line in table.rows.items()]
    averages = [("Average, as printed", [ABSENT if a is None else f"{a:g}" for a in table.printed_averages])]
    for kind, label in AVERAGES.items():
        averages.append((f"{label}, recomputed", [f"{table.average(i, kind):.2f}" for i in range(len(table.columns))]))
    return {"table": table, "rows": rows, "averages": averages}


def _facts(records: Sequence[EvaluationRecord], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    first = records[0]
    facts = [("Classifier", first.classifier), ("Images", first.dataset), ("n", join_counts(records))]
    for record in {record.defence: record for record in records if record.defence != NO_DEFENCE}.values():
        parameters = _parameters(record.defence_parameters)
        facts.append(("Defence", f"{record.defence}: {parameters}" if parameters else record.defence))
    several = {
        "Budget": [f"{norm_symbol(r.norm)} {format_eps(r.eps)}" for r in records if r.eps is not None],
        "Effort": [r.effort for r in records if r.effort],
        "Seed": [str(r.seed) for r in records if r.seed is not None],
    }
    facts += [(name, ", ".join(unique(values))) for name, values in several.items() if values]
    times = [record.seconds for record in records if record.seconds is not None]
    if times:
        facts.append(("Time, all cells", f"{sum(times):,.1f} s"))
    versions = unique(f"{name} {version}" for record in records for name, version in record.versions.items())
    if versions:
        facts.append(("Versions", ", ".join(versions)))
    return facts + [(str(name), format_value(value)) for name, value in settings.items()]


def _parameters(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {format_value(value)}" for name, value in parameters.items())


def _runs(records: Sequence[EvaluationRecord]) -> list[dict[str, str]]:
    """An attack under one threat model, a line: its budgets together, and of each parameter every value."""
    groups: dict[tuple[str, str], list[EvaluationRecord]] = {}
    for record in records:
        if record.attack != CLEAN:
            groups.setdefault((record.attack, record.threat_model), []).append(record)
    runs = []
    for (attack, model), own in groups.items():
        # The budget has a column of its own.
        names = unique(name for record in own for name in record.attack_parameters if name not in ("norm", "eps"))
        parameters = []
        for name in names:
            values = unique(format_value(r.attack_parameters[name]) for r in own if name in r.attack_parameters)
            parameters.append(f"{name} = {' / '.join(values)}")
        for name in ("gradient", "eot_samples", "surrogate", "file_format"):
            values = unique(str(getattr(r, name)) for r in own if getattr(r, name) is not None)
            parameters += [f"{name} = {' / '.join(values)}"] if values else []
        seconds = [record.seconds for record in own if record.seconds is not None]
        runs.append(
            {
                "label": attack_name(attack),
                "model": model,
                "budget": ", ".join(unique(format_budget(record) or ABSENT for record in own)),
                "parameters": ", ".join(parameters) or ABSENT,
                "seconds": f"{sum(seconds):,.1f} s" if seconds else ABSENT,
            }
        )
    return runs


def _panel_context(panel: Panel) -> dict[str, Any]:
    figures = []
    for shot in shots(panel):
        said = shot.prediction
        verdict = "" if said is None else "right" if said.correct else "wrong"
        title = f"{panel.name}, {shot.title[0].lower()}{shot.title[1:]}"
        figures.append(
            {
                "title": shot.title,
                "alt": title if said is None else f"{title}: classified as {said.label}, {verdict}",
                "source": data_uri(shot.image),
                "verdict": verdict,
                "label": "" if said is None else said.label,
                "sure": "" if said is None or said.confidence is None else f"{100 * said.confidence:.0f}%",
                "note": shot.note,
            }
        )
    return {
        "name": panel.name,
        "attack": attack_name(panel.attack),
        "model": panel.threat_model,
        "true_label": panel.true_label,
        "small": max(panel.clean.shape[:2]) <= SMALL_SIDE,
        "story": story(panel),
        "figures": figures,
    }
