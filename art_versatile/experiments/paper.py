"""The paper's evaluation on a classifier and images of one's own: Tables 1 and 2, Figures 3 to 5, floats and PNG."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice, check_integer, check_number
from art_versatile._files import write_text_atomically
from art_versatile.evaluation.records import EvaluationRecord
from art_versatile.reports.paper import SEEN, TRAINED_ON, TextTable

__all__ = ["OURS", "STRENGTHS", "Reproduction", "png_round_trip", "reproduce"]

OURS = "VersatilePurifier"
_BASELINES = {"Random resizing": "RandomResizing", "WD+PD": "PixelDeflection", "WD+SR": "SuperResolution"}
_STORAGE = "PNG, 8 bits"
_REMARKS = "WD+SR is a small network of the EDSR type that ships with this package, not EDSR; WD+PD is without R-CAM."
#: Budgets and iterations of Figure 4, PGD and MI-FGSM.
STRENGTHS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "quick": ((2 / 255, 5 / 255, 10 / 255), (10, 20, 40)),
    "paper": ((2 / 255, 5 / 255, 10 / 255), tuple(range(10, 101, 10))),
}


@dataclass(frozen=True)
class Reproduction:
    """
    What :func:`reproduce` measured.

    :param records: Of Tables 1 and 2 and of the PNG study.
    :param strengths: Of Figure 4; empty where it was left out.
    :param tables: Table 1 (with attack-specific purifiers), Table 2, floats against PNG, Figure 4 as a table.
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
    preset: str = "quick",
    strength_images: int | None = None,
    evaluations: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> Reproduction:
    """
    Compare defences as the paper does (sections 3.3 and 3.4.1), under static attacks.

    As in the paper, images that the classifier gets wrong are left out, and attacks know of no defence: how a defence
    fares against an attacker who knows it, :func:`art_versatile.experiments.robustness.evaluate` says.

    Writes ``tables.md``, ``figure_3.png`` (MAE and PSNR), ``figure_4.png`` (attack strength), ``figure_5.png``
    (pictures), ``records.json``, ``strengths.json``. Called again it goes on
    where it stopped, but Figure 5 is made by a run that was not stopped only.

    :param classifier: An undefended ART classifier with ``clip_values=(0, 1)``, of logits, that takes images of any
        size: random resizing and super-resolution enlarge them.
    :param purifier: The versatile purifier.
    :param x: Images (N, H, W, 3) in [0, 1].
    :param y: True class indices (N,).
    :param out: Folder for the files.
    :param dataset: Name of the images.
    :param classifier_name: Name of the classifier.
    :param specific: Attack, out of :data:`art_versatile.reports.paper.SEEN` -> purifier trained on it alone.
    :param eps: Budget, pixels in [0, 1]; the paper's by default.
    :param preset: "quick" or "paper".
    :param strength_images: Images of Figure 4; None takes all, 0 leaves it out.
    :param evaluations: Of the random defences.
    :param batch_size: Images attacked at once.
    :param seed: Of the attacks and of random defences.
    :param class_names: Of the classes, for Figure 5.
    :param report: Called with one line of text after each attack.
    :return: Records and tables.
    :raises ValueError: If a parameter is not as expected, or the classifier gets no image right.
    """
    check_choice("preset", preset, tuple(STRENGTHS))
    check_number("eps", eps, np.nextafter(0, 1), 1)
    specific = dict(specific or {})
    for attack in specific:
        check_choice("specific", attack, SEEN)
    if strength_images is not None:
        check_integer("strength_images", strength_images, 0)

    from art_versatile import baselines
    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import PAPER_ATTACKS, UNSEEN, paper_attacks
    from art_versatile.evaluation.benchmark import Benchmark
    from art_versatile.evaluation.metrics import hits
    from art_versatile.experiments.panels import in_turn, make_panels, progress_line
    from art_versatile.reports import figures
    from art_versatile.reports.paper import storage_table, table_1, table_2

    tell = report or (lambda line: None)
    target = compile_classifier(classifier)
    right = np.concatenate(
        [hits(target.predict(x[i : i + batch_size]), y[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    )
    if not right.any():
        raise ValueError(f"Expected images that the classifier gets right. Received {len(x)} that it gets wrong.")
    kept = [int(i) for i in np.flatnonzero(right)]
    tell(f"{len(kept)} of {len(x)} images are classified right; the others are left out, as in the paper")
    folder = Path(out)
    common: dict[str, Any] = {
        "classifier": target,
        "classifier_name": classifier_name,
        "preset": preset,
        "seed": seed,
        "batch_size": batch_size,
        "evaluations": evaluations,
    }
    others = {
        "RandomResizing": baselines.RandomResizing(seed=seed),
        "PixelDeflection": baselines.PixelDeflection.code(seed=seed),
        "SuperResolution": baselines.SuperResolution("small", output_size=None),
    }
    benchmark = Benchmark(
        x=x[kept],
        y=y[kept],
        defences={OURS: purifier, **{TRAINED_ON.format(a): p for a, p in specific.items()}, **others},
        dataset=f"{dataset}, those classified right",
        file=folder / "records.json",
        **common,
    )
    folder.mkdir(parents=True, exist_ok=True)
    benchmark.clean()
    suite = paper_attacks(target, float(eps), names=(*PAPER_ATTACKS, *UNSEEN), effort=preset, batch_size=batch_size)
    pictures: dict[str, tuple[int, np.ndarray]] = {}
    for name, attack in suite.items():
        attack = compile_attack(attack)
        as_file = f"{name}, as PNG"
        if not benchmark.done(name, attack) or not benchmark.done(as_file, attack, extra={"storage": _STORAGE}):
            x_adv = benchmark.static(name, attack)
            in_turn(pictures, name, x_adv)
            benchmark.stored(as_file, attack, png_round_trip(x_adv), _STORAGE)
        tell(progress_line(benchmark.records, name, "static"))
    tables = [table_1(benchmark.records)] if specific else []
    columns = {"Ours (versatile)": OURS, **_BASELINES}
    tables += [table_2(benchmark.records, columns, _REMARKS), storage_table(benchmark.records, OURS)]
    figures.distance_figure(benchmark.records, OURS, folder / "figure_3.png")
    if len(pictures) == len(suite):
        panels = make_panels(benchmark, OURS, pictures, class_names=class_names)
        figures.gallery_figure(panels, folder / "figure_5.png")
    elif pictures:
        tell("figure_5.png is left as it is: only a whole run has pictures of every attack")
    _write_tables(folder, tables)
    strengths: list[EvaluationRecord] = []
    count = len(kept) if strength_images is None else min(strength_images, len(kept))
    if count:
        few = Benchmark(
            x=x[kept[:count]],
            y=y[kept[:count]],
            defences={OURS: purifier},
            dataset=f"{dataset}, {count} of those classified right",
            file=folder / "strengths.json",
            **common,
        )
        tables.append(_strengths(few, preset, tell, folder / "figure_4.png"))
        strengths = few.records
        _write_tables(folder, tables)
    return Reproduction(benchmark.records, strengths, tables, len(kept), len(x))


def png_round_trip(images: np.ndarray) -> np.ndarray:
    """
    Images as they come back from PNG files of 8 bits.

    :param images: (N, H, W, 3) in [0, 1].
    :return: The same shape, float32: multiples of 1/255.
    """
    from art_versatile.images import load_image, save_png

    with tempfile.TemporaryDirectory() as folder:
        back = []
        for number, image in enumerate(images):
            path = Path(folder) / f"{number}.png"
            save_png(image, path)
            back.append(load_image(path))
    return np.stack(back)


def _write_tables(folder: Path, tables: Sequence[TextTable]) -> None:
    write_text_atomically(folder / "tables.md", "\n".join(table.to_markdown() for table in tables))


def _strengths(benchmark: Any, preset: str, tell: Callable[[str], None], path: Path) -> TextTable:
    """Figure 4: PGD and MI-FGSM at several budgets and numbers of iterations."""
    from art_versatile.attacks.compiled import compile_attack
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.reports.figures import strength_figure
    from art_versatile.reports.paper import strength_table

    for eps in STRENGTHS[preset][0]:
        for steps in STRENGTHS[preset][1]:
            suite = paper_attacks(
                benchmark.classifier, eps, max_iter=steps, effort=preset, batch_size=benchmark.batch_size
            )
            for name in ("PGD", "MI-FGSM"):
                attack = compile_attack(suite[name])
                if not benchmark.done(name, attack):
                    benchmark.static(name, attack)
            tell(f"attack strength: eps {eps * 255:.3g}/255, {steps} iterations")
    strength_figure(benchmark.records, OURS, path)
    return strength_table(benchmark.records, OURS)
