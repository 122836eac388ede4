"""
A classifier with a defence in front, and how an attacker who knows the defence sees it.

Through the defence's own gradient, around it (BPDA), over its draws (EOT): Athalye et al., "Obfuscated Gradients Give a
False Sense of Security" (arXiv 1802.00420).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from art.defences.preprocessor import Preprocessor
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2
from art.estimators.classification import EnsembleClassifier, KerasClassifier, TensorFlowV2Classifier

from art_versatile._checks import check_bool, check_choice, check_classifier, check_integer, pixel_range
from art_versatile.attacks.compiled import compile_classifier
from art_versatile.attacks.compiled.objects import copied

__all__ = ["BackwardPassIdentity", "check_defendable", "check_pixels", "defend", "through"]


class BackwardPassIdentity(PreprocessorTensorFlowV2):
    """
    A defence with the identity on the way back: BPDA (Athalye et al., arXiv 1802.00420, section 4.1).

    An attack through it sees what the defence does but not its gradient, be that none, masked or exact. Where the
    defence changes the size of its images, the way back is that of a bilinear resize.

    :param defence: Any ART preprocessor. One that is not of TensorFlow runs as NumPy, and has to keep the shape.
    :param channels_first: Images are (N, C, H, W) instead of (N, H, W, C).
    :raises TypeError: If it is no ART preprocessor.
    """

    params = ["defence", "channels_first"]  # noqa: RUF012

    def __init__(self, defence: Preprocessor, *, channels_first: bool = False) -> None:
        if not isinstance(defence, Preprocessor):
            raise TypeError(f"Expected an ART preprocessor. Received {type(defence).__name__}.")
        super().__init__(is_fitted=True, apply_fit=defence.apply_fit, apply_predict=defence.apply_predict)
        self.defence = defence
        self.channels_first = check_bool("channels_first", channels_first)

    def forward(self, x: tf.Tensor, y: Any = None) -> tuple[tf.Tensor, Any]:
        """
        Defend.

        :param x: As the defence takes them.
        :param y: Passed through.
        :return: As the defence gives them, and ``y``.
        """

        @tf.custom_gradient
        def wrapped(images: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
                back = self._back(images, upstream)
                return back if variables is None else (back, [None] * len(variables))

            return self._defended(images), gradient

        return wrapped(tf.convert_to_tensor(x)), y

    def _defended(self, images: tf.Tensor) -> tf.Tensor:
        if isinstance(self.defence, PreprocessorTensorFlowV2):
            return self.defence.forward(images)[0]

        def apply(array: np.ndarray) -> np.ndarray:
            return np.asarray(self.defence(array)[0], array.dtype)

        return tf.ensure_shape(tf.numpy_function(apply, [images], images.dtype), images.shape)

    def _back(self, images: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        if images.shape.rank != 4 or (images.shape.is_fully_defined() and images.shape == upstream.shape):
            return upstream
        order = (0, 2, 3, 1) if self.channels_first else (0, 1, 2, 3)
        upstream = tf.transpose(upstream, order)
        with tf.GradientTape() as tape:
            tape.watch(images)
            resized = tf.image.resize(tf.transpose(images, order), tf.shape(upstream)[1:3])
        return tape.gradient(resized, images, tf.cast(upstream, resized.dtype))


def check_defendable(classifier: Any) -> None:
    """
    Whether a defence in front of a classifier would be applied.

    :param classifier: An ART classifier.
    :raises TypeError: If it is none, or an ``EnsembleClassifier``: that takes defences and never applies them.
    """
    check_classifier(classifier)
    if isinstance(classifier, EnsembleClassifier):
        raise TypeError(
            "Expected a single classifier: an EnsembleClassifier applies no defence in front, so it would stay "
            "undefended; defend its members. Received an EnsembleClassifier."
        )


def check_pixels(classifier: Any, defence: Preprocessor) -> None:
    """
    Whether a classifier and a defence are of one range of pixels and one layout, where both say theirs.

    :param classifier: An ART classifier.
    :param defence: An ART preprocessor.
    :raises ValueError: If they are not.
    """
    ranges = [getattr(item, "clip_values", None) for item in (classifier, defence)]
    if ranges[0] is not None and ranges[1] is not None:
        expected = pixel_range(classifier)
        if not np.allclose(expected, pixel_range(defence)):
            raise ValueError(f"Expected a defence with the classifier's clip_values {expected}. Received {ranges[1]}.")
    first = getattr(defence, "channels_first", None)
    if first is not None and bool(first) != bool(getattr(classifier, "channels_first", False)):
        raise ValueError(f"Expected a defence with the classifier's channels_first. Received {first}.")


def defend(classifier: Any, defence: Preprocessor) -> Any:
    """
    A copy of an ART classifier with a defence before its own; the two share the model.

    :param classifier: Any ART classifier that takes ``preprocessing_defences``; it stays as it was.
    :param defence: Any ART preprocessor, such as a purifier.
    :raises ValueError: If the two are not of one range of pixels or one layout, or the defence is not applied when the
        classifier predicts.
    :raises TypeError: If it is no classifier, or an ``EnsembleClassifier``, whose members can be defended.
    """
    check_defendable(classifier)
    check_pixels(classifier, defence)
    if not defence.apply_predict:
        raise ValueError(f"Expected a defence with apply_predict=True. Received {type(defence).__name__} without.")
    defended = copied(classifier)
    defended.preprocessing_operations = []  # ART refills this list in place: the copy needs its own
    defended.set_params(preprocessing_defences=[defence, *(classifier.preprocessing_defences or [])])
    return defended


def through(
    classifier: Any, defence: Preprocessor, *, gradient: str = "exact", eot_samples: int = 1, seed: int | None = None
) -> Any:
    """
    The defended classifier as an adaptive attacker sees it; compiled, where it is of TensorFlow.

    :param classifier: An undefended ART classifier; it stays as it was.
    :param defence: An ART preprocessor.
    :param gradient: "exact" goes through the defence's own gradient; "bpda" through the identity in its place
        (:class:`BackwardPassIdentity`).
    :param eot_samples: Draws of a random defence that each gradient is the mean of.
    :param seed: Seed of its ``tf.random`` operations; None leaves TensorFlow's own.
    :return: An ART classifier to build attacks on.
    :raises ValueError: If ``gradient`` or ``eot_samples`` is another, or :func:`defend` refuses the two.
    :raises TypeError: If more than one draw is asked of a classifier that cannot be compiled, or :func:`defend` refuses
        the classifier.
    """
    check_choice("gradient", gradient, ("exact", "bpda"))
    check_integer("eot_samples", eot_samples)
    if gradient == "bpda":
        check_pixels(classifier, defence)
        defence = BackwardPassIdentity(defence, channels_first=bool(getattr(classifier, "channels_first", False)))
    defended = defend(classifier, defence)
    if isinstance(classifier, TensorFlowV2Classifier | KerasClassifier):
        return compile_classifier(defended, eot_samples=eot_samples, seed=seed)
    if eot_samples > 1:
        raise TypeError(f"Expected a TensorFlow classifier with eot_samples > 1. Received {type(classifier).__name__}.")
    return defended
