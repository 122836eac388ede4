"""The paper's Tables 1 and 2: as printed, and filled with records of one's own, the printed figures beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from art_versatile._checks import check_choice
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, EvaluationRecord
from art_versatile.reports.text import (
    ABSENT,
    AVERAGES,
    attack_name,
    format_eps,
    format_interval,
    format_measure,
    format_percent,
    latex_text,
    markdown_table,
    markdown_text,
    measured_on,
    unique,
)

if TYPE_CHECKING:
    import rich.table

__all__ = [
    "PAPER_TABLE_1",
    "PAPER_TABLE_2",
    "SEEN",
    "TRAINED_ON",
    "PaperTable",
    "TextTable",
    "budgets_table",
    "distance_table",
    "storage_table",
    "strength_table",
    "table_1",
    "table_2",
]

#: The attacks that the paper trains on, in the order of its tables.
SEEN = ("FGSM", "BIM", "PGD", "MI-FGSM", "C&W", "AutoAttack")
#: Name of a purifier that was trained on one attack, as in ``TRAINED_ON.format("FGSM")``.
TRAINED_ON = "trained on {}"


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
        body.append(["Average, printed", *(ABSENT if a is None else f"{a:g}" for a in self.printed_averages)])
        for kind, label in AVERAGES.items():
            body.append([f"{label}, recomputed", *(f"{self.average(i, kind):.2f}" for i in range(len(self.columns)))])
        table = markdown_table(self.title, ["Attack", *self.columns], body, f"{self.source} {self.setting}")
        return table + "\n" + "".join(f"- {markdown_text(note)}\n" for note in self.notes)


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

PAPER_TABLE_1 = PaperTable(
    title="Table 1 of the paper: accuracy in % of purifiers trained on one attack",
    source=PAPER_TABLE_2.source.replace("Table 2", "Table 1"),
    setting=PAPER_TABLE_2.setting,
    columns=("No defence", *(TRAINED_ON.format(attack) for attack in SEEN)),
    rows={
        "Clean": (100.0, 95.3, 96.5, 96.3, 95.6, 93.1, 91.7),
        "FGSM": (25.8, 83.2, 70.6, 80.7, 85.74, 60.35, 80.6),
        "BIM": (1.8, 75.72, 90.42, 73.2, 71.3, 75.8, 70.3),
        "PGD": (2.4, 84.3, 83.7, 88.4, 77.45, 76.6, 83.14),
        "MI-FGSM": (0.1, 83.6, 77.36, 65.3, 86.34, 64.5, 67.8),
        "C&W": (0.0, 77.1, 77.4, 78.5, 76.4, 89.1, 78.1),
        "AutoAttack": (0.5, 67.1, 70.15, 77.8, 79.5, 79.7, 88.4),
        "DeepFool": (0.4, 78.56, 73.3, 76.1, 79.1, 70.3, 80.7),
    },
    printed_averages=(None, 80.61, 79.93, 79.54, 81.43, 76.18, 80.09),
    notes=("The column headings are lost in the text of the paper; the diagonal of Table 2 tells which is which.",),
)


@dataclass(frozen=True)
class TextTable:
    """
    A table as text.

    :param title: What it shows.
    :param header: One cell a column.
    :param rows: Cells.
    :param note: What a reader should know.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def to_markdown(self) -> str:
        """
        The table in Markdown, title above and note below.

        :return: Text that ends with a line break.
        """
        return markdown_table(self.title, self.header, self.rows, self.note)

    def to_csv(self) -> str:
        """
        The cells with commas between them (RFC 4180, but with single line breaks), the header first.

        :return: Text that ends with a line break.
        """
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    def to_latex(self) -> str:
        """
        The table in LaTeX, for the package booktabs: title above, note below.

        :return: Text that ends with a line break.
        """
        head, *body = ([latex_text(cell) for cell in line] for line in (self.header, *self.rows))
        lines = [
            r"\begin{table}",
            rf"\caption{{{latex_text(self.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
            latex_text(self.note),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_rich(self) -> rich.table.Table:
        """
        The table for the terminal.

        :return: What ``rich.console.Console.print`` takes.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), caption=Text(self.note))
        for index, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if index == 0 else "right")
        for line in self.rows:
            table.add_row(*map(Text, line))
        return table


def table_1(records: Iterable[EvaluationRecord]) -> TextTable:
    """
    The generalizability of purifiers trained on one attack each, in the layout of the paper's Table 1.

    :param records: Static records of defences named by :data:`TRAINED_ON`; what is missing is a dash.
    :return: Each cell "measured (printed)".
    """
    found = _static(records)
    names = [NO_DEFENCE, *PAPER_TABLE_1.columns[1:]]
    cells = {attack: [_accuracy(found, attack, name) for name in names] for attack in PAPER_TABLE_1.rows}
    return _filled(PAPER_TABLE_1, cells, found.values(), "Purifiers trained on one attack")


def table_2(
    records: Iterable[EvaluationRecord],
    columns: Mapping[str, str],
    remarks: str = "",
    *,
    further: Mapping[str, str] | None = None,
) -> TextTable:
    """
    The comparison of defences, in the layout of the paper's Table 2.

    The attack-specific column is the paper's: of the attacks that were trained on, the purifier of that very attack; of
    clean images and DeepFool the mean over the six.

    :param records: Static records.
    :param columns: The paper's column -> name of the defence in the records; what is missing is a dash.
    :param remarks: How the defences differ from the paper's, for the note.
    :param further: Columns that the paper lacks -> name of the defence in the records.
    :return: Each cell "measured (printed)"; of further columns "measured".
    """
    found, others = _static(records), further or {}
    cells = {}
    for attack in PAPER_TABLE_2.rows:
        line = []
        for column in PAPER_TABLE_2.columns:
            if column == "Attack-specific":
                line.append(_specific(found, attack))
            else:
                line.append(_accuracy(found, attack, NO_DEFENCE if column == "No defence" else columns.get(column)))
        cells[attack] = [*line, *(_accuracy(found, attack, defence) for defence in others.values())]
    said = f" {remarks}" if remarks else ""
    return _filled(PAPER_TABLE_2, cells, found.values(), "Comparison of defences", said, tuple(others))


def strength_table(records: Iterable[EvaluationRecord], defence: str) -> TextTable:
    """
    Accuracy by budget and number of iterations, the figures behind the paper's Figure 4.

    :param records: Static records of PGD and MI-FGSM.
    :param defence: Name of the defence.
    """
    own = [r for r in records if r.defence in (NO_DEFENCE, defence) and r.threat_model == "static" and r.eps]
    keys = sorted({(r.attack, r.eps or 0.0, r.iterations or 0) for r in own if r.file_format is None})
    rows = []
    for attack, eps, steps in keys:
        line = [attack, format_eps(eps), str(steps)]
        for name in (NO_DEFENCE, defence):
            cell = [r for r in own if (r.attack, r.eps, r.iterations, r.defence) == (attack, eps, steps, name)]
            line.append(_with_interval(cell[0]) if cell else ABSENT)
        rows.append(tuple(line))
    return TextTable(
        "Accuracy in % by attack strength",
        ("Attack", "eps", "iterations", "No defence", defence),
        tuple(rows),
        f"{measured_on(own)}; 95% interval in brackets. The paper's Figure 4.",
    )


def storage_table(records: Iterable[EvaluationRecord], defence: str) -> TextTable:
    """
    Attacked images as arrays of floats against the same images from PNG files (paper, section 3.4.1).

    :param records: Static records, those of images from files with ``file_format`` "PNG".
    :param defence: Name of the defence.
    """
    own = [r for r in records if r.defence in (NO_DEFENCE, defence) and r.threat_model in (CLEAN, "static")]
    stored = [r for r in own if r.file_format == "PNG"]
    found = {(r.attack, r.defence, r.file_format): r for r in reversed(own)}
    rows = []
    for attack in unique(r.attack for r in stored):
        cells = [found.get((attack, name, kind)) for name in (NO_DEFENCE, defence) for kind in (None, "PNG")]
        rows.append((attack_name(attack), *(ABSENT if cell is None else _with_interval(cell) for cell in cells)))
    return TextTable(
        "Floats against PNG files: accuracy in %",
        ("Attack", "No defence, floats", "No defence, PNG", f"{defence}, floats", f"{defence}, PNG"),
        tuple(rows),
        f"{measured_on(stored)}. The same attacked images, as floats and rounded to 8 bits; 95% interval in brackets "
        "(paper, 3.4.1).",
    )


def distance_table(records: Iterable[EvaluationRecord], defence: str) -> TextTable:
    """
    Distance to the clean image before and after the defence, the figures behind the paper's Figure 3.

    :param records: Records with distances; of clean images what the defence alone does.
    :param defence: Name of the defence.
    """
    found = _static(records)
    rows = []
    for attack in unique(name for name, _ in found):
        before, after = found.get((attack, NO_DEFENCE)), found.get((attack, defence))
        if before is not None and after is not None:
            mae = [format_measure(None if r.mae is None else 255 * r.mae, 2) for r in (before, after)]
            rows.append((attack_name(attack), *(format_measure(r.psnr, 2) for r in (before, after)), *mae))
    return TextTable(
        "Distance to the clean image",
        ("Attack", "PSNR attacked, dB", "PSNR purified, dB", "MAE attacked, 255ths", "MAE purified, 255ths"),
        tuple(rows),
        f"{measured_on(found.values())}; {defence}. The paper's Figure 3.",
    )


def budgets_table(records: Iterable[EvaluationRecord], title: str) -> TextTable:
    """
    Several purifiers, a row each: accuracy clean and under each attack at each budget, and their PSNR.

    :param records: Static records of one set of images.
    :param title: Of the table.
    :return: Accuracy in %; the PSNR is the mean over the attacked columns, in dB.
    """
    own = [r for r in records if r.threat_model in (CLEAN, "static") and r.file_format is None]
    columns = unique((r.attack, r.eps) for r in own)
    found = {(r.defence, r.attack, r.eps): r for r in reversed(own)}
    rows = []
    for defence in unique(r.defence for r in own):
        cells = [found.get((defence, *column)) for column in columns]
        known = [r.psnr for r in cells if r is not None and r.attack != CLEAN and r.psnr is not None]
        psnr = sum(known) / len(known) if known else None
        rows.append((defence, *(ABSENT if r is None else _with_interval(r) for r in cells), format_measure(psnr, 2)))
    names = ["Clean" if attack == CLEAN else f"{attack_name(attack)} {format_eps(eps)}" for attack, eps in columns]
    note = f"{measured_on(own)}; 95% interval in brackets. PSNR: purified attacked images against the clean ones."
    return TextTable(title, ("Purifier", *names, "PSNR, dB"), tuple(rows), note)


Found = dict[tuple[str, str], EvaluationRecord]


def _static(records: Iterable[EvaluationRecord]) -> Found:
    found: Found = {}
    for record in records:
        if record.threat_model in (CLEAN, "static") and record.file_format is None:
            found.setdefault((record.attack, record.defence), record)
    return found


def _accuracy(found: Found, attack: str, defence: str | None) -> float | None:
    record = found.get((CLEAN if attack == "Clean" else attack, defence or ""))
    return None if record is None else record.accuracy


def _specific(found: Found, attack: str) -> float | None:
    if attack in SEEN:
        return _accuracy(found, attack, TRAINED_ON.format(attack))
    values = [_accuracy(found, attack, TRAINED_ON.format(name)) for name in SEEN]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(SEEN) else None


def _filled(
    table: PaperTable,
    cells: Mapping[str, Sequence[float | None]],
    records: Iterable[EvaluationRecord],
    title: str,
    remarks: str = "",
    further: tuple[str, ...] = (),
) -> TextTable:
    rows = []
    for attack, line in cells.items():
        printed = [f" ({p:g})" for p in table.rows[attack]] + [""] * len(further)
        rows.append((attack_name(attack), *(format_percent(v) + p for v, p in zip(line, printed, strict=True))))
    for kind, label in AVERAGES.items():
        averages: list[str] = []
        for column in range(len(table.columns) + len(further)):
            values = [line[column] for attack, line in cells.items() if kind == "all" or attack != "Clean"]
            known = [value for value in values if value is not None]
            mean = sum(known) / len(values) if len(known) == len(values) else None
            own = column < len(table.columns)
            averages.append(format_percent(mean) + (f" ({table.average(column, kind):.2f})" if own else ""))
        rows.append((label, *averages))
    used = [record for record in records if record.attack == CLEAN or record.attack in cells]
    half = max((high - low for low, high in (record.interval for record in used)), default=0) / 2
    random = {len(record.evaluations) for record in used if record.evaluations}
    means = f" Random defences: mean of {'/'.join(map(str, sorted(random)))} evaluations." if random else ""
    return TextTable(
        f"{title}: accuracy in %",
        ("Attack", *table.columns, *further),
        tuple(rows),
        f"Measured: {measured_on(used)}; 95% intervals of up to ±{100 * half:.0f} points.{means}{remarks} In brackets "
        f"the paper: {table.setting} Its averages are recomputed.",
    )


def _with_interval(record: EvaluationRecord) -> str:
    return f"{format_percent(record.accuracy)} ({format_interval(record)})"
