"""Training on what is made while training, from classifiers in .keras files and photographs on disk."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from art_versatile.classifiers import load_classifier
from art_versatile.experiments.fresh_training import (
    feature_network,
    fresh_training,
    perceptual_loss_of_several,
)
from art_versatile.pairs.fresh import Recipe
from art_versatile.pix2pix import LossSchedule
from art_versatile.training import Preset
from art_versatile.training.inner import inner_source

SMALL = Preset(
    "compact", {"widths": (4,), "blocks": (1,), "factor": 2}, discriminator=None, features="classifier", batch_size=4,
    schedule=LossSchedule([(1, 1.0, 1.0)]), clean_share=0.5, crop=16,
)  # fmt: skip
DRAWN = {"sides": (32, 40), "round_images": 8, "reuse": 2, "iterations": (2, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(base / f"{number}.png")
    return base


@pytest.fixture(scope="module")
def classifiers(any_size_classifier, tmp_path_factory):
    base = tmp_path_factory.mktemp("classifiers")
    found = {}
    for name in ("one", "two"):
        any_size_classifier.model.save(base / f"{name}.keras")
        found[name] = load_classifier(base / f"{name}.keras", 40).model
    return found


@pytest.fixture(scope="module")
def network():
    """Layers named as AlexNet's are."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", name="relu_0")(image)
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", name="relu_1")(keras.layers.MaxPooling2D(2)(x))
    return keras.Model(image, x, name="features")


def train(folder, classifiers, **arguments):
    arguments = {"preset": SMALL, "recipe": Recipe(**DRAWN), "epoch_pairs": 8, "verbose": False, **arguments}
    return fresh_training([folder], classifiers, **arguments)


def test_fresh_pairs(folder, classifiers, network, tmp_path):
    found = train(folder, classifiers, out=tmp_path / "run", networks={"alexnet": network})
    (row,) = found.history
    assert np.isfinite([row["pixel"], row["perceptual"]]).all()
    # Pairs are as they are drawn.
    facts = found.parameters
    assert (facts["crop"], facts["flip"], facts["clean_share"], facts["scale"]) == (None, False, 0.0, [1.0, 1.0])
    assert (facts["pairs"], facts["inner"]) == (8, None)
    assert (tmp_path / "run" / "last" / "card.json").is_file()


@pytest.mark.parametrize("name", ["fgsm", "free", "gaussian"])
def test_inside_the_step(folder, classifiers, name):
    source = inner_source(name, list(classifiers.values()), eps=2 / 255, replay=2, sigma=0.1)
    found = train(folder, classifiers, inner=source)
    assert found.parameters["inner"]["class"] == source.identity["class"]
    assert np.isfinite(found.history[0]["pixel"])


def test_a_start_with_pixels_alone(folder, classifiers, tmp_path):
    """It is the run that one makes by hand before the other; ended early, the other does not begin, and it goes on."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    arguments = {"inner": inner_source("gaussian", [], sigma=0.1), "out": tmp_path / "run", "pixel_start": 2}
    classifiers = {"one": classifiers["one"]}
    early = train(folder, classifiers, **arguments, callbacks=[Stop()])
    assert len(early.history) == 1
    assert not (tmp_path / "run" / "last").exists()
    found = train(folder, classifiers, **arguments, resume=True)
    plain = {"schedule": LossSchedule([(2, 1.0, 0.0)]), "discriminator": None, "features": None}
    alone = train(folder, classifiers, inner=arguments["inner"], preset=replace(SMALL, **plain))
    by_hand = train(folder, classifiers, inner=arguments["inner"], generator=alone.generator)
    assert found.history == by_hand.history
    for a, b in zip(found.generator.get_weights(), by_hand.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_inner_sources(classifiers):
    models = list(classifiers.values())
    assert inner_source("fgsm", models, eps=0.1, steps=5).steps == 1
    assert inner_source("pgd", models, eps=0.1, steps=5).steps == 5
    assert inner_source("free", models, replay=3).replay == 3
    assert inner_source("gaussian", models, sigma=0.5).sigma == 0.5


def test_the_loss_draws_one_network(classifiers, network):
    """At each call the value is that of one network's own loss."""
    loss = perceptual_loss_of_several(list(classifiers.values())[:1], [network], seed=0)
    assert loss.losses[1].layers == {"relu_0": 0.6, "relu_1": 0.6}
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 2, 32, 32, 3)).astype(np.float32)
    own = [float(part(a, b)) for part in loss.losses]
    drawn = [float(loss(a, b)) for _ in range(12)]
    assert {round(value, 4) for value in drawn} == {round(value, 4) for value in own}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda c: inner_source("cw", list(c.values())), "inner"),
        (lambda c: inner_source("free", list(c.values()), replay=1), "replay"),
        (lambda c: feature_network("vgg19", "x"), "feature network"),
        (lambda c: feature_network("vgg16", "missing.ckpt"), "vgg16"),
        (lambda c: fresh_training(["missing"], c), "image"),
    ],
)
def test_refused(classifiers, make, name):
    with pytest.raises((ValueError, FileNotFoundError), match=f"Expected .*{name}"):
        make(classifiers)


def test_a_classifier_of_one_size(folder, tiny_classifier):
    with pytest.raises(ValueError, match=r"Expected sides \(32,\)"):
        train(folder, {"tiny": tiny_classifier.model})
