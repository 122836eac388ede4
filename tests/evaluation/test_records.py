from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from art_versatile.evaluation.metrics import wilson_interval
from art_versatile.evaluation.records import (
    KEY_FIELDS,
    SCHEMA_VERSION,
    EvaluationRecord,
    load_records,
    record_key,
    save_records,
)

PGD = {
    "dataset": "photographs",
    "n": 20,
    "classifier": "EfficientNet-Lite0",
    "defence": "VersatilePurifier(compact)",
    "defence_parameters": {"generator": "compact"},
    "attack": "PGD",
    "attack_parameters": {"max_iter": 40, "eps_step": 0.01},
    "iterations": 40,
    "effort": "paper",
    "norm": "inf",
    "eps": 8 / 255,
    "threat_model": "static",
    "correct": 13,
    "psnr": 30.25,
    "mae": 0.02,
    "ssim": 0.9,
    "seconds": 1.5,
    "seed": 7,
    "versions": {"numpy": "2.4.0"},
    "flags": ["gradients are zero"],
}
CLEAN = {
    "dataset": "photographs",
    "n": 20,
    "classifier": "c",
    "attack": "clean",
    "threat_model": "clean",
    "correct": 20,
}


def pgd(**changes: Any) -> EvaluationRecord:
    return EvaluationRecord(**{**PGD, **changes})


def clean(**changes: Any) -> EvaluationRecord:
    return EvaluationRecord(**{**CLEAN, **changes})


def test_accuracy_and_interval() -> None:
    record = pgd()
    assert record.accuracy == 0.65
    assert record.interval == wilson_interval(13, 20)


def test_a_clean_record_needs_little() -> None:
    record = clean()
    assert record.defence == "none"
    assert record.threat_model == "clean"
    assert record.norm is record.eps is record.effort is record.psnr is None
    assert record.attack_parameters == {}
    assert record.flags == ()


def test_records_are_frozen_hashable_copied_and_pickled() -> None:
    record = pgd()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.correct = 20  # type: ignore[misc]
    assert hash(record) == hash(pgd())
    assert copy.deepcopy(record) == pickle.loads(pickle.dumps(record)) == record


def test_the_callers_dictionaries_stay_the_callers() -> None:
    parameters = {"max_iter": 40, "inner": {"b": 1}}
    record = pgd(attack_parameters=parameters)
    parameters["inner"]["b"] = 2  # type: ignore[index]
    assert record.attack_parameters == {"inner": {"b": 1}, "max_iter": 40}


def test_numpy_and_art_values_become_plain() -> None:
    record = pgd(
        n=np.int64(20),
        correct=np.int32(13),
        eps=np.float32(0.5),
        psnr=np.float32(30),
        seed=np.uint8(7),
        norm=np.inf,
        attack_parameters={
            "norm": np.inf,
            "eps": np.float32(0.5),
            "shape": (1, np.int64(2)),
            "low": -np.inf,
            "no": None,
        },
    )
    assert record.norm == "inf"
    assert record.attack_parameters == {"norm": "inf", "eps": 0.5, "shape": [1, 2], "low": "-inf", "no": None}
    assert list(record.attack_parameters) == sorted(record.attack_parameters)
    for name in ("n", "correct", "seed"):
        assert type(getattr(record, name)) is int
    assert type(record.eps) is type(record.psnr) is float
    assert [pgd(norm=norm).norm for norm in (0, 1, 2.0, "2")] == ["0", "1", "2", "2"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, ["", " ", 3, None]) for name in ("dataset", "classifier", "defence", "attack")),
        *((name, ["", 3]) for name in ("images", "surrogate", "file_format")),
        *((name, [0, 1.5, True, "1"]) for name in ("n", "iterations", "eot_samples", "classes")),
        ("correct", [-1, True, 21, None]),
        ("seed", [-1, 1.5]),
        *((name, ["other", 3]) for name in ("effort", "norm", "gradient")),
        ("threat_model", ["white", "clean", None]),
        ("eps", [0, -0.1, math.inf, math.nan, "8/255"]),
        ("psnr", [math.nan, -1, "30"]),
        ("mae", [1.5, -0.1]),
        ("ssim", [-1.5, True]),
        ("seconds", [-1, math.inf]),
        ("versions", [{"numpy": 2}, "2"]),
        ("flags", ["bad", [""], [1]]),
        ("attack_parameters", [{"a": np.zeros(2)}, {"a": [math.nan]}, {1: 2}, [1]]),
        ("defence_parameters", [None]),
        ("evaluations", [[13, 21], [1, 2], [13, -1], "13"]),
        ("right", ["1" * 13, "2" * 20, 7, "1" * 12 + "0" * 8, "1" * 14 + "0" * 6]),
    ],
)
def test_bad_values_are_refused(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"Expected .*{name}"):
            pgd(**{name: value})


@pytest.mark.parametrize(
    "changes", [{"norm": "inf"}, {"eps": 0.1}, {"attack_parameters": {"a": 1}}, {"gradient": "bpda"}]
)
def test_a_clean_record_has_no_attack(changes: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=f"a clean record without facts of an attack. Received .*{next(iter(changes))}"
    ):
        clean(**changes)
    with pytest.raises(ValueError, match="Received attack='clean', threat_model='static'"):
        clean(threat_model="static")


def test_json_is_plain_ordered_and_comes_back() -> None:
    values = pgd().to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    fields = [field.name for field in dataclasses.fields(EvaluationRecord)]
    assert [name for name in values if name in fields] == fields
    assert values["accuracy"] == 0.65
    assert values["interval"] == list(wilson_interval(13, 20))
    assert EvaluationRecord.from_json(values) == pgd()
    assert EvaluationRecord.from_json(clean().to_json()) == clean()


def test_an_infinite_psnr_comes_back() -> None:
    values = clean(psnr=math.inf).to_json()
    assert values["psnr"] == "inf"
    assert EvaluationRecord.from_json(values).psnr == math.inf


def test_from_json_refuses() -> None:
    values = pgd().to_json()
    without = {name: value for name, value in values.items() if name not in ("attack", "n")}
    for given, message in (
        ({**values, "colour": 1}, r"unknown fields \['colour'\]"),
        ({**values, "accuracy": 0.9}, "accuracy to be 0.65"),
        ({**values, "accuracy": "0.65"}, "accuracy to be 0.65"),
        (without, r"Received none of \['n', 'attack'\]"),
        ([], "a JSON object"),
    ):
        with pytest.raises(ValueError, match=message):
            EvaluationRecord.from_json(given)  # type: ignore[arg-type]


def test_the_key_is_the_cell_not_the_result() -> None:
    key = record_key(pgd())
    others = {
        "correct": 0,
        "evaluations": (0, 0),
        "right": "0" * 20,
        "psnr": 1.0,
        "mae": None,
        "ssim": None,
        "seconds": None,
        "versions": {},
        "flags": [],
        "classes": 10,
    }
    assert record_key(pgd(**others)) == key
    assert set(others) | set(KEY_FIELDS) == {field.name for field in dataclasses.fields(EvaluationRecord)}
    cell = {
        "dataset": "d",
        "images": "abc",
        "n": 21,
        "classifier": "d",
        "defence": "d",
        "defence_parameters": {},
        "attack": "BIM",
        "attack_parameters": {"max_iter": 41, "eps_step": 0.01},
        "effort": None,
        "norm": "2",
        "eps": 4 / 255,
        "iterations": 41,
        "threat_model": "adaptive",
        "surrogate": "d",
        "gradient": "bpda",
        "eot_samples": 2,
        "file_format": "PNG",
        "seed": 8,
    }
    keys = {record_key(pgd(**{name: value})) for name, value in cell.items()}
    assert set(cell) == set(KEY_FIELDS)
    assert len(keys | {key}) == len(cell) + 1


def test_the_key_is_known_before_the_record() -> None:
    assert record_key({name: PGD[name] for name in KEY_FIELDS if name in PGD}) == record_key(pgd())
    early = {"dataset": "photographs", "n": np.int64(20), "classifier": "c", "attack": "clean", "threat_model": "clean"}
    assert record_key(early) == record_key(clean())
    # Order and types of the caller's parameters do not matter.
    parameters = {"eps_step": np.float64(0.01), "max_iter": np.int64(40)}
    assert record_key(pgd(attack_parameters=parameters, norm=np.inf)) == record_key(pgd())


def test_the_key_is_the_same_in_another_process() -> None:
    code = (
        "from art_versatile.evaluation.records import record_key;"
        "print(record_key({'dataset':'d','n':1,'classifier':'c','attack':'clean','threat_model':'clean'}), end='')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    here = {"dataset": "d", "n": 1, "classifier": "c", "attack": "clean", "threat_model": "clean"}
    assert result.stdout == record_key(here)


def test_the_key_refuses() -> None:
    with pytest.raises(ValueError, match=r"Received \['correct'\]"):
        record_key({**{name: PGD[name] for name in KEY_FIELDS if name in PGD}, "correct": 1})
    with pytest.raises(ValueError, match="the field 'dataset'. Received"):
        record_key({"n": 1})
    with pytest.raises(ValueError, match="n to be an integer"):
        record_key({**{name: PGD[name] for name in KEY_FIELDS if name in PGD}, "n": "many"})


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    records = [clean(psnr=math.inf, mae=0, ssim=1), pgd(), pgd(defence="none", defence_parameters={}, seed=None)]
    path = save_records(iter(records), tmp_path / "new" / "records.json")
    assert path == tmp_path / "new" / "records.json"
    assert load_records(path) == records
    assert load_records(str(path)) == records
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema_version"] == SCHEMA_VERSION
    assert len(document["records"]) == 3


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    first = save_records([pgd()], tmp_path / "a.json").read_bytes()
    turned = dict(reversed(list(PGD["attack_parameters"].items())))  # type: ignore[attr-defined]
    assert save_records([pgd(attack_parameters=turned)], tmp_path / "b.json").read_bytes() == first
    again = save_records(load_records(tmp_path / "a.json"), tmp_path / "c.json")
    assert again.read_bytes() == first


def test_saving_refuses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"records\[1\] to be an EvaluationRecord. Received dict"):
        save_records([pgd(), {}], tmp_path / "r.json")  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"two \(records 0 and 2\) of 'VersatilePurifier\(compact\)' against 'PGD'"):
        save_records([pgd(), clean(), pgd(correct=1)], tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


_HEAD = '{"schema": "art-versatile evaluation records"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"schema": ',
        "\udcff",
        "[]",
        '{"records": []}',
        _HEAD + "}",
        _HEAD + ', "schema_version": 2, "records": []}',
        _HEAD + ', "schema_version": 3, "records": {}}',
        _HEAD + ', "schema_version": 3, "records": [{"n": 1}]}',
        _HEAD + ', "schema_version": 3, "records": [{"n": NaN}]}',
    ],
)
def test_loading_refuses(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.json"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        load_records(path)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_records(path)


def test_several_evaluations() -> None:
    """Of a random defence: the mean is the accuracy, its rounded count ``correct``, the least the worst."""
    record = pgd(correct=12, evaluations=[13, 11, 13], right="1" * 10 + "0" * 10)
    assert record.evaluations == (13, 11, 13)
    assert record.accuracy == pytest.approx(37 / 60)
    assert record.worst == 11 / 20
    assert pgd().worst == pgd().accuracy == 13 / 20
    assert EvaluationRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
