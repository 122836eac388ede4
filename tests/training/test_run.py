from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from art_versatile import PAPER_SCHEDULE, LossSchedule, VersatilePurifier
from art_versatile.pairs import MemoryPairs
from art_versatile.pix2pix import CompactGenerator, PerceptualLoss, Pix2Pix, patchgan
from art_versatile.pix2pix.efficientnet import efficientnet_lite_model
from art_versatile.pix2pix.perceptual import RandomPerceptualLoss
from art_versatile.training import PRESETS, Training, Validation, new_generator, perceptual_loss, train

SCRIPT = Path(__file__).parent / "process.py"
_spec = importlib.util.spec_from_file_location("training_process", SCRIPT)
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)
run, STEPS, PRESET = process.run, process.STEPS, process.PRESET

# Nothing but the pixel loss: compiled in a second.
PLAIN = {"features": None, "discriminator": None}
SMALL_ENCODED = {"widths": (8, 8), "blocks": (1, 1), "encoder": "efficientnet_lite0"}
ONE_STEP = {"schedule": LossSchedule([(1, 10.0, 1.0)]), "steps_per_epoch": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return process.make_store(tmp_path_factory.mktemp("training") / "store")


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """An uninterrupted run of everything: its result, its folder and the state that it ended in."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(store, folder, validation=validation()), folder, state(folder)


@pytest.fixture(scope="module")
def plain(store):
    """An uninterrupted run of the generator alone."""
    return run(store, None, **PLAIN)


def state(folder):
    """All variables of the newest checkpoint, by their names there."""
    latest = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    reader = tf.train.load_checkpoint(latest)
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("variables")]
    assert len(names) > 20
    return {name: reader.get_tensor(name) for name in names}


def assert_same_end(folder, result, whole):
    """Networks, averages, optimizers, seeds and history, bit by bit."""
    expected, _, want = whole
    got = state(folder)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    for a, b in zip(result.generator.get_weights(), expected.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [{k: v for k, v in row.items() if not k.startswith("val_")} for row in expected.history]
    assert [{k: v for k, v in row.items() if not k.startswith("val_")} for row in result.history] == losses


def brightness(images):
    """A classifier of four classes."""
    level = images.mean(axis=(1, 2, 3))
    return -np.abs(level[:, None] - np.linspace(0.4, 0.6, 4))


def validation(**changes):
    labels = brightness(process.arrays().clean).argmax(axis=1)
    return Validation(process.arrays(labels=labels), brightness, **changes)


def tiny_features():
    image = keras.Input((None, None, 3))
    kernel = keras.initializers.GlorotUniform(seed=4)
    return keras.Model(image, keras.layers.Conv2D(2, 3, kernel_initializer=kernel, name="f")(image), name="other")


class Raise(keras.callbacks.Callback):
    """Stands for anything that ends a run at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            raise KeyboardInterrupt


class Poison(keras.callbacks.Callback):
    """Makes the loss NaN from an epoch on."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._epoch:
            self.model.pixel_weight.assign(np.nan)


class Look(keras.callbacks.Callback):
    """Notes something at the beginning of each step."""

    def __init__(self, look):
        super().__init__()
        self.seen, self._look = [], look

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(self._look(self.model))


class TestRun:
    def test_folder(self, whole):
        result, folder, _ = whole
        assert sorted(f.name for f in folder.iterdir()) == [
            "best", "checkpoints", "curves.png", "last", "log.csv", "panel.png",
        ]  # fmt: skip
        assert not [f for f in folder.rglob("*") if f.name.endswith(".tmp")]
        with (folder / "log.csv").open() as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        assert rows == result.history
        assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
        losses = {"loss", "pixel", "perceptual", "adversarial", "discriminator"}
        measures = {"val_clean_accuracy", "val_recovered_accuracy", "val_psnr", "val_accuracy/A", "val_accuracy/B"}
        assert set(rows[0]) == {"epoch", "learning_rate"} | losses | measures
        # Cosine decay to 2%, read after the epoch's last step.
        rates = [3e-3 * (0.98 * (1 + np.cos(np.pi * k / 4)) / 2 + 0.02) for k in range(1, 5)]
        np.testing.assert_allclose([row["learning_rate"] for row in rows], rates, rtol=1e-5)
        assert rows[-1]["pixel"] < rows[0]["pixel"]

    def test_the_total_follows_the_schedule(self, whole):
        for row in whole[0].history:
            pixel, perceptual = PRESET.schedule(int(row["epoch"]))
            expected = pixel * row["pixel"] + perceptual * row["perceptual"] + row["adversarial"]
            assert row["loss"] == pytest.approx(expected, rel=1e-4)

    def test_weights_load_as_purifiers(self, whole):
        result, folder, _ = whole
        x = process.arrays().adversarial
        last = VersatilePurifier.from_pretrained(folder / "last")
        np.testing.assert_allclose(last(x)[0], VersatilePurifier(result.generator)(x)[0], atol=1e-6)
        best = VersatilePurifier.from_pretrained(folder / "best")
        accuracies = [row["val_recovered_accuracy"] for row in result.history]
        assert best.card["epoch"] == result.history[int(np.argmax(accuracies))]
        assert last.card["epoch"] == result.history[-1]
        right = brightness(best(x)[0]).argmax(1) == brightness(process.arrays().clean).argmax(1)
        assert right.mean() == max(accuracies)

    def test_card_states_what_was_trained_how(self, whole, store):
        result, folder, _ = whole
        facts = json.loads((folder / "last" / "card.json").read_text())["training"]
        assert facts == result.parameters
        assert (facts["seed"], facts["pairs"], facts["steps_per_epoch"], facts["precision"]) == (5, 16, 4, "float32")
        assert facts["schedule"] == [[2, 10.0, 2.0], [2, 5.0, 0.5]]
        assert facts["architecture"] == "compact"
        assert facts["generator_options"] == result.generator.get_config()
        assert facts["generator_options"]["noise"] == 0.1
        assert len(facts["pairs_sha256"]) == 64

    def test_panel_is_of_the_last_generator(self, whole):
        result, folder, _ = whole
        pairs = process.arrays()
        rows = np.linspace(0, 15, 6).astype(int)
        with Image.open(folder / "panel.png") as picture:
            pixels = np.asarray(picture) / 255
        assert pixels.shape == (4 * 24, 6 * 24, 3)
        purified = result.generator(pairs.adversarial[rows], training=False).numpy()
        for place, images in enumerate([pairs.adversarial[rows], purified, pairs.clean[rows]]):
            expected = np.concatenate(list(images), axis=1)
            np.testing.assert_allclose(pixels[24 * place : 24 * place + 24], expected, atol=0.5 / 255 + 1e-5)

    def test_the_history_states_the_accuracy_of_the_result(self, whole):
        result = whole[0]
        pairs = process.arrays()
        for key, images in (("val_recovered_accuracy", pairs.adversarial), ("val_clean_accuracy", pairs.clean)):
            answers = brightness(result.generator(images, training=False).numpy()).argmax(1)
            assert result.history[-1][key] == (answers == brightness(pairs.clean).argmax(1)).mean()

    def test_the_same_seed_gives_the_same_weights(self, whole, store):
        again = run(store, None)  # writing and measuring change nothing
        for a, b in zip(again.generator.get_weights(), whole[0].generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert set(again.history[0]) == set(whole[0].history[0]) - set(validation().measures)

    def test_paper_schedule_at_each_boundary(self, store):
        """Section 3.2: epochs 0-39 (100, 100), 40-69 (100, 50), 70-99 (100, 1)."""
        look = Look(lambda model: (float(model.pixel_weight.numpy()), float(model.perceptual_weight.numpy())))
        result = run(store, None, schedule=PAPER_SCHEDULE, steps_per_epoch=1, callbacks=[look], **PLAIN)
        assert look.seen == [(100.0, 100.0)] * 40 + [(100.0, 50.0)] * 30 + [(100.0, 1.0)] * 30
        assert len(result.history) == 100

    def test_an_epoch_is_a_pass_by_default(self, store):
        look = Look(lambda model: None)
        run(store, None, steps_per_epoch=None, schedule=LossSchedule([(2, 1.0, 1.0)]), callbacks=[look], **PLAIN)
        assert len(look.seen) == 2 * 6

    @pytest.mark.parametrize("clip_values", [(0.0, 255.0), (-1.0, 1.0)])
    def test_range_of_the_pixels(self, clip_values):
        low, high = clip_values
        pairs = process.arrays()
        scaled = [images * (high - low) + low for images in (pairs.adversarial, pairs.clean)]
        expected = run(pairs, None, steps_per_epoch=2, **PLAIN)
        got = run(MemoryPairs(*scaled, clip_values=clip_values), None, steps_per_epoch=2, **PLAIN)
        np.testing.assert_allclose(
            [row["pixel"] for row in got.history], [row["pixel"] for row in expected.history], rtol=1e-3
        )

    def test_images_of_no_multiple_in_crops(self, tmp_path):
        """The panel and the measurement are of whole images."""
        pairs = process.arrays(8, (25, 31, 3))
        held = Validation(pairs, brightness)
        result = run(pairs, tmp_path, validation=held, crop=(24, 28), **PLAIN)
        with Image.open(tmp_path / "panel.png") as picture:
            assert picture.size == (6 * 31, 4 * 25)
        assert np.isfinite(result.history[-1]["val_psnr"])

    def test_whole_images_of_no_multiple_are_mirrored_up(self):
        """The loss is that of the images padded by hand at their far edges."""
        pairs = process.arrays(8, (25, 31, 3))
        padded = [np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], "reflect") for x in (pairs.adversarial, pairs.clean)]
        expected = run(MemoryPairs(*padded), None, flip=False, **PLAIN, **ONE_STEP)
        assert run(pairs, None, flip=False, **PLAIN, **ONE_STEP).history == expected.history

    def test_progress_says_where_it_is(self, store, capsys):
        run(store, None, verbose=True, validation=validation(), **PLAIN)
        shown = capsys.readouterr().err
        assert "16/16" in shown
        assert "epoch 3: val_clean_accuracy" in shown


class TestGiven:
    def test_generator_is_trained_further(self, store, tmp_path):
        generator = CompactGenerator(widths=(8,), blocks=(1,), factor=2, noise=0.1)
        before = generator.get_weights()
        result = run(store, tmp_path / "run", generator=generator, **PLAIN)
        assert result.generator is generator
        assert any(not np.array_equal(a, b) for a, b in zip(before, generator.get_weights(), strict=True))
        assert VersatilePurifier.from_pretrained(tmp_path / "run" / "last").generator.get_config()["noise"] == 0.1
        # The preset's generator has two low-pass versions; what is recorded is the one given.
        facts = json.loads((tmp_path / "run" / "last" / "card.json").read_text())["training"]
        assert facts["generator_options"] == generator.get_config()
        assert facts["generator_options"]["sigmas"] == [0.0, 0.8, 1.6]

    def test_a_generator_of_any_kind_without_a_folder(self, store):
        image = keras.Input((None, None, 3))
        generator = keras.Model(image, keras.layers.Conv2D(3, 1)(image), name="mine")
        result = run(store, None, generator=generator, **PLAIN)
        assert result.generator is generator
        assert (result.parameters["architecture"], result.parameters["generator_options"]) == ("mine", {})
        with pytest.raises(ValueError, match="Expected a generator made by build_generator with out"):
            run(store, "nowhere", generator=generator, **PLAIN)
        assert not Path("nowhere").exists()

    def test_optimizer(self, store):
        """With plain gradient descent of rate 0 nothing moves; the preset's Adam would have moved it."""
        generator = CompactGenerator(widths=(8,), blocks=(1,), factor=2)
        before = generator.get_weights()
        result = run(store, None, generator=generator, optimizer=keras.optimizers.SGD(0.0), **PLAIN)
        for a, b in zip(before, generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert result.history[0]["learning_rate"] == 0.0
        assert result.parameters["optimizer"]["class_name"] == "SGD"

    @pytest.mark.parametrize(
        ("average", "recorded", "discriminator"), [({}, None, 2), ({"use_ema": True, "ema_momentum": 0.7}, 0.7, None)]
    )
    def test_what_is_recorded_of_an_optimizer(self, store, average, recorded, discriminator):
        """Its own running average in place of the preset's; the preset's rate is the discriminator's alone."""
        optimizer = keras.optimizers.SGD(0.1, **average)
        facts = run(store, None, optimizer=optimizer, discriminator=discriminator, features=None, **ONE_STEP).parameters
        assert facts["ema"] == recorded
        adam = {"learning_rate": 3e-3, "decay": "cosine", "warmup": 0, "beta_1": 0.5}
        assert facts["discriminator_optimizer"] == (None if discriminator is None else adam)
        assert not set(adam) & set(facts)

    @pytest.mark.parametrize(("average", "kept"), [({}, None), ({"use_ema": True, "ema_momentum": 0.7}, 0.7)])
    def test_a_running_average_that_the_optimizer_does_not_keep(self, store, average, kept):
        optimizer = keras.optimizers.SGD(0.1, **average)
        message = f"Expected an optimizer with use_ema=True and ema_momentum=0.9 for ema=0.9. Received .* ema={kept}."
        with pytest.raises(ValueError, match=message):
            run(store, None, optimizer=optimizer, ema=0.9, **PLAIN)

    def test_a_running_average_that_the_optimizer_keeps(self, store):
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
        assert run(store, None, optimizer=optimizer, ema=0.9, **PLAIN, **ONE_STEP).parameters["ema"] == 0.9

    @pytest.mark.parametrize(("steps", "momentum"), [(2, 0.0), (20, 0.5), (200, 0.8)])
    def test_the_running_average_reaches_over_a_tenth_of_the_run(self, store, steps, momentum):
        look = Look(lambda model: model.optimizer.ema_momentum)
        schedule = LossSchedule([(steps, 10.0, 1.0)])
        with pytest.raises(KeyboardInterrupt):
            run(store, None, ema=0.8, schedule=schedule, steps_per_epoch=1, callbacks=[look, Raise(0)], **PLAIN)
        assert look.seen == [pytest.approx(momentum)]

    @pytest.mark.parametrize(("count", "shape"), [(16, 3), (2, None)])
    def test_every_batch_is_of_one_shape(self, monkeypatch, count, shape):
        """Two passes and a half: the step is traced once, and XLA compiles it once."""
        traced = []
        step = Pix2Pix.train_step
        monkeypatch.setattr(
            Pix2Pix, "train_step", lambda self, data: traced.append(data[0].shape[0]) or step(self, data)
        )
        run(process.arrays(count), None, **PLAIN, steps_per_epoch=15, schedule=LossSchedule([(1, 1.0, 1.0)]))
        assert traced == [shape]

    @pytest.mark.parametrize("option", [{"output_noise": 0.3}, {"strength": 2.5}], ids=["noise", "strength"])
    def test_noise_at_the_output_and_strength_are_left_out_of_the_steps(self, option):
        """What is trained is what is without them; what comes out has them, as they were."""
        results = []
        for options in ({}, option):
            generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), noise=0.0, **options)
            held = validation()
            pairs = held.pairs
            optimizer = keras.optimizers.SGD(1e-3)
            results.append(
                train(pairs, generator=generator, optimizer=optimizer, verbose=False, preset="compact", crop=None,
                      batch_size=4, **PLAIN, **ONE_STEP)
            )  # fmt: skip
        plain, noisy = results
        assert noisy.history == plain.history
        for a, b in zip(plain.generator.get_weights(), noisy.generator.get_weights(), strict=False):
            np.testing.assert_array_equal(a, b)
        x = held.pairs.clean
        change, farther = plain.generator(x) - x, noisy.generator(x) - plain.generator(x)
        if "strength" in option:
            inside = (noisy.generator(x) > 0) & (noisy.generator(x) < 1) & (plain.generator(x) > 0)
            np.testing.assert_allclose(farther[inside], 1.5 * change[inside], atol=1e-5)
            assert np.abs(farther).mean() > 1e-3
        else:
            assert np.abs(farther).mean() > 0.05
            assert np.abs(noisy.generator(x, training=True) - noisy.generator(x)).mean() > 0.05

    def test_a_new_encoder_is_that_of_the_weights_that_ship(self):
        generator = new_generator("compact", seed=5)
        package = efficientnet_lite_model(0)
        for layer in generator.get_layer("encoder").layers:
            for got, want in zip(layer.get_weights(), package.get_layer(layer.name).get_weights(), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)  # float16
        assert generator.get_config()["seed"] == 5
        same = dataclasses.replace(PRESETS["compact"], generator_options={**SMALL_ENCODED, "encoder_weights": None})
        assert new_generator(same).get_layer("encoder").get_weights()[0].std() > 0
        assert new_generator("paper").architecture == "unet256"
        shallow = new_generator(dataclasses.replace(PRESETS["compact"], generator_options=SMALL_ENCODED))
        stem = shallow.get_layer("encoder").get_layer("stem").get_weights()[0]
        np.testing.assert_allclose(stem, package.get_layer("stem").get_weights()[0], rtol=1e-3, atol=1e-6)

    def test_warmup(self, store):
        """From 0 to the rate in a tenth of the steps at most, then half a cosine to 2%."""
        rates = {}
        for warmup in (2, 50):
            look = Look(lambda model: float(model.optimizer.learning_rate))
            run(store, None, steps_per_epoch=10, warmup=warmup, callbacks=[look], **PLAIN)  # four epochs
            rates[warmup] = look.seen
        for warmup, steps in ((2, 2), (50, 4)):
            cosine = (1 + np.cos(np.pi * np.arange(40 - steps) / (40 - steps))) / 2
            expected = [*np.arange(steps) * 3e-3 / steps, *3e-3 * (0.98 * cosine + 0.02)]
            np.testing.assert_allclose(rates[warmup], expected, rtol=1e-5, atol=1e-9)

    def test_discriminator(self, store):
        discriminator = patchgan(2, seed=3)
        before = discriminator.get_weights()
        result = run(store, None, discriminator=discriminator, features=None, steps_per_epoch=1)
        assert "adversarial" in result.history[0]
        assert any(not np.array_equal(a, b) for a, b in zip(before, discriminator.get_weights(), strict=True))
        assert result.parameters["discriminator"] == {"parameters": discriminator.count_params()}


class TestResume:
    def test_killed_in_mid_epoch(self, whole, store, tmp_path):
        """SIGKILL, which nothing can catch, in a process of its own; the rest of the run in this one."""
        (tmp_path / "store").symlink_to(store.path)
        command = [sys.executable, str(SCRIPT), "killed", str(tmp_path), "--kill", "2", "1"]
        child = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert child.returncode == -signal.SIGKILL, child.stderr
        folder = tmp_path / "run"
        assert len((folder / "log.csv").read_text().splitlines()) == 1 + 2
        result = run(store, folder, resume=True)
        assert_same_end(folder, result, whole)
        last = VersatilePurifier.from_pretrained(folder / "last").generator
        for a, b in zip(last.get_weights(), result.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_ended_between_weights_and_checkpoint(self, whole, store, tmp_path, monkeypatch):
        folder, save = tmp_path / "run", tf.train.CheckpointManager.save

        def killed(self, checkpoint_number):
            if checkpoint_number == 4:
                raise KeyboardInterrupt
            return save(self, checkpoint_number=checkpoint_number)

        with monkeypatch.context() as patch:
            patch.setattr(tf.train.CheckpointManager, "save", killed)
            with pytest.raises(KeyboardInterrupt):
                run(store, folder, validation=validation())
        assert json.loads((folder / "last" / "card.json").read_text())["epoch"]["epoch"] == 3
        assert_same_end(folder, run(store, folder, validation=validation(), resume=True), whole)

    def test_draws_of_a_random_perceptual_loss_go_on(self, store, tmp_path):
        """Their state is a part of the checkpoint."""

        def loss():
            return RandomPerceptualLoss([process.make_perceptual(), PerceptualLoss(tiny_features(), ["f"])], seed=2)

        settings = {"discriminator": None, "steps_per_epoch": 3}
        expected = run(store, None, perceptual=loss(), **settings)
        with pytest.raises(KeyboardInterrupt):
            run(store, tmp_path, perceptual=loss(), callbacks=[Raise(2)], **settings)
        result = run(store, tmp_path, perceptual=loss(), resume=True, **settings)
        assert result.history == expected.history
        for a, b in zip(result.generator.get_weights(), expected.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_finished_run_is_not_trained_further(self, whole, store):
        expected, folder, _ = whole
        before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        result = run(store, folder, resume=True)
        for a, b in zip(result.generator.get_weights(), expected.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert result.history == expected.history
        assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before

    def test_none_there_starts_one(self, store, plain, tmp_path):
        assert run(store, tmp_path / "new", resume=True, **PLAIN).history == plain.history

    def test_a_run_is_not_overwritten(self, whole, store):
        _, folder, _ = whole
        before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        with pytest.raises(FileExistsError, match=r"Expected no run in .*; resume=True goes on with it\. Received one"):
            run(store, folder)
        assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before

    @pytest.mark.parametrize(
        ("changes", "detail"),
        [
            ({"seed": 6}, "seed: 5 there, 6 now"),
            ({"learning_rate": 1e-4}, "learning_rate: 0.003 there, 0.0001 now"),
            ({"precision": "mixed_bfloat16", "ema": 0.5}, "ema: 0.8 there, 0.5 now; precision: 'float32' there, "),
            ({"steps_per_epoch": 3}, "steps_per_epoch: 4 there, 3 now"),
            ({"schedule": LossSchedule([(4, 1.0, 1.0)])}, "schedule: [[2, 10.0, 2.0], [2, 5.0, 0.5]] there, [[4, 1.0"),
            ({"features": None}, "perceptual: \"PerceptualLoss('tiny'"),
            ({"optimizer": keras.optimizers.SGD(0.5)}, "optimizer: None there, {'module': 'keras.optimizers', "),
        ],
    )
    def test_other_settings(self, whole, store, changes, detail):
        _, folder, _ = whole
        before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        generator = CompactGenerator(**{**PRESET.generator_options, "seed": 5})
        weights = generator.get_weights()
        with pytest.raises(ValueError, match="Received others: .*" + re.escape(detail)):
            run(store, folder, resume=True, generator=generator, **changes)
        assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
        for a, b in zip(weights, generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert {layer.compute_dtype for layer in generator.layers} == {"float32"}

    def test_another_store_of_as_many_pairs(self, whole, store, tmp_path):
        other = process.make_store(tmp_path / "store")
        manifest = other.manifest
        manifest["shards"][0]["sha256"] = "0" * 64
        with pytest.raises(ValueError, match="Received others: pairs_sha256: "):
            run(other, whole[1], resume=True)

    def test_other_images_in_memory(self, tmp_path):
        """As many of them, under as many attacks; a perturbation made anew may differ in the last bit."""
        pairs, in_memory = process.arrays(), process.arrays
        first = run(in_memory(), tmp_path, **PLAIN, **ONE_STEP)
        again = in_memory(adversarial=np.nextafter(pairs.adversarial, np.float32(0.5)))
        assert run(again, tmp_path, resume=True, **PLAIN, **ONE_STEP).history == first.history
        for other, detail in (
            (in_memory(clean=np.nextafter(pairs.clean, np.float32(0.5))), "clean_sha256: "),
            (in_memory(attacks=("A", "C")), re.escape("attacks: ['A', 'B'] there, ['A', 'C'] now")),
        ):
            with pytest.raises(ValueError, match=f"Received others: {detail}"):
                run(other, tmp_path, resume=True, **PLAIN, **ONE_STEP)


class TestNotFinite:
    def test_loss(self, store, plain, tmp_path):
        folder = tmp_path / "run"
        with pytest.raises(FloatingPointError, match=r"Received nan as loss in epoch 2, step 0\. The last checkpoint"):
            run(store, folder, callbacks=[Poison(2)], **PLAIN)
        assert len((folder / "log.csv").read_text().splitlines()) == 1 + 2
        assert json.loads((folder / "last" / "card.json").read_text())["epoch"]["epoch"] == 1
        kept = VersatilePurifier.from_pretrained(folder / "last").generator.get_weights()
        assert all(np.isfinite(w).all() for w in kept)
        result = run(store, folder, resume=True, **PLAIN)
        assert result.history == plain.history
        for a, b in zip(result.generator.get_weights(), plain.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_weights_after_the_last_step(self, store, tmp_path):
        class Spoil(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == STEPS - 1:
                    variable = self.model.generator.trainable_variables[0]
                    variable.assign(np.full(variable.shape, np.inf))

        generator = CompactGenerator(**PRESET.generator_options)
        with pytest.raises(FloatingPointError, match=r"Received NaN or infinity in .* after epoch 0"):
            run(store, tmp_path / "run", generator=generator, precision="mixed_bfloat16", callbacks=[Spoil()], **PLAIN)
        assert not (tmp_path / "run" / "last").exists()
        assert {layer.compute_dtype for layer in generator.layers} == {"float32"}


class Told:
    """A classifier that is right on as many images as it is told to be in each epoch."""

    def __init__(self, accuracies):
        self.accuracies, self.epoch, self.labels = accuracies, 0, process.arrays().labels

    def validation(self):
        return Validation(process.arrays(), self)

    def __call__(self, images):
        assert len(images) == len(self.labels)  # one batch
        right = np.arange(len(images)) < self.accuracies[self.epoch] * len(images)
        return np.eye(4)[np.where(right, self.labels, (self.labels + 1) % 4)]

    def callback(self):
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(self, "epoch", epoch))


def run_told(store, folder, accuracies=(0.25, 0.75, 0.5, 0.75, 1.0, 0.5), callbacks=(), **arguments):
    """Six epochs of a step, measured by a classifier that is told what to answer; patience 2."""
    told = Told(accuracies)
    return run(
        store, folder, schedule=LossSchedule([(6, 1.0, 1.0)]), steps_per_epoch=1, validation=told.validation(),
        callbacks=[told.callback(), *callbacks], **PLAIN, **{"patience": 2, **arguments},
    )  # fmt: skip


@pytest.fixture(scope="module")
def stopped(store):
    return run_told(store, None)


class TestPatience:
    def test_stops(self, store, tmp_path):
        result = run_told(store, tmp_path)
        assert [row["val_recovered_accuracy"] for row in result.history] == [0.25, 0.75, 0.5, 0.75]
        assert json.loads((tmp_path / "best" / "card.json").read_text())["epoch"]["epoch"] == 1

    def test_without_a_folder(self, stopped):
        assert len(stopped.history) == 4

    @pytest.mark.parametrize("ended", [2, 3])
    def test_across_a_resume(self, store, tmp_path, stopped, ended):
        with pytest.raises(KeyboardInterrupt):
            run_told(store, tmp_path, callbacks=[Raise(ended)])
        result = run_told(store, tmp_path, resume=True)
        assert result.history == stopped.history
        again = run_told(store, tmp_path, resume=True)  # what has stopped stays as it is
        assert again.history == stopped.history
        for other in (result, again):
            for a, b in zip(other.generator.get_weights(), stopped.generator.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
        assert json.loads((tmp_path / "best" / "card.json").read_text())["epoch"]["epoch"] == 1

    def test_more_patience_goes_on(self, store, tmp_path):
        run_told(store, tmp_path)
        assert len(run_told(store, tmp_path, resume=True, patience=3).history) == 6

    def test_another_measure(self, store, tmp_path):
        run_told(store, tmp_path, patience=None, monitor="val_accuracy/A")
        # Attack A has the pairs of even number: accuracies 0.25, 0.75, 0.5, 0.75, 1.0, 0.5.
        assert json.loads((tmp_path / "best" / "card.json").read_text())["epoch"]["epoch"] == 4


@pytest.fixture(scope="module")
def two_dozen_steps(store):
    """Two dozen steps of everything, one by one, in the precision that is asked for."""
    schedule = LossSchedule([(24, 10.0, 2.0)])
    steps = {"steps_per_epoch": 1, "schedule": schedule, "learning_rate": 1e-2}
    return functools.cache(lambda precision: run(store, None, precision=precision, **steps))


class TestPrecision:
    @pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
    def test_losses_are_close_to_those_of_float32(self, store, two_dozen_steps, precision):
        expected, result = two_dozen_steps("float32").history, two_dozen_steps(precision)
        first, last = ({n: row[n] for n in ("pixel", "perceptual", "adversarial", "discriminator", "loss")}
                       for row in (result.history[0], result.history[-1]))  # fmt: skip
        for name, value in first.items():
            assert value == pytest.approx(expected[0][name], rel=0.02), name
        # Rounding, and steps that loss scaling leaves out, lead to other weights; the pixel loss falls as it should.
        assert last["pixel"] == pytest.approx(expected[-1]["pixel"], rel=0.1)
        assert last["pixel"] != expected[-1]["pixel"]
        assert last["pixel"] < 0.95 * first["pixel"]
        assert {w.dtype for w in result.generator.trainable_weights} == {"float32"}
        assert {layer.compute_dtype for layer in result.generator.layers} == {"float32"}
        assert result.parameters["precision"] == precision


class TestParameters:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"preset": "small"}, "Expected preset to be one of ['paper', 'compact']. Received 'small'."),
            ({"pixel_weight": 1}, "Expected changes among ['architecture', 'generator_options', "),
            ({"precision": "float16"}, "Expected precision to be one of ['float32', "),
            ({"resume": 1}, "Expected resume to be True or False. Received 1."),
            ({"tensorboard": None}, "Expected tensorboard to be True or False. Received None."),
            ({"verbose": "yes"}, "Expected verbose to be True or False. Received 'yes'."),
            ({"steps_per_epoch": 0}, "Expected steps_per_epoch to be an integer of at least 1. Received 0"),
            ({"patience": 1.5}, "Expected patience to be an integer of at least 1. Received 1.5."),
            ({"patience": 1}, "Expected validation pairs or a watch with patience. Received neither."),
            ({"validation": validation(), "monitor": "loss"}, "Expected monitor to be one of ['val_clean_accuracy'"),
            ({"seed": -1}, "Expected seed to be an integer of at least 0. Received -1."),
            ({"crop": 32}, "Expected crop to be one or two integers from 1 to (24, 24). Received 32."),
            ({"crop": 23, **PLAIN}, "multiples of 2 pixels for compact. Received crop=23 of images 24x24"),
            ({"crop": 22}, "Expected at least 24x24 pixels for a PatchGAN. Received 22x22."),
            ({"architecture": "big"}, "Expected a generator in ['compact', 'unet256']. Received 'big'."),
            ({"discriminator": 0}, "Expected filters to be an integer of at least 1. Received 0."),
        ],
    )
    def test_errors_come_before_there_are_pairs(self, tmp_path, arguments, message):
        """And before anything is written."""
        arguments = {"preset": PRESET, "perceptual": process.make_perceptual(), **arguments}
        with pytest.raises(ValueError, match=re.escape(message)):
            Training.of(**arguments).prepare(process.SHAPE, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_good_arguments_are_left_as_they_are(self, store, tmp_path):
        optimizer, generator = keras.optimizers.SGD(0.1), CompactGenerator(widths=(8,), blocks=(1,), factor=2)
        arguments = {
            "preset": PRESET, "perceptual": process.make_perceptual(), "optimizer": optimizer, "generator": generator,
            "precision": "mixed_bfloat16", "patience": 1, "monitor": "val_accuracy/B", "seed": 3,
            "callbacks": [Raise(0)],
        }  # fmt: skip
        prepared = Training.of(validation=validation(), **arguments).prepare(process.SHAPE, tmp_path / "run")
        assert prepared.generator is generator
        assert not (tmp_path / "run").exists()
        assert not optimizer.built
        assert {layer.compute_dtype for layer in generator.layers} == {"float32"}

    def test_a_perceptual_loss_of_another_size(self, store, tmp_path):
        """Of a model with an input of a fixed size; at that size it trains."""
        image = keras.Input((24, 24, 3))
        features = keras.layers.Conv2D(2, 3, name="features")(image)
        perceptual = PerceptualLoss(keras.Model(image, features, name="fixed"), ["features"])
        message = r"Expected a perceptual loss that takes 20x22 pixels\. Received PerceptualLoss\('fixed'"
        with pytest.raises(ValueError, match=message):
            run(store, tmp_path / "run", perceptual=perceptual, crop=(20, 22), discriminator=None)
        assert not (tmp_path / "run").exists()
        assert "perceptual" in run(store, None, perceptual=perceptual, discriminator=None, **ONE_STEP).history[0]

    def test_the_compact_preset_needs_a_perceptual_loss(self, store):
        with pytest.raises(ValueError, match=r"Expected a perceptual loss, PerceptualLoss\.of_classifier\(model\), or"):
            train(store, None, preset="compact")

    @pytest.mark.parametrize("arguments", [{"resume": True}, {"tensorboard": True}])
    def test_a_folder_is_needed(self, store, arguments):
        with pytest.raises(ValueError, match="Expected out, a folder, with tensorboard or resume. Received None."):
            run(store, None, **arguments)

    def test_tensorboard_is_missing(self, store, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(ModuleNotFoundError, match=r"art-versatile\[tensorboard\]"):
            run(store, tmp_path / "run", tensorboard=True, **PLAIN)
        assert not (tmp_path / "run").exists()

    def test_tensorboard(self, store, tmp_path):
        pytest.importorskip("tensorboard")
        run(store, tmp_path / "run", tensorboard=True, **PLAIN)
        assert list((tmp_path / "run" / "tensorboard").glob("events.*"))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"every": 0}, ValueError, "Expected every to be an integer of at least 1. Received 0."),
            (
                {"pairs": process.arrays(labels=None)},
                ValueError,
                "Expected held pairs with labels. Received pairs with",
            ),
            ({"pairs": process.arrays}, ValueError, "Expected names of attacks with a function that makes held pairs."),
            ({"pairs": [1]}, TypeError, "Expected held pairs in memory, or a function. Received list."),
        ],
    )
    def test_validation_that_does_not_fit(self, arguments, error, message):
        with pytest.raises(error, match=re.escape(message)):
            Validation(**{"pairs": process.arrays(), "classify": brightness, **arguments})

    def test_held_pairs_that_are_made_when_the_run_begins(self, store):
        calls = []
        held = Validation(lambda: calls.append(1) or process.arrays(), brightness, attacks=("A", "B"))
        prepared = Training.of(PRESET, validation=held, monitor="val_accuracy/B", verbose=False, **PLAIN, **ONE_STEP)
        prepared = prepared.prepare(process.SHAPE)
        assert not calls
        assert set(held.measures) < set(prepared.run(store).history[0])
        assert calls == [1]


class TestPerceptualLoss:
    """The one place where a preset's is made."""

    def test_of_each_kind(self):
        model = process.make_perceptual()._extractor
        preset = dataclasses.replace(PRESET, features_options={"count": 1, "prediction_weight": 2.0})
        assert "prediction_weight=2.0" in repr(perceptual_loss(preset, model, probabilities=True))
        vgg = perceptual_loss(dataclasses.replace(PRESET, features="vgg19", features_options={"weights": None}))
        assert "block5_conv1" in vgg.layers
        assert perceptual_loss(dataclasses.replace(PRESET, features=None)) is None
