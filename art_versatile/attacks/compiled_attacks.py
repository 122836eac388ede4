"""What ART attacks need besides a compiled classifier to be fast: DeepFool, APGD's loss, projected gradient descent."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import tensorflow as tf
from art.attacks.evasion import DeepFool
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_tensorflow_v2 import (
    ProjectedGradientDescentTensorFlowV2,
)
from art.config import ART_NUMPY_DTYPE
from art.utils import is_probability, random_sphere
from tqdm.auto import tqdm, trange

from art_versatile._checks import check_bool
from art_versatile.attacks._tracing import UntraceableError, differentiable
from art_versatile.attacks.compiled_classifier import CompiledTensorFlowV2Classifier

__all__ = ["LEAN_DESCENTS", "CompiledDeepFool", "DifferenceLogitsRatio"]


class CompiledDeepFool(DeepFool):
    """
    ART's ``DeepFool``, step for step, without the gradients that it computes and never uses.

    ART asks for one class at a time (a forward pass each), keeps every gradient, and computes them for images already
    misclassified and once more after the last step. Here a step is one compiled function over the images still to be
    changed: one forward pass, a backward pass for each class, the nearest boundary kept. As in ART, ``nb_grads``
    below ``nb_classes`` means the union of the top classes over all of ``x``: give it one batch at a time.

    ART 1.20.1 slips where ``nb_grads`` is below ``nb_classes``: it looks up the score of an image's own class by its
    place among the classes looked at, not by the class, so it measures the distance to the boundary from some other
    class's score. ``as_art`` keeps that, so that the images are ART's; without it the step is the paper's, and smaller.
    The tables of this package, and :func:`~art_versatile.attacks.unseen_attacks`, are with ART's slip.

    With a random defence one draw serves all classes of a step; ART draws anew for each.

    :param classifier: A :class:`CompiledTensorFlowV2Classifier`.
    :param max_iter: Most steps.
    :param epsilon: Overshoot.
    :param nb_grads: Number of top classes looked at.
    :param batch_size: Images at a time.
    :param verbose: Show the progress bar.
    :param as_art: Keep ART's slip.
    """

    attack_params = [*DeepFool.attack_params, "as_art"]  # noqa: RUF012 - as ART's
    as_art = True  # of an attack that compile_attack has made into one of this class

    def __init__(self, classifier: Any, *args: Any, as_art: bool = True, **kwargs: Any) -> None:
        self.as_art = as_art
        super().__init__(classifier, *args, **kwargs)

    def _check_params(self) -> None:
        super()._check_params()
        check_bool("as_art", self.as_art)

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """
        Adversarial images.

        :param x: Images (N, ...).
        :param y: Ignored, as in ART.
        :param kwargs: Ignored, as in ART.
        :return: The shape of ``x``, float32.
        :raises TypeError: If the classifier is not a compiled one.
        """
        estimator = self.estimator
        if not isinstance(estimator, CompiledTensorFlowV2Classifier):
            raise TypeError(f"Expected a CompiledTensorFlowV2Classifier. Received {type(estimator).__name__}.")
        images = x.astype(ART_NUMPY_DTYPE)
        scores = estimator.predict(x, batch_size=self.batch_size)
        if scores.shape[1] == 1:
            raise ValueError("Expected a classifier with a score for each class. Received one score.")
        if is_probability(scores[0]):
            warnings.warn("DeepFool expects logits; the classifier seems to give probabilities.", stacklevel=3)
        if self.nb_grads < estimator.nb_classes:
            labels = np.unique(np.argsort(-scores, axis=1)[:, : self.nb_grads])
        else:
            labels = np.arange(estimator.nb_classes)
        clip, scale = estimator.clip_values, 1.0
        if clip is not None:
            scale = clip[1] - clip[0]

        for batch_id in trange(-(-len(images) // self.batch_size), desc="DeepFool", disable=not self.verbose):
            start = batch_id * self.batch_size
            clean = images[start : start + self.batch_size]
            batch, f = clean.copy(), scores[start : start + self.batch_size]
            first = np.argmax(f, axis=1)
            own = np.searchsorted(labels, first) if self.as_art else first
            active = np.arange(len(batch))
            for _ in range(self.max_iter):
                if not active.size:
                    break
                f_diff = f[active][:, labels] - f[active, own[active]][:, np.newaxis]
                step = _nearest_boundary(estimator, batch[active], f_diff, first[active], labels)
                batch[active] = batch[active] + step * scale
                if clip is not None:
                    batch[active] = np.clip(batch[active], clip[0], clip[1])
                f = estimator.predict(batch)
                active = np.where(np.argmax(f, axis=1) == first)[0]
            clean += (1 + self.epsilon) * (batch - clean)
            if clip is not None:
                np.clip(clean, clip[0], clip[1], out=clean)
        return images


def _nearest_boundary(
    classifier: CompiledTensorFlowV2Classifier,
    x: np.ndarray,
    f_diff: np.ndarray,
    current: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """
    The smallest step of each image to a linearised boundary (Moosavi-Dezfooli et al., arXiv 1511.04599, Algorithm
    2, with the constants of ART).

    :param classifier: It gives the gradients.
    :param x: Images (n, ...).
    :param f_diff: (n, K): score of each of the K classes less the score of the image's class.
    :param current: (n,): class of each image, one of ``labels``.
    :param labels: (K,): the classes looked at, ascending.
    :return: (n, ...), in units of ``x``.
    """
    tolerance = 10e-8

    def nearest(images: Any, f_diff: Any, current: Any, labels: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            scores = classifier._scores(images, False)
            own = tf.gather(scores, current, axis=1, batch_dims=1)
        base = differentiable(tape.gradient(own, images))
        column = tf.concat([tf.shape(f_diff)[:1], tf.ones([images.shape.rank - 1], tf.int32)], axis=0)

        def look(index: Any, best: Any, step: Any) -> Any:
            chosen = tf.ones_like(scores) * tf.one_hot(labels[index], scores.shape[1], dtype=scores.dtype)
            w = tape.gradient(scores, images, output_gradients=chosen) - base
            norm = tf.norm(tf.reshape(w, [tf.shape(w)[0], -1]), axis=1)
            f = tf.abs(f_diff[:, index])
            distance = tf.where(labels[index] == current, np.inf, f / (norm + tolerance))
            nearer = distance < best
            scale = tf.reshape(f / (tf.square(norm) + tolerance), column)
            step = tf.where(tf.reshape(nearer, column), scale * w, step)
            return index + 1, tf.where(nearer, distance, best), step

        start = (
            tf.constant(0),
            tf.fill(tf.shape(current), tf.constant(np.inf, images.dtype)),
            tf.zeros_like(images),
        )
        return tf.while_loop(lambda index, *_: index < tf.size(labels), look, start, parallel_iterations=1)[2]

    if classifier._compilable(x) and classifier._eot_samples == 1:
        tensors = [
            tf.convert_to_tensor(x),
            tf.constant(f_diff, x.dtype),
            tf.constant(current, tf.int32),
            tf.constant(labels, tf.int32),
        ]
        try:
            return classifier._run("deepfool_step", nearest, tensors, free=(1,)).numpy()
        except UntraceableError:
            pass  # the arrays below serve
    w = classifier.class_jacobian(x, labels)
    rows, own = np.arange(len(x)), np.searchsorted(labels, current)
    w = w - w[rows, own][:, np.newaxis]
    distance = np.abs(f_diff) / (np.linalg.norm(w.reshape(*w.shape[:2], -1), axis=2) + tolerance)
    distance[rows, own] = np.inf
    chosen = np.argmin(distance, axis=1)
    w = w[rows, chosen]
    norm = np.linalg.norm(w.reshape(len(w), -1), axis=1)
    scale = np.abs(f_diff[rows, chosen]) / (norm**2 + tolerance)
    return scale.reshape((-1,) + (1,) * (w.ndim - 1)) * w


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
