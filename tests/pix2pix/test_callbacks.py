from __future__ import annotations

import contextlib
import csv
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from art_versatile.pix2pix.callbacks import (
    Checkpoint,
    ImagePanel,
    KeepBest,
    KeepWeights,
    RecoveredAccuracy,
    StopOnNaN,
    StopTogether,
    TensorBoard,
    TrainingLog,
    checkpoints_in,
    holds_run,
    patience_is_over,
    purifying,
)
from PIL import Image

from art_versatile import VersatilePurifier
from art_versatile.pix2pix import CompactGenerator, Pix2Pix, patchgan


def make_generator(seed=0):
    generator = CompactGenerator(widths=(4, 4), blocks=(1, 1), factor=2, sigmas=(0.0, 1.0), noise=0.0, seed=seed)
    rng = np.random.default_rng(seed)
    generator.set_weights([w + 0.05 * rng.standard_normal(w.shape) for w in generator.get_weights()])
    return generator


class Inverter(keras.Model):
    """Purifies x into 1 - x, so that every number can be worked out by hand."""

    def call(self, x, training=False):
        return 1.0 - x


class Model:
    """What the callbacks ask of a model, with the average's weights in place inside ``averaged`` only."""

    def __init__(self, generator=None):
        self.generator = generator or Inverter()
        self.inside = 0
        self.stop_training = False
        self.optimizer = keras.optimizers.SGD(0.25)
        self.trainable_variables = []
        self.distribute_strategy = tf.distribute.get_strategy()

    @contextlib.contextmanager
    def averaged(self):
        self.inside += 1
        yield self.generator
        self.inside -= 1


def attached(callback, model=None, epochs=4):
    callback.set_model(model or Model())
    callback.set_params({"epochs": epochs})
    return callback


def flat(*values):
    """One grey image of 4x4 pixels for each value."""
    return np.array(values, np.float32)[:, None, None, None] * np.ones((4, 4, 3), np.float32)


class TestRecoveredAccuracy:
    def make(self, **kwargs):
        # Purified: adversarial 0.9 0.8 0.3 0.4, clean 0.8 0.7 0.6 0.1. The class is that of the brightness.
        return RecoveredAccuracy(
            lambda images: np.stack([images.mean((1, 2, 3)) < 0.5, images.mean((1, 2, 3)) >= 0.5], 1).astype(float),
            flat(0.1, 0.2, 0.7, 0.6), flat(0.2, 0.3, 0.4, 0.9), np.array([1, 1, 1, 0]),
            {"A": np.array([0, 2]), "B": np.array([1, 3]), "none": np.array([], int)}, **kwargs,
        )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    def test_by_hand(self, batch_size):
        measured = attached(self.make(batch_size=batch_size)).measure()
        # Adversarial: right, right, wrong, right. Clean: right, right, right, right.
        # Errors of purified adversarial against clean: 0.7, 0.5, -0.1, -0.5.
        assert measured == {
            "val_clean_accuracy": 1.0,
            "val_recovered_accuracy": 0.75,
            "val_psnr": pytest.approx(-10 * np.log10((0.49 + 0.25 + 0.01 + 0.25) / 4), rel=1e-5),
            "val_accuracy/A": 0.5,
            "val_accuracy/B": 1.0,
        }

    def test_measures_are_the_keys(self):
        callback = attached(self.make())
        assert callback.measures == tuple(callback.measure())

    def test_equal_images_have_a_finite_psnr(self):
        callback = RecoveredAccuracy(
            lambda images: np.ones((len(images), 2)), flat(0.5), flat(0.5), np.array([0]), {"A": np.array([0])}
        )
        assert attached(callback).measure()["val_psnr"] == pytest.approx(120)

    def test_every_and_the_last_epoch(self):
        callback, measured = attached(self.make(every=2), epochs=5), []
        for epoch in range(5):
            logs = {"loss": 1.0}
            callback.on_epoch_end(epoch, logs)
            measured.append(len(logs) > 1)
            assert logs["loss"] == 1.0
        assert measured == [False, True, False, True, True]

    def test_the_average_is_measured(self):
        model = Model()
        callback = attached(self.make(), model)
        callback._classify = lambda images: np.full((len(images), 2), model.inside)
        callback.measure()
        assert model.inside == 0
        inside = []
        callback._classify = lambda images: inside.append(model.inside) or np.ones((len(images), 2))
        callback.measure()
        assert set(inside) == {1}

    def test_new_weights_are_seen(self):
        generator, images = make_generator(), np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
        callback = RecoveredAccuracy(
            lambda images: np.ones((len(images), 2)), images, images, np.zeros(2), {"A": np.arange(2)}
        )
        attached(callback, Model(generator))
        first = callback.measure()["val_psnr"]
        generator.set_weights([w * 0.5 for w in generator.get_weights()])
        assert callback.measure()["val_psnr"] != first


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 7, 5, 3), (2, 1, 2, 3)])
def test_purifying_pads_as_the_purifier_does(shape):
    image = keras.Input((None, None, 3))
    generator = keras.Model(image, keras.layers.DepthwiseConv2D(5, padding="same")(image))
    generator.size_multiple = 8
    images = np.random.default_rng(0).random(shape, np.float32)
    purified = VersatilePurifier(generator)(images)[0]
    np.testing.assert_allclose(np.clip(purifying(generator)(images), 0, 1), purified, atol=1e-5)


class TestStopOnNaN:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_loss(self, value):
        callback = attached(StopOnNaN())
        callback.on_epoch_begin(3)
        callback.on_train_batch_end(0, {"loss": 1.0})
        with pytest.raises(
            FloatingPointError,
            match=r"Received -?(nan|inf) as pixel in epoch 3, step 7\. The last checkpoint .*, if any, is kept",
        ):
            callback.on_train_batch_end(7, {"loss": 1.0, "pixel": value})

    def test_weights(self):
        model = Model()
        model.trainable_variables = [keras.Variable([1.0, 2.0], name="good")]
        callback = attached(StopOnNaN(), model)
        callback.on_epoch_end(2)
        model.trainable_variables.append(keras.Variable([1.0, np.inf], name="bad"))
        with pytest.raises(FloatingPointError, match="Received NaN or infinity in bad after epoch 2"):
            callback.on_epoch_end(2)


class TestTrainingLog:
    def test_history_and_files(self, tmp_path):
        history = []
        log = attached(TrainingLog(tmp_path, history))
        log.on_epoch_end(0, {"loss": tf.constant(2.0)})
        log.on_epoch_end(1, {"loss": 1.5, "val_clean_accuracy": 0.5, "val_recovered_accuracy": 0.25})
        assert history == [
            {"epoch": 0, "loss": 2.0, "learning_rate": 0.25},
            {"epoch": 1, "loss": 1.5, "val_clean_accuracy": 0.5, "val_recovered_accuracy": 0.25, "learning_rate": 0.25},
        ]
        with (tmp_path / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [{key: float(value) for key, value in row.items() if value} for row in rows] == history
        with Image.open(tmp_path / "curves.png") as curves:
            pixels = np.asarray(curves.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
        assert sorted(f.name for f in tmp_path.iterdir()) == ["curves.png", "log.csv"]

    def test_an_epoch_done_again_takes_the_place_of_the_first(self):
        history = [{"epoch": 0, "loss": 3.0}, {"epoch": 1, "loss": 2.0}]
        attached(TrainingLog(None, history)).on_epoch_end(1, {"loss": 1.0})
        assert [row["loss"] for row in history] == [3.0, 1.0]

    def test_curves_without_accuracies_and_with_a_first_loss_of_zero(self, tmp_path):
        log = attached(TrainingLog(tmp_path, []))
        log.on_epoch_end(0, {"loss": 0.0})
        log.on_epoch_end(1, {"loss": 1.0})
        assert (tmp_path / "curves.png").stat().st_size > 1000


class TestImagePanel:
    def test_rows(self, tmp_path):
        adversarial, clean = flat(0.1, 0.6), flat(0.2, 0.3)
        panel = attached(ImagePanel(tmp_path, adversarial, clean), epochs=3)
        drawn = panel.draw()
        assert drawn.shape == (16, 8, 3)
        # Adversarial; purified, which is 1 - x; clean; grey plus four times what was removed, clipped.
        expected = [[0.1, 0.6], [0.9, 0.4], [0.2, 0.3], [0.0, 1.0]]
        np.testing.assert_allclose(drawn[1::4, 1::4, 0], expected, atol=1e-6)
        panel.on_epoch_end(0)
        with Image.open(tmp_path / "panel.png") as picture:
            np.testing.assert_allclose(np.asarray(picture)[1::4, 1::4, 0] / 255, expected, atol=0.5 / 255 + 1e-6)

    def test_images_of_any_size(self, tmp_path):
        images = np.random.default_rng(0).random((2, 6, 7, 3), np.float32)
        panel = attached(ImagePanel(tmp_path, images, images), Model(make_generator()))
        assert panel.draw().shape == (24, 14, 3)

    def test_every(self, tmp_path):
        panel = attached(ImagePanel(tmp_path, flat(0.5), flat(0.5), every=2), epochs=3)
        written = []
        for epoch in range(3):
            panel.on_epoch_end(epoch)
            written.append((tmp_path / "panel.png").exists())
            (tmp_path / "panel.png").unlink(missing_ok=True)
        assert written == [False, True, True]


class TestTensorBoard:
    def test_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(ModuleNotFoundError, match=r"Expected the package tensorboard \(pip install"):
            TensorBoard(tmp_path / "board")
        assert not (tmp_path / "board").exists()

    def test_events(self, tmp_path):
        pytest.importorskip("tensorboard")
        board = attached(TensorBoard(tmp_path, attached(ImagePanel(tmp_path, flat(0.5), flat(0.5)))))
        for epoch in range(2):
            board.on_epoch_end(epoch, {"loss": 1.0 + epoch})
        board.on_train_end()
        (file,) = tmp_path.glob("events.*")
        events = list(tf.compat.v1.train.summary_iterator(str(file)))
        scalars = {e.step: tf.make_ndarray(v.tensor) for e in events for v in e.summary.value if v.tag == "loss"}
        assert scalars == {0: 1.0, 1: 2.0}
        assert {v.tag for e in events for v in e.summary.value if v.tag != "loss"} == {
            "adversarial, purified, clean, removed x4"
        }


class TestKeeping:
    def test_last(self):
        history, kept = [], []
        keep = attached(KeepWeights(history, lambda generator, row: kept.append((generator, row["epoch"]))))
        for epoch in range(2):
            history.append({"epoch": epoch})
            keep.on_epoch_end(epoch)
        assert kept == [(keep.model.generator, 0), (keep.model.generator, 1)]

    # A value a measured epoch; None where nothing was measured.
    @pytest.mark.parametrize(
        ("values", "patience", "kept", "stopped"),
        [
            ([0.1, 0.3, 0.2, 0.3, 0.4], None, [0, 1, 4], None),
            ([0.1, 0.3, 0.2, 0.3, 0.4], 2, [0, 1], 3),
            ([0.1, 0.3, 0.2, 0.4, 0.1], 2, [0, 1, 3], None),
            ([0.5, None, 0.4, None, 0.3], 2, [0], 4),
            ([0.5, 0.5], 1, [0], 1),
            ([None, None], 1, [], None),
        ],
    )
    def test_best(self, values, patience, kept, stopped):
        history, got, model = [], [], Model()
        best = attached(KeepBest(history, lambda _, row: got.append(row["epoch"]), "m", patience), model)
        for epoch, value in enumerate(values):
            history.append({"epoch": epoch, "loss": 1.0} | ({} if value is None else {"m": value}))
            best.on_epoch_end(epoch)
            if model.stop_training:
                break
        assert got == kept
        assert (epoch if model.stop_training else None) == stopped
        assert patience_is_over(history, "m", patience) == model.stop_training

    def test_no_history_is_not_over(self):
        assert not patience_is_over([], "m", 1)


@pytest.mark.parametrize("asked", [False, True])
def test_stop_together_on_one_worker_keeps_what_was_asked(asked):
    model = Model()
    model.stop_training = asked
    together = attached(StopTogether(), model)
    together.on_train_begin()
    together.on_epoch_end(0)
    assert model.stop_training is asked


class TestCheckpoint:
    IDENTITY = {"seed": 1, "schedule": [(2, 100.0, 1.0)]}  # noqa: RUF012

    def model(self, seed=0):
        model = Pix2Pix(make_generator(seed), patchgan(2, seed=seed))
        model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5), keras.optimizers.Adam(1e-2))
        return model

    def batch(self):
        images = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
        return tf.constant(images), tf.constant(1 - images)

    def state(self, model):
        parts = [model.generator, model.discriminator, model.optimizer, model.discriminator_optimizer]
        return [v.numpy() for part in parts for v in part.variables]

    def test_everything_comes_back(self, tmp_path):
        model, history = self.model(), [{"epoch": 0, "loss": 0.1 + 0.2}]
        checkpoint = Checkpoint(tmp_path, model, history, self.IDENTITY)
        assert checkpoint.restore() == 0
        model.train_step(self.batch())
        checkpoint.on_epoch_end(0)
        model.train_step(self.batch())
        history.append({"epoch": 1, "loss": 0.2})
        checkpoint.on_epoch_end(1)
        again, other_history = self.model(seed=1), []
        before = self.state(again)
        other = Checkpoint(tmp_path, again, other_history, self.IDENTITY)
        assert other.restore() == 2
        assert other_history == history
        for got, want, was in zip(self.state(again), self.state(model), before, strict=True):
            np.testing.assert_array_equal(got, want)
            assert not np.array_equal(got, was) or not want.any() or want.size == 1

    def test_two_are_kept(self, tmp_path):
        model, history = self.model(), []
        checkpoint = Checkpoint(tmp_path, model, history, self.IDENTITY)
        for epoch in range(4):
            history.append({"epoch": epoch})
            checkpoint.on_epoch_end(epoch)
        assert sorted(f.name for f in tmp_path.glob("*.index")) == ["ckpt-3.index", "ckpt-4.index"]

    def test_another_identity(self, tmp_path):
        Checkpoint(tmp_path, self.model(), [{"epoch": 0}], self.IDENTITY).on_epoch_end(0)
        model = self.model(seed=1)
        before = self.state(model)
        other = Checkpoint(tmp_path, model, [], {"seed": 2, "schedule": [(2, 100.0, 1.0)]})
        with pytest.raises(ValueError, match=r"Received others: seed: 1 there, 2 now\."):
            other.restore()
        for a, b in zip(before, self.state(model), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_key_that_an_earlier_version_did_not_write(self, tmp_path):
        """Agrees where it is off or empty now, and only there."""
        model, identity = self.model(), {**self.IDENTITY, "generator": {"noise": 0.1}}
        Checkpoint(tmp_path, model, [{"epoch": 0}], identity).on_epoch_end(0)
        for off in (None, False, 0, 0.0, "", [], {}):
            later = {**identity, "generator": {"noise": 0.1, "new": off}, "new": off}
            assert Checkpoint(tmp_path, model, [], later).restore() == 1
        for on in (True, 1, 0.5, "x", [0], {"a": 0}):
            with pytest.raises(ValueError, match=r"Received others: new: None there, .* now\."):
                Checkpoint(tmp_path, model, [], {**identity, "new": on}).restore()
            with pytest.raises(ValueError, match="Received others: generator: {'noise': 0.1} there"):
                Checkpoint(tmp_path, model, [], {**identity, "generator": {"noise": 0.1, "new": on}}).restore()
        for generator in ({"new": False}, {"noise": 0.2, "new": False}):
            with pytest.raises(ValueError, match="Received others: generator: {'noise': 0.1} there"):
                Checkpoint(tmp_path, model, [], {**identity, "generator": generator}).restore()

    # (epoch, step) after which a callback asks for the end; the checkpoints of two epochs of two steps.
    @pytest.mark.parametrize(
        ("stop", "kept"), [((0, 0), []), ((1, 0), [1]), ((0, 1), [1]), ((1, 1), [1, 2]), (None, [1, 2])]
    )
    def test_an_epoch_stopped_halfway_is_not_kept(self, tmp_path, caplog, stop, kept):
        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_end(self, batch, logs=None):
                if (self.epoch, batch) == stop:
                    self.model.stop_training = True

        history = []
        image = keras.Input((None, None, 3))
        model = Pix2Pix(keras.Model(image, keras.layers.Conv2D(3, 1)(image)))
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        callbacks = [TrainingLog(None, history), Stop(), Checkpoint(tmp_path, model, history, self.IDENTITY)]
        data = tf.data.Dataset.from_tensors(self.batch()).repeat()
        model.fit(data, epochs=2, steps_per_epoch=2, callbacks=callbacks, verbose=0)
        assert sorted(f.name for f in tmp_path.glob("*.index")) == [f"ckpt-{number}.index" for number in kept]
        halfway = stop is not None and stop[1] == 0
        assert ("stopped after 1 of 2 steps" in caplog.text) == halfway

    DAMAGES = {  # noqa: RUF012
        "cut off": lambda index, data: data.write_bytes(data.read_bytes()[:100]),
        "empty": lambda index, data: data.write_bytes(b""),
        "another byte": lambda index, data: data.write_bytes(
            data.read_bytes()[:200] + bytes([data.read_bytes()[200] ^ 255]) + data.read_bytes()[201:]
        ),
        "index cut off": lambda index, data: index.write_bytes(index.read_bytes()[:50]),
        "index empty": lambda index, data: index.write_bytes(b""),
        "index gone": lambda index, data: index.unlink(),
        "data gone": lambda index, data: data.unlink(),
    }

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_checkpoint(self, tmp_path, caplog, damage):
        """The one before it counts; without one the model stays as it is."""

        def spoil(number):
            self.DAMAGES[damage](tmp_path / f"ckpt-{number}.index", tmp_path / f"ckpt-{number}.data-00000-of-00001")

        model, history = self.model(), []
        checkpoint = Checkpoint(tmp_path, model, history, self.IDENTITY)
        for epoch in range(2):
            if epoch:
                first = self.state(model)
                model.generator.set_weights([w + 1 for w in model.generator.get_weights()])
            history.append({"epoch": epoch})
            checkpoint.on_epoch_end(epoch)
        spoil(2)
        again, other_history = self.model(seed=1), []
        other = Checkpoint(tmp_path, again, other_history, self.IDENTITY)
        assert other.restore() == 1
        assert other_history == [{"epoch": 0}]
        for got, want in zip(self.state(again), first, strict=True):
            np.testing.assert_array_equal(got, want)
        assert "ckpt-2 cannot be read" in caplog.text
        assert "ckpt-1" not in caplog.text
        with pytest.raises(ValueError, match="Received others: seed"):
            Checkpoint(tmp_path, again, [], {**self.IDENTITY, "seed": 2}).restore()
        # The epoch done again takes the place of the damaged one.
        other_history.append({"epoch": 1})
        other.on_epoch_end(1)
        assert Checkpoint(tmp_path, again, [], self.IDENTITY).restore() == 2
        for number in (1, 2):
            spoil(number)
        untouched = self.model(seed=2)
        before = self.state(untouched)
        with pytest.raises(ValueError, match="Expected a checkpoint of this package. Received .*ckpt-2"):
            Checkpoint(tmp_path, untouched, [], self.IDENTITY).restore()
        for got, want in zip(self.state(untouched), before, strict=True):
            np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("content", [None, b"", b"model_checkpoint_pa", b'model_checkpoint_path: "ckpt-1"'])
    def test_a_damaged_list_of_checkpoints(self, tmp_path, content):
        """TensorFlow's text file beside them: the checkpoints themselves count."""
        model, history = self.model(), []
        checkpoint = Checkpoint(tmp_path, model, history, self.IDENTITY)
        for epoch in range(2):
            history.append({"epoch": epoch})
            checkpoint.on_epoch_end(epoch)
        (tmp_path / "checkpoint").unlink()
        if content is not None:
            (tmp_path / "checkpoint").write_bytes(content)
        assert sorted(Path(path).name for path in checkpoints_in(tmp_path)) == ["ckpt-1", "ckpt-2"]
        again, other_history = self.model(seed=1), []
        assert Checkpoint(tmp_path, again, other_history, self.IDENTITY).restore() == 2
        for got, want in zip(self.state(again), self.state(model), strict=True):
            np.testing.assert_array_equal(got, want)

    LISTS = {  # noqa: RUF012
        "whole": lambda place: None,
        "stale": lambda place: place.write_text(
            'model_checkpoint_path: "ckpt-1"\nall_model_checkpoint_paths: "ckpt-1"\n'
        ),
        "missing": lambda place: place.unlink(),
        "empty": lambda place: place.write_bytes(b""),
    }

    @pytest.mark.parametrize("listed", LISTS)
    @pytest.mark.parametrize("write", [True, False])
    def test_killed_while_a_checkpoint_was_written(self, tmp_path, listed, write):
        """TensorFlow writes an index in place: a cut-off one, newer than its list, does not hide the one before."""
        model, history = self.model(), []
        checkpoint = Checkpoint(tmp_path, model, history, self.IDENTITY)
        for epoch in range(3):
            history.append({"epoch": epoch})
            checkpoint.on_epoch_end(epoch)
        index = tmp_path / "ckpt-3.index"
        index.write_bytes(index.read_bytes()[:50])
        self.LISTS[listed](tmp_path / "checkpoint")
        before = (tmp_path / "checkpoint").read_bytes() if (tmp_path / "checkpoint").exists() else None
        again, other_history = self.model(seed=1), []
        other = Checkpoint(tmp_path, again, other_history, self.IDENTITY, write=write)
        assert other.restore() == 2
        if not write:
            after = (tmp_path / "checkpoint").read_bytes() if (tmp_path / "checkpoint").exists() else None
            assert after == before
            return
        for epoch in (2, 3, 4):
            other_history.append({"epoch": epoch})
            other.on_epoch_end(epoch)
        assert sorted(file.name for file in tmp_path.glob("*.index")) == ["ckpt-4.index", "ckpt-5.index"]
        assert Checkpoint(tmp_path, again, [], self.IDENTITY).restore() == 5

    def test_killed_while_the_first_checkpoint_was_written(self, tmp_path):
        model = self.model()
        Checkpoint(tmp_path, model, [{"epoch": 0}], self.IDENTITY).on_epoch_end(0)
        assert holds_run(tmp_path)
        (tmp_path / "ckpt-1.index").write_bytes((tmp_path / "ckpt-1.index").read_bytes()[:50])
        assert holds_run(tmp_path)  # it was finished once
        (tmp_path / "checkpoint").unlink()
        assert not holds_run(tmp_path)
        history = []
        anew = Checkpoint(tmp_path, model, history, self.IDENTITY)
        assert anew.restore() == 0
        history.append({"epoch": 0})
        anew.on_epoch_end(0)
        assert Checkpoint(tmp_path, model, [], self.IDENTITY).restore() == 1

    def test_without_leave_to_write(self, tmp_path):
        Checkpoint(tmp_path / "c", self.model(), [{"epoch": 0}], self.IDENTITY, write=False).on_epoch_end(0)
        assert not (tmp_path / "c").exists()

    def test_a_checkpoint_of_something_else(self, tmp_path):
        tf.train.Checkpoint(a=tf.Variable(1.0)).save(str(tmp_path / "ckpt"))
        with pytest.raises(ValueError, match="Expected a checkpoint of this package. Received "):
            Checkpoint(tmp_path, self.model(), [], self.IDENTITY).restore()
