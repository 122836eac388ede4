from __future__ import annotations

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.estimators.classification import TensorFlowV2Classifier

from art_versatile.baselines import Identity, RandomResizing, WaveletDenoising
from art_versatile.evaluation import CHECKS, load_records, record_key
from art_versatile.experiments import Plan, evaluate
from art_versatile.experiments.robustness import CONTROLS, png_round_trip


@pytest.fixture
def run(any_size_classifier, tiny_images, tmp_path):
    def run(defences=None, *, shift=0, n=4, **arguments):
        x = tiny_images[:n]
        y = (any_size_classifier.predict(x).argmax(1) + shift) % 10
        facts = {"dataset": "patches", "classifier_name": "tiny", "verbose": False}
        facts |= {name: arguments.pop(name) for name in ("surrogate", "surrogate_name", "verbose") if name in arguments}
        plan = Plan(**{"eps": 0.1, "evaluations": 3, "eot_samples": 2, **arguments})
        return evaluate(
            any_size_classifier, defences or {"wavelets": WaveletDenoising()}, x, y, tmp_path / "out", plan, **facts
        )

    return run


def refuse(*_, **__):
    raise AssertionError("attacked again")


def test_everything(run, any_size_classifier, tmp_path, capsys):
    found = run(other_eps=[0.05], surrogate=any_size_classifier, controls=3, verbose=True)
    folder = tmp_path / "out"
    assert load_records(folder / "records.json") == found.records
    by_threat = {}
    for record in found.records:
        by_threat.setdefault(record.threat_model, set()).add((record.attack, record.gradient))
    assert by_threat == {
        "clean": {("clean", None)},
        "static": {(name, None) for name in ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool")},
        "transfer": {("PGD", None), ("MI-FGSM", None)},
        "query": {("Square", None)},
        "adaptive": {("PGD", "bpda"), *((name, "exact") for name in ("FGSM", "PGD", "APGD-CE", "APGD-DLR"))},
    }
    pgd = [r for r in found.records if (r.attack, r.threat_model, r.gradient) == ("PGD", "adaptive", "exact")]
    assert [(r.eps, r.iterations) for r in pgd] == [(0.1, 10), (0.1, 30), (0.05, 10), (0.5, 10)]
    assert {r.eps for r in found.records if r.attack == "FGSM" and r.threat_model == "static"} == {0.1, 0.05}
    assert {r.surrogate for r in found.records if r.threat_model == "transfer"} == {"surrogate"}
    checks = {(check.defence, check.name): check for check in found.checks}
    assert {name for defence, name in checks if defence in ("wavelets", "none")} == set(CHECKS)
    assert checks["none", "labels"].passed is True
    assert all(checks["wavelets", name].passed is not None for name in CHECKS if name != "labels")
    assert checks[CONTROLS[0], "identity"].passed is True
    assert {checks[name, "known to fall"].passed for name in CONTROLS[1:]} <= {True, False}
    controls = load_records(folder / "controls.json")
    assert {record.n for record in controls} == {3}
    resizing = [r for r in controls if r.defence == CONTROLS[1] and r.threat_model == "adaptive"]
    assert (resizing[0].eot_samples, len(resizing[0].evaluations)) == (2, 3)
    page = (folder / "report.html").read_text()
    for words in (
        "Was the attack strong enough?",
        "wavelets, attacked",
        found.verdicts[0][:40],
        "Worst case per image",
    ):
        assert words in page
    assert "adaptive APGD-DLR at 0.1: wavelets " in capsys.readouterr().out


def test_called_again_nothing_is_attacked_again(run, monkeypatch, tmp_path):
    """And what is written is the same: the page with its pictures, too."""
    plan = {"threats": ["static"], "attacks": ["FGSM", "PGD", "DeepFool"]}
    first = run(**plan)
    page = (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setattr("art_versatile.evaluation.benchmark.Benchmark._generate", refuse)
    again = run(**plan)
    assert sorted(again.records, key=record_key) == sorted(first.records, key=record_key)
    assert again.verdicts == ["wavelets: no adaptive attack was run, so nothing is said of robustness."]
    assert page.count("<img") == 4 * 3
    assert (tmp_path / "out" / "report.html").read_text().count("<img") == page.count("<img")
    for one, two in zip(first.panels, again.panels, strict=True):
        np.testing.assert_array_equal(one.adversarial, two.adversarial)
        assert one.purified_prediction == two.purified_prediction


def test_stopped_in_between(run, monkeypatch, tmp_path):
    """After a kill the page has the pictures of the attacks before it, too."""
    from art_versatile.evaluation.benchmark import Benchmark

    attack = Benchmark._generate

    def stop(self, attacked):
        if type(attacked).__name__ == "CarliniL2Method":
            raise KeyboardInterrupt
        return attack(self, attacked)

    monkeypatch.setattr(Benchmark, "_generate", stop)
    with pytest.raises(KeyboardInterrupt):
        run(threats=["static"])
    monkeypatch.setattr(Benchmark, "_generate", attack)
    found = run(threats=["static"])
    assert [panel.attack for panel in found.panels] == [
        "FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "ART AutoAttack", "DeepFool",
    ]  # fmt: skip


def test_random_defences_meet_eot(run):
    found = run({"resizing": RandomResizing(sizes=(28, 40), reference=32, seed=0)}, threats=["adaptive"], probes=False)
    adaptive = [record for record in found.records if record.threat_model == "adaptive"]
    assert {(record.eot_samples, len(record.evaluations)) for record in adaptive} == {(2, 3)}


def test_wrong_labels_are_seen(run):
    """Labels shifted by one, as of a table that begins at 1: nothing else in the evaluation tells."""
    found = run(shift=1, n=8, threats=["adaptive"], adaptive=["PGD"])
    (check,) = [check for check in found.checks if check.name == "labels"]
    assert check.passed is False
    assert "nothing is said" in found.verdicts[0]
    assert all(any("'labels' failed" in flag for flag in record.flags) for record in found.records)


def test_settings_of_the_static_attacks(run):
    found = run(attacks=["FGSM", "PGD"], threats=["static"], other_eps=[0.05], iterations=[2, 3], png=True)
    cells = [(r.attack, r.eps, r.iterations, r.file_format) for r in found.records if r.defence == "wavelets"][1:]
    runs = [("FGSM", 0.1, 1), ("PGD", 0.1, 2), ("PGD", 0.1, 3), ("FGSM", 0.05, 1), ("PGD", 0.05, 2), ("PGD", 0.05, 3)]
    assert cells == [(*each, kind) for each in runs for kind in (None, "PNG")]


def test_other_settings_in_the_same_folder(run, any_size_classifier, tmp_path):
    """Nothing of one run is taken for another's, and nothing is lost."""
    one = {"attacks": ["PGD"], "threats": ["static", "transfer"], "surrogate": any_size_classifier}
    first = run(**one, surrogate_name="a", controls=2)
    second = run(**one, surrogate_name="b", eps=0.05, seed=1, controls=3)
    assert {record.surrogate for record in second.records} == {None, "b"}
    assert {record.eps for record in second.records} == {None, 0.05}
    assert {record.seed for record in second.records} == {1}
    filed = load_records(tmp_path / "out" / "records.json")
    assert len(filed) == len(first.records) + len(second.records)
    assert {record.n for record in load_records(tmp_path / "out" / "controls.json")} == {2, 3}


def test_other_pixels_and_layout(any_size_classifier, tiny_images, tmp_path):
    """Channels first in (0, 255): the same shares of the range, the same figures."""
    options = {"attacks": ["PGD"], "threats": ("static", "adaptive"), "adaptive": ["PGD"], "probes": False, "png": True}
    plan = Plan(eps=0.05, **options)
    facts = {"dataset": "patches", "classifier_name": "tiny", "verbose": False}
    y = any_size_classifier.predict(tiny_images[:4]).argmax(1)
    image = keras.Input((3, None, None))
    pixels = keras.layers.Rescaling(1 / 255)(keras.layers.Permute((2, 3, 1))(image))
    other = TensorFlowV2Classifier(
        model=keras.Model(image, any_size_classifier.model(pixels)),
        nb_classes=10,
        input_shape=(3, 32, 32),
        loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0, 255),
        channels_first=True,
    )
    expected = evaluate(
        any_size_classifier, {"w": WaveletDenoising()}, tiny_images[:4], y, tmp_path / "a", plan, **facts
    )
    x = 255 * tiny_images[:4].transpose(0, 3, 1, 2)
    defence = WaveletDenoising(clip_values=(0, 255), channels_first=True)
    found = evaluate(other, {"w": defence}, x, y, tmp_path / "b", dataclasses.replace(plan, controls=1), **facts)
    assert {check.name for check in found.checks} >= {"identity", "known to fall"}
    for one, two in zip(expected.records, found.records, strict=True):
        assert (one.attack, one.threat_model, one.iterations, one.gradient) == (
            two.attack, two.threat_model, two.iterations, two.gradient,
        )  # fmt: skip
        assert one.eps == (None if two.eps is None else pytest.approx(two.eps))
        assert abs(one.correct - two.correct) <= 1  # signs of gradients next to zero
        assert one.mae == pytest.approx(two.mae, rel=0.05, abs=1e-6)
    for one, two in zip(expected.panels, found.panels, strict=True):
        assert two.adversarial.shape == (32, 32, 3)
        np.testing.assert_allclose(one.clean, two.clean, atol=1e-6)


def test_png(tiny_images):
    back = png_round_trip(tiny_images)
    np.testing.assert_array_equal(np.round(back * 255), np.round(tiny_images * 255))
    np.testing.assert_allclose(back * 255, np.round(back * 255), atol=1e-4)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(png_round_trip(back), back)
    other = png_round_trip(255 * tiny_images.transpose(0, 3, 1, 2), (0, 255), channels_first=True)
    np.testing.assert_allclose(other.transpose(0, 2, 3, 1), 255 * back, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"eps": 8}, "eps"),
        ({"eps": 0}, "eps"),
        ({"eps": "8/255"}, "eps"),
        ({"other_eps": [float("nan")]}, "eps"),
        ({"effort": "full"}, "effort"),
        ({"threats": ["black-box"]}, "threats"),
        ({"attacks": ["Square"]}, "attacks"),
        ({"adaptive": ["BIM"]}, "adaptive"),
        ({"iterations": [0]}, "iterations"),
        ({"controls": -1}, "controls"),
        ({"eot_samples": 0}, "eot_samples"),
        ({"evaluations": 0}, "evaluations"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_plan_refuses(arguments, name):
    with pytest.raises(ValueError, match=f"Expected {name} "):
        Plan(**arguments)


def test_plan_is_checked_before_tensorflow_is_loaded():
    code = (
        "import sys; from art_versatile.experiments import Plan; Plan(); print({'tensorflow', 'art'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["none", CONTROLS[0]])
def test_reserved_names(run, tmp_path, name):
    with pytest.raises(ValueError, match="Expected defences by other names than"):
        run({name: Identity()})
    assert not (tmp_path / "out").exists()
