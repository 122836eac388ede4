"""The difference-of-logits-ratio against ART's and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from compiled_cases import CLASSES, N, apgd, close, make_classifier

from art_versatile.attacks.compiled import DifferenceLogitsRatio


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_dlr_equals_arts(model, x, y, reduction):
    art = apgd("difference_logits_ratio")(make_classifier(model)).estimator.loss_object
    ours = DifferenceLogitsRatio()
    scores = tf.constant(np.random.default_rng(4).normal(size=(N, CLASSES)), tf.float32)
    art.reduction = ours.reduction = reduction
    values, gradients = [], []
    for loss in (art, ours):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(y, scores)
        values.append(value.numpy())
        gradients.append(tape.gradient(value, scores).numpy())
    close(*values)
    close(*gradients)


def test_dlr_by_hand():
    loss = DifferenceLogitsRatio()
    loss.reduction = "none"
    # right: -(4 - 3) / (4 - 1); wrong: -(1 - 4) / (4 - 1)
    scores = tf.constant([[1.0, 4.0, 3.0, 0.0], [1.0, 4.0, 3.0, 0.0]])
    close(loss(tf.constant([[0, 1, 0, 0], [1, 0, 0, 0]]), scores).numpy(), [-1 / 3, 1.0])
    loss.reduction = "sum_over_batch_size"
    close(loss(tf.constant([[0, 1, 0, 0], [1, 0, 0, 0]]), scores).numpy(), 1 / 3)


def test_dlr_errors():
    with pytest.raises(ValueError, match=r"Expected at least 3 classes. Received 2"):
        DifferenceLogitsRatio()(tf.constant([[0, 1]]), tf.constant([[0.5, 1.0]]))
    loss = DifferenceLogitsRatio()
    loss.reduction = "max"
    with pytest.raises(ValueError, match=r"Expected reduction to be none, sum, mean .* Received 'max'"):
        loss(tf.constant([[0, 1, 0]]), tf.constant([[0.5, 1.0, 0.0]]))
    assert repr(loss) == "DifferenceLogitsRatio(reduction='max')"
