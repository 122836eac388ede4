from __future__ import annotations

import contextlib
import csv
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from art_versatile.training.folder import RunFolder, draw_panel


def flat(*values):
    """One grey image of 4x4 pixels for each value."""
    return np.array(values, np.float32)[:, None, None, None] * np.ones((4, 4, 3), np.float32)


def make_model():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(3, 1)(image), name="tiny")
    model.compile(keras.optimizers.SGD(0.25), "mae")
    return model


class Logs(keras.callbacks.Callback):
    """Puts values into the logs, and stops training somewhere."""

    def __init__(self, values=(), stop=None):
        super().__init__()
        self.values, self.stop, self.epoch = values, stop, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.stop:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if epoch < len(self.values) and self.values[epoch] is not None:
            logs["m"] = self.values[epoch]


def fit(folder, epochs=2, values=(), stop=None, **options):
    """Epochs of two steps; what was kept where, by epoch."""
    model, kept = make_model(), []
    done = folder.restore([*model.variables, *model.optimizer.variables], {"seed": 1})

    def save(network, path, card):
        assert network is model
        kept.append((path.name, card["epoch"]["epoch"]))

    driver = folder.callback(lambda: contextlib.nullcontext(model), save, card={"note": 1}, **options)
    data = tf.data.Dataset.from_tensors((flat(0.1, 0.2), flat(0.3, 0.4))).repeat()
    model.fit(
        data,
        epochs=epochs,
        initial_epoch=done,
        steps_per_epoch=2,
        callbacks=[Logs(values, stop), driver],
        shuffle=False,
        verbose=0,
    )
    return kept


class TestHistory:
    def test_history_and_files(self, tmp_path):
        folder = RunFolder(tmp_path / "run", monitor="m")
        fit(folder, values=[0.5, 0.25], examples=(flat(0.1), flat(0.2)))
        assert [set(row) for row in folder.history] == [{"epoch", "loss", "m", "learning_rate"}] * 2
        assert [(row["epoch"], row["m"], row["learning_rate"]) for row in folder.history] == [
            (0, 0.5, 0.25),
            (1, 0.25, 0.25),
        ]
        with (tmp_path / "run" / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [{key: float(value) for key, value in row.items()} for row in rows] == folder.history
        names = ["checkpoints", "curves.png", "log.csv", "panel.png"]
        assert sorted(f.name for f in (tmp_path / "run").iterdir()) == names

    def test_an_epoch_done_again_takes_the_place_of_the_first(self):
        folder = RunFolder(None)
        for epoch, loss in ((0, 3.0), (1, 2.0), (1, 1.0)):
            folder.add(epoch, {"loss": tf.constant(loss)}, 0.1)
        assert [row["loss"] for row in folder.history] == [3.0, 1.0]

    @pytest.mark.parametrize("logs", [{"loss": 0.0}, {"loss": 1.0, "val_clean_accuracy": 0.5, "val_psnr": 30.0}])
    def test_curves(self, tmp_path, logs):
        """A first loss of zero, and none or some accuracies."""
        folder = RunFolder(tmp_path)
        for epoch in range(2):
            folder.add(epoch, logs, 0.1)
        with Image.open(tmp_path / "curves.png") as curves:
            assert len(np.unique(np.asarray(curves.convert("RGB")).reshape(-1, 3), axis=0)) > 20

    def test_without_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folder = RunFolder(None, monitor="m")
        assert fit(folder, values=[0.1, 0.2]) == []
        assert len(folder.history) == 2
        assert not list(tmp_path.iterdir())


class TestKeeping:
    # A value a measured epoch; None where nothing was measured.
    @pytest.mark.parametrize(
        ("values", "patience", "best", "epochs"),
        [
            ([0.1, 0.3, 0.2, 0.3, 0.4], None, [0, 1, 4], 5),
            ([0.1, 0.3, 0.2, 0.3, 0.4], 2, [0, 1], 4),
            ([0.5, None, 0.4, None, 0.3], 2, [0], 5),
            ([0.5, 0.5, 0.6], 1, [0], 2),
        ],
    )
    def test_last_and_best(self, tmp_path, values, patience, best, epochs):
        folder = RunFolder(tmp_path, monitor="m", patience=patience)
        kept = fit(folder, epochs=5, values=values)
        assert [epoch for name, epoch in kept if name == "last"] == list(range(epochs))
        assert [epoch for name, epoch in kept if name == "best"] == best
        assert folder.patience_is_over == (patience is not None)

    # (epoch, step) after which a callback asks for the end; the checkpoints of two epochs of two steps.
    @pytest.mark.parametrize(
        ("stop", "kept"), [((0, 0), []), ((1, 0), [1]), ((0, 1), [1]), ((1, 1), [1, 2]), (None, [1, 2])]
    )
    def test_an_epoch_stopped_halfway_has_no_checkpoint(self, tmp_path, caplog, stop, kept):
        fit(RunFolder(tmp_path), stop=stop)
        found = sorted(f.name for f in (tmp_path / "checkpoints").glob("*.index"))
        assert found == [f"ckpt-{number}.index" for number in kept]
        assert ("stopped after 1 of 2 steps" in caplog.text) == (stop is not None and stop[1] == 0)

    def test_a_run_goes_on(self, tmp_path):
        fit(RunFolder(tmp_path), epochs=1)
        with pytest.raises(FileExistsError, match="Expected no run in .*; resume=True goes on with it. Received one"):
            RunFolder(tmp_path)
        folder = RunFolder(tmp_path, resume=True)
        assert fit(folder, epochs=3) == [("last", 1), ("last", 2)]
        assert [row["epoch"] for row in folder.history] == [0, 1, 2]


class TestPanel:
    def test_rows(self):
        drawn = draw_panel(flat(0.1, 0.6), flat(0.9, 0.4), flat(0.2, 0.3))
        assert drawn.shape == (16, 8, 3)
        # Adversarial; purified; clean; grey plus four times what was removed, clipped.
        expected = [[0.1, 0.6], [0.9, 0.4], [0.2, 0.3], [0.0, 1.0]]
        np.testing.assert_allclose(drawn[1::4, 1::4, 0], expected, atol=1e-6)

    def test_file(self, tmp_path):
        fit(RunFolder(tmp_path), examples=(np.ones((2, 6, 7, 3), np.float32), np.zeros((2, 6, 7, 3), np.float32)))
        with Image.open(tmp_path / "panel.png") as picture:
            assert picture.size == (14, 24)


class TestTensorBoard:
    def test_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(ModuleNotFoundError, match=r"Expected the package tensorboard \(pip install"):
            RunFolder(tmp_path / "run", tensorboard=True)
        assert not (tmp_path / "run").exists()

    def test_events(self, tmp_path):
        pytest.importorskip("tensorboard")
        folder = RunFolder(tmp_path, tensorboard=True)
        fit(folder, examples=(flat(0.5), flat(0.5)))
        (file,) = (tmp_path / "tensorboard").glob("events.*")
        events = list(tf.compat.v1.train.summary_iterator(str(file)))
        scalars = {e.step: tf.make_ndarray(v.tensor) for e in events for v in e.summary.value if v.tag == "loss"}
        assert scalars == {row["epoch"]: pytest.approx(row["loss"]) for row in folder.history}
        assert "adversarial, purified, clean, removed x4" in {v.tag for e in events for v in e.summary.value}
