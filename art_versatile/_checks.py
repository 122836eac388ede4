"""Checks of what a user passes in, shared by every preprocessor. Each message says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "check_batch_size",
    "check_bool",
    "check_choice",
    "check_classifier",
    "check_clip_values",
    "check_images",
    "check_integer",
    "check_number",
    "check_output_size",
    "check_pair",
    "check_positive",
    "pixel_range",
]


def check_clip_values(clip_values: Sequence[float]) -> tuple[float, float]:
    """
    Check a (minimum, maximum) pair.

    :param clip_values: Two finite numbers, the first below the second.
    :return: The pair as floats.
    :raises ValueError: If it is anything else.
    """
    message = "Expected clip_values to be two finite numbers (minimum, maximum) with minimum < maximum."
    try:
        low, high = (float(value) for value in clip_values)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{message} Received {clip_values!r}.") from err
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"{message} Received {clip_values!r}.")
    return low, high


def check_batch_size(batch_size: Any) -> int:
    """
    Check a batch size.

    :param batch_size: An integer of at least 1.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    return check_integer("batch_size", batch_size)


def check_integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """
    Check an integer.

    :param name: Its name, for the message.
    :param value: An integer of at least ``least``, of Python or NumPy.
    :param least: The smallest one allowed.
    :param most: The largest one allowed, or None.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"Expected {name} to be an integer {allowed}. Received {value!r}.")
    return int(value)


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """
    Check two integers of at least 1.

    :param name: Their name, for the message.
    :param value: A list or tuple of them.
    :return: They.
    :raises ValueError: If it is anything else.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"Expected {name} to be two integers. Received {value!r}.")
    first, second = (check_integer(name, number) for number in value)
    return first, second


def check_output_size(value: Any) -> Any:
    """
    Check what a defence that enlarges images gives in the end.

    :param value: None, "input", an integer of at least 1, or two of them (height, width).
    :return: It.
    :raises ValueError: If it is anything else.
    """
    if isinstance(value, str):
        return check_choice("output_size", value, ("input",))
    if isinstance(value, list | tuple):
        return check_pair("output_size", value)
    return None if value is None else check_integer("output_size", value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """
    Check a number.

    :param name: Its name, for the message.
    :param value: A number from ``low`` to ``high``, of Python or NumPy.
    :param low: The smallest one allowed.
    :param high: The largest one allowed.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"Expected {name} to be a number from {low:g} to {high:g}. Received {value!r}.")
    return float(value)


def check_positive(name: str, value: Any, most: float = np.inf) -> float:
    """
    Check a positive, finite number.

    :param name: Its name, for the message.
    :param value: A number above 0 and at most ``most``, of Python or NumPy.
    :param most: The largest one allowed.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    if not _is_number(value) or not 0 < value <= most or not np.isfinite(value):
        wanted = "a positive finite number" if np.isinf(most) else f"a number above 0 and at most {most:g}"
        raise ValueError(f"Expected {name} to be {wanted}. Received {value!r}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_bool(name: str, value: Any) -> bool:
    """
    Check a flag.

    :param name: Its name, for the message.
    :param value: True or False.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"Expected {name} to be True or False. Received {value!r}.")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """
    Check a named choice.

    :param name: Its name, for the message.
    :param value: One of the choices.
    :param choices: The choices.
    :return: It.
    :raises ValueError: If it is none of them.
    """
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {list(choices)}. Received {value!r}.")
    return value


def check_classifier(classifier: Any) -> None:
    """
    Check the kind of a classifier.

    :param classifier: An ART classifier.
    :raises TypeError: If it is none, as an object detector.
    """
    if not callable(getattr(classifier, "predict", None)) or not hasattr(classifier, "nb_classes"):
        raise TypeError(f"Expected classifier to be an ART classifier. Received {type(classifier).__name__}.")


def check_images(
    x: Any,
    clip_values: tuple[float, float] | None = None,
    *,
    channels_first: bool = False,
    channels: int = 3,
    name: str = "x",
) -> np.ndarray:
    """
    Check a batch of images.

    :param x: Array (N, H, W, C), or (N, C, H, W) with ``channels_first``, of floats, finite, inside
        ``clip_values``.
    :param clip_values: Range of the pixels; None leaves the range unchecked.
    :param channels_first: Where the channel axis is.
    :param channels: Number of channels expected.
    :param name: What the message calls the array.
    :return: The array, unchanged.
    :raises ValueError: If rank, channels, size or values are others.
    :raises TypeError: If the values are not floats.
    """
    x = np.asarray(x)
    layout = "(N, 3, H, W)" if channels_first else "(N, H, W, 3)"
    layout = layout.replace("3", str(channels))
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"Expected {name} to be an array of floats, {layout}. Received dtype {x.dtype}.")
    if x.ndim != 4:
        raise ValueError(f"Expected {name} to be a batch of images {layout}. Received shape {x.shape}.")
    if x.shape[1 if channels_first else 3] != channels:
        raise ValueError(f"Expected {name} to have {channels} channels, {layout}. Received shape {x.shape}.")
    if 0 in x.shape:
        raise ValueError(f"Expected {name} to hold at least one image and one pixel. Received shape {x.shape}.")
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"Expected {name} to be finite. Received NaN or infinity.")
    if clip_values is not None:
        # Attacks overshoot by a rounding error; a picture in [0, 255] given as [0, 1] overshoots by far more.
        slack = 1e-4 * (clip_values[1] - clip_values[0])
        if low < clip_values[0] - slack or high > clip_values[1] + slack:
            raise ValueError(
                f"Expected {name} inside clip_values {clip_values}. Received values from {low:.6g} to {high:.6g}."
            )
    return x


def pixel_range(classifier: Any) -> tuple[float, float]:
    """
    The range of a classifier's pixels, one for all channels.

    :param classifier: An ART classifier; its ``clip_values`` are two numbers or two arrays of equal numbers.
    :return: Minimum and maximum.
    :raises ValueError: If it has no ``clip_values``, or several ranges.
    """
    if getattr(classifier, "clip_values", None) is None:
        raise ValueError("Expected an ART classifier with clip_values. Received one without.")
    return _one_range(classifier.clip_values)


def _one_range(clip_values: Any) -> tuple[float, float]:
    bounds = [np.unique(bound) for bound in clip_values]
    if [len(bound) for bound in bounds] != [1, 1]:
        received = [np.asarray(bound).tolist() for bound in clip_values]
        raise ValueError(f"Expected clip_values of one range for all channels. Received {received}.")
    return check_clip_values((bounds[0][0], bounds[1][0]))
