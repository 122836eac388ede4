from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from art.attacks.evasion import FastGradientMethod

from art_versatile.baselines import WaveletDenoising
from art_versatile.defended import through
from art_versatile.evaluation import Benchmark, EvaluationRecord
from art_versatile.experiments.panels import make_panels, progress_line


@pytest.fixture
def benchmark(tiny_classifier, tiny_images, tiny_labels):
    y = tiny_labels.copy()
    y[0] = (y[0] + 1) % 10
    made = Benchmark(
        classifier=tiny_classifier,
        x=tiny_images,
        y=y,
        defences={"wavelets": WaveletDenoising(), "other": WaveletDenoising(sigma=0.1)},
        dataset="patches",
        classifier_name="tiny",
        pictures=True,
    )
    made.clean()
    for eps in (0.05, 0.1):
        made.run("FGSM", FastGradientMethod(tiny_classifier, eps=eps))
    for name in made.defences:
        for gradient in ("exact", "bpda"):
            defended = through(tiny_classifier, made.defences[name], gradient=gradient)
            made.run("FGSM", FastGradientMethod(defended, eps=0.05), "adaptive", name)
    return made


def test_one_image_an_attack(benchmark, tiny_classifier, tiny_images):
    """Not the other budget, not the other defence; none that is wrong without an attack."""
    names = [f"{i}.png" for i in range(8)]
    panels = make_panels(benchmark, "wavelets", names=names, class_names=[f"name {i}" for i in range(10)])
    assert [(panel.attack, panel.threat_model) for panel in panels] == [
        ("FGSM", "static"), ("FGSM", "adaptive"), ("FGSM, BPDA", "adaptive"),
    ]  # fmt: skip
    assert [panel.name for panel in panels] == ["1.png", "3.png", "4.png"]  # 2.png is of the other budget
    for panel in panels:
        index = names.index(panel.name)
        np.testing.assert_array_equal(panel.clean, tiny_images[index])
        assert panel.clean_prediction.correct
        assert panel.true_label == panel.clean_prediction.label == f"name {benchmark.y[index]}"
        purified = WaveletDenoising()(panel.adversarial[None])[0]
        np.testing.assert_allclose(panel.purified, purified[0], atol=1e-6)
        logits = tiny_classifier.predict(purified)[0].astype(float)
        expected = np.exp(logits - logits.max())
        assert panel.purified_prediction.label == f"name {logits.argmax()}"
        assert panel.purified_prediction.confidence == pytest.approx((expected / expected.sum()).max(), rel=1e-4)


def test_progress():
    one = EvaluationRecord(
        dataset="d", n=20, classifier="c", attack="AutoAttack", threat_model="static", correct=3, eps=8 / 255, seconds=2
    )
    other = dataclasses.replace(one, defence="mine", correct=15, seconds=0.6)
    png = dataclasses.replace(one, file_format="PNG", correct=9)
    assert progress_line([one, other, png]) == "static ART AutoAttack at 8/255: none 3/20, mine 15/20 (5 s)"
