"""The demonstration: 20 photographs, the paper's six attacks and DeepFool, one purifier, one page."""

from __future__ import annotations

from pathlib import Path

from art_versatile.experiments.robustness import Plan, Robustness, evaluate

__all__ = ["DEFENCE", "run_demo"]

DEFENCE = "VersatilePurifier"


def run_demo(
    out: str | Path,
    *,
    images: int = 20,
    eps: float = 8 / 255,
    seed: int = 0,
    image_size: int = 256,
    verbose: bool = True,
) -> Robustness:
    """
    Classify, attack, purify, classify again; write ``report.html`` and ``records.json``.

    EfficientNet-Lite0 and ImageNet photographs, both from PyPI packages; the paper's six attacks and DeepFool with
    quick effort on the undefended classifier (static), then FGSM and PGD through the purifier (adaptive), PGD with its
    gradient and with the identity's (BPDA). Called again with the same folder it goes on where it stopped.

    :param out: Folder for the files; made where it is missing.
    :param images: How many photographs, 1 to 20.
    :param eps: Budget of the L-infinity attacks, a share of the pixel range.
    :param seed: Seed of the attacks.
    :param image_size: Height and width in pixels.
    :param verbose: Print a line for each attack.
    :return: Records, checks and the verdict.
    :raises ValueError: If a parameter is out of its range.
    :raises ModuleNotFoundError: If the packages of the extra ``demo`` are missing.
    """
    plan = Plan(
        eps=eps,
        seed=seed,
        threats=("static", "adaptive"),
        adaptive=("FGSM", "PGD", "PGD, BPDA"),
        probes=False,
        batch_size=20,
    )
    from art_versatile.classifiers import class_names, efficientnet_lite0
    from art_versatile.images import demo_images
    from art_versatile.purifier import VersatilePurifier

    x, y, names = demo_images(images, image_size)
    return evaluate(
        efficientnet_lite0(image_size),
        {DEFENCE: VersatilePurifier()},
        x,
        y,
        out,
        plan,
        dataset="foolbox ImageNet samples",
        classifier_name=f"EfficientNet-Lite0 at {image_size}x{image_size}",
        names=names,
        class_names=class_names(),
        verbose=verbose,
    )
