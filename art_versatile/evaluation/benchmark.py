"""Defences x attacks -> records."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import (
    check_batch_size,
    check_choice,
    check_classifier,
    check_clip_values,
    check_images,
    check_integer,
)
from art_versatile._files import atomic_path
from art_versatile.attacks.description import attacked_classifiers, plain_value
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.evaluation.metrics import hits, mae, psnr, ssim
from art_versatile.evaluation.records import (
    CLEAN,
    NO_DEFENCE,
    EvaluationRecord,
    load_records,
    record_key,
    save_records,
)
from art_versatile.evaluation.threats import attack_facts, budget_flags, check_threat

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = ["PACKAGES", "Benchmark", "Picture", "versions"]

PACKAGES = ("art-versatile", "adversarial-robustness-toolbox", "tensorflow", "keras", "numpy", "scikit-image")

_SSIM_WINDOW = 11  # pixels; smaller images have no SSIM
_PROBED = 16  # images whose gradients are looked at


def versions() -> dict[str, str]:
    """Versions of the packages that a figure depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@dataclass(frozen=True, eq=False)
class Picture:
    """
    One image of a benchmark as an attack left it.

    :param record: The first record of the attack.
    :param index: Which image.
    :param image: What the attack made of it, in the classifier's layout and range.
    """

    record: EvaluationRecord
    index: int
    image: np.ndarray


@dataclass(kw_only=True)
class Benchmark:
    """
    One set of images, one classifier, several defences: every attack becomes one record for each defence.

    A defence may be random: it is then evaluated ``evaluations`` times on the images that the attack gave back, with
    draws that the attack has not seen, and the record holds each count. It may change the size of its images: the
    record then has neither PSNR, MAE nor SSIM. Each record says image by image what was right, so that the worst case
    per image over several attacks can be had from the records.

    :param classifier: An undefended ART classifier.
    :param x: Images (N, H, W, 3), or (N, 3, H, W) for a classifier with channels first, in its ``clip_values``.
    :param y: True class indices (N,).
    :param defences: Name -> ART preprocessor; "none" is there without being named. Its ``params`` are part of a record,
        and its ``fingerprint``, if it has one: purifiers of other weights are other defences.
    :param dataset: Name of the images, for the records.
    :param classifier_name: Name of the classifier, for the records.
    :param effort: "paper", "quick" or None: how hard the attacks try, for the records.
    :param seed: Seed of every attack and of random defences, for the global generators, which ART draws from.
    :param batch_size: Images defended and classified at once.
    :param evaluations: Of a random defence. A defence is taken for random if two answers to the same images differ.
    :param file: JSON file that holds the records at any time. What it holds already is kept, and is of this run where
        :meth:`clean` or :meth:`run` comes to that very cell.
    :param pictures: Keep one image of each attack, of those that the classifier alone gets right the next in turn: in
        memory and, with ``file``, in the folder ``pictures`` beside it.
    :param file_formats: Name of a kind of file -> what comes back when images are written to it and read. Images of
        static and transferred attacks are measured as arrays and as each of them.
    :param filed_defences: Behind which defences, and without one, images from files are measured; None takes all.
    :raises ValueError: If images, labels, names or the classifier's ``clip_values`` (two numbers) do not fit.
    :raises TypeError: If the images are not floats, or the classifier is none, as an object detector.
    """

    classifier: Any
    x: np.ndarray
    y: np.ndarray
    defences: Mapping[str, Any]
    dataset: str
    classifier_name: str
    effort: str | None = None
    seed: int = 0
    batch_size: int = 16
    evaluations: int = 10
    file: str | os.PathLike[str] | None = None
    pictures: bool = False
    file_formats: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    filed_defences: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if getattr(self.classifier, "clip_values", None) is None:
            raise ValueError("Expected an ART classifier with clip_values. Received one without.")
        check_classifier(self.classifier)
        if self.classifier.preprocessing_defences:
            raise ValueError(
                f"Expected an undefended classifier. Received one with {self.classifier.preprocessing_defences}."
            )
        self.clip_values = check_clip_values(self.classifier.clip_values)
        self.channels_first = bool(getattr(self.classifier, "channels_first", False))
        self.x = check_images(self.x, self.clip_values, channels_first=self.channels_first)
        self.y = np.asarray(self.y)
        if self.y.shape != (len(self.x),) or not np.issubdtype(self.y.dtype, np.integer):
            raise ValueError(
                f"Expected y to be {len(self.x)} class indices. Received shape {self.y.shape}, dtype {self.y.dtype}."
            )
        classes = self.classifier.nb_classes
        if self.y.min() < 0 or self.y.max() >= classes:
            raise ValueError(f"Expected y from 0 to {classes - 1}. Received {self.y.min()} to {self.y.max()}.")
        if NO_DEFENCE in self.defences:
            raise ValueError(f"Expected defences by names other than {NO_DEFENCE!r}. Received {list(self.defences)}.")
        for name in self.filed_defences or ():
            check_choice("filed_defences", name, tuple(self.defences))
        self.evaluations = check_integer("evaluations", self.evaluations)
        self.batch_size = check_batch_size(self.batch_size)
        digest = hashlib.sha256(np.ascontiguousarray(self.x, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.y, "<i8").tobytes())
        self._images = digest.hexdigest()[:12]
        self._versions = versions()
        self._random: dict[str, bool] = {}
        self._parameters: dict[str, dict[str, Any]] = {}
        self._own: dict[str, EvaluationRecord] = {}
        self._shown: dict[str, tuple[int, np.ndarray]] = {}
        self._pictures = None if self.file is None else Path(self.file).parent / "pictures"
        filed = load_records(self.file) if self.file is not None and os.path.exists(self.file) else []
        self._filed = {record_key(record): record for record in filed}

    @property
    def records(self) -> list[EvaluationRecord]:
        """The records of this run, in the order of their first appearance."""
        return list(self._own.values())

    @property
    def kept_pictures(self) -> list[Picture]:
        """One image of each attack of this run, where it was kept."""
        return [Picture(self._own[key], *shown) for key, shown in self._shown.items()]

    def clean(self) -> list[EvaluationRecord]:
        """
        Record the clean accuracy of no defence and of each defence, but for what the file has.

        :return: The records.
        """
        return self._fill([NO_DEFENCE, *self.defences], {"attack": CLEAN, "threat_model": CLEAN}, lambda: (self.x, 0.0))

    def run(
        self,
        name: str,
        attack: EvasionAttack,
        threat_model: str = "static",
        defence: str | None = None,
        *,
        surrogate: str | None = None,
    ) -> list[EvaluationRecord]:
        """
        Attack, and record what is left; where the file has these very records, they are taken from it.

        A flag of a record says if an attack went over its budget or if, at some of the first images, the gradient
        through the defence is zero or not finite.

        :param name: Name of the attack, for the records.
        :param attack: An untargeted ART attack. A static one is built on the undefended classifier, a transferred one
            on another; an adaptive one takes gradients of the classifier behind ``defence``, one by queries does not.
        :param threat_model: "static", "transfer", "query" or "adaptive".
        :param defence: Name of the defence that is attacked, and alone recorded; None for static and transferred
            attacks, which are recorded with no defence and behind each.
        :param surrogate: Name of the classifier that a transferred attack was built on.
        :return: The records.
        :raises ValueError: If the attack is of another threat model than is said, or is targeted.
        """
        check_threat(attack, threat_model, self.classifier, self.defences, defence)
        facts: dict[str, Any] = {"attack": name, "threat_model": threat_model, "surrogate": surrogate}
        facts |= attack_facts(attack, self.clip_values)
        defences = [NO_DEFENCE, *self.defences] if defence is None else [defence]
        made: list[tuple[np.ndarray, float]] = []

        def attacked() -> tuple[np.ndarray, float]:
            if not made:
                made.append(self._generate(attack))
            return made[0]

        def read_back(through: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, float]:
            return through(attacked()[0]), 0.0

        def flags(x_adv: np.ndarray) -> tuple[str, ...]:
            low, high = self.clip_values
            found = budget_flags((x_adv - self.x) / (high - low), facts["norm"], facts["eps"])
            return found + self._gradient_flags(attack) if threat_model == "adaptive" else found

        key = self._key(defences[0], facts)
        if self.pictures and key not in self._filed:
            self._keep_picture(key, attacked()[0])
        records = self._fill(defences, facts, attacked, flags)
        filed = [d for d in defences if d == NO_DEFENCE or self.filed_defences is None or d in self.filed_defences]
        for file_format, through in self.file_formats.items() if defence is None else ():
            # Rounded to the file's levels a pixel may leave the budget: no flag.
            records += self._fill(filed, {**facts, "file_format": file_format}, partial(read_back, through))
        if self.pictures:
            self._show_picture(key)
        return records

    def revise(self, records: Iterable[EvaluationRecord]) -> None:
        """
        Put records in place of those of their cells, as with the flags of :func:`~art_versatile.evaluation.with_flags`.

        :param records: The records.
        """
        for record in records:
            key = record_key(record)
            self._own[key] = self._filed[key] = record
        self._save()

    def purified(self, defence: str, x: np.ndarray) -> np.ndarray:
        """
        What a defence makes of images.

        :param defence: Its name.
        :param x: Images in the classifier's layout and ``clip_values``.
        :return: The same kind; H and W may be others.
        """
        return np.asarray(self.defences[defence](x)[0])

    def predict(self, x: np.ndarray) -> np.ndarray:
        """
        The undefended classifier's output.

        :param x: Images in its layout and ``clip_values``.
        :return: (N, classes).
        """
        return np.concatenate([self.classifier.predict(x[part]) for part in self._parts(x)])

    def is_random(self, defence: str) -> bool:
        """
        Whether two answers of a defence to the first images differ.

        :param defence: Its name.
        """
        if defence not in self._random:
            with isolated_seed(self.seed):
                first, second = (self.purified(defence, self.x[:2]) for _ in range(2))
            self._random[defence] = first.shape != second.shape or not np.array_equal(first, second)
        return self._random[defence]

    def unit(self, x: np.ndarray) -> np.ndarray:
        """
        Images as pages and files show them.

        :param x: (N, ...) in the classifier's layout and ``clip_values``.
        :return: (N, H, W, 3) in [0, 1].
        """
        low, high = self.clip_values
        return (self._channels_last(x) - low) / (high - low)

    def _parts(self, x: np.ndarray) -> list[slice]:
        return [slice(i, i + self.batch_size) for i in range(0, len(x), self.batch_size)]

    def _labels(self) -> np.ndarray:
        return np.eye(self.classifier.nb_classes, dtype=np.float32)[self.y]

    def _channels_last(self, x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, 1, -1) if self.channels_first else x

    def _generate(self, attack: EvasionAttack) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        with isolated_seed(self.seed):
            x_adv = attack.generate(self.x.copy(), y=self._labels())
        if np.shape(x_adv) != self.x.shape:
            raise ValueError(
                f"Expected an attack that gives images of the shape of x, {self.x.shape}. Received {np.shape(x_adv)}."
            )
        return np.clip(x_adv, *self.clip_values), time.perf_counter() - start

    def _gradient_flags(self, attack: EvasionAttack) -> tuple[str, ...]:
        """What the first gradient says, at the images themselves."""
        target = attacked_classifiers(attack)[0]
        if not hasattr(target, "loss_gradient"):
            return ()
        with isolated_seed(self.seed):
            gradient = target.loss_gradient(self.x[:_PROBED].copy(), self._labels()[:_PROBED])
        by_image = np.asarray(gradient).reshape(len(gradient), -1)
        counts = {
            "zero": int((by_image == 0).all(axis=1).sum()),
            "not finite": int((~np.isfinite(by_image)).any(axis=1).sum()),
        }
        return tuple(
            f"masked gradient: {what} at {count} of {len(by_image)} images" for what, count in counts.items() if count
        )

    # What is left

    def _key(self, defence: str, facts: Mapping[str, Any]) -> str:
        return record_key({**self._cell(defence, facts["attack"]), **facts})

    def _cell(self, defence: str, attack: str) -> dict[str, Any]:
        """What a record is known by, but for the attack."""
        return {
            "dataset": self.dataset,
            "images": self._images,
            "n": len(self.x),
            "classifier": self.classifier_name,
            "defence": defence,
            "defence_parameters": self._defence_parameters(defence),
            "effort": None if attack == CLEAN else self.effort,
            "seed": self.seed,
        }

    def _defence_parameters(self, defence: str) -> dict[str, Any]:
        if defence == NO_DEFENCE:
            return {}
        if defence not in self._parameters:
            preprocessor = self.defences[defence]
            said = {name: plain_value(getattr(preprocessor, name, None)) for name in preprocessor.params}
            fingerprint = getattr(preprocessor, "fingerprint", None)
            self._parameters[defence] = said if fingerprint is None else {**said, "fingerprint": fingerprint}
        return self._parameters[defence]

    def _fill(
        self,
        defences: Sequence[str],
        facts: Mapping[str, Any],
        attacked: Callable[[], tuple[np.ndarray, float]],
        flags: Callable[[np.ndarray], tuple[str, ...]] = lambda x: (),
    ) -> list[EvaluationRecord]:
        """The cells of an attack, each from the file or measured; images and the attack's time are made if needed."""
        keys = {defence: self._key(defence, facts) for defence in defences}
        missing = [defence for defence, key in keys.items() if key not in self._filed]
        if missing:
            x, seconds = attacked()
            found = flags(x)
            for defence in missing:
                self._filed[keys[defence]] = self._measured(defence, facts, x, seconds, found)
                self._save()
                seconds = 0.0  # the attack's time belongs to one record alone: the cells of a run add up to the run
        self._own.update((key, self._filed[key]) for key in keys.values())
        return [self._own[key] for key in keys.values()]

    def _measured(
        self, defence: str, facts: Mapping[str, Any], x: np.ndarray, seconds: float, flags: tuple[str, ...]
    ) -> EvaluationRecord:
        start = time.perf_counter()
        right, images = self._answers(defence, x)
        counts = tuple(int(each.sum()) for each in right)
        distances: dict[str, Any] = {}
        if images is not None:
            pair = (self._channels_last(images), self._channels_last(self.x))
            large = min(pair[1].shape[1:3]) >= _SSIM_WINDOW
            for measure in (psnr, mae, ssim) if large else (psnr, mae):
                distances[measure.__name__] = measure(*pair, clip_values=self.clip_values)
        return EvaluationRecord(
            **self._cell(defence, facts["attack"]),
            classes=int(self.classifier.nb_classes),
            correct=round(sum(counts) / len(counts)),
            evaluations=counts if len(counts) > 1 else (),
            right="".join("01"[value] for value in np.logical_and.reduce(right).astype(int)),
            seconds=seconds + time.perf_counter() - start,
            versions=self._versions,
            flags=flags,
            **distances,
            **facts,
        )

    def _answers(self, defence: str, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Which images are right, (N,) for each evaluation, and what the defence makes of them if it keeps the size."""
        times = self.evaluations if defence != NO_DEFENCE and self.is_random(defence) else 1
        right: list[np.ndarray] = []
        images: list[np.ndarray] = []
        # For ART's defences that draw from the global generators; with the attack's seed they would draw what it saw.
        with isolated_seed(np.random.SeedSequence([self.seed, 1])):
            for evaluation in range(times):
                answers = []
                for part in self._parts(x):
                    shown = x[part]
                    if defence != NO_DEFENCE:
                        shown = self.purified(defence, shown)
                        name = f"what {defence!r} makes of images"
                        check_images(shown, self.clip_values, channels_first=self.channels_first, name=name)
                    answers.append(hits(self.classifier.predict(shown), self.y[part]))
                    if evaluation == 0:
                        images.append(shown)
                right.append(np.concatenate(answers))
        same = all(image.shape[1:] == x.shape[1:] for image in images)
        return right, np.concatenate(images) if same else None

    def _save(self) -> None:
        if self.file is not None:
            save_records(self._filed.values(), self.file)

    def _keep_picture(self, key: str, x_adv: np.ndarray) -> None:
        """Before the record is there: a run that is stopped in between attacks again."""
        clean = [r.right for r in self.records if r.attack == CLEAN and r.defence == NO_DEFENCE]
        right = [i for i, value in enumerate((clean or [None])[0] or "") if value == "1"] or list(range(len(self.x)))
        index = right[len(self._shown) % len(right)]
        self._shown[key] = index, x_adv[index].copy()
        if self._pictures is not None:
            with atomic_path(self._pictures / f"{key[:16]}.npz") as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, index=index, image=x_adv[index])

    def _show_picture(self, key: str) -> None:
        path = None if self._pictures is None else self._pictures / f"{key[:16]}.npz"
        if key not in self._shown and path is not None and path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                self._shown[key] = int(kept["index"]), kept["image"]
