from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from art_versatile._numpy_pickle import read_arrays


class Calls:
    """What a pickle is made to call when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "weights.ckpt"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=3))
        return path

    return write


def test_arrays_come_back_by_path_in_order(write):
    rng = np.random.default_rng(0)
    nested = {
        "b": {"kernel": rng.normal(size=(2, 3, 4)), "bias": rng.normal(size=4).astype(np.float16)},
        "a": np.ones(()),
    }
    read = read_arrays(str(write(nested)))
    assert list(read) == ["b/kernel", "b/bias", "a"]
    for name, array in (("b/kernel", nested["b"]["kernel"]), ("b/bias", nested["b"]["bias"]), ("a", nested["a"])):
        np.testing.assert_array_equal(read[name], array.astype(np.float32), strict=True)


@pytest.mark.parametrize(
    "content",
    [
        {"x": Calls(os.getcwd)},
        {"x": Calls(np.ndarray, (2**40,), "f4")},
        {"x": Calls(np.empty(0).__reduce__()[0], np.ndarray, (2**40,), b"b")},
        {"x": [np.ones(2)]},
        {"x": np.array([{}], object)},
        {"x": np.arange(3)},
        [1.0],
        b"",
        b"no pickle",
        pickle.dumps({"x": np.ones(9)}, protocol=3)[:-20],
    ],
    ids=["call", "huge", "huge array", "list", "objects", "integers", "no dictionary", "empty", "text", "cut short"],
)
def test_anything_else_is_refused(write, content):
    with pytest.raises(ValueError, match=r"Expected a pickle of dictionaries of arrays\. Received .*weights\.ckpt"):
        read_arrays(write(content))


def test_nothing_is_executed(write, tmp_path):
    with pytest.raises(ValueError, match="names posix.mkdir|names nt.mkdir"):
        read_arrays(write({"x": Calls(os.mkdir, str(tmp_path / "made"))}))
    assert not (tmp_path / "made").exists()
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.ckpt")
