from __future__ import annotations

import keras
import numpy as np
import pytest

from art_versatile import VersatilePurifier
from art_versatile.pairs import MemoryPairs
from art_versatile.training.monitor import Monitor, RecoveredAccuracy, Validation, patience_is_over, purifying


def flat(*values):
    """One grey image of 4x4 pixels for each value."""
    return np.array(values, np.float32)[:, None, None, None] * np.ones((4, 4, 3), np.float32)


def bright(images):
    """Class 1 from a mean of 0.5 on."""
    level = images.mean((1, 2, 3))
    return np.stack([level < 0.5, level >= 0.5], 1).astype(float)


class TestRecoveredAccuracy:
    # Purified into 1 - x: adversarial 0.9 0.8 0.3 0.4, clean 0.8 0.7 0.6 0.1.
    HELD = {  # noqa: RUF012
        "labels": np.array([1, 1, 1, 0]), "indices": np.array([0, 1, 0, 1]), "attacks": ("A", "B", "none"),
    }  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    @pytest.mark.parametrize("clip_values", [(0, 1), (0, 255), (-1, 1)])
    def test_by_hand(self, batch_size, clip_values):
        low, high = clip_values
        images = (low + (high - low) * flat(*values) for values in ((0.1, 0.2, 0.7, 0.6), (0.2, 0.3, 0.4, 0.9)))
        pairs = MemoryPairs(*images, **self.HELD, clip_values=clip_values)
        measured = RecoveredAccuracy(pairs, bright, batch_size=batch_size)(lambda x: 1 - x)
        # Adversarial: right, right, wrong, right. Clean: right, right, right, right.
        # Errors of purified adversarial against clean: 0.7, 0.5, -0.1, -0.5.
        assert measured == {
            "val_clean_accuracy": 1.0,
            "val_recovered_accuracy": 0.75,
            "val_psnr": pytest.approx(-10 * np.log10((0.49 + 0.25 + 0.01 + 0.25) / 4), rel=1e-5),
            "val_accuracy/A": 0.5,
            "val_accuracy/B": 1.0,
        }
        assert Validation(pairs, bright).measures == tuple(measured)

    def test_equal_images_have_a_finite_psnr(self):
        pairs = MemoryPairs(flat(0.5), flat(0.5), np.array([0]))
        assert RecoveredAccuracy(pairs, bright)(lambda x: x)["val_psnr"] == pytest.approx(120)


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 7, 5, 3), (2, 1, 2, 3)])
def test_purifying_pads_as_the_purifier_does(shape):
    """And sees new weights."""
    image = keras.Input((None, None, 3))
    generator = keras.Model(image, keras.layers.DepthwiseConv2D(5, padding="same")(image))
    generator.size_multiple = 8
    images = np.random.default_rng(0).random(shape, np.float32)
    purify = purifying(generator)
    for factor in (1.0, 0.5):
        generator.set_weights([factor * w for w in generator.get_weights()])
        purified = VersatilePurifier(generator)(images)[0]
        np.testing.assert_allclose(np.clip(purify(images), 0, 1), purified, atol=1e-5)


class Model:
    def __init__(self):
        self.trainable_variables = [keras.Variable([1.0, 2.0], name="good")]


def attached(monitor, epochs=5):
    monitor.set_model(Model())
    monitor.set_params({"epochs": epochs})
    return monitor


class TestMonitor:
    def test_every_and_the_last_epoch(self):
        monitor, measured = attached(Monitor((lambda: {"val_x": 1.0}, 2), (lambda: {"val_y": 2.0}, 3))), []
        for epoch in range(5):
            logs = {"loss": 1.0}
            monitor.on_epoch_end(epoch, logs)
            measured.append(logs.keys() - {"loss"})
        assert measured == [set(), {"val_x"}, {"val_y"}, {"val_x"}, {"val_x", "val_y"}]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_loss(self, value):
        monitor = attached(Monitor())
        monitor.on_epoch_begin(3)
        monitor.on_train_batch_end(0, {"loss": 1.0})
        message = r"Received -?(nan|inf) as pixel in epoch 3, step 7\. The last checkpoint .*, if any, is kept"
        with pytest.raises(FloatingPointError, match=message):
            monitor.on_train_batch_end(7, {"loss": 1.0, "pixel": value})

    def test_weights(self):
        monitor = attached(Monitor((lambda: pytest.fail("measured"), 1)), epochs=9)
        monitor.model.trainable_variables.append(keras.Variable([1.0, np.inf], name="bad"))
        with pytest.raises(FloatingPointError, match="Received NaN or infinity in bad after epoch 2"):
            monitor.on_epoch_end(2, {})


# A value a measured epoch; None where nothing was measured.
@pytest.mark.parametrize(
    ("values", "patience", "over"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.4], None, []),
        ([0.1, 0.3, 0.2, 0.3, 0.4], 2, [3]),
        ([0.1, 0.3, 0.2, 0.4, 0.1], 2, []),
        ([0.5, None, 0.4, None, 0.3], 2, [4]),
        ([0.5, 0.5], 1, [1]),
        ([None, None], 1, []),
        ([], 1, []),
    ],
)
def test_patience(values, patience, over):
    history = [{"epoch": i} | ({} if value is None else {"m": value}) for i, value in enumerate(values)]
    assert [i for i in range(len(values)) if patience_is_over(history[: i + 1], "m", patience)] == over
