"""What a training run looks at: accuracy on held pairs, whether all is finite, how far it is, when it should stop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from art_versatile._checks import check_integer
from art_versatile.pairs.memory import MemoryPairs
from art_versatile.pix2pix.generators import purified

__all__ = ["Monitor", "Progress", "RecoveredAccuracy", "Validation", "patience_is_over", "purifying", "since_best"]


@dataclass(frozen=True)
class Validation:
    """
    Held pairs on which a run is measured.

    :param pairs: The pairs with the right labels, or a function that makes them: it is called when the run begins.
    :param classify: Images (N, H, W, 3) in [0, 1] -> class scores (N, classes).
    :param every: Epochs between two measurements; the last epoch is always measured.
    :param attacks: Names of the attacks, where ``pairs`` is a function.
    :raises ValueError: If the pairs have no labels, or a function comes without names.
    """

    pairs: MemoryPairs | Callable[[], MemoryPairs]
    classify: Callable[[np.ndarray], np.ndarray]
    every: int = 1
    attacks: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_integer("every", self.every)
        if isinstance(self.pairs, MemoryPairs):
            if not self.pairs.has_labels:
                raise ValueError("Expected held pairs with labels. Received pairs without.")
            object.__setattr__(self, "attacks", tuple(name for name, count in self.pairs.counts.items() if count))
        elif not callable(self.pairs):
            raise TypeError(f"Expected held pairs in memory, or a function. Received {type(self.pairs).__name__}.")
        elif not self.attacks:
            raise ValueError("Expected names of attacks with a function that makes held pairs. Received none.")

    @property
    def measures(self) -> tuple[str, ...]:
        """Keys that a measurement adds to the logs; an attack without pairs has none."""
        whole = ("val_clean_accuracy", "val_recovered_accuracy", "val_psnr")
        return *whole, *(f"val_accuracy/{name}" for name in self.attacks)

    def load(self) -> MemoryPairs:
        """The pairs."""
        return self.pairs if isinstance(self.pairs, MemoryPairs) else self.pairs()

    def measurement(self, held: MemoryPairs) -> Callable[[Callable[[np.ndarray], np.ndarray]], dict[str, float]]:
        """
        What measures: purify (:func:`purifying`) -> the values of :attr:`measures`.

        :param held: The pairs, from :meth:`load`.
        """
        return RecoveredAccuracy(held, self.classify)


class RecoveredAccuracy:
    """
    Accuracy of a classifier on held pairs behind a generator.

    ``val_clean_accuracy`` on the purified clean images, ``val_recovered_accuracy`` on all purified adversarial ones,
    ``val_accuracy/<attack>`` on those of each attack, ``val_psnr`` in dB of all purified adversarial images together.

    :param pairs: The pairs, with the right labels.
    :param classify: Images (N, H, W, 3) in [0, 1] -> class scores (N, classes).
    :param batch_size: Images at a time.
    """

    def __init__(
        self, pairs: MemoryPairs, classify: Callable[[np.ndarray], np.ndarray], *, batch_size: int = 16
    ) -> None:
        low, high = pairs.clip_values
        self._pairs, self._classify, self._batch_size = pairs, classify, batch_size
        self._adversarial, self._clean = ((images - low) / (high - low) for images in (pairs.adversarial, pairs.clean))

    def __call__(self, purify: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """
        Measure.

        :param purify: From :func:`purifying`.
        """
        right, error = self._right(purify, self._adversarial)
        clean, _ = self._right(purify, self._clean)
        values = {
            "val_clean_accuracy": clean.mean(),
            "val_recovered_accuracy": right.mean(),
            "val_psnr": -10 * np.log10(max(error.mean(), 1e-12)),
        }
        for index, (name, count) in enumerate(self._pairs.counts.items()):
            if count:
                values[f"val_accuracy/{name}"] = right[self._pairs.indices == index].mean()
        return {name: float(value) for name, value in values.items()}

    def _right(self, purify: Callable, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each purified image is classified rightly, and its mean squared distance from the clean one."""
        right, error = [], []
        for start in range(0, len(images), self._batch_size):
            part = slice(start, start + self._batch_size)
            purified = purify(images[part])
            right.append(np.argmax(self._classify(purified), axis=1) == self._pairs.labels[part])
            error.append(np.mean(np.square(purified - self._clean[part]), axis=(1, 2, 3)))
        return np.concatenate(right), np.concatenate(error)


def purifying(generator: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """
    A generator as a compiled function of images of any size: mirrored at the far edges up to the multiples that it
    takes, then cut.

    :param generator: (N, H, W, 3) in [0, 1] -> the same shape; its weights may change between the calls.
    """
    compiled = tf.function(lambda images: purified(generator, images), reduce_retracing=True)
    return lambda images: compiled(tf.constant(images)).numpy()


def since_best(history: Sequence[Mapping[str, float]], monitor: str) -> int:
    """
    Measurements since the best one, the first of equals.

    :param history: One dictionary an epoch.
    :param monitor: The key that counts; the largest value is the best.
    """
    measured = [row[monitor] for row in history if monitor in row]
    return len(measured) - 1 - int(np.argmax(measured)) if measured else 0


def patience_is_over(history: Sequence[Mapping[str, float]], monitor: str | None, patience: int | None) -> bool:
    """
    Whether a run has stopped early, or should.

    What is best is read from the history alone, so that a resumed run goes on as an uninterrupted one.

    :param history: One dictionary an epoch.
    :param monitor: The key that counts.
    :param patience: Measurements without a better one; None is never over.
    """
    return patience is not None and monitor is not None and since_best(history, monitor) >= patience


class Monitor(keras.callbacks.Callback):
    """
    Stops training at the first loss or weight that is not finite, and measures after each epoch: first among callbacks,
    so that the others find the measurements in the logs and nothing is written of an epoch that went wrong.

    :param measures: Each answers what the logs of an epoch get besides, and with it the epochs between two of its
        measurements; the last epoch is always measured.
    :raises FloatingPointError: Out of ``fit``.
    """

    def __init__(self, *measures: tuple[Callable[[], dict[str, float]], int]) -> None:
        super().__init__()
        self._measures, self._epoch = measures, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look at the losses: running means, which a NaN does not leave."""
        for name, value in (logs or {}).items():
            if not np.isfinite(float(value)):
                self._stop(f"{float(value)} as {name} in epoch {self._epoch}, step {batch}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the weights, which the last step may have spoilt; measure."""
        for variable in self.model.trainable_variables:
            if not np.isfinite(variable.numpy()).all():
                self._stop(f"NaN or infinity in {variable.path} after epoch {epoch}")
        for measure, every in self._measures:
            if logs is not None and ((epoch + 1) % every == 0 or epoch + 1 == self.params["epochs"]):
                logs.update(measure())

    @staticmethod
    def _stop(received: str) -> None:
        raise FloatingPointError(
            f"Expected finite losses and weights. Received {received}. The last checkpoint before it, if any, is kept."
        )


class Progress(keras.callbacks.Callback):
    """
    One bar over all steps of a run, with the losses and the time left. As a context, it closes the bar in any case.

    :param steps_per_epoch: Steps.
    :param shown: Whether to show it.
    """

    def __init__(self, steps_per_epoch: int, *, shown: bool = True) -> None:
        super().__init__()
        self._steps, self._shown, self._epoch = steps_per_epoch, shown, 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Open the bar."""
        self._epoch = epoch
        if self._bar is None:
            done, total = epoch * self._steps, self.params["epochs"] * self._steps
            self._bar = tqdm(total=total, initial=done, desc="train", unit="step", disable=not self._shown)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move it."""
        if self._shown:
            self._bar.update()
            losses = {key: f"{float(value):.3g}" for key, value in (logs or {}).items()}
            self._bar.set_postfix({"epoch": self._epoch, **losses}, refresh=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print what was measured."""
        measured = {key: value for key, value in (logs or {}).items() if key.startswith("val_")}
        if self._shown and measured:
            line = ", ".join(f"{key} {value:.3g}" for key, value in measured.items())
            self._bar.write(f"epoch {epoch}: {line}", file=sys.stderr)  # where the bar is
