"""Identity: the defence that does nothing, a negative control of an evaluation."""

from __future__ import annotations

import tensorflow as tf

from art_versatile._defence import ImageDefence

__all__ = ["Identity"]


class Identity(ImageDefence):
    """
    Images as they are. Behind it every figure must be that of no defence; where one is not, the evaluation is wrong.

    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param apply_fit: Apply it when the classifier is fitted.
    :param apply_predict: Apply it when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is of another kind or out of its range.
    """

    params = ["clip_values", "channels_first"]  # noqa: RUF012

    def __init__(
        self,
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.clip_values = clip_values
        self.channels_first = channels_first
        self._check_params()

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        return tf.identity(images)
