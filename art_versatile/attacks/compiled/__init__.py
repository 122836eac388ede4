"""
ART's own attack objects, made fast on TensorFlow: the same classifier with compiled gradients.

ART's ``TensorFlowV2Classifier`` predicts through ``tf.function`` but computes every gradient eagerly, one operation
at a time, and the gradient of the class scores once for each class. :class:`CompiledTensorFlowV2Classifier` traces
each of them once, defences included. An attack built on it is compiled without more ado, but for four:
``AutoProjectedGradientDescent`` makes itself a classifier of the stock kind, ``DeepFool`` asks for one class at a time
and for gradients that it never uses, ``MomentumIterativeMethod`` refuses TensorFlow, and ``ProjectedGradientDescent``
predicts every image twice for a log message. :func:`compile_attack` sees to these.

The images are those of stock ART, but for rounding, on networks without batch normalisation. A graph fuses a
convolution with the batch normalisation behind it, an eager call does not: gradients then differ in their last digits,
a sign of a gradient near zero may flip, and a loop of signed steps carries it on.

Limits: a defence whose ``forward`` draws from NumPy or from Python's ``random``, or that cannot be traced, runs on
ART's own path (a RuntimeWarning says so). State that ``forward`` keeps in Python (a call counter, say) is seen at
tracing only. This package touches private parts of ART, and no other does: outside :data:`ART_VERSIONS` nothing is
compiled (a RuntimeWarning says so) and ART's own attacks and gradients run.
"""

from art_versatile.attacks.compiled.classifier import CompiledTensorFlowV2Classifier
from art_versatile.attacks.compiled.compilation import ART_VERSIONS, compile_attack, compile_classifier
from art_versatile.attacks.compiled.deepfool import CompiledDeepFool
from art_versatile.attacks.compiled.descent import MomentumIterativeMethodNumpy
from art_versatile.attacks.compiled.losses import DifferenceLogitsRatio

__all__ = [
    "ART_VERSIONS",
    "CompiledDeepFool",
    "CompiledTensorFlowV2Classifier",
    "DifferenceLogitsRatio",
    "MomentumIterativeMethodNumpy",
    "compile_attack",
    "compile_classifier",
]
