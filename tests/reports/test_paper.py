from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports.paper import (
    PAPER_TABLE_1,
    PAPER_TABLE_2,
    SEEN,
    TRAINED_ON,
    TextTable,
    budgets_table,
    distance_table,
    storage_table,
    strength_table,
    table_1,
    table_2,
)
from art_versatile.reports.text import AVERAGES

OURS = "VersatilePurifier"
ATTACKS = ("FGSM", "BIM", "PGD", "MI-FGSM", "C&W", "AutoAttack", "DeepFool")


def record(attack: str, correct: int, defence: str = "none", **more: Any) -> EvaluationRecord:
    clean = attack == "clean"
    facts = {"dataset": "d", "n": 100, "classifier": "c", "defence": defence, "attack": attack, "correct": correct}
    return EvaluationRecord(**{**facts, "threat_model": "clean" if clean else "static", **more})


@pytest.fixture
def specific() -> list[EvaluationRecord]:
    """Column j, row i: 10 j + i percent."""
    return [
        record("clean" if row == 0 else ATTACKS[row - 1], 10 * column + row, TRAINED_ON.format(name))
        for column, name in enumerate(SEEN, 1)
        for row in range(8)
    ]


def test_the_papers_own_figures_agree_with_each_other() -> None:
    """Table 2's attack-specific column is the diagonal of Table 1, and the mean of its rows where none was trained."""
    for attack, line in PAPER_TABLE_1.rows.items():
        printed = PAPER_TABLE_2.rows[attack][2]
        own = line[1:]
        expected = own[SEEN.index(attack)] if attack in SEEN else sum(own) / 6
        assert printed == pytest.approx(expected, abs=0.006)
        assert line[0] == PAPER_TABLE_2.rows[attack][0]
    for column, printed in enumerate(PAPER_TABLE_1.printed_averages):
        if printed is not None:
            assert PAPER_TABLE_1.average(column, "all") == pytest.approx(printed, abs=0.006)


def test_the_papers_table_recomputes() -> None:
    columns = range(len(PAPER_TABLE_2.columns))
    assert (
        {len(line) for line in PAPER_TABLE_2.rows.values()} == {len(columns)} == {len(PAPER_TABLE_2.printed_averages)}
    )
    for column in columns[1:]:
        printed_average = PAPER_TABLE_2.printed_averages[column]
        assert PAPER_TABLE_2.average(column, "all") == pytest.approx(printed_average, abs=0.0051)
    attacks = [round(PAPER_TABLE_2.average(column, "attacks"), 2) for column in columns]
    assert attacks[1:] == [85.17, 86.03, 43.70, 28.55, 75.22]
    with pytest.raises(ValueError, match="kind to be one of"):
        PAPER_TABLE_2.average(0, "none")


def test_the_notes_on_the_papers_table_are_true() -> None:
    versatile, specific = ({a: line[i] for a, line in PAPER_TABLE_2.rows.items()} for i in (1, 2))
    assert [a for a in versatile if versatile[a] > specific[a]] == ["MI-FGSM", "DeepFool"]
    # Table 1: clean and DeepFool of the six attack-specific models.
    assert sum([95.3, 96.5, 96.3, 95.6, 93.1, 91.7]) / 6 == pytest.approx(specific["Clean"])
    assert sum([78.56, 73.3, 76.1, 79.1, 70.3, 80.7]) / 6 == pytest.approx(specific["DeepFool"], abs=0.005)


def test_the_papers_table_in_markdown() -> None:
    text = PAPER_TABLE_2.to_markdown()
    rows = {
        row[0]: row[1:]
        for row in [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    }
    assert rows["PGD"] == ["2.4", "86.76", "88.4", "21.3", "29.2", "79.4"]
    assert rows["Average, printed"] == ["–", "86.03", "87.12", "50.4", "37.04", "76.6"]
    assert rows[f"{AVERAGES['attacks']}, recomputed"][1:] == ["85.17", "86.03", "43.70", "28.55", "75.22"]
    assert "arXiv 2403.08170" in text


def test_table_1(specific: list[EvaluationRecord]) -> None:
    table = table_1([*specific, record("FGSM", 7)])
    assert table.header == ("Attack", "No defence", *(TRAINED_ON.format(name) for name in SEEN))
    rows = {line[0]: line[1:] for line in table.rows}
    assert rows["Clean"] == (
        "– (100)",
        *(f"{10 * j:.1f} ({p:g})" for j, p in enumerate(PAPER_TABLE_1.rows["Clean"]) if j),
    )
    assert rows["FGSM"][:2] == ("7.0 (25.8)", "11.0 (83.2)")
    assert rows["ART AutoAttack"][6] == "66.0 (88.4)"
    assert rows["Average with clean"][1] == "13.5 (80.61)"
    assert rows["Average of attacks"][1] == "14.0 (78.51)"
    assert rows["Average of attacks"][0].startswith("– (")
    assert table.note.startswith("Measured: c · d · n = 100 · static; 95% intervals of up to ±10 points. In brackets")


def test_table_2_derives_the_attack_specific_column(specific: list[EvaluationRecord]) -> None:
    table = table_2([*specific, record("PGD", 60, OURS), record("PGD", 1)], {"Ours (versatile)": OURS})
    rows = {line[0]: line[1:] for line in table.rows}
    assert rows["PGD"] == ("1.0 (2.4)", "60.0 (86.76)", "33.0 (88.4)", "– (21.3)", "– (29.2)", "– (79.4)")
    assert rows["Clean"][2] == "35.0 (94.75)"  # mean of 10, 20, ... 60
    assert rows["DeepFool"][2] == "42.0 (76.34)"
    without = table_2(specific[8:], {})
    assert {line[0]: line[3] for line in without.rows}["DeepFool"] == "– (76.34)"


def test_adaptive_records_and_images_from_files_are_never_mixed_in() -> None:
    others = [record("PGD", 0, OURS, threat_model="adaptive"), record("PGD", 1, OURS, file_format="PNG")]
    rows = {line[0]: line[1:] for line in table_2([*others, record("PGD", 60, OURS)], {"Ours (versatile)": OURS}).rows}
    assert rows["PGD"][1] == "60.0 (86.76)"


def test_notes_say_what_was_measured() -> None:
    records = [
        record("PGD", 60, OURS, eps=8 / 255, norm="inf", effort="quick"),
        record("FGSM", 60, "RandomResizing", evaluations=(50, 70), eps=8 / 255, norm="inf"),
    ]
    note = table_2(records, {}, "Not the paper's network.").note
    assert "n = 100 · quick effort · eps 8/255 · static" in note
    assert "Random defences: mean of 2 evaluations. Not the paper's network. In brackets the paper: Inception" in note


def test_storage() -> None:
    png = {"file_format": "PNG"}
    records = [
        record("clean", 99),
        *(record("C&W", value, name) for name, value in (("none", 0), (OURS, 80))),
        *(record("C&W", value, name, **png) for name, value in (("none", 50), (OURS, 81))),
        record("FGSM", 3, **png),
    ]
    table = storage_table(records, OURS)
    assert table.rows == (
        ("C&W", "0.0 (0–4)", "50.0 (40–60)", "80.0 (71–87)", "81.0 (72–87)"),
        ("FGSM", "–", "3.0 (1–8)", "–", "–"),
    )


def test_strengths_are_in_order() -> None:
    records = [
        record(attack, correct, name, eps=eps / 255, norm="inf", iterations=steps)
        for name, correct in (("none", 0), (OURS, 50))
        for attack in ("PGD", "MI-FGSM")
        for eps in (10, 2)
        for steps in (100, 20)
    ]
    table = strength_table(records, OURS)
    assert [line[:3] for line in table.rows] == [
        (attack, f"{eps}/255", steps) for attack in ("MI-FGSM", "PGD") for eps in (2, 10) for steps in ("20", "100")
    ]
    assert {line[3:] for line in table.rows} == {("0.0 (0–4)", "50.0 (40–60)")}


def test_printed(specific: list[EvaluationRecord]) -> None:
    table = table_1(specific)
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("**Purifiers trained on one attack")
    assert lines[2].startswith("| Attack | No defence | trained on FGSM |")
    assert lines[3] == "| --- |" + " ---: |" * 7
    console = Console(file=io.StringIO(), width=200)
    console.print(table.to_rich())
    assert "66.0 (88.4)" in console.file.getvalue()


def test_columns_that_the_paper_lacks() -> None:
    records = [record(attack, 7, "GaussianBlur") for attack in ("clean", *ATTACKS)]
    table = table_2(records, {}, further={"Blur": "GaussianBlur", "Noise": "GaussianNoise"})
    rows = {line[0]: line[-2:] for line in table.rows}
    assert table.header[-2:] == ("Blur", "Noise")
    assert set(rows.values()) == {("7.0", "–")}
    assert {line[1] for line in table.rows if line[0] == "PGD"} == {"– (2.4)"}


def test_distances() -> None:
    records = [
        record("PGD", 0, psnr=30.0, mae=2 / 255),
        record("PGD", 60, OURS, psnr=28.5, mae=3 / 255),
        record("FGSM", 60, OURS, psnr=28.5, mae=3 / 255),  # nothing to compare with
    ]
    assert distance_table(records, OURS).rows == (("PGD", "30.00", "28.50", "2.00", "3.00"),)


def test_several_purifiers_at_several_budgets() -> None:
    records = [
        record("clean", 90),
        record("clean", 80, OURS, psnr=40.0),
        *(record("PGD", n, OURS, eps=e / 255, norm="inf", psnr=p) for n, e, p in ((50, 16, 28.0), (60, 8, 30.0))),
        record("PGD", 0, eps=16 / 255, norm="inf"),
    ]
    table = budgets_table(records, "Title")
    assert table.header == ("Purifier", "Clean", "PGD 16/255", "PGD 8/255", "PSNR, dB")
    assert table.rows[0] == ("none", "90.0 (83–94)", "0.0 (0–4)", "–", "–")
    assert table.rows[1] == (OURS, "80.0 (71–87)", "50.0 (40–60)", "60.0 (50–69)", "29.00")


def test_csv_and_latex() -> None:
    table = TextTable("A & B", ("Attack", "x, y"), (("C&W", "5% ±1"),), "n_1 ≤ 3")
    assert table.to_csv() == 'Attack,"x, y"\nC&W,5% ±1\n'
    lines = table.to_latex().splitlines()
    assert lines[:3] == [r"\begin{table}", r"\caption{A \& B}", r"\begin{tabular}{lr}"]
    assert r"C\&W & 5\% $\pm$1 \\" in lines
    assert lines[-2:] == [r"n\_1 $\leq$ 3", r"\end{table}"]
