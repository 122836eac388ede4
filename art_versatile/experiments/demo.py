"""The demonstration: 20 photographs, seven attacks, one purifier, one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from art_versatile._checks import check_number
from art_versatile.evaluation.records import EvaluationRecord, save_records

__all__ = ["run_demo"]

DEFENCE = "VersatilePurifier"
ADAPTIVE = ("FGSM", "PGD", "PGD, BPDA")


def run_demo(
    out: str | Path,
    *,
    images: int = 20,
    eps: float = 8 / 255,
    seed: int = 0,
    image_size: int = 256,
    report: Callable[[str], None] | None = None,
) -> list[EvaluationRecord]:
    """
    Classify, attack, purify, classify again; write ``report.html`` and ``records.json``.

    EfficientNet-Lite0 and ImageNet photographs, both from PyPI packages; the paper's six attacks and DeepFool with the
    ``quick`` preset on the undefended classifier (static), then FGSM and PGD through the purifier (adaptive), PGD with
    its gradient and with the identity's (BPDA).

    :param out: Folder for the two files; made where it is missing.
    :param images: How many photographs, 1 to 20.
    :param eps: Budget of the L-infinity attacks, pixels in [0, 1].
    :param seed: Seed of the attacks.
    :param image_size: Height and width in pixels.
    :param report: Called with one line of text at each step.
    :return: The records.
    :raises ValueError: If a parameter is not as expected.
    :raises ModuleNotFoundError: If the packages of the extra ``demo`` are missing.
    """
    from art_versatile.classifiers import class_names, efficientnet_lite0
    from art_versatile.images import demo_images

    tell = report or (lambda line: None)
    check_number("eps", eps, np.nextafter(0, 1), 1)
    x, y, files = demo_images(images, image_size)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    tell("loading TensorFlow, EfficientNet-Lite0 and the purifier")

    from art_versatile.attacks.adaptive import adaptive_attacks
    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import PAPER_ATTACKS, UNSEEN, paper_attacks
    from art_versatile.evaluation.benchmark import Benchmark
    from art_versatile.evaluation.checks import masking_checks, verdict, with_flags
    from art_versatile.experiments.panels import in_turn, make_panels, progress_line
    from art_versatile.purifier import VersatilePurifier
    from art_versatile.reports.html import write_report

    classifier = compile_classifier(efficientnet_lite0(image_size))
    purifier = VersatilePurifier()
    benchmark = Benchmark(
        classifier=classifier,
        x=x,
        y=y,
        defences={DEFENCE: purifier},
        dataset="foolbox ImageNet samples",
        classifier_name=f"EfficientNet-Lite0 at {image_size}x{image_size}",
        preset="quick",
        seed=seed,
    )
    benchmark.clean()
    tell(progress_line(benchmark.records, "clean", "clean"))
    attacks = paper_attacks(classifier, float(eps), names=(*PAPER_ATTACKS, *UNSEEN), effort="quick", batch_size=20)
    pictures: dict[str, tuple[int, np.ndarray]] = {}
    for name, attack in attacks.items():
        in_turn(pictures, name, benchmark.static(name, compile_attack(attack)))
        tell(progress_line(benchmark.records, name, "static"))
    through = adaptive_attacks(classifier, purifier, float(eps), batch_size=20)
    for name in ADAPTIVE:
        in_turn(pictures, f"adaptive {name}", benchmark.adaptive(f"adaptive {name}", DEFENCE, through[name]))
        tell(progress_line(benchmark.records, f"adaptive {name}", "adaptive"))
    records = with_flags(benchmark.records)
    panels = make_panels(benchmark, DEFENCE, pictures, names=files, class_names=class_names())
    save_records(records, folder / "records.json")
    write_report(
        folder / "report.html",
        records,
        panels,
        checks=masking_checks(records),
        settings={"Time": f"{time.perf_counter() - started:.0f} s", "Purifier": repr(purifier)},
    )
    tell(verdict(records, DEFENCE))
    return records
