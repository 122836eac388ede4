"""Accuracy tables from records, and the paper's Table 2 as data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from art_versatile._checks import check_choice
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, THREAT_MODELS, EvaluationRecord

if TYPE_CHECKING:
    import rich.table

__all__ = [
    "AVERAGES",
    "PAPER_TABLE_2",
    "AccuracyTable",
    "Column",
    "PaperTable",
    "Row",
    "WorstCase",
    "accuracy_table",
    "attack_name",
    "format_eps",
    "format_measure",
    "format_percent",
    "format_spread",
    "format_value",
    "markdown_table",
    "measured_on",
]

#: Over every row, clean included, as the paper prints it; over the attacks alone.
AVERAGES = {"all": "Average with clean", "attacks": "Average of attacks"}
_ABSENT = "–"
# Below this, a tenth of a percent of the interval says nothing.
_FINE_N = 1000


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
    return _ABSENT if share is None else f"{100 * share:.1f}"


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
        return _ABSENT
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def format_eps(eps: float | None) -> str:
    """
    Write a budget, in 255ths where it is a whole number of them.

    :param eps: Budget for pixels in [0, 1], or None.
    :return: For example ``"8/255"``, ``"0.5"``; a dash for None.
    """
    if eps is None:
        return _ABSENT
    levels = eps * 255
    if 1 <= round(levels) <= 64 and math.isclose(levels, round(levels), rel_tol=1e-4):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def format_value(value: Any) -> str:
    """
    Write a parameter's value.

    :param value: A JSON value.
    :return: Compact text.
    """
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Column:
    """
    One defence under one threat model.

    :param label: What the header says.
    :param defence: Name of the defence.
    :param threat_model: The threat model of the attacked rows; ``"clean"`` if the defence was not attacked.
    """

    label: str
    defence: str
    threat_model: str


@dataclass(frozen=True)
class Row:
    """
    One attack with its budget and parameters, or clean images.

    :param label: What the first cell says.
    :param attack: Name of the attack in its records, by which it is found in a :class:`PaperTable`.
    """

    label: str
    attack: str

    @property
    def is_clean(self) -> bool:
        """Whether the row holds clean images."""
        return self.attack == CLEAN


@dataclass(frozen=True)
class WorstCase:
    """
    Images that are right under every attack of a group.

    :param correct: How many.
    :param n: Out of how many.
    """

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Their share, 0 to 1."""
        return self.correct / self.n


@dataclass(frozen=True)
class AccuracyTable:
    """
    Attacks by defences, made by :func:`accuracy_table`.

    :param columns: The columns.
    :param rows: The rows, clean first.
    :param cells: For each row, for each column, a record or None.
    :param averages: Which averages are printed, keys of :data:`AVERAGES`.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[EvaluationRecord | None, ...], ...]
    averages: tuple[str, ...] = tuple(AVERAGES)

    def average(self, column: int, kind: str) -> float | None:
        """
        Unweighted mean of a column's accuracies over the rows of its threat model.

        There is none of attacks through a defence, where the strongest counts, nor over several budgets.

        :param column: Index of the column.
        :param kind: ``"all"`` (clean included, as the paper prints) or ``"attacks"``.
        :return: 0 to 1, or None if the column lacks a row that another column of the same threat model has.
        :raises ValueError: If the kind is unknown.
        """
        check_choice("kind", kind, list(AVERAGES))
        model = self.columns[column].threat_model
        own = [line[i] for line in self.cells for i, c in enumerate(self.columns) if c.threat_model == model]
        if model in ("query", "adaptive") or len({r.eps for r in own if r is not None and r.eps is not None}) > 1:
            return None
        same = [i for i, other in enumerate(self.columns) if other.threat_model == self.columns[column].threat_model]
        values = []
        for row, cells in zip(self.rows, self.cells, strict=True):
            if (row.is_clean and kind == "attacks") or all(cells[i] is None for i in same):
                continue
            record = cells[column]
            if record is None:
                return None
            values.append(record.accuracy)
        return sum(values) / len(values) if values else None

    def worst(self, column: int, norm: str | None, eps: float) -> WorstCase | None:
        """
        The worst case per image: how many images are right as they are and under every attack within a budget, in every
        evaluation.

        :param column: Index of the column.
        :param norm: Norm of the budget.
        :param eps: The budget. Attacks in the same norm with this or a smaller one count; those without one, as C&W,
            are not of its threat set.
        :return: None if there are fewer than two such attacks, none of them at this very budget, or a record does not
            say what was right.
        """
        cells = [line[column] for line in self.cells]
        bounded = [r for r in cells if r is not None and r.norm == norm and r.eps is not None and r.eps <= eps]
        if len(bounded) < 2 or all(record.eps != eps for record in bounded):
            return None
        clean = [r for row, r in zip(self.rows, cells, strict=True) if row.is_clean and r is not None]
        rights = [record.right for record in [*clean, *bounded]]
        known = [right for right in rights if right is not None]
        if len(known) < len(rights) or len({len(right) for right in known}) > 1:
            return None
        return WorstCase(sum(set(image) == {"1"} for image in zip(*known, strict=True)), len(known[0]))

    @property
    def budgets(self) -> list[tuple[str, str | None, float]]:
        """Label, norm and eps of every budget, the smallest first; half the pixel range in L-infinity is none."""
        found = {(r.norm, r.eps) for r in self.records if r.eps is not None and not r.is_unbounded}
        several = len({norm for norm, _ in found}) > 1
        ordered = sorted(found, key=lambda budget: (budget[0] or "", budget[1]))
        return [(f"L{norm} {format_eps(eps)}" if several else format_eps(eps), norm, eps) for norm, eps in ordered]

    @property
    def worst_rows(self) -> list[tuple[str, list[WorstCase | None]]]:
        """Label and cells of the rows of worst cases: one for each budget with at least two attacks."""
        rows = []
        for label, norm, eps in self.budgets:
            cells = [self.worst(column, norm, eps) for column in range(len(self.columns))]
            if any(cell is not None for cell in cells):
                rows.append((f"Worst case per image, eps {label}", cells))
        return rows

    @property
    def records(self) -> tuple[EvaluationRecord, ...]:
        """The records of the cells, each once."""
        unique = {id(record): record for cells in self.cells for record in cells if record is not None}
        return tuple(unique.values())

    @property
    def title(self) -> str:
        """Data set, classifier, number of images and preset, in one line."""
        first = self.records[0]
        presets = _unique(record.preset for record in self.records if record.preset is not None)
        parts = [first.dataset, first.classifier, f"n = {_join_counts(self.records)}"]
        return " · ".join(parts + [f"{preset} preset" for preset in presets])

    @property
    def note(self) -> str:
        """What the figures are."""
        models = [model for model in _unique(column.threat_model for column in self.columns) if model != CLEAN]
        threat = f" Threat model: {', '.join(models)}." if models else ""
        evaluations = (
            " Random defences: mean of the evaluations and the worst, after optimising."
            if any(record.evaluations for record in self.records)
            else ""
        )
        return (
            f"Accuracy in %, Wilson's 95% interval in brackets.{evaluations} PSNR (dB) and MAE (share of the pixel "
            "range): the attacked image (no defence) or the purified image (defence) against the clean one." + threat
        )

    def text_rows(self) -> tuple[list[str], list[list[str]]]:
        """
        The table as text.

        :return: Header and rows, averages last. A header may hold a line break.
        """
        header = ["Attack"]
        for column in self.columns:
            header += [f"{column.label}\naccuracy %", "PSNR dB", "MAE"]
        header.append("n")
        body = []
        for row, cells in zip(self.rows, self.cells, strict=True):
            line = [row.label]
            for record in cells:
                if record is None:
                    line += [_ABSENT, "", ""]
                else:
                    accuracy = f"{format_percent(record.accuracy)} ({format_spread(record)})"
                    line += [accuracy, format_measure(record.psnr, 1), format_measure(record.mae, 4)]
            body.append([*line, _join_counts(record for record in cells if record is not None)])
        for label, worsts in self.worst_rows:
            line = [label]
            for worst in worsts:
                line += [_ABSENT if worst is None else format_percent(worst.accuracy), "", ""]
            body.append([*line, ""])
        for kind in self.averages:
            shares = [self.average(index, kind) for index in range(len(self.columns))]
            if any(share is not None for share in shares):
                body.append([AVERAGES[kind], *(text for s in shares for text in (format_percent(s), "", "")), ""])
        return header, body

    def to_markdown(self) -> str:
        """
        The table in Markdown, title above and note below.

        :return: Text that ends with a line break.
        """
        return markdown_table(self.title, *self.text_rows(), self.note)

    def to_rich(self) -> rich.table.Table:
        """
        The table for the terminal.

        :return: What ``rich.console.Console.print`` takes.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        header, body = self.text_rows()
        header = [name.removeprefix("PSNR ") for name in header]
        table = Table(title=Text(self.title), caption=Text(self.note), box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column("Attack")
        # A defence's three figures share a column, so that two defences fit into 80 characters.
        columns = [range(start, start + 3) for start in range(1, len(header) - 1, 3)]
        widths = [max(_last_line_width(line[i]) for line in (header, *body)) for i in range(len(header))]
        for places in columns:
            name, _, unit = header[places[0]].partition("\n")
            units = _aligned([unit, *(header[i] for i in places[1:])], [widths[i] for i in places])
            # Names are Text: square brackets in them are not mark-up.
            table.add_column(Text(f"{name}\n{units}"), overflow="fold")
        table.add_column("n", justify="right")
        for index, line in enumerate(body):
            cells = [_aligned([line[i] for i in places], [widths[i] for i in places]) for places in columns]
            average = index >= len(self.rows)
            table.add_row(
                *map(Text, [line[0].replace(" ", "\n", 1) if average else line[0], *cells, line[-1]]),
                style="bold" if average else None,
                end_section=index == len(self.rows) - 1,
            )
        return table


def _last_line_width(text: str) -> int:
    return len(text.rpartition("\n")[2])


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    """Accuracy to the left (its percent aligned at the point), the measures to the right."""
    first, *others = texts
    percent, _, interval = first.partition(" ")
    left = f"{percent:>5} {interval}" if percent[:1].isdigit() else first
    return f"{left:<{max(widths[0], 14)}}" + "".join(
        f" {text:>{width}}" for text, width in zip(others, widths[1:], strict=True)
    )


def accuracy_table(records: Iterable[EvaluationRecord], *, averages: Sequence[str] = tuple(AVERAGES)) -> AccuracyTable:
    """
    Arrange records: a row for clean images and for each attack, a column for each defence under each threat model.

    Order is that of first appearance, clean images and no defence first. Attacks of one name with other budgets or
    parameters are rows of their own, and the labels say what differs. Clean records serve every threat model of their
    defence.

    :param records: Records of one data set and one classifier, one a cell.
    :param averages: Which averages to print, out of ``"all"`` (clean included) and ``"attacks"``.
    :return: The table.
    :raises TypeError: If an item is not a record.
    :raises ValueError: If there is no record, there is more than one data set or classifier, two records fill one cell,
        or an average is unknown.
    """
    records = list(records)
    for kind in averages:
        check_choice("averages", kind, list(AVERAGES))
    if not records:
        raise ValueError("Expected at least one record. Received none.")
    for record in records:
        if not isinstance(record, EvaluationRecord):
            raise TypeError(f"Expected EvaluationRecords. Received {type(record).__name__}.")
    for name in ("dataset", "classifier"):
        values = _unique(getattr(record, name) for record in records)
        if len(values) > 1:
            raise ValueError(f"Expected records of one {name} in a table. Received {values}.")

    row_keys: dict[str, tuple[str, dict[str, Any]]] = {}
    defence_keys: dict[str, tuple[str, dict[str, Any]]] = {}
    models: dict[str, list[str]] = {}
    found: dict[tuple[str, str, str], EvaluationRecord] = {}
    for record in records:
        row, row_parts = _row_key(record)
        defence = _canonical([record.defence, record.defence_parameters])
        row_keys.setdefault(row, (record.attack, row_parts))
        defence_keys.setdefault(defence, (record.defence, dict(record.defence_parameters)))
        seen = models.setdefault(defence, [])
        if record.threat_model != CLEAN and record.threat_model not in seen:
            seen.append(record.threat_model)
        if (row, defence, record.threat_model) in found:
            raise ValueError(
                f"Expected one record a cell. Received two of {record.defence!r} against {record.attack!r} "
                f"({record.threat_model}) that differ in neither budget nor parameters."
            )
        found[row, defence, record.threat_model] = record

    labels = map(attack_name, _labels(row_keys))
    rows = dict(sorted(zip(row_keys, labels, strict=True), key=lambda item: item[0] != _CLEAN_KEY))
    defences = dict(zip(defence_keys, _labels(defence_keys), strict=True))
    several = len({model for seen in models.values() for model in seen}) > 1
    # Threat models are never mixed: all defences under one, then all under the next; no defence comes first.
    ordered = sorted(models, key=lambda key: defence_keys[key][0] != NO_DEFENCE)
    places = [(key, model) for model in THREAT_MODELS for key in ordered if model in (models[key] or [CLEAN])]
    columns, cells = [], []
    for key, model in places:
        label = "No defence" if defences[key] == NO_DEFENCE else defences[key]
        columns.append(Column(f"{label} · {model}" if several else label, defence_keys[key][0], model))
    for row in rows:
        cells.append(tuple(found.get((row, key, CLEAN if row == _CLEAN_KEY else model)) for key, model in places))
    return AccuracyTable(
        columns=tuple(columns),
        rows=tuple(Row("Clean" if key == _CLEAN_KEY else label, row_keys[key][0]) for key, label in rows.items()),
        cells=tuple(cells),
        averages=tuple(averages),
    )


_CLEAN_KEY = "[clean]"


def _row_key(record: EvaluationRecord) -> tuple[str, dict[str, Any]]:
    if record.attack == CLEAN:
        return _CLEAN_KEY, {}
    parts: dict[str, Any] = {"norm": record.norm, "eps": record.eps, "preset": record.preset}
    # A budget that is also among the parameters is said once.
    parts.update((name, value) for name, value in record.attack_parameters.items() if name not in parts)
    return _canonical([record.attack, parts]), parts


def _labels(keys: Mapping[str, tuple[str, dict[str, Any]]]) -> list[str]:
    """Each name, with those parameters in which it differs from its namesakes."""
    labels = []
    for name, parts in keys.values():
        namesakes = [other for other_name, other in keys.values() if other_name == name]
        differing = [
            part
            for part in _unique(part for other in namesakes for part in other)
            if len({_canonical(other.get(part)) for other in namesakes}) > 1
        ]
        others = [part for part in differing if part != "eps_step"]  # it follows from the others, mostly
        if len({_canonical([other.get(part) for part in others]) for other in namesakes}) == len(namesakes):
            differing = others
        said = [_qualifier(part, parts[part]) for part in differing if parts.get(part) is not None]
        labels.append(f"{name} ({', '.join(said)})" if said else name)
    return labels


def _qualifier(name: str, value: Any) -> str:
    if name == "eps":
        return f"ε {format_eps(value)}"
    if name == "preset":
        return f"{value} preset"
    return f"{name} {format_value(value)}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _join_counts(records: Iterable[EvaluationRecord]) -> str:
    return " / ".join(f"{n:,}" for n in _unique(record.n for record in records)) or _ABSENT


def _markdown(text: str) -> str:
    # A bar ends a cell; the rest would be read as mark-up.
    for character in "\\|*_<`[":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", "<br>")


def measured_on(records: Iterable[EvaluationRecord]) -> str:
    """
    What records were measured on and how, in one line.

    :param records: At least one.
    :return: Classifier, data set, n, preset, budgets and threat models.
    """
    records = list(records)
    attacked = [record for record in records if record.attack != CLEAN]
    parts = [*_unique(r.classifier for r in records), *_unique(r.dataset for r in records)]
    parts.append(f"n = {_join_counts(records)}")
    parts += [f"{preset} preset" for preset in _unique(r.preset for r in attacked if r.preset)]
    budgets = sorted({r.eps for r in attacked if r.eps is not None})
    parts += [f"eps {', '.join(map(format_eps, budgets))}"] if budgets else []
    return " · ".join([*parts, *_unique(r.threat_model for r in attacked)])


def markdown_table(title: str, header: Sequence[str], body: Iterable[Sequence[str]], note: str) -> str:
    """
    A table in Markdown, title above and note below; the first column to the left, the others to the right.

    :param title: Title.
    :param header: One cell a column.
    :param body: Rows of cells.
    :param note: Note.
    :return: Text that ends with a line break.
    """
    aligned = ["---"] + ["---:"] * (len(header) - 1)
    lines = [f"**{_markdown(title)}**", "", *_markdown_lines(header, aligned, list(body)), "", _markdown(note)]
    return "\n".join(lines) + "\n"


def _markdown_lines(header: Sequence[str], aligned: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [[_markdown(cell) for cell in header], list(aligned)] + [
        [_markdown(cell) for cell in line] for line in body
    ]
    return ["| " + " | ".join(line) + " |" for line in lines]


@dataclass(frozen=True)
class PaperTable:
    """
    A table as a paper prints it; figures in percent.

    :param title: Which table.
    :param source: Authors, title, place.
    :param setting: What the figures were measured on.
    :param columns: Names of the defences.
    :param rows: Attack to one figure a column.
    :param printed_averages: The printed last row, None where the paper prints a dash.
    :param notes: What a reader should know of the figures.
    """

    title: str
    source: str
    setting: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    printed_averages: tuple[float | None, ...]
    notes: tuple[str, ...]

    def average(self, column: int, kind: str) -> float:
        """
        Recompute an average.

        :param column: Index of the column.
        :param kind: ``"all"`` (clean included, as printed) or ``"attacks"``.
        :return: Percent.
        :raises ValueError: If the kind is unknown.
        """
        check_choice("kind", kind, list(AVERAGES))
        values = [line[column] for attack, line in self.rows.items() if kind == "all" or attack != "Clean"]
        return sum(values) / len(values)

    def to_markdown(self) -> str:
        """
        The table in Markdown, with its source, both averages and its notes.

        :return: Text that ends with a line break.
        """
        body = [[attack, *(f"{value:g}" for value in line)] for attack, line in self.rows.items()]
        body.append(["Average, printed", *(_ABSENT if a is None else f"{a:g}" for a in self.printed_averages)])
        for kind, label in AVERAGES.items():
            body.append([f"{label}, recomputed", *(f"{self.average(i, kind):.2f}" for i in range(len(self.columns)))])
        header = ["Attack", *self.columns]
        lines = [f"**{_markdown(self.title)}**", ""]
        lines += _markdown_lines(header, ["---"] + ["---:"] * len(self.columns), body)
        lines += ["", _markdown(f"{self.source} {self.setting}"), "", *(f"- {_markdown(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"


PAPER_TABLE_2 = PaperTable(
    title="Table 2 of the paper: accuracy in %",
    source=(
        "H. Zhang, Z. Yao, K. Sakurai: Versatile Defense Against Adversarial Attacks on Image Recognition, "
        "arXiv 2403.08170 (2024), Table 2."
    ),
    setting=(
        "Inception-v3, 5,000 ImageNet validation images of 256 x 256 pixels that it gets right, eps 16/255 (C&W: L2), "
        "40 iterations; static attacks on the undefended classifier."
    ),
    columns=("No defence", "Ours (versatile)", "Attack-specific", "Random resizing", "WD+PD", "WD+SR"),
    rows={
        "Clean": (100.0, 92.1, 94.75, 97.3, 96.5, 86.3),
        "FGSM": (25.8, 80.4, 83.2, 51.3, 37.5, 70.7),
        "BIM": (1.8, 87.3, 90.42, 19.72, 28.9, 73.2),
        "PGD": (2.4, 86.76, 88.4, 21.3, 29.2, 79.4),
        "MI-FGSM": (0.1, 89.3, 86.34, 14.5, 15.44, 70.58),
        "C&W": (0.0, 88.4, 89.1, 90.1, 35.4, 87.5),
        "AutoAttack": (0.5, 83.7, 88.4, 20.1, 15.6, 71.8),
        "DeepFool": (0.4, 80.3, 76.34, 88.9, 37.8, 73.36),
    },
    printed_averages=(None, 86.03, 87.12, 50.4, 37.04, 76.6),
    notes=(
        "The printed averages include the clean row, and recompute to the printed digits. Over the seven attacks alone "
        "the versatile model has 85.17, the attack-specific models 86.03, WD+SR 75.22, random resizing 43.70, "
        "WD+PD 28.55.",
        "The text says that the versatile model beats the attack-specific ones on PGD and MI-FGSM. The table shows it "
        "on MI-FGSM (89.3 against 86.34) and not on PGD (86.76 against 88.4). On DeepFool, too, it is ahead "
        "(80.3 against 76.34).",
        "The attack-specific figures for clean images and DeepFool are the means of the six attack-specific models of "
        "the paper's Table 1.",
        "WD: wavelet denoising. PD: pixel deflection. SR: super-resolution.",
    ),
)
