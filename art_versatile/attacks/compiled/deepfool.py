"""ART's DeepFool with a compiled step."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import tensorflow as tf
from art.attacks.evasion import DeepFool
from art.config import ART_NUMPY_DTYPE
from art.utils import is_probability
from tqdm.auto import trange

from art_versatile._checks import check_bool
from art_versatile.attacks.compiled.classifier import CompiledTensorFlowV2Classifier
from art_versatile.attacks.compiled.tracing import UntraceableError, differentiable

__all__ = ["CompiledDeepFool"]

_TOLERANCE = 10e-8  # ART's, against a division by zero


class CompiledDeepFool(DeepFool):
    """
    ART's ``DeepFool`` (Moosavi-Dezfooli et al., arXiv 1511.04599), step for step, without gradients that it never uses.

    ART asks for one class at a time (a forward pass each), keeps every gradient, and computes them for images already
    misclassified and once more after the last step. Here a step is one compiled function over the images still to be
    changed: one forward pass, a backward pass for each class, the nearest boundary kept. As in ART, ``nb_grads``
    below ``nb_classes`` means the union of the top classes over all of ``x``: give it one batch at a time.

    ART 1.20.1 slips where ``nb_grads`` is below ``nb_classes``: it looks up the score of an image's own class by its
    place among the classes looked at, not by the class, so it measures the distance to the boundary from some other
    class's score. ``as_art`` keeps that, so that the images are ART's; without it the step is the paper's, and smaller.
    The tables of this package, and the "DeepFool" of :func:`~art_versatile.attacks.paper_attacks`, are with ART's slip.

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
    The smallest step of each image to a linearised boundary (arXiv 1511.04599, Algorithm 2, with ART's constants).

    :param classifier: It gives the gradients.
    :param x: Images (n, ...).
    :param f_diff: (n, K): score of each of the K classes less the score of the image's class.
    :param current: (n,): class of each image, one of ``labels``.
    :param labels: (K,): the classes looked at, ascending.
    :return: (n, ...), in units of ``x``.
    """
    if classifier._compilable(x) and classifier.eot_samples == 1:
        tensors = [
            tf.convert_to_tensor(x),
            tf.constant(f_diff, x.dtype),
            tf.constant(current, tf.int32),
            tf.constant(labels, tf.int32),
        ]
        try:
            return classifier._run("deepfool_step", functools.partial(_traced, classifier), tensors, free=(1,)).numpy()
        except UntraceableError:
            pass  # the arrays below serve
    w = classifier.class_jacobian(x, labels)
    rows, own = np.arange(len(x)), np.searchsorted(labels, current)
    w = w - w[rows, own][:, np.newaxis]
    distance = np.abs(f_diff) / (np.linalg.norm(w.reshape(*w.shape[:2], -1), axis=2) + _TOLERANCE)
    distance[rows, own] = np.inf
    chosen = np.argmin(distance, axis=1)
    w = w[rows, chosen]
    norm = np.linalg.norm(w.reshape(len(w), -1), axis=1)
    scale = np.abs(f_diff[rows, chosen]) / (norm**2 + _TOLERANCE)
    return scale.reshape((-1,) + (1,) * (w.ndim - 1)) * w


def _traced(classifier: CompiledTensorFlowV2Classifier, images: Any, f_diff: Any, current: Any, labels: Any) -> Any:
    """The same in a graph: one forward pass, a backward pass for each class, the nearest boundary kept."""
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
        distance = tf.where(labels[index] == current, np.inf, f / (norm + _TOLERANCE))
        nearer = distance < best
        scale = tf.reshape(f / (tf.square(norm) + _TOLERANCE), column)
        step = tf.where(tf.reshape(nearer, column), scale * w, step)
        return index + 1, tf.where(nearer, distance, best), step

    start = (tf.constant(0), tf.fill(tf.shape(current), tf.constant(np.inf, images.dtype)), tf.zeros_like(images))
    return tf.while_loop(lambda index, *_: index < tf.size(labels), look, start, parallel_iterations=1)[2]
