"""The demonstration: 20 photographs, seven attacks, one purifier, one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import softmax

from art_versatile.evaluation.records import EvaluationRecord, save_records
from art_versatile.reports.tables import attack_name

__all__ = ["run_demo"]

DEFENCE = "VersatilePurifier"
ADAPTIVE = "PGD through the purifier"


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
    ``quick`` preset on the undefended classifier (static), then PGD through the purifier (adaptive).

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
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps <= 1:
        raise ValueError(f"Expected eps between 0 and 1, in units of pixels in [0, 1]. Received {eps!r}.")
    x, y, files = demo_images(images, image_size)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    tell("loading TensorFlow, EfficientNet-Lite0 and the purifier")

    from art.attacks.evasion import ProjectedGradientDescent

    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import PRESETS, paper_attacks, unseen_attacks
    from art_versatile.evaluation.benchmark import Benchmark
    from art_versatile.purifier import VersatilePurifier
    from art_versatile.reports.html import Panel, Prediction, write_report
    from art_versatile.trainer import defend

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
    tell(_line("clean", benchmark.records[-2:]))
    attacks = paper_attacks(classifier, eps=float(eps), preset="quick", batch_size=20)
    attacks |= unseen_attacks(classifier, preset="quick")
    x_adv: dict[str, np.ndarray] = {}
    for name, attack in attacks.items():
        x_adv[name] = benchmark.static(name, compile_attack(attack))
        tell(_line(name, benchmark.records[-2:]))
    defended = compile_classifier(defend(classifier, purifier))
    iterations = PRESETS["quick"]["iterative"]["max_iter"]
    adaptive = ProjectedGradientDescent(
        defended,
        eps=float(eps),
        eps_step=float(eps) / 4,
        max_iter=iterations,
        num_random_init=1,
        batch_size=20,
        verbose=False,
    )
    benchmark.adaptive(ADAPTIVE, DEFENCE, adaptive)
    tell(_line(ADAPTIVE, benchmark.records[-1:]))

    names = class_names()

    def said(image: np.ndarray, label: int) -> Prediction:
        probabilities = softmax(benchmark.predict(image[None])[0].astype(np.float64))
        top = int(probabilities.argmax())
        return Prediction(label=names[top], confidence=float(probabilities[top]), correct=top == label)

    panels = []
    # The first image under the first attack, the second under the second ...: in order, none chosen.
    for i, (name, images_of_attack) in enumerate(x_adv.items()):
        i %= len(x)
        purified = benchmark.purified(DEFENCE, images_of_attack[i : i + 1])[0]
        label = int(y[i])
        panels.append(
            Panel(
                name=files[i],
                attack=name,
                clean=x[i],
                adversarial=images_of_attack[i],
                purified=purified,
                true_label=names[label],
                clean_prediction=said(x[i], label),
                adversarial_prediction=said(images_of_attack[i], label),
                purified_prediction=said(purified, label),
            )
        )
    save_records(benchmark.records, folder / "records.json")
    write_report(
        folder / "report.html",
        benchmark.records,
        panels,
        settings={"Time": f"{time.perf_counter() - started:.0f} s", "Purifier": repr(purifier)},
    )
    return benchmark.records


def _line(name: str, records: list[EvaluationRecord]) -> str:
    said = ", ".join(f"{r.defence} {r.correct}/{r.n}" for r in records)
    return f"{attack_name(name)}: {said} ({records[0].seconds or 0:.0f} s)"
