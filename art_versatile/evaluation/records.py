"""One figure of an evaluation with everything needed to read it, and the JSON file that holds many of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from art_versatile._checks import check_choice, check_integer, check_number
from art_versatile._files import write_text_atomically
from art_versatile.evaluation._values import LARGEST, above_zero, list_of, mapping_of, norm_name, plain_json, text_of
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
SCHEMA_VERSION = 3
_SCHEMA = "art-versatile evaluation records"
NORMS = ("0", "1", "2", "inf")
#: What the attacker knows: nothing is attacked; attacks on the undefended classifier; attacks on another classifier or
#: another purifier; queries only; the gradient through the defence.
THREAT_MODELS = (CLEAN, "static", "transfer", "query", "adaptive")
_CHOICES = {
    "effort": ("quick", "paper"),
    "norm": NORMS,
    "gradient": ("exact", "bpda"),
    "threat_model": THREAT_MODELS,
}

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
    "effort",
    "norm",
    "eps",
    "iterations",
    "threat_model",
    "surrogate",
    "gradient",
    "eot_samples",
    "file_format",
    "seed",
)
#: What a clean record has none of.
_OF_AN_ATTACK = ("norm", "eps", "iterations", "surrogate", "gradient", "eot_samples", "file_format")
_DERIVED = ("accuracy", "interval")


def _cell_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """:data:`KEY_FIELDS`, checked and plain."""
    plain = {**values, "norm": norm_name(values["norm"]), "n": check_integer("n", values["n"])}
    for name in ("dataset", "classifier", "defence", "attack"):
        text_of(name, values[name])
    for name in ("defence_parameters", "attack_parameters"):
        plain[name] = mapping_of(name, values[name])
    optional: dict[str, Callable[[str, Any], Any]] = {
        **dict.fromkeys(("images", "surrogate", "file_format"), text_of),
        **dict.fromkeys(("iterations", "eot_samples"), check_integer),
        "eps": above_zero,
        "seed": lambda name, value: check_integer(name, value, 0),
    }
    for name, check in optional.items():
        plain[name] = None if values[name] is None else check(name, values[name])
    for name, choices in _CHOICES.items():
        if plain[name] is not None or name == "threat_model":
            check_choice(name, plain[name], choices)
    if (values["attack"] == CLEAN) != (values["threat_model"] == CLEAN):
        raise ValueError(
            "Expected threat_model 'clean' for attack 'clean', and for no other. "
            f"Received attack={values['attack']!r}, threat_model={values['threat_model']!r}."
        )
    stated = [name for name in (*_OF_AN_ATTACK, "attack_parameters") if plain[name]]
    if values["attack"] == CLEAN and stated:
        raise ValueError(f"Expected a clean record without facts of an attack. Received {stated}.")
    return plain


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """
    How many images of a set a classifier gets right under one attack, with or without a defence.

    :param dataset: Name of the images.
    :param images: Digest of the images and their labels, or None.
    :param n: Number of images.
    :param classifier: Name of the classifier.
    :param classes: Number of its classes, or None.
    :param defence: Name of the defence; ``"none"`` for the classifier alone.
    :param defence_parameters: What the defence is set to; JSON values.
    :param attack: Name of the attack, no more; ``"clean"`` for no attack.
    :param attack_parameters: What the attack is set to, in the classifier's units; JSON values.
    :param effort: "quick", "paper", or None: how hard the suite's attacks try.
    :param norm: Norm of the budget: "0", "1", "2", "inf" (numbers are taken, too) or None.
    :param eps: Budget as a share of the pixel range; None for an attack without one.
    :param iterations: Of the attack, 1 for a single step; None where it has none or says none.
    :param threat_model: One of :data:`THREAT_MODELS`.
    :param surrogate: Name of the classifier that a transferred attack was made on, else None.
    :param gradient: "exact" or "bpda": the way back through the defence that the attack took; None where it took none.
    :param eot_samples: Draws of a random defence that each gradient was the mean of, or None.
    :param file_format: What kind of file the attacked images were written to and read from ("PNG"); None for arrays.
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
    :raises ValueError: If a value is of another kind or range, or contradicts another.
    """

    dataset: str
    images: str | None = None
    n: int
    classifier: str
    classes: int | None = None
    defence: str = NO_DEFENCE
    defence_parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    attack: str
    attack_parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    effort: str | None = None
    norm: str | None = None
    eps: float | None = None
    iterations: int | None = None
    threat_model: str
    surrogate: str | None = None
    gradient: str | None = None
    eot_samples: int | None = None
    file_format: str | None = None
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
        plain = _cell_values({name: getattr(self, name) for name in KEY_FIELDS})
        plain["correct"] = check_integer("correct", self.correct, 0)
        if plain["correct"] > plain["n"]:
            raise ValueError(f"Expected correct to be at most n={self.n}. Received {self.correct!r}.")
        if self.classes is not None:
            plain["classes"] = check_integer("classes", self.classes, 2)
        counts = [check_integer("evaluations", count, 0) for count in list_of("evaluations", self.evaluations)]
        if counts and (max(counts) > plain["n"] or round(sum(counts) / len(counts)) != plain["correct"]):
            raise ValueError(
                f"Expected evaluations of at most n={self.n}, their rounded mean correct={self.correct}. "
                f"Received {counts}."
            )
        plain["evaluations"] = tuple(counts)
        if self.right is not None:
            _check_right(self.right, plain["n"], min(counts, default=plain["correct"]), several=bool(counts))
        for name, low, high in (("psnr", 0, math.inf), ("mae", 0, 1), ("ssim", -1, 1), ("seconds", 0, LARGEST)):
            value = getattr(self, name)
            plain[name] = None if value is None else check_number(name, value, low, high)
        plain["versions"] = mapping_of("versions", self.versions)
        for package, version in plain["versions"].items():
            text_of(f"versions[{package!r}]", version)
        plain["flags"] = tuple(text_of("flags", flag) for flag in list_of("flags", self.flags))
        for name, value in plain.items():
            object.__setattr__(self, name, value)

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
            values[item.name] = plain_json(getattr(self, item.name), item.name)
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
        :raises ValueError: If a field is missing, unknown or wrong, or the accuracy is not what the counts say.
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


def _check_right(right: Any, n: int, least: int, *, several: bool) -> None:
    if not isinstance(right, str) or len(right) != n or set(right) - {"0", "1"}:
        raise ValueError(f"Expected right to be {n} characters 0 or 1. Received {right!r}.")
    if right.count("1") > least or (not several and right.count("1") < least):
        raise ValueError(f"Expected right to agree with the {least} that are right. Received {right!r}.")


def record_key(record: EvaluationRecord | Mapping[str, Any]) -> str:
    """
    Which cell a record fills, so that an evaluation goes on where it stopped.

    :param record: A record, or a dictionary of :data:`KEY_FIELDS` before there is one (optional fields may be left
        out).
    :return: A digest, equal for equal cells in every process and on every machine.
    :raises ValueError: If a field is missing, unknown or wrong.
    """
    if isinstance(record, EvaluationRecord):
        values = {name: getattr(record, name) for name in KEY_FIELDS}
    else:
        unknown = sorted(set(record) - set(KEY_FIELDS))
        if unknown:
            raise ValueError(f"Expected fields out of {list(KEY_FIELDS)}. Received {unknown}.")
        values = {}
        for item in dataclasses.fields(EvaluationRecord):
            if item.name in KEY_FIELDS:
                if _required(item) and item.name not in record:
                    raise ValueError(f"Expected the field {item.name!r}. Received {sorted(record)}.")
                values[item.name] = record.get(item.name, {} if item.default is dataclasses.MISSING else item.default)
    canonical = json.dumps(_cell_values(values), sort_keys=True, allow_nan=False, separators=(",", ":"))
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
    except (ValueError, RecursionError) as err:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(
            f"Expected {path} to be a JSON file of evaluation records; delete it to begin anew. Received: {err}."
        ) from err
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise ValueError(f"Expected {path} to hold {_SCHEMA!r}. Received another JSON document.")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
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
