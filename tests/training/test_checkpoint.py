from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pix2pix import CompactGenerator, Pix2Pix, patchgan
from art_versatile.training.checkpoint import Checkpoint, checkpoints_in, holds_run


def make_generator(seed=0):
    generator = CompactGenerator(widths=(4, 4), blocks=(1, 1), factor=2, sigmas=(0.0, 1.0), noise=0.0, seed=seed)
    rng = np.random.default_rng(seed)
    generator.set_weights([w + 0.05 * rng.standard_normal(w.shape) for w in generator.get_weights()])
    return generator


IDENTITY = {"seed": 1, "schedule": [(2, 100.0, 1.0)]}


def make_model(seed=0):
    model = Pix2Pix(make_generator(seed), patchgan(2, seed=seed))
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5), keras.optimizers.Adam(1e-2))
    return model


def batch():
    images = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
    return tf.constant(images), tf.constant(1 - images)


def state(model):
    parts = [model.generator, model.discriminator, model.optimizer, model.discriminator_optimizer]
    return [v.numpy() for part in parts for v in part.variables]


def open_checkpoint(folder, model, identity=IDENTITY, **options):
    parts = [model.generator, model.discriminator, model.optimizer, model.discriminator_optimizer]
    return Checkpoint(folder, [variable for part in parts for variable in part.variables], identity, **options)


def rows(count):
    return [{"epoch": epoch} for epoch in range(count)]


def test_everything_comes_back(tmp_path):
    model, history = make_model(), [{"epoch": 0, "loss": 0.1 + 0.2}]
    checkpoint = open_checkpoint(tmp_path, model)
    assert checkpoint.restore() == []
    model.train_step(batch())
    checkpoint.save(history)
    model.train_step(batch())
    history.append({"epoch": 1, "loss": 0.2})
    checkpoint.save(history)
    again = make_model(seed=1)
    before = state(again)
    assert open_checkpoint(tmp_path, again).restore() == history
    for got, want, was in zip(state(again), state(model), before, strict=True):
        np.testing.assert_array_equal(got, want)
        assert not np.array_equal(got, was) or not want.any() or want.size == 1


def test_two_are_kept(tmp_path):
    checkpoint = open_checkpoint(tmp_path, make_model())
    for count in range(1, 5):
        checkpoint.save(rows(count))
    assert sorted(f.name for f in tmp_path.glob("*.index")) == ["ckpt-3.index", "ckpt-4.index"]


@pytest.mark.parametrize(
    ("identity", "detail"),
    [
        ({**IDENTITY, "seed": 2}, "seed: 1 there, 2 now"),
        ({**IDENTITY, "new": True}, "new: None there, True now"),
        ({"seed": 1}, r"schedule: \[\[2, 100.0, 1.0\]\] there, None now"),
    ],
)
def test_another_identity(tmp_path, identity, detail):
    open_checkpoint(tmp_path, make_model()).save(rows(1))
    model = make_model(seed=1)
    before = state(model)
    with pytest.raises(ValueError, match=rf"Received others: {detail}\."):
        open_checkpoint(tmp_path, model, identity).restore()
    for a, b in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)


DAMAGES = {
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


def spoil(folder, damage, number):
    DAMAGES[damage](folder / f"ckpt-{number}.index", folder / f"ckpt-{number}.data-00000-of-00001")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(tmp_path, caplog, damage):
    """The one before it counts; without one the model stays as it is."""
    model = make_model()
    checkpoint = open_checkpoint(tmp_path, model)
    checkpoint.save(rows(1))
    first = state(model)
    model.generator.set_weights([w + 1 for w in model.generator.get_weights()])
    checkpoint.save(rows(2))
    spoil(tmp_path, damage, 2)
    again = make_model(seed=1)
    other = open_checkpoint(tmp_path, again)
    assert other.restore() == rows(1)
    for got, want in zip(state(again), first, strict=True):
        np.testing.assert_array_equal(got, want)
    assert "ckpt-2 cannot be read" in caplog.text
    assert "ckpt-1" not in caplog.text
    other.save(rows(2))  # the epoch done again takes the place of the damaged one
    assert open_checkpoint(tmp_path, again).restore() == rows(2)
    for number in (1, 2):
        spoil(tmp_path, damage, number)
    before = state(again)
    with pytest.raises(ValueError, match="Expected a checkpoint of this package. Received .*ckpt-2"):
        open_checkpoint(tmp_path, again).restore()
    for got, want in zip(state(again), before, strict=True):
        np.testing.assert_array_equal(got, want)


LISTS = {
    "whole": lambda place: None,
    "stale": lambda place: place.write_text('model_checkpoint_path: "ckpt-1"\nall_model_checkpoint_paths: "ckpt-1"\n'),
    "missing": lambda place: place.unlink(),
    "empty": lambda place: place.write_bytes(b""),
    "cut off": lambda place: place.write_bytes(b"model_checkpoint_pa"),
}


@pytest.mark.parametrize("listed", LISTS)
def test_a_damaged_list_of_checkpoints(tmp_path, listed):
    """TensorFlow's text file beside them: the checkpoints themselves count."""
    model = make_model()
    checkpoint = open_checkpoint(tmp_path, model)
    for count in (1, 2):
        checkpoint.save(rows(count))
    LISTS[listed](tmp_path / "checkpoint")
    assert sorted(Path(path).name for path in checkpoints_in(tmp_path)) == ["ckpt-1", "ckpt-2"]
    again = make_model(seed=1)
    assert open_checkpoint(tmp_path, again).restore() == rows(2)
    for got, want in zip(state(again), state(model), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("listed", LISTS)
@pytest.mark.parametrize("write", [True, False])
def test_killed_while_a_checkpoint_was_written(tmp_path, listed, write):
    """TensorFlow writes an index in place: a cut-off one, newer than its list, does not hide the one before."""
    checkpoint = open_checkpoint(tmp_path, make_model())
    for count in (1, 2, 3):
        checkpoint.save(rows(count))
    index, listing = tmp_path / "ckpt-3.index", tmp_path / "checkpoint"
    index.write_bytes(index.read_bytes()[:50])
    LISTS[listed](listing)
    before = listing.read_bytes() if listing.exists() else None
    again = make_model(seed=1)
    other = open_checkpoint(tmp_path, again, write=write)
    assert other.restore() == rows(2)
    if not write:
        assert (listing.read_bytes() if listing.exists() else None) == before
        return
    for count in (3, 4, 5):
        other.save(rows(count))
    assert sorted(file.name for file in tmp_path.glob("*.index")) == ["ckpt-4.index", "ckpt-5.index"]
    assert open_checkpoint(tmp_path, again).restore() == rows(5)


def test_killed_while_the_first_checkpoint_was_written(tmp_path):
    model = make_model()
    open_checkpoint(tmp_path, model).save(rows(1))
    assert holds_run(tmp_path)
    (tmp_path / "ckpt-1.index").write_bytes((tmp_path / "ckpt-1.index").read_bytes()[:50])
    assert holds_run(tmp_path)  # it was finished once
    (tmp_path / "checkpoint").unlink()
    assert not holds_run(tmp_path)
    anew = open_checkpoint(tmp_path, model)
    assert anew.restore() == []
    anew.save(rows(1))
    assert open_checkpoint(tmp_path, model).restore() == rows(1)


def test_without_leave_to_write(tmp_path):
    open_checkpoint(tmp_path / "c", make_model(), write=False).save(rows(1))
    assert not (tmp_path / "c").exists()


def test_a_checkpoint_of_something_else(tmp_path):
    tf.train.Checkpoint(a=tf.Variable(1.0)).save(str(tmp_path / "ckpt"))
    with pytest.raises(ValueError, match="Expected a checkpoint of this package. Received "):
        open_checkpoint(tmp_path, make_model()).restore()
