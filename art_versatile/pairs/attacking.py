"""The one core that attacks images, of stores and of pairs in memory alike."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from art_versatile._checks import (
    check_batch_size,
    check_bool,
    check_classifier,
    check_images,
    check_integer,
    pixel_range,
)
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.pairs._sources import Source, check_split, deal, find_classes, find_labels
from art_versatile.pairs.memory import MemoryPairs

__all__ = [
    "Attacked",
    "Target",
    "attack_images",
    "attack_in_memory",
    "check_split",
    "check_target",
    "cut",
    "rounded",
]

# A classifier and its attacks, as the user gives them.
Target = tuple[Any, Mapping[str, Any]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attacked:
    """
    Images before and after one attack.

    :param clean: float32 (N, H, W, 3) in the classifier's ``clip_values``.
    :param adversarial: Alike.
    :param labels: int64 (N,), the labels that the attack was to change.
    :param kept: bool, one for each image that was given: whether it was attacked.
    :param misclassified: Images that the classifier got wrong before the attack.
    :param fooled: Images that it got right before, and wrong after.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    labels: np.ndarray
    kept: np.ndarray
    misclassified: int
    fooled: int


def check_target(target: Any) -> Target:
    """
    Check a classifier and its attacks.

    :param target: (ART classifier, name -> untargeted ART evasion attack).
    :raises ValueError: If the classifier has no ``clip_values``, an attack is targeted or returns something else than
        images, or there is none.
    :raises TypeError: If one is of the wrong type.
    """
    from art_versatile.attacks.description import returns_images  # imports ART, which takes seconds

    if not isinstance(target, tuple) or len(target) != 2 or not isinstance(target[1], Mapping):
        raise TypeError(f"Expected attacks() to return (classifier, mapping of attacks). Received {target!r:.80}.")
    classifier, attacks = target
    check_classifier(classifier)
    pixel_range(classifier)
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
        if not returns_images(attack):
            raise ValueError(
                "Expected attacks that return images of the shape of those they are given. Received "
                f"{type(attack).__name__} as {name!r}."
            )
    return classifier, attacks


def attack_images(
    classifier: Any,
    attacks: Mapping[str, Any],
    name: str,
    clean: np.ndarray,
    labels: np.ndarray | None,
    *,
    seed: tuple[int, int, int],
    batch_size: int,
    dtype: str = "float32",
    drop_misclassified: bool = False,
) -> Attacked:
    """
    Attack images; attack, classifier and global random generators stay as they were.

    :param classifier: ART classifier, channels first or last.
    :param attacks: Name -> attack.
    :param name: The attack.
    :param clean: (N, H, W, 3) in the classifier's ``clip_values``.
    :param labels: Right classes, (N,); None takes the classifier's own predictions.
    :param seed: Of the run, number of the attack, number of the piece of its work.
    :param batch_size: Images in one call of the classifier's ``predict``.
    :param dtype: "float16" or "float32": adversarial images are rounded to it before success is measured.
    :param drop_misclassified: Leave out images that the classifier gets wrong.
    :raises ValueError: If the attack returns something other than finite images.
    """
    run, attack_number, piece = seed
    attack, first = attacks[name], bool(getattr(classifier, "channels_first", False))
    with _left_alone(attack), isolated_seed(np.random.SeedSequence([run, 1, attack_number, piece])):
        predicted = _predict(classifier, clean, batch_size, first)
        truth = predicted if labels is None else labels
        kept = predicted == truth if drop_misclassified else np.ones(len(clean), bool)
        clean, predicted, truth = clean[kept], predicted[kept], truth[kept]
        adversarial, attacked = clean, predicted
        if len(clean):
            one_hot = np.zeros((len(clean), classifier.nb_classes), np.float32)
            one_hot[np.arange(len(clean)), truth] = 1
            answer = np.asarray(attack.generate(x=_laid_out(clean, first).copy(), y=one_hot))
            adversarial = np.moveaxis(answer, 1, -1) if first and answer.ndim == 4 else answer
            if adversarial.shape != clean.shape or not np.isfinite(adversarial).all():
                raise ValueError(
                    f"Expected the attack {name!r} to return finite images {clean.shape}. Received "
                    f"{adversarial.shape}{' with NaN or infinity' * (adversarial.shape == clean.shape)}."
                )
            adversarial = rounded(adversarial, dtype, pixel_range(classifier))
            attacked = _predict(classifier, adversarial, batch_size, first)
    return Attacked(
        clean,
        adversarial,
        truth,
        kept,
        misclassified=int(np.sum(predicted != truth)),
        fooled=int(np.sum((predicted == truth) & (attacked != truth))),
    )


def attack_in_memory(
    images: np.ndarray,
    classifier: Any,
    attacks: Mapping[str, Any],
    *,
    labels: np.ndarray | None = None,
    split: str | int = "one_per_image",
    batch_size: int = 32,
    shard_size: int = 64,
    seed: int = 0,
    verbose: bool = True,
) -> MemoryPairs:
    """
    Attack images and hold the pairs: those that :func:`~art_versatile.pairs.generate_pairs` stores for the same
    arguments with ``dtype="float32"``, in the same order.

    :param images: (N, H, W, 3) in the classifier's ``clip_values``.
    :param classifier: ART classifier, channels first or last, with ``clip_values``.
    :param attacks: Name -> ART evasion attack, untargeted.
    :param labels: Right classes, integers (N,) or one-hot (N, K); None takes the classifier's own predictions.
    :param split: "one_per_image" gives each image to one attack, equally many to each and evenly within each class;
        "every" gives each image to every attack; a number, to so many different ones.
    :param batch_size: Images in one call of the classifier's ``predict``. Attacks have batch sizes of their own.
    :param shard_size: Images in one call of an attack.
    :param seed: Of the split and of the attacks.
    :param verbose: Show a bar with the time left.
    :raises ValueError: If a parameter is out of range, an attack is targeted or returns something other than images.
    :raises TypeError: If the images or an attack is of the wrong type.
    """
    classifier, attacks = check_target((classifier, attacks))
    split, seed = check_split(split), check_integer("seed", seed, least=0)
    check_batch_size(batch_size)
    check_integer("shard_size", shard_size)
    check_bool("verbose", verbose)
    clip_values = pixel_range(classifier)
    source = Source(check_images(images, clip_values, name="images"))
    given = find_labels(labels, source, classifier.nb_classes)
    dealt = deal(find_classes(source, given, None), len(attacks), split=split, per_class=None, seed=seed)
    names, made, rows = list(attacks), [], []
    right, fooled = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    with tqdm(total=sum(map(len, dealt)), desc="pairs", unit="pair", disable=not verbose) as bar:
        for number, piece, part in cut(dealt, shard_size):
            name = names[number]
            result = attack_images(
                classifier,
                attacks,
                name,
                rounded(images[part], "float32", clip_values),
                None if given is None else given[part],
                seed=(seed, number, piece),
                batch_size=batch_size,
            )
            made.append((result.adversarial, result.clean, result.labels, np.full(len(part), number)))
            rows.append(part)
            right[name] += len(part) - result.misclassified
            fooled[name] += result.fooled
            bar.update(len(part))
    for name in names:
        logger.info("%s fooled the classifier on %d of %d images.", name, fooled[name], right[name])
    adversarial, clean, truth, numbers = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return MemoryPairs(adversarial, clean, truth, numbers, names, images=np.concatenate(rows), clip_values=clip_values)


def cut(dealt: list[np.ndarray], size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """
    Cut what each attack is given into pieces.

    :param dealt: Rows of each attack.
    :param size: Of a piece.
    :return: Number of the attack, number of its piece, rows.
    """
    for attack, rows in enumerate(dealt):
        for piece, start in enumerate(range(0, len(rows), size)):
            yield attack, piece, rows[start : start + size]


def rounded(images: np.ndarray, dtype: str, clip_values: tuple[float, float]) -> np.ndarray:
    """
    Round to what a type can hold inside a range.

    :param images: Floats.
    :param dtype: "float16" or "float32".
    :param clip_values: The range.
    :return: As float32.
    """
    kind = np.dtype(dtype).type
    low, high = (kind(value) for value in clip_values)
    if float(low) < clip_values[0]:
        low = np.nextafter(low, kind(np.inf))
    if float(high) > clip_values[1]:
        high = np.nextafter(high, kind(-np.inf))
    result = images.astype(kind).astype(np.float32)  # np.clip is slow on float16
    return np.clip(result, np.float32(low), np.float32(high), out=result)


def _laid_out(images: np.ndarray, channels_first: bool) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)) if channels_first else images


def _predict(classifier: Any, images: np.ndarray, batch_size: int, channels_first: bool) -> np.ndarray:
    """Class of each image. Sliced here, as TensorFlowV2Classifier.predict takes everything in one call."""
    parts = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    batches = (_laid_out(part, channels_first) for part in parts)
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
