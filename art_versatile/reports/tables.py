"""Accuracy tables: attacks by defences, from records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from art_versatile._checks import check_choice
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, THREAT_MODELS, EvaluationRecord
from art_versatile.reports.text import (
    ABSENT,
    AVERAGES,
    aligned,
    attack_name,
    format_eps,
    format_measure,
    format_percent,
    format_spread,
    format_value,
    join_counts,
    last_line_width,
    markdown_table,
    unique,
)

if TYPE_CHECKING:
    import rich.table

__all__ = ["AccuracyTable", "Column", "Row", "WorstCase", "accuracy_table", "tables_by_threat_model"]

# Facts of the record that tell rows of one attack apart, in the order in which a label says them.
_FACTS = ("norm", "eps", "effort", "iterations", "surrogate", "gradient", "eot_samples", "file_format")


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
        """Data set, classifier, number of images and effort, in one line."""
        first = self.records[0]
        efforts = unique(record.effort for record in self.records if record.effort is not None)
        parts = [first.dataset, first.classifier, f"n = {join_counts(self.records)}"]
        return " · ".join(parts + [f"{effort} effort" for effort in efforts])

    @property
    def note(self) -> str:
        """What the figures are."""
        models = [model for model in unique(column.threat_model for column in self.columns) if model != CLEAN]
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
                    line += [ABSENT, "", ""]
                else:
                    accuracy = f"{format_percent(record.accuracy)} ({format_spread(record)})"
                    line += [accuracy, format_measure(record.psnr, 1), format_measure(record.mae, 4)]
            body.append([*line, join_counts(record for record in cells if record is not None)])
        for label, worsts in self.worst_rows:
            line = [label]
            for worst in worsts:
                line += [ABSENT if worst is None else format_percent(worst.accuracy), "", ""]
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
        widths = [max(last_line_width(line[i]) for line in (header, *body)) for i in range(len(header))]
        for places in columns:
            name, _, unit = header[places[0]].partition("\n")
            units = aligned([unit, *(header[i] for i in places[1:])], [widths[i] for i in places])
            # Names are Text: square brackets in them are not mark-up.
            table.add_column(Text(f"{name}\n{units}"), overflow="fold")
        table.add_column("n", justify="right")
        for index, line in enumerate(body):
            cells = [aligned([line[i] for i in places], [widths[i] for i in places]) for places in columns]
            average = index >= len(self.rows)
            table.add_row(
                *map(Text, [line[0].replace(" ", "\n", 1) if average else line[0], *cells, line[-1]]),
                style="bold" if average else None,
                end_section=index == len(self.rows) - 1,
            )
        return table


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
        values = unique(getattr(record, name) for record in records)
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
    parts: dict[str, Any] = {name: getattr(record, name) for name in _FACTS}
    # What is a fact of the record and among the parameters, too, is said once.
    said = {*_FACTS, *(["max_iter"] if record.iterations is not None else [])}
    parts.update((name, value) for name, value in record.attack_parameters.items() if name not in said)
    return _canonical([record.attack, parts]), parts


def _labels(keys: Mapping[str, tuple[str, dict[str, Any]]]) -> list[str]:
    """Each name, with those parameters in which it differs from its namesakes."""
    labels = []
    for name, parts in keys.values():
        namesakes = [other for other_name, other in keys.values() if other_name == name]
        differing = [
            part
            for part in unique(part for other in namesakes for part in other)
            if len({_canonical(other.get(part)) for other in namesakes}) > 1
        ]
        # The facts of the record come first; what they tell apart needs no parameters.
        for fewer in ([p for p in differing if p in _FACTS], [p for p in differing if p != "eps_step"]):
            if len({_canonical([other.get(part) for part in fewer]) for other in namesakes}) == len(namesakes):
                differing = fewer
                break
        said = [_qualifier(part, parts[part]) for part in differing if parts.get(part) is not None]
        labels.append(f"{name} ({', '.join(said)})" if said else name)
    return labels


def _qualifier(name: str, value: Any) -> str:
    if name == "eps":
        return f"ε {format_eps(value)}"
    if name in ("effort", "iterations"):
        return f"{value} {name}"
    if name in ("gradient", "file_format"):
        return {"exact": "exact gradient"}.get(value, str(value).upper())
    return f"from {value}" if name == "surrogate" else f"{name} {format_value(value)}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def tables_by_threat_model(records: Iterable[EvaluationRecord]) -> list[AccuracyTable]:
    """
    A table for each threat model, which are never mixed, with the clean figures of the defences in it.

    :param records: Records of one data set and one classifier, one a cell.
    :return: In the order of :data:`~art_versatile.evaluation.records.THREAT_MODELS`.
    """
    records = list(records)
    tables = []
    for threat in THREAT_MODELS[1:]:
        attacked = [record for record in records if record.threat_model == threat]
        shown = {record.defence for record in attacked}
        clean = [record for record in records if record.attack == CLEAN and record.defence in shown]
        tables += [accuracy_table([*clean, *attacked])] if attacked else []
    return tables
