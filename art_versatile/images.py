"""Image files -> arrays in [0, 1], and back."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from art_versatile._checks import check_images, check_integer
from art_versatile._files import atomic_path

__all__ = [
    "IMAGE_SUFFIXES",
    "demo_images",
    "labelled_images",
    "list_images",
    "load_image",
    "load_images",
    "random_view",
    "read_labels",
    "save_png",
]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


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


def load_image(path: str | Path, size: int | None = None) -> np.ndarray:
    """
    Read one image.

    :param path: The file, 8 or 16 bits a channel; its EXIF rotation is applied, transparency dropped.
    :param size: Height and width in pixels: the short side is resized to it (bicubic), the centre kept. None leaves the
        image as it is.
    :return: (H, W, 3) float32 in [0, 1].
    :raises ValueError: If the file is not a readable image, or the size is not a positive integer.
    """
    if size is not None:
        size = check_integer("size", size)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):
                # Pillow would cut 16 bits off at 255 instead of scaling them.
                image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {image.mode}, whose range is not known")
            image = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        if isinstance(err, FileNotFoundError):
            raise
        raise ValueError(f"Expected a readable image. Received {path}: {err}") from err
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255.0


def load_images(paths: str | Path | Iterable[str | Path], size: int) -> np.ndarray:
    """
    Read images into one batch.

    :param paths: A folder, a file, or files.
    :param size: Height and width in pixels; see :func:`load_image`.
    :return: (N, size, size, 3) float32 in [0, 1].
    """
    files = list_images(paths) if isinstance(paths, str | Path) else [Path(p) for p in paths]
    if not files:
        raise ValueError("Expected at least one image file. Received none.")
    return np.stack([load_image(file, size) for file in files])


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
    Class indices of image files, from a CSV table.

    :param table: The file, with a header.
    :param file: Column of the file names.
    :param label: Column of the class indices; rows where it is empty are left out.
    :return: File name -> class index.
    :raises ValueError: If a column is missing or an index is not an integer.
    """
    import csv

    with Path(table).open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write the mark
        rows = csv.DictReader(stream)
        missing = [name for name in (file, label) if name not in (rows.fieldnames or [])]
        if missing:
            raise ValueError(f"Expected the columns {file!r} and {label!r} in {table}. Received {rows.fieldnames}.")
        try:
            return {row[file]: int(row[label]) for row in rows if row[label]}
        except ValueError as err:
            raise ValueError(
                f"Expected integers in column {label!r} of {table}. Received another value: {err}"
            ) from err


def labelled_images(
    folder: str | Path,
    table: str | Path,
    size: int,
    *,
    limit: int | None = None,
    file: str = "file",
    label: str = "label",
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """
    The images of a folder that a CSV table has classes for, in the order of the table.

    :param folder: A folder of images.
    :param table: The table, see :func:`read_labels`.
    :param size: Height and width in pixels; see :func:`load_image`.
    :param limit: At most so many; None takes all.
    :param file: Column of the file names.
    :param label: Column of the class indices.
    :return: (N, size, size, 3) float32 in [0, 1]; class indices (N,); names of the files.
    :raises ValueError: If the table names no image of the folder.
    """
    labels = read_labels(table, file=file, label=label)
    files = {path.name: path for path in list_images(folder)}
    names = [name for name in labels if name in files][:limit]
    if not names:
        raise ValueError(f"Expected names of images of {folder} in {table}. Received {list(labels)[:3]} ...")
    return load_images([files[name] for name in names], size), np.array([labels[name] for name in names]), names


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
