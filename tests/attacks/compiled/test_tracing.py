"""When the functions of a compiled classifier are traced, and what cannot be."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from compiled_cases import (
    CLASSES,
    DrawsFromNumPy,
    N,
    NeedsAutoGraph,
    NeedsEager,
    Shift,
    close,
    jacobian,
    make_classifier,
    make_model,
)

from art_versatile.attacks.compiled import compile_classifier


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
