"""The first figures of a page: the attacker who knows the defence, the worst static attack, clean images."""

from __future__ import annotations

from dataclasses import dataclass

from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, EvaluationRecord
from art_versatile.reports.tables import AccuracyTable
from art_versatile.reports.text import ABSENT, format_percent, join_counts, unique

__all__ = ["Tile", "badges", "level", "tiles"]

_NAMES = {
    "static": "Static, grey-box",
    "transfer": "Transfer",
    "query": "Query black-box",
    "adaptive": "Adaptive, white-box",
}


@dataclass(frozen=True)
class Tile:
    """
    One figure.

    :param label: What it is.
    :param share: 0 to 1; None where it was not measured.
    :param note: Which attack, or why there is none.
    """

    label: str
    share: float | None
    note: str

    @property
    def value(self) -> str:
        """In percent."""
        return ABSENT if self.share is None else format_percent(self.share)

    @property
    def level(self) -> str:
        """What its colour follows."""
        return level(self.share)


def level(share: float | None) -> str:
    """
    What the colour of a share follows.

    :param share: 0 to 1, or None.
    :return: "high" from two thirds, "middle" from one third, else "low"; "none" for None.
    """
    if share is None:
        return "none"
    return "high" if share >= 2 / 3 else "middle" if share >= 1 / 3 else "low"


def badges(tables: list[AccuracyTable]) -> list[str]:
    """
    The setting in a few words.

    :param tables: Of one classifier and one data set, one a threat model.
    """
    records = [record for table in tables for record in table.records]
    efforts = unique(record.effort for record in records if record.effort)
    models = unique(record.threat_model for record in records if record.attack != CLEAN)
    first = [records[0].classifier, records[0].dataset, f"n = {join_counts(records)}"]
    return [*first, *(f"{effort} effort" for effort in efforts), *(_NAMES[model] for model in models)]


def tiles(tables: list[AccuracyTable]) -> list[Tile]:
    """
    The figures that the page begins with, of the first defence.

    :param tables: Of one classifier and one data set, one a threat model.
    :return: Under an adaptive attacker, the worst static attack, the worst case per image, the worst static attack
        without a defence, clean images; empty without a defence.
    """
    columns = [(table, i) for table in tables for i, c in enumerate(table.columns) if c.defence != NO_DEFENCE]
    if not columns:
        return []
    defence = columns[0][0].columns[columns[0][1]].defence
    adaptive = _worst(tables, "adaptive", defence)
    static = _worst(tables, "static", defence)
    bare = _worst(tables, "static", NO_DEFENCE)
    found = [
        Tile("Adaptive attacker", adaptive[1].worst, adaptive[0])
        if adaptive
        else Tile("Adaptive attacker", None, "not run: nothing is said of one who knows the defence"),
        *([Tile("Worst static attack", static[1].worst, static[0])] if static else []),
        *_worst_case(tables, defence),
        *([Tile("Worst static attack, no defence", bare[1].worst, bare[0])] if bare else []),
    ]
    clean = {r.defence: r for table in tables for r in table.records if r.attack == CLEAN}
    if defence in clean:
        before = clean.get(NO_DEFENCE)
        note = "" if before is None else f"no defence: {format_percent(before.accuracy)}%"
        found.append(Tile("Clean", clean[defence].accuracy, note))
    return found


def _worst(tables: list[AccuracyTable], threat_model: str, defence: str) -> tuple[str, EvaluationRecord] | None:
    """Label and record of the strongest attack, but for budgets that nothing can hold."""
    attacked = [
        (row.label, record)
        for table in tables
        for row, cells in zip(table.rows, table.cells, strict=True)
        for column, record in zip(table.columns, cells, strict=True)
        if (column.threat_model, column.defence) == (threat_model, defence) and record is not None
        if not row.is_clean and not record.is_unbounded
    ]
    return min(attacked, key=lambda item: item[1].worst, default=None)


def _worst_case(tables: list[AccuracyTable], defence: str) -> list[Tile]:
    """Of the static attacks at the largest budget that has one."""
    for table in tables:
        for index, column in enumerate(table.columns):
            if (column.threat_model, column.defence) == ("static", defence) and table.worst_rows:
                label, cells = table.worst_rows[-1]
                worst = cells[index]
                if worst is not None:
                    _, _, note = label.partition(", ")
                    return [Tile("Worst case per image", worst.accuracy, f"static attacks, {note}")]
    return []
