"""How names, budgets and figures are written, in every table and page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from art_versatile.evaluation.records import CLEAN, EvaluationRecord

__all__ = [
    "ABSENT",
    "AVERAGES",
    "aligned",
    "attack_name",
    "format_budget",
    "format_eps",
    "format_interval",
    "format_measure",
    "format_percent",
    "format_spread",
    "format_value",
    "join_counts",
    "last_line_width",
    "latex_text",
    "markdown_lines",
    "markdown_table",
    "markdown_text",
    "measured_on",
    "norm_symbol",
    "printed_attack",
    "unique",
]

ABSENT = "–"
#: Over every row, clean included, as the paper prints it; over the attacks alone.
AVERAGES = {"all": "Average with clean", "attacks": "Average of attacks"}
# Below this, a tenth of a percent of the interval says nothing.
_FINE_N = 1000
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "≤": r"$\leq$",
}


def attack_name(name: str) -> str:
    """
    What a reader is told of an attack that was run here.

    ART's AutoAttack is not the standard ensemble of Croce and Hein that the literature means by the name, so it is
    called "ART AutoAttack". Records keep the suite's name, and the paper's table the paper's.

    :param name: Name of the attack in a record, for example ``"AutoAttack"``.
    :return: For example ``"ART AutoAttack"``.
    """
    return re.sub(r"^AutoAttack\b", "ART AutoAttack", name)


def format_percent(share: float | None) -> str:
    """
    Write a share as percent with one decimal.

    :param share: 0 to 1, or None.
    :return: For example ``"86.0"``; a dash for None.
    """
    return ABSENT if share is None else f"{100 * share:.1f}"


def format_interval(record: EvaluationRecord) -> str:
    """
    Write the interval of a record's accuracy in percent.

    :param record: The record.
    :return: For example ``"43–82"``, with decimals from 1,000 images on.
    """
    digits = 1 if record.n >= _FINE_N else 0
    return "–".join(f"{100 * bound:.{digits}f}" for bound in record.interval)


def format_spread(record: EvaluationRecord) -> str:
    """
    Write what stands behind an accuracy: its interval, or of a random defence the worst of its evaluations.

    :param record: The record.
    :return: For example ``"43–82"``, ``"worst of 10: 80.0"``.
    """
    if record.evaluations:
        return f"worst of {len(record.evaluations)}: {format_percent(record.worst)}"
    return format_interval(record)


def format_measure(value: float | None, digits: int) -> str:
    """
    Write PSNR, MAE or SSIM.

    :param value: The measure, infinity for equal images, or None.
    :param digits: Decimals.
    :return: For example ``"31.2"``; ``"∞"``; a dash for None.
    """
    if value is None:
        return ABSENT
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def format_eps(eps: float | None) -> str:
    """
    Write a budget, in 255ths where it is a whole number of them.

    :param eps: Share of the pixel range, or None.
    :return: For example ``"8/255"``, ``"0.5"``; a dash for None.
    """
    if eps is None:
        return ABSENT
    levels = eps * 255
    if 1 <= round(levels) <= 64 and math.isclose(levels, round(levels), rel_tol=1e-4):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def norm_symbol(norm: str | None) -> str:
    """
    Write a norm.

    :param norm: As a record says it.
    :return: ``"L∞"``, ``"L2"``; ``"ε"`` for None.
    """
    return {None: "ε", "inf": "L∞"}.get(norm, f"L{norm}")


def format_budget(record: EvaluationRecord) -> str:
    """
    Write the budget of a record.

    :param record: The record.
    :return: ``"L∞ ≤ 8/255"``, ``"L2, no limit"``; nothing where it has neither norm nor budget.
    """
    if record.eps is not None:
        return f"{norm_symbol(record.norm)} ≤ {format_eps(record.eps)}"
    return "" if record.norm is None else f"{norm_symbol(record.norm)}, no limit"


def printed_attack(row: Mapping[str, Any]) -> str:
    """
    What attacked the pictures of a row of the printed study.

    :param row: From :func:`art_versatile.physical.printed_study`.
    :return: For example ``"PGD 8/255, static, knows of printing"``, ``"clean"``.
    """
    if row["threat_model"] == CLEAN:
        return str(row["attack"])
    knows = "knows of printing" if row["eot_samples"] else "knows of no printing"
    return f"{row['attack']} {format_eps(row['eps'])}, {row['threat_model']}, {knows}"


def format_value(value: Any) -> str:
    """
    Write a parameter's value.

    :param value: A JSON value.
    :return: Compact text.
    """
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def join_counts(records: Iterable[EvaluationRecord]) -> str:
    """
    Write every number of images of some records.

    :param records: The records.
    :return: For example ``"20 / 5,000"``; a dash for none.
    """
    return " / ".join(f"{n:,}" for n in unique(record.n for record in records)) or ABSENT


def measured_on(records: Iterable[EvaluationRecord]) -> str:
    """
    What records were measured on and how, in one line.

    :param records: The records.
    :return: Classifier, data set, n, effort, budgets and threat models; "nothing was measured" of none.
    """
    records = list(records)
    if not records:
        return "nothing was measured"
    attacked = [record for record in records if record.attack != CLEAN]
    parts = [*unique(r.classifier for r in records), *unique(r.dataset for r in records)]
    parts.append(f"n = {join_counts(records)}")
    parts += [f"{effort} effort" for effort in unique(r.effort for r in attacked if r.effort)]
    budgets = sorted({r.eps for r in attacked if r.eps is not None})
    parts += [f"eps {', '.join(map(format_eps, budgets))}"] if budgets else []
    return " · ".join([*parts, *unique(r.threat_model for r in attacked)])


def markdown_text(text: str) -> str:
    """Escape what Markdown would read as mark-up; a bar would end a cell."""
    for character in "\\|*_<`[":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", "<br>")


def markdown_lines(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """
    The lines of a table in Markdown; the first column to the left, the others to the right.

    :param header: One cell a column.
    :param body: Rows of cells.
    """
    aligned = ["---"] + ["---:"] * (len(header) - 1)
    lines = [[markdown_text(cell) for cell in line] for line in (header, *body)]
    return ["| " + " | ".join(line) + " |" for line in (lines[0], aligned, *lines[1:])]


def markdown_table(title: str, header: Sequence[str], body: Iterable[Sequence[str]], note: str) -> str:
    """
    A table in Markdown, title above and note below.

    :param title: Title.
    :param header: One cell a column.
    :param body: Rows of cells.
    :param note: Note.
    :return: Text that ends with a line break.
    """
    lines = [f"**{markdown_text(title)}**", "", *markdown_lines(header, body), "", markdown_text(note)]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def last_line_width(text: str) -> int:
    """Characters of the last line."""
    return len(text.rpartition("\n")[2])


def aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    """
    Several cells as one: accuracy to the left (its percent aligned at the point), the measures to the right.

    :param texts: Accuracy with its interval, then measures.
    :param widths: Of each, in characters.
    """
    first, *others = texts
    percent, _, interval = first.partition(" ")
    left = f"{percent:>5} {interval}" if percent[:1].isdigit() else first
    return f"{left:<{max(widths[0], 14)}}" + "".join(
        f" {text:>{width}}" for text, width in zip(others, widths[1:], strict=True)
    )
