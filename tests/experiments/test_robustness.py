from __future__ import annotations

import json

import numpy as np
import pytest

from art_versatile.baselines import Identity, RandomResizing, WaveletDenoising
from art_versatile.evaluation import CHECKS, load_records
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
    assert again.records == first.records
    assert again.verdicts == ["wavelets: no adaptive attack was run, so nothing is said of robustness."]


def test_random_defences_meet_eot(run):
    found, _ = run({"resizing": RandomResizing(sizes=(28, 40), reference=32, seed=0)}, threats=["adaptive"])
    adaptive = [record for record in found.records if record.threat_model == "adaptive"]
    assert adaptive
    for record in adaptive:
        assert record.attack_parameters["eot_samples"] == 2
        assert len(record.evaluations) == 3
        assert record.psnr is None
    deterministic, _ = run({"wavelets": WaveletDenoising()}, threats=["adaptive"], dataset="patches")
    mine = [r for r in deterministic.records if r.defence == "wavelets" and r.threat_model == "adaptive"]
    assert {record.attack_parameters["eot_samples"] for record in mine} == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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


def test_the_records_are_of_one_evaluation(run, tmp_path):
    run(threats=[])
    document = json.loads((tmp_path / "out" / "records.json").read_text())
    assert len(document["records"]) == 2
    with pytest.raises(ValueError, match="to hold records of 'others'"):
        run(threats=[], dataset="others")
    assert np.all([r["attack"] == "clean" for r in document["records"]])
