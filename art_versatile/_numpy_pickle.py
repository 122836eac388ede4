"""Read a pickle of nested dictionaries of NumPy arrays without executing anything that it names."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._torch_file import BROKEN

__all__ = ["read_arrays"]

_KIND = "numpy.ndarray"


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An array as NumPy's pickles begin: without content, which comes with its size in the file's own bytes."""
    if kind != _KIND or shape != (0,):
        raise pickle.UnpicklingError(f"Expected arrays alone. Received a file that makes {kind} of shape {shape}.")
    return np.empty(0, np.int8)


_ADMITTED = {
    ("numpy", "ndarray"): _KIND,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,
}


class _Unpickler(pickle.Unpickler):
    """Admits what an array is rebuilt from; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"Expected arrays alone. Received a file that names {module}.{name}.")
        return _ADMITTED[module, name]


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """
    Read nested dictionaries of arrays.

    :param path: The file.
    :return: Names, joined by "/" -> float32 array, in the file's order.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If it holds or names anything but dictionaries and arrays of numbers.
    """

    def flat(value: Any, name: str) -> dict[str, np.ndarray]:
        if isinstance(value, dict):
            return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return {name.lstrip("/"): value.astype(np.float32)}
        raise ValueError(f"{name.lstrip('/') or 'the whole'} is {type(value).__name__}")

    try:
        return flat(_Unpickler(io.BytesIO(Path(path).read_bytes())).load(), "")
    except BROKEN as err:
        raise ValueError(f"Expected a pickle of dictionaries of arrays. Received {path}: {err}") from err
