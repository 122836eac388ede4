"""Defences x attacks -> records."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_choice, check_clip_values, check_images, check_integer
from art_versatile.attacks.description import (
    attack_norm,
    attack_parameters,
    attacked_classifiers,
    goes_through,
    plain_value,
    takes_gradients,
)
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

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = ["PACKAGES", "Benchmark", "versions"]

PACKAGES = ("art-versatile", "adversarial-robustness-toolbox", "tensorflow", "keras", "numpy", "scikit-image")

_SSIM_WINDOW = 11  # pixels; smaller images have no SSIM
_PROBED = 16  # images whose gradients are looked at


def versions() -> dict[str, str]:
    """Versions of the packages that a figure depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@dataclass(frozen=True)
class _Shown:
    """What the classifier said of images behind a defence, and the images where they keep their size."""

    right: list[np.ndarray]  # (N,) for each evaluation
    images: np.ndarray | None


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
    :param preset: "paper", "quick", "full" or None: the attacks' preset, for the records.
    :param seed: Seed of every attack and of random defences, for the global generators, which ART draws from.
    :param batch_size: Images defended and classified at once.
    :param evaluations: Of a random defence. A defence is taken for random if two answers to the same images differ.
    :param file: JSON file that holds the records at any time. What it holds already is kept, and is of this run where
        :meth:`clean` or :meth:`done` asks for that very cell.
    :raises ValueError: If images, labels, names or the classifier's ``clip_values`` (two numbers) are not as expected.
    """

    classifier: Any
    x: np.ndarray
    y: np.ndarray
    defences: Mapping[str, Any]
    dataset: str
    classifier_name: str
    preset: str | None = None
    seed: int = 0
    batch_size: int = 16
    evaluations: int = 10
    file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if getattr(self.classifier, "clip_values", None) is None:
            raise ValueError("Expected an ART classifier with clip_values. Received one without.")
        if self.classifier.preprocessing_defences:
            raise ValueError(
                f"Expected an undefended classifier. Received one with {self.classifier.preprocessing_defences}."
            )
        self._clip = check_clip_values(self.classifier.clip_values)
        self._channels_first = bool(getattr(self.classifier, "channels_first", False))
        self.x = check_images(self.x, self._clip, channels_first=self._channels_first)
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
        self.evaluations = check_integer("evaluations", self.evaluations)
        digest = hashlib.sha256(np.ascontiguousarray(self.x, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.y, "<i8").tobytes())
        self._images = digest.hexdigest()[:12]
        self._versions = versions()
        self._random: dict[str, bool] = {}
        self._parameters: dict[str, dict[str, Any]] = {}
        self._own: dict[str, EvaluationRecord] = {}
        filed = load_records(self.file) if self.file is not None and os.path.exists(self.file) else []
        self._filed = {record_key(record): record for record in filed}

    @property
    def records(self) -> list[EvaluationRecord]:
        """The records of this run, in the order of their first appearance."""
        return list(self._own.values())

    def clean(self) -> None:
        """Record the clean accuracy of no defence and of each defence, but for what the file has."""
        facts = {"attack": CLEAN, "threat_model": CLEAN}
        missing = [name for name in [NO_DEFENCE, *self.defences] if not self._known([name], facts)]
        if missing:
            self._record(self.x, 0.0, among=missing, **facts)

    def static(
        self, name: str, attack: EvasionAttack, threat_model: str = "static", *, extra: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """
        Attack the undefended classifier (or, for "transfer", whatever the attack was built on) and record what is left
        with no defence and behind each defence.

        :param name: Name of the attack, for the records.
        :param attack: An ART attack.
        :param threat_model: "static" or "transfer".
        :param extra: What else the records are to say among the attack's parameters, as the name of the surrogate.
        :return: The adversarial images.
        :raises ValueError: If a static attack was built on a defended or on another classifier.
        """
        check_choice("threat_model", threat_model, ["static", "transfer"])
        if threat_model == "static":
            self._check_static(attack)
        x_adv, seconds = self._generate(attack)
        facts = self._facts(attack, x_adv, extra=extra)
        self._record(x_adv, seconds, attack=name, threat_model=threat_model, **facts)
        return x_adv

    def stored(self, name: str, attack: EvasionAttack, x_adv: np.ndarray, storage: str) -> None:
        """
        Record what is left of a static attack whose images went through a file, without attacking again.

        :param name: Name of the attack, for the records.
        :param attack: The attack that made the images.
        :param x_adv: The images as they were read, in the order of ``x``.
        :param storage: What they went through, as "PNG, 8 bits"; among the parameters in the records.
        :raises ValueError: If the images are not as expected, or the attack was not static.
        """
        self._check_static(attack)
        x_adv = check_images(x_adv, self._clip, channels_first=self._channels_first, name="x_adv")
        if x_adv.shape != self.x.shape:
            raise ValueError(f"Expected x_adv of the shape of x, {self.x.shape}. Received {x_adv.shape}.")
        facts = self._facts(attack, extra={"storage": storage})
        self._record(x_adv, 0.0, attack=name, threat_model="static", **facts)

    def adaptive(self, name: str, defence: str, attack: EvasionAttack) -> np.ndarray:
        """
        Attack through one defence with gradients and record what is left behind it, after optimising.

        A flag of the record says if the gradient is zero or not finite for some of the first images.

        :param name: Name of the attack, for the records.
        :param defence: Name of the defence.
        :param attack: An ART attack built on the defended classifier, see
            :func:`art_versatile.attacks.adaptive_attacks`.
        :return: The adversarial images.
        :raises ValueError: If the attack does not go through the defence, or takes no gradients.
        """
        return self._attack_through(name, defence, attack, "adaptive")

    def query(self, name: str, defence: str, attack: EvasionAttack) -> np.ndarray:
        """
        Attack one defence by its answers alone and record what is left behind it.

        :param name: Name of the attack, for the records.
        :param defence: Name of the defence.
        :param attack: An ART attack without gradients, built on the defended classifier, such as ``SquareAttack``.
        :return: The adversarial images.
        :raises ValueError: If the attack does not go through the defence, or takes gradients.
        """
        return self._attack_through(name, defence, attack, "query")

    def done(
        self,
        name: str,
        attack: EvasionAttack,
        *,
        threat_model: str = "static",
        defence: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """
        Whether the records of an attack are there, as after an interrupted run with the same ``file``. They are then
        records of this run too.

        :param name: Name of the attack.
        :param attack: The attack.
        :param threat_model: Its threat model.
        :param defence: The only one, where it is adaptive or by queries.
        :param extra: As in :meth:`static`.
        """
        facts = {"attack": name, "threat_model": threat_model, **self._facts(attack, extra=extra)}
        facts.pop("flags")
        return self._known([NO_DEFENCE, *self.defences] if defence is None else [defence], facts)

    def revise(self, records: Iterable[EvaluationRecord]) -> None:
        """
        Put records in place of those of their cells, as with the flags of :func:`~art_versatile.evaluation.with_flags`.

        :param records: The records.
        """
        for record in records:
            self._keep(record)
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
        return np.concatenate([self.classifier.predict(batch) for batch in self._batches(x)])

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

    def _batches(self, x: np.ndarray) -> list[np.ndarray]:
        return [x[i : i + self.batch_size] for i in range(0, len(x), self.batch_size)]

    def _labels(self) -> np.ndarray:
        return np.eye(self.classifier.nb_classes, dtype=np.float32)[self.y]

    def _has_model(self, attack: EvasionAttack) -> bool:
        model = getattr(self.classifier, "model", None)
        return all(c is self.classifier or getattr(c, "model", None) is model for c in attacked_classifiers(attack))

    def _check_static(self, attack: EvasionAttack) -> None:
        for classifier in attacked_classifiers(attack):
            if getattr(classifier, "preprocessing_defences", None):
                raise ValueError(
                    "Expected a static attack to be built on the undefended classifier. Received one through "
                    f"{classifier.preprocessing_defences}."
                )
        if not self._has_model(attack):
            raise ValueError(
                "Expected a static attack to be built on the classifier that is defended. Received one on another: "
                "that is threat_model='transfer'."
            )

    def _attack_through(self, name: str, defence: str, attack: EvasionAttack, threat_model: str) -> np.ndarray:
        check_choice("defence", defence, list(self.defences))
        if not goes_through(attack, self.defences[defence]):
            raise ValueError(
                f"Expected an attack built on the classifier behind {defence!r} alone. Received "
                f"{type(attack).__name__} on {[c.preprocessing_defences for c in attacked_classifiers(attack)]}."
            )
        if not self._has_model(attack):
            raise ValueError(
                "Expected an attack on the classifier that is defended. Received one on another, equally defended."
            )
        if takes_gradients(attack) != (threat_model == "adaptive"):
            wanted = "with" if threat_model == "adaptive" else "without"
            raise ValueError(f"Expected an attack {wanted} gradients. Received {type(attack).__name__}.")
        x_adv, seconds = self._generate(attack)
        facts = self._facts(attack, x_adv)
        if threat_model == "adaptive":
            facts["flags"] += self._gradient_flags(attack)
        self._record(x_adv, seconds, among=[defence], attack=name, threat_model=threat_model, **facts)
        return x_adv

    def _generate(self, attack: EvasionAttack) -> tuple[np.ndarray, float]:
        if getattr(attack, "targeted", False):
            raise ValueError(f"Expected an untargeted attack. Received a targeted {type(attack).__name__}.")
        start = time.perf_counter()
        with isolated_seed(self.seed):
            x_adv = attack.generate(self.x.copy(), y=self._labels())
        return np.clip(x_adv, *self._clip), time.perf_counter() - start

    def _gradient_flags(self, attack: EvasionAttack) -> tuple[str, ...]:
        """What the first gradient says, at the images themselves."""
        target = attacked_classifiers(attack)[0]
        if not hasattr(target, "loss_gradient"):
            return ()
        with isolated_seed(self.seed):
            gradient = target.loss_gradient(self.x[:_PROBED].copy(), self._labels()[:_PROBED])
        by_image = np.asarray(gradient).reshape(len(gradient), -1)
        flags = []
        for what, count in (
            ("zero", int((by_image == 0).all(axis=1).sum())),
            ("not finite", int((~np.isfinite(by_image)).any(axis=1).sum())),
        ):
            if count:
                flags.append(f"masked gradient: {what} at {count} of {len(by_image)} images")
        return tuple(flags)

    def _facts(
        self, attack: EvasionAttack, x_adv: np.ndarray | None = None, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        parameters = {**attack_parameters(attack), **(extra or {})}
        for classifier in attacked_classifiers(attack)[:1]:
            if classifier.preprocessing_defences:
                bpda = any(hasattr(item, "defence") for item in classifier.preprocessing_defences)
                parameters["gradient"] = "identity (BPDA)" if bpda else "the defence's own"
                parameters["eot_samples"] = getattr(classifier, "eot_samples", 1)
        if not takes_gradients(attack):
            parameters.pop("gradient", None)
        norm = attack_norm(attack)
        eps = parameters.get("eps")  # in the classifier's units; a record's is for pixels in [0, 1]
        eps = eps / (self._clip[1] - self._clip[0]) if isinstance(eps, int | float) else None  # ART takes arrays, too
        flags: tuple[str, ...] = ()
        if x_adv is not None and eps is not None:
            flags = self._budget_flags(x_adv, norm, eps)
        return {"attack_parameters": parameters, "norm": norm, "eps": eps, "flags": flags}

    def _budget_flags(self, x_adv: np.ndarray, norm: Any, eps: float) -> tuple[str, ...]:
        """Whether the images are within the budget that the record states."""
        change = (x_adv - self.x).reshape(len(x_adv), -1).astype(np.float64) / (self._clip[1] - self._clip[0])
        order = {"inf": np.inf, "1": 1, "2": 2}.get(str(norm))
        if order is None:
            return (f"the budget was not measured: norm {norm}",)
        largest = float(np.linalg.norm(change, ord=order, axis=1).max())
        return () if largest <= eps * (1 + 1e-4) + 1e-6 else (f"over budget: {largest:.6g} in place of {eps:.6g}",)

    def _cell(self, defence: str, attack: str) -> dict[str, Any]:
        """What a record is known by, but for the attack."""
        return {
            "dataset": self.dataset,
            "images": self._images,
            "n": len(self.x),
            "classifier": self.classifier_name,
            "defence": defence,
            "defence_parameters": self._defence_parameters(defence),
            "preset": None if attack == CLEAN else self.preset,
            "seed": self.seed,
        }

    def _shown(self, defence: str, x: np.ndarray) -> _Shown:
        times = self.evaluations if defence != NO_DEFENCE and self.is_random(defence) else 1
        right: list[np.ndarray] = []
        images: list[np.ndarray] | None = []
        # For ART's defences that draw from the global generators; with the attack's seed they would draw what it saw.
        with isolated_seed(np.random.SeedSequence([self.seed, 1])):
            for evaluation in range(times):
                answers = []
                for i in range(0, len(x), self.batch_size):
                    batch, labels = x[i : i + self.batch_size], self.y[i : i + self.batch_size]
                    shown = batch
                    if defence != NO_DEFENCE:
                        shown = self.purified(defence, batch)
                        name = f"what {defence!r} makes of images"
                        check_images(shown, self._clip, channels_first=self._channels_first, name=name)
                    answers.append(hits(self.classifier.predict(shown), labels))
                    if shown.shape != batch.shape:
                        images = None
                    elif images is not None and evaluation == 0:
                        images.append(shown)
                right.append(np.concatenate(answers))
        return _Shown(right, None if images is None else np.concatenate(images))

    def _record(self, x: np.ndarray, seconds: float, *, among: Sequence[str] | None = None, **facts: Any) -> None:
        clean = self._channels_last(self.x)
        for defence in [NO_DEFENCE, *self.defences] if among is None else among:
            start = time.perf_counter()
            shown = self._shown(defence, x)
            counts = tuple(int(right.sum()) for right in shown.right)
            # The attack's time belongs to the first record alone: the cells of a run add up to the run.
            seconds, spent = 0.0, seconds + time.perf_counter() - start
            distances: dict[str, Any] = {}
            if shown.images is not None:
                pair = (self._channels_last(shown.images), clean)
                distances = {measure.__name__: measure(*pair, clip_values=self._clip) for measure in (psnr, mae)}
                if min(clean.shape[1:3]) >= _SSIM_WINDOW:
                    distances["ssim"] = ssim(*pair, clip_values=self._clip)
            self._keep(
                EvaluationRecord(
                    **self._cell(defence, facts["attack"]),
                    correct=round(sum(counts) / len(counts)),
                    evaluations=counts if len(counts) > 1 else (),
                    right="".join("01"[value] for value in np.logical_and.reduce(shown.right).astype(int)),
                    seconds=spent,
                    versions=self._versions,
                    **distances,
                    **facts,
                )
            )
            self._save()

    def _known(self, defences: Sequence[str], facts: Mapping[str, Any]) -> bool:
        """Whether every cell is filled; those of the file are then of this run."""
        keys = [record_key({**self._cell(defence, facts["attack"]), **facts}) for defence in defences]
        if not all(key in self._filed for key in keys):
            return False
        self._own.update((key, self._filed[key]) for key in keys)
        return True

    def _keep(self, record: EvaluationRecord) -> None:
        """Add a record, in place of an older one of the same cell."""
        key = record_key(record)
        self._own[key] = self._filed[key] = record

    def _save(self) -> None:
        if self.file is not None:
            save_records(self._filed.values(), self.file)

    def _channels_last(self, x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, 1, -1) if self._channels_first else x

    def _defence_parameters(self, defence: str) -> dict[str, Any]:
        if defence == NO_DEFENCE:
            return {}
        if defence not in self._parameters:
            preprocessor = self.defences[defence]
            said = {name: plain_value(getattr(preprocessor, name, None)) for name in preprocessor.params}
            fingerprint = getattr(preprocessor, "fingerprint", None)
            self._parameters[defence] = said if fingerprint is None else {**said, "fingerprint": fingerprint}
        return self._parameters[defence]
