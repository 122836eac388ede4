"""A page of what a classifier says of photographed prints, bare and purified."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from art_versatile._files import write_text_atomically
from art_versatile.reports.pictures import data_uri
from art_versatile.reports.templates import render
from art_versatile.reports.text import ABSENT, format_eps

__all__ = ["write_photographed"]


def write_photographed(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """
    Write the page. It has no script and refers to nothing outside itself; pictures are embedded.

    :param path: The file, written atomically.
    :param rows: One a picture, those of a photograph together: ``photograph`` (its name), ``index``, ``about`` (what
        the sheet says of it: ``attack``, ``eps``, ``label``), ``class`` (name of the true one, or None), ``seen``: what
        was shown to the classifier ("photographed", "purified") -> ``(image (H, W, 3) in [0, 1], answer, right)``,
        right None where the true class is not known.
    :return: The path.
    :raises ValueError: If there is no picture.
    """
    if not rows:
        raise ValueError("Expected at least one picture. Received none.")
    photographs = [
        (name, [_picture(row) for row in own]) for name, own in groupby(rows, key=lambda row: row["photograph"])
    ]
    ways = list(rows[0]["seen"])
    counts: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        for way, (_, _, right) in row["seen"].items():
            if right is not None:
                counts.setdefault(_attack(row), {}).setdefault(way, []).append(right)
    table = [["printed", *(f"{way}, right" for way in ways)]] if counts else []
    for attack, found in counts.items():
        table.append([attack, *(f"{sum(found[way])} of {len(found[way])}" for way in ways)])
    lead = (
        f"Pictures: {len(rows)}, photographs: {len(photographs)}. Whoever knows of the purifier can attack through it "
        "before printing (printed make --weights)."
    )
    context = {"title": "Printed, photographed, classified", "lead": lead, "table": table, "photographs": photographs}
    return write_text_atomically(path, render("photographed.html.j2", context))


def _attack(row: Mapping[str, Any]) -> str:
    about = row["about"]
    eps = f" {format_eps(about['eps'])}" if "eps" in about else ""
    return f"{about.get('attack', ABSENT)}{eps}"


def _picture(row: Mapping[str, Any]) -> dict[str, Any]:
    true = f", {row['class']}" if row["class"] is not None else ""
    return {
        "title": f"{row['index']}: {_attack(row)}{true}",
        "figures": [
            {
                "what": way,
                "source": data_uri(image),
                "answer": answer,
                "verdict": "" if right is None else "right" if right else "wrong",
            }
            for way, (image, answer, right) in row["seen"].items()
        ],
    }
