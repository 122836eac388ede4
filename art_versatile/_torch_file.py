"""Read the tensors of a ``torch.save`` file without torch and without executing anything.

Only the format that PyTorch wrote before version 1.6 is read: five pickles (magic number, protocol version, system
information, the object, the storage keys) followed by the raw storages. The unpickler admits the four names that a
plain state dict needs and refuses every other one, so a crafted file cannot run code.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["BROKEN", "read_state_dict"]

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What reading a broken or a crafted pickle raises."""

_STORAGE_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _Storage:
    """A named block of memory, filled after the pickles have been read; nothing is allocated on a file's word."""

    def __init__(self, dtype: np.dtype, size: int) -> None:
        self.dtype, self.size = dtype, size
        self.data: np.ndarray | None = None


class _View:
    """A strided view into a storage (what torch calls a tensor)."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def numpy(self) -> np.ndarray:
        data = self.storage.data
        if data is None:
            raise ValueError("Expected tensors whose storage the file holds. Received one without.")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, data.dtype)
        if min((self.offset, *self.shape, *self.stride)) < 0 or last >= data.size or math.prod(self.shape) > data.size:
            raise ValueError("Expected tensors inside their storage. Received one that reaches outside it.")
        view = np.lib.stride_tricks.as_strided(
            data[self.offset :], self.shape, [s * data.itemsize for s in self.stride], writeable=False
        )
        return view.copy()


def _rebuild_tensor_v2(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> _View:
    return _View(storage, int(offset), tuple(int(n) for n in size), tuple(int(s) for s in stride))


class _Unpickler(pickle.Unpickler):
    """Admits ``OrderedDict``, ``_rebuild_tensor_v2`` and the storage types; refuses all else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor_v2
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"Expected a plain state dict. Received a file that names {module}.{name}.")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, size, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("Expected whole storages. Received another persistent id.")
        return self.storages.setdefault(str(key), _Storage(dtype, int(size)))


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """
    Read a state dict saved by PyTorch before version 1.6.

    :param path: The file.
    :return: Name -> array, in the file's order.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If the file is of another format, is cut short, or names anything but plain tensors.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            if _Unpickler(file).load() != _MAGIC_NUMBER:
                raise ValueError("wrong magic number")
            _Unpickler(file).load()  # protocol version
            _Unpickler(file).load()  # system information
            unpickler = _Unpickler(file)
            state = unpickler.load()
            for key in _Unpickler(file).load():
                storage = unpickler.storages[key]
                (size,) = struct.unpack("<q", file.read(8))
                if size != storage.size or not 0 <= size <= path.stat().st_size:
                    raise ValueError(f"storage {key} is of another size")
                block = file.read(size * storage.dtype.itemsize)
                if len(block) != size * storage.dtype.itemsize:
                    raise ValueError(f"storage {key} is cut short")
                storage.data = np.frombuffer(block, storage.dtype)
            return {str(name): view.numpy() for name, view in state.items() if isinstance(view, _View)}
        except BROKEN as err:
            raise ValueError(f"Expected a state dict saved by PyTorch before 1.6. Received {path}: {err}") from err
