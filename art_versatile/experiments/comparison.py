"""One purifier before several classifiers, beside four fixed operations that need no training; static attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_integer
from art_versatile._files import write_text_atomically
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, EvaluationRecord
from art_versatile.experiments.robustness import Plan, evaluate
from art_versatile.experiments.targets import pixels_of, right_images

if TYPE_CHECKING:
    from art_versatile.reports.paper import TextTable

__all__ = ["SIMPLE", "compare", "comparison_table", "simple_defences"]

#: Rows that any static table has to be held against.
SIMPLE = ("noise 0.02", "blur 1.5", "JPEG 50", "JPEG 20")


def simple_defences(classifier: Any) -> dict[str, Any]:
    """
    The four of :data:`SIMPLE`, by name, for a classifier's pixels.

    :param classifier: An ART classifier with ``clip_values``.
    """
    from art.defences.preprocessor import JpegCompression

    from art_versatile.baselines import GaussianBlur, GaussianNoise

    pixels = pixels_of(classifier)
    made: tuple[Any, ...] = (
        GaussianNoise(0.02, **pixels),
        GaussianBlur(1.5, **pixels),
        *(JpegCompression(quality=quality, apply_fit=False, **pixels) for quality in (50, 20)),
    )
    return dict(zip(SIMPLE, made, strict=True))


def compare(
    classifiers: Mapping[str, Any],
    purifiers: Mapping[str, Any],
    images: Mapping[str, tuple[np.ndarray, np.ndarray]],
    out: str | Path,
    plan: Plan | None = None,
    *,
    dataset: str,
    limit: int | None = None,
    verbose: bool = True,
) -> tuple[list[EvaluationRecord], TextTable]:
    """
    Attack several classifiers, each itself, and purify before each: what a purifier does for classifiers it was not
    trained on, beside :data:`SIMPLE`.

    Images that a classifier gets wrong are left out. Writes a folder of each classifier's records and ``table.md``;
    called again it goes on where it stopped.

    :param classifiers: Name -> undefended ART classifier of logits.
    :param purifiers: Name -> ART preprocessor, of all the classifiers' range and layout.
    :param images: Name of a classifier -> images (N, H, W, 3) in its ``clip_values``, true classes (N,).
    :param out: Folder for the files.
    :param plan: How they are attacked; its ``threats`` are "static", whatever they are.
    :param dataset: Name of the images.
    :param limit: Images of each classifier, the first that it gets right; None takes all those.
    :param verbose: Print a line for each attack.
    :return: Records of all of them, and the table.
    :raises ValueError: If the names are not the same, a classifier gets no image right, or as :func:`evaluate` does.
    """
    import dataclasses

    if list(classifiers) != list(images) or not classifiers:
        raise ValueError(f"Expected images of each classifier, {list(classifiers)}. Received those of {list(images)}.")
    if limit is not None:
        check_integer("limit", limit)
    plan = dataclasses.replace(Plan() if plan is None else plan, threats=("static",))
    records: list[EvaluationRecord] = []
    for number, (name, classifier) in enumerate(classifiers.items()):
        x, y = images[name]
        kept = right_images(classifier, x, y, plan.batch_size)[:limit]
        if verbose:
            print(f"{name}: {len(kept)} images that it gets right", flush=True)
        records += evaluate(
            classifier,
            {**purifiers, **simple_defences(classifier)},
            x[kept],
            y[kept],
            Path(out) / f"classifier_{number}",
            plan,
            dataset=f"{dataset}, those classified right",
            classifier_name=name,
            page=False,
            verbose=verbose,
        ).records
    table = comparison_table(records)
    write_text_atomically(Path(out) / "table.md", table.to_markdown())
    return records, table


def comparison_table(records: Iterable[EvaluationRecord]) -> TextTable:
    """
    A row for each classifier, budget and defence, a column for each attack: accuracy in %, and their average; then the
    mean PSNR over the L-infinity attacks, of the attacked images ("none") or the purified ones.

    :param records: Clean and static.
    """
    from art_versatile.reports.paper import TextTable

    records = list(records)
    attacks = list(dict.fromkeys(r.attack for r in records if r.attack != CLEAN))
    budgets: list[float | None] = list(dict.fromkeys(r.eps for r in records if r.norm == "inf" and r.eps is not None))
    budgets = budgets or [None]
    rows = []
    for classifier in dict.fromkeys(r.classifier for r in records):
        own = [r for r in records if r.classifier == classifier]
        for eps in budgets:
            for defence in dict.fromkeys(r.defence for r in own):
                mine = [r for r in own if r.defence == defence]
                clean = next(r for r in mine if r.attack == CLEAN)
                # An attack without a budget (C&W, DeepFool) stands in the rows of the first.
                at = {r.attack: r for r in mine if r.attack != CLEAN and _belongs(r, eps, budgets[0])}
                rows.append(
                    (
                        f"{classifier} (n = {clean.n})",
                        "–" if eps is None else f"{eps * 255:.3g}/255",
                        "no defence" if defence == NO_DEFENCE else defence,
                        f"{clean.accuracy:.1%}",
                        *(f"{at[a].accuracy:.1%}" if a in at else "" for a in attacks),
                        f"{np.mean([r.accuracy for r in at.values()]):.1%}",
                        _decibels([r for r in at.values() if r.norm == "inf"]),
                    )
                )
    return TextTable(
        "Accuracy under static attacks on each classifier itself",
        ("classifier", "eps", "defence", "clean", *attacks, "average", "PSNR, L-infinity"),
        tuple(rows),
        "Images that the classifier gets right; each attack was made on the undefended classifier. PSNR: of the "
        "attacked images (no defence) or of the purified ones against the clean ones.",
    )


def _belongs(record: EvaluationRecord, eps: float | None, first: float | None) -> bool:
    return record.eps == eps if record.norm == "inf" and record.eps is not None else eps == first


def _decibels(records: Sequence[EvaluationRecord]) -> str:
    known = [r.psnr for r in records if r.psnr is not None]
    return f"{np.mean(known):.1f} dB" if known else ""
