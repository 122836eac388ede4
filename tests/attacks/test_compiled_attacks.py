"""Compiled attacks: the images of stock ART, and of references written by hand where ART is at fault."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    DeepFool,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.estimators.classification import TensorFlowV2Classifier
from compiled_cases import (
    ATTACKS,
    CLASSES,
    DEFENCES,
    EPS,
    SHAPE,
    STEPS,
    N,
    Noise,
    Shift,
    apgd,
    close,
    jacobian,
    make_classifier,
    make_model,
    mean_of_draws,
    same_images,
    seeded,
)

from art_versatile.attacks.compiled import (
    CompiledDeepFool,
    CompiledTensorFlowV2Classifier,
    DifferenceLogitsRatio,
    compile_attack,
    compile_classifier,
)
from art_versatile.attacks.suite import MomentumIterativeMethodNumpy

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


class Breaks(Shift):
    """The gradient is NaN in the left half."""

    def forward(self, x, y=None):
        return x + tf.concat([tf.sqrt(0.0 * x[:, :, :8]), tf.zeros_like(x[:, :, 8:])], axis=2), y


def pgd(classifier, **changes):
    return ProjectedGradientDescent(classifier, **{"num_random_init": 1, **STEPS, **changes})


def momentum(classifier, **changes):
    attack = MomentumIterativeMethodNumpy(classifier, decay=0.8, **STEPS)
    attack.set_params(**changes)
    return attack


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (pgd, {}),
        (pgd, {"num_random_init": 0, "eps": 1, "eps_step": 0.3}),
        (pgd, {"targeted": True}),
        (pgd, {"random_eps": True}),
        (pgd, {"norm": 2, "eps": 0.8, "eps_step": 0.3}),
        (pgd, {"num_random_init": 3}),
        # ART's random start does not take a budget for each pixel.
        (pgd, {"num_random_init": 0, "eps": np.full(SHAPE, EPS), "eps_step": np.full(SHAPE, 0.02)}),
        (momentum, {}),
        (momentum, {"num_random_init": 1}),
        (momentum, {"num_random_init": 2}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(value),
)
def test_a_lean_descent_gives_arts_images_to_the_bit(model, x, y, make, changes):
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=Shift()))
    expected = seeded(make(compiled, **changes), x, y)
    attack = compile_attack(make(compiled, **changes))
    assert attack._attack.described_as == type(make(compiled, **changes)._attack).__name__
    images = seeded(attack, x, y)
    assert images.dtype == np.float32
    assert np.abs(images - x).max() > 1e-3
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("make", [pgd, momentum])
def test_a_lean_descent_takes_what_arts_takes(model, x, y, make):
    compiled = compile_classifier(make_classifier(model))
    mask = np.zeros(SHAPE, np.float32)
    mask[4:12] = 1
    for images, labels, more in [(x, y.argmax(axis=1), {}), (x, None, {}), (x.astype(np.float64), y, {"mask": mask})]:
        expected, lean = (seed_and(attack, images, labels, **more) for attack in both(make, compiled))
        np.testing.assert_array_equal(lean, expected)
        assert np.array_equal(lean[:, :4], images[:, :4].astype(np.float32)) is bool(more)
    stock, lean_attack = both(make, compiled)
    for attack in (stock, lean_attack):
        attack.set_params(eps=0.03, max_iter=2, batch_size=2)
    np.testing.assert_array_equal(seeded(lean_attack, x, y), seeded(stock, x, y))


def both(make, classifier):
    return make(classifier), compile_attack(make(classifier))


def seed_and(attack, x, y, **more):
    np.random.seed(3)  # noqa: NPY002
    return attack.generate(x, y, **more)


@pytest.mark.parametrize("make", [pgd, momentum])
def test_arts_log_message_is_what_a_lean_descent_leaves_out(model, x, y, make, caplog, monkeypatch):
    compiled = compile_classifier(make_classifier(model))
    attack, predicted = compile_attack(make(compiled)), []
    predict = compiled.predict

    def spy(images, **options):
        predicted.append(len(images))
        return predict(images, **options)

    monkeypatch.setattr(compiled, "predict", spy)
    quiet = seeded(attack, x, y)
    assert not predicted
    with caplog.at_level(logging.INFO, logger="art"):
        np.testing.assert_array_equal(seeded(attack, x, y), quiet)
    assert predicted == [N, N]
    assert "Success rate of attack" in caplog.text


def test_nan_in_the_gradient_counts_as_zero_as_in_art(model, x, y, caplog):
    compiled = compile_classifier(make_classifier(model, preprocessing_defences=Breaks()))
    gradient = compiled.loss_gradient(x, y)
    assert np.isnan(gradient[:, :15, :8]).all()
    assert not np.isnan(gradient[:, :, 8:]).any()
    stock, lean = both(pgd, compiled)
    expected = seeded(stock, x, y)
    caplog.clear()
    np.testing.assert_array_equal(seeded(lean, x, y), expected)
    assert "Elements of the loss gradient are NaN and have been replaced with 0.0." in caplog.text


def test_a_descent_of_another_class_stays_what_it_is(model):
    class Own(ProjectedGradientDescentNumpy):
        pass

    attack = momentum(compile_classifier(make_classifier(model)))
    attack._attack = Own(attack.estimator, **STEPS)
    assert type(compile_attack(attack)._attack) is Own


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
