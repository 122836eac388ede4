"""Defences x attacks -> records."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_choice, check_clip_values, check_images
from art_versatile.attacks.description import attack_parameters
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.evaluation.metrics import hits, mae, psnr, ssim
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, THREAT_MODELS, EvaluationRecord

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = ["PACKAGES", "Benchmark", "versions"]

PACKAGES = ("art-versatile", "adversarial-robustness-toolbox", "tensorflow", "keras", "numpy", "scikit-image")


_SSIM_WINDOW = 11  # pixels; smaller images have no SSIM


def versions() -> dict[str, str]:
    """Versions of the packages that a figure depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@dataclass(kw_only=True)
class Benchmark:
    """
    One set of images, one classifier, several defences: every attack becomes one record for each defence.

    :param classifier: An undefended ART classifier.
    :param x: Images (N, H, W, 3), or (N, 3, H, W) for a classifier with channels first, in its ``clip_values``.
    :param y: True class indices (N,).
    :param defences: Name -> ART preprocessor; "none" is there without being named.
    :param dataset: Name of the images, for the records.
    :param classifier_name: Name of the classifier, for the records.
    :param preset: "paper", "quick" or None: the attacks' preset, for the records.
    :param seed: Seed of every attack, for the global generators, which ART draws from.
    :param batch_size: Images classified at once.
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
    records: list[EvaluationRecord] = field(default_factory=list, init=False)

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
        self._versions = versions()

    def clean(self) -> None:
        """Record the clean accuracy of no defence and of each defence."""
        self._record(self.x, 0.0, attack=CLEAN, threat_model=CLEAN)

    def static(self, name: str, attack: EvasionAttack, threat_model: str = "static") -> np.ndarray:
        """
        Attack the undefended classifier (or, for "transfer", whatever the attack was built on) and record what is left
        with no defence and behind each defence.

        :param name: Name of the attack, for the records.
        :param attack: An ART attack.
        :param threat_model: "static", "transfer" or "query".
        :return: The adversarial images.
        """
        check_choice("threat_model", threat_model, [t for t in THREAT_MODELS if t not in (CLEAN, "adaptive")])
        x_adv, seconds = self._generate(attack)
        self._record(x_adv, seconds, attack=name, threat_model=threat_model, **self._facts(attack))
        return x_adv

    def adaptive(self, name: str, defence: str, attack: EvasionAttack) -> np.ndarray:
        """
        Attack through one defence and record what is left behind it, after optimising.

        :param name: Name of the attack, for the records.
        :param defence: Name of the defence.
        :param attack: An ART attack built on the defended classifier.
        :return: The adversarial images.
        """
        check_choice("defence", defence, list(self.defences))
        x_adv, seconds = self._generate(attack)
        self._record(x_adv, seconds, only=defence, attack=name, threat_model="adaptive", **self._facts(attack))
        return x_adv

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
        batches = [x[i : i + self.batch_size] for i in range(0, len(x), self.batch_size)]
        return np.concatenate([self.classifier.predict(batch) for batch in batches])

    def _generate(self, attack: EvasionAttack) -> tuple[np.ndarray, float]:
        if getattr(attack, "targeted", False):
            raise ValueError(f"Expected an untargeted attack. Received a targeted {type(attack).__name__}.")
        start = time.perf_counter()
        with isolated_seed(self.seed):
            labels = np.eye(self.classifier.nb_classes, dtype=np.float32)[self.y]
            x_adv = attack.generate(self.x.copy(), y=labels)
        return np.clip(x_adv, *self._clip), time.perf_counter() - start

    def _facts(self, attack: EvasionAttack) -> dict[str, Any]:
        parameters = attack_parameters(attack)
        norm = parameters.get("norm", "2")  # C&W and DeepFool: L2, by construction
        eps = parameters.get("eps")  # in the classifier's units; a record's is for pixels in [0, 1]
        eps = None if eps is None else eps / (self._clip[1] - self._clip[0])
        return {"attack_parameters": parameters, "norm": norm, "eps": eps}

    def _record(self, x: np.ndarray, seconds: float, *, only: str | None = None, **facts: Any) -> None:
        clean = self._channels_last(self.x)
        for defence in [only] if only else [NO_DEFENCE, *self.defences]:
            start = time.perf_counter()
            shown = x if defence == NO_DEFENCE else self.purified(defence, x)
            correct = int(hits(self.predict(shown), self.y).sum())
            # The attack's time belongs to the first record alone: the cells of a run add up to the run.
            seconds, spent = 0.0, seconds + time.perf_counter() - start
            pair = (self._channels_last(shown), clean)
            self.records.append(
                EvaluationRecord(
                    dataset=self.dataset,
                    n=len(self.x),
                    classifier=self.classifier_name,
                    defence=defence,
                    defence_parameters=self._defence_parameters(defence),
                    preset=None if facts["attack"] == CLEAN else self.preset,
                    correct=correct,
                    psnr=psnr(*pair, clip_values=self._clip),
                    mae=mae(*pair, clip_values=self._clip),
                    ssim=ssim(*pair, clip_values=self._clip) if min(clean.shape[1:3]) >= _SSIM_WINDOW else None,
                    seconds=spent,
                    seed=self.seed,
                    versions=self._versions,
                    **facts,
                )
            )

    def _channels_last(self, x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, 1, -1) if self._channels_first else x

    def _defence_parameters(self, defence: str) -> dict[str, Any]:
        if defence == NO_DEFENCE:
            return {}
        preprocessor = self.defences[defence]
        return {name: _plain(getattr(preprocessor, name)) for name in preprocessor.params}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) or value is None else repr(value)
