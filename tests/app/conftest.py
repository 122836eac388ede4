"""A classifier that FGSM fools through the finest stripes, and a purifier that wipes them out."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

NAMES = ("red", "green", "blue")
SIZE = 64


def make_striped_model() -> keras.Model:
    """
    (N, 64, 64, 3) in [0, 1] -> three logits: the mean of each colour, and how much of one pattern of two pixels.

    In a smooth picture there is no such pattern; FGSM at 8/255 adds 300 * 8/255 = 9.4 to a logit through it.
    """
    patterns = np.array([[[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]], np.float32)
    kernel = np.moveaxis(np.repeat(patterns[..., None], 3, axis=3), 0, 3) / 12  # (2, 2, colour, class)
    image = keras.Input((SIZE, SIZE, 3))
    fine = keras.layers.Conv2D(3, 2, 2, use_bias=False, name="fine")
    stripes = keras.layers.GlobalAveragePooling2D()(fine(image))
    colours = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Add()([300.0 * stripes, 30.0 * colours]))
    fine.set_weights([kernel])
    return model


def make_blur() -> keras.Model:
    """The mean of each two by two pixels: no stripe is left."""
    image = keras.Input((None, None, 3))
    blurred = keras.layers.UpSampling2D(2)(keras.layers.AveragePooling2D(2)(image))
    model = keras.Model(image, blurred, name="blur")
    model.size_multiple = 2
    return model


def make_bench():
    from art_versatile.app.service import Workbench
    from art_versatile.classifiers import wrap
    from art_versatile.purifier import VersatilePurifier

    return Workbench(
        {"striped": lambda: wrap(make_striped_model(), SIZE, 3)},
        {"blur": lambda: VersatilePurifier(make_blur(), batch_size=1)},
        class_names=NAMES,
    )


def smooth(colour: tuple[float, float, float], size: int = SIZE) -> np.ndarray:
    """(size, size, 3) of about one colour, a little brighter from left to right."""
    ramp = np.linspace(-0.05, 0.05, size, dtype=np.float32)[None, :, None]
    return np.clip(np.asarray(colour, np.float32) + ramp + np.zeros((size, size, 3), np.float32), 0, 1)


@pytest.fixture(scope="session")
def bench():
    return make_bench()


@pytest.fixture(scope="session")
def red() -> np.ndarray:
    return smooth((0.75, 0.5, 0.5))


@pytest.fixture(scope="session")
def red_file(tmp_path_factory, red):
    path = tmp_path_factory.mktemp("photographs") / "red.png"
    Image.fromarray((red * 255).round().astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def served():
    """Address of the app on a free port; it ends with the session."""
    pytest.importorskip("gradio")
    from art_versatile.app import launch
    from art_versatile.classifiers import wrap
    from art_versatile.purifier import VersatilePurifier

    classifier = wrap(make_striped_model(), SIZE, 3)
    page = launch(classifier, VersatilePurifier(make_blur(), batch_size=1), 0, class_names=NAMES, block=False)
    yield page.local_url.rstrip("/")
    page.close()
