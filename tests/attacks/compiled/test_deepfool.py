"""DeepFool: the images of stock ART, and of the algorithm written by hand where ART is at fault."""

from __future__ import annotations

import numpy as np
import pytest
from art.attacks.evasion import AutoAttack, DeepFool
from art.estimators.classification import TensorFlowV2Classifier
from compiled_cases import (
    ATTACKS,
    CLASSES,
    EPS,
    SHAPE,
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

from art_versatile.attacks.compiled import CompiledDeepFool, compile_attack, compile_classifier


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
    assert [type(member) for member in attack.attacks][1] is CompiledDeepFool
    expected = AutoAttack(stock, eps=EPS, attacks=[apgd("cross_entropy", max_iter=2)(stock), member])
    close(seeded(attack, x), seeded(expected, x))
