"""
Stock ART against the compiled classifier: seconds, ratio, largest difference of the adversarial images.

``python tests/benchmarks/bench_attacks.py [--quick] [--attacks FGSM PGD ...] [--defences none purifier]`` prints one
Markdown table. EfficientNet-Lite0 at 224x224 on the ImageNet photographs that the foolbox package carries; labels are
the classifier's own. Both sides of a row start from the same seed, after one image has been attacked for one iteration,
which traces what is to be traced; the column "tracing" states what that took on the compiled side.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import art
import keras
import numpy as np
import tensorflow as tf
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import TensorFlowV2Classifier
from PIL import Image

from art_versatile.attacks.compiled import MomentumIterativeMethodNumpy, compile_attack
from art_versatile.classifiers import efficientnet_lite0

SIZE, SEED, EPS, STEP = 224, 0, 4 / 255, 1 / 255
DEFENCES = ("none", "purifier")


def photographs(count: int) -> np.ndarray:
    """The ImageNet photographs of the foolbox package, (count, 224, 224, 3) in [0, 1]."""
    spec = importlib.util.find_spec("foolbox")  # its data alone: importing it would import every framework
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("Expected the package foolbox, for its photographs. Received none.")
    paths = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))[:count]
    if len(paths) < count:
        raise FileNotFoundError(f"Expected {count} photographs. Received {len(paths)}.")
    images = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC) for path in paths]
    return np.stack([np.asarray(image, np.float32) / 255 for image in images])


def attacks(quick: bool, batch: int) -> dict[str, Callable[[Any], Any]]:
    """Name -> what makes the attack on a classifier."""
    steps = 3 if quick else 10
    bounded = {"eps": EPS, "eps_step": STEP, "max_iter": steps, "batch_size": batch, "verbose": False}

    def apgd(loss: str) -> Callable[[Any], Any]:
        return lambda classifier: AutoProjectedGradientDescent(
            classifier, loss_type=loss, nb_random_init=1, **{**bounded, "eps_step": 2 * EPS}
        )

    return {
        "FGSM": lambda c: FastGradientMethod(c, eps=EPS, batch_size=batch),
        f"PGD-{steps}": lambda c: ProjectedGradientDescent(c, num_random_init=1, **bounded),
        # ART's TensorFlow loop raises NotImplementedError; its NumPy loop serves both sides.
        f"MI-FGSM-{steps}": lambda c: MomentumIterativeMethodNumpy(c, decay=1.0, **bounded),
        "C&W": lambda c: CarliniL2Method(
            c,
            binary_search_steps=1,
            max_iter=1 if quick else 3,
            initial_const=1.0,
            learning_rate=0.1,
            batch_size=batch,
            verbose=False,
        ),
        "DeepFool": lambda c: DeepFool(
            c, max_iter=1 if quick else 3, nb_grads=2 if quick else 3, epsilon=0.02, batch_size=batch, verbose=False
        ),
        "APGD-CE": apgd("cross_entropy"),
        "APGD-DLR": apgd("difference_logits_ratio"),
        "Square": lambda c: SquareAttack(
            c, eps=EPS, max_iter=5 if quick else 30, nb_restarts=1, batch_size=batch, verbose=False
        ),
    }


def seeded(attack: Any, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Adversarial images and seconds."""
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(SEED)  # noqa: NPY002
    random.seed(SEED)
    start = time.perf_counter()
    try:
        return attack.generate(x=x), time.perf_counter() - start
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def measure(attack: Any, x: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Adversarial images, seconds, seconds of the warming up."""
    iterations = getattr(attack, "max_iter", None)
    if iterations is not None:
        attack.set_params(max_iter=1)
    _, warm = seeded(attack, x[:1])
    if iterations is not None:
        attack.set_params(max_iter=iterations)
    return *seeded(attack, x), warm


def defended(name: str) -> TensorFlowV2Classifier:
    """A classifier behind the defence of that name."""
    classifier = efficientnet_lite0(image_size=SIZE)
    if name == "purifier":
        from art_versatile.purifier import VersatilePurifier

        classifier.set_params(preprocessing_defences=[VersatilePurifier()])
    return classifier


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few iterations: some minutes on two cores")
    parser.add_argument("--attacks", nargs="+", metavar="NAME", help="those whose name starts so (default: all)")
    parser.add_argument("--defences", nargs="+", choices=DEFENCES, default=DEFENCES)
    parser.add_argument("--batch", type=int, default=16, help="images, in one batch (1 to 20)")
    arguments = parser.parse_args()
    if not 1 <= arguments.batch <= 20:
        parser.error(f"Expected --batch from 1 to 20. Received {arguments.batch}.")

    x = photographs(arguments.batch)
    specs = attacks(arguments.quick, arguments.batch)
    wanted = [name.lower() for name in arguments.attacks or [""]]
    chosen = {name: make for name, make in specs.items() if any(name.lower().startswith(w) for w in wanted)}
    if not chosen:
        parser.error(f"Expected attacks among {list(specs)}. Received {arguments.attacks}.")

    rows, notes = [], []
    for defence in arguments.defences:
        try:
            classifier = defended(defence)
        except (ImportError, FileNotFoundError) as err:
            notes.append(f"{defence}: left out ({err})")
            continue
        for name, make in chosen.items():
            expected, stock, _ = measure(make(classifier), x)
            images, compiled, warm = measure(compile_attack(make(classifier)), x)
            difference = np.abs(images.astype(np.float64) - expected).max()
            changed = np.mean(np.abs(images.astype(np.float64) - expected) > 1e-6)
            rows.append(
                f"| {defence} | {name} | {stock:.2f} | {compiled:.2f} | {stock / compiled:.1f}x | {warm:.1f} "
                f"| {difference:.1e} | {100 * changed:.3f}% |"
            )
            print(rows[-1], file=sys.stderr, flush=True)

    print(
        f"EfficientNet-Lite0, {SIZE}x{SIZE}, {arguments.batch} images in one batch, {os.cpu_count()} cores "
        f"({platform.machine()}), GPUs: {len(tf.config.list_physical_devices('GPU'))}; TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, ART {art.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}; {'quick' if arguments.quick else 'full'} settings.\n"
    )
    print("| defence | attack | ART, s | compiled, s | ratio | tracing, s | largest difference | pixels > 1e-6 |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    for note in notes:
        print(f"\n{note}")


if __name__ == "__main__":
    main()
