"""Small classifiers, defences and attacks, and how to compare what they give, for the tests of the compiled ones."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.defences.preprocessor import FeatureSqueezing
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2
from art.estimators.classification import TensorFlowV2Classifier

SHAPE, CLASSES, N = (16, 16, 3), 5, 5
EPS = 0.06


class Shift(PreprocessorTensorFlowV2):
    """Differentiable, and far from the identity: a gradient that bypasses it is another gradient."""

    params = ["strength"]  # noqa: RUF012

    def __init__(self, strength=0.5):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.strength = strength

    def forward(self, x, y=None):
        x = tf.cast(x, tf.float32)
        return x - self.strength * x**2 * tf.reverse(x, [2]), y


class Noise(PreprocessorTensorFlowV2):
    """Random, from a generator of its own."""

    def __init__(self, seed=3, scale=0.1):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.generator, self.scale = tf.random.Generator.from_seed(seed), scale

    def forward(self, x, y=None):
        return x * (1 + self.scale * tf.cast(self.generator.normal(tf.shape(x)), x.dtype)), y


class SeededByTensorFlow(Noise):
    def forward(self, x, y=None):
        return x * (1 + self.scale * tf.random.normal(tf.shape(x), dtype=x.dtype)), y


class DrawsFromNumPy(Noise):
    """Random, from NumPy: a trace would freeze its noise."""

    def __init__(self, source="own", **kwargs):
        super().__init__(**kwargs)
        self.source, self.rng = source, np.random.default_rng(5)

    def forward(self, x, y=None):
        factor = self.rng.random() if self.source == "own" else np.random.random()  # noqa: NPY002
        return x * tf.cast(0.5 + factor, x.dtype), y


class NeedsEager(Shift):
    def forward(self, x, y=None):
        return tf.cast(x, tf.float32) * float(tf.constant(0.5).numpy()) * float(tf.reduce_max(x).numpy()), y


class NeedsAutoGraph(Shift):
    def forward(self, x, y=None):
        if tf.reduce_max(x) > 0.5:
            x = x * 0.5
        return x, y


class Rounds(Shift):
    def forward(self, x, y=None):
        return tf.round(x * 15) / 15, y


def make_model(classes=CLASSES, batch_norm=False, softmax=False):
    def weights(seed):
        return keras.initializers.RandomNormal(stddev=0.3, seed=seed)

    layers = [
        keras.Input(SHAPE),
        keras.layers.Conv2D(6, 3, strides=2, activation="softplus", kernel_initializer=weights(1)),
    ]
    if batch_norm:
        layers.append(keras.layers.BatchNormalization())
    layers += [keras.layers.Flatten(), keras.layers.Dense(classes, kernel_initializer=weights(2))]
    if softmax:
        layers.append(keras.layers.Softmax())
    return keras.Sequential(layers)


def normalised(model, seed=0):
    """The same function with a batch normalisation, of statistics drawn at random, behind every convolution."""
    rng, layers = np.random.default_rng(seed), keras.layers

    def call(layer, *args, **kwargs):
        if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            return layer(*args, **kwargs)
        changes = {"use_bias": False, "activation": None, "name": f"{layer.name}_bare"}
        bare = type(layer).from_config(layer.get_config() | changes)
        norm = layers.BatchNormalization(epsilon=1e-3, name=f"{layer.name}_norm")
        answer = norm(bare(*args))
        kernel, bias = layer.get_weights()
        gamma, variance = rng.uniform(0.5, 2.0, (2, len(bias)))
        mean, scale = rng.normal(size=len(bias)), gamma / np.sqrt(variance + 1e-3)
        bare.set_weights([kernel / (scale[:, None] if isinstance(layer, layers.DepthwiseConv2D) else scale)])
        norm.set_weights([gamma, bias + scale * mean, mean, variance])
        return layer.activation(answer)

    made = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    made.trainable = False
    return made


def make_classifier(model=None, classes=CLASSES, loss="categorical", **kwargs):
    losses = {
        "categorical": keras.losses.CategoricalCrossentropy(from_logits=True),
        "sparse": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    return TensorFlowV2Classifier(
        model=model or make_model(classes),
        nb_classes=classes,
        input_shape=SHAPE,
        loss_object=losses.get(loss, loss),
        clip_values=(0.0, 1.0),
        **kwargs,
    )


def seeded(attack, x, y=None):
    np.random.seed(11)  # noqa: NPY002
    random.seed(11)  # Square with norm 2 draws from it
    return attack.generate(x=x, y=y)


def jacobian(classifier, x):
    """By hand: derivative of every score with respect to x itself, (N, C, ...)."""
    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = x
        for operation in classifier.preprocessing_operations:
            z, _ = operation.forward(z)
        scores = classifier.model(z, training=False)
    return tape.batch_jacobian(scores, x, experimental_use_pfor=False).numpy()


def close(a, b, tolerance=1e-6, relative=1e-5):
    assert np.shape(a) == np.shape(b)
    np.testing.assert_allclose(a, b, rtol=relative, atol=tolerance)


def same_images(a, b):
    close(a, b, tolerance=1e-6, relative=0)


DEFENCES = {
    "undefended": lambda: {},
    "tensorflow": lambda: {"preprocessing_defences": Shift()},
    "two": lambda: {"preprocessing_defences": [Shift(), Shift(0.2)], "preprocessing": None},
    "random": lambda: {"preprocessing_defences": Noise()},
    "numpy": lambda: {"preprocessing_defences": FeatureSqueezing(clip_values=(0, 1), bit_depth=5)},
    "standardised": lambda: {"preprocessing": ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])},
}


def mean_of_draws(call, k):
    return np.mean([call() for _ in range(k)], axis=0)


def apgd(loss_type, **kwargs):
    def make(classifier):
        return AutoProjectedGradientDescent(
            classifier,
            **{
                "eps": EPS,
                "eps_step": 0.04,
                "max_iter": 6,
                "nb_random_init": 1,
                "batch_size": 4,
                "loss_type": loss_type,
                "verbose": False,
                **kwargs,
            },
        )

    return make


def auto(classifier, targeted=False):
    members = [
        apgd("cross_entropy", max_iter=3)(classifier),
        apgd("difference_logits_ratio", max_iter=3)(classifier),
        SquareAttack(classifier, eps=EPS, max_iter=3, verbose=False),
    ]
    return AutoAttack(classifier, eps=EPS, eps_step=0.04, attacks=members, batch_size=4, targeted=targeted)


STEPS = {"eps": EPS, "eps_step": 0.02, "max_iter": 3, "batch_size": 4, "verbose": False}
ATTACKS = {
    "fgsm": lambda c: FastGradientMethod(c, eps=EPS, batch_size=4),
    "bim": lambda c: BasicIterativeMethod(c, **STEPS),
    "pgd inf": lambda c: ProjectedGradientDescent(c, num_random_init=2, **STEPS),
    "pgd 2": lambda c: ProjectedGradientDescent(c, norm=2, num_random_init=1, **{**STEPS, "eps": 0.8, "eps_step": 0.2}),
    "cw": lambda c: CarliniL2Method(
        c, binary_search_steps=2, max_iter=2, initial_const=1, max_halving=3, batch_size=4, verbose=False
    ),
    "deepfool all": lambda c: DeepFool(c, max_iter=3, epsilon=0.02, batch_size=4, verbose=False),
    "deepfool top 3": lambda c: DeepFool(c, max_iter=3, nb_grads=3, batch_size=4, verbose=False),
    "apgd": apgd(None),
    "apgd ce": apgd("cross_entropy"),
    "apgd dlr": apgd("difference_logits_ratio"),
    "apgd 2": apgd("cross_entropy", norm=2, eps=0.8, eps_step=0.4),
    "auto": auto,
    "auto targeted": lambda c: auto(c, targeted=True),
    "square inf": lambda c: SquareAttack(c, eps=EPS, max_iter=8, nb_restarts=2, verbose=False),
    "square 2": lambda c: SquareAttack(c, eps=0.8, norm=2, max_iter=5, verbose=False),
}
