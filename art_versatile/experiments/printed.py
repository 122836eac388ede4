"""Adversarial pictures to print, what a photograph of them shows, and a simulated study as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile.reports.paper import TextTable
from art_versatile.reports.text import format_eps

__all__ = ["Seen", "make_printed", "printed_table", "read_printed"]


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

    :param index: The picture's number on the sheet.
    :param about: What the sheet says of it.
    :param bare: The classifier's answer.
    :param defended: Its answer behind the defence; None without one.
    """

    index: int
    about: Mapping[str, Any]
    bare: int
    defended: int | None


def read_printed(
    classifier: Any, defence: Any, photograph: str | Path, sheet: str | Path, out: str | Path | None = None
) -> list[Seen]:
    """
    Cut the pictures out of a photograph of a sheet and classify them.

    :param classifier: An undefended ART classifier, ``clip_values=(0, 1)``.
    :param defence: An ART preprocessor, or None.
    :param photograph: The image file.
    :param sheet: The JSON file beside the sheet.
    :param out: Folder for the pictures as PNG files; None writes none.
    :return: One a picture, by number.
    :raises ValueError: If no page of the sheet is seen.
    """
    from art_versatile.images import save_png
    from art_versatile.physical import read_sheet

    pictures = read_sheet(photograph, sheet).pictures
    images = np.stack([picture.image for picture in pictures])
    bare = classifier.predict(images).argmax(axis=1)
    defended = None if defence is None else classifier.predict(defence(images)[0]).argmax(axis=1)
    for picture in pictures if out is not None else ():
        save_png(picture.image, Path(str(out)) / f"{picture.index}.png")
    return [
        Seen(picture.index, picture.about, int(bare[i]), None if defended is None else int(defended[i]))
        for i, picture in enumerate(pictures)
    ]


def printed_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """
    The simulated study as a table: accuracy in percent after printing and photographing, in brackets before.

    :param rows: From :func:`art_versatile.physical.printed_study`.
    """
    defences = list(dict.fromkeys(row["defence"] for row in rows))
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        label = row["attack"]
        if row["threat_model"] != "clean":
            knows = "knows of printing" if row["eot_samples"] else "knows of no printing"
            label = f"{row['attack']} {format_eps(row['eps'])}, {row['threat_model']}, {knows}"
        cells = lines.setdefault(label, {})
        cells[row["defence"]] = f"{100 * row['accuracy']:.1f} ({100 * row['accuracy_unprinted']:.1f})"
    body = [[label, *(cells.get(name, "-") for name in defences)] for label, cells in lines.items()]
    return TextTable(
        title="Printed and photographed, simulated: accuracy in %, not printed in brackets",
        header=("Attack", *defences),
        rows=tuple(tuple(line) for line in body),
        note=f"n = {rows[0]['n']}, {rows[0]['draws']} photographs of each.",
    )
