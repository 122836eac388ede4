"""Images in tiles against the same images whole."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile import VersatilePurifier
from art_versatile.images import demo_images
from art_versatile.pix2pix import CompactGenerator, tiles


def generator(**options):
    """Not the identity: each weight is moved off its start."""
    made = CompactGenerator(**{"widths": (8, 16), "blocks": (1, 2), "output_noise": 0.05, "noise": 0.05, **options})
    rng = np.random.default_rng(0)
    made.set_weights([w + rng.normal(0, 0.1, w.shape) for w in made.get_weights()])
    return made


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of at most 256 x 256 from 128 x 128 pixels on."""
    monkeypatch.setattr(tiles, "PIXELS_AT_ONCE", 128 * 128)
    monkeypatch.setattr(tiles, "LARGEST_SIDE", 256)


def both(function, monkeypatch):
    """In tiles, then whole."""
    cut = function()
    monkeypatch.setattr(tiles, "PIXELS_AT_ONCE", 2**22)
    return cut, function()


@pytest.mark.parametrize("sides", [(301, 200), (64, 530), (1, 20000)])
@pytest.mark.parametrize(
    "options", [{}, {"widths": (8, 8, 8), "blocks": (1, 1, 1)}, {"widths": (8,), "blocks": (1,), "sigmas": (0, 6)}]
)
def test_what_a_network_without_encoder_answers_is_the_same(small_tiles, monkeypatch, sides, options):
    """Noise of the input and of the output has its phase, or a difference of 0.05 would be seen."""
    purifier = VersatilePurifier(generator(**options))
    x = np.random.default_rng(1).random((2, *sides, 3), np.float32)
    cut, whole = both(lambda: purifier(x)[0], monkeypatch)
    np.testing.assert_allclose(cut, whole, atol=2e-6)
    assert np.abs(whole - x).max() > 0.1


def test_so_is_the_gradient(small_tiles, monkeypatch):
    purifier = VersatilePurifier(generator())
    rng = np.random.default_rng(2)
    x, upstream = rng.random((1, 136, 150, 3), np.float32), rng.normal(size=(1, 136, 150, 3)).astype(np.float32)
    cut, whole = both(lambda: purifier.estimate_gradient(x, upstream), monkeypatch)
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    assert np.abs(whole).max() > 0.1


def test_inside_tf_function(small_tiles, monkeypatch):
    purifier = VersatilePurifier(generator())
    x = np.random.default_rng(3).random((1, 200, 210, 3), np.float32)
    for shape in ((1, 200, 210, 3), (None, None, None, 3)):
        traced = tf.function(lambda x: purifier.forward(x)[0], input_signature=[tf.TensorSpec(shape)])
        np.testing.assert_allclose(traced(x), purifier(x)[0], atol=2e-6)


def test_pixels_at_once(small_tiles):
    """However many images and however large, the generator sees a tile's worth; by its own means where it has none."""
    seen = []

    class Spy(keras.Model):
        def call(self, x, training=False):
            tf.py_function(lambda shape: seen.append(shape.numpy().tolist()), [tf.shape(x)], [])
            return x

    spy = Spy()
    spy.halo = 60
    x = np.random.default_rng(4).random((3, 64, 64, 3), np.float32)
    np.testing.assert_allclose(VersatilePurifier(spy)(x)[0], x, atol=1e-6)
    assert seen == [[3, 64, 64, 3]]
    seen.clear()
    x = np.random.default_rng(4).random((2, 300, 400, 3), np.float32)
    np.testing.assert_allclose(VersatilePurifier(spy)(x)[0], x, atol=1e-6)
    assert {shape[0] for shape in seen} == {1}
    assert max(max(shape) for shape in seen) <= 256
    del spy.halo
    seen.clear()
    VersatilePurifier(spy)(x)
    assert seen == [[1, 300, 400, 3]] * 2


def test_the_shipped_weights_to_within_one_level(monkeypatch):
    """Two photographs side by side and a perturbation, 512 x 768: every row and column of tiles of 128 x 128."""
    x = np.concatenate(list(demo_images(2, 512)[0]), axis=1)[None, :, :768]
    rng = np.random.default_rng(5)
    x = np.clip(x + 8 / 255 * np.sign(rng.normal(size=x.shape)), 0, 1).astype(np.float32)
    purifier = VersatilePurifier()
    assert purifier.generator.halo == 256
    monkeypatch.setattr(tiles, "PIXELS_AT_ONCE", 2**18)
    monkeypatch.setattr(tiles, "LARGEST_SIDE", 768)
    cut, whole = both(lambda: purifier(x)[0], monkeypatch)
    assert 0 < np.abs(cut - whole).max() < 0.5 / 255
