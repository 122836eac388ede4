"""Descents: the images of stock ART, and momentum by hand."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import MomentumIterativeMethod, ProjectedGradientDescent
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from compiled_cases import EPS, SHAPE, STEPS, N, Shift, make_classifier, same_images, seeded

from art_versatile.attacks.compiled import MomentumIterativeMethodNumpy, compile_attack, compile_classifier
from art_versatile.attacks.description import describe_attack


def mi_fgsm(classifier, x, y, decay, iterations):
    """By hand: Dong et al., arXiv 1710.06081, Eq. 6 and 7."""
    images, momentum = x.astype(np.float64), 0.0
    for _ in range(iterations):
        gradient = classifier.loss_gradient(images.astype(np.float32), y)
        momentum = decay * momentum + gradient / np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
        images = np.clip(images + STEPS["eps_step"] * np.sign(momentum), 0, 1)
        images = x + np.clip(images - x, -EPS, EPS)
    return images


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", [MomentumIterativeMethod, MomentumIterativeMethodNumpy])
def test_momentum_by_hand(model, x, y, make, decay):
    stock = make_classifier(model, preprocessing_defences=Shift())
    expected = mi_fgsm(stock, x, y, decay, 8)
    attack = make(stock, decay=0.3, **STEPS)
    attack.set_params(decay=decay, max_iter=8)
    same_images(compile_attack(attack).generate(x, y), expected)
    if make is MomentumIterativeMethodNumpy:
        same_images(attack.generate(x, y), expected)
    assert decay == 0 or np.abs(expected - mi_fgsm(stock, x, y, 0, 8)).max() > 0.005


def test_arts_own_momentum_refuses_tensorflow(model, x):
    """The day that this no longer raises, ART's own will do."""
    stock = make_classifier(model)
    with pytest.raises(NotImplementedError, match="Momentum Iterative Attack"):
        MomentumIterativeMethod(stock, **STEPS).generate(x)
    ours = MomentumIterativeMethodNumpy(stock)
    assert isinstance(ours, MomentumIterativeMethod)
    assert (ours.estimator, ours.decay) == (stock, 1.0)


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
    assert describe_attack(attack) == describe_attack(make(compiled, **changes))
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
