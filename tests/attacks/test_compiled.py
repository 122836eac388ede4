"""Compiled gradients and attacks against stock ART, and against references written by hand where ART is at fault."""

from __future__ import annotations

import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.defences.postprocessor import ReverseSigmoid
from art.defences.preprocessor import FeatureSqueezing
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, KerasClassifier, TensorFlowV2Classifier

from art_versatile.attacks.compiled import (
    CompiledDeepFool,
    CompiledTensorFlowV2Classifier,
    DifferenceLogitsRatio,
    compile_attack,
    compile_classifier,
)

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


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).uniform(0.1, 0.9, (N, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def y():
    return np.eye(CLASSES, dtype=np.float32)[np.random.default_rng(1).integers(CLASSES, size=N)]


@pytest.fixture(autouse=True)
def random_state():
    """ART's random attacks draw from the global states, which each test leaves as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)


@pytest.fixture(autouse=True)
def no_fallback_unnoticed():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*runs on ART's eager path.*")
        yield


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


@pytest.fixture(params=sorted(DEFENCES))
def pair(request, model):
    """Stock and compiled classifier, each with its own defences in the same state."""
    make = DEFENCES[request.param]
    return make_classifier(model, **make()), compile_classifier(make_classifier(model, **make()))


# ---------------------------------------------------------------------------------------------------- numbers as ART's


def test_predict(pair, x):
    stock, compiled = pair
    close(compiled.predict(x), stock.predict(x))


def test_loss_gradient(pair, x, y):
    stock, compiled = pair
    gradient = compiled.loss_gradient(x, y)
    assert isinstance(gradient, np.ndarray)
    assert gradient.dtype == np.float32
    expected = stock.loss_gradient(x, y)
    assert np.abs(expected).max() > 1e-3
    close(gradient, expected)


def test_compute_loss(pair, x, y):
    stock, compiled = pair
    for reduction in ("none", "mean", "sum"):
        close(compiled.compute_loss(x, y, reduction=reduction), stock.compute_loss(x, y, reduction=reduction))
        close(compiled.compute_losses(x, y, reduction)["total"], stock.compute_losses(x, y, reduction)["total"])
    assert compiled.loss_object.reduction == "sum_over_batch_size"


def test_class_gradient(pair, x):
    stock, compiled = pair
    for label in (2, np.int64(1), [3] * N, np.arange(N) % CLASSES):
        gradient = compiled.class_gradient(x, label=label)
        assert gradient.shape == (N, 1, *SHAPE)
        close(gradient, stock.class_gradient(x, label=int(label) if np.ndim(label) == 0 else label))


def test_class_gradient_of_all_classes_as_art_without_a_defence(model, x):
    stock = make_classifier(model)
    close(compile_classifier(stock).class_gradient(x), stock.class_gradient(x))
    one = make_classifier(make_model(1), classes=2)
    close(compile_classifier(one).class_gradient(x), one.class_gradient(x))


def test_class_gradient_of_all_classes_is_with_respect_to_x(model, x):
    stock = make_classifier(model, preprocessing_defences=[Shift()])
    gradient = compile_classifier(stock).class_gradient(x)
    close(gradient, jacobian(stock, x))
    # ART's own is the derivative behind the defence.
    assert np.abs(stock.class_gradient(x) - gradient).max() > 1e-2


def test_class_gradient_of_all_classes_with_a_numpy_defence_is_arts(model, x):
    stock = make_classifier(model, preprocessing_defences=FeatureSqueezing(clip_values=(0, 1), bit_depth=5))
    close(compile_classifier(stock).class_gradient(x), stock.class_gradient(x))


def test_class_gradient_of_more_classes_than_are_computed_at_once(x):
    stock = make_classifier(make_model(66), classes=66, preprocessing_defences=Shift())
    close(compile_classifier(stock).class_gradient(x[:2]), jacobian(stock, x[:2]))


@pytest.mark.parametrize("defence", ["tensorflow", "numpy"])
def test_class_jacobian(model, x, defence):
    stock = make_classifier(model, **DEFENCES[defence]())
    expected = np.concatenate([stock.class_gradient(x, label=label) for label in (1, 4, 2)], axis=1)
    close(compile_classifier(stock).class_jacobian(x, [1, 4, 2]), expected)


@pytest.mark.parametrize("label", [CLASSES, -CLASSES - 1, 1.5, [1, 2], np.zeros((N, 1), int)])
def test_class_gradient_rejects_labels(model, x, label):
    with pytest.raises(ValueError, match=r"Expected label to be None, a class below 5, or 5 of them"):
        compile_classifier(make_classifier(model)).class_gradient(x, label=label)


def test_negative_class_counts_from_the_end_as_in_art(model, x):
    stock = make_classifier(model)
    close(compile_classifier(stock).class_gradient(x, label=-1), stock.class_gradient(x, label=-1))


@pytest.mark.parametrize("labels", [[CLASSES], [-1], [], 2, [0.5]])
def test_class_jacobian_rejects_labels(model, x, labels):
    with pytest.raises(ValueError, match=r"Expected labels to be classes in \[0, 5\). Received"):
        compile_classifier(make_classifier(model)).class_jacobian(x, labels)


def test_tensors_in_tensors_out(model, x, y):
    stock = make_classifier(model)
    compiled = compile_classifier(stock)
    gradient = compiled.loss_gradient(tf.constant(x), tf.constant(y))
    assert isinstance(gradient, tf.Tensor)
    close(gradient, stock.loss_gradient(x, y))
    close(compiled.predict(tf.constant(x)), stock.predict(x))
    close(compiled.compute_loss(tf.constant(x), y), stock.compute_loss(x, y))
    close(compiled.class_gradient(tf.constant(x), label=1), stock.class_gradient(x, label=1))


def test_float64(model, x, y):
    stock = make_classifier(model, preprocessing_defences=Shift())
    compiled = compile_classifier(stock)
    wide = x.astype(np.float64)
    gradient = compiled.loss_gradient(wide, y)
    assert gradient.dtype == stock.loss_gradient(wide, y).dtype == np.float64
    close(gradient, stock.loss_gradient(wide, y))
    assert compiled.class_gradient(wide).dtype == np.float64
    close(compiled.predict(np.ones((1, *SHAPE))), stock.predict(np.ones((1, *SHAPE))))


def test_integer_images_predict_and_have_no_gradient(model, x, y):
    compiled = compile_classifier(make_classifier(model))
    bytes_ = (x * 255).astype(np.uint8)
    close(compiled.predict(bytes_), make_classifier(model).predict(bytes_), 1e-4)
    with pytest.raises(ValueError, match=r"Expected x of floats, .* Received no gradient: x of integers"):
        compiled.loss_gradient(bytes_, y)


def test_a_defence_that_stops_the_gradient_is_an_error(model, x, y):
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=Rounds()))
    for call in (
        lambda: compiled.loss_gradient(x, y),
        lambda: compiled.class_gradient(x, label=1),
        lambda: compiled.class_gradient(x),
    ):
        with pytest.raises(ValueError, match=r"Received no gradient: .*tf\.round"):
            call()


@pytest.mark.parametrize("loss", ["categorical", "sparse"])
def test_class_indices_as_labels(model, x, y, loss):
    stock = make_classifier(model, loss=loss)
    compiled = compile_classifier(stock)
    indices = np.argmax(y, axis=1)
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))
    close(compiled.loss_gradient(x, indices), stock.loss_gradient(x, y))
    close(compiled.compute_loss(x, indices), stock.compute_loss(x, indices))


@pytest.mark.parametrize("kind", [np.int64, np.float64, bool])
def test_one_hot_labels_of_any_dtype(model, x, y, kind):
    stock = make_classifier(model)
    close(compile_classifier(stock).loss_gradient(x, y.astype(kind)), stock.loss_gradient(x, y.astype(kind)))


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_loss_gradient_follows_the_reduction_of_the_loss(model, x, y, reduction):
    stock = make_classifier(model)
    compiled = compile_classifier(stock)
    mean = compiled.loss_gradient(x, y)
    compiled.loss_object.reduction = reduction
    close(compiled.loss_gradient(x, y), N * mean)
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))


def test_loss_without_reduction(model, x, y):
    stock = make_classifier(model, loss=keras.losses.mean_squared_error)
    compiled = compile_classifier(stock)
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))
    with pytest.raises(AttributeError, match="reduction"):
        compiled.compute_loss(x, y)


def test_no_loss(model, x, y):
    compiled = compile_classifier(make_classifier(model, loss=None))
    with pytest.raises(TypeError, match="loss_object"):
        compiled.loss_gradient(x, y)
    with pytest.raises(TypeError, match="loss_object"):
        compiled.compute_loss(x, y)
    assert compiled.class_gradient(x).shape == (N, CLASSES, *SHAPE)


def test_a_wrong_label_shape_is_arts_error_and_leaves_the_reduction(model, x):
    compiled = compile_classifier(make_classifier(model))
    with pytest.warns(RuntimeWarning, match="runs on ART's eager path"), pytest.raises(ValueError, match="hape"):
        compiled.compute_loss(x, np.eye(CLASSES + 1)[:N])
    assert compiled.loss_object.reduction == "sum_over_batch_size"


def test_training_mode(x, y):
    network = make_model(batch_norm=True)
    stock = make_classifier(network)
    compiled = compile_classifier(stock)
    start = network.get_weights()

    def both(call):
        answers = []
        for classifier in (stock, compiled):
            network.set_weights(start)  # a pass in training mode moves the averages
            answers.append(call(classifier))
        assert np.abs(answers[0] - call_without(call)).max() > 1e-4
        close(*answers)

    def call_without(call):
        network.set_weights(start)
        return call(Untrained(compiled))

    both(lambda c: c.predict(x, batch_size=3, training_mode=True))
    both(lambda c: c.loss_gradient(x, y, training_mode=True))
    both(lambda c: c.compute_loss(x, y, training_mode=True))
    both(lambda c: c.class_gradient(x, label=2, training_mode=True))
    both(lambda c: c.class_gradient(x, label=np.arange(N) % 3, training_mode=True))
    both(lambda c: c.class_gradient(x, training_mode=True))


class Untrained:
    """The classifier, deaf to training_mode."""

    def __init__(self, classifier):
        self.classifier = classifier

    def __getattr__(self, name):
        def call(*args, training_mode, **kwargs):
            return getattr(self.classifier, name)(*args, **kwargs)

        return call


def test_postprocessing_defence(model, x):
    stock = make_classifier(make_model(softmax=True), postprocessing_defences=ReverseSigmoid(apply_predict=True))
    assert np.abs(stock.predict(x) - stock.model(x).numpy()).max() > 1e-3
    close(compile_classifier(stock).predict(x, batch_size=2), stock.predict(x))


def test_channels_first_attributes(model):
    stock = make_classifier(model, channels_first=True)
    assert compile_classifier(stock).channels_first


# ------------------------------------------------------------------------------------------------------------- tracing


class Counted(Shift):
    """Counts its calls in Python (one for each trace) and the largest batch in TensorFlow."""

    def __init__(self):
        super().__init__()
        self.calls, self.largest = 0, tf.Variable(0)

    def forward(self, x, y=None):
        self.calls += 1
        self.largest.assign(tf.maximum(self.largest, tf.shape(x)[0]))
        return super().forward(x, y)


def test_one_trace_serves_every_batch_size(model, x, y):
    defence = Counted()
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=defence))
    for call in (
        lambda n: compiled.predict(x[:n]),
        lambda n: compiled.loss_gradient(x[:n], y[:n]),
        lambda n: compiled.compute_loss(x[:n], y[:n]),
        lambda n: compiled.class_gradient(x[:n], label=1),
        lambda n: compiled.class_gradient(x[:n], label=np.arange(n) % 2),
        lambda n: compiled.class_jacobian(x[:n], np.arange(1 + n % 3)),
    ):
        call(4)
        traced = defence.calls
        for n in (1, 3, N):
            call(n)
        assert defence.calls == traced
    assert traced > 0


def test_predict_keeps_to_the_batch_size(model, x):
    defence = Counted()
    stock = make_classifier(model, preprocessing_defences=Shift())
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=defence))
    close(compiled.predict(x, batch_size=3), stock.predict(x))
    assert defence.largest.numpy() == 3
    assert compiled.predict(x[:0]).shape == (0, CLASSES)
    with pytest.raises(ValueError, match=r"Expected batch_size to be an integer of at least 1. Received 0"):
        compiled.predict(x, batch_size=0)


def test_retraced_after_set_params(model, x, y):
    compiled = compile_classifier(make_classifier(model))
    before = compiled.loss_gradient(x, y), compiled.predict(x)
    compiled.set_params(preprocessing_defences=[Shift()])
    stock = make_classifier(model, preprocessing_defences=[Shift()])
    assert np.abs(compiled.loss_gradient(x, y) - before[0]).max() > 1e-4
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))
    close(compiled.predict(x), stock.predict(x))
    compiled.set_params(preprocessing_defences=None)
    close(compiled.loss_gradient(x, y), before[0])
    compiled.set_params(loss_object=keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"))
    close(compiled.loss_gradient(x, y), N * before[0])
    compiled.set_params(model=make_model())
    close(compiled.predict(x), make_classifier(compiled.model).predict(x))


def test_retraced_when_a_parameter_of_the_defence_changes(model, x, y):
    defence = Shift()
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=defence))
    compiled.loss_gradient(x, y)
    for strength in (0.1, np.float32(0.9), np.array([0.1, 0.2, 0.3], np.float32)):
        defence.set_params(strength=strength)
        stock = make_classifier(model, preprocessing_defences=Shift(strength))
        close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))
        close(compiled.predict(x), stock.predict(x))


def test_weights_are_read_at_every_call(x, y):
    network = make_model()
    stock = make_classifier(network)
    compiled = compile_classifier(stock)
    compiled.loss_gradient(x, y)
    network.set_weights([0.5 * weight for weight in network.get_weights()])
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))


@pytest.mark.parametrize("defence", [NeedsEager, lambda: DrawsFromNumPy("own"), lambda: DrawsFromNumPy("global")])
def test_a_defence_that_cannot_be_traced_runs_on_arts_path(model, x, y, defence):
    stock = make_classifier(model, preprocessing_defences=defence())
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=defence()))
    for call in (
        lambda c: c.predict(x),
        lambda c: c.loss_gradient(x, y),
        lambda c: c.compute_loss(x, y),
        lambda c: c.class_gradient(x, label=np.arange(N) % CLASSES),
    ):
        np.random.seed(2)  # noqa: NPY002
        expected = [call(stock), call(stock)]
        np.random.seed(2)  # noqa: NPY002
        with pytest.warns(RuntimeWarning, match="runs on ART's eager path"):
            close(call(compiled), expected[0])
        close(call(compiled), expected[1])  # said once, and the stream of random numbers is ART's


def test_class_gradient_of_all_classes_is_exact_on_the_eager_path(model, x):
    stock = make_classifier(model, preprocessing_defences=NeedsEager())
    with pytest.warns(RuntimeWarning, match="class_jacobian runs on ART's eager path"):
        gradient = compile_classifier(stock).class_gradient(x)
    close(gradient, jacobian(stock, x))


def test_python_control_flow_in_a_defence_is_traced(model, x, y):
    stock = make_classifier(model, preprocessing_defences=NeedsAutoGraph())
    compiled = compile_classifier(stock)
    for images in (x, 0.5 * x):
        close(compiled.loss_gradient(images, y), stock.loss_gradient(images, y))


def test_images_of_varying_shape_take_arts_path(model):
    images = np.empty(2, dtype=object)
    images[:] = [np.zeros((4, 4, 3), np.float32), np.zeros((5, 5, 3), np.float32)]
    compiled = compile_classifier(make_classifier(model))
    with pytest.raises(Exception) as ours:  # noqa: PT011 - ART's own, whatever it is
        compiled.loss_gradient(images, np.eye(CLASSES)[:2])
    with pytest.raises(type(ours.value)):
        make_classifier(model).loss_gradient(images, np.eye(CLASSES)[:2])


def test_inside_a_tf_function_arts_error(model, x, y):
    compiled = compile_classifier(make_classifier(model))
    with pytest.raises(NotImplementedError, match="eager"):
        tf.function(lambda: compiled.loss_gradient(x, y))()


def test_jit_compile(model, x, y):
    stock = make_classifier(model, preprocessing_defences=Shift())
    compiled = compile_classifier(stock, jit_compile=True)
    assert compiled.jit_compile
    close(compiled.predict(x), stock.predict(x), 1e-5)
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y), 1e-5)
    close(compiled.class_gradient(x), jacobian(stock, x), 1e-5)


# ----------------------------------------------------------------------------------------------------------------- EOT


def mean_of_draws(call, k):
    return np.mean([call() for _ in range(k)], axis=0)


@pytest.mark.parametrize(
    "make", [Noise, lambda: FeatureSqueezing(clip_values=(0, 1), bit_depth=5)], ids=["tensorflow", "numpy"]
)
def test_eot_is_the_mean_over_draws_with_no_more_rows(model, x, y, make):
    k = 4
    stock = make_classifier(model, preprocessing_defences=make())
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=make()), eot_samples=k)
    assert compiled.eot_samples == k
    close(compiled.loss_gradient(x, y), mean_of_draws(lambda: stock.loss_gradient(x, y), k))
    close(compiled.class_gradient(x, label=2), mean_of_draws(lambda: stock.class_gradient(x, label=2), k))
    assert compiled.predict(x).shape == (N, CLASSES)
    tensor = compiled.loss_gradient(tf.constant(x), tf.constant(y))
    assert tensor.shape == (N, *SHAPE)


def test_eot_of_all_classes(model, x):
    k = 3
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=Noise()), eot_samples=k)
    reference = make_classifier(model, preprocessing_defences=Noise())
    close(compiled.class_gradient(x), mean_of_draws(lambda: jacobian(reference, x), k))


def test_eot_on_the_eager_path(model, x, y):
    stock = make_classifier(model, preprocessing_defences=DrawsFromNumPy())
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=DrawsFromNumPy()), eot_samples=3)
    with pytest.warns(RuntimeWarning, match="a defence draws random numbers outside TensorFlow"):
        gradient = compiled.loss_gradient(x, y)
    close(gradient, mean_of_draws(lambda: stock.loss_gradient(x, y), 3))


def test_seed_of_tensorflows_random_operations(model, x, y):
    def gradients(seed):
        classifier = make_classifier(model, preprocessing_defences=SeededByTensorFlow())
        compiled = compile_classifier(classifier, eot_samples=2, seed=seed)
        return [compiled.loss_gradient(x, y) for _ in range(2)]

    first, again, other = gradients(5), gradients(5), gradients(6)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - first[1]).max() > 1e-5  # every call draws anew
    assert np.abs(first[0] - other[0]).max() > 1e-5


def test_seed_leaves_the_global_seed_alone(model, x, y):
    tf.random.set_seed(1)
    expected = tf.random.normal([3]).numpy()
    tf.random.set_seed(1)
    classifier = make_classifier(model, preprocessing_defences=SeededByTensorFlow())
    compile_classifier(classifier, seed=5).loss_gradient(x, y)
    np.testing.assert_array_equal(tf.random.normal([3]).numpy(), expected)


@pytest.mark.parametrize("loss_type", [None, "cross_entropy", "difference_logits_ratio"])
def test_eot_reaches_apgd(model, x, loss_type):
    calls = []

    class Recorded(Noise):
        def forward(self, x, y=None):
            tf.py_function(lambda: calls.append(1), [], [])
            return super().forward(x, y)

    defences = [Recorded()]
    apgd = AutoProjectedGradientDescent(
        make_classifier(model, preprocessing_defences=defences),
        eps=EPS, eps_step=0.1, max_iter=2, nb_random_init=1, loss_type=loss_type, verbose=False,
    )  # fmt: skip
    compile_attack(apgd, eot_samples=3)
    labels = apgd.estimator.predict(x)
    calls.clear()
    adversarial = seeded(apgd, x, np.eye(CLASSES)[labels.argmax(axis=1)])
    assert adversarial.shape == x.shape
    # the first prediction and the last; two steps of three draws; the losses: two at the first step, one at the next
    assert len(calls) == 2 + 2 * 3 + 3


# ------------------------------------------------------------------------------------------------------- whole attacks


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


# ART's DeepFool with all classes bypasses a defence: test_deepfool_goes_through_the_defence.
CELLS = [(name, "undefended") for name in ATTACKS if name != "auto"]
CELLS += [
    (name, "tensorflow")
    for name in ATTACKS
    if name in ("fgsm", "pgd inf", "cw", "deepfool top 3", "apgd ce", "apgd dlr", "auto")
]
CELLS += [(name, "numpy") for name in ("pgd inf", "cw", "apgd ce", "square inf")]


@pytest.mark.parametrize(("name", "defence"), CELLS)
def test_adversarial_images_equal_stock_arts(model, x, name, defence):
    make = ATTACKS[name]
    stock = make_classifier(model, **DEFENCES[defence]())
    expected = seeded(make(stock), x)
    compiled = compile_attack(make(stock))
    assert isinstance(compiled.estimator, CompiledTensorFlowV2Classifier)
    assert np.abs(expected - x).max() > 1e-3
    same_images(seeded(compiled, x), expected)


@pytest.mark.parametrize("name", ["pgd inf", "cw", "deepfool top 3", "apgd"])
def test_built_on_a_compiled_classifier_an_attack_needs_no_more(model, x, name):
    stock = make_classifier(model, preprocessing_defences=Shift())
    expected = seeded(ATTACKS[name](stock), x)
    same_images(seeded(ATTACKS[name](compile_classifier(stock)), x), expected)


@pytest.mark.parametrize("name", ["bim", "cw", "apgd ce"])
def test_targeted_attacks_equal_stock_arts(model, x, name):
    def make(classifier):
        attack = ATTACKS[name](classifier)
        if name == "cw":
            attack._targeted = True
        else:
            attack.set_params(targeted=True)
        return attack

    stock = make_classifier(model, preprocessing_defences=Shift())
    target = np.eye(CLASSES, dtype=np.float32)[np.argmin(stock.predict(x), axis=1)]
    expected = seeded(make(stock), x, target)
    same_images(seeded(compile_attack(make(stock)), x, target), expected)


def test_random_defence_with_a_generator_of_its_own_gives_stock_arts_images(model, x, y):
    expected = seeded(ATTACKS["pgd inf"](make_classifier(model, preprocessing_defences=Noise())), x, y)
    attack = compile_attack(ATTACKS["pgd inf"](make_classifier(model, preprocessing_defences=Noise())))
    same_images(seeded(attack, x, y), expected)


def test_momentum_is_arts_numpy_loop(model, x):
    stock = make_classifier(model, preprocessing_defences=Shift())
    with pytest.raises(NotImplementedError, match="Momentum Iterative Attack"):
        MomentumIterativeMethod(stock, **STEPS).generate(x)
    expected = ProjectedGradientDescentNumpy(stock, decay=0.8, **STEPS).generate(x)
    attack = compile_attack(MomentumIterativeMethod(stock, decay=0.8, **STEPS))
    assert type(attack) is MomentumIterativeMethod
    same_images(attack.generate(x), expected)
    # By hand (Dong et al., arXiv 1710.06081, Eq. 6 and 7).
    labels = np.eye(CLASSES)[stock.predict(x).argmax(axis=1)]
    by_hand, momentum = x.astype(np.float64), 0.0
    for _ in range(STEPS["max_iter"]):
        gradient = stock.loss_gradient(by_hand.astype(np.float32), labels)
        momentum = 0.8 * momentum + gradient / np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
        by_hand = np.clip(by_hand + STEPS["eps_step"] * np.sign(momentum), 0, 1)
        by_hand = x + np.clip(by_hand - x, -EPS, EPS)
    same_images(expected, by_hand)


def deepfool_by_hand(classifier, x, top, max_iter, epsilon):
    """Moosavi-Dezfooli et al., Algorithm 2, with ART's constants, image by image."""
    scores = classifier.predict(x)
    labels = np.unique(np.argsort(-scores, axis=1)[:, :top])
    answer = []
    for clean in x:
        image = clean.copy()
        own = int(np.argmax(classifier.predict(image[None])))
        for _ in range(max_iter):
            f = classifier.predict(image[None])[0]
            if np.argmax(f) != own:
                break
            gradient = jacobian(classifier, image[None])[0]
            steps = []
            for k in labels[labels != own]:
                w = (gradient[k] - gradient[own]).astype(np.float64)
                norm = np.linalg.norm(w)
                steps.append((abs(f[k] - f[own]) / norm, abs(f[k] - f[own]) / (norm**2 + 1e-7) * w))
            image = np.clip(image + min(steps, key=lambda step: step[0])[1], 0, 1).astype(np.float32)
        answer.append(np.clip(clean + (1 + epsilon) * (image - clean), 0, 1))
    return np.array(answer)


def test_deepfool_goes_through_the_defence(model, x):
    stock = make_classifier(model, preprocessing_defences=Shift())
    expected = deepfool_by_hand(stock, x, CLASSES, 3, 0.02)
    attack = ATTACKS["deepfool all"](stock)
    assert np.abs(attack.generate(x) - expected).max() > 1e-3  # ART's bypass
    compiled = DeepFool(compile_classifier(stock), max_iter=3, epsilon=0.02, batch_size=4, verbose=False)
    same_images(compiled.generate(x), expected)  # ART's loop on the compiled classifier
    same_images(compile_attack(attack).generate(x), expected)  # and the compiled loop


def test_deepfool_on_top_classes_with_and_without_arts_slip(model, x):
    stock = make_classifier(model, preprocessing_defences=Shift())
    # Two images whose top two classes leave a class out: only then place and class differ.
    scores = stock.predict(x)
    tops = np.argsort(-scores, axis=1)[:, :2]
    chosen = next(
        [i, j]
        for i in range(N)
        for j in range(N)
        if i != j and len(np.unique(tops[[i, j]])) < CLASSES and np.unique(tops[[i, j]])[0] > 0
    )
    images = x[chosen]
    arts = DeepFool(stock, max_iter=6, nb_grads=2, epsilon=0.02, verbose=False).generate(images)
    compiled = compile_attack(DeepFool(stock, max_iter=6, nb_grads=2, epsilon=0.02, verbose=False))
    assert type(compiled) is CompiledDeepFool
    same_images(compiled.generate(images), arts)
    compiled.set_params(as_art=False)
    paper = deepfool_by_hand(stock, images, 2, 6, 0.02)
    same_images(compiled.generate(images), paper)
    assert np.abs(paper - arts).max() > 1e-3
    direct = CompiledDeepFool(
        compile_classifier(stock), max_iter=6, nb_grads=2, epsilon=0.02, verbose=False, as_art=False
    )
    same_images(direct.generate(images), paper)


def test_deepfool_under_eot_averages_the_gradients(model, x):
    """One step, by hand from the mean Jacobian."""
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=Noise()), eot_samples=2)
    twin = make_classifier(model, preprocessing_defences=Noise())
    scores = twin.predict(x)
    gradient = mean_of_draws(lambda: jacobian(twin, x), 2)
    adversarial = CompiledDeepFool(compiled, max_iter=1, epsilon=0.0, batch_size=N, verbose=False).generate(x)
    for i in range(N):
        own = scores[i].argmax()
        others = [k for k in range(CLASSES) if k != own]
        w = {k: gradient[i, k] - gradient[i, own] for k in others}
        f = {k: scores[i, own] - scores[i, k] for k in others}
        k = min(others, key=lambda k: f[k] / np.linalg.norm(w[k]))
        close(adversarial[i], np.clip(x[i] + f[k] / (np.sum(w[k] ** 2) + 1e-7) * w[k], 0, 1))


def test_deepfool_without_clip_values(model, x):
    stock = TensorFlowV2Classifier(model, CLASSES, SHAPE)
    expected = DeepFool(stock, max_iter=2, verbose=False).generate(x)
    close(compile_attack(DeepFool(stock, max_iter=2, verbose=False)).generate(x), expected)


def test_deepfool_errors(model, x):
    with pytest.raises(TypeError, match=r"Expected a CompiledTensorFlowV2Classifier. Received TensorFlowV2Classifier"):
        CompiledDeepFool(make_classifier(model), verbose=False).generate(x)
    with pytest.raises(ValueError, match=r"Expected as_art to be True or False. Received 1"):
        CompiledDeepFool(compile_classifier(make_classifier(model)), as_art=1)
    one = compile_classifier(make_classifier(make_model(1), classes=2))
    with pytest.raises(ValueError, match=r"Expected a classifier with a score for each class. Received one score"):
        CompiledDeepFool(one, verbose=False).generate(x)
    softmax = compile_classifier(make_classifier(make_model(softmax=True)))
    with pytest.warns(UserWarning, match="DeepFool expects logits"):
        CompiledDeepFool(softmax, max_iter=1, verbose=False).generate(x)


def test_deepfool_in_auto_attack(model, x):
    stock = make_classifier(model)
    member = DeepFool(stock, max_iter=3, nb_grads=3, verbose=False)
    attack = compile_attack(AutoAttack(stock, eps=EPS, attacks=[apgd("cross_entropy", max_iter=2)(stock), member]))
    assert type(member) is CompiledDeepFool
    twin = DeepFool(stock, max_iter=3, nb_grads=3, verbose=False)
    expected = AutoAttack(stock, eps=EPS, attacks=[apgd("cross_entropy", max_iter=2)(stock), twin])
    close(seeded(attack, x), seeded(expected, x))


# ----------------------------------------------------------------------------------------------------------------- DLR


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_dlr_equals_arts(model, x, y, reduction):
    art = apgd("difference_logits_ratio")(make_classifier(model)).estimator.loss_object
    ours = DifferenceLogitsRatio()
    scores = tf.constant(np.random.default_rng(4).normal(size=(N, CLASSES)), tf.float32)
    art.reduction = ours.reduction = reduction
    values, gradients = [], []
    for loss in (art, ours):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(y, scores)
        values.append(value.numpy())
        gradients.append(tape.gradient(value, scores).numpy())
    close(*values)
    close(*gradients)


def test_dlr_by_hand():
    loss = DifferenceLogitsRatio()
    loss.reduction = "none"
    # right: -(4 - 3) / (4 - 1); wrong: -(1 - 4) / (4 - 1)
    scores = tf.constant([[1.0, 4.0, 3.0, 0.0], [1.0, 4.0, 3.0, 0.0]])
    close(loss(tf.constant([[0, 1, 0, 0], [1, 0, 0, 0]]), scores).numpy(), [-1 / 3, 1.0])
    loss.reduction = "sum_over_batch_size"
    close(loss(tf.constant([[0, 1, 0, 0], [1, 0, 0, 0]]), scores).numpy(), 1 / 3)


def test_dlr_errors():
    with pytest.raises(ValueError, match=r"Expected at least 3 classes. Received 2"):
        DifferenceLogitsRatio()(tf.constant([[0, 1]]), tf.constant([[0.5, 1.0]]))
    loss = DifferenceLogitsRatio()
    loss.reduction = "max"
    with pytest.raises(ValueError, match=r"Expected reduction to be none, sum, mean .* Received 'max'"):
        loss(tf.constant([[0, 1, 0]]), tf.constant([[0.5, 1.0, 0.0]]))
    assert repr(loss) == "DifferenceLogitsRatio(reduction='max')"


# ------------------------------------------------------------------------------- compile_classifier and compile_attack


def test_compile_classifier_shares_and_leaves_the_original(model, x, y):
    defence, optimizer = Shift(), keras.optimizers.SGD()
    stock = make_classifier(
        model, preprocessing_defences=[defence], preprocessing=(0.1, 0.5), optimizer=optimizer, loss="sparse"
    )
    compiled = compile_classifier(stock, eot_samples=2, seed=4)
    assert isinstance(compiled, TensorFlowV2Classifier)
    for name in ("model", "loss_object", "optimizer", "train_step", "nb_classes", "input_shape", "channels_first"):
        assert getattr(compiled, name) is getattr(stock, name) or getattr(compiled, name) == getattr(stock, name)
    assert compiled.preprocessing is stock.preprocessing
    assert compiled.preprocessing_defences == [defence]
    np.testing.assert_array_equal(compiled.clip_values, stock.clip_values)
    compiled.set_params(preprocessing_defences=[])
    compiled.set_params(clip_values=(-1, 1))
    assert stock.preprocessing_defences == [defence]
    assert stock.clip_values[0] == 0
    assert type(stock) is TensorFlowV2Classifier


def test_parameters_round_trip(model):
    compiled = compile_classifier(make_classifier(model), eot_samples=2, seed=4)
    params = compiled.get_params()
    assert (params["jit_compile"], params["eot_samples"], params["seed"]) == (False, 2, 4)
    compiled.set_params(jit_compile=True, eot_samples=5, seed=None)
    assert (compiled.jit_compile, compiled.eot_samples, compiled.seed) == (True, 5, None)
    assert repr(compiled).startswith("art_versatile.attacks.compiled.CompiledTensorFlowV2Classifier(model=")
    assert repr(compiled).endswith("jit_compile=True, eot_samples=5, seed=None)")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"jit_compile": 1}, "Expected jit_compile to be True or False. Received 1"),
        ({"eot_samples": 0}, "Expected eot_samples to be an integer of at least 1. Received 0"),
        ({"eot_samples": True}, "Expected eot_samples to be an integer of at least 1. Received True"),
        ({"eot_samples": 2.0}, "Expected eot_samples to be an integer of at least 1. Received 2.0"),
        ({"seed": "a"}, "Expected seed to be an integer or None. Received 'a'"),
        ({"seed": True}, "Expected seed to be an integer or None. Received True"),
    ],
)
def test_options_are_checked(model, option, message):
    with pytest.raises(ValueError, match=message):
        compile_classifier(make_classifier(model), **option)
    compiled = compile_classifier(make_classifier(model))
    with pytest.raises(ValueError, match=message):
        compiled.set_params(**option)
    assert (compiled.jit_compile, compiled.eot_samples, compiled.seed) == (False, 1, None)


def test_a_compiled_classifier_can_be_compiled_again(model, x, y):
    once = compile_classifier(make_classifier(model))
    again = compile_classifier(once, eot_samples=2)
    assert (once.eot_samples, again.eot_samples) == (1, 2)
    close(again.loss_gradient(x, y), once.loss_gradient(x, y))


@pytest.mark.parametrize("kind", ["subclass", "black box", "number"])
def test_compile_classifier_rejects_other_kinds(model, kind):
    class Smoothed(TensorFlowV2Classifier):
        def predict(self, x, batch_size=128, training_mode=False, **kwargs):
            return np.zeros((len(x), CLASSES))

    class Renamed(TensorFlowV2Classifier):
        pass

    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    assert compile_classifier(Renamed(model, CLASSES, SHAPE, loss)).nb_classes == CLASSES
    other = {
        "subclass": lambda: Smoothed(model, CLASSES, SHAPE, loss),
        "black box": lambda: BlackBoxClassifierNeuralNetwork(lambda x: x, SHAPE, CLASSES, channels_first=False),
        "number": lambda: 3,
    }[kind]()
    with pytest.raises(TypeError, match=f"Expected an ART TensorFlowV2Classifier .* Received {type(other).__name__}"):
        compile_classifier(other)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy", "object"])
def test_keras_classifier(x, y, loss):
    network = make_model(softmax=loss != "object")
    network.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True) if loss == "object" else loss)
    stock = KerasClassifier(network, clip_values=(0, 1), preprocessing_defences=Shift(), preprocessing=(0.1, 0.8))
    compiled = compile_classifier(stock)
    assert compiled.all_framework_preprocessing
    close(compiled.predict(x), stock.predict(x))
    close(compiled.loss_gradient(x, y), stock.loss_gradient(x, y))
    close(compiled.class_gradient(x, label=1), stock.class_gradient(x, label=1))
    close(compiled.class_gradient(x), stock.class_gradient(x))
    make = lambda c: BasicIterativeMethod(c, **STEPS)  # noqa: E731
    close(make(compiled).generate(x), make(stock).generate(x))


def test_keras_classifier_errors():
    network = make_model()
    network.compile(loss="mse")
    with pytest.raises(TypeError, match=r"Expected a KerasClassifier compiled with one of the losses .*Received 'mse'"):
        compile_classifier(KerasClassifier(network))
    one = keras.Input(SHAPE)
    two = keras.Model(one, [keras.layers.Flatten()(one), keras.layers.Flatten()(one)])
    two.compile(loss="categorical_crossentropy")
    with pytest.raises(TypeError, match=r"whose model has one input and one output. Received 1 and 2"):
        compile_classifier(KerasClassifier(two))


def test_compile_attack_changes_the_attack_and_leaves_the_classifier(model):
    stock = make_classifier(model)
    attack = ProjectedGradientDescent(stock, **STEPS)
    assert compile_attack(attack, eot_samples=2, seed=3) is attack
    assert attack.estimator.eot_samples == attack._attack.estimator.eot_samples == 2
    assert attack.estimator.seed == 3
    assert attack.estimator is attack._attack.estimator
    assert type(stock) is TensorFlowV2Classifier


def test_compile_attack_takes_the_options_of_a_compiled_classifier(model):
    compiled = compile_classifier(make_classifier(model), eot_samples=3, seed=8)
    attack = compile_attack(auto(compiled))
    assert attack.estimator is attack.estimator_orig is compiled
    assert [member.estimator.eot_samples for member in attack.attacks] == [3, 3, 3]
    assert [member.estimator.seed for member in attack.attacks] == [8, 8, 8]
    assert isinstance(attack.attacks[1].estimator.loss_object, DifferenceLogitsRatio)
    assert compile_attack(attack, eot_samples=1).estimator.eot_samples == 1
    assert compiled.eot_samples == 3


def test_compile_attack_rejects_other_things(model):
    with pytest.raises(TypeError, match=r"Expected an ART evasion attack. Received int"):
        compile_attack(3)
    black_box = BlackBoxClassifierNeuralNetwork(lambda x: x, SHAPE, CLASSES, channels_first=False, clip_values=(0, 1))
    with pytest.raises(TypeError, match=r"Expected an ART TensorFlowV2Classifier .* Received BlackBox"):
        compile_attack(SquareAttack(black_box))
