from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pix2pix import CompactGenerator, UNet256Generator, patchgan, precision
from art_versatile.pix2pix.precision import POLICIES, built_in_float32, computed_in, set_precision


def compact():
    generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), factor=2, noise=0.05)
    rng = np.random.default_rng(0)
    generator.set_weights([w + 0.02 * rng.standard_normal(w.shape) for w in generator.get_weights()])
    return generator


def image(size=32):
    return tf.constant(np.random.default_rng(1).random((2, size, size, 3), np.float32))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", [compact, lambda: UNet256Generator(filters=2), lambda: patchgan(4)])
def test_layers(make, policy):
    network = make()
    set_precision(network, policy)
    half = policy.removeprefix("mixed_")
    dtypes = {layer.name: layer.compute_dtype for layer in network.layers if layer.weights or layer.name == "purified"}
    assert {name for name, dtype in dtypes.items() if dtype == "float32"} == {"purified", "output", "logits"} & set(
        dtypes
    )
    assert set(dtypes.values()) == {"float32", half}
    assert {w.dtype for w in network.weights if "seed" not in w.path} == {"float32"}
    assert network.outputs[0].dtype == "float32"


@pytest.fixture
def global_policy():
    """Sets Keras's global policy, until the end of the test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", [compact, lambda: UNet256Generator(filters=2), lambda: patchgan(4)])
def test_built_under_a_mixed_global_policy(make, policy, global_policy):
    """As one that was set to it."""
    expected = make()
    set_precision(expected, policy)
    global_policy(policy)
    network = make()
    for layer, other in zip(network.layers, expected.layers, strict=True):
        assert layer.dtype_policy.name == other.dtype_policy.name or isinstance(layer, keras.layers.InputLayer)
    x = image(256 if "unet" in network.name else 32)
    x = [x, x] if network.name == "patchgan" else x
    assert network(x).dtype == tf.float32
    np.testing.assert_allclose(network(x), expected(x), atol=1e-3)


def test_built_under_another_global_policy(global_policy):
    global_policy("float64")
    assert {w.dtype for w in patchgan(2).weights} == {"float64"}


def test_built_in_float32(global_policy):
    global_policy("mixed_bfloat16")
    with contextlib.suppress(KeyError), built_in_float32():
        inside = keras.layers.Dense(1)
        raise KeyError
    assert inside.compute_dtype == "float32"
    assert keras.layers.Dense(1).compute_dtype == "bfloat16"


@pytest.mark.parametrize(("policy", "error"), [("mixed_bfloat16", 2e-2), ("mixed_float16", 3e-3)])
def test_the_answer_is_nearly_the_same_and_comes_back(policy, error):
    generator, x = compact(), image()
    expected = generator(x).numpy()
    weights = generator.get_weights()
    set_precision(generator, policy)
    got = generator(x)
    assert got.dtype == tf.float32
    difference = np.abs(got - expected).max()
    assert 0 < difference < error
    set_precision(generator, "float32")
    np.testing.assert_array_equal(generator(x), expected)
    for a, b in zip(weights, generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pixels_pass_in_full():
    """The untrained compact generator without noise mixes low-pass versions of the image: no half precision there."""
    generator = CompactGenerator(widths=(8,), blocks=(1,), factor=2, sigmas=(0.0,), noise=0.0)
    x = image()
    set_precision(generator, "mixed_bfloat16")
    np.testing.assert_allclose(generator(x), x, atol=1e-6)


def test_a_network_inside_a_network():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")], name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1, name="last")])
    set_precision(outer, "mixed_bfloat16")
    assert inner.get_layer("dense").compute_dtype == outer.get_layer("last").compute_dtype == "bfloat16"
    outer.full_precision = ("inner",)
    set_precision(outer, "mixed_bfloat16")
    assert inner.get_layer("dense").compute_dtype == "float32"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(precision, "gpu_is_used", lambda: True)


def computed(layers):
    return {layer.name: layer.compute_dtype for layer in layers if layer.weights}


class TestByDevice:
    """A frozen encoder follows on a GPU; a CPU is slow in it. Its first convolution sees pixels."""

    @pytest.fixture
    def generator(self):
        options = {"widths": (8, 8), "blocks": (1, 1), "encoder": "efficientnet_lite0", "encoder_weights": None}
        return CompactGenerator(**options)

    def test_on_a_cpu(self, generator):
        set_precision(generator, "mixed_bfloat16")
        assert set(computed(generator.get_layer("encoder").layers).values()) == {"float32"}

    def test_on_a_gpu(self, gpu, generator):
        x, expected = image(), generator(image()).numpy()
        set_precision(generator, "mixed_bfloat16")
        inside = computed(generator.get_layer("encoder").layers)
        assert next(iter(inside.values())) == "float32"
        assert set(list(inside.values())[1:]) == {"bfloat16"}
        assert generator(x).dtype == tf.float32
        np.testing.assert_allclose(generator(x), expected, atol=2e-2)

    def test_up_to_the_first_weights(self):
        layers = keras.layers
        inner = keras.Sequential([keras.Input((8, 8, 3)), layers.ReLU(name="a"), layers.Conv2D(2, 1, name="b"),
                                  layers.Conv2D(2, 1, name="c")])  # fmt: skip
        outer = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(2.0, name="s"), inner, layers.Flatten()])
        assert [layer.name for layer in precision.seeing_pixels(outer)] == ["s", "a", "b"]
        with computed_in(outer, "mixed_float16", from_pixels=True):
            inside = {layer.name: layer.compute_dtype for layer in [*outer.layers, *inner.layers]}
        assert {name for name, dtype in inside.items() if dtype == "float32"} >= {"s", "a", "b"}
        assert (inside["c"], inside[outer.layers[-1].name]) == ("float16", "float16")
        assert {layer.compute_dtype for layer in [*outer.layers, *inner.layers]} == {"float32"}


def test_policy():
    assert POLICIES == ("float32", "mixed_bfloat16", "mixed_float16")
    with pytest.raises(ValueError, match=r"Expected policy to be one of \['float32', .*\]\. Received 'float16'\."):
        set_precision(compact(), "float16")
