"""A4 pages of numbered pictures between four corner markers, to print and to photograph: a PDF and what is where."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_images, check_integer, check_number
from art_versatile._files import atomic_path, write_text_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MARKER_CELLS", "SHEET_FORMAT", "make_sheet", "marker_corners"]

SHEET_FORMAT = "art-versatile sheet 1"
#: A marker is a black frame of one cell around 4 x 4 cells, black or white.
MARKER_CELLS = 6

_PAGE_MM = (210.0, 297.0)  # width, height: A4
_MARGIN_MM = 10.0  # office printers leave 4 to 6 mm blank
_MARKER_MM = 18.0
_GAP_MM, _CAPTION_MM = 4.0, 5.0
_PAGES = 12


def _rotations(word: int) -> list[int]:
    bits = np.array([word >> (15 - i) & 1 for i in range(16)]).reshape(4, 4)
    return [int("".join(map(str, np.rot90(bits, k).ravel())), 2) for k in range(4)]


def _words(count: int) -> list[int]:
    """Words of 16 bits, any two of them at least 4 bits apart in every rotation: one wrong bit is put right."""
    taken: list[int] = []
    apart: list[int] = []  # those, in every rotation
    for i in range(1 << 16):
        word = i * 40503 & 0xFFFF  # in an order that mixes the bits
        turned = _rotations(word)
        if not 5 <= word.bit_count() <= 11 or min((word ^ other).bit_count() for other in turned[1:]) < 4:
            continue
        if all((word ^ other).bit_count() >= 4 for other in apart):
            taken.append(word)
            apart += turned
            if len(taken) == count:
                break
    return taken


def make_sheet(
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    about: Sequence[Mapping[str, Any]] | None = None,
    picture_mm: float = 50.0,
    preview_dpi: int | None = 100,
) -> list[Path]:
    """
    Write pictures as pages to print.

    The PDF holds each picture's own pixels, rounded to 8 bits, without loss; below each stands its index. Print in
    colour, at any size: the markers, not the millimetres, are what a photograph is read by.

    :param images: (N, H, W, 3) in [0, 1]; the longer side is printed ``picture_mm`` long.
    :param path: The PDF; its folder is made where it is missing. Beside it come a JSON file of the same name, which
        :func:`~art_versatile.physical.read_sheet` needs, and PNG files, one a page.
    :param about: One mapping of JSON values for each picture (attack, eps, label, ...), which stands in the JSON file.
    :param picture_mm: Length of a picture's longer side in mm, 20 to 190.
    :param preview_dpi: Dots an inch of the PNG files, 50 to 600; None writes none.
    :return: The PDF, the JSON file, the PNG files.
    :raises ValueError: If a parameter is not as expected, or the pictures take more than 12 pages.
    """
    images = check_images(images, (0.0, 1.0), name="images")
    check_number("picture_mm", picture_mm, 20, 190)
    if preview_dpi is not None:
        check_number("preview_dpi", check_integer("preview_dpi", preview_dpi), 50, 600)
    path = Path(path)
    if path.suffix.lower() != ".pdf":
        raise ValueError(f"Expected path to end in .pdf. Received {str(path)!r}.")
    about = [{} for _ in images] if about is None else [dict(item) for item in about]
    if len(about) != len(images):
        raise ValueError(f"Expected about to hold one mapping for each of {len(images)} images. Received {len(about)}.")
    sheet = _layout(images.shape[:3], about, picture_mm)
    text = json.dumps(sheet, indent=1, allow_nan=False)
    pixels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)

    from matplotlib.backends.backend_pdf import PdfPages

    previews = []
    with atomic_path(path) as temporary, PdfPages(temporary, metadata={"CreationDate": None}) as pdf:
        for page in sheet["pages"]:
            figure = _draw(sheet, page, pixels)
            pdf.savefig(figure)
            if preview_dpi is not None:
                previews.append(path.with_name(f"{path.stem}-{page['page'] + 1}.png"))
                with atomic_path(previews[-1]) as preview:
                    figure.savefig(preview, format="png", dpi=preview_dpi)
    return [path, write_text_atomically(path.with_suffix(".json"), text + "\n"), *previews]


def _layout(shape: tuple[int, int, int], about: Sequence[Mapping[str, Any]], picture_mm: float) -> dict[str, Any]:
    """What is where, in mm from the page's upper left corner."""
    count, height, width = shape
    size = picture_mm * width / max(height, width), picture_mm * height / max(height, width)
    top = _MARGIN_MM + _MARKER_MM + _GAP_MM
    room = _PAGE_MM[0] - 2 * _MARGIN_MM, _PAGE_MM[1] - 2 * top
    step = size[0] + _GAP_MM, size[1] + _CAPTION_MM + _GAP_MM
    columns = math.floor((room[0] + _GAP_MM) / step[0] + 1e-9)
    rows = math.floor((room[1] + _GAP_MM) / step[1] + 1e-9)
    on_page = columns * rows
    pages = math.ceil(count / on_page)
    if pages > _PAGES:
        raise ValueError(
            f"Expected at most {_PAGES * on_page} pictures of {picture_mm:g} mm ({_PAGES} pages). Received {count}."
        )
    left = (_PAGE_MM[0] - columns * step[0] + _GAP_MM) / 2
    far = _PAGE_MM[0] - _MARGIN_MM - _MARKER_MM, _PAGE_MM[1] - _MARGIN_MM - _MARKER_MM
    places = [(_MARGIN_MM, _MARGIN_MM), (far[0], _MARGIN_MM), far, (_MARGIN_MM, far[1])]
    words = _words(4 * pages)
    return {
        "format": SHEET_FORMAT,
        "page_mm": list(_PAGE_MM),
        "marker_mm": _MARKER_MM,
        "pages": [
            {
                "page": page,
                "markers": [
                    {"word": words[4 * page + k], "left_mm": x, "top_mm": y} for k, (x, y) in enumerate(places)
                ],
            }
            for page in range(pages)
        ],
        "pictures": [
            {
                "index": index,
                "page": index // on_page,
                "left_mm": left + index % on_page % columns * step[0],
                "top_mm": top + index % on_page // columns * step[1],
                "width_mm": size[0],
                "height_mm": size[1],
                "height": height,
                "width": width,
                "about": about[index],
            }
            for index in range(count)
        ],
    }


def marker_corners(marker: Mapping[str, Any], size: float) -> np.ndarray:
    """
    The corners of a marker.

    :param marker: Its entry in a sheet's JSON file.
    :param size: Its side in mm.
    :return: (4, 2): x and y in mm, clockwise from the upper left.
    """
    return np.array([marker["left_mm"], marker["top_mm"]]) + size * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])


def _draw(sheet: Mapping[str, Any], page: Mapping[str, Any], pixels: np.ndarray) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    width, height = sheet["page_mm"]
    figure = Figure(figsize=(width / 25.4, height / 25.4), facecolor="white")
    figure.suppressComposite = True  # else the PDF would hold all pictures as one, resampled
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    cell = sheet["marker_mm"] / MARKER_CELLS
    for marker in page["markers"]:
        x, y = marker["left_mm"], marker["top_mm"]
        axes.add_patch(Rectangle((x, y), sheet["marker_mm"], sheet["marker_mm"], color="black", linewidth=0))
        for i, bit in enumerate(f"{marker['word']:016b}"):
            if bit == "1":
                corner = x + (1 + i % 4) * cell, y + (1 + i // 4) * cell
                axes.add_patch(Rectangle(corner, cell, cell, color="white", linewidth=0))
    for picture in sheet["pictures"]:
        if picture["page"] == page["page"]:
            x, y = picture["left_mm"], picture["top_mm"]
            edges = (x, x + picture["width_mm"], y + picture["height_mm"], y)
            axes.imshow(pixels[picture["index"]], extent=edges, interpolation="none", aspect="auto")
            axes.text((edges[0] + edges[1]) / 2, edges[2] + 1, str(picture["index"]), size=9, ha="center", va="top")
    foot = f"page {page['page'] + 1} of {len(sheet['pages'])} · photograph it whole, with its four corner markers"
    axes.text(width / 2, height - _MARGIN_MM - _MARKER_MM / 2, foot, size=8, ha="center", va="center")
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure
