"""The destruction rate by hand; the study on a tiny classifier: budgets, rows, resuming."""

import json

import numpy as np
import pytest

from art_versatile.baselines import Identity
from art_versatile.physical import PrintAndPhotograph, attack_printed, destruction_rate, printed_study
from art_versatile.physical.study import _Attacker

ON, OFF = True, False


class TestDestructionRate:
    def test_by_hand(self):
        clean = np.array([ON, ON, ON, ON, OFF, OFF])
        attacked = np.array([OFF, OFF, OFF, ON, OFF, ON])  # the first three count
        transformed = np.array([ON, OFF, OFF, ON, ON, ON])
        assert destruction_rate(clean, attacked, transformed) == pytest.approx(1 / 3)
        draws = np.stack([transformed, ~transformed])
        assert destruction_rate(clean, attacked, draws) == pytest.approx((1 / 3 + 2 / 3) / 2)

    def test_nothing_adversarial(self):
        assert destruction_rate(np.array([ON, OFF]), np.array([ON, OFF]), np.array([ON, ON])) is None

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (([1, 0], [0, 0], [1, 1]), "Expected clean, attacked and transformed of bool"),
            (([ON], [ON, ON], [ON]), r"Expected shapes \(N,\)"),
            (([ON, ON], [ON, ON], [ON]), r"Expected shapes \(N,\)"),
        ],
    )
    def test_bad_arrays(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            destruction_rate(*map(np.array, arrays))


@pytest.fixture(scope="module")
def printing():
    return PrintAndPhotograph.perfect(tilt=0.05, registration=0.02, exposure=(0.8, 1.0))


@pytest.fixture(scope="module")
def study(tiny_classifier, tiny_images, tiny_labels, printing, tmp_path_factory):
    file = tmp_path_factory.mktemp("study") / "study.json"
    settings = {
        "classifier": tiny_classifier,
        "defences": {"identity": Identity()},
        "x": tiny_images,
        "y": tiny_labels,
        "file": file,
        "attacks": ["MI-FGSM"],
        "eps": [0.1],
        "max_iter": 3,
        "eot_samples": 1,
        "draws": 3,
        "adaptive": True,
        "printing": printing,
        "verbose": False,
    }
    return settings, printed_study(**settings)


def test_budget_and_effect(tiny_classifier, tiny_images, tiny_labels, printing):
    adversarial = attack_printed(
        tiny_classifier, tiny_images, tiny_labels, eps=0.1, max_iter=4, eot_samples=1, printing=printing
    )
    assert 0.09 < np.abs(adversarial - tiny_images).max() <= 0.1 + 1e-6
    photographs = PrintAndPhotograph(**{name: getattr(printing, name) for name in printing.params} | {"seed": 9})
    right = [
        (tiny_classifier.predict(photographs(x)[0]).argmax(1) == tiny_labels).mean() for x in (tiny_images, adversarial)
    ]
    assert right[1] < right[0]


def test_rows(study, tiny_images):
    _, rows = study
    facts = [(r["attack"], r["eps"], r["eot_samples"], r["threat_model"], r["defence"]) for r in rows]
    defences = ["none", "identity"]
    assert facts == [
        *[("clean", 0.0, 0, "clean", name) for name in defences],
        *[("MI-FGSM", 0.1, 0, "static", name) for name in defences],
        *[("MI-FGSM", 0.1, 1, "static", name) for name in defences],
        ("MI-FGSM", 0.1, 1, "adaptive", "identity"),
    ]
    assert rows[0]["accuracy_unprinted"] == 1  # the labels are the classifier's own answers
    assert rows[0]["destruction_rate"] is None
    for row in rows:
        assert (row["n"], row["draws"], len(row["right"])) == (len(tiny_images), 3, len(tiny_images))
        assert row["accuracy"] == pytest.approx(np.mean(row["right"]) / 3)
    results = ("accuracy", "accuracy_unprinted", "destruction_rate", "right")
    for none, identity in (rows[0:2], rows[2:4], rows[4:6], rows[5:7]):
        assert [none[k] for k in results] == [identity[k] for k in results]
    assert rows[2]["accuracy_unprinted"] < 0.5
    assert rows[4]["accuracy"] < rows[0]["accuracy"]
    assert 0 <= rows[2]["destruction_rate"] <= 1


def test_goes_on_where_it_stopped(study, monkeypatch):
    settings, rows = study
    content = json.loads(settings["file"].read_text())
    del content["rows"][2]
    settings["file"].write_text(json.dumps(content))
    again = printed_study(**settings)
    assert again == rows

    def refuse(*args, **kwargs):
        raise AssertionError("attacked anew")

    monkeypatch.setattr("art_versatile.physical.study._Attacker.attacked", refuse)
    assert printed_study(**settings) == rows
    with pytest.raises(ValueError, match="Received other draws, seed"):
        printed_study(**{**settings, "draws": 2, "seed": 1})


def test_goes_on_at_the_batch_where_it_stopped(study, monkeypatch, tmp_path):
    """Also without the batches before it the draws are the same."""
    settings, _ = study
    settings = {**settings, "batch_size": 3, "adaptive": False, "without_printing": False}
    whole = printed_study(**{**settings, "file": None})
    attack, calls = _Attacker.attacked, []

    def interrupted(self, *args):
        calls.append(args[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attack(self, *args)

    monkeypatch.setattr("art_versatile.physical.study._Attacker.attacked", interrupted)
    settings["file"] = tmp_path / "study.json"
    with pytest.raises(KeyboardInterrupt):
        printed_study(**settings)
    assert len(list((tmp_path / "study_attacked").iterdir())) == 2
    assert printed_study(**settings) == whole
    assert calls == [0, 3, 6, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"attacks": ["FGSM"]}, r"Expected attacks to be one of \['PGD', 'MI-FGSM'\]. Received 'FGSM'"),
        ({"eps": [0.0]}, "Expected eps to be a number"),
        ({"draws": 0}, "Expected draws to be an integer of at least 1"),
        ({"eot_samples": 0}, "Expected eot_samples"),
        ({"defences": {"none": Identity()}}, "Expected defences by names other than 'none'"),
        ({"y": [0]}, "Expected y to be 8 class indices"),
        ({"printing": Identity()}, "Expected printing to be a PrintAndPhotograph. Received Identity"),
    ],
)
def test_bad_parameters(study, kwargs, message):
    settings, _ = study
    with pytest.raises(ValueError, match=message):
        printed_study(**{**settings, "file": None, **kwargs})
