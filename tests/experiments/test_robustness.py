from __future__ import annotations

import keras
import numpy as np
import pytest

from art_versatile.baselines import Identity, RandomResizing, WaveletDenoising
from art_versatile.classifiers import wrap
from art_versatile.evaluation import CHECKS, load_records, record_key
from art_versatile.experiments.robustness import CONTROLS, evaluate


@pytest.fixture
def run(any_size_classifier, tiny_images, tmp_path):
    def run(defences=None, **arguments):
        x = tiny_images[:4]
        y = any_size_classifier.predict(x).argmax(1)
        lines = []
        defaults = {"dataset": "patches", "classifier_name": "tiny", "eps": 0.1, "evaluations": 3, "eot_samples": 2}
        found = evaluate(
            any_size_classifier,
            defences or {"wavelets": WaveletDenoising()},
            x,
            y,
            tmp_path / "out",
            report=lines.append,
            **{**defaults, **arguments},
        )
        return found, lines

    return run


def test_everything(run, any_size_classifier, tmp_path):
    found, lines = run(other_eps=[0.05], surrogate=any_size_classifier, controls=3)
    folder = tmp_path / "out"
    assert load_records(folder / "records.json") == found.records
    by_threat = {}
    for record in found.records:
        by_threat.setdefault(record.threat_model, set()).add(record.attack)
    assert by_threat == {
        "clean": {"clean"},
        "static": {"FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool"},
        "transfer": {"transferred PGD", "transferred MI-FGSM"},
        "query": {"Square"},
        "adaptive": {f"adaptive {name}" for name in ("FGSM", "PGD", "PGD, BPDA", "APGD-CE", "APGD-DLR")},
    }
    pgd = [r for r in found.records if r.attack == "adaptive PGD"]
    assert [(r.eps, r.attack_parameters["max_iter"]) for r in pgd] == [(0.1, 10), (0.1, 30), (0.05, 10), (0.5, 10)]
    assert {r.eps for r in found.records if r.attack == "FGSM"} == {0.1, 0.05}
    checks = {(check.defence, check.name): check for check in found.checks}
    assert {name for defence, name in checks if defence == "wavelets"} == set(CHECKS)
    assert all(checks["wavelets", name].passed is not None for name in CHECKS)
    assert checks[CONTROLS[0], "identity"].passed is True
    assert {checks[name, "known to fall"].passed for name in CONTROLS[1:]} <= {True, False}
    controls = load_records(folder / "controls.json")
    assert {record.n for record in controls} == {3}
    resizing = [r for r in controls if r.defence == CONTROLS[1] and r.threat_model == "adaptive"]
    assert resizing[0].attack_parameters["eot_samples"] == 2
    assert len(resizing[0].evaluations) == 3
    assert found.verdicts[0].startswith("wavelets: an adaptive attacker (")
    page = (folder / "report.html").read_text()
    for words in (
        "Was the attack strong enough?",
        "wavelets, attacked",
        found.verdicts[0][:40],
        "Worst case per image",
    ):
        assert words in page
    assert any(line.startswith("adaptive APGD-DLR at 0.1: wavelets ") for line in lines)


def test_some_static_attacks(run):
    found, _ = run(attacks=["PGD", "DeepFool"], max_iter=3, other_eps=[0.05], threats=["static"])
    attacked = [r for r in found.records if r.attack != "clean" and r.defence == "none"]
    assert [(r.attack, r.eps) for r in attacked] == [("PGD", 0.1), ("DeepFool", None), ("PGD", 0.05)]
    assert attacked[0].attack_parameters["max_iter"] == 3


def test_called_again_nothing_is_attacked_again(run, monkeypatch):
    first, _ = run(threats=["static", "query"])

    def refuse(*_, **__):
        raise AssertionError("attacked again")

    monkeypatch.setattr("art_versatile.evaluation.benchmark.Benchmark._generate", refuse)
    again, _ = run(threats=["static", "query"])
    assert sorted(again.records, key=record_key) == sorted(first.records, key=record_key)
    assert again.verdicts == ["wavelets: no adaptive attack was run, so nothing is said of robustness."]


def test_random_defences_meet_eot(run):
    found, _ = run({"resizing": RandomResizing(sizes=(28, 40), reference=32, seed=0)}, threats=["adaptive"])
    adaptive = [record for record in found.records if record.threat_model == "adaptive"]
    assert adaptive
    for record in adaptive:
        assert record.attack_parameters["eot_samples"] == 2
        assert len(record.evaluations) == 3
    deterministic, _ = run({"wavelets": WaveletDenoising()}, threats=["adaptive"], dataset="patches")
    mine = [r for r in deterministic.records if r.defence == "wavelets" and r.threat_model == "adaptive"]
    assert {record.attack_parameters["eot_samples"] for record in mine} == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 8}, "Expected eps to be a number from"),
        ({"other_eps": [0]}, "Expected eps to be a number from"),
        ({"preset": "full"}, r"Expected preset to be one of \['quick', 'paper'\]\. Received 'full'"),
        ({"threats": ["black-box"]}, "Expected threats to be one of"),
        ({"attacks": ["Square"]}, "Expected attacks to be one of"),
        ({"controls": -1}, "Expected controls to be an integer of at least 0"),
        ({"defences": {"none": Identity()}}, r"Expected defences by other names than .* Received \['none'\]"),
        ({"defences": {CONTROLS[0]: Identity()}}, "Expected defences by other names than"),
    ],
)
def test_bad_values(run, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**arguments)
    assert not (tmp_path / "out").exists()


def test_other_settings_in_the_same_folder(run, any_size_classifier, tmp_path):
    """Nothing of one run is taken for another's, and nothing is lost."""
    one = {"attacks": ["PGD"], "threats": ["static", "transfer"], "surrogate": any_size_classifier}
    first, _ = run(**one, surrogate_name="a", controls=2)
    second, _ = run(**one, surrogate_name="b", eps=0.05, seed=1, controls=3)
    surrogates = {record.attack_parameters.get("surrogate") for record in second.records}
    assert surrogates == {None, "b"}
    assert {record.eps for record in second.records} == {None, 0.05}
    assert {record.seed for record in second.records} == {1}
    filed = load_records(tmp_path / "out" / "records.json")
    assert len(filed) == len(first.records) + len(second.records)
    assert {record.n for record in load_records(tmp_path / "out" / "controls.json")} == {2, 3}


def test_other_pixels(run, tmp_path):
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    classifier = wrap(model, 32, 10)
    classifier.set_params(clip_values=(0, 255))
    with pytest.raises(ValueError, match=r"Expected a classifier with clip_values=\(0, 1\) and channels last"):
        evaluate(
            classifier, {"a": Identity()}, np.zeros((1, 32, 32, 3), np.float32), np.zeros(1, int), tmp_path / "out",
            dataset="d", classifier_name="c",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
