"""The paper's evaluation on a classifier and images of one's own: Tables 1 and 2, Figures 3 to 5, floats and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice, check_integer
from art_versatile._files import write_text_atomically
from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.experiments.printed import printed_table
from art_versatile.experiments.robustness import Plan, evaluate
from art_versatile.experiments.targets import pixels_of, right_images
from art_versatile.reports.paper import (
    SEEN,
    TRAINED_ON,
    TextTable,
    distance_table,
    storage_table,
    strength_table,
    table_1,
    table_2,
)

__all__ = [
    "COLUMNS",
    "FURTHER",
    "OURS",
    "REMARKS",
    "STRENGTHS",
    "Reproduction",
    "further_baselines",
    "reproduce",
]

OURS = "VersatilePurifier"
#: The paper's column of Table 2 -> the defence here.
COLUMNS = {
    "Ours (versatile)": OURS,
    "Random resizing": "RandomResizing",
    "WD+PD": "PixelDeflection",
    "WD+SR": "SuperResolution",
}
#: Columns that the paper lacks -> the defence (:func:`further_baselines`).
FURTHER = {
    "WD+PD, R-CAM": "PixelDeflection, R-CAM",
    "Noise of 0.02": "GaussianNoise",
    "Blur of 1.5 pixels": "GaussianBlur",
}
#: How the defences here differ from the paper's.
REMARKS = "WD+SR is a small network of the EDSR type that ships with this package, not EDSR; WD+PD is without R-CAM."
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
    further: Mapping[str, Any] | None = None,
    iterations: int | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    limit: int | None = None,
    strength_images: int | None = None,
    strengths: tuple[Sequence[float], Sequence[int]] | None = None,
    printed_images: int = 0,
    evaluations: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    page: bool = True,
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
    :param further: Defences that the paper lacks, by name: columns of Table 2.
    :param iterations: Of BIM, PGD and MI-FGSM in the tables; None takes the effort's.
    :param changes: Other settings of the attacks than the effort's, see :func:`art_versatile.attacks.paper_attacks`.
    :param limit: Measure on the first so many images that the classifier gets right; None takes all.
    :param strength_images: Images of Figure 4; None takes all, 0 leaves it out.
    :param strengths: Its budgets and numbers of iterations; None takes those of the effort, :data:`STRENGTHS`.
    :param printed_images: Images of the simulated printed study (:func:`art_versatile.physical.printed_study`), at
        ``eps``, whose rows go to ``printed.json``; 0 leaves it out. The paper has none.
    :param evaluations: Of the random defences.
    :param batch_size: Images attacked at once.
    :param seed: Of the attacks and of random defences.
    :param class_names: Of the classes, for the pictures.
    :param page: Keep pictures, write the page and Figure 5; False leaves them out: no image is written.
    :param verbose: Print a line for each attack.
    :return: Records and tables.
    :raises ValueError: If a parameter is out of its range, or the classifier gets no image right.
    """
    common: dict[str, Any] = {"effort": effort, "batch_size": batch_size, "seed": seed, "threats": ("static",)}
    common["changes"] = changes or {}
    png: dict[str, Any] = {"png": True, "png_defences": (OURS,)}
    steps = () if iterations is None else (iterations,)
    plan = Plan(eps=eps, evaluations=evaluations, iterations=steps, **png, **common)
    for name, least in (("strength_images", 0), ("limit", 1)):
        if (value := {"strength_images": strength_images, "limit": limit}[name]) is not None:
            check_integer(name, value, least)
    budgets, counts = STRENGTHS[effort] if strengths is None else strengths
    specific = {check_choice("specific", attack, SEEN): trained for attack, trained in (specific or {}).items()}
    check_integer("printed_images", printed_images, 0)
    facts: dict[str, Any] = {"classifier_name": classifier_name, "class_names": class_names, "verbose": verbose}

    from art_versatile.reports import figures

    kept = right_images(classifier, x, y, batch_size)[:limit]
    if verbose:
        print(f"{len(kept)} of {len(x)} images, those classified right; the others are left out, as in the paper")
    folder = Path(out)
    trained = {TRAINED_ON.format(attack): trained for attack, trained in specific.items()}
    found = evaluate(
        classifier,
        {OURS: purifier, **trained, **_baselines(classifier, seed), **(further or {})},
        x[kept],
        y[kept],
        folder,
        plan,
        dataset=f"{dataset}, those classified right",
        page=page,
        **facts,
    )
    tables = [table_1(found.records)] if specific else []
    named = {column: name for column, name in FURTHER.items() if name in (further or {})}
    named |= {name: name for name in further or {} if name not in named.values()}
    tables += [
        table_2(found.records, COLUMNS, REMARKS, further=named),
        distance_table(found.records, OURS),
        storage_table(found.records, OURS),
    ]
    figures.distance_figure(found.records, OURS, folder / "figure_3.png")
    if page:
        figures.gallery_figure(found.panels, folder / "figure_5.png")
    by_strength: list[EvaluationRecord] = []
    few = kept[:strength_images]
    if few:
        first, *others = budgets
        by_strength = evaluate(
            classifier,
            {OURS: purifier},
            x[few],
            y[few],
            folder / "strengths",
            Plan(eps=first, other_eps=others, iterations=counts, attacks=("PGD", "MI-FGSM"), **common),
            dataset=f"{dataset}, {len(few)} of those classified right",
            page=False,
            **facts,
        ).records
        figures.strength_figure(by_strength, OURS, folder / "figure_4.png")
        tables.append(strength_table(by_strength, OURS))
    if few := kept[:printed_images]:
        from art_versatile.physical import printed_study

        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        printed_steps = PRINTED_STEPS[effort]
        file = folder / "printed.json"
        rows = printed_study(
            classifier, {OURS: purifier}, x[few], y[few], file=file, eps=(eps,), max_iter=printed_steps, **options
        )
        tables += [printed_table(rows), printed_table(rows, "destruction_rate")]
    write_text_atomically(folder / "tables.md", "\n".join(table.to_markdown() for table in tables))
    return Reproduction(found.records, by_strength, tables, len(kept), len(x))


def further_baselines(classifier: Any, seed: int = 0) -> dict[str, Any]:
    """
    Defences that the paper lacks (:data:`FURTHER`): pixel deflection with R-CAM, noise, a blur.

    :param classifier: An ART classifier whose ``model`` is a Keras model that ends in a global pooling and one dense
        layer, channels last.
    :param seed: Of the random ones.
    """
    from art_versatile import baselines

    pixels = pixels_of(classifier)
    return {
        "PixelDeflection, R-CAM": baselines.PixelDeflection.notebook(classifier.model, seed=seed, **pixels),
        "GaussianNoise": baselines.GaussianNoise(0.02, seed=seed, **pixels),
        "GaussianBlur": baselines.GaussianBlur(1.5, **pixels),
    }


def _baselines(classifier: Any, seed: int) -> dict[str, Any]:
    """The paper's comparison defences, for the classifier's pixels."""
    from art_versatile import baselines

    pixels = pixels_of(classifier)
    return {
        "RandomResizing": baselines.RandomResizing(seed=seed, **pixels),
        "PixelDeflection": baselines.PixelDeflection.code(seed=seed, **pixels),
        "SuperResolution": baselines.SuperResolution("small", output_size=None, **pixels),
    }
