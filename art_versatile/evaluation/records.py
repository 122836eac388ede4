"""One figure of an evaluation with everything needed to read it, and the JSON file that holds many of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice
from art_versatile._files import write_text_atomically
from art_versatile.evaluation.metrics import wilson_interval

__all__ = [
    "CLEAN",
    "KEY_FIELDS",
    "NO_DEFENCE",
    "SCHEMA_VERSION",
    "THREAT_MODELS",
    "UNBOUNDED",
    "Check",
    "EvaluationRecord",
    "load_records",
    "record_key",
    "save_records",
]

CLEAN = "clean"
NO_DEFENCE = "none"
#: A budget in L-infinity, as a share of the pixel range, at which no defence can hold: it checks the attack.
UNBOUNDED = 0.5
SCHEMA_VERSION = 2
_READABLE = (1, SCHEMA_VERSION)  # version 1 had neither images, evaluations nor right
_SCHEMA = "art-versatile evaluation records"
PRESETS = ("quick", "paper", "full")
NORMS = ("0", "1", "2", "inf")
#: What the attacker knows: nothing is attacked; attacks on the undefended classifier; attacks on another classifier or
#: another purifier; queries only; the gradient through the defence.
THREAT_MODELS = (CLEAN, "static", "transfer", "query", "adaptive")

#: The fields that say which cell of an evaluation a record fills. Results, time and versions are not among them.
KEY_FIELDS = (
    "dataset",
    "images",
    "n",
    "classifier",
    "defence",
    "defence_parameters",
    "attack",
    "attack_parameters",
    "preset",
    "norm",
    "eps",
    "threat_model",
    "seed",
)
_DERIVED = ("accuracy", "interval")


def _plain(value: Any, name: str) -> Any:
    """Plain JSON values, keys sorted: what is compared, hashed and written is then one and the same."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError(f"Expected {name} without NaN. Received NaN.")
        # JSON has no infinity; ART's norm=np.inf is a usual parameter.
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"Expected {name} to have strings as keys. Received {key!r}.")
        return {key: _plain(value[key], f"{name}[{key!r}]") for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    raise ValueError(f"Expected {name} to be JSON values. Received {type(value).__name__}.")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"Expected {name} to be a non-empty string. Received {value!r}.")


def _integer(name: str, value: Any, low: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or (low is not None and value < low):
        least = "" if low is None else f" of at least {low}"
        raise ValueError(f"Expected {name} to be an integer{least}. Received {value!r}.")
    return int(value)


def _number(name: str, value: Any, low: float, high: float = math.inf, *, infinite: bool = False) -> float:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not low <= value <= high or (math.isinf(value) and not infinite):
        limits = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise ValueError(f"Expected {name} to be a number {limits}, or None. Received {value!r}.")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """
    One cell of an evaluation: one defence against one attack on n images. Every field is checked, all are plain data.

    A clean row has ``attack="clean"`` and ``threat_model="clean"``, and neither norm, eps nor attack parameters.

    :param dataset: Name of the images.
    :param images: What tells these images and labels from others of the same name, as the first digits of a SHA-256;
        None where it was not recorded.
    :param n: Number of images.
    :param classifier: Name of the classifier.
    :param defence: Name of the defence, as ``"VersatilePurifier(compact)"``; ``"none"`` without one.
    :param defence_parameters: Its parameters, JSON values.
    :param attack: Name of the attack, as ``"FGSM"``; ``"clean"`` without one.
    :param attack_parameters: Its parameters, JSON values.
    :param preset: ``"quick"``, ``"paper"``, ``"full"`` or None.
    :param norm: ``"inf"``, ``"2"``, ``"1"``, ``"0"`` (or the numbers) or None.
    :param eps: Budget in the norm, pixels in [0, 1]; None for an attack without one.
    :param threat_model: One of :data:`THREAT_MODELS`.
    :param correct: How many of the n images are classified right; of several evaluations the mean, rounded.
    :param evaluations: Of a random defence: how many were right at each evaluation of the same images. Empty where it
        was evaluated once.
    :param right: One character an image, in their order: "1" where it was right at every evaluation, else "0". None
        where it was not recorded.
    :param psnr: dB. For a defence: the purified image against the clean one; for ``"none"``: the attacked image against
        the clean one. Infinite where they are equal; None where not measured.
    :param mae: Mean absolute error of the same pair as a share of the pixel range, or None.
    :param ssim: Structural similarity of the same pair, or None.
    :param seconds: Time of the cell, or None.
    :param seed: Seed of the cell, or None.
    :param versions: Package name to version.
    :param flags: Warnings that a reader must see beside the figure.
    :raises ValueError: If a value is not as expected.
    """

    dataset: str
    images: str | None = None
    n: int
    classifier: str
    defence: str = NO_DEFENCE
    defence_parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    attack: str
    attack_parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    preset: str | None = None
    norm: str | None = None
    eps: float | None = None
    threat_model: str
    correct: int
    evaluations: tuple[int, ...] = ()
    right: str | None = None
    psnr: float | None = None
    mae: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self._checked().items():
            object.__setattr__(self, name, value)

    def _checked(self) -> dict[str, Any]:
        _check_key_values({name: getattr(self, name) for name in KEY_FIELDS})
        plain: dict[str, Any] = _plain_key_values({name: getattr(self, name) for name in KEY_FIELDS})
        plain["correct"] = _integer("correct", self.correct, 0)
        if plain["correct"] > plain["n"]:
            raise ValueError(f"Expected correct to be at most n={self.n}. Received {self.correct!r}.")
        plain["evaluations"] = self._checked_evaluations()
        if self.right is not None:
            self._check_right(plain["n"], plain["correct"], plain["evaluations"])
        if self.psnr is not None:
            plain["psnr"] = _number("psnr", self.psnr, 0, infinite=True)
        if self.mae is not None:
            plain["mae"] = _number("mae", self.mae, 0, 1)
        if self.ssim is not None:
            plain["ssim"] = _number("ssim", self.ssim, -1, 1)
        if self.seconds is not None:
            plain["seconds"] = _number("seconds", self.seconds, 0)
        plain["versions"] = _mapping("versions", self.versions)
        for package, version in plain["versions"].items():
            _text(f"versions[{package!r}]", version)
        if isinstance(self.flags, str) or not isinstance(self.flags, list | tuple):
            raise ValueError(f"Expected flags to be a list of strings. Received {self.flags!r}.")
        for flag in self.flags:
            _text("a flag", flag)
        plain["flags"] = tuple(self.flags)
        return plain

    def _checked_evaluations(self) -> tuple[int, ...]:
        if isinstance(self.evaluations, str) or not isinstance(self.evaluations, list | tuple):
            raise ValueError(f"Expected evaluations to be a list of counts. Received {self.evaluations!r}.")
        counts = tuple(_integer("an evaluation", count, 0) for count in self.evaluations)
        if counts and (max(counts) > self.n or round(sum(counts) / len(counts)) != self.correct):
            raise ValueError(
                f"Expected evaluations of at most n={self.n}, their rounded mean correct={self.correct}. "
                f"Received {counts}."
            )
        return counts

    def _check_right(self, n: int, correct: int, evaluations: tuple[int, ...]) -> None:
        right = self.right
        if not isinstance(right, str) or len(right) != n or set(right) - {"0", "1"}:
            raise ValueError(f"Expected right to be {n} characters 0 or 1. Received {right!r}.")
        least = min(evaluations, default=correct)
        if right.count("1") > least or (not evaluations and right.count("1") < least):
            raise ValueError(f"Expected right to agree with the {least} that are right. Received {right!r}.")

    @property
    def accuracy(self) -> float:
        """Share of the images classified right, 0 to 1; of several evaluations the mean."""
        if self.evaluations:
            return sum(self.evaluations) / (len(self.evaluations) * self.n)
        return self.correct / self.n

    @property
    def worst(self) -> float:
        """The accuracy of the worst evaluation."""
        return min(self.evaluations, default=self.correct) / self.n

    @property
    def is_unbounded(self) -> bool:
        """Whether no defence can hold the budget, see :data:`UNBOUNDED`; in L2 the number is a usual one."""
        return self.norm == "inf" and self.eps is not None and self.eps >= UNBOUNDED

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson_interval(self.correct, self.n)

    def to_json(self) -> dict[str, Any]:
        """
        The record as JSON values, in the order of the fields; accuracy and interval are added for the reader.

        :return: A new dictionary. An infinite PSNR is the string ``"inf"``.
        """
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            values[item.name] = _plain(getattr(self, item.name), item.name)
            if item.name == "correct":
                values["accuracy"] = self.accuracy
                values["interval"] = list(self.interval)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EvaluationRecord:
        """
        A record from what :meth:`to_json` gave.

        :param values: The dictionary.
        :return: The record.
        :raises ValueError: If a field is missing, unknown or not as expected, or the accuracy is not what the counts
            say.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"Expected a record to be a JSON object. Received {type(values).__name__}.")
        fields = dataclasses.fields(cls)
        unknown = sorted(set(values) - {item.name for item in fields} - set(_DERIVED))
        if unknown:
            raise ValueError(f"Expected the fields of a record only. Received unknown fields {unknown}.")
        missing = [item.name for item in fields if _required(item) and item.name not in values]
        if missing:
            raise ValueError(f"Expected a record with every required field. Received none of {missing}.")
        arguments = {name: value for name, value in values.items() if name not in _DERIVED}
        if arguments.get("psnr") == "inf":
            arguments["psnr"] = math.inf
        record = cls(**arguments)
        stated = values.get("accuracy", record.accuracy)
        if not isinstance(stated, int | float) or not math.isclose(stated, record.accuracy, abs_tol=1e-9):
            raise ValueError(f"Expected accuracy to be {record.accuracy:g}, as the counts say. Received {stated!r}.")
        return record


@dataclass(frozen=True)
class Check:
    """
    What one check of an evaluation found, see :mod:`art_versatile.evaluation.checks`.

    :param name: Name of the check.
    :param asks: What it asks.
    :param defence: Name of the defence.
    :param passed: True, False, or None where the attacks that it needs were not run.
    :param said: What was compared, or what is missing.
    """

    name: str
    asks: str
    defence: str
    passed: bool | None
    said: str


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"Expected {name} to be a dictionary. Received {value!r}.")
    return _plain(value, name)


def _norm(value: Any) -> str | None:
    if isinstance(value, int | float | np.generic) and not isinstance(value, bool):
        return "inf" if value == math.inf else f"{value:g}"
    return value


def _check_key_values(values: Mapping[str, Any]) -> None:
    for name in ("dataset", "classifier", "defence", "attack"):
        _text(name, values[name])
    if values["images"] is not None:
        _text("images", values["images"])
    _integer("n", values["n"], 1)
    if values["preset"] is not None:
        check_choice("preset", values["preset"], PRESETS)
    if values["norm"] is not None:
        check_choice("norm", _norm(values["norm"]), NORMS)
    eps = values["eps"]
    if eps is not None and not (_number("eps", eps, 0) > 0):
        raise ValueError(f"Expected eps to be above 0, or None. Received {eps!r}.")
    if values["seed"] is not None:
        _integer("seed", values["seed"])
    check_choice("threat_model", values["threat_model"], THREAT_MODELS)
    if (values["attack"] == CLEAN) != (values["threat_model"] == CLEAN):
        raise ValueError(
            "Expected threat_model 'clean' for attack 'clean', and for no other. "
            f"Received attack={values['attack']!r}, threat_model={values['threat_model']!r}."
        )
    if values["attack"] == CLEAN and (values["norm"] is not None or eps is not None or values["attack_parameters"]):
        raise ValueError(
            "Expected a clean record without norm, eps and attack_parameters. "
            f"Received norm={values['norm']!r}, eps={eps!r}, attack_parameters={values['attack_parameters']!r}."
        )


def _plain_key_values(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(values)
    plain["n"] = int(values["n"])
    plain["norm"] = _norm(values["norm"])
    plain["eps"] = None if values["eps"] is None else float(values["eps"])
    plain["seed"] = None if values["seed"] is None else int(values["seed"])
    for name in ("defence_parameters", "attack_parameters"):
        plain[name] = _mapping(name, values[name])
    return plain


def record_key(record: EvaluationRecord | Mapping[str, Any]) -> str:
    """
    Which cell a record fills, so that an evaluation goes on where it stopped.

    :param record: A record, or a dictionary of :data:`KEY_FIELDS` before there is one (optional fields may be left
        out).
    :return: A digest, equal for equal cells in every process and on every machine.
    :raises ValueError: If a field is missing, unknown or not as expected.
    """
    if isinstance(record, EvaluationRecord):
        values = {name: getattr(record, name) for name in KEY_FIELDS}
    else:
        unknown = sorted(set(record) - set(KEY_FIELDS))
        if unknown:
            raise ValueError(f"Expected fields out of {list(KEY_FIELDS)}. Received {unknown}.")
        values = {}
        for item in dataclasses.fields(EvaluationRecord):
            if item.name not in KEY_FIELDS:
                continue
            if item.name in record:
                values[item.name] = record[item.name]
            elif _required(item):
                raise ValueError(f"Expected the field {item.name!r}. Received {sorted(record)}.")
            else:
                values[item.name] = {} if item.default is dataclasses.MISSING else item.default
        _check_key_values(values)
    canonical = json.dumps(_plain_key_values(values), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def save_records(records: Iterable[EvaluationRecord], path: str | os.PathLike[str]) -> Path:
    """
    Write records to one JSON file, in their order, atomically. Equal records give equal bytes.

    :param records: The records, one a cell.
    :param path: The file.
    :return: The path.
    :raises TypeError: If an item is not a record.
    :raises ValueError: If two records fill one cell.
    """
    records = list(records)
    cells: dict[str, int] = {}
    for index, record in enumerate(records):
        if not isinstance(record, EvaluationRecord):
            raise TypeError(f"Expected records[{index}] to be an EvaluationRecord. Received {type(record).__name__}.")
        first = cells.setdefault(record_key(record), index)
        if first != index:
            raise ValueError(
                f"Expected one record a cell. Received two (records {first} and {index}) "
                f"of {record.defence!r} against {record.attack!r}."
            )
    document = {
        "schema": _SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "records": [record.to_json() for record in records],
    }
    return write_text_atomically(path, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _no_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


def load_records(path: str | os.PathLike[str]) -> list[EvaluationRecord]:
    """
    Read what :func:`save_records` wrote.

    :param path: The file.
    :return: The records, in the file's order.
    :raises FileNotFoundError: If there is none.
    :raises ValueError: If it is broken, is not a file of records or is of another schema version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of evaluation records at {path}. Received no such file.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except ValueError as err:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"Expected {path} to be a JSON file of evaluation records. Received: {err}.") from err
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise ValueError(f"Expected {path} to hold {_SCHEMA!r}. Received another JSON document.")
    version = document.get("schema_version")
    if version not in _READABLE:
        raise ValueError(f"Expected {path} to be of schema version {SCHEMA_VERSION}. Received {version!r}.")
    if not isinstance(document.get("records"), list):
        raise ValueError(
            f"Expected {path} to hold a list of records. Received {type(document.get('records')).__name__}."
        )
    records = []
    for index, values in enumerate(document["records"]):
        try:
            records.append(EvaluationRecord.from_json(values))
        except ValueError as err:
            raise ValueError(f"{path}, record {index}: {err}") from err
    return records
