"""Small things that many tests need: a classifier of 32x32 pictures and pictures for it."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Cores of its own for each worker: TensorFlow takes all that it sees, and two on the same ones slow each other.
    worker, workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[worker::workers] or cores)

import keras
import numpy as np
import pytest

CLASSES = 10


def make_tiny_model() -> keras.Model:
    """(N, 32, 32, 3) in [0, 1] -> (N, 10) logits; seeded; never trained, yet its answers differ and can be changed."""
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(3)]
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.Rescaling(2.0, -1.0)(image)
    x = keras.layers.Conv2D(8, 3, 2, "same", activation="relu", kernel_initializer=init[0], name="conv_1")(x)
    x = keras.layers.Conv2D(16, 3, 2, "same", activation="relu", kernel_initializer=init[1], name="conv_2")(x)
    x = keras.layers.AveragePooling2D(4)(x)
    x = keras.layers.Dense(CLASSES, kernel_initializer=init[2], name="dense")(keras.layers.Flatten()(x))
    # Logits as far apart as a trained classifier's.
    return keras.Model(image, keras.layers.Rescaling(40.0, name="logits")(x), name="tiny")


def make_tiny_classifier():
    from art_versatile.classifiers import wrap

    return wrap(make_tiny_model(), 32, CLASSES)


@pytest.fixture(scope="session")
def tiny_classifier():
    """An ART classifier with logits, 10 classes, ``clip_values=(0, 1)``. Leave it as it is."""
    return make_tiny_classifier()


@pytest.fixture(scope="session")
def tiny_images() -> np.ndarray:
    """(8, 32, 32, 3) float32 in [0, 1]: patches of random colours, which ``tiny_classifier`` tells apart."""
    rng = np.random.default_rng(0)
    patches = rng.uniform(0.05, 0.95, (8, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.clip(patches + rng.normal(0, 0.05, patches.shape), 0, 1).astype(np.float32)
    images.flags.writeable = False
    return images


@pytest.fixture(scope="session")
def tiny_labels(tiny_classifier, tiny_images) -> np.ndarray:
    """(8,) class indices, those that ``tiny_classifier`` answers."""
    return tiny_classifier.predict(tiny_images).argmax(1)


@pytest.fixture(scope="session")
def photographs():
    """ImageNet's (20, 224, 224, 3) of the package foolbox, and their class indices. Leave them as they are."""
    pytest.importorskip("foolbox")
    from art_versatile.images import demo_images

    return demo_images(20, 224)[:2]


@pytest.fixture(scope="session")
def any_size_classifier():
    """An ART classifier of images of any size, 10 classes, logits far apart. Leave it as it is."""
    from art_versatile.classifiers import wrap

    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(16, 5, 2, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1))(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(CLASSES, kernel_initializer=keras.initializers.HeNormal(seed=2))(x)
    return wrap(keras.Model(image, keras.layers.Rescaling(40.0)(x)), 32, CLASSES)
