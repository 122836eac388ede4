"""
What a training step makes of a clean batch: attacks through the purifier as it is then, or Gaussian noise.

Nothing that was trained on static pairs holds against an attacker who goes through it; these are attacked in the step
itself, the classifier frozen. One step from a random start, of 1.25 times the budget, is "Fast is better than free"
(arXiv 2001.03994); replay is "Adversarial training for free" (arXiv 1904.12843); noise is for denoised smoothing (arXiv
2003.01908).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import keras
import tensorflow as tf

from art_versatile._checks import check_choice, check_integer, check_number, check_positive
from art_versatile.attacks.ascent import NORMS, ascend, project, random_start
from art_versatile.pairs.fresh import INNER

__all__ = ["INNER", "GaussianNoise", "InnerAttack", "inner_source"]

Images = Callable[[tf.Tensor], tf.Tensor]


def _settings(source: Any) -> dict[str, Any]:
    return {"class": type(source).__name__, **{f.name: getattr(source, f.name) for f in fields(source) if f.repr}}


@dataclass(frozen=True)
class GaussianNoise:
    """
    Clean images under Gaussian noise, unclipped, as randomised smoothing gives them to a purifier.

    :param sigma: Largest standard deviation, pixels in [0, 1]; each image's is ``sigma * sqrt(u)``, u uniform in
        [0, 1]: one network for all the smaller ones.
    :raises ValueError: If it is not from 0 to 2.
    """

    sigma: float = 0.25
    replay: int = 1

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, 0, 2)

    @property
    def level(self) -> None:
        """None: noise is not raised."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its settings."""
        return _settings(self)

    def __call__(self, purify: Images, clean: tf.Tensor, share: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """What the purifier is given (:class:`~art_versatile.pix2pix.model.InnerSource`): (N, H, W, 3), unclipped."""
        del purify, share
        level = tf.sqrt(tf.random.stateless_uniform((tf.shape(clean)[0], 1, 1, 1), seed))
        return clean + self.sigma * level * tf.random.stateless_normal(tf.shape(clean), seed + 1)

    def moved(
        self, image: tf.Tensor, clean: tf.Tensor, gradient: tf.Tensor, share: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """The same noise again: it follows no gradient."""
        del clean, gradient, share, seed
        return image


@dataclass(frozen=True)
class InnerAttack:
    """
    Attacks through purifier and classifier, in the step: FGSM from a random start (``steps=1``) or PGD.

    They climb the cross-entropy to the classifier's own clean prediction; no labels are needed. The purifier's own loss
    has to be one in which a hopeless image counts for little, as ``PerceptualLoss(..., prediction="log")`` is: log(1 +
    KL), whose gradient is the KL's over 1 + KL. The plain KL of a confidently fooled classifier has no bound.

    :param classifiers: Frozen Keras models, or what is named and called like one, pixels in [0, 1] -> logits; one is
        drawn at each step.
    :param eps: Budget, pixels in [0, 1]; each image's is a share of it, drawn from ``spread``.
    :param norm: "inf" or "2".
    :param steps: Steps of an attack.
    :param eps_step: Length of a step as a multiple of the image's eps; by default 1.25 for one step, 2.5 / steps for
        several.
    :param start: Share of ``eps`` with which a run begins. Too much at once and training falls apart: the loss of a
        confidently fooled classifier drowns all else.
    :param rise: Share of the run over which eps grows to its whole; does not count with ``raise_at``.
    :param raise_at: Raise eps by what is held and not by the clock: it begins at ``start``, and is multiplied by
        ``factor`` (up to the whole) each time that PGD accuracy on held images at the present eps is at least this, 0
        to 1. Needs a :class:`~art_versatile.training.watch.Watch`, which measures it. None goes by the clock.
    :param factor: By how much it is raised, above 1.
    :param spread: Smallest and largest share of the budget that an image gets.
    :param clean_share: Share of a batch that stays clean.
    :param replay: Above 1: so many steps on each batch, the perturbation kept and moved by the gradient that each of
        them gives anyway; ``steps`` then counts no more.
    :raises ValueError: If a number or a name is not as expected.
    """

    classifiers: Sequence[Any] = field(repr=False)
    eps: float = 4 / 255
    norm: str = "inf"
    steps: int = 1
    eps_step: float | None = None
    start: float = 0.1
    rise: float = 1 / 3
    raise_at: float | None = None
    factor: float = 1.5
    spread: tuple[float, float] = (0.25, 1.0)
    clean_share: float = 0.125
    replay: int = 1

    def __post_init__(self) -> None:
        if not self.classifiers:
            raise ValueError("Expected at least one classifier. Received none.")
        check_choice("norm", self.norm, NORMS)
        check_number("eps", self.eps, 0, 1000)
        check_integer("steps", self.steps)
        check_integer("replay", self.replay)
        if self.eps_step is not None:
            check_number("eps_step", self.eps_step, 0, 100)
        low, high = self.spread
        for name, value in (("start", self.start), ("rise", self.rise), ("clean_share", self.clean_share)):
            check_number(name, value, 0, 1)
        if self.raise_at is not None:
            check_number("raise_at", self.raise_at, 0, 1)
            check_positive("start", self.start)  # or no factor raises it
            if check_positive("factor", self.factor) <= 1:
                raise ValueError(f"Expected factor above 1. Received {self.factor!r}.")
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Expected spread to be (low, high) with 0 <= low <= high <= 1. Received {self.spread!r}.")

    @property
    def identity(self) -> dict[str, Any]:
        """Its settings, and the names of the classifiers."""
        names = [classifier.name for classifier in self.classifiers]
        return _settings(self) | {"classifiers": names}

    @property
    def level(self) -> float | None:
        """The share of eps to begin with, where it is raised by what is held; None where by the clock."""
        return None if self.raise_at is None else self.start

    def raised(self, level: float, accuracy: float) -> float:
        """
        The share of eps from now on: ``factor`` times as much where enough is held, at most 1.

        :param level: The one until now.
        :param accuracy: On held images under PGD at that share, 0 to 1.
        """
        held = self.raise_at is not None and accuracy >= self.raise_at
        return min(1.0, level * self.factor) if held else level

    def budgets(self, count: tf.Tensor, share: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """
        Each image's eps, (N,); 0 for those that stay clean.

        :param count: Images.
        :param share: How much of the run has passed, 0 to 1; with ``raise_at`` the present share of ``eps``.
        :param seed: (2,), stateless.
        """
        if self.raise_at is None:
            passed = tf.minimum(1.0, tf.math.divide_no_nan(share, self.rise) if self.rise else tf.ones_like(share))
            share = self.start + (1 - self.start) * passed
        eps = self.eps * share
        drawn = tf.random.stateless_uniform((count,), seed, *self.spread) * eps
        clean = tf.cast(tf.math.floor(self.clean_share * tf.cast(count, tf.float32)), tf.int32)
        return tf.where(tf.range(count) < clean, 0.0, drawn)

    def _length(self, eps: tf.Tensor) -> tf.Tensor:
        default = 1.25 if max(self.steps, self.replay) == 1 else 2.5 / max(self.steps, self.replay)
        return eps * (default if self.eps_step is None else self.eps_step)

    def __call__(self, purify: Images, clean: tf.Tensor, share: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """What the purifier is given (:class:`~art_versatile.pix2pix.model.InnerSource`): (N, H, W, 3) in [0, 1]."""
        eps = self.budgets(tf.shape(clean)[0], share, seed)
        begun = random_start(clean, eps, seed + 1, self.norm)
        if self.replay > 1:
            return begun

        def attacked(classifier: keras.Model) -> tf.Tensor:
            wanted = tf.argmax(classifier(clean, training=False), axis=-1)

            def objective(image: tf.Tensor) -> tf.Tensor:
                logits = tf.cast(classifier(purify(image), training=False), tf.float32)
                return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits))

            return ascend(objective, begun, clean, eps, self._length(eps), self.steps, norm=self.norm)

        if len(self.classifiers) == 1:
            return attacked(self.classifiers[0])
        drawn = tf.random.stateless_uniform((), seed + 2, 0, len(self.classifiers), tf.int32)
        return tf.switch_case(drawn, [lambda c=c: attacked(c) for c in self.classifiers])

    def moved(
        self, image: tf.Tensor, clean: tf.Tensor, gradient: tf.Tensor, share: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """
        The perturbation of the next replay, one step along a gradient that is there anyway.

        :param image: The attacked images as they were.
        :param clean: The clean ones.
        :param gradient: Of the loss with respect to ``image``.
        :param share: As in the call that began.
        :param seed: As in the call that began: the same budgets.
        """
        eps = self.budgets(tf.shape(clean)[0], share, seed)
        length = tf.reshape(self._length(eps), (-1, 1, 1, 1))
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)  # an overflow of float16 moves nothing
        if self.norm == "inf":
            direction = tf.sign(gradient)
        else:
            direction = gradient / (tf.sqrt(tf.reduce_sum(gradient**2, axis=(1, 2, 3), keepdims=True)) + 1e-12)
        return tf.stop_gradient(project(image + length * direction, clean, eps, self.norm))


def inner_source(
    name: str,
    classifiers: Sequence[Any],
    *,
    eps: float = 4 / 255,
    steps: int = 2,
    replay: int = 4,
    sigma: float = 0.25,
    start: float = 0.1,
    raise_at: float | None = None,
) -> InnerAttack | GaussianNoise:
    """
    What makes the adversarial half of a batch inside the training step, by name.

    :param name: Out of :data:`INNER`: one step of FGSM, PGD, replay of the gradients that there are anyway ("free"),
        or Gaussian noise.
    :param classifiers: The attacked Keras models, from pixels in [0, 1] to logits.
    :param eps: Budget of the attacks, pixels in [0, 1].
    :param steps: Of PGD.
    :param replay: Steps on each batch, of "free"; at least 2.
    :param sigma: Largest standard deviation of the noise, pixels in [0, 1].
    :param start: See :class:`InnerAttack`.
    :param raise_at: See :class:`InnerAttack`.
    :raises ValueError: If the name is none of these or a number is out of its range.
    """
    check_choice("inner", name, INNER)
    if name == "gaussian":
        return GaussianNoise(sigma)
    if name == "free":
        check_integer("replay", replay, 2)
        return InnerAttack(classifiers, eps=eps, replay=replay, start=start, raise_at=raise_at)
    return InnerAttack(classifiers, eps=eps, steps=steps if name == "pgd" else 1, start=start, raise_at=raise_at)
