"""One unit of work of the generation of pairs: one attack on the images of one shard.

Everything here runs where the unit runs: in a worker process, or in the caller's.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from art_versatile._checks import check_batch_size, check_bool, check_choice, check_integer, check_number, pixel_range
from art_versatile._version import __version__
from art_versatile.pairs._sources import check_split
from art_versatile.pairs.attacking import Target, attack_images, check_target, rounded
from art_versatile.pairs.store import COMPRESSIONS, DTYPES, encode_pair, write_json, write_shard

__all__ = ["Options", "Settings", "Unit", "describe", "forget", "in_worker", "read_images", "run_unit"]

# Attacks draw from global random states and keep state in themselves: one unit at a time in a process, even where a
# backend gives it several threads.
_LOCK = threading.RLock()
# Classifier and attacks of the newest run in this process, under the run's token.
_TARGETS: dict[str, Target] = {}


@dataclass(frozen=True)
class Options:
    """What the user chose of how pairs are made, checked; the manifest states all of it."""

    split: str | int
    per_class: int | None
    drop_misclassified: bool
    shard_size: int
    batch_size: int
    dtype: str
    compression: str
    flip: bool
    zoom: float
    seed: int

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check_choice("compression", self.compression, COMPRESSIONS)
        as_plain = {
            "split": check_split(self.split),
            "per_class": None if self.per_class is None else check_integer("per_class", self.per_class),
            "shard_size": check_integer("shard_size", self.shard_size),
            "batch_size": check_batch_size(self.batch_size),
            "seed": check_integer("seed", self.seed, least=0),
            "zoom": check_number("zoom", self.zoom, 1, 100),
            **{name: check_bool(name, getattr(self, name)) for name in ("drop_misclassified", "flip")},
        }
        for name, value in as_plain.items():  # of Python, where NumPy's were given
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Settings:
    """What every unit of a run shares."""

    path: str
    token: str
    factory: Callable[[], Target]
    image_shape: tuple[int, int, int]
    clip_values: tuple[float, float]
    options: Options


@dataclass(frozen=True)
class Unit:
    """One shard of one attack: ``rows`` number the source's images, ``numbers`` the manifest's."""

    file: str
    attack_name: str
    attack: int
    shard: int
    rows: np.ndarray
    numbers: np.ndarray


def _target(token: str, factory: Callable[[], Target]) -> Target:
    """Return the classifier and attacks of a run, made once in each process."""
    if token not in _TARGETS:
        _TARGETS.clear()
        _TARGETS[token] = check_target(factory())
    return _TARGETS[token]


def forget(token: str) -> None:
    """Let go of the classifier and attacks of a run in this process."""
    _TARGETS.pop(token, None)


def in_worker(function: Callable[..., Any], *args: Any) -> Any:
    """
    Call a function in a worker process, where TensorFlow takes memory of a GPU as it needs it: by default the first
    worker takes nearly all. What the user has set stays.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # read when a GPU is first used
    return function(*args)


def describe(token: str, factory: Callable[[], Target]) -> dict[str, Any]:
    """Describe the target for the manifest, where the units run."""
    with _LOCK:
        import art
        import tensorflow as tf

        from art_versatile.attacks.description import describe_attack, plain_value

        classifier, attacks = _target(token, factory)
        model: Any = getattr(classifier, "model", None)
        weights = None
        if hasattr(model, "get_weights"):
            digest = hashlib.sha256()
            for array in model.get_weights():
                digest.update(array.tobytes())
            weights = digest.hexdigest()
        name = getattr(model, "name", None)
        shape = tuple(classifier.input_shape)
        # Keras numbers the models of a process that were given no name.
        if not isinstance(name, str) or re.sub(r"(_\d+)?$|_", "", name) == type(model).__name__.lower():
            name = type(classifier if model is None else model).__name__
        return {
            "classifier": {
                "name": name,
                "class": type(classifier).__name__,
                "nb_classes": int(classifier.nb_classes),
                "weights_sha256": weights,
                "preprocessing": [
                    {
                        "class": type(step).__name__,
                        "parameters": {
                            key: plain_value(getattr(step, key, None)) for key in getattr(step, "params", [])
                        },
                    }
                    for step in getattr(classifier, "preprocessing_operations", [])
                ],
            },
            "attacks": [{"name": key, **describe_attack(attack)} for key, attack in attacks.items()],
            "clip_values": pixel_range(classifier),
            "input_shape": shape[1:] + shape[:1] if getattr(classifier, "channels_first", False) else shape,
            "versions": {
                "adversarial-robustness-toolbox": art.__version__,
                "art-versatile": __version__,
                "numpy": np.__version__,
                "tensorflow": tf.__version__,
            },
        }


def run_unit(
    settings: Settings, unit: Unit, images: np.ndarray | list[str] | Future[np.ndarray], labels: np.ndarray | None
) -> dict[str, Any]:
    """Attack the images of one unit (pixels, files, or what becomes of reading them); write its shard, its record."""
    options = settings.options
    with _LOCK:
        classifier, attacks = _target(settings.token, settings.factory)
        made = attack_images(
            classifier,
            attacks,
            unit.attack_name,
            images.result() if isinstance(images, Future) else read_images(images, settings, unit),
            labels,
            seed=(options.seed, unit.attack, unit.shard),
            batch_size=options.batch_size,
            dtype=options.dtype,
            drop_misclassified=options.drop_misclassified,
        )
    rows = zip(made.clean, made.adversarial, made.labels, unit.numbers[made.kept], strict=True)
    records = (
        encode_pair(clean, adversarial, label=label, attack=unit.attack, image=image, dtype=options.dtype)
        for clean, adversarial, label, image in rows
    )
    place = f"{settings.path}/{unit.file}"
    result = {
        "file": unit.file,
        "attack": unit.attack_name,
        "sha256": write_shard(place, records, compression=options.compression),
        "count": len(made.clean),
        "skipped": len(made.kept) - len(made.clean),
        "misclassified": made.misclassified,
        "fooled": made.fooled,
    }
    write_json(f"{place}.json", result)
    return result


def read_images(images: np.ndarray | list[str], settings: Settings, unit: Unit) -> np.ndarray:
    """Clean images as they will be stored: float32 (N, H, W, 3) in clip_values."""
    from art_versatile.images import load_image, random_view

    options = settings.options
    low, high = settings.clip_values
    shape = settings.image_shape[:2]
    # Of the image and the attack: a view does not depend on how the work is cut into shards.
    seeds = [np.random.SeedSequence([options.seed, 2, unit.attack, int(row)]) for row in unit.rows]
    draws = [np.random.default_rng(seed) for seed in seeds]
    if options.zoom == 1:
        if not isinstance(images, np.ndarray):
            images = low + (high - low) * np.stack([load_image(file, shape[0]) for file in images])
        pixels = np.asarray(images)
        if options.flip:
            mirrored = np.array([rng.uniform() < 0.5 for rng in draws])
            pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
        return rounded(pixels, options.dtype, settings.clip_values)
    views = []
    for image, rng in zip(images, draws, strict=True):
        whole = load_image(image) if isinstance(image, str) else (image - low) / (high - low)
        views.append(random_view(whole, shape, rng, zoom=options.zoom, flip=options.flip))
    return rounded(low + (high - low) * np.stack(views), options.dtype, settings.clip_values)
