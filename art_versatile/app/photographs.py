"""Photographs from strangers: bounded before they are decoded, and refused in one sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from art_versatile._checks import check_integer
from art_versatile.images import load_image

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "load_photograph"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
_ALSO_NAMED = ("GIF", "ICO", "PPM")  # recognised, so that the refusal can name them
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L")
_READABLE = "Expected a photograph that can be read (JPEG, PNG, WebP, BMP or TIFF)."


def load_photograph(path: str | Path, size: int | None = None, *, largest: int | None = None) -> np.ndarray:
    """
    Read one photograph that anybody may have sent.

    :param path: The file. No message names it.
    :param size: Height and width in pixels: the short side is resized to it, the centre kept. None keeps the size.
    :param largest: Without ``size``: a photograph of more pixels than the square of this number is reduced to as many.
    :return: (H, W, 3) float32 in [0, 1].
    :raises ValueError: If there is no file, or it is too large, of another format, in colours for print, or damaged.
    """
    path = Path(path)
    _check_header(path)
    try:
        image = load_image(path, size)
    except (OSError, ValueError) as err:
        raise ValueError(f"{_READABLE} Received one that is damaged or incomplete.") from err
    if size is None and largest is not None:
        image = _reduced(image, check_integer("largest", largest))
    return image


def _check_header(path: Path) -> None:
    """Size of the file, format, pixels and colours, from the header alone."""
    if not path.is_file():
        raise ValueError("Expected a photograph. Received none.")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"Expected a file of at most {MAX_BYTES >> 20} MB. Received {size / 2**20:.0f} MB.")
    limit = f"Expected a photograph of at most {MAX_PIXELS // 1_000_000} million pixels."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            with Image.open(path, formats=[*FORMATS, *_ALSO_NAMED]) as file:
                kind, mode, (width, height) = str(file.format), file.mode, file.size
    except Image.DecompressionBombError as err:
        raise ValueError(f"{limit} Received far more.") from err
    except UnidentifiedImageError as err:
        raise ValueError(f"{_READABLE} Received a file that is none of these.") from err
    except Exception as err:  # Pillow's readers raise SyntaxError, struct.error and others on broken headers
        raise ValueError(f"{_READABLE} Received one that is damaged or incomplete.") from err
    if kind == "MPO":  # a JPEG with a second picture behind the first, from a camera
        kind = "JPEG"
    if kind not in FORMATS:
        raise ValueError(f"{_READABLE} Received a file of the format {kind}.")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{limit} Received {width} × {height}.")
    if mode == "CMYK":
        raise ValueError("Expected a photograph in RGB or grey. Received CMYK, the colours of print: save it as RGB.")
    if mode not in _MODES:
        raise ValueError(f"Expected a photograph in RGB or grey. Received pixels of the kind {mode}.")


def _reduced(image: np.ndarray, largest: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = largest / (height * width) ** 0.5
    if factor >= 1:
        return image
    shape = max(1, round(width * factor)), max(1, round(height * factor))
    levels = Image.fromarray((image * 255).round().astype(np.uint8))
    return np.asarray(levels.resize(shape, Image.Resampling.BICUBIC), np.float32) / 255
