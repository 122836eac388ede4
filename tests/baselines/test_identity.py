from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.baselines import Identity


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_changes(tiny_images, dtype):
    x = tiny_images.astype(dtype)
    answer, y = Identity()(x, "labels")
    np.testing.assert_array_equal(answer, tiny_images)
    assert answer.dtype == dtype
    assert y == "labels"


def test_channels_first_and_another_range(tiny_images):
    x = 255 * tiny_images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(Identity(clip_values=(0, 255), channels_first=True)(x)[0], x)
    with pytest.raises(ValueError, match="Expected x inside clip_values"):
        Identity()(255 * tiny_images)


def test_its_gradient_is_one(tiny_images):
    with tf.GradientTape() as tape:
        x = tf.constant(tiny_images)
        tape.watch(x)
        answer = Identity().forward(x)[0]
    np.testing.assert_array_equal(tape.gradient(answer, x), np.ones_like(tiny_images))


def test_unknown_parameters():
    with pytest.raises(ValueError, match=r"Expected parameters among \['clip_values', 'channels_first'\]"):
        Identity().set_params(strength=1)
