from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pix2pix import CompactGenerator, LossSchedule, PerceptualLoss, Pix2Pix
from art_versatile.pix2pix.distillation import Distillation, frozen_copy

SIZE = {"widths": (4,), "blocks": (1,), "factor": 2, "noise": 0.0}


def batch(kept):
    rng = np.random.default_rng(0)
    adversarial, clean = rng.random((2, 2, 8, 8, 3)).astype(np.float32)
    return tf.constant(adversarial), tf.constant(clean), tf.constant(kept)


def perceptual():
    image = keras.Input((None, None, 3))
    kernel = keras.initializers.GlorotUniform(seed=4)
    model = keras.Model(image, keras.layers.Conv2D(2, 3, kernel_initializer=kernel, name="f")(image))
    return PerceptualLoss(model, ["f"])


def model(weight, **options):
    """A generator that is trained, and keeps the answers of another one."""
    older = CompactGenerator(**SIZE, seed=7)  # new ones answer with what they are given
    rng = np.random.default_rng(7)
    older.set_weights([array + rng.normal(0, 0.1, array.shape) for array in older.get_weights()])
    teacher = frozen_copy(older)
    found = Pix2Pix(
        CompactGenerator(**SIZE, seed=1), schedule=LossSchedule([(1, 10.0, 2.0)]),
        distillation=Distillation(teacher, weight, ("A",)), **options,
    )  # fmt: skip
    found.compile(keras.optimizers.SGD(1.0))
    return found, teacher


def test_the_loss_by_hand():
    """10 L1 + 2 perceptual to the older answer on the first pair, over the two of the batch; three times that."""
    trained, teacher = model(3.0, perceptual=perceptual())
    adversarial, clean, kept = batch([True, False])
    answer, older = trained.generator(adversarial).numpy(), teacher(adversarial).numpy()
    assert np.abs(answer - older).mean() > 0.01
    extractor = perceptual()
    far = [float(extractor(answer[:1], older[:1])), float(extractor(answer, clean))]
    expected = 10 * np.abs(answer[0] - older[0]).mean() / 2 + 2 * far[0] / 2
    losses = {name: float(value) for name, value in trained.train_step((adversarial, clean, kept)).items()}
    assert losses["distillation"] == pytest.approx(expected, rel=1e-4)
    plain = 10 * np.abs(answer - clean).mean() + 2 * far[1]
    assert losses["loss"] == pytest.approx(plain + 3 * expected, rel=1e-4)


def test_what_is_not_kept_gives_no_gradient():
    """The step of a batch of new pairs is the step without distillation."""
    trained, _ = model(3.0, perceptual=perceptual())
    without = Pix2Pix(
        CompactGenerator(**SIZE, seed=1), schedule=LossSchedule([(1, 10.0, 2.0)]), perceptual=perceptual()
    )
    without.compile(keras.optimizers.SGD(1.0))
    adversarial, clean, kept = batch([False, False])
    assert float(trained.train_step((adversarial, clean, kept))["distillation"]) == 0
    without.train_step((adversarial, clean))
    for a, b in zip(trained.generator.get_weights(), without.generator.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_without_a_weight_there_is_no_term():
    trained, _ = model(0.0)
    assert set(trained.train_step(batch([True, True]))) == {"loss", "pixel"}
    assert "distillation" not in trained.test_step(batch([True, True]))


def test_frozen_copy():
    """The same answers, but for the noise at the output and the strength; its weights stay."""
    generator = CompactGenerator(**SIZE, output_noise=0.1, strength=1.5, seed=3)
    copy = frozen_copy(generator)
    images = batch([])[0]
    quiet = CompactGenerator(**SIZE, seed=3)
    quiet.set_weights(generator.get_weights())
    np.testing.assert_array_equal(copy(images), quiet(images))
    assert not copy.trainable_variables
    generator.set_weights([array + 1 for array in generator.get_weights()])
    np.testing.assert_array_equal(copy(images), quiet(images))
    with pytest.raises(ValueError, match="Expected a generator made by build_generator"):
        frozen_copy(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))


def test_identity_is_that_of_the_weights():
    teacher = frozen_copy(CompactGenerator(**SIZE, seed=7))
    identity = Distillation(teacher, 1.0, ["A"]).identity
    assert (identity["weight"], identity["names"]) == (1.0, ["A"])
    assert identity == Distillation(frozen_copy(teacher), 1.0, ["A"]).identity
    assert identity != Distillation(frozen_copy(CompactGenerator(**SIZE, seed=8)), 1.0, ["A"]).identity
    with pytest.raises(ValueError, match="distillation"):
        Distillation(teacher, -1.0, [])
