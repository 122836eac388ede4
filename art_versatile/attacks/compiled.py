"""
ART's own attack objects, made fast on TensorFlow: the same classifier with compiled gradients.

ART's ``TensorFlowV2Classifier`` predicts through ``tf.function`` but computes every gradient eagerly, one operation
at a time, and the gradient of the class scores once for each class. :class:`CompiledTensorFlowV2Classifier` traces
each of them once, defences included, and gives the same numbers. An attack built on it is compiled without more ado,
but for four: ``AutoProjectedGradientDescent`` makes itself a classifier of the stock kind, ``DeepFool`` asks for
one class at a time and for gradients that it never uses, ``MomentumIterativeMethod`` refuses TensorFlow, and
``ProjectedGradientDescent`` predicts every image twice for a log message. :func:`compile_attack` sees to these.

Limits: a defence whose ``forward`` draws from NumPy or from Python's ``random``, or that cannot be traced, runs on
ART's own path (a RuntimeWarning says so). State that ``forward`` keeps in Python (a call counter, say) is seen at
tracing only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import AutoProjectedGradientDescent, DeepFool, ProjectedGradientDescent
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_tensorflow_v2 import (
    ProjectedGradientDescentTensorFlowV2,
)
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd

from art_versatile.attacks._tracing import Same
from art_versatile.attacks.compiled_attacks import LEAN_DESCENTS, CompiledDeepFool, DifferenceLogitsRatio
from art_versatile.attacks.compiled_classifier import CompiledTensorFlowV2Classifier

__all__ = [
    "CompiledDeepFool",
    "CompiledTensorFlowV2Classifier",
    "DifferenceLogitsRatio",
    "compile_attack",
    "compile_classifier",
]

_OWN_METHODS = ("predict", "compute_loss", "loss_gradient", "class_gradient", "_apply_preprocessing")


def compile_classifier(
    classifier: Any, *, jit_compile: bool = False, eot_samples: int = 1, seed: int | None = None
) -> CompiledTensorFlowV2Classifier:
    """
    A compiled classifier that shares the model, loss and defences of the given one, which is left as it was.

    :param classifier: An ART ``TensorFlowV2Classifier``, or a ``KerasClassifier`` with one input, one output and a
        (sparse) categorical cross-entropy. ART's ``KerasClassifier`` differentiates the sum of the losses over a batch;
        so does what is made of it.
    :param jit_compile: See :class:`CompiledTensorFlowV2Classifier`.
    :param eot_samples: See there.
    :param seed: See there.
    :return: The compiled classifier.
    :raises TypeError: If it is of another kind, or a subclass with predictions or gradients of its own.
    """
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


def compile_attack(
    attack: Any, *, jit_compile: bool | None = None, eot_samples: int | None = None, seed: int | None = None
) -> Any:
    """
    Make an ART attack on a TensorFlow classifier compute on a compiled one. The attack itself is changed.

    Its classifier, and those of the attacks inside it (``ProjectedGradientDescent``, ``AutoAttack``), become compiled
    ones; the classifier that the caller holds is left as it was. An ``AutoProjectedGradientDescent`` with a
    ``loss_type`` keeps its loss, the difference-of-logits-ratio in a form that can be traced. A ``DeepFool`` becomes a
    :class:`CompiledDeepFool`, with ART's slip (``as_art``). Attacks with momentum, which ART refuses on TensorFlow, get
    ART's NumPy loop. The loops of projected gradient descent leave out two predictions of every image that ART makes
    for a log message.

    :param attack: An ART evasion attack on a ``TensorFlowV2Classifier``.
    :param jit_compile: See :class:`CompiledTensorFlowV2Classifier`. None takes it from the attack's classifier where
        that is a compiled one, else False. (An ``AutoProjectedGradientDescent`` with a ``loss_type`` has dropped the
        compiled classifier that it was built on: state the options.)
    :param eot_samples: The same; else 1.
    :param seed: The same; else None.
    :return: The attack.
    :raises TypeError: If it is not such an attack.
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
    done: dict[Same, Any] = {}

    def compiled(estimator: Any) -> Any:
        if isinstance(estimator, CompiledTensorFlowV2Classifier) and all(
            getattr(estimator, name) == value for name, value in options.items()
        ):
            return estimator
        if Same(estimator) not in done:
            done[Same(estimator)] = compile_classifier(estimator, **options)
        return done[Same(estimator)]

    _compile(attack, compiled)
    return attack


def _compile(attack: Any, compiled: Callable[[Any], Any]) -> None:
    estimator = compiled(attack.estimator)
    if isinstance(attack, AutoProjectedGradientDescent) and attack.loss_type == "difference_logits_ratio":
        estimator.set_params(loss_object=DifferenceLogitsRatio())
    attack._estimator = estimator
    if hasattr(attack, "estimator_orig"):
        attack.estimator_orig = compiled(attack.estimator_orig)
    if type(attack) is DeepFool:
        attack.__class__ = CompiledDeepFool
    if isinstance(attack, ProjectedGradientDescent):
        inner = attack._attack
        if isinstance(inner, ProjectedGradientDescentTensorFlowV2) and inner.decay is not None:
            names = set(inner.attack_params) - {"minimal", "summary_writer"}
            attack._attack = ProjectedGradientDescentNumpy(
                estimator=estimator,
                summary_writer=inner.summary_writer or False,
                **{name: getattr(inner, name) for name in names},
            )
        else:
            _compile(inner, compiled)
        attack._attack.__class__ = LEAN_DESCENTS.get(type(attack._attack), type(attack._attack))
    for member in getattr(attack, "attacks", ()):
        _compile(member, compiled)
