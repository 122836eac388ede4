from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports.paper import PAPER_TABLE_2
from art_versatile.reports.tables import AccuracyTable, WorstCase, accuracy_table, tables_by_threat_model
from art_versatile.reports.text import AVERAGES

PURIFIER = "VersatilePurifier(compact)"


def record(
    attack: str, correct: int, defence: str = "none", threat_model: str = "static", **more: Any
) -> EvaluationRecord:
    facts: dict[str, Any] = {"dataset": "photographs", "n": 20, "classifier": "Lite0", "effort": "quick"}
    if attack == "clean":
        threat_model = "clean"
    else:
        facts |= {"norm": "inf", "eps": 8 / 255, "attack_parameters": {"max_iter": 10}, "iterations": 10}
    facts |= {"attack": attack, "correct": correct, "defence": defence, "threat_model": threat_model}
    return EvaluationRecord(**{**facts, **more})


@pytest.fixture
def records() -> list[EvaluationRecord]:
    # The attack comes before the clean rows on purpose.
    return [
        record("PGD", 0, psnr=31.24, mae=0.02041),
        record("PGD", 13, PURIFIER, psnr=29.96, mae=0.0231),
        record("clean", 20, psnr=math.inf, mae=0),
        record("clean", 18, PURIFIER, psnr=30.5, mae=0.02),
        record("FGSM", 3),
        record("FGSM", 10, PURIFIER),
    ]


def test_rows_and_columns(records: list[EvaluationRecord]) -> None:
    table = accuracy_table(records)
    assert [row.label for row in table.rows] == ["Clean", "PGD", "FGSM"]
    assert [row.is_clean for row in table.rows] == [True, False, False]
    assert [column.label for column in table.columns] == ["No defence", PURIFIER]
    assert [[cell.correct for cell in line if cell] for line in table.cells] == [[20, 18], [0, 13], [3, 10]]
    assert set(table.records) == set(records)
    assert table.title == "photographs · Lite0 · n = 20 · quick effort"
    assert table.note.endswith("Threat model: static.")


def test_both_averages_by_hand(records: list[EvaluationRecord]) -> None:
    table = accuracy_table(records)
    assert table.average(0, "all") == pytest.approx((1 + 0 + 0.15) / 3)
    assert table.average(0, "attacks") == pytest.approx(0.15 / 2)
    assert table.average(1, "all") == pytest.approx((0.9 + 0.65 + 0.5) / 3)
    assert table.average(1, "attacks") == pytest.approx((0.65 + 0.5) / 2)
    with pytest.raises(ValueError, match=r"kind to be one of \['all', 'attacks'\]. Received 'best'"):
        table.average(0, "best")


def test_an_average_over_other_rows_than_its_neighbours_is_not_printed(records: list[EvaluationRecord]) -> None:
    table = accuracy_table(records[:-1])
    assert table.average(0, "attacks") == pytest.approx(0.075)
    assert table.average(1, "attacks") is None
    assert table.text_rows()[1][-1] == ["Average of attacks", "7.5", "", "", "–", "", "", ""]
    assert accuracy_table([record("clean", 20)]).average(0, "attacks") is None


def test_text_rows(records: list[EvaluationRecord]) -> None:
    header, body = accuracy_table(records).text_rows()
    assert header == [
        "Attack",
        "No defence\naccuracy %",
        "PSNR dB",
        "MAE",
        f"{PURIFIER}\naccuracy %",
        "PSNR dB",
        "MAE",
        "n",
    ]
    assert body[0] == ["Clean", "100.0 (84–100)", "∞", "0.0000", "90.0 (70–97)", "30.5", "0.0200", "20"]
    assert body[1] == ["PGD", "0.0 (0–16)", "31.2", "0.0204", "65.0 (43–82)", "30.0", "0.0231", "20"]
    assert body[2] == ["FGSM", "15.0 (5–36)", "–", "–", "50.0 (30–70)", "–", "–", "20"]
    assert body[3] == ["Average with clean", "38.3", "", "", "68.3", "", "", ""]
    assert body[4] == ["Average of attacks", "7.5", "", "", "57.5", "", "", ""]


@pytest.mark.parametrize(("averages", "labels"), [((), []), (("attacks",), ["Average of attacks"])])
def test_averages_where_asked(records: list[EvaluationRecord], averages: tuple[str, ...], labels: list[str]) -> None:
    _, body = accuracy_table(records, averages=averages).text_rows()
    assert [line[0] for line in body[3:]] == labels


def test_threat_models_have_columns_of_their_own(records: list[EvaluationRecord]) -> None:
    adaptive = [record("PGD", 1, PURIFIER, "adaptive"), record("APGD", 0, PURIFIER, "adaptive")]
    table = accuracy_table([adaptive[0], *records, adaptive[1]])
    assert [column.label for column in table.columns] == [
        "No defence · static",
        f"{PURIFIER} · static",
        f"{PURIFIER} · adaptive",
    ]
    assert [row.label for row in table.rows] == ["Clean", "PGD", "FGSM", "APGD"]
    cells = [[None if cell is None else cell.correct for cell in line] for line in table.cells]
    # The clean figure of a defence stands beside each of its threat models.
    assert cells == [[20, 18, 18], [0, 13, 1], [3, 10, None], [None, None, 0]]
    assert table.average(2, "attacks") is None  # of attacks through a defence the strongest counts
    assert table.average(2, "all") is None
    assert table.average(1, "attacks") == pytest.approx((0.65 + 0.5) / 2)
    assert table.note.endswith("Threat model: static, adaptive.")


def test_labels_say_what_differs() -> None:
    table = accuracy_table(
        [
            record("PGD", 3, eps=4 / 255),
            record("PGD", 2, eps=8 / 255),
            record("PGD", 1, attack_parameters={"max_iter": 100, "num_random_init": 5}, iterations=100),
            record("PGD", 1, file_format="PNG"),
            record("BIM", 1, effort="quick"),
            record("BIM", 0, effort="paper"),
            record("FGSM", 1),
        ]
    )
    assert [row.label for row in table.rows] == [
        "PGD (ε 4/255, 10 iterations)",
        "PGD (ε 8/255, 10 iterations)",
        "PGD (ε 8/255, 100 iterations)",
        "PGD (ε 8/255, 10 iterations, PNG)",
        "BIM (quick effort)",
        "BIM (paper effort)",
        "FGSM",
    ]
    assert table.title.endswith("quick effort · paper effort")


def test_a_measured_autoattack_stands_beside_the_papers() -> None:
    weaker = record("AutoAttack", 2, eps=4 / 255)
    table = accuracy_table([record("AutoAttack", 3), weaker, record("AutoAttack", 2, "AutoAttack")])
    assert [row.label for row in table.rows] == ["ART AutoAttack (ε 8/255)", "ART AutoAttack (ε 4/255)"]
    # A defence's name is the caller's, and a row finds the paper's by the name in the records.
    assert [column.label for column in table.columns] == ["No defence", "AutoAttack"]
    assert all(row.attack in PAPER_TABLE_2.rows for row in table.rows)
    assert "| ART AutoAttack" in table.to_markdown()
    assert "| AutoAttack" in PAPER_TABLE_2.to_markdown()
    assert "ART" not in PAPER_TABLE_2.to_markdown()


def test_defences_of_one_name_are_told_apart() -> None:
    table = accuracy_table(
        [record("clean", i, "Noise", defence_parameters={"sigma": i / 10, "seed": 0}) for i in (1, 2)]
    )
    assert [column.label for column in table.columns] == ["Noise (sigma 0.1)", "Noise (sigma 0.2)"]
    assert [column.threat_model for column in table.columns] == ["clean", "clean"]


def test_every_n_is_said() -> None:
    table = accuracy_table([record("PGD", 1), record("PGD", 4, PURIFIER, n=5000)])
    assert table.text_rows()[1][0][-1] == "20 / 5,000"
    assert table.title == "photographs · Lite0 · n = 20 / 5,000 · quick effort"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "others"}, ValueError, r"one dataset in a table. Received \['photographs', 'others'\]"),
        ({"classifier": "Lite2"}, ValueError, r"one classifier in a table. Received \['Lite0', 'Lite2'\]"),
        ({"seed": 3}, ValueError, r"one record a cell. Received two of 'none' against 'PGD' \(static\)"),
    ],
)
def test_what_does_not_fit_one_table_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        accuracy_table([record("PGD", 1), record("PGD", 1, **changes)])


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_holds_the_same_figures(records: list[EvaluationRecord]) -> None:
    table = accuracy_table(records)
    text = table.to_markdown()
    header, alignment, *body = markdown_rows(text)
    assert header[4] == f"{PURIFIER}<br>accuracy %"
    assert alignment == ["---"] + ["---:"] * 7
    assert body == table.text_rows()[1]
    assert text.startswith("**photographs")
    assert text.endswith("Threat model: static.\n")


def test_markdown_escapes_names() -> None:
    text = accuracy_table([record("A|B *c*", 1, "<img>[x]_y_")]).to_markdown()
    rows = markdown_rows(text)
    assert rows[0][1] == r"\<img>\[x]\_y\_<br>accuracy %"
    assert rows[2][0] == r"A\|B \*c\*"
    assert {len(row) for row in rows} == {5}


def printed(table: AccuracyTable, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table.to_rich())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_terminal_shows_every_figure_in_eighty_columns(records: list[EvaluationRecord]) -> None:
    lines = [" ".join(line.split()) for line in printed(accuracy_table(records), 80).splitlines()]
    assert "Clean 100.0 (84–100) ∞ 0.0000 90.0 (70–97) 30.5 0.0200 20" in lines
    assert "PGD 0.0 (0–16) 31.2 0.0204 65.0 (43–82) 30.0 0.0231 20" in lines
    assert "Average 38.3 68.3" in lines
    assert "Average 7.5 57.5" in lines
    assert "Attack accuracy % dB MAE accuracy % dB MAE n" in lines


def test_brackets_in_names_are_not_markup() -> None:
    table = accuracy_table([record("[bold]PGD[/bold]", 1, "[red]x")])
    shown = printed(table, 100)
    assert "[bold]PGD[/bold]" in shown
    assert "[red]x" in shown


def test_the_worst_case_per_image() -> None:
    """Right under every attack of one budget, image by image; attacks without a budget are of another threat set."""

    def of(attack: str, right: str, **more: Any) -> EvaluationRecord:
        return record(attack, right.count("1"), n=5, right=right, **more)

    table = accuracy_table(
        [
            of("FGSM", "11110"),
            of("PGD", "10111"),
            of("PGD", "01111", eps=4 / 255, iterations=9),  # within 8/255, too
            of("clean", "11101"),  # no change at all is within any budget
            of("C&W", "00000", eps=None, norm="2"),
            of("PGD", "00000", eps=8 / 255, norm="2", iterations=8),
        ]
    )
    assert [label for label, _, _ in table.budgets] == ["L2 8/255", "Linf 4/255", "Linf 8/255"]
    (row,) = table.worst_rows
    assert row[0] == "Worst case per image, eps Linf 8/255"
    assert row[1] == [WorstCase(1, 5)]
    assert row[1][0].accuracy == 0.2
    assert table.worst(0, "inf", 4 / 255) is None
    plain = accuracy_table([of("FGSM", "11010"), of("PGD", "10011"), of("at half the range", "00000", eps=0.5)])
    ((label, cells),) = plain.worst_rows
    assert (label, cells) == ("Worst case per image, eps 8/255", [WorstCase(2, 5)])
    table = plain
    _, body = table.text_rows()
    assert ["Worst case per image, eps 8/255", "40.0", "", "", ""] in body
    assert "| Worst case per image, eps 8/255 | 40.0 |" in re.sub(" +", " ", table.to_markdown())


def test_no_worst_case_where_a_record_does_not_say(records: list[EvaluationRecord]) -> None:
    assert accuracy_table(records).worst_rows == []


def test_random_defences_show_the_worst_evaluation() -> None:
    table = accuracy_table([record("PGD", 12, PURIFIER, evaluations=(13, 11))])
    assert table.text_rows()[1][0][1] == "60.0 (worst of 2: 55.0)"
    assert "Random defences: mean of the evaluations and the worst, after optimising." in table.note
    assert "Random defences" not in accuracy_table([record("PGD", 12)]).note


def test_no_average_over_several_budgets() -> None:
    one = [record("PGD", 3), record("FGSM", 5), record("C&W", 7, eps=None)]
    assert accuracy_table(one).average(0, "attacks") == pytest.approx(15 / 60)
    several = accuracy_table([*one, record("PGD", 2, eps=4 / 255)])
    assert several.average(0, "attacks") is None
    assert not [line for line in several.text_rows()[1] if line[0] in AVERAGES.values()]


def test_a_table_for_each_threat_model(records: list[EvaluationRecord]) -> None:
    adaptive, transfer = (
        record("PGD", 1, PURIFIER, "adaptive"),
        record("PGD", 2, surrogate="Lite2", threat_model="transfer"),
    )
    tables = tables_by_threat_model([adaptive, *records, transfer])
    assert [{c.threat_model for c in table.columns} for table in tables] == [{"static"}, {"transfer"}, {"adaptive"}]
    assert [[c.label for c in table.columns] for table in tables] == [
        ["No defence", PURIFIER],
        ["No defence"],
        [PURIFIER],
    ]
    assert [row.label for row in tables[2].rows] == ["Clean", "PGD"]


@pytest.mark.parametrize(
    ("records", "averages", "error"),
    [([], (), ValueError), ([{}], (), TypeError), ([record("PGD", 1)], ["some"], ValueError)],
)
def test_bad_arguments_are_refused(records: list[Any], averages: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected "):
        accuracy_table(records, averages=averages)
