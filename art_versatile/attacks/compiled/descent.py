"""ART's projected gradient descent without what nobody asked for, and MI-FGSM on the loop that has a momentum."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import tensorflow as tf
from art.attacks.evasion import MomentumIterativeMethod
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_tensorflow_v2 import (
    ProjectedGradientDescentTensorFlowV2,
)
from art.config import ART_NUMPY_DTYPE
from art.utils import random_sphere
from tqdm.auto import tqdm

from art_versatile.attacks.compiled.objects import inner_attack

__all__ = ["LEAN_DESCENTS", "MomentumIterativeMethodNumpy", "numpy_loop"]


class MomentumIterativeMethodNumpy(MomentumIterativeMethod):
    """
    ART's MI-FGSM (arXiv 1710.06081) on ART's framework-independent loop.

    ``MomentumIterativeMethod`` hands TensorFlow classifiers to a loop that does not implement the momentum and raises
    ``NotImplementedError`` (ART 1.20.1); ``ProjectedGradientDescentNumpy`` does implement it, for every framework.

    :param estimator: An ART classifier with loss gradients.
    :param decay: Decay factor of the accumulated gradient.
    :param kwargs: The other parameters of ``MomentumIterativeMethod``.
    """

    def __init__(self, estimator: Any, *, decay: float = 1.0, **kwargs: Any) -> None:
        super().__init__(estimator, decay=decay, **kwargs)
        self.decay = decay
        self._attack: Any = numpy_loop(inner_attack(self))


def numpy_loop(descent: Any) -> ProjectedGradientDescentNumpy:
    """
    ART's framework-independent loop with the parameters of another one.

    :param descent: A ``ProjectedGradientDescentCommon``, of any framework.
    :return: The loop, on the same classifier.
    """
    names = set(descent.attack_params) - {"minimal", "summary_writer"}
    return ProjectedGradientDescentNumpy(
        estimator=descent.estimator,
        summary_writer=descent.summary_writer or False,
        **{name: getattr(descent, name) for name in names},
    )


def _descend_lean(self: Any, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
    """
    ART's projected gradient descent without its last two predictions of every image, which a log message alone shows.

    Where the message is wanted (the logger takes INFO), or the attack is given a mask, restarts, a summary writer or
    a budget for each pixel, ART's own loop runs.

    :param x: Images (N, ...).
    :param y: Labels, one-hot (N, nb_classes) or indices (N,); None takes the classifier's own.
    :param kwargs: "mask", as in ART.
    :return: The shape of ``x``, float32.
    """
    if (
        logging.getLogger(self.art_class.__module__).isEnabledFor(logging.INFO)
        or kwargs.get("mask") is not None
        or self.num_random_init > 1
        or self.summary_writer is not None
        or np.ndim(self.eps) > 0
        or x.dtype == object
    ):
        return self.art_class.generate(self, x, y, **kwargs)
    self._random_eps()
    targets = self._set_targets(x, y)
    adversarial = x.astype(ART_NUMPY_DTYPE)
    starts = range(0, len(x), self.batch_size)
    for start in tqdm(starts, desc="PGD - Batches", leave=False, disable=not self.verbose):
        rows = slice(start, start + self.batch_size)
        adversarial[rows] = self._descend(x[rows], targets[rows])
    return adversarial


# One base each, and methods alone: an object of ART's class is made into one of these where it is.


class _LeanTensorFlowDescent(ProjectedGradientDescentTensorFlowV2):
    """With one compiled function for all that a step does beside the gradient, where the norm is infinite."""

    art_class = ProjectedGradientDescentTensorFlowV2
    described_as = art_class.__name__
    generate = _descend_lean

    def _descend(self, x: np.ndarray, targets: np.ndarray) -> Any:
        images, labels = (tf.constant(array, ART_NUMPY_DTYPE) for array in (x, targets))
        return self._generate_batch(images, labels, None, self.eps, self.eps_step)

    def _compute_tf(
        self, x: Any, x_init: Any, y: Any, mask: Any, eps: Any, eps_step: Any, momentum: Any, random_init: bool
    ) -> Any:
        clip = self.estimator.clip_values
        plain = mask is None and self.decay is None and self.summary_writer is None and clip is not None
        if not plain or self.norm not in (np.inf, "inf") or np.ndim(eps) > 0:
            return super()._compute_tf(x, x_init, y, mask, eps, eps_step, momentum, random_init)
        low, high, step, bound = (tf.constant(value, ART_NUMPY_DTYPE) for value in (*clip, eps_step, eps))
        if random_init:
            noise = random_sphere(x.shape[0], int(np.prod(x.shape[1:])), eps, self.norm).reshape(x.shape)
            x = tf.clip_by_value(x + noise.astype(ART_NUMPY_DTYPE), low, high)
        gradient = self.estimator.loss_gradient(x, y)
        x, broken = _step_of_signs(x, x_init, gradient, -step if self.targeted else step, bound, low, high)
        if broken:
            logging.getLogger(self.art_class.__module__).warning(
                "Elements of the loss gradient are NaN and have been replaced with 0.0."
            )
        return x


@tf.function(autograph=False, reduce_retracing=True)
def _step_of_signs(x: Any, clean: Any, gradient: Any, step: Any, eps: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """
    A step of the sign of the gradient, cut to the pixels' range, then to the ball (Madry et al., arXiv 1706.06083).

    The memory's speed limits it, so it passes over the pixels as seldom as it can.

    :return: The images; whether the gradient holds NaN, which counts as zero.
    """

    def mended() -> tuple[Any, Any]:
        broken = tf.math.is_nan(gradient)
        return tf.where(broken, tf.zeros_like(gradient), gradient), tf.reduce_any(broken)

    suspicious = tf.math.is_nan(tf.reduce_sum(gradient))
    sound, broken = tf.cond(suspicious, mended, lambda: (gradient, tf.constant(False)))
    change = tf.clip_by_value(x + step * tf.sign(sound), low, high) - clean
    return tf.clip_by_value(change, -eps, eps) + clean, broken


class _LeanNumpyDescent(ProjectedGradientDescentNumpy):
    """It knows momentum, too."""

    art_class = ProjectedGradientDescentNumpy
    described_as = art_class.__name__
    generate = _descend_lean

    def _descend(self, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
        images, momentum = x, np.zeros(x.shape)
        for iteration in range(self.max_iter):
            images = self._compute(
                images,
                x,
                targets,
                None,
                self.eps,
                self.eps_step,
                self._project,
                self.num_random_init > 0 and iteration == 0,
                decay=self.decay,
                momentum=momentum,
            )
        return images


#: ART's loops, and what gives the same images sooner.
LEAN_DESCENTS = {one.art_class: one for one in (_LeanTensorFlowDescent, _LeanNumpyDescent)}
