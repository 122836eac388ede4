"""Compiled predictions, losses and gradients against stock ART, and by hand where ART is at fault."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.defences.postprocessor import ReverseSigmoid
from art.defences.preprocessor import FeatureSqueezing
from compiled_cases import (
    CLASSES,
    DEFENCES,
    SHAPE,
    DrawsFromNumPy,
    N,
    Noise,
    Rounds,
    SeededByTensorFlow,
    Shift,
    close,
    jacobian,
    make_classifier,
    make_model,
    mean_of_draws,
)

from art_versatile.attacks.compiled import compile_classifier


@pytest.fixture(params=sorted(DEFENCES))
def pair(request, model):
    """Stock and compiled classifier, each with its own defences in the same state."""
    make = DEFENCES[request.param]
    return make_classifier(model, **make()), compile_classifier(make_classifier(model, **make()))


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


@pytest.mark.parametrize(
    ("method", "labels", "expected"),
    [
        *(("class_gradient", label, "label to be None, a class below 5, or 5 of them")
          for label in (CLASSES, -CLASSES - 1, 1.5, [1, 2], np.zeros((N, 1), int))),
        *(("class_jacobian", labels, r"labels to be classes in \[0, 5\)")
          for labels in ([CLASSES], [-1], [], 2, [0.5])),
    ],
)  # fmt: skip
def test_what_is_no_class(model, x, method, labels, expected):
    with pytest.raises(ValueError, match=f"Expected {expected}"):
        getattr(compile_classifier(make_classifier(model)), method)(x, labels)


def test_negative_class_counts_from_the_end_as_in_art(model, x):
    stock = make_classifier(model)
    close(compile_classifier(stock).class_gradient(x, label=-1), stock.class_gradient(x, label=-1))


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


@pytest.mark.parametrize(
    "call",
    [
        lambda c, x, y, **mode: c.predict(x, batch_size=3, **mode),
        lambda c, x, y, **mode: c.loss_gradient(x, y, **mode),
        lambda c, x, y, **mode: c.compute_loss(x, y, **mode),
        lambda c, x, y, **mode: c.class_gradient(x, label=2, **mode),
        lambda c, x, y, **mode: c.class_gradient(x, label=np.arange(N) % 3, **mode),
        lambda c, x, y, **mode: c.class_gradient(x, **mode),
    ],
)
def test_training_mode(x, y, call):
    network = make_model(batch_norm=True)
    stock = make_classifier(network)
    compiled, start = compile_classifier(stock), network.get_weights()

    def answer(classifier, **mode):
        network.set_weights(start)  # a pass in training mode moves the averages
        return call(classifier, x, y, **mode)

    trained = answer(stock, training_mode=True)
    close(answer(compiled, training_mode=True), trained)
    assert np.abs(answer(compiled) - trained).max() > 1e-4


def test_postprocessing_defence(model, x):
    stock = make_classifier(make_model(softmax=True), postprocessing_defences=ReverseSigmoid(apply_predict=True))
    assert np.abs(stock.predict(x) - stock.model(x).numpy()).max() > 1e-3
    close(compile_classifier(stock).predict(x, batch_size=2), stock.predict(x))


# ----------------------------------------------------------------------------------------------------------------- EOT


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
