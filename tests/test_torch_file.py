"""Files in the format that torch.save wrote before 1.6, made by hand: five pickles, then the storages."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest

from art_versatile._torch_file import read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Storage:
    def __init__(self, values, kind="FloatStorage", key="0", *, size=None, view=None):
        self.values, self.kind, self.key, self.view = np.asarray(values, DTYPES[kind]).ravel(), kind, key, view
        self.size = self.values.size if size is None else size


class Tensor:
    def __init__(self, storage, shape, stride, offset=0):
        self.arguments = (storage, offset, tuple(shape), tuple(stride), False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


def tensor(values, kind="FloatStorage", key="0"):
    """A contiguous one over its own storage."""
    values = np.asarray(values, DTYPES[kind])
    stride = [s // values.itemsize for s in np.ascontiguousarray(values).strides] if values.ndim else []
    return Tensor(Storage(values, kind, key), values.shape, stride)


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        kind = getattr(sys.modules["torch"], item.kind)
        return ("storage", kind, item.key, "cpu", item.size, item.view)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a state dict; stubs stand for the torch names that such a file carries."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*_):
        raise NotImplementedError

    for module, name, item in [
        *((torch, kind, type(kind, (), {})) for kind in DTYPES),
        (torch, "Size", type("Size", (tuple,), {})),
        (utils, "_rebuild_tensor_v2", rebuild),
    ]:
        item.__module__, item.__name__, item.__qualname__ = module.__name__, name, name
        setattr(module, name, item)
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def write(state, storages=(), magic=MAGIC, keys=None, name="weights.pth"):
        file = io.BytesIO()
        for item in (magic, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}):
            pickle.dump(item, file, protocol=2)
        Pickler(file, protocol=2).dump(state)
        pickle.dump([s.key for s in storages] if keys is None else keys, file, protocol=2)
        for storage in storages:
            file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())
        path = tmp_path / name
        path.write_bytes(file.getvalue())
        return path

    return write


def storages_of(state):
    return list({t.arguments[0].key: t.arguments[0] for t in state.values()}.values())


def test_tensors_come_back_by_name_in_order(write):
    rng = np.random.default_rng(0)
    arrays = {"b.weight": rng.normal(size=(3, 2, 5)), "a.bias": rng.normal(size=4), "scalar": np.array(7.0)}
    state = OrderedDict((name, tensor(a, key=str(i))) for i, (name, a) in enumerate(arrays.items()))
    read = read_state_dict(write(state, storages_of(state)))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array.astype(np.float32), strict=True)
        assert read[name].flags.owndata
        assert read[name].flags.writeable


@pytest.mark.parametrize("kind", DTYPES)
def test_every_storage_type(write, kind):
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(DTYPES[kind])
    state = {"x": tensor(values, kind)}
    np.testing.assert_array_equal(read_state_dict(write(state, storages_of(state)))["x"], values, strict=True)


def test_views_share_a_storage(write):
    storage = Storage(np.arange(24))
    state = {
        "transposed": Tensor(storage, (4, 6), (1, 4)),
        "strided": Tensor(storage, (3, 2), (8, 2), offset=1),
        "expanded": Tensor(storage, (3, 2), (0, 1), offset=5),
        "empty": Tensor(storage, (0, 3), (3, 1)),
        "scalar": Tensor(storage, (), (), offset=23),
    }
    read = read_state_dict(write(state, [storage]))
    values = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(read["transposed"], values.reshape(6, 4).T)
    np.testing.assert_array_equal(read["strided"], [[1, 3], [9, 11], [17, 19]])
    np.testing.assert_array_equal(read["expanded"], [[5, 6]] * 3)
    assert read["empty"].shape == (0, 3)
    assert read["scalar"] == 23


def test_what_is_not_a_tensor_is_left_out(write):
    state = {"epoch": 3, "x": tensor([1.0, 2.0])}
    assert list(read_state_dict(write(state, [state["x"].arguments[0]]))) == ["x"]


def test_nothing_is_executed(write, tmp_path):
    evidence = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.system, (f"echo > {evidence}",)

    path = write({"x": Evil()})
    with pytest.raises(ValueError, match=rf"Received {re.escape(str(path))}: .* names {os.system.__module__}\.system"):
        read_state_dict(path)
    assert not evidence.exists()
    with path.open("rb") as file:  # the file does name it: an ordinary reader would have run it
        for _ in range(3):
            pickle.load(file)
        pickle.load(file)
    assert evidence.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "torch._utils._rebuild_tensor", "collections.Counter", "torch.Size"])
def test_every_other_name_is_refused(write, name):
    module, _, attribute = name.rpartition(".")
    path = write({})
    head = b"".join(pickle.dumps(item, protocol=2) for item in (MAGIC, 1001, {}))
    path.write_bytes(head + f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(ValueError, match=f"Expected a plain state dict. Received a file that names {name}"):
        read_state_dict(path)


def test_a_file_cut_short_anywhere_is_refused(write):
    state = {"x": tensor(np.arange(6.0)), "y": tensor(np.arange(3.0), key="1")}
    whole = write(state, storages_of(state))
    block = whole.read_bytes()
    for end in range(0, len(block), 7):
        whole.write_bytes(block[:end])
        with pytest.raises(ValueError, match=r"Expected a state dict saved by PyTorch before 1\.6\. Received"):
            read_state_dict(whole)
    whole.write_bytes(block[:-1])
    with pytest.raises(ValueError, match="storage 1 is cut short"):
        read_state_dict(whole)


def test_the_magic_number(write):
    with pytest.raises(ValueError, match="wrong magic number"):
        read_state_dict(write({}, magic=MAGIC + 1))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 the format since 1.6 is a zip", b"plain text", b"\x80\x02}."])
def test_other_formats(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected a state dict saved by PyTorch before 1\.6\. Received"):
        read_state_dict(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2, 3), (4, 1), 0),
        ((3,), (-1,), 5),
        ((3,), (1,), -1),
        ((100, 100), (0, 0), 0),
    ],
)
def test_a_view_outside_its_storage(write, shape, stride, offset):
    storage = Storage(np.arange(6))
    path = write({"x": Tensor(storage, shape, stride, offset)}, [storage])
    with pytest.raises(ValueError, match=r"Expected tensors inside their storage\. Received one that reaches outside"):
        read_state_dict(path)


def test_shape_and_stride_of_different_length(write):
    storage = Storage(np.arange(6))
    with pytest.raises(ValueError, match="Expected a state dict"):
        read_state_dict(write({"x": Tensor(storage, (2, 3), (1,))}, [storage]))


def test_a_storage_that_the_file_does_not_hold(write):
    state = {"x": tensor([1.0, 2.0])}
    with pytest.raises(ValueError, match="Expected tensors whose storage the file holds"):
        read_state_dict(write(state))


def test_a_storage_that_no_tensor_names(write):
    with pytest.raises(ValueError, match="Expected a state dict"):
        read_state_dict(write({}, [Storage([1.0])]))


@pytest.mark.parametrize("size", [3, 5, 2**60, -1])
def test_a_storage_of_another_size(write, size):
    """2^60 numbers are not allocated either."""
    storage = Storage(np.arange(4), size=size)
    with pytest.raises(ValueError, match="storage 0 is of another size"):
        read_state_dict(write({"x": Tensor(storage, (2,), (1,))}, [storage]))


def test_a_view_of_a_storage(write):
    storage = Storage(np.arange(4), view=("1", 0, 2))
    with pytest.raises(ValueError, match=r"Expected whole storages\. Received another persistent id"):
        read_state_dict(write({"x": Tensor(storage, (2,), (1,))}, [storage]))


def test_an_object_that_is_no_dictionary(write):
    with pytest.raises(ValueError, match="Expected a state dict"):
        read_state_dict(write([1, 2]))
