from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from art_versatile.pairs import MemoryPairs
from art_versatile.pix2pix import CompactGenerator, LossSchedule
from art_versatile.training.updating import SCORE, UpdateValidation, accuracies, prepare_update

_spec = importlib.util.spec_from_file_location("training_process", Path(__file__).parent / "process.py")
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)

PLAIN = dataclasses.replace(
    process.PRESET, features=None, discriminator=None, schedule=LossSchedule([(3, 10.0, 1.0)]), clean_share=0.0
)


def brightness(images):
    """Four classes by the level of an image."""
    level = images.mean(axis=(1, 2, 3))
    return -np.abs(level[:, None] - np.linspace(0.4, 0.6, 4))


def made(name, shift, count=12):
    """Pairs of an attack that makes images brighter or darker: another class."""
    clean = process.arrays(count).clean
    labels = brightness(clean).argmax(1)
    return MemoryPairs(np.clip(clean + np.float32(shift), 0, 1), clean, labels, attacks=[name])


def held(*parts):
    from art_versatile.pairs.replay import joined

    return joined(parts)


NEW, OLD = made("new", 0.15), made("old", -0.1)
HELD = held(made("new", 0.15, 6), made("old", -0.1, 6))


def generator(seed=2):
    options = {**process.PRESET.generator_options, "noise": 0.0}
    return CompactGenerator(**options, seed=seed)


def prepare(network, out, **changes):
    arguments = {
        "preset": PLAIN, "new": ["new"], "replayed": ["old"], "held": ["new", "old"], "classify": brightness,
        "tolerance": 1.0, "seed": 3, "verbose": False, **changes,
    }  # fmt: skip
    return prepare_update(network, process.SHAPE, out, **arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted update: its result, its generator, its folder."""
    network, out = generator(), tmp_path_factory.mktemp("update") / "run"
    return prepare(network, out).run(NEW, OLD, HELD), network, out


class TestValidation:
    VALUES = {"val_clean_accuracy": 0.9, "val_old_accuracy": 0.8, "val_new_accuracy": 0.5}  # noqa: RUF012

    def judged(self, before, tolerance):
        """The score of purified images that a classifier answers as it is told to."""
        numbers = iter([1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0])  # adversarial: 3 of 4 old, 0 of 2 new, clean 5 of 6

        def classify(images):
            return np.eye(2)[[next(numbers) for _ in images]]

        images = np.zeros((6, 4, 4, 3), np.float32)
        pairs = MemoryPairs(images, images, np.ones(6, int), np.array([0, 0, 1, 1, 2, 2]), ["A", "B", "N"])
        validation = UpdateValidation(pairs, classify, new=("N",), tolerance=tolerance, before=before)
        found = validation.measurement(pairs)(lambda x: x)
        assert set(found) == set(validation.measures) if before else {*found, SCORE} == set(validation.measures)
        return found

    def test_means_are_over_pairs(self):
        found = self.judged({}, 0.0)
        assert (found["val_old_accuracy"], found["val_new_accuracy"]) == (0.75, 0.0)
        assert found["val_clean_accuracy"] == pytest.approx(5 / 6)
        assert SCORE not in found

    @pytest.mark.parametrize(
        ("clean", "old", "tolerance", "score"),
        [
            (5 / 6, 0.75, 0.0, 0.0),  # nothing has dropped: the new accuracy
            (0.5, 0.2, 0.0, 0.0),
            (5 / 6, 0.85, 0.1, 0.0),  # just within
            (5 / 6, 0.85, 0.09, -0.1),
            (1.0, 0.85, 0.1, -1 / 6),  # clean images count as well; the larger drop
        ],
    )
    def test_score(self, clean, old, tolerance, score):
        before = {"val_clean_accuracy": clean, "val_old_accuracy": old, "val_new_accuracy": 0.0}
        assert self.judged(before, tolerance)[SCORE] == pytest.approx(score)

    def test_accuracies(self):
        row = {"loss": 1.0, "val_clean_accuracy": 0.9, "val_accuracy/A": 0.1, "val_score": 0.2}
        assert accuracies(row) == {"clean": 0.9, "A": 0.1}


class TestRun:
    def test_the_best_epoch_is_what_is_left(self, whole):
        result, network, out = whole
        assert result.accepted
        best = max(result.history, key=lambda row: row[SCORE])
        assert result.epoch == best["epoch"]
        answers = {}
        for name, part in (("new", made("new", 0.15, 6)), ("old", made("old", -0.1, 6))):
            found = brightness(network(part.adversarial, training=False).numpy()).argmax(1) == part.labels
            answers[name] = found.mean()
        assert {name: result.after[name] for name in answers} == pytest.approx(answers)
        assert result.after["new"] > result.before["new"]
        fresh = brightness(generator()(made("new", 0.15, 6).adversarial, training=False).numpy())
        assert result.before["new"] == pytest.approx((fresh.argmax(1) == made("new", 0.15, 6).labels).mean())
        assert result.seconds == sum(row["seconds"] for row in result.history) > 0
        assert json.loads((out / "best" / "card.json").read_text())["epoch"]["epoch"] == result.epoch

    def test_the_run_says_what_it_began_with(self, whole):
        facts = whole[0].parameters["distillation"]
        assert (facts["weight"], facts["names"]) == (1.0, ["old"])
        assert whole[0].parameters["attacks"] == ["new", "old"]

    def test_stopped_and_gone_on_with(self, whole, tmp_path):
        """The same weights; the costs of both calls."""

        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    raise KeyboardInterrupt

        network = generator()
        before = network.get_weights()
        with pytest.raises(KeyboardInterrupt):
            prepare(network, tmp_path / "run", callbacks=[Stop()]).run(NEW, OLD, HELD)
        for a, b in zip(network.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        result = prepare(network, tmp_path / "run", resume=True).run(NEW, OLD, HELD)
        for a, b in zip(network.get_weights(), whole[1].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert result.after == whole[0].after
        assert result.before == whole[0].before
        assert len(result.history) == 3
        with pytest.raises(ValueError, match="distillation"):
            prepare(generator(seed=9), tmp_path / "run", resume=True).run(NEW, OLD, HELD)
        with pytest.raises(FileExistsError, match="Expected no run"):
            prepare(network, tmp_path / "run")

    def test_what_is_not_better_is_not_kept(self, tmp_path):
        """A rate at which nothing moves: the generator stays, to the bit."""
        network = generator()
        before = network.get_weights()
        result = prepare(network, tmp_path / "run", learning_rate=1e-12).run(NEW, OLD, HELD)
        assert not result.accepted
        for a, b in zip(network.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"replayed": ["new"]}, "other names"),
            ({"held": ["old"]}, "held pairs of all new attacks"),
            ({"replayed": []}, "distillation=0"),
            ({"tolerance": 2}, "tolerance"),
            ({"distillation": -1.0}, "distillation"),
        ],
    )
    def test_refused(self, tmp_path, changes, message):
        with pytest.raises(ValueError, match=message):
            prepare(generator(), tmp_path / "never", **changes)
        assert not (tmp_path / "never").exists()


def test_distillation_keeps_the_old_answers(tmp_path):
    """With it the answers on old pairs stay nearer to the former ones than without."""
    moved = []
    for weight in (0.0, 5.0):
        network = generator()
        former = network(OLD.adversarial, training=False).numpy()
        prepare(network, tmp_path / str(weight), distillation=weight).run(NEW, OLD, HELD)
        moved.append(np.abs(network(OLD.adversarial, training=False).numpy() - former).mean())
    assert moved[1] < 0.9 * moved[0]
