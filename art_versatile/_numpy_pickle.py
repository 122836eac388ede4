"""Read a pickle of nested dictionaries of NumPy arrays without executing anything that it names."""

from __future__ import annotations

import importlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_arrays"]

_RECONSTRUCT = importlib.import_module(
    "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core.multiarray"
)._reconstruct
_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}
_BROKEN = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


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
    except _BROKEN as err:
        raise ValueError(f"Expected a pickle of dictionaries of arrays. Received {path}: {err}") from err
