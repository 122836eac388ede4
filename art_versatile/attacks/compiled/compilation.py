"""Compiled classifiers of ART's, and ART's attacks on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import art
import tensorflow as tf
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import AutoProjectedGradientDescent, DeepFool
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_tensorflow_v2 import (
    ProjectedGradientDescentTensorFlowV2,
)
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd

from art_versatile.attacks.compiled.classifier import CompiledTensorFlowV2Classifier, check_compilation
from art_versatile.attacks.compiled.deepfool import CompiledDeepFool
from art_versatile.attacks.compiled.descent import LEAN_DESCENTS, numpy_loop
from art_versatile.attacks.compiled.losses import DifferenceLogitsRatio
from art_versatile.attacks.compiled.objects import copied, inner_attack
from art_versatile.attacks.compiled.tracing import Same

__all__ = ["ART_VERSIONS", "compile_attack", "compile_classifier"]

#: ART's versions that the equality tests pass on: the first, and the first that they have not been run on.
ART_VERSIONS = ((1, 20), (1, 21))

_OWN_METHODS = ("predict", "compute_loss", "loss_gradient", "class_gradient", "_apply_preprocessing")
# What stands in for an attack of ART's.
_STAND_INS: dict[type, type] = {DeepFool: CompiledDeepFool, **LEAN_DESCENTS}


def compile_classifier(
    classifier: Any, *, jit_compile: bool = False, eot_samples: int = 1, seed: int | None = None
) -> Any:
    """
    A compiled classifier that shares the model, loss and defences of the given one, which is left as it was.

    Predictions and gradients are ART's to a relative 1e-5 on networks without batch normalisation, which a graph fuses
    with the convolution before it; with it they differ somewhat more.

    :param classifier: An ART ``TensorFlowV2Classifier``, or a ``KerasClassifier`` with one input, one output and a
        (sparse) categorical cross-entropy. ART's ``KerasClassifier`` differentiates the sum of the losses over a batch;
        so does what is made of it.
    :param jit_compile: Compile with XLA; slower on a CPU.
    :param eot_samples: Draws of a random defence that every gradient is the mean of.
    :param seed: Seed of the ``tf.random`` operations of the defences; None leaves TensorFlow's own.
    :return: A :class:`CompiledTensorFlowV2Classifier`; with a version of ART outside :data:`ART_VERSIONS`, and a
        RuntimeWarning, the given classifier.
    :raises TypeError: If it is of another kind, or a subclass with predictions or gradients of its own.
    :raises ValueError: If an option is of another kind.
    :raises RuntimeError: If ``eot_samples`` is above 1 with a version of ART outside :data:`ART_VERSIONS`.
    """
    check_compilation(jit_compile, eot_samples, seed)
    kinds = (TensorFlowV2Classifier, CompiledTensorFlowV2Classifier)
    own = isinstance(classifier, TensorFlowV2Classifier) and all(
        any(getattr(type(classifier), name) is getattr(kind, name) for kind in kinds) for name in _OWN_METHODS
    )
    if isinstance(classifier, KerasClassifier):
        loss, preprocessing = _keras_loss(classifier), classifier.preprocessing
        if isinstance(preprocessing, StandardisationMeanStd):
            preprocessing = (preprocessing.mean, preprocessing.std)
        optimizer, train_step = getattr(classifier.model, "optimizer", None), None
    elif own:
        loss, preprocessing = classifier.loss_object, classifier.preprocessing
        optimizer, train_step = classifier.optimizer, classifier.train_step
    else:
        raise TypeError(
            "Expected an ART TensorFlowV2Classifier with its own predictions and gradients, or a KerasClassifier. "
            f"Received {type(classifier).__name__}."
        )
    if not _art_is_known(eot_samples):
        return classifier
    defences, post = classifier.preprocessing_defences, classifier.postprocessing_defences
    compiled = CompiledTensorFlowV2Classifier(
        model=classifier.model,
        nb_classes=classifier.nb_classes,
        input_shape=classifier.input_shape,
        loss_object=loss,
        optimizer=optimizer,
        train_step=train_step,
        channels_first=classifier.channels_first,
        clip_values=classifier.clip_values,
        preprocessing_defences=None if defences is None else list(defences),
        postprocessing_defences=None if post is None else list(post),
        preprocessing=preprocessing,
        jit_compile=jit_compile,
        eot_samples=eot_samples,
        seed=seed,
    )
    if own:
        compiled._reduce_labels = classifier._reduce_labels
    return compiled


def _keras_loss(classifier: KerasClassifier) -> Any:
    model, loss = classifier.model, getattr(classifier.model, "loss", None)
    losses = tf.keras.losses
    kinds = (losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy)
    named = {"categorical_crossentropy": kinds[0], "sparse_categorical_crossentropy": kinds[1]}
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TypeError(
            "Expected a KerasClassifier whose model has one input and one output. "
            f"Received {len(model.inputs)} and {len(model.outputs)}."
        )
    if isinstance(loss, str) and loss in named:
        loss = named[loss]()
    if not isinstance(loss, kinds):
        raise TypeError(f"Expected a KerasClassifier compiled with one of the losses {list(named)}. Received {loss!r}.")
    return type(loss).from_config({**loss.get_config(), "reduction": "sum"})


def _art_is_known(eot_samples: int) -> bool:
    """Whether the installed ART is one that the equality tests pass on; a warning says that it is not."""
    first, end = ART_VERSIONS
    if first <= tuple(int(part) for part in re.findall(r"\d+", art.__version__)[:2]) < end:
        return True
    expected = f"Expected ART >={first[0]}.{first[1]},<{end[0]}.{end[1]}. Received {art.__version__}"
    if eot_samples > 1:
        raise RuntimeError(f"{expected}, whose own gradients take eot_samples=1.")
    warnings.warn(f"{expected}: nothing is compiled, ART's own code runs.", RuntimeWarning, stacklevel=3)
    return False


def compile_attack(
    attack: Any, *, jit_compile: bool | None = None, eot_samples: int | None = None, seed: int | None = None
) -> Any:
    """
    A copy of an ART attack on TensorFlow that computes on a compiled classifier; the attack is left as it was.

    Its classifier, and those of the attacks inside it (``ProjectedGradientDescent``, ``AutoAttack``), become compiled
    ones. An ``AutoProjectedGradientDescent`` with a ``loss_type`` keeps its loss, the difference-of-logits-ratio in a
    form that can be traced. A ``DeepFool`` becomes a :class:`CompiledDeepFool`, with ART's slip (``as_art``). Attacks
    with momentum, which ART refuses on TensorFlow, get ART's NumPy loop. The loops of projected gradient descent leave
    out two predictions of every image that ART makes for a log message.

    Its images are stock ART's, but for rounding, on networks without batch normalisation. With it a sign of a gradient
    near zero may flip (a graph fuses it with the convolution before it, an eager call does not), and later steps carry
    that on.

    :param attack: An ART evasion attack on a ``TensorFlowV2Classifier``.
    :param jit_compile: Compile with XLA. None takes it from the attack's classifier where that is a compiled one, else
        False. (An ``AutoProjectedGradientDescent`` with a ``loss_type`` has dropped the compiled classifier that it was
        built on: state the options.)
    :param eot_samples: Draws of a random defence that every gradient is the mean of. None takes it likewise, else 1.
    :param seed: Seed of the ``tf.random`` operations of the defences. None takes it likewise, else None.
    :return: The new attack; with a version of ART outside :data:`ART_VERSIONS`, and a RuntimeWarning, the given one.
    :raises TypeError: If it is no such attack.
    :raises ValueError: If an option is of another kind.
    :raises RuntimeError: If ``eot_samples`` is above 1 with a version of ART outside :data:`ART_VERSIONS`.
    """
    if not isinstance(attack, EvasionAttack):
        raise TypeError(f"Expected an ART evasion attack. Received {type(attack).__name__}.")
    given = {"jit_compile": jit_compile, "eot_samples": eot_samples, "seed": seed}
    options: dict[str, Any] = {"jit_compile": False, "eot_samples": 1, "seed": None}
    for name in options:
        if given[name] is not None:
            options[name] = given[name]
        elif isinstance(attack.estimator, CompiledTensorFlowV2Classifier):
            options[name] = getattr(attack.estimator, name)
    check_compilation(**options)
    if not _art_is_known(options["eot_samples"]):
        return attack
    done: dict[Same, Any] = {}

    def compiled(estimator: Any) -> Any:
        if isinstance(estimator, CompiledTensorFlowV2Classifier) and all(
            getattr(estimator, name) == value for name, value in options.items()
        ):
            return estimator
        if Same(estimator) not in done:
            done[Same(estimator)] = compile_classifier(estimator, **options)
        return done[Same(estimator)]

    return _compiled(attack, compiled)


def _compiled(attack: Any, compiled: Callable[[Any], Any]) -> Any:
    """A copy of an attack, and of those inside it, on compiled classifiers."""
    made = copied(attack, _STAND_INS.get(type(attack)))
    made._estimator = compiled(attack.estimator)
    dlr = isinstance(attack, AutoProjectedGradientDescent) and attack.loss_type == "difference_logits_ratio"
    if dlr and not isinstance(made.estimator.loss_object, DifferenceLogitsRatio):
        made.estimator.set_params(loss_object=DifferenceLogitsRatio())
    if hasattr(attack, "estimator_orig"):
        made.estimator_orig = compiled(attack.estimator_orig)
    inner = inner_attack(attack)
    if inner is not None:
        momentum = isinstance(inner, ProjectedGradientDescentTensorFlowV2) and inner.decay is not None
        made._attack = _compiled(numpy_loop(inner) if momentum else inner, compiled)
    if hasattr(attack, "attacks"):
        made.attacks = [_compiled(member, compiled) for member in attack.attacks]
    return made
