"""One unit of work of the generation of pairs: one attack on the images of one shard.

Everything here runs where the unit runs: in a worker process, or in the caller's.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from art_versatile._checks import check_clip_values
from art_versatile._version import __version__
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.pairs.store import encode_pair, write_json, write_shard

__all__ = ["Settings", "Target", "Unit", "describe", "forget", "read_images", "run_unit"]

# A classifier and its attacks, as the user gives them.
Target = tuple[Any, Mapping[str, Any]]

# Attacks draw from global random states and keep state in themselves: one unit at a time in a process, even where a
# backend gives it several threads.
_LOCK = threading.RLock()
# Classifier and attacks of the newest run in this process, under the run's token.
_TARGETS: dict[str, Target] = {}


@dataclass(frozen=True)
class Settings:
    """What every unit of a run shares."""

    path: str
    token: str
    factory: Callable[[], Target]
    image_shape: tuple[int, int, int]
    clip_values: tuple[float, float]
    dtype: str
    compression: str
    batch_size: int
    drop_misclassified: bool
    flip: bool
    zoom: float
    seed: int


@dataclass(frozen=True)
class Unit:
    """One shard of one attack: ``rows`` number the source's images, ``numbers`` the manifest's."""

    file: str
    attack_name: str
    attack: int
    shard: int
    rows: np.ndarray
    numbers: np.ndarray


def _check_target(target: Any) -> Target:
    """Check a classifier and its attacks."""
    if not isinstance(target, tuple) or len(target) != 2 or not isinstance(target[1], Mapping):
        raise TypeError(f"Expected attacks() to return (classifier, mapping of attacks). Received {target!r:.80}.")
    classifier, attacks = target
    if not callable(getattr(classifier, "predict", None)) or not hasattr(classifier, "nb_classes"):
        raise TypeError(f"Expected classifier to be an ART classifier. Received {type(classifier).__name__}.")
    if classifier.clip_values is None:
        raise ValueError("Expected the classifier to have clip_values, the range of the pixels. Received None.")
    check_clip_values(classifier.clip_values)
    if getattr(classifier, "channels_first", False):
        raise ValueError("Expected a classifier of images (N, H, W, 3). Received channels_first=True.")
    if not attacks:
        raise ValueError("Expected at least one attack. Received none.")
    for name, attack in attacks.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"Expected the names of the attacks to be strings. Received {name!r}.")
        if not callable(getattr(attack, "generate", None)) or not hasattr(attack, "attack_params"):
            raise TypeError(f"Expected the attack {name!r} to be an ART attack. Received {type(attack).__name__}.")
        if getattr(attack, "targeted", False):
            raise ValueError(
                f"Expected untargeted attacks, as a pair's label is the one to get away from. Received {name!r} with "
                "targeted=True."
            )
    return classifier, attacks


def _target(token: str, factory: Callable[[], Target]) -> Target:
    """Return the classifier and attacks of a run, made once in each process."""
    if token not in _TARGETS:
        _TARGETS.clear()
        _TARGETS[token] = _check_target(factory())
    return _TARGETS[token]


def forget(token: str) -> None:
    """Let go of the classifier and attacks of a run in this process."""
    _TARGETS.pop(token, None)


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
            "clip_values": check_clip_values(classifier.clip_values),
            "input_shape": tuple(classifier.input_shape),
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
    with _LOCK:
        classifier, attacks = _target(settings.token, settings.factory)
        attack = attacks[unit.attack_name]
        clean = images.result() if isinstance(images, Future) else read_images(images, settings, unit)
        entropy = np.random.SeedSequence([settings.seed, 1, unit.attack, unit.shard])
        with _left_alone(attack), isolated_seed(entropy):
            predicted = _predict(classifier, clean, settings.batch_size)
            truth = predicted if labels is None else labels
            kept = predicted == truth if settings.drop_misclassified else np.ones(len(clean), bool)
            clean, predicted, truth, numbers = clean[kept], predicted[kept], truth[kept], unit.numbers[kept]
            adversarial = clean
            attacked = predicted
            if len(clean):
                one_hot = np.zeros((len(clean), classifier.nb_classes), np.float32)
                one_hot[np.arange(len(clean)), truth] = 1
                adversarial = np.asarray(attack.generate(x=clean.copy(), y=one_hot))
                if adversarial.shape != clean.shape or not np.isfinite(adversarial).all():
                    raise ValueError(
                        f"Expected the attack {unit.attack_name!r} to return finite images {clean.shape}. Received "
                        f"{adversarial.shape}{' with NaN or infinity' * (adversarial.shape == clean.shape)}."
                    )
                adversarial = _rounded(adversarial, settings)
                attacked = _predict(classifier, adversarial, settings.batch_size)
    records = (
        encode_pair(
            clean[row],
            adversarial[row],
            label=truth[row],
            attack=unit.attack,
            image=numbers[row],
            dtype=settings.dtype,
        )
        for row in range(len(clean))
    )
    place = f"{settings.path}/{unit.file}"
    result = {
        "file": unit.file,
        "attack": unit.attack_name,
        "sha256": write_shard(place, records, compression=settings.compression),
        "count": len(clean),
        "skipped": len(kept) - len(clean),
        "misclassified": int(np.sum(predicted != truth)),
        "fooled": int(np.sum((predicted == truth) & (attacked != truth))),
    }
    write_json(f"{place}.json", result)
    return result


def read_images(images: np.ndarray | list[str], settings: Settings, unit: Unit) -> np.ndarray:
    """Clean images as they will be stored: float32 (N, H, W, 3) in clip_values."""
    from art_versatile.images import load_image, random_view

    low, high = settings.clip_values
    shape = settings.image_shape[:2]
    # Of the image and the attack: a view does not depend on how the work is cut into shards.
    seeds = [np.random.SeedSequence([settings.seed, 2, unit.attack, int(row)]) for row in unit.rows]
    draws = [np.random.default_rng(seed) for seed in seeds]
    if settings.zoom == 1:
        if not isinstance(images, np.ndarray):
            images = low + (high - low) * np.stack([load_image(file, shape[0]) for file in images])
        pixels = np.asarray(images)
        if settings.flip:
            mirrored = np.array([rng.uniform() < 0.5 for rng in draws])
            pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
        return _rounded(pixels, settings)
    views = []
    for image, rng in zip(images, draws, strict=True):
        whole = load_image(image) if isinstance(image, str) else (image - low) / (high - low)
        views.append(random_view(whole, shape, rng, zoom=settings.zoom, flip=settings.flip))
    return _rounded(low + (high - low) * np.stack(views), settings)


def _rounded(images: np.ndarray, settings: Settings) -> np.ndarray:
    """Round to what the stored type can hold inside clip_values; returned as float32."""
    dtype = np.dtype(settings.dtype).type
    low, high = (dtype(value) for value in settings.clip_values)
    if float(low) < settings.clip_values[0]:
        low = np.nextafter(low, dtype(np.inf))
    if float(high) > settings.clip_values[1]:
        high = np.nextafter(high, dtype(-np.inf))
    rounded = images.astype(dtype).astype(np.float32)  # np.clip is slow on float16
    return np.clip(rounded, np.float32(low), np.float32(high), out=rounded)


def _predict(classifier: Any, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Class of each image. Sliced here, as TensorFlowV2Classifier.predict takes everything in one call."""
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    return np.concatenate([np.argmax(classifier.predict(batch, batch_size=batch_size), axis=1) for batch in batches])


@contextlib.contextmanager
def _left_alone(attack: Any) -> Iterator[None]:
    """Silence an attack's progress bars, and put its state back afterwards."""
    states = [(part, dict(vars(part))) for part in _parts(attack)]
    for part, _ in states:
        if hasattr(part, "verbose"):
            part.verbose = False  # one progress bar is enough
    try:
        yield
    finally:
        for part, state in states:
            vars(part).clear()
            vars(part).update(state)


def _parts(attack: Any) -> list[Any]:
    """List an attack and the attacks inside it."""
    parts = [attack]
    for part in parts:  # grows as it goes
        for value in vars(part).values():
            for item in value if isinstance(value, list | tuple) else [value]:
                if hasattr(item, "attack_params") and not isinstance(item, type) and all(item is not p for p in parts):
                    parts.append(item)
    return parts
