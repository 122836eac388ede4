"""Accuracy with its interval, and how far an image is from its original. NumPy, SciPy and scikit-image only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from art_versatile._checks import check_clip_values, check_images

__all__ = ["accuracy", "hits", "mae", "psnr", "ssim", "wilson_interval"]

# The Gaussian window of Wang et al. (2004): sigma 1.5 truncated at 3.5 sigma, 11 pixels.
_SSIM_WINDOW = 11


def _class_indices(values: Any, name: str) -> np.ndarray:
    values = np.asarray(values)
    expected = f"Expected {name} to be class indices (N,) or scores (N, classes)."
    if values.ndim == 2 and values.shape[0] > 0 and values.shape[1] > 1:
        if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or not np.isfinite(values).all():
            raise ValueError(f"{expected} Received NaN, infinity or no numbers (dtype {values.dtype}).")
        return values.argmax(axis=1)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{expected} Received shape {values.shape}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{expected} Received dtype {values.dtype}, shape {values.shape}.")
    return values


def hits(predictions: Any, labels: Any) -> np.ndarray:
    """
    Which images are classified right.

    :param predictions: Scores (N, classes), of which the largest counts, or class indices (N,).
    :param labels: One-hot labels (N, classes) or class indices (N,).
    :return: Boolean array (N,). The conjunction over several attacks is the worst case per sample.
    :raises ValueError: If they are neither scores nor class indices, or the numbers of images or classes differ.
    """
    predicted = _class_indices(predictions, "predictions")
    true = _class_indices(labels, "labels")
    if predicted.shape != true.shape:
        raise ValueError(f"Expected as many predictions as labels. Received {len(predicted)} and {len(true)}.")
    scores, one_hot = np.asarray(predictions), np.asarray(labels)
    if scores.ndim == one_hot.ndim == 2 and scores.shape != one_hot.shape:
        raise ValueError(
            f"Expected predictions and labels of as many classes. Received {scores.shape}, {one_hot.shape}."
        )
    return predicted == true


def accuracy(predictions: Any, labels: Any) -> float:
    """
    Share of images classified right.

    :param predictions: Scores (N, classes) or class indices (N,).
    :param labels: One-hot labels (N, classes) or class indices (N,).
    :return: Between 0 and 1.
    :raises ValueError: If they are neither scores nor class indices, or the numbers of images or classes differ.
    """
    return float(hits(predictions, labels).mean())


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """
    Wilson's score interval of a share (Wilson 1927), which stays inside [0, 1] and is usable at 0 of n.

    :param correct: Successes, 0 to n.
    :param n: Trials, at least 1.
    :param level: Confidence level, between 0 and 1.
    :return: (low, high), both between 0 and 1.
    :raises ValueError: If a count is no integer, ``correct`` is not from 0 to n, or the level not between 0 and 1.
    """
    for name, value in (("correct", correct), ("n", n)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"Expected {name} to be an integer. Received {value!r}.")
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"Expected n >= 1 and 0 <= correct <= n. Received correct={correct}, n={n}.")
    if not 0 < level < 1:
        raise ValueError(f"Expected level strictly between 0 and 1. Received {level!r}.")
    from scipy.stats import binomtest  # SciPy's statistics are slow to import

    interval = binomtest(int(correct), int(n)).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def _pairs(images: Any, reference: Any, clip_values: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Check a batch and its reference, and give them image by image in [0, 1] and float64.

    SSIM depends on where the range begins, so its width alone is not enough. One pair at a time: thousands of images
    in float64 would not fit into memory.
    """
    low, high = check_clip_values(clip_values)
    channels = np.shape(images)[-1] if np.ndim(images) == 4 else 3
    images = check_images(images, (low, high), channels=channels, name="images")
    reference = check_images(reference, (low, high), channels=channels, name="reference")
    if images.shape != reference.shape:
        raise ValueError(f"Expected images and reference of one shape. Received {images.shape} and {reference.shape}.")

    def unit(image: np.ndarray) -> np.ndarray:
        return (image.astype(np.float64) - low) / (high - low)

    return ((unit(image), unit(original)) for image, original in zip(images, reference, strict=True))


def psnr(images: Any, reference: Any, *, clip_values: Sequence[float] = (0.0, 1.0)) -> float:
    """
    Peak signal-to-noise ratio in dB, mean over the images.

    An image equal to its reference has an infinite ratio (an attack may leave an image as it is). One such image would
    make the mean infinite, so the mean is over the images that differ; it is infinite only if none differs.

    :param images: Images (N, H, W, C) in ``clip_values``.
    :param reference: The originals, of the same shape.
    :param clip_values: Range of the pixels; its width is the peak of the signal.
    :return: dB; ``math.inf`` where every image equals its reference.
    :raises ValueError: If the shapes differ or are none of images, or a value is not finite and in ``clip_values``.
    """
    from skimage.metrics import peak_signal_noise_ratio

    ratios = [
        peak_signal_noise_ratio(original, image, data_range=1.0)
        for image, original in _pairs(images, reference, clip_values)
        if not np.array_equal(image, original)
    ]
    return float(np.mean(ratios)) if ratios else math.inf


def mae(images: Any, reference: Any, *, clip_values: Sequence[float] = (0.0, 1.0)) -> float:
    """
    Mean absolute error as a share of the pixel range, so that it does not depend on ``clip_values``.

    :param images: Images (N, H, W, C) in ``clip_values``.
    :param reference: The originals, of the same shape.
    :param clip_values: Range of the pixels.
    :return: Between 0 (equal) and 1.
    :raises ValueError: If the shapes differ or are none of images, or a value is not finite and in ``clip_values``.
    """
    errors = [np.abs(image - original).mean() for image, original in _pairs(images, reference, clip_values)]
    return float(np.mean(errors))


def ssim(images: Any, reference: Any, *, clip_values: Sequence[float] = (0.0, 1.0)) -> float:
    """
    Structural similarity, mean over the images: Wang et al. (2004), its Gaussian window, channels averaged.

    :param images: Images (N, H, W, C) in ``clip_values``, at least 11 x 11 pixels.
    :param reference: The originals, of the same shape.
    :param clip_values: Range of the pixels.
    :return: At most 1 (equal).
    :raises ValueError: If the shapes differ or are none of images, or a value is not finite and in ``clip_values``.
    """
    from skimage.metrics import structural_similarity

    pairs = _pairs(images, reference, clip_values)
    if min(np.shape(images)[1:3]) < _SSIM_WINDOW:
        least = f"{_SSIM_WINDOW} x {_SSIM_WINDOW}"
        raise ValueError(f"Expected images of at least {least} pixels. Received shape {np.shape(images)}.")
    values = [
        structural_similarity(
            original,
            image,
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for image, original in pairs
    ]
    return float(np.mean(values))
