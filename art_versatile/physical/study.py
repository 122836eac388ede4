"""How much of an attack survives a printer and a camera, with and without a defence behind them: a simulated study."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from art.attacks.evasion import ProjectedGradientDescent
from tqdm.auto import tqdm

from art_versatile._checks import (
    check_batch_size,
    check_bool,
    check_choice,
    check_clip_values,
    check_images,
    check_integer,
    check_positive,
)
from art_versatile._files import atomic_path, write_text_atomically
from art_versatile.attacks.compiled import MomentumIterativeMethodNumpy, compile_attack, compile_classifier
from art_versatile.attacks.description import plain_value
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.physical.printing import PrintAndPhotograph

__all__ = ["ATTACKS", "attack_printed", "destruction_rate", "printed_study"]

ATTACKS = ("PGD", "MI-FGSM")
_FORMAT = "art-versatile printed study 1"
_NO_DEFENCE = "none"
_CLEAN = "clean"
_FACTS = ("attack", "eps", "eot_samples", "threat_model")
#: What a gradient through the transform costs, and through a purifier behind it, in bare gradients.
_GRADIENTS = {"static": 3.5, "adaptive": 11.0}


def destruction_rate(clean: np.ndarray, attacked: np.ndarray, transformed: np.ndarray) -> float | None:
    """
    Share of the adversarial images that a transform makes harmless (Kurakin et al., arXiv 1607.02533).

    An image counts if it is classified right when clean and wrong when attacked; it is destroyed if it is classified
    right after the transform.

    :param clean: (N,) bool: which clean images are classified right.
    :param attacked: (N,) bool: which attacked images are.
    :param transformed: (N,) or (draws, N) bool: which attacked and transformed images are; the mean over
        draws is taken.
    :return: 0 to 1; None where no image counts.
    :raises ValueError: If the shapes are not as expected or the values are not of bool.
    """
    clean, attacked, transformed = (np.asarray(array) for array in (clean, attacked, transformed))
    if any(array.dtype != bool for array in (clean, attacked, transformed)):
        raise ValueError("Expected clean, attacked and transformed of bool. Received another dtype.")
    if clean.ndim != 1 or attacked.shape != clean.shape or transformed.shape[-1:] != clean.shape or 0 in clean.shape:
        shapes = clean.shape, attacked.shape, transformed.shape
        raise ValueError(f"Expected shapes (N,), (N,) and (N,) or (draws, N). Received {shapes}.")
    counts = clean & ~attacked
    return float(transformed[..., counts].mean()) if counts.any() else None


def attack_printed(
    classifier: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    attack: str = "PGD",
    eps: float = 16 / 255,
    max_iter: int = 40,
    eot_samples: int = 10,
    printing: PrintAndPhotograph | None = None,
    defence: Any = None,
    batch_size: int = 16,
    seed: int = 0,
) -> np.ndarray:
    """
    Attack images so that they stay adversarial when they are printed and photographed.

    Each gradient is the mean over draws of the transform (EOT, Athalye et al., arXiv 1707.07397), each step 2.5 eps /
    iterations, the bound L-infinity.

    :param classifier: An undefended ART ``TensorFlowV2Classifier`` or ``KerasClassifier`` with ``clip_values``.
    :param x: Images (N, H, W, 3) in ``clip_values``, or (N, 3, H, W) where the classifier has channels first.
    :param y: True class indices (N,).
    :param attack: "PGD" (one random start) or "MI-FGSM" (decay 1).
    :param eps: Budget, as a share of the pixel range.
    :param max_iter: Iterations.
    :param eot_samples: Draws a gradient is the mean of; 0 attacks without the transform.
    :param printing: The transform; None takes the default one. Its own seed is not used.
    :param defence: An ART preprocessor behind the transform, whose gradient the attack takes too (adaptive).
    :param batch_size: Images attacked at once.
    :param seed: Of the attack and of the transform's draws.
    :return: Adversarial images, as ``x``.
    :raises ValueError: If a parameter is not as expected.
    :raises TypeError: If the classifier cannot be compiled.
    """
    _, x, y = _checked(classifier, x, y)
    check_choice("attack", attack, ATTACKS)
    check_positive("eps", eps, 1)
    check_integer("max_iter", max_iter)
    check_integer("eot_samples", eot_samples, 0)
    check_batch_size(batch_size)
    attacker = _Attacker(classifier, printing, defence, eot_samples, seed)
    parts = [slice(i, i + batch_size) for i in range(0, len(x), batch_size)]
    return np.concatenate([attacker.attacked(x[i], y[i], attack, eps, max_iter, i.start) for i in parts])


class _Attacker:
    """Attacks through the transform and a defence: compiled once, for all attacks and budgets."""

    def __init__(
        self, classifier: Any, printing: PrintAndPhotograph | None, defence: Any, eot_samples: int, seed: int
    ) -> None:
        low, high = classifier.clip_values
        self.span = float(np.max(high) - np.min(low))
        self.seed = seed
        self.transform = None if eot_samples == 0 else _seeded(classifier, printing)
        self.target = compile_classifier(classifier, eot_samples=max(eot_samples, 1), seed=seed)
        self.target.set_params(preprocessing_defences=[d for d in (self.transform, defence) if d is not None])

    def attacked(self, x: np.ndarray, y: np.ndarray, attack: str, eps: float, max_iter: int, first: int) -> np.ndarray:
        """One batch; its draws depend on the seed, the attack, the budget and the number of its first image."""
        budget = float(eps) * self.span
        options: dict[str, Any] = {
            "norm": np.inf,
            "eps": budget,
            "eps_step": 2.5 * budget / max_iter,
            "max_iter": max_iter,
            "batch_size": len(x),
            "verbose": False,
        }
        if attack == "PGD":
            made = ProjectedGradientDescent(self.target, num_random_init=1, **options)
        else:
            made = MomentumIterativeMethodNumpy(self.target, decay=1.0, **options)
        words = (self.seed, attack, eps, first)
        if self.transform is not None:
            self.transform.restart(_word("attack", *words))
        with isolated_seed(_word(*words)):
            return compile_attack(made).generate(x, np.eye(self.target.nb_classes, dtype=np.float32)[y])


def printed_study(
    classifier: Any,
    defences: Mapping[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    *,
    file: str | os.PathLike[str] | None = None,
    attacks: Sequence[str] = ATTACKS,
    eps: Sequence[float] = (8 / 255, 16 / 255),
    max_iter: int = 40,
    eot_samples: int = 10,
    draws: int = 5,
    without_printing: bool = True,
    adaptive: bool = False,
    printing: PrintAndPhotograph | None = None,
    batch_size: int = 16,
    seed: int = 0,
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """
    Print clean and attacked images (simulated), photograph each several times, classify with and without defences.

    Every defence sees the same photographs. A row is a dictionary of JSON values:

    - "attack" ("clean", "PGD", "MI-FGSM"), "eps" (share of the pixel range), "eot_samples" (0: the attack does not know
      of the printing), "threat_model" ("clean"; "static": it does not know of a defence; "adaptive": it goes through
      the printing and through the row's defence), "defence" ("none" or a name), "n" images, "draws";
    - "accuracy_unprinted": share classified right with the defence, not printed;
    - "accuracy": the same after printing, mean over the draws; "right": for each image, in how many draws;
    - "destruction_rate": see :func:`destruction_rate`, None for "clean". Before the transform there is neither printing
      nor a defence, after it there are both.

    :param classifier: An undefended ART ``TensorFlowV2Classifier`` or ``KerasClassifier`` with ``clip_values``.
    :param defences: Name -> ART preprocessor, applied to the photographs.
    :param x: Images (N, H, W, 3) in ``clip_values``, or (N, 3, H, W) where the classifier has channels first.
    :param y: True class indices (N,).
    :param file: A JSON file, written after each attack; a later call with the same settings goes on with it, at the
        batch where it stopped (attacked batches lie in a folder beside it until their attack is done).
    :param attacks: Out of ``ATTACKS``.
    :param eps: Budgets in L-infinity, as shares of the pixel range.
    :param max_iter: Iterations of an attack.
    :param eot_samples: Draws of the transform that a gradient is the mean of, at least 1.
    :param draws: Photographs of each printed image.
    :param without_printing: Also attack without the transform.
    :param adaptive: Also attack through the transform and each defence.
    :param printing: The transform; None takes the default one. Its own seed is not used.
    :param batch_size: Images at once.
    :param seed: Of the attacks and of all draws.
    :param verbose: Show a progress bar with the time that is left.
    :return: The rows: clean ones first, then attack by attack.
    :raises ValueError: If a parameter is not as expected, or the file is of another study.
    """
    _, x, y = _checked(classifier, x, y)
    for name, number in (("max_iter", max_iter), ("eot_samples", eot_samples), ("draws", draws)):
        check_integer(name, number)
    for name, flag in (("without_printing", without_printing), ("adaptive", adaptive), ("verbose", verbose)):
        check_bool(name, flag)
    check_batch_size(batch_size)
    check_integer("seed", seed, 0)
    if _NO_DEFENCE in defences:
        raise ValueError(f"Expected defences by names other than {_NO_DEFENCE!r}. Received {list(defences)}.")
    cells = _cells(list(defences), attacks, eps, eot_samples, without_printing=without_printing, adaptive=adaptive)
    answers = classifier.predict(x, batch_size=batch_size).argmax(axis=1)
    settings = {
        "images_sha256": hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes()).hexdigest(),
        "labels": y.tolist(),
        "answers": answers.tolist(),
        "defences": {name: described(defence) for name, defence in defences.items()},
        "printing": {**described(_seeded(classifier, printing)), "seed": None},
        **{"max_iter": max_iter, "eps_step": "2.5 eps / max_iter", "random_starts": {"PGD": 1, "MI-FGSM": 0}},
        **{"draws": draws, "batch_size": batch_size, "seed": seed},
    }
    known, rows, attackers = _Rows(file, settings), [], {}
    parts = [slice(i, min(i + batch_size, len(x))) for i in range(0, len(x), batch_size)]
    effort = [_effort(facts, max_iter) if known.missing(facts, among) else 0 for facts, among in cells]
    bar_format = "{l_bar}{bar}| {elapsed}, {remaining} left"
    with tqdm(total=sum(effort) * len(x), desc="printed study", bar_format=bar_format, disable=not verbose) as bar:
        for (facts, among), each in zip(cells, effort, strict=True):
            if known.missing(facts, among):
                images = x
                if facts["threat_model"] != _CLEAN:
                    through = among[0] if facts["threat_model"] == "adaptive" else _NO_DEFENCE
                    key = (facts["eot_samples"], through)
                    if key not in attackers:
                        attackers[key] = _Attacker(
                            classifier, printing, defences.get(through), facts["eot_samples"], seed
                        )
                    batches = []
                    for part in parts:
                        batch = known.batch(facts, among, part.start)
                        if batch is None:
                            how = facts["attack"], facts["eps"], max_iter, part.start
                            batch = attackers[key].attacked(x[part], y[part], *how)
                            known.add_batch(facts, among, part.start, batch)
                        batches.append(batch)
                        bar.update(each * len(batch))
                    images = np.concatenate(batches)
                # All attacks are photographed alike: rows differ by the images alone.
                photographs = [_seeded(classifier, printing, seed, "photograph", k)(images)[0] for k in range(draws)]
                behind = {name: defences.get(name) for name in among}
                known.add(facts, _results(classifier, behind, images, photographs, y, answers == y, batch_size))
            rows += known.of(facts, among)
    return rows


def _effort(facts: Mapping[str, Any], max_iter: int) -> float:
    """Of attacking an image, for the progress bar: in bare gradients of the classifier, as measured on one CPU."""
    if facts["threat_model"] == _CLEAN:
        return 0.0
    each = _GRADIENTS[facts["threat_model"]] if facts["eot_samples"] else 1.0
    return max_iter * max(facts["eot_samples"], 1) * each


def _cells(
    defences: list[str],
    attacks: Sequence[str],
    eps: Sequence[float],
    eot_samples: int,
    *,
    without_printing: bool,
    adaptive: bool,
) -> list[tuple[dict[str, Any], list[str]]]:
    """What is attacked how, and the defences that look at the result."""
    cells: list[tuple[tuple[Any, ...], list[str]]] = [((_CLEAN, 0.0, 0, _CLEAN), [_NO_DEFENCE, *defences])]
    for name in attacks:
        check_choice("attacks", name, ATTACKS)
        for budget in eps:
            check_positive("eps", budget, 1)
            for samples in (0, eot_samples) if without_printing else (eot_samples,):
                cells.append(((name, float(budget), samples, "static"), [_NO_DEFENCE, *defences]))
            if adaptive:
                cells += [((name, float(budget), eot_samples, "adaptive"), [defence]) for defence in defences]
    return [(dict(zip(_FACTS, values, strict=True)), among) for values, among in cells]


class _Rows:
    """The rows of a study, in a file or in memory."""

    def __init__(self, file: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self.file = None if file is None else Path(file)
        self.content: dict[str, Any] = {"format": _FORMAT, "settings": dict(settings), "rows": []}
        self.folder = None if self.file is None else self.file.with_name(f"{self.file.stem}_attacked")
        if self.file is None or not self.file.exists():
            return
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as err:
            raise ValueError(f"Expected the JSON file of a study in {file}. Received another: {err}") from err
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError(f"Expected a file of format {_FORMAT!r} in {file}. Received another.")
        before = found.get("settings", {})
        # Through JSON, as the file went: tuples are lists there.
        now = json.loads(json.dumps(self.content["settings"]))
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed:
            raise ValueError(f"Expected the settings of the study in {file}. Received other {', '.join(changed)}.")
        self.content = found

    def of(self, facts: Mapping[str, Any], among: Sequence[str]) -> list[dict[str, Any]]:
        """The rows with these facts, in the order of the defences."""
        rows = [row for row in self.content["rows"] if all(row[name] == value for name, value in facts.items())]
        return sorted((row for row in rows if row["defence"] in among), key=lambda row: among.index(row["defence"]))

    def missing(self, facts: Mapping[str, Any], among: Sequence[str]) -> bool:
        return len(self.of(facts, among)) < len(among)

    def batch(self, facts: Mapping[str, Any], among: Sequence[str], first: int) -> np.ndarray | None:
        """Attacked images of an earlier call that was interrupted."""
        path = self._batch_file(facts, among, first)
        return np.load(path, allow_pickle=False) if path is not None and path.is_file() else None

    def add_batch(self, facts: Mapping[str, Any], among: Sequence[str], first: int, images: np.ndarray) -> None:
        path = self._batch_file(facts, among, first)
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, images)

    def _batch_file(self, facts: Mapping[str, Any], among: Sequence[str], first: int) -> Path | None:
        """Named after the settings and the attack: those of others are never taken."""
        if self.folder is None:
            return None
        told = json.dumps([self.content["settings"], facts, among, first], sort_keys=True)
        return self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.npy"

    def add(self, facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
        among = [result["defence"] for result in results]
        old = self.of(facts, among)
        self.content["rows"] = [row for row in self.content["rows"] if row not in old]
        self.content["rows"] += [{**facts, **result} for result in results]
        if self.file is not None:
            write_text_atomically(self.file, json.dumps(self.content, indent=1, allow_nan=False) + "\n")
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)  # one attack at a time: those of this one alone


def _checked(classifier: Any, x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float], np.ndarray, np.ndarray]:
    if getattr(classifier, "clip_values", None) is None:
        raise ValueError("Expected an ART classifier with clip_values. Received one without.")
    if classifier.preprocessing_defences:
        raise ValueError(f"Expected an undefended classifier. Received one with {classifier.preprocessing_defences}.")
    low, high = classifier.clip_values
    clip = check_clip_values((np.min(low), np.max(high)))
    x = check_images(x, clip, channels_first=bool(getattr(classifier, "channels_first", False)))
    y = np.asarray(y)
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"Expected y to be {len(x)} class indices. Received shape {y.shape}, dtype {y.dtype}.")
    if y.min() < 0 or y.max() >= classifier.nb_classes:
        raise ValueError(f"Expected y from 0 to {classifier.nb_classes - 1}. Received {y.min()} to {y.max()}.")
    return clip, x, y


def _seeded(classifier: Any, printing: PrintAndPhotograph | None, *words: Any) -> PrintAndPhotograph:
    """The transform, or the default one for this classifier, with a seed made of some words."""
    if printing is None:
        low, high = classifier.clip_values
        layout = bool(getattr(classifier, "channels_first", False))
        printing = PrintAndPhotograph(clip_values=(float(np.min(low)), float(np.max(high))), channels_first=layout)
    if not isinstance(printing, PrintAndPhotograph):
        raise ValueError(f"Expected printing to be a PrintAndPhotograph. Received {type(printing).__name__}.")
    return PrintAndPhotograph(**{**{name: getattr(printing, name) for name in printing.params}, "seed": _word(*words)})


def _word(*words: Any) -> int:
    return zlib.crc32(json.dumps(words).encode())


def described(defence: Any) -> dict[str, Any]:
    """A defence's class, parameters and, where it has any, the checksum of its weights; JSON-able."""
    parameters = {name: plain_value(getattr(defence, name)) for name in getattr(defence, "params", ())}
    weights = {"fingerprint": defence.fingerprint} if hasattr(defence, "fingerprint") else {}
    return {"class": type(defence).__name__, **weights, **parameters}


def _results(
    classifier: Any,
    defences: Mapping[str, Any],
    images: np.ndarray,
    photographs: Sequence[np.ndarray],
    y: np.ndarray,
    clean: np.ndarray,
    batch_size: int,
) -> list[dict[str, Any]]:
    """For each defence what is right before and after printing."""

    def right(defence: Any, pictures: np.ndarray) -> np.ndarray:
        defended = pictures if defence is None else defence(pictures)[0]
        return classifier.predict(defended, batch_size=batch_size).argmax(axis=1) == y

    attacked = right(None, images)
    results = []
    for name, defence in defences.items():
        unprinted = attacked if defence is None else right(defence, images)
        printed = np.stack([right(defence, pictures) for pictures in photographs])
        results.append(
            {
                "defence": name,
                "n": len(images),
                "draws": len(photographs),
                "accuracy_unprinted": float(unprinted.mean()),
                "accuracy": float(printed.mean()),
                "destruction_rate": destruction_rate(clean, attacked, printed),
                "right": printed.sum(axis=0).tolist(),
            }
        )
    return results
