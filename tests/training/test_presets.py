from __future__ import annotations

import dataclasses
import json
import re

import keras
import pytest

from art_versatile.pix2pix import PAPER_SCHEDULE, PerceptualLoss, build_generator, patchgan
from art_versatile.training import PRESETS, Preset


def test_the_paper():
    """What the paper states, and Pix2pix's own settings where it is silent (arXiv 1611.07004, section 3.3)."""
    paper = PRESETS["paper"]
    assert (paper.architecture, paper.discriminator, paper.features) == ("unet256", 64, "vgg19")
    assert paper.schedule is PAPER_SCHEDULE
    assert (paper.learning_rate, paper.decay, paper.beta_1, paper.batch_size) == (2e-4, "constant", 0.5, 1)
    assert (paper.clip_norm, paper.ema, paper.crop, paper.clean_share, paper.scale) == (None, None, None, 0, (1, 1))
    assert paper.whole == ()
    assert not paper.flip


def test_compact_leaves_the_perturbations_on_the_grid():
    compact = PRESETS["compact"]
    assert (compact.flip, compact.crop_step % 32) == (False, 0)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_can_be_built(name, tiny_classifier):
    preset = PRESETS[name]
    generator = build_generator(preset.architecture, **preset.generator_options)
    assert (preset.crop or 256) % generator.size_multiple == 0
    make = {
        "classifier": lambda **options: PerceptualLoss.of_classifier(tiny_classifier.model, **options),
        "vgg19": lambda **options: PerceptualLoss.vgg19(**{"weights": None, **options}),
    }[preset.features]
    assert make(**preset.features_options)
    assert patchgan(preset.discriminator)
    fields = {**vars(preset), "schedule": repr(preset.schedule)}
    assert json.loads(json.dumps(fields))["batch_size"] == preset.batch_size


def test_a_preset_is_a_value():
    preset = Preset("compact")
    assert preset == Preset("compact")
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.batch_size = 2
    assert dataclasses.replace(PRESETS["compact"], ema=None).ema is None


@pytest.mark.parametrize(
    "fields",
    [
        {"features": None},
        {"decay": "cosine"},
        {"decay": "cosine", "warmup": 3},
        {"beta_1": 0},
        {"clip_norm": None, "ema": None},
        {"clip_norm": 1},
        {"discriminator": None},
        {"discriminator": keras.Sequential()},
        {"crop": (8, 16)},
        {"real_label": 0.9, "r1": 2.5},
    ],
)
def test_what_may_be(fields):
    preset = Preset("compact", **fields)
    for name, value in fields.items():
        assert getattr(preset, name) is value


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"schedule": [(1, 2, 3)]}, TypeError, "Expected schedule to be a LossSchedule. Received [(1, 2, 3)]."),
        ({"features": "none"}, ValueError, "Expected features to be 'vgg19', 'classifier' or None. Received 'none'."),
        ({"decay": "linear"}, ValueError, "Expected decay to be one of ['constant', 'cosine']. Received 'linear'."),
        ({"warmup": 3}, ValueError, "Expected decay='cosine' with warmup. Received decay='constant'."),
        ({"decay": "cosine", "warmup": -1}, ValueError, "Expected warmup to be an integer of at least 0. Received -1."),
        ({"learning_rate": 0}, ValueError, "Expected learning_rate above 0 and below inf. Received 0."),
        ({"learning_rate": None}, ValueError, "Expected learning_rate above 0 and below inf. Received None."),
        ({"learning_rate": float("nan")}, ValueError, "Expected learning_rate above 0 and below inf. Received nan."),
        ({"clip_norm": -1.0}, ValueError, "Expected clip_norm above 0 and below inf. Received -1.0."),
        ({"ema": 1}, ValueError, "Expected ema above 0 and below 1. Received 1."),
        ({"ema": "0.9"}, ValueError, "Expected ema above 0 and below 1. Received '0.9'."),
        ({"batch_size": 0}, ValueError, "Expected batch_size to be an integer of at least 1. Received 0."),
        ({"crop_step": 0}, ValueError, "Expected crop_step to be an integer of at least 1. Received 0."),
        ({"flip": 1}, ValueError, "Expected flip to be True or False. Received 1."),
        ({"scale": (1.0, 0.5)}, ValueError, "Expected scale to be two finite numbers"),
        ({"clean_share": 2}, ValueError, "Expected clean_share to be a number from 0 to 1. Received 2."),
        ({"real_label": 1.5}, ValueError, "Expected real_label to be a number from 0.5 to 1. Received 1.5."),
        ({"r1": -1}, ValueError, "Expected r1 to be a number from 0 to 1e+06. Received -1."),
        ({"beta_1": 1.0}, ValueError, "Expected beta_1 from 0 on and below 1. Received 1.0."),
    ],
)
def test_what_may_not_be(fields, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Preset("compact", **fields)
