"""What the experiment leaves to be committed: records, tables, figures, a page, the claims; README's table."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from art_versatile._files import write_text_atomically
from art_versatile.evaluation.benchmark import versions
from art_versatile.evaluation.checks import masking_checks
from art_versatile.evaluation.records import load_records, save_records
from art_versatile.experiments.paper import COLUMNS, FURTHER, OURS, REMARKS
from art_versatile.reports import figures
from art_versatile.reports.claims import paper_claims
from art_versatile.reports.html import write_report
from art_versatile.reports.paper import (
    TextTable,
    budgets_table,
    distance_table,
    storage_table,
    strength_table,
    table_1,
    table_2,
)
from art_versatile.reports.text import ABSENT, format_eps

if TYPE_CHECKING:
    from art_versatile.experiments.paper_study import PaperStudy

__all__ = ["results_table", "training_table", "write_between", "write_results"]

#: Between these lines of a Markdown file is the table that :func:`write_between` writes.
MARKERS = ("<!-- paper-table -->", "<!-- /paper-table -->")


def write_results(study: PaperStudy, right: Sequence[int]) -> Path:
    """
    Write the folder ``results``: ``records.json``, ``strengths.json``, ``variants.json``; ``tables.md`` and, in
    ``tables``, each as CSV and LaTeX; Figures 3 to 5; ``report.html``; the logs of the trainings; ``README.md`` with
    the claims; ``study.json`` with sizes, times and versions. No photograph but the demonstration's is in it.

    :param study: Whose stages are done.
    :param right: Numbers of the images that the classifier gets right.
    :return: The folder.
    """
    folder, scale = study.out / "results", study.scale
    records, strengths, variants = (study.records(name) for name in ("tables", "tables/strengths", "variants"))
    for name, found in (("records", records), ("strengths", strengths), ("variants", variants)):
        if found:
            save_records(found, folder / f"{name}.json")
    tables = {
        "table_1": table_1(records),
        "table_2": table_2(records, COLUMNS, REMARKS, further=FURTHER),
        "figure_3": distance_table(records, OURS),
        "png": storage_table(records, OURS),
        "trainings": training_table(study),
    }
    figures.distance_figure(records, OURS, folder / "figure_3.png")
    if strengths:
        tables["figure_4"] = strength_table(strengths, OURS)
        figures.strength_figure(strengths, OURS, folder / "figure_4.png")
    if variants:
        tables["variants"] = budgets_table(variants, "Trained otherwise: accuracy in %")
    for name, table in tables.items():
        write_text_atomically(folder / "tables" / f"{name}.csv", table.to_csv())
        write_text_atomically(folder / "tables" / f"{name}.tex", table.to_latex())
    write_text_atomically(folder / "tables.md", "\n".join(table.to_markdown() for table in tables.values()))
    panels = study.panels()
    if panels:
        figures.gallery_figure(panels, folder / "figure_5.png")
    for name in scale.trainings():
        source = study.out / "training" / name
        for kind in ("log.csv", "curves.png"):
            place = folder / "trainings" / f"{name}-{kind}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / kind, place)
    weaker = [name for name, (_, variant) in scale.trainings().items() if variant == "weaker attacks"]
    claims = paper_claims(
        records,
        strengths,
        variants,
        defence=OURS,
        others=[name for name in COLUMNS.values() if name != OURS],
        further=list(FURTHER.values()),
        weaker=weaker,
    )
    settings = dataclasses.asdict(scale) | {"classifier": study.classifier_name}
    facts = {"scale": settings, "seconds": study.seconds(), "versions": versions()}
    write_text_atomically(folder / "study.json", json.dumps(facts, indent=1) + "\n")
    write_text_atomically(folder / "README.md", _read_me(study, [str(claim) for claim in claims], len(right)))
    write_report(
        folder / "report.html",
        records,
        panels,
        title="The paper's experiment",
        summary=" ".join(f"{claim.said}: {claim.verdict}." for claim in claims),
        settings={name: str(value) for name, value in settings.items()},
        checks=masking_checks(records),
    )
    return folder


def _read_me(study: PaperStudy, claims: Sequence[str], right: int) -> str:
    scale = study.scale
    size = f"{scale.filters} filters" if scale.architecture == "unet256" else f"widths {list(scale.widths)}"
    hours = sum(study.seconds().values()) / 3600
    said = f"""# The paper's experiment, run

"Versatile Defense Against Adversarial Attacks on Image Recognition" (arXiv 2403.08170), sections 3.1 to 3.4, with other
sizes: {scale.photographs:,} photographs, {study.classifier_name} at {scale.image_size}x{scale.image_size}, generator
{scale.architecture} ({size}), {scale.steps:,} steps of {scale.batch_size} pairs for each purifier, {hours:.1f} hours in
all. Measured on {min(right, scale.measured)} images ({study.dataset}) that the classifier gets right; of every training
the last weights, so that nothing was chosen on these images. Threat model: static, the attacker does not know of the
defence; nothing here says what holds against one who does.

Every size and time: `study.json`. Tables: `tables.md`, and `tables/` as CSV and LaTeX. Figures: `figure_3.png` to
`figure_5.png`. Losses: `trainings/`. Page: `report.html`.

## The paper's claims

"""
    return said + "".join(f"- {claim}\n" for claim in claims)


def training_table(study: PaperStudy) -> TextTable:
    """
    The losses of each training's last epoch: pixel, perceptual, and of the two adversaries.

    :param study: Whose trainings are done.
    """
    columns = ("pixel", "perceptual", "adversarial", "discriminator")
    seconds, rows = study.seconds(), []
    for name, (store, variant) in study.scale.trainings().items():
        last = study.history(name)[-1]
        cells = [f"{float(last[column]):.4g}" if last.get(column) else ABSENT for column in columns]
        rows.append((name, store, variant or "", *cells, f"{seconds[f'training/{name}'] / 60:.1f}"))
    return TextTable(
        "Losses of the last epoch",
        ("Training", "pairs", "variant", *columns, "minutes"),
        tuple(rows),
        f"{study.scale.steps:,} steps of {study.scale.batch_size} pairs each; eps {format_eps(study.scale.eps)} where "
        "the name says no other. Without their weights, means over the epoch. Where the discriminator cannot tell, "
        "both adversarial losses are 0.693; where it has won, its own is 0 (with smoothed labels 0.163) and the "
        "generator's is large.",
    )


def results_table(folder: str | Path) -> str:
    """
    README's table: Table 2 from the records of a folder of results, the paper's figures in brackets.

    :param folder: What :func:`write_results` wrote.
    :return: Markdown, which ends with a line break.
    :raises FileNotFoundError: If there are no records.
    """
    file = Path(folder) / "records.json"
    if not file.is_file():
        raise FileNotFoundError(f"Expected records.json in {folder}. Received none.")
    return table_2(load_records(file), COLUMNS, REMARKS, further=FURTHER).to_markdown()


def write_between(file: str | Path, text: str) -> None:
    """
    Put a text between the lines :data:`MARKERS` of a Markdown file, in place of what is there.

    :param file: The file.
    :param text: Of whole lines.
    :raises ValueError: If the file has not each line once, in their order.
    """
    content = Path(file).read_text(encoding="utf-8")
    lines = content.splitlines(keepends=True)
    places = [[i for i, line in enumerate(lines) if line.strip() == marker] for marker in MARKERS]
    if [len(found) for found in places] != [1, 1] or places[0] > places[1]:
        raise ValueError(f"Expected the lines {' and '.join(MARKERS)} in {file}, each once. Received {places}.")
    (start,), (end,) = places
    write_text_atomically(file, "".join(lines[: start + 1]) + f"\n{text}\n" + "".join(lines[end:]))
