"""compile_classifier and compile_attack: what they take, what they leave as it was, the images of stock ART."""

from __future__ import annotations

import art
import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, KerasClassifier, TensorFlowV2Classifier
from compiled_cases import (
    ATTACKS,
    CLASSES,
    DEFENCES,
    EPS,
    SHAPE,
    STEPS,
    Noise,
    Shift,
    auto,
    close,
    make_classifier,
    make_model,
    normalised,
    same_images,
    seeded,
)

from art_versatile.attacks.compiled import (
    ART_VERSIONS,
    CompiledTensorFlowV2Classifier,
    DifferenceLogitsRatio,
    compile_attack,
    compile_classifier,
)
from art_versatile.attacks.description import attacked_classifiers, describe_attack


def test_compile_classifier_shares_and_leaves_the_original(model):
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
    assert repr(compiled).endswith("jit_compile=True, eot_samples=5, seed=None)")


@pytest.mark.parametrize(
    ("name", "value"),
    [("jit_compile", 1), *(("eot_samples", value) for value in (0, True, 2.0)), ("seed", "a"), ("seed", True)],
)
def test_options_are_checked(model, name, value):
    compiled = compile_classifier(make_classifier(model))
    for use in (
        lambda **option: compile_classifier(make_classifier(model), **option),
        lambda **option: compile_attack(ATTACKS["fgsm"](make_classifier(model)), **option),
        compiled.set_params,
    ):
        with pytest.raises(ValueError, match=f"Expected {name} to be .* Received {value!r}"):
            use(**{name: value})
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


def state(attack):
    """What an attack is and computes on, and so for those inside it."""
    inner = [*getattr(attack, "attacks", ()), getattr(attack, "_attack", None)]
    fields = {name: value for name, value in vars(attack).items() if name not in ("attacks", "_attack")}
    return type(attack), fields, [state(part) for part in inner if part is not None]


@pytest.mark.parametrize("name", ["pgd inf", "deepfool top 3", "apgd dlr", "auto", "square inf"])
def test_compile_attack_leaves_the_attack_as_it_was(model, x, name):
    stock = make_classifier(model)
    attack = ATTACKS[name](stock)
    before, described = state(attack), describe_attack(attack)
    compiled = compile_attack(attack, eot_samples=2, seed=3)
    assert compiled is not attack
    assert {(c.eot_samples, c.seed) for c in attacked_classifiers(compiled)} == {(2, 3)}
    compiled.set_params(batch_size=2)
    assert state(attack) == before
    assert describe_attack(attack) == described
    assert type(stock) is TensorFlowV2Classifier
    again = compile_attack(compiled, eot_samples=1)
    assert {c.eot_samples for c in attacked_classifiers(again)} == {1}
    assert {c.eot_samples for c in attacked_classifiers(compiled)} == {2}


def test_compile_attack_takes_the_options_of_a_compiled_classifier(model):
    compiled = compile_classifier(make_classifier(model), eot_samples=3, seed=8)
    attack = compile_attack(auto(compiled))
    assert attack.estimator is attack.estimator_orig is compiled
    assert [(member.estimator.eot_samples, member.estimator.seed) for member in attack.attacks] == [(3, 8)] * 3
    assert isinstance(attack.attacks[1].estimator.loss_object, DifferenceLogitsRatio)


def test_compile_attack_rejects_other_things(model):
    with pytest.raises(TypeError, match=r"Expected an ART evasion attack. Received int"):
        compile_attack(3)
    black_box = BlackBoxClassifierNeuralNetwork(lambda x: x, SHAPE, CLASSES, channels_first=False, clip_values=(0, 1))
    with pytest.raises(TypeError, match=r"Expected an ART TensorFlowV2Classifier .* Received BlackBox"):
        compile_attack(SquareAttack(black_box))


@pytest.mark.parametrize("version", ["1.19.2", "1.21.0", "2.0"])
def test_with_another_version_of_art_its_own_code_runs(model, x, version, monkeypatch):
    stock = make_classifier(model)
    attack = DeepFool(stock, max_iter=1, verbose=False)
    monkeypatch.setattr(art, "__version__", version)
    with pytest.warns(RuntimeWarning, match=rf"Expected ART >=1\.20,<1\.21\. Received {version}: nothing is compiled"):
        assert compile_classifier(stock) is stock
    with pytest.warns(RuntimeWarning, match=r"Expected ART >=1\.20,<1\.21"):
        assert compile_attack(attack) is attack
    assert type(attack) is DeepFool
    # Never a weaker attack in silence.
    for use in (lambda: compile_classifier(stock, eot_samples=2), lambda: compile_attack(attack, eot_samples=2)):
        with pytest.raises(RuntimeError, match="whose own gradients take eot_samples=1"):
            use()


@pytest.mark.parametrize("version", ["1.20", "1.20.0", "1.20.9"])
def test_versions_of_art_that_are_known(model, version, monkeypatch):
    assert ART_VERSIONS == ((1, 20), (1, 21))
    monkeypatch.setattr(art, "__version__", version)
    assert isinstance(compile_classifier(make_classifier(model)), CompiledTensorFlowV2Classifier)


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
            attack.targeted = True
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
    apgd = compile_attack(apgd, eot_samples=3)
    labels = apgd.estimator.predict(x)
    calls.clear()
    adversarial = seeded(apgd, x, np.eye(CLASSES)[labels.argmax(axis=1)])
    assert adversarial.shape == x.shape
    # the first prediction and the last; two steps of three draws; the losses: two at the first step, one at the next
    assert len(calls) == 2 + 2 * 3 + 3


def lite_like():
    """Of EfficientNet-Lite's parts: a stem, an inverted residual, a pooling; logits far apart."""
    layers, relu6 = keras.layers, keras.activations.relu6
    image = keras.Input((32, 32, 3))

    def weights(seed):
        return keras.initializers.HeNormal(seed=seed)

    x = layers.Conv2D(8, 3, 2, "same", activation=relu6, kernel_initializer=weights(1))(image)
    y = layers.Conv2D(24, 1, activation=relu6, kernel_initializer=weights(2))(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation=relu6, depthwise_initializer=weights(3))(y)
    x = layers.Add()([x, layers.Conv2D(8, 1, kernel_initializer=weights(4))(y)])
    x = layers.Conv2D(32, 1, activation=relu6, kernel_initializer=weights(5))(x)
    x = layers.Dense(10, kernel_initializer=weights(6))(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Rescaling(20.0)(x))


@pytest.fixture(scope="module")
def case():
    """A stock classifier with batch normalisation, images, its own answers."""
    plain = lite_like()
    model = normalised(plain)
    x = np.random.default_rng(0).uniform(0, 1, (48, 8, 8, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    np.testing.assert_allclose(model(x), plain(x), atol=1e-3)
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    stock = TensorFlowV2Classifier(
        model, 10, (32, 32, 3), keras.losses.CategoricalCrossentropy(from_logits=True), clip_values=(0.0, 1.0)
    )
    return stock, x, np.eye(10, dtype=np.float32)[stock.predict(x).argmax(1)]


class TestBatchNormalisation:
    """
    A graph fuses a convolution and its normalisation, an eager call does not: gradients differ in their last bits, and
    the signs of those next to zero with them. ``tests/benchmarks/bench_normalised.py`` has it on photographs.
    """

    def test_the_first_step_is_stock_arts_but_for_values_next_to_zero(self, case):
        stock, x, y = case
        images = [FastGradientMethod(c, eps=0.035).generate(x, y) for c in (stock, compile_classifier(stock))]
        differ = np.abs(images[0] - images[1]) > 1e-6
        size = np.abs(stock.loss_gradient(x, y))
        assert size[differ].max(initial=0.0) < 1e-4 * size.max()
        assert differ.mean() < 1e-3

    def test_the_success_rate_and_the_mean_loss_are_stock_arts(self, case):
        stock, x, y = case
        found = []
        for classifier in (stock, compile_classifier(stock)):
            pgd = ProjectedGradientDescent(classifier, eps=0.035, eps_step=0.007, max_iter=10, verbose=False)
            scores = stock.predict(pgd.generate(x, y))
            found.append((np.mean(scores.argmax(1) != y.argmax(1)), np.mean(stock.loss_object(y, scores))))
        assert 0.2 < found[0][0] < 1
        assert found[1][0] == found[0][0]
        assert found[1][1] == pytest.approx(found[0][1], rel=1e-3)
