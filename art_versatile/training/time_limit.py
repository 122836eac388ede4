"""A run that ends after some minutes, at the end of an epoch."""

from __future__ import annotations

import time
from typing import Any

import keras

from art_versatile._checks import check_positive

__all__ = ["TimeLimit"]


class TimeLimit(keras.callbacks.Callback):
    """
    Ends a run at the end of the epoch in which the time has passed: weights and checkpoint of that epoch are written.

    :param minutes: Minutes from the beginning of the training; of each call, where a run goes on.
    :raises ValueError: If it is not above 0.
    """

    def __init__(self, minutes: float) -> None:
        super().__init__()
        self.minutes = check_positive("minutes", minutes)
        self._started = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop where it is time to."""
        if time.monotonic() - self._started >= 60 * self.minutes:
            self.model.stop_training = True
