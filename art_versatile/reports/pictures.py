"""One image clean, attacked and purified, with what the classifier says: what pages and figures both show."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from art_versatile._checks import check_images
from art_versatile.reports.text import attack_name

__all__ = ["SMALL_SIDE", "Panel", "Prediction", "Shot", "data_uri", "magnification", "shots", "story"]

# Half the full contrast: the pattern shows better than in black and white. The 0.01 lets 8/255 have x8 (0.251).
_CONTRAST = 0.26
_FACTORS = (128, 64, 32, 16, 8, 4, 2, 1)
#: Up to this side, the page shows the pixels as squares, and JPEG would be the larger loss.
SMALL_SIDE = 96
_MAX_SIDE = 256
_JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """
    What the classifier says of one image.

    :param label: Name of the class.
    :param confidence: Its probability, 0 to 1, or None.
    :param correct: Whether it is the true class; the names do not tell (ImageNet has two classes named "crane").
    :raises ValueError: If the confidence is out of its range.
    """

    label: str
    confidence: float | None = None
    correct: bool

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"Expected confidence between 0 and 1, or None. Received {self.confidence!r}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """
    One image under one attack.

    :param name: Name of the image.
    :param attack: Name of the attack.
    :param threat_model: What the attack knew: of an adaptive one, the classifier alone was not the target.
    :param clean: The image (H, W, 3), in [0, 1].
    :param adversarial: The attacked image, same shape and range.
    :param purified: The attacked image behind the defence, same range; a defence may change the size.
    :param true_label: Name of the true class.
    :param clean_prediction: What the classifier says of the clean image.
    :param adversarial_prediction: What it says of the attacked image, without the defence.
    :param purified_prediction: What it says of the purified image.
    :raises ValueError: If an image is of another shape or range.
    :raises TypeError: If an image is not of floats.
    """

    name: str
    attack: str
    threat_model: str = "static"
    clean: np.ndarray
    adversarial: np.ndarray
    purified: np.ndarray
    true_label: str
    clean_prediction: Prediction
    adversarial_prediction: Prediction
    purified_prediction: Prediction

    def __post_init__(self) -> None:
        for name in ("clean", "adversarial", "purified"):
            image = np.asarray(getattr(self, name))
            if image.ndim != 3:
                raise ValueError(f"Expected {name} to be one image (H, W, 3). Received shape {image.shape}.")
            check_images(image[None], (0.0, 1.0), name=name)
        if np.shape(self.adversarial) != np.shape(self.clean):
            raise ValueError(
                f"Expected adversarial to have the shape of clean, {np.shape(self.clean)}. "
                f"Received {np.shape(self.adversarial)}."
            )

    def __repr__(self) -> str:
        height, width = np.shape(self.clean)[:2]
        return f"Panel(name={self.name!r}, attack={self.attack!r}, true_label={self.true_label!r}, {height}x{width})"


@dataclass(frozen=True, eq=False)
class Shot:
    """
    One picture of a panel.

    :param title: What it is, as "After PGD".
    :param image: (H, W, 3); pixels beyond [0, 1] are cut.
    :param prediction: What the classifier says of it; None for the perturbation.
    :param note: What is said in its place.
    """

    title: str
    image: np.ndarray
    prediction: Prediction | None
    note: str = ""


def magnification(perturbation: np.ndarray) -> int:
    """
    Choose how much to magnify a perturbation so that it is seen and hardly clipped.

    :param perturbation: Attacked minus clean image, pixels in [0, 1].
    :return: The largest power of two, at most 128, with which 95% of the values stay within mid-grey plus or minus
        0.26: 4 for a perturbation that is 16/255 everywhere, 8 at 8/255, 16 at 4/255. 1 for no perturbation.
    """
    sizes = np.abs(perturbation)
    # A perturbation of a few pixels is zero at most quantiles.
    size = float(np.quantile(sizes, 0.95)) or float(sizes.max())
    if size == 0:
        return 1
    return next((factor for factor in _FACTORS if factor * size <= _CONTRAST), 1)


def shots(panel: Panel) -> list[Shot]:
    """
    The four pictures of a panel.

    :param panel: The panel.
    :return: Clean, attacked, the perturbation magnified around mid-grey, purified.
    """
    perturbation = np.asarray(panel.adversarial, np.float64) - panel.clean
    largest, length = float(np.abs(perturbation).max()), float(np.linalg.norm(perturbation))
    factor = magnification(perturbation)
    return [
        Shot("Clean", panel.clean, panel.clean_prediction),
        Shot(f"After {attack_name(panel.attack)}", panel.adversarial, panel.adversarial_prediction),
        Shot(
            f"Perturbation ×{factor}" if largest else "Perturbation",
            0.5 + factor * perturbation,
            None,
            f"L∞ {255 * largest:.1f}/255 · L2 {length:.2f}" if largest else "none: the image is unchanged",
        ),
        Shot("Purified", panel.purified, panel.purified_prediction),
    ]


def story(panel: Panel) -> str:
    """
    What the three predictions of a panel mean together, for a reader who wonders.

    :param panel: The panel.
    :return: One sentence, and of an image that is wrong without an attack another.
    """
    attacked, purified = panel.adversarial_prediction.correct, panel.purified_prediction.correct
    through = panel.threat_model in ("query", "adaptive")
    if purified and attacked:
        said = "The attack fails, with and without the defence."
    elif purified:
        said = "Right behind the defence, wrong without it."
    elif not attacked:
        said = "Wrong behind the defence, too."
    elif through:
        said = (
            "Made for the defended classifier: it fools the classifier behind the defence, and not the one without it."
        )
    else:
        said = "The attack does not fool the classifier alone; what the defence makes of the image does."
    return said if panel.clean_prediction.correct else f"{said} The clean image is wrong already."


def data_uri(image: np.ndarray) -> str:
    """
    An image for a page that refers to nothing outside itself.

    :param image: (H, W, 3); cut to [0, 1] and reduced to 256 pixels.
    :return: A PNG up to 96 pixels a side, else a JPEG.
    """
    from PIL import Image

    picture = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    buffer = io.BytesIO()
    if max(picture.size) <= SMALL_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
        # Subsampled colour would blur the perturbation; optimize=True overflows Pillow's buffer on noise.
        picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
