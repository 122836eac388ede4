"""Adversarial pictures to print, what photographs of them show, and a simulated study as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice
from art_versatile._files import write_text_atomically
from art_versatile.reports.paper import TextTable
from art_versatile.reports.text import printed_attack

__all__ = ["Seen", "make_printed", "printed_table", "read_printed", "study_printed"]


def make_printed(
    classifier: Any,
    x: np.ndarray,
    y: np.ndarray,
    path: str | Path,
    *,
    attacks: Sequence[str] = ("PGD",),
    eps: float = 16 / 255,
    names: Sequence[str] | None = None,
    picture_mm: float = 50.0,
    **settings: Any,
) -> list[Path]:
    """
    A sheet of clean pictures, each followed by its attacked ones.

    :param classifier: An undefended ART classifier, ``clip_values=(0, 1)``.
    :param x: Images (N, H, W, 3) in [0, 1].
    :param y: True class indices (N,).
    :param path: The PDF; beside it come a JSON file and PNG files of the pages.
    :param attacks: "PGD", "MI-FGSM".
    :param eps: Budget, pixels in [0, 1].
    :param names: Of the images.
    :param picture_mm: Length of a picture's longer side in mm.
    :param settings: Passed to :func:`art_versatile.physical.attack_printed`.
    :return: The PDF, the JSON file, the PNG files.
    """
    from art_versatile.physical import attack_printed, make_sheet

    made = {name: attack_printed(classifier, x, y, attack=name, eps=eps, **settings) for name in attacks}
    pictures, about = [], []
    for i, label in enumerate(y):
        facts: dict[str, Any] = {"label": int(label)} | ({} if names is None else {"name": names[i]})
        pictures.append(x[i])
        about.append({**facts, "attack": "clean"})
        for name, images in made.items():
            pictures.append(images[i])
            about.append({**facts, "attack": name, "eps": eps})
    return make_sheet(np.stack(pictures), path, about=about, picture_mm=picture_mm)


@dataclass(frozen=True)
class Seen:
    """
    What a classifier says of one photographed picture.

    :param photograph: Name of the photograph's file.
    :param index: The picture's number on the sheet.
    :param about: What the sheet says of it.
    :param bare: The classifier's answer.
    :param defended: Its answer behind the defence; None without one.
    """

    photograph: str
    index: int
    about: Mapping[str, Any]
    bare: int
    defended: int | None


def read_printed(
    classifier: Any,
    defence: Any,
    photographs: Sequence[str | Path],
    sheet: str | Path,
    out: str | Path | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> list[Seen]:
    """
    Cut the pictures out of photographs of a sheet and classify them.

    :param classifier: An undefended ART classifier, ``clip_values=(0, 1)``.
    :param defence: An ART preprocessor, or None.
    :param photographs: Image files, a page each.
    :param sheet: The JSON file beside the sheet.
    :param out: Folder for ``records.json``, ``report.html`` and, for each photograph, a folder of the pictures as PNG
        files, purified ones too; None writes nothing. Nothing is written unless every photograph was read.
    :param class_names: For the page; None takes numbers.
    :return: One a picture, by photograph and number.
    :raises ValueError: If there is no photograph, two have one name, or no page of the sheet is seen in one.
    """
    from art_versatile.physical import read_sheet
    from art_versatile.physical.study import described
    from art_versatile.reports.photographed import write_photographed

    files = [Path(file) for file in photographs]
    if not files:
        raise ValueError("Expected at least one photograph. Received none.")
    stems = [file.stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"Expected photographs of different names. Received {twice} more than once.")
    read = [(file, read_sheet(file, sheet)) for file in files]
    names = [str(i) for i in range(classifier.nb_classes)] if class_names is None else class_names
    found, rows = [], []
    for file, page in read:
        images = np.stack([picture.image for picture in page.pictures])
        shown = {"photographed": images}
        if defence is not None:
            shown["purified"] = defence(images)[0]
        answers = {way: classifier.predict(pictures).argmax(axis=1) for way, pictures in shown.items()}
        for i, picture in enumerate(page.pictures):
            label = picture.about.get("label")
            said = {way: int(answer[i]) for way, answer in answers.items()}
            found.append(Seen(file.name, picture.index, picture.about, said["photographed"], said.get("purified")))
            seen = {
                way: (shown[way][i], names[number], None if label is None else number == label)
                for way, number in said.items()
            }
            true = None if label is None else names[label]
            rows.append(
                {"photograph": file.name, "index": picture.index, "about": picture.about, "class": true, "seen": seen}
            )
        if out is not None:
            _save_pictures(Path(out) / file.stem, [picture.index for picture in page.pictures], shown)
    if out is not None:
        records = {
            "format": "art-versatile photographed prints 1",
            "photographs": {file.name: {"page": page.page, "error_mm": page.error_mm} for file, page in read},
            "defence": None if defence is None else described(defence),
            "records": [dataclasses.asdict(seen) for seen in found],
        }
        write_text_atomically(Path(out) / "records.json", json.dumps(records, indent=1) + "\n")
        write_photographed(Path(out) / "report.html", rows)
    return found


def _save_pictures(folder: Path, numbers: Sequence[int], shown: Mapping[str, np.ndarray]) -> None:
    from art_versatile.images import save_png

    for way, pictures in shown.items():
        end = "" if way == "photographed" else f"-{way}"
        for number, picture in zip(numbers, pictures, strict=True):
            save_png(picture, folder / f"{number}{end}.png")


def study_printed(
    classifier: Any,
    defences: Mapping[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    out: str | Path,
    *,
    dataset: str,
    classifier_name: str,
    eps: Sequence[float] = (8 / 255, 16 / 255),
    max_iter: int = 10,
    eot_samples: int = 4,
    draws: int = 5,
    **settings: Any,
) -> tuple[list[TextTable], list[dict[str, Any]]]:
    """
    The simulated study in a folder: ``printed.json`` (rows and settings), ``printed.md``, ``printed.png``.

    Interrupted, it goes on where it stopped when it is called again with the same settings.

    :param classifier: An undefended ART classifier with ``clip_values``.
    :param defences: Name -> ART preprocessor.
    :param x: Images (N, H, W, 3) in ``clip_values``.
    :param y: True class indices (N,).
    :param out: The folder.
    :param dataset: What the images are.
    :param classifier_name: What the classifier is called.
    :param eps: Budgets, shares of the pixel range.
    :param max_iter: Iterations of an attack.
    :param eot_samples: Draws of printer and camera that a gradient is the mean of.
    :param draws: Photographs of each print.
    :param settings: Passed to :func:`art_versatile.physical.printed_study`.
    :return: The tables of accuracy and of the destruction rate, and the rows.
    :raises ValueError: If a parameter is not as expected, or the folder holds another study.
    """
    from art_versatile.physical import printed_study
    from art_versatile.reports.figures import printed_figure

    own: dict[str, Any] = {"eps": eps, "max_iter": max_iter, "eot_samples": eot_samples, "draws": draws}
    folder = Path(out)
    rows = printed_study(classifier, defences, x, y, file=folder / "printed.json", **own, **settings)
    how = f"{max_iter} iterations, EOT over {eot_samples} draws where printing is known of"
    note = f"{dataset}, {classifier_name}, {how}."
    tables = [printed_table(rows, measure, note=note) for measure in ("accuracy", "destruction_rate")]
    printed_figure(rows, folder / "printed.png", title=tables[0].note)
    write_text_atomically(folder / "printed.md", "\n".join(table.to_markdown() for table in tables))
    return tables, rows


def printed_table(rows: Sequence[Mapping[str, Any]], measure: str = "accuracy", *, note: str = "") -> TextTable:
    """
    The simulated study as a table, in percent.

    :param rows: From :func:`art_versatile.physical.printed_study`.
    :param measure: "accuracy", after printing and photographing, in brackets before; or "destruction_rate", of the
        attacked images.
    :param note: What is to be said besides.
    """
    check_choice("measure", measure, ("accuracy", "destruction_rate"))
    rate = measure == "destruction_rate"
    defences = list(dict.fromkeys(row["defence"] for row in rows))
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        if rate and row["threat_model"] == "clean":
            continue
        cell = f"{100 * row['accuracy']:.1f} ({100 * row['accuracy_unprinted']:.1f})"
        if rate:
            cell = "-" if row["destruction_rate"] is None else f"{100 * row['destruction_rate']:.1f}"
        lines.setdefault(printed_attack(row), {})[row["defence"]] = cell
    what = (
        "destruction rate in % (share of the adversarial images that is classified right after it)"
        if rate
        else "accuracy in %, not printed in brackets"
    )
    return TextTable(
        title=f"Printed and photographed, simulated: {what}",
        header=("Attack", *defences),
        rows=tuple((label, *(cells.get(name, "-") for name in defences)) for label, cells in lines.items()),
        note=f"n = {rows[0]['n']}, {rows[0]['draws']} photographs of each. {note}".strip(),
    )
