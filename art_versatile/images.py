"""Image files -> arrays in [0, 1], and back."""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from art_versatile._checks import check_images, check_integer
from art_versatile._files import atomic_path

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "demo_images",
    "labelled_images",
    "list_images",
    "load_image",
    "load_images",
    "random_view",
    "read_labels",
    "save_png",
]

#: Pixels of an image that :func:`load_image` decodes at most: 600 MB in float32.
MAX_PIXELS = 50_000_000
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


logger = logging.getLogger(__name__)


def list_images(path: str | Path) -> list[Path]:
    """
    The image files under a folder, at any depth, in the order of their paths; or the file itself.

    :param path: A folder or a file.
    :raises FileNotFoundError: If there is nothing at the path, or no image file in the folder.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"Expected an image file or a folder of them. Received {path}: there is none.")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not found:
        raise FileNotFoundError(f"Expected image files ({', '.join(IMAGE_SUFFIXES)}) in {path}. Received none.")
    return found


def load_image(
    path: str | Path, size: int | None = None, *, stretch: bool = False, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """
    Read one image.

    :param path: The file, 8 or 16 bits a channel; its EXIF rotation is applied, transparency dropped.
    :param size: Height and width in pixels: the short side is resized to it (bicubic), the centre kept. None leaves the
        image as it is.
    :param stretch: Resize the whole image to ``size`` instead, whatever its proportions, as the paper does.
    :param max_pixels: Height times width of the file at most; a larger one is refused before it is decoded. Pillow's
        own limit, 178,956,970, holds besides.
    :return: (H, W, 3) float32 in [0, 1].
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If the file is not a readable image or is too large, or a number is not a positive integer.
    """
    max_pixels = check_integer("max_pixels", max_pixels)
    if size is not None:
        size = check_integer("size", size)
    try:
        with Image.open(path) as file:
            if file.width * file.height > max_pixels:
                raise ValueError(f"{file.width} x {file.height} pixels, more than max_pixels={max_pixels:,}")
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):
                # Pillow would cut 16 bits off at 255 instead of scaling them.
                image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {image.mode}, whose range is not known")
            image = image.convert("RGB")
    except FileNotFoundError:
        raise
    except Exception as err:  # on a damaged file Pillow's decoders raise errors of any kind
        raise ValueError(f"Expected a readable image. Received {path}: {err}") from err
    if size is not None:
        fit = image.resize if stretch else functools.partial(ImageOps.fit, image)
        image = fit((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255.0


def load_images(paths: str | Path | Iterable[str | Path], size: int, *, stretch: bool = False) -> np.ndarray:
    """
    Read images into one batch.

    :param paths: A folder, a file, or files.
    :param size: Height and width in pixels; see :func:`load_image`.
    :param stretch: See :func:`load_image`.
    :return: (N, size, size, 3) float32 in [0, 1].
    """
    files = list_images(paths) if isinstance(paths, str | Path) else [Path(p) for p in paths]
    if not files:
        raise ValueError("Expected at least one image file. Received none.")
    return np.stack([load_image(file, size, stretch=stretch) for file in files])


def random_view(
    image: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, *, zoom: float = 1.0, flip: bool = False
) -> np.ndarray:
    """
    A random part of an image, mirrored or not.

    :param image: (H, W, 3) float in [0, 1].
    :param shape: Height and width of the result, in pixels.
    :param rng: What draws.
    :param zoom: The part is the largest of the result's proportions, its sides divided by a factor from 1 to ``zoom``,
        anywhere in the image; it is resized (bicubic).
    :param flip: Mirror it or not, by the toss of a coin.
    :return: (height, width, 3) float32 in [0, 1].
    :raises ValueError: If ``zoom`` is below 1.
    """
    if not zoom >= 1:
        raise ValueError(f"Expected zoom to be at least 1. Received {zoom!r}.")
    height, width = shape
    ratio = min(image.shape[0] / height, image.shape[1] / width) / rng.uniform(1.0, zoom)
    part_height, part_width = min(ratio * height, image.shape[0]), min(ratio * width, image.shape[1])  # one ulp over
    top, left = rng.uniform() * (image.shape[0] - part_height), rng.uniform() * (image.shape[1] - part_width)
    mirrored = rng.uniform() < 0.5
    box = (left, top, min(left + part_width, image.shape[1]), min(top + part_height, image.shape[0]))
    view = np.stack(
        [
            np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC, box))
            for channel in np.moveaxis(np.asarray(image, np.float32), 2, 0)
        ],
        axis=2,
    )
    return np.clip(view[:, ::-1] if flip and mirrored else view, 0.0, 1.0)


def save_png(image: np.ndarray, path: str | Path) -> None:
    """
    Write one image as an 8-bit PNG, complete or not at all.

    :param image: (H, W, 3) in [0, 1]; rounded to the nearest of 256 levels.
    :param path: The file.
    """
    check_images(image[None], (0.0, 1.0), name="image")
    with atomic_path(path) as temporary:
        Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8)).save(temporary, format="PNG")


def read_labels(table: str | Path, *, file: str = "file", label: str = "label") -> dict[str, int]:
    """
    Class indices of image files, from a table with commas, semicolons or tabs, in UTF-8 with or without its mark.

    Rows without a name or a class index are left out; a warning in the log counts them.

    :param table: The file, with a header.
    :param file: Column of the file names.
    :param label: Column of the class indices.
    :return: File name -> class index.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If the file is no such table, a column is missing, an index is not an integer, or a name has
        two of them.
    """
    rows = _read_rows(table, file, label)
    labels = _complete(rows, table)
    _tell_unused(table, len(rows), len(rows) - sum(1 for name, index in rows if name and index))
    return labels


def _read_rows(table: str | Path, file: str, label: str) -> list[tuple[str, str]]:
    """Name and class index of each row, as they are written; "" where a row has none."""
    expected = f"Expected the columns {file!r} and {label!r} in {table}."
    try:
        text = Path(table).read_bytes().decode("utf-8-sig")  # spreadsheets write the mark
    except UnicodeDecodeError as err:
        raise ValueError(f"Expected {table} in UTF-8. Received another encoding: {err}") from err
    try:
        for delimiter in ",;\t":
            rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
            if {file, label} <= set(rows.fieldnames or []):
                return [(row[file].strip(), row[label].strip()) for row in rows]
    except csv.Error as err:
        raise ValueError(f"{expected} Received a file that is no table: {err}") from err
    header = next(iter(text.splitlines()), "")
    raise ValueError(f"{expected} Received {header!r:.200}, parted by comma, semicolon or tab.")


def _complete(rows: Iterable[tuple[str, str]], table: str | Path) -> dict[str, int]:
    """The rows that have a name and a class index."""
    labels: dict[str, int] = {}
    for name, index in rows:
        if not name or not index:
            continue
        if not re.fullmatch("[+-]?[0-9]{1,9}", index):
            raise ValueError(f"Expected integers as class indices in {table}. Received {index!r:.80} for {name!r:.80}.")
        if labels.setdefault(name, int(index)) != int(index):
            raise ValueError(
                f"Expected one class index for each file in {table}. Received {labels[name]} and {int(index)} for "
                f"{name!r}."
            )
    return labels


def _tell_unused(table: str | Path, rows: int, incomplete: int, missing: Sequence[str] = ()) -> None:
    """Warn of rows that count for nothing."""
    reasons = [f"{incomplete} without a name or a class index"] if incomplete else []
    reasons += [f"{len(missing)} without an image, as {missing[0]!r}"] if missing else []
    if reasons:
        logger.warning(
            "%d of %d rows of %s used: %s.", rows - incomplete - len(missing), rows, table, ", ".join(reasons)
        )


def labelled_images(
    folder: str | Path,
    table: str | Path,
    size: int,
    *,
    limit: int | None = None,
    per_class: int | None = None,
    stretch: bool = False,
    seed: int = 0,
    file: str = "file",
    label: str = "label",
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """
    The images of a folder that a table has classes for, in the order of the table.

    A name in the table is a path in the folder, or else the bare name of a file at any depth that no other has. Rows
    that name no image, or lack something, are left out; a warning in the log counts them.

    :param folder: A folder of images.
    :param table: The table, see :func:`read_labels`.
    :param size: Height and width in pixels; see :func:`load_image`.
    :param limit: At most so many; None takes all.
    :param per_class: So many of each class, drawn at random, in the order of the table; the paper's sampling.
    :param stretch: See :func:`load_image`.
    :param seed: Of the draws.
    :param file: Column of the file names.
    :param label: Column of the class indices.
    :return: (N, size, size, 3) float32 in [0, 1]; class indices (N,); names of the files.
    :raises ValueError: If the table names no image of the folder, several images have a bare name in it, two rows give
        one image different classes, or a class has fewer images than ``per_class``.
    """
    rows = _read_rows(table, file, label)
    labels = _complete(rows, table)
    files = list_images(folder)
    found = match_names(list(labels), files, folder)
    if not found:
        raise ValueError(f"Expected names of images of {folder} in {table}. Received {list(labels)[:3]} ...")
    named: dict[Path, str] = {}
    for name, path in found.items():
        first = named.setdefault(path, name)
        if labels[first] != labels[name]:
            raise ValueError(
                f"Expected one class index for each image. Received {labels[first]} as {first!r} and {labels[name]} as "
                f"{name!r} for {path}."
            )
    complete = [name for name, index in rows if name and index]
    _tell_unused(table, len(rows), len(rows) - len(complete), [name for name in complete if name not in found])
    names = list(named.values())
    if per_class is not None:
        names = _drawn(names, labels, check_integer("per_class", per_class), seed)
    names = names[:limit]
    return (
        load_images([found[name] for name in names], size, stretch=stretch),
        np.array([labels[name] for name in names]),
        names,
    )


def _drawn(names: Sequence[str], labels: dict[str, int], per_class: int, seed: int) -> list[str]:
    """So many names of each class, in their order."""
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for index in sorted({labels[name] for name in names}):
        members = [name for name in names if labels[name] == index]
        if len(members) < per_class:
            raise ValueError(f"Expected at least {per_class} images of each class. Received {len(members)} of {index}.")
        chosen.update(members[row] for row in rng.permutation(len(members))[:per_class])
    return [name for name in names if name in chosen]


def match_names(names: Iterable[str], files: Sequence[Path], folder: str | Path) -> dict[str, Path]:
    """
    The image that each name in a table means, where there is one.

    :param names: Paths in the folder, with slashes or backslashes, or bare names.
    :param files: The images.
    :param folder: The folder that they are in, or the one file itself.
    :return: Name -> image, for the names that mean one.
    :raises ValueError: If several images have a bare name, none of them at the top of the folder.
    """
    root = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    by_path = {path.relative_to(root).as_posix(): path for path in files}
    counts = Counter(path.name for path in files)
    by_name = {path.name: path for path in files}
    found = {}
    for name in names:
        place = name if name in by_path else PurePosixPath(name.replace("\\", "/")).as_posix()
        if place in by_path:
            found[name] = by_path[place]
        elif counts[place] > 1:
            several = [path.relative_to(root).as_posix() for path in files if path.name == place]
            raise ValueError(f"Expected {name!r} to be one image of {folder}. Received {' and '.join(several[:3])}.")
        elif place in by_name:
            found[name] = by_name[place]
    return found


def demo_images(count: int = 20, size: int = 256) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """
    ImageNet photographs with their class indices, from the wheel of the package ``foolbox`` (MIT), which has 20.

    :param count: How many, 1 to 20.
    :param size: Height and width in pixels.
    :return: (count, size, size, 3) float32 in [0, 1], (count,) class indices, file names.
    :raises ModuleNotFoundError: If the package is missing.
    :raises ValueError: If ``count`` is out of range.
    """
    try:
        # Its data alone are wanted: importing foolbox itself would import every framework that it knows.
        spec = importlib.util.find_spec("foolbox")
    except ImportError:  # pragma: no cover
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "Expected the package foolbox (pip install 'art-versatile[demo]'), which carries the photographs. Received "
            "an environment without it."
        )
    files = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))
    files = files[: check_integer("count", count, most=len(files))]
    labels = [int(re.fullmatch(r"imagenet_\d+_(\d+)", file.stem).group(1)) for file in files]  # type: ignore[union-attr]
    return load_images(files, size), np.array(labels), [file.name for file in files]
