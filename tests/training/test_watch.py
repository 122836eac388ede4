from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import TensorFlowV2Classifier

from art_versatile import VersatilePurifier
from art_versatile.pairs import MemoryPairs
from art_versatile.pix2pix import LossSchedule
from art_versatile.training import Preset, Training, Watch, train
from art_versatile.training.inner import InnerAttack
from art_versatile.training.watch import overfitted

EPS = 0.1


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0.1, 0.9, (40, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def classifier():
    """Two classes, by the sign of a plane: what an attack does to it is known."""
    image = keras.Input((8, 8, 3))
    direction = np.random.default_rng(1).normal(size=192).astype(np.float32)
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)), name="plane")
    offset = -direction.sum() / 2
    dense.set_weights([np.stack([-direction, direction], 1), np.array([-offset, offset], np.float32)])
    return model


@pytest.fixture(scope="module")
def identity():
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Activation("linear")(image))


def test_accuracies_are_those_of_a_plane(classifier, identity, images):
    """Held is what is farther from the plane (in L1 of its normal, pixels at the border apart) than eps."""
    eps = 0.02  # inside [0, 1] everywhere: nothing is clipped
    weights, bias = classifier.get_weights()
    margin = np.abs(images.reshape(40, -1) @ weights[:, 1] + bias[1])
    held = margin > eps * np.abs(weights[:, 1]).sum()
    assert 0.2 < held.mean() < 0.8
    found = Watch(images, classifier, eps, batch_size=16).measuring(identity)(None)
    # PGD and, with a step of 1.25 eps from anywhere in the ball, most of one step reach the corner.
    assert found["val_pgd_accuracy"] == held.mean()
    assert held.mean() <= found["val_fgsm_accuracy"] < held.mean() + 0.3
    assert found["val_unattacked_accuracy"] == 1.0


def test_other_budgets_norms_and_seeds(classifier, identity, images):
    weights, bias = classifier.get_weights()
    margin = np.abs(images.reshape(40, -1) @ weights[:, 1] + bias[1])
    measure = Watch(images, classifier, 0.02).measuring(identity)
    found = measure(0.01)
    at_half = (margin > 0.01 * np.abs(weights[:, 1]).sum()).mean()
    assert (found["val_eps"], found["val_pgd_accuracy_at_eps"]) == (0.01, at_half)
    assert found["val_pgd_accuracy"] < at_half
    assert measure(0.01) == found
    other = Watch(images, classifier, 0.02, seed=1).measuring(identity)(None)
    assert other["val_fgsm_accuracy"] != found["val_fgsm_accuracy"]
    distance = margin / np.linalg.norm(weights[:, 1])
    in_l2 = Watch(images, classifier, float(np.median(distance)), norm="2").measuring(identity)(None)
    assert in_l2["val_pgd_accuracy"] == pytest.approx(0.5, abs=0.05)


def test_pgd_is_as_strong_as_arts_through_a_purifier_in_any_precision(images):
    """In float32 whatever the training computes in, at a size that the generator does not take."""
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(2)]
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="softplus", kernel_initializer=init[0])(image)
    x = keras.layers.Dense(5, kernel_initializer=init[1])(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.Rescaling(20.0)(x))
    image = keras.Input((None, None, 3))
    generator = keras.Model(image, keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=init[0])(image))
    generator.size_multiple = 3
    defended = TensorFlowV2Classifier(
        model=model, nb_classes=5, input_shape=(8, 8, 3), clip_values=(0.0, 1.0),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        preprocessing_defences=[VersatilePurifier(generator)],
    )  # fmt: skip
    wanted = np.argmax(model(images), axis=1)
    steps = {"eps_step": 0.0025, "max_iter": 10, "num_random_init": 1}
    attack = ProjectedGradientDescent(defended, eps=0.01, verbose=False, **steps)
    x_adv = attack.generate(images, np.eye(5, dtype=np.float32)[wanted])
    expected = np.mean(defended.predict(x_adv).argmax(1) == wanted)
    generator.layers[1].dtype_policy = "mixed_bfloat16"
    found = Watch(images, model, 0.01).measuring(generator)(None)
    assert generator.layers[1].compute_dtype == "bfloat16"
    assert found["val_unattacked_accuracy"] == np.mean(defended.predict(images).argmax(1) == wanted)
    assert found["val_pgd_accuracy"] == pytest.approx(expected, abs=0.05)
    assert found["val_pgd_accuracy"] < found["val_unattacked_accuracy"]


# PGD and FGSM accuracies of measured epochs; None where nothing was measured.
@pytest.mark.parametrize(
    ("rows", "over"),
    [
        ([(0.3, 0.4), (0.4, 0.5), (0.1, 0.9)], [2]),
        ([(0.4, 0.5), None, (0.1, 0.9), None], [2, 3]),
        ([(0.4, 0.5), (0.1, 0.5)], []),  # both fall: no overfitting, but a bad step
        ([(0.4, 0.5), (0.31, 0.9)], []),  # within the noise of few images
        ([(0.4, 0.5), (0.1, 0.9), (0.4, 0.5)], [1]),
        ([None], []),
        ([], []),
    ],
)
def test_catastrophic_overfitting(rows, over):
    history = [{} if row is None else {"val_pgd_accuracy": row[0], "val_fgsm_accuracy": row[1]} for row in rows]
    assert [i for i in range(len(rows)) if overfitted(history[: i + 1], 0.1)] == over
    assert not overfitted(history, None)


PRESET = Preset(
    "compact", {"widths": (4,), "blocks": (1,), "factor": 2}, discriminator=None, features=None, batch_size=8,
    flip=False, schedule=LossSchedule([(4, 1.0, 1.0)]), learning_rate=1e-2, ema=0.5,
)  # fmt: skip


class Stop(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.after


def run(images, out, watch, inner=None, callbacks=(), **options):
    pairs = MemoryPairs(images[:16], images[:16])
    return train(
        pairs, out, preset=PRESET, inner=inner, watch=watch, callbacks=callbacks, verbose=False,
        steps_per_epoch=1, **options,
    )  # fmt: skip


def told(monkeypatch, rows):
    """A watch that measures what it is told, one row a measurement, by how many steps have been made."""

    def measuring(self, generator):
        given = iter(rows)
        return lambda eps: dict(
            zip(("val_pgd_accuracy", "val_fgsm_accuracy", "val_unattacked_accuracy"), next(given), strict=True)
        )

    monkeypatch.setattr(Watch, "measuring", measuring)


ROWS = [(0.2, 0.3, 0.9), (0.5, 0.5, 0.9), (0.1, 0.9, 0.9)]


class Kept(keras.callbacks.Callback):
    """The weights after each epoch, as they are kept."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        with self.model.averaged() as network:
            self.weights.append(network.get_weights())


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_run_stops_and_goes_back(images, classifier, tmp_path, monkeypatch, caplog, on_disk):
    told(monkeypatch, ROWS)
    kept = Kept()
    found = run(images, tmp_path / "run" if on_disk else None, Watch(images, classifier), callbacks=[kept])
    assert found.overfitted
    assert "Catastrophic overfitting in epoch 2" in caplog.text
    assert len(found.history) == 3
    assert [row["val_pgd_accuracy"] for row in found.history] == [0.2, 0.5, 0.1]
    for a, b in zip(found.generator.get_weights(), kept.weights[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(b - c).max() > 0 for b, c in zip(kept.weights[1], kept.weights[2], strict=True))
    if on_disk:
        card = json.loads((tmp_path / "run" / "last" / "card.json").read_text())
        assert [(row["epoch"], row["val_pgd_accuracy"]) for row in card["measured"]] == [(0, 0.2), (1, 0.5), (2, 0.1)]
        assert "val_fgsm_accuracy" in (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
        # Called again it stays where it went back to, without what was in memory.
        again = run(images, tmp_path / "run", Watch(images, classifier), resume=True)
        assert (again.overfitted, len(again.history)) == (True, 3)
        for a, b in zip(again.generator.get_weights(), kept.weights[1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_eps_is_raised_by_what_is_held_and_a_run_goes_on(images, classifier, tmp_path, monkeypatch):
    """Half of the images are held below 0.04, none above: it is raised so far; stopped and resumed, likewise."""

    def measuring(self, generator):
        return lambda eps: dict.fromkeys(self.measures, 0.5) | {
            "val_eps": eps, "val_pgd_accuracy_at_eps": 0.5 * (eps < 0.04)
        }  # fmt: skip

    monkeypatch.setattr(Watch, "measuring", measuring)
    inner = InnerAttack([classifier], 0.2, start=0.1, raise_at=0.3, factor=1.5)
    watch = Watch(images, classifier, 0.02)
    whole = run(images, None, watch, inner)
    assert not whole.overfitted
    assert [row["val_eps"] for row in whole.history] == pytest.approx([0.02, 0.03, 0.045, 0.045])
    run(images, tmp_path / "run", watch, inner, callbacks=[Stop(1)])
    again = run(images, tmp_path / "run", watch, inner, resume=True)
    assert again.history == whole.history
    for a, b in zip(again.generator.get_weights(), whole.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = InnerAttack([classifier], 0.2, start=0.1, raise_at=0.4, factor=1.5)
    with pytest.raises(ValueError, match="raise_at"):
        run(images, tmp_path / "run", watch, other, resume=True)


def test_the_level_is_the_budget():
    inner = InnerAttack([None], 0.2, start=0.1, raise_at=0.5, factor=2.0, spread=(1.0, 1.0), clean_share=0.0)
    assert inner.budgets(tf.constant(2), tf.constant(0.25), tf.constant([0, 0])).numpy() == pytest.approx(0.05)
    assert (inner.level, InnerAttack([None]).level) == (0.1, None)
    assert [inner.raised(0.1, accuracy) for accuracy in (0.49, 0.5)] == [0.1, 0.2]
    assert inner.raised(0.8, 1.0) == 1.0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("images", {"images": np.full((2, 8, 8, 3), 2.0, np.float32)}),
        ("eps", {"eps": -1}),
        ("norm", {"norm": "1"}),
        ("drop", {"drop": 2}),
        ("batch_size", {"batch_size": 0}),
        ("every", {"every": 0}),
        ("steps", {"steps": 0}),
        ("seed", {"seed": -1}),
    ],
)
def test_refused(images, classifier, name, wrong):
    with pytest.raises(ValueError, match=f"Expected {name}"):
        Watch(**{"images": images, "classifier": classifier, **wrong})


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("factor above 1", {"factor": 1.0}),
        ("raise_at", {"raise_at": 2}),
        ("start", {"start": 0.0}),
    ],
)
def test_an_attack_that_is_never_raised(message, wrong):
    with pytest.raises(ValueError, match=message):
        InnerAttack([None], **{"raise_at": 0.5, **wrong})


def test_settings_that_need_a_watch(classifier, images):
    with pytest.raises(ValueError, match="Expected a watch with an attack that is raised"):
        Training(PRESET, inner=InnerAttack([classifier], raise_at=0.5))
    with pytest.raises(ValueError, match="Expected monitor to be one of"):
        Training(PRESET, watch=Watch(images, classifier), monitor="val_recovered_accuracy")
    assert Training(PRESET, watch=Watch(images, classifier)).best_in == "val_pgd_accuracy"
    assert Training(PRESET).best_in is None
