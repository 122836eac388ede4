"""Values of a record: checked, and made plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from art_versatile._checks import check_number

__all__ = ["LARGEST", "above_zero", "list_of", "mapping_of", "norm_name", "plain_json", "text_of"]

#: Of times and budgets; JSON has no infinity.
LARGEST = 1e12


def plain_json(value: Any, name: str) -> Any:
    """Plain JSON values, keys sorted: what is compared, hashed and written is then one and the same."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError(f"Expected {name} without NaN. Received NaN.")
        # JSON has no infinity; ART's norm=np.inf is a usual parameter.
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"Expected {name} to have strings as keys. Received {key!r}.")
        return {key: plain_json(value[key], f"{name}[{key!r}]") for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [plain_json(item, name) for item in value]
    raise ValueError(f"Expected {name} to be JSON values. Received {type(value).__name__}.")


def mapping_of(name: str, value: Any) -> dict[str, Any]:
    """A dictionary of plain JSON."""
    if not isinstance(value, Mapping):
        raise ValueError(f"Expected {name} to be a dictionary. Received {value!r}.")
    return plain_json(value, name)


def text_of(name: str, value: Any) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"Expected {name} to be a non-empty string. Received {value!r}.")
    return value


def list_of(name: str, value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"Expected {name} to be a list. Received {value!r}.")
    return list(value)


def norm_name(value: Any) -> Any:
    """The name of a norm that is given as a number; anything else as it is."""
    if isinstance(value, int | float | np.generic) and not isinstance(value, bool):
        return "inf" if value == math.inf else f"{value:g}"
    return value


def above_zero(name: str, value: Any) -> float:
    """A number above 0."""
    if check_number(name, value, 0, LARGEST) == 0:
        raise ValueError(f"Expected {name} to be above 0, or None. Received {value!r}.")
    return float(value)
