"""The paper's evaluation on a classifier and images of one's own: Tables 1 and 2, Figures 3 to 5, floats and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice, check_integer
from art_versatile._files import write_text_atomically
from art_versatile.evaluation.metrics import hits
from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.experiments.printed import printed_table
from art_versatile.experiments.robustness import Plan, evaluate
from art_versatile.reports.paper import (
    SEEN,
    TRAINED_ON,
    TextTable,
    storage_table,
    strength_table,
    table_1,
    table_2,
)

__all__ = ["OURS", "STRENGTHS", "Reproduction", "reproduce"]

OURS = "VersatilePurifier"
_COLUMNS = {
    "Ours (versatile)": OURS,
    "Random resizing": "RandomResizing",
    "WD+PD": "PixelDeflection",
    "WD+SR": "SuperResolution",
}
_REMARKS = "WD+SR is a small network of the EDSR type that ships with this package, not EDSR; WD+PD is without R-CAM."
#: Budgets and iterations of Figure 4, PGD and MI-FGSM.
STRENGTHS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "quick": ((2 / 255, 5 / 255, 10 / 255), (10, 20, 40)),
    "paper": ((2 / 255, 5 / 255, 10 / 255), tuple(range(10, 101, 10))),
}
#: Iterations of the attacks of the printed study.
PRINTED_STEPS = {"quick": 10, "paper": 40}


@dataclass(frozen=True)
class Reproduction:
    """
    What :func:`reproduce` measured.

    :param records: Of Tables 1 and 2 and of the PNG study.
    :param strengths: Of Figure 4; empty where it was left out.
    :param tables: Table 1 (with attack-specific purifiers), Table 2, floats against PNG, Figure 4 as a table, the
        printed study.
    :param kept: Images that the classifier gets right, all that were measured on.
    :param given: Images that were given.
    """

    records: list[EvaluationRecord]
    strengths: list[EvaluationRecord]
    tables: list[TextTable]
    kept: int
    given: int


def reproduce(
    classifier: Any,
    purifier: Any,
    x: np.ndarray,
    y: np.ndarray,
    out: str | Path,
    *,
    dataset: str,
    classifier_name: str,
    specific: Mapping[str, Any] | None = None,
    eps: float = 16 / 255,
    effort: str = "quick",
    strength_images: int | None = None,
    printed_images: int = 0,
    evaluations: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    verbose: bool = True,
) -> Reproduction:
    """
    Compare defences as the paper does (sections 3.3 and 3.4.1), under static attacks.

    As in the paper, images that the classifier gets wrong are left out, and attacks know of no defence: how a defence
    fares against an attacker who knows it, :func:`art_versatile.experiments.evaluate` says.

    Writes ``tables.md``, ``figure_3.png`` (MAE and PSNR), ``figure_4.png`` (attack strength), ``figure_5.png``
    (pictures), and what :func:`~art_versatile.experiments.evaluate` writes; of Figure 4 in the folder ``strengths``.
    Called again it goes on where it stopped.

    :param classifier: An undefended ART classifier of logits that takes images of any size: random resizing and
        super-resolution enlarge them.
    :param purifier: The versatile purifier.
    :param x: Images (N, H, W, 3), or (N, 3, H, W) with channels first, in the classifier's ``clip_values``.
    :param y: True class indices (N,).
    :param out: Folder for the files.
    :param dataset: Name of the images.
    :param classifier_name: Name of the classifier.
    :param specific: Attack, out of :data:`art_versatile.reports.paper.SEEN` -> purifier trained on it alone.
    :param eps: Budget, a share of the pixel range; the paper's by default.
    :param effort: "quick" or "paper".
    :param strength_images: Images of Figure 4; None takes all, 0 leaves it out.
    :param printed_images: Images of the simulated printed study (:func:`art_versatile.physical.printed_study`), at
        ``eps``, whose rows go to ``printed.json``; 0 leaves it out. The paper has none.
    :param evaluations: Of the random defences.
    :param batch_size: Images attacked at once.
    :param seed: Of the attacks and of random defences.
    :param class_names: Of the classes, for the pictures.
    :param verbose: Print a line for each attack.
    :return: Records and tables.
    :raises ValueError: If a parameter is out of its range, or the classifier gets no image right.
    """
    common: dict[str, Any] = {"effort": effort, "batch_size": batch_size, "seed": seed, "threats": ("static",)}
    plan = Plan(eps=eps, evaluations=evaluations, png=True, **common)
    specific = {check_choice("specific", attack, SEEN): trained for attack, trained in (specific or {}).items()}
    if strength_images is not None:
        check_integer("strength_images", strength_images, 0)
    check_integer("printed_images", printed_images, 0)
    facts: dict[str, Any] = {"classifier_name": classifier_name, "class_names": class_names, "verbose": verbose}

    from art_versatile.reports import figures

    kept = _right(classifier, x, y, batch_size)
    if verbose:
        print(f"{len(kept)} of {len(x)} images are classified right; the others are left out, as in the paper")
    folder = Path(out)
    trained = {TRAINED_ON.format(attack): trained for attack, trained in specific.items()}
    found = evaluate(
        classifier,
        {OURS: purifier, **trained, **_baselines(classifier, seed)},
        x[kept],
        y[kept],
        folder,
        plan,
        dataset=f"{dataset}, those classified right",
        **facts,
    )
    tables = [table_1(found.records)] if specific else []
    tables += [table_2(found.records, _COLUMNS, _REMARKS), storage_table(found.records, OURS)]
    figures.distance_figure(found.records, OURS, folder / "figure_3.png")
    figures.gallery_figure(found.panels, folder / "figure_5.png")
    strengths: list[EvaluationRecord] = []
    few = kept[:strength_images]
    if few:
        (first, *others), iterations = STRENGTHS[effort]
        strengths = evaluate(
            classifier,
            {OURS: purifier},
            x[few],
            y[few],
            folder / "strengths",
            Plan(eps=first, other_eps=others, iterations=iterations, attacks=("PGD", "MI-FGSM"), **common),
            dataset=f"{dataset}, {len(few)} of those classified right",
            page=False,
            **facts,
        ).records
        figures.strength_figure(strengths, OURS, folder / "figure_4.png")
        tables.append(strength_table(strengths, OURS))
    if few := kept[:printed_images]:
        from art_versatile.physical import printed_study

        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        steps = PRINTED_STEPS[effort]
        file = folder / "printed.json"
        rows = printed_study(
            classifier, {OURS: purifier}, x[few], y[few], file=file, eps=(eps,), max_iter=steps, **options
        )
        tables += [printed_table(rows), printed_table(rows, "destruction_rate")]
    write_text_atomically(folder / "tables.md", "\n".join(table.to_markdown() for table in tables))
    return Reproduction(found.records, strengths, tables, len(kept), len(x))


def _right(classifier: Any, x: np.ndarray, y: np.ndarray, batch_size: int) -> list[int]:
    """Which images the classifier gets right."""
    from art_versatile.attacks.compiled import compile_classifier

    target = compile_classifier(classifier)
    parts = [slice(i, i + batch_size) for i in range(0, len(x), batch_size)]
    right = np.concatenate([hits(target.predict(x[part]), y[part]) for part in parts])
    if not right.any():
        raise ValueError(f"Expected images that the classifier gets right. Received {len(x)} that it gets wrong.")
    return [int(i) for i in np.flatnonzero(right)]


def _baselines(classifier: Any, seed: int) -> dict[str, Any]:
    """The paper's comparison defences, for the classifier's pixels."""
    from art_versatile import baselines

    pixels: dict[str, Any] = {
        "clip_values": tuple(classifier.clip_values),
        "channels_first": bool(getattr(classifier, "channels_first", False)),
    }
    return {
        "RandomResizing": baselines.RandomResizing(seed=seed, **pixels),
        "PixelDeflection": baselines.PixelDeflection.code(seed=seed, **pixels),
        "SuperResolution": baselines.SuperResolution("small", output_size=None, **pixels),
    }
