"""The pictures of a printed sheet, out of a photograph of it: markers found, perspective undone, pictures cut out."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.transform import ProjectiveTransform

from art_versatile._checks import check_bool, check_integer
from art_versatile.physical.sheet import MARKER_CELLS, SHEET_FORMAT, marker_corners

__all__ = ["ReadPicture", "ReadSheet", "read_sheet"]

_LARGEST = 150_000_000  # pixels; what is larger is refused before it is decoded
_SEARCHED = 1600  # the longer side, in pixels, of the image that the markers are looked for in
_SMALLEST = 14  # pixels a side: below it a cell has no two pixels
_BENT_MM = 1.5
_CORNERS = ("upper left", "upper right", "lower right", "lower left")
_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@dataclass(frozen=True)
class ReadPicture:
    """
    One picture, cut out of a photograph.

    :param index: Its number on the sheet.
    :param image: (H, W, 3) float32 in [0, 1], of the size that was printed.
    :param about: What the sheet says about it.
    """

    index: int
    image: np.ndarray
    about: dict[str, Any]


@dataclass(frozen=True)
class ReadSheet:
    """
    What a photograph of a page holds.

    :param page: The page, from 0.
    :param pictures: Its pictures, by index.
    :param error_mm: How far the 16 corners of the markers are, in the root mean square, from where a flat page has
        them, in mm of the page.
    """

    page: int
    pictures: list[ReadPicture]
    error_mm: float


@dataclass(frozen=True)
class _Marker:
    corners: np.ndarray  # (4, 2) x, y in pixels, clockwise in the image
    bits: np.ndarray  # (4, 4) 0 or 1, as seen with the first corner at the upper left
    contrast: float


def read_sheet(
    photograph: str | os.PathLike[str] | np.ndarray,
    sheet: str | os.PathLike[str] | Mapping[str, Any],
    *,
    balance: bool = True,
    max_pixels: int = 12_000_000,
) -> ReadSheet:
    """
    Find the page in a photograph, in any rotation, and cut its pictures out.

    The page has to lie flat, with all four markers in the photograph. The lens's distortion is not undone. Markers are
    dark squares by a global and two local thresholds; a square counts if its frame is black and its 16 cells are a word
    of the sheet but for one bit at most. A projective map is fitted to their 16 corners.

    :param photograph: An image file (8 bits a channel, its EXIF rotation is applied), or an array (H, W, 3) of
        uint8, or of floats in [0, 1].
    :param sheet: The JSON file that :func:`~art_versatile.physical.make_sheet` wrote, or its content.
    :param balance: Make the paper white and the markers black: a linear map for each channel; the paper's brightness
        runs between the four corners. False leaves the colours as they are in the photograph.
    :param max_pixels: A larger photograph is reduced to so many pixels first, at least 250,000.
    :return: The page's pictures.
    :raises ValueError: If the files are not as expected, the photograph has more than 150 million pixels, the markers
        of one page are not all there, or they do not lie in a plane.
    """
    check_bool("balance", balance)
    check_integer("max_pixels", max_pixels, 250_000)
    described = _load_sheet(sheet)
    pixels = _load_photograph(photograph, max_pixels)
    factor = max(1.0, max(pixels.shape[:2]) / _SEARCHED)
    small = Image.fromarray(pixels).convert("L")
    small = small.resize([max(1, round(side / factor)) for side in small.size], Image.Resampling.BOX)
    grey = np.asarray(small, np.float32) / 255
    page, found = _one_page(described, _markers(grey))
    scale = np.array([pixels.shape[1] / grey.shape[1], pixels.shape[0] / grey.shape[0]])
    there = np.concatenate([marker_corners(marker, described["marker_mm"]) for marker in page["markers"]])
    seen = (np.concatenate(found) + 0.5) * scale - 0.5
    to_pixels = _fitted(there, seen)
    error = float(np.sqrt(np.mean(np.sum((to_pixels.inverse(seen) - there) ** 2, axis=1))))
    if not error <= _BENT_MM:
        raise ValueError(f"Expected a flat page, markers within {_BENT_MM} mm of a plane. Received {error:.1f} mm.")
    levels = _Levels(pixels, to_pixels, page["markers"], described["marker_mm"]) if balance else None
    pictures = []
    for picture in described["pictures"]:
        if picture["page"] == page["page"]:
            image = _cut(pixels, to_pixels, picture, levels)
            pictures.append(ReadPicture(picture["index"], image, dict(picture["about"])))
    return ReadSheet(page["page"], pictures, error)


def _load_sheet(sheet: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    content: Any = sheet
    if not isinstance(sheet, Mapping):
        try:
            content = json.loads(Path(sheet).read_text(encoding="utf-8"))
        except ValueError as err:
            raise ValueError(f"Expected the JSON file of a sheet. Received {sheet}: {err}") from err
    if not isinstance(content, Mapping) or content.get("format") != SHEET_FORMAT:
        kind = content.get("format") if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"Expected a sheet of format {SHEET_FORMAT!r}. Received {kind!r}.")
    return content


def _load_photograph(photograph: str | os.PathLike[str] | np.ndarray, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 of at most ``max_pixels``."""
    if isinstance(photograph, np.ndarray):
        if photograph.ndim != 3 or photograph.shape[2] != 3 or 0 in photograph.shape:
            raise ValueError(f"Expected a photograph (H, W, 3). Received shape {photograph.shape}.")
        if photograph.dtype != np.uint8:
            low, high = float(photograph.min()), float(photograph.max())
            if not np.issubdtype(photograph.dtype, np.floating) or not (low >= -1e-3 and high <= 1 + 1e-3):
                raise ValueError(
                    "Expected a photograph of uint8, or of floats in [0, 1]. "
                    f"Received {photograph.dtype} from {low:g} to {high:g}."
                )
            image = Image.fromarray(np.round(np.clip(photograph, 0, 1) * 255).astype(np.uint8))
        else:
            image = Image.fromarray(photograph)
    else:
        image = _open(Path(photograph), max_pixels)
    excess = image.width * image.height / max_pixels
    if excess > 1:
        size = [max(1, math.floor(side / math.sqrt(excess))) for side in image.size]
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image)


def _open(path: Path, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _LARGEST is the limit here
            file = Image.open(path)
        with file:
            if file.width * file.height > _LARGEST:
                raise ValueError(f"{file.width} x {file.height} pixels, more than {_LARGEST // 10**6} million")
            if file.mode in ("I", "F") or file.mode.startswith("I;16"):
                raise ValueError(f"pixels of mode {file.mode}")
            shrink = math.sqrt(max(1.0, file.width * file.height / max_pixels))
            least = math.ceil(file.width / shrink), math.ceil(file.height / shrink)
            file.draft("RGB", least)  # JPEG: decoded at a fraction
            return ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise ValueError(f"Expected a readable photograph. Received {path}: {err}") from err


def _markers(grey: np.ndarray) -> Iterator[_Marker]:
    """Every dark square with a black frame and light cells in it; the same one may come more than once."""
    masks = [grey < threshold_otsu(grey)]
    for share in (30, 8):
        around = ndimage.uniform_filter(grey, max(3, max(grey.shape) // share), mode="nearest")
        masks.append(grey < 0.8 * around)
    for mask in masks:
        labels, _ = ndimage.label(mask)
        for number, place in enumerate(ndimage.find_objects(labels), 1):
            sides = [part.stop - part.start for part in place]
            if min(sides) < _SMALLEST or max(sides) > max(grey.shape) / 3 or max(sides) > 4 * min(sides):
                continue
            corners = _quadrilateral(labels[place] == number)
            if corners is None:
                continue
            refined = _refined(grey, corners + np.array([place[1].start, place[0].start]))
            marker = None if refined is None else _decoded(grey, refined)
            if marker is not None:
                yield marker


def _quadrilateral(region: np.ndarray) -> np.ndarray | None:
    """The corners of a region (x, y), clockwise; None if it is no filled quadrilateral but for holes."""
    filled = ndimage.binary_fill_holes(region)
    edge = np.argwhere(filled & ~ndimage.binary_erosion(filled))[:, ::-1].astype(float)
    # The two ends of the long diagonal, then what is farthest from it on either side.
    first = edge[np.argmax(np.sum((edge - edge.mean(axis=0)) ** 2, axis=1))]
    third = edge[np.argmax(np.sum((edge - first) ** 2, axis=1))]
    along = third - first
    beside = along[0] * (edge[:, 1] - first[1]) - along[1] * (edge[:, 0] - first[0])
    corners = np.stack([first, edge[np.argmin(beside)], third, edge[np.argmax(beside)]])
    x, y = corners.T
    area = 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    perimeter = float(np.sum(np.hypot(*(corners - np.roll(corners, 1, axis=0)).T)))
    # Pixels are counted whole: half a pixel more on every side.
    return corners if area > 0 and 0.85 < filled.sum() / (area + 0.5 * perimeter) < 1.15 else None


def _refined(grey: np.ndarray, corners: np.ndarray) -> np.ndarray | None:
    """Corners to a fraction of a pixel: a line through each side's points of half brightness, and where lines meet."""
    lines = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = float(np.hypot(*(end - start)))
        if length < _SMALLEST / 2:
            return None
        outwards = np.array([end[1] - start[1], start[0] - end[0]]) / length
        reach = max(2.0, 0.7 * length / MARKER_CELLS)
        offsets = np.linspace(-reach, reach, 4 * math.ceil(reach) + 1)
        middles = start + np.linspace(0.12, 0.88, 24)[:, None] * (end - start)
        profiles = _at(grey, middles[:, None] + offsets[None, :, None] * outwards)
        half = 0.5 * (profiles[:, :3].mean() + profiles[:, -3:].mean())
        rising = (profiles[:, :-1] < half) & (profiles[:, 1:] >= half)
        there = rising.any(axis=1)
        if there.sum() < 8:
            return None
        rows, first = np.flatnonzero(there), rising[there].argmax(axis=1)
        below, above = profiles[rows, first], profiles[rows, first + 1]
        place = offsets[first] + (half - below) / (above - below) * (offsets[1] - offsets[0])
        for tolerance in (3.0, 1.0):  # what lies off the line is another edge, or noise
            slope, base = np.polyfit(rows, place, 1)
            near = np.abs(place - base - slope * rows) < tolerance
            if near.sum() < 8:
                return None
            rows, place = rows[near], place[near]
        slope, base = np.polyfit(rows, place, 1)
        ends = middles[[0, -1]] + (base + slope * np.array([[0], [len(middles) - 1]])) * outwards
        normal = np.array([ends[1, 1] - ends[0, 1], ends[0, 0] - ends[1, 0]]) / np.hypot(*(ends[1] - ends[0]))
        lines.append((normal, float(normal @ ends[0])))
    refined = []
    for (normal, distance), (other, far) in zip([lines[-1], *lines[:-1]], lines, strict=True):
        system = np.stack([normal, other])
        if abs(np.linalg.det(system)) < 0.1:
            return None
        refined.append(np.linalg.solve(system, [distance, far]))
    return np.stack(refined)


def _decoded(grey: np.ndarray, corners: np.ndarray) -> _Marker | None:
    transform = _fitted(_SQUARE, corners)
    near = np.array([-0.2, 0.0, 0.2])
    places = ((np.arange(MARKER_CELLS)[:, None] + 0.5 + near) / MARKER_CELLS).ravel()
    x, y = np.meshgrid(places, places)
    seen = _at(grey, transform(np.stack([x.ravel(), y.ravel()], axis=1)))
    cells = seen.reshape(MARKER_CELLS, 3, MARKER_CELLS, 3).mean(axis=(1, 3))
    contrast = float(np.ptp(cells))
    light = cells > 0.5 * (cells.min() + cells.max())
    inner = light[1:-1, 1:-1]
    framed = light.sum() == inner.sum()
    return _Marker(corners, inner.astype(int), contrast) if framed and contrast > 0.05 else None


def _one_page(sheet: Mapping[str, Any], markers: Iterator[_Marker]) -> tuple[Mapping[str, Any], list[np.ndarray]]:
    """The page that all four markers are there of, and their corners (4, 2) as they lie on the page."""
    known = [
        (p, c, marker["word"]) for p, page in enumerate(sheet["pages"]) for c, marker in enumerate(page["markers"])
    ]
    found: dict[tuple[int, int], tuple[float, np.ndarray]] = {}
    for marker in markers:
        for turn in range(4):
            word = int("".join(map(str, np.rot90(marker.bits, turn).ravel())), 2)
            for page, corner, expected in known:
                wrong = (word ^ expected).bit_count()
                score = marker.contrast - wrong
                if wrong <= 1 and score > found.get((page, corner), (-math.inf,))[0]:
                    found[page, corner] = score, np.roll(marker.corners, -turn, axis=0)
    whole = [p for p in range(len(sheet["pages"])) if all((p, c) in found for c in range(4))]
    if not whole:
        seen = [f"{_CORNERS[c]} of page {p + 1}" for p, c in sorted(found)]
        raise ValueError(
            "Expected the four corner markers of one page of the sheet, whole, sharp and with white paper around them. "
            f"Received a photograph in which {', '.join(seen) or 'none'} could be read."
        )
    largest = max(whole, key=lambda p: float(np.ptp(np.concatenate([found[p, c][1] for c in range(4)]), axis=0).prod()))
    return sheet["pages"][largest], [found[largest, c][1] for c in range(4)]


def _fitted(source: np.ndarray, target: np.ndarray) -> ProjectiveTransform:
    """The projective map of least squares from points (n, 2) to points, n >= 4 (normalised direct linear transform)."""

    def normalised(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centre, size = points.mean(axis=0), points.std()
        return (points - centre) / size, np.array([[size, 0, centre[0]], [0, size, centre[1]], [0, 0, 1]])

    (a, back_a), (b, back_b) = normalised(source), normalised(target)
    ones, zeros = np.ones(len(a)), np.zeros((len(a), 3))
    place = np.column_stack([a, ones])
    rows = np.concatenate(
        [np.hstack([place, zeros, -b[:, :1] * place]), np.hstack([zeros, place, -b[:, 1:] * place])], axis=0
    )
    matrix = np.linalg.svd(rows)[2][-1].reshape(3, 3)
    matrix = back_b @ matrix @ np.linalg.inv(back_a)
    return ProjectiveTransform(matrix=matrix / matrix[2, 2])


def _at(channel: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A channel's values at places (..., 2) of x, y, bilinear; beyond the edge the edge goes on."""
    return ndimage.map_coordinates(channel, [places[..., 1], places[..., 0]], np.float32, order=1, mode="nearest")


class _Levels:
    """Black and white of a photograph, from its markers: the ink of their frames, the paper around them."""

    def __init__(
        self, pixels: np.ndarray, to_pixels: ProjectiveTransform, markers: Sequence[Mapping[str, Any]], size: float
    ) -> None:
        ring = np.array([[t, s] for t in np.linspace(0.1, 0.9, 5) for s in (0.0, 1.0)])
        ring = np.concatenate([ring, ring[:, ::-1]])
        inside, outside = (0.5 + (ring - 0.5) * (1 + shift / MARKER_CELLS) for shift in (-1.0, 1.0))
        self.centres = np.array([marker_corners(marker, size).mean(axis=0) for marker in markers])
        origins = [marker_corners(marker, size)[0] for marker in markers]
        self.black = np.mean([self._seen(pixels, to_pixels(origin + size * inside)) for origin in origins], axis=0)
        self.white = np.array([self._seen(pixels, to_pixels(origin + size * outside)) for origin in origins])

    @staticmethod
    def _seen(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
        return np.array([np.median(_at(pixels[..., k], places)) for k in range(3)]) / 255

    def balanced(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Values (n, 3) at places (n, 2) in mm, with the ink black and the paper white."""
        (left, top), (right, bottom) = self.centres[0], self.centres[2]
        x, y = (places[:, 0:1] - left) / (right - left), (places[:, 1:2] - top) / (bottom - top)
        upper = self.white[0] * (1 - x) + self.white[1] * x
        lower = self.white[3] * (1 - x) + self.white[2] * x
        white = upper * (1 - y) + lower * y
        return (values - self.black) / np.maximum(white - self.black, 0.02)


def _cut(
    pixels: np.ndarray, to_pixels: ProjectiveTransform, picture: Mapping[str, Any], levels: _Levels | None
) -> np.ndarray:
    """One picture at the size that was printed, each of its pixels the mean of the photograph's that it covers."""
    height, width = picture["height"], picture["width"]
    origin = np.array([picture["left_mm"], picture["top_mm"]])
    size = np.array([picture["width_mm"], picture["height_mm"]])
    corners = to_pixels(origin + size * _SQUARE)
    longest = np.max(np.hypot(*(corners - np.roll(corners, 1, axis=0)).T))
    finer = min(max(1, math.ceil(longest / max(height, width))), 8)
    x = (np.arange(width * finer) + 0.5) / (width * finer)
    y = (np.arange(height * finer) + 0.5) / (height * finer)
    places = origin + size * np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    seen = to_pixels(places)
    low = np.maximum(np.floor(seen.min(axis=0)).astype(int) - 1, 0)
    high = np.ceil(seen.max(axis=0)).astype(int) + 2
    part = pixels[low[1] : high[1], low[0] : high[0]]
    values = np.stack([_at(part[..., k], seen - low) for k in range(3)], axis=-1) / 255
    if levels is not None:
        values = levels.balanced(values, places)
    cells = np.clip(values, 0, 1).reshape(height, finer, width, finer, 3)
    return cells.mean(axis=(1, 3)).astype(np.float32)
