"""Held images that are attacked through the purifier while it is trained: what tells robustness from its appearance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from art_versatile._checks import check_batch_size, check_choice, check_images, check_integer, check_number
from art_versatile.attacks.ascent import NORMS, ascend, random_start
from art_versatile.pix2pix.generators import purified
from art_versatile.pix2pix.precision import computed_in

__all__ = ["ACCURACY_AT_EPS", "PGD_ACCURACY", "Watch", "overfitted"]

PGD_ACCURACY, FGSM_ACCURACY, CLEAN_ACCURACY = "val_pgd_accuracy", "val_fgsm_accuracy", "val_unattacked_accuracy"
EPS, ACCURACY_AT_EPS = "val_eps", "val_pgd_accuracy_at_eps"


@dataclass(frozen=True)
class Watch:
    """
    Held images, attacked anew through purifier and classifier each time that a run is measured: PGD, and one step of
    FGSM, both from random starts that are the same each time. Right is what the classifier answers to the clean image
    without a purifier; no labels are needed.

    The logs get ``val_pgd_accuracy`` and ``val_fgsm_accuracy``, shares of the images that are right under each attack
    at ``eps``, and ``val_unattacked_accuracy``. Where the attack of the training is raised by what is held
    (:class:`~art_versatile.training.inner.InnerAttack`, ``raise_at``), also ``val_eps``, its budget in that epoch, and
    ``val_pgd_accuracy_at_eps``.

    A watched run stops at catastrophic overfitting (:func:`overfitted`) and goes back to its best weights.

    :param images: (N, H, W, 3) in [0, 1], of the size at which the purifier is to be used; held, not trained on.
    :param classifier: Frozen Keras model, pixels in [0, 1] -> logits.
    :param eps: Budget of both attacks, pixels in [0, 1].
    :param every: Epochs between two measurements; the last epoch is always measured.
    :param norm: "inf" or "2".
    :param steps: Of PGD, each of 2.5 eps / steps. FGSM's is 1.25 eps (arXiv 2001.03994).
    :param drop: By how much PGD accuracy has to have fallen, see :func:`overfitted`.
    :param batch_size: Images at a time.
    :param seed: Of the random starts.
    :raises ValueError: If the images or a number are not as expected.
    :raises TypeError: If the images are not floats.
    """

    images: np.ndarray = field(repr=False)
    classifier: keras.Model = field(repr=False)
    eps: float = 1 / 255
    every: int = 1
    norm: str = "inf"
    steps: int = 10
    drop: float = 0.1
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_images(self.images, (0.0, 1.0), name="images")
        check_number("eps", self.eps, 0, 1000)
        check_choice("norm", self.norm, NORMS)
        check_number("drop", self.drop, 0, 1)
        check_batch_size(self.batch_size)
        check_integer("every", self.every)
        check_integer("steps", self.steps)
        check_integer("seed", self.seed, least=0)

    @property
    def measures(self) -> tuple[str, ...]:
        """Keys that a measurement adds to the logs."""
        return PGD_ACCURACY, FGSM_ACCURACY, CLEAN_ACCURACY

    @property
    def identity(self) -> dict[str, Any]:
        """Its settings, the name of the classifier and the checksum of the images."""
        pixels = hashlib.sha256(np.ascontiguousarray(self.images, "<f4").data.cast("B")).hexdigest()
        settings = {name: getattr(self, name) for name in ("eps", "every", "norm", "steps", "drop", "seed")}
        return {**settings, "classifier": self.classifier.name, "images": len(self.images), "images_sha256": pixels}

    def measuring(self, generator: keras.Model) -> Callable[[float | None], dict[str, float]]:
        """
        What measures a generator, in float32, as its weights are at each call; images are mirrored up to its multiples
        and clipped as the purifier does. Its argument is the budget at which PGD is measured besides, or None.

        :param generator: (N, H, W, 3) in [0, 1] -> the same shape.
        """
        images = tf.data.Dataset.from_tensor_slices(np.asarray(self.images, np.float32)).batch(self.batch_size)
        batches = [(batch, tf.argmax(self.classifier(batch, training=False), axis=-1)) for batch in images]

        @tf.function(reduce_retracing=True)
        def right(clean: tf.Tensor, wanted: tf.Tensor, eps: tf.Tensor, steps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            def logits(image: tf.Tensor) -> tf.Tensor:
                pixels = tf.clip_by_value(purified(generator, image), 0.0, 1.0)  # as the purifier does
                return tf.cast(self.classifier(tf.ensure_shape(pixels, clean.shape), training=False), tf.float32)

            def objective(image: tf.Tensor) -> tf.Tensor:
                return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits(image)))

            with computed_in(generator, "float32"):  # the signs of small gradients do not survive rounding
                budget = tf.fill(tf.shape(clean)[:1], eps)
                length = budget * tf.where(steps > 1, 2.5 / tf.cast(tf.maximum(steps, 1), tf.float32), 1.25)
                start = random_start(clean, budget, seed, self.norm)
                attacked = ascend(objective, start, clean, budget, length, steps, norm=self.norm)
                return tf.argmax(logits(attacked), axis=-1) == wanted

        def accuracy(eps: float, steps: int) -> float:
            found = [
                right(clean, wanted, tf.constant(eps, tf.float32), tf.constant(steps), tf.constant([self.seed, number]))
                for number, (clean, wanted) in enumerate(batches)
            ]
            return float(np.mean(np.concatenate(found)))

        def measure(eps: float | None = None) -> dict[str, float]:
            found = {
                PGD_ACCURACY: accuracy(self.eps, self.steps),
                FGSM_ACCURACY: accuracy(self.eps, 1),
                CLEAN_ACCURACY: accuracy(0.0, 0),
            }
            if eps is not None:
                at_eps = found[PGD_ACCURACY] if eps == self.eps else accuracy(eps, self.steps)
                found |= {EPS: eps, ACCURACY_AT_EPS: at_eps}
            return found

        return measure


def overfitted(history: Sequence[Mapping[str, float]], drop: float | None) -> bool:
    """
    Whether a run has overfitted catastrophically (arXiv 2001.03994): at the last measurement PGD accuracy is more than
    ``drop`` below the best one, and FGSM accuracy is higher than it was there. The network has learnt to hide from one
    step, and no longer holds against several. Both are measured at the same budget each time.

    It is read from the history alone, so that a resumed run stops where an uninterrupted one does.

    :param history: One dictionary an epoch.
    :param drop: Accuracy, 0 to 1; None is never overfitted.
    """
    measured = [row for row in history if PGD_ACCURACY in row]
    if drop is None or not measured:
        return False
    best, last = max(measured, key=lambda row: row[PGD_ACCURACY]), measured[-1]
    return best[PGD_ACCURACY] - last[PGD_ACCURACY] > drop and last[FGSM_ACCURACY] > best[FGSM_ACCURACY]
