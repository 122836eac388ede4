"""compile_classifier and compile_attack: what they take, what they leave as it was."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from art.attacks.evasion import BasicIterativeMethod, ProjectedGradientDescent, SquareAttack
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, KerasClassifier, TensorFlowV2Classifier
from compiled_cases import CLASSES, SHAPE, STEPS, Shift, auto, close, make_classifier, make_model

from art_versatile.attacks.compiled import DifferenceLogitsRatio, compile_attack, compile_classifier


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
    assert repr(compiled).startswith("art_versatile.attacks.compiled_classifier.CompiledTensorFlowV2Classifier(model=")
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
