"""The loss of APGD-DLR in a form that can be traced."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

__all__ = ["DifferenceLogitsRatio"]


class DifferenceLogitsRatio:
    """
    The loss of APGD-DLR (Croce and Hein, arXiv 2003.01690, Eq. 6), vectorised so that it can be traced.

    Equal, value and gradient, to the loss inside ART's ``AutoProjectedGradientDescent``, which loops over the images in
    Python. ``reduction`` is "none", "sum", "mean" or Keras's "sum_over_batch_size".
    """

    def __init__(self) -> None:
        self.reduction = "mean"

    def __call__(self, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        """
        The loss.

        :param y_true: Labels, one-hot (N, C), C >= 3.
        :param y_pred: Logits (N, C).
        :param args: Ignored, as in ART.
        :param kwargs: Ignored, as in ART.
        :return: (N,), or one number.
        """
        if y_pred.shape[1] < 3:
            raise ValueError(f"Expected at least 3 classes. Received {y_pred.shape[1]}.")
        true = tf.argmax(tf.cast(y_true, tf.int32), axis=1, output_type=tf.int32)
        order = tf.argsort(y_pred, axis=1)
        other = tf.where(order[:, -1] == true, order[:, -2], order[:, -1])
        z_1, z_3, z_i, z_y = (
            tf.gather(y_pred, index, axis=1, batch_dims=1) for index in (order[:, -1], order[:, -3], other, true)
        )
        loss = -(z_y - z_i) / (z_1 - z_3)
        if self.reduction == "none":
            return loss
        if self.reduction == "sum":
            return tf.reduce_sum(loss)
        if self.reduction in ("mean", "sum_over_batch_size"):
            return tf.reduce_mean(loss)
        raise ValueError(
            f"Expected reduction to be none, sum, mean or sum_over_batch_size. Received {self.reduction!r}."
        )

    def __repr__(self) -> str:
        return f"DifferenceLogitsRatio(reduction={self.reduction!r})"
