"""
The pairs' generation against the bare gradients that it consists of.

``python tests/benchmarks/bench_pairs.py [--images 64] [--repeats 3]`` prints one Markdown table. PGD with 10 iterations
on EfficientNet-Lite0 at 256x256, by ``generate_pairs`` (labels, attack, success, shards) and as the same number of
calls of the compiled ``loss_gradient`` on the same batches, of tensors (as inside ART's loop) and of arrays, in turn;
the fastest run of each counts, after one that traces what is to be traced. The images are the 20 ImageNet photographs
of the foolbox package, repeated. Two of the ``predict`` calls cannot be spared, the label's and the success's: the
last row says what is left of the gradients' speed with these two alone.

``--memory`` prints the peak of the memory of a process that makes pairs of 2,000 images in a folder with FGSM.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import art
import keras
import numpy as np
import tensorflow as tf
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

from art_versatile.attacks import compile_attack, compile_classifier
from art_versatile.classifiers import efficientnet_lite0
from art_versatile.images import demo_images, save_png
from art_versatile.pairs import generate_pairs

SIZE, EPS, STEP = 256, 8 / 255, 0.01
MIB = 2**20


def tiled(count: int) -> np.ndarray:
    """The photographs, repeated and each time mirrored or brightened a little: (count, 256, 256, 3) in [0, 1]."""
    photographs, _, _ = demo_images(20, SIZE)
    rounds = []
    for number in range(-(-count // len(photographs))):
        images = photographs[:, :, ::-1] if number % 2 else photographs
        rounds.append(np.clip(images + (number // 2) / 255, 0, 1))
    return np.concatenate(rounds)[:count].astype(np.float32)


def seconds_of_gradients(classifier: Any, x: np.ndarray, labels: np.ndarray, batch: int, iterations: int, as_: Any):
    """Time of ``iterations`` gradients of every image, of tensors or of arrays."""
    one_hot = np.eye(classifier.nb_classes, dtype=np.float32)[labels]
    rows = [slice(start, start + batch) for start in range(0, len(x), batch)]
    batches = [(as_(x[row]), as_(one_hot[row])) for row in rows]
    start = time.perf_counter()
    for images, classes in batches:
        for _ in range(iterations):
            gradient = classifier.loss_gradient(images, classes)
        np.asarray(gradient)  # waits for it
    return time.perf_counter() - start


def seconds_of_predictions(classifier: Any, x: np.ndarray, batch: int) -> float:
    """Time of two predictions of every image."""
    start = time.perf_counter()
    for _ in range(2):
        classifier.predict(x, batch_size=batch)
    return time.perf_counter() - start


def seconds_of_pairs(classifier: Any, attack: Any, x: np.ndarray, shard: int, batch: int) -> float:
    """Time of a whole store."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        options = {"shard_size": shard, "batch_size": batch, "verbose": False}
        store = generate_pairs(x, classifier, {"PGD": attack}, f"{folder}/store", **options)
        seconds = time.perf_counter() - start
        if len(store) != len(x):
            raise RuntimeError(f"Expected {len(x)} pairs. Received {len(store)}.")
    return seconds


def throughput(arguments: argparse.Namespace) -> None:
    """Measure both and print the ratio."""
    x = tiled(arguments.images)
    classifier = compile_classifier(efficientnet_lite0(SIZE))
    budget = {"eps": EPS, "eps_step": STEP, "max_iter": arguments.iterations, "batch_size": arguments.batch}
    attack = compile_attack(ProjectedGradientDescent(classifier, num_random_init=1, verbose=False, **budget))
    labels = classifier.predict(x, batch_size=arguments.batch).argmax(axis=1)
    few = slice(0, arguments.batch)
    seconds_of_gradients(classifier, x[few], labels[few], arguments.batch, 1, tf.constant)
    seconds_of_pairs(classifier, attack, x[few], arguments.shard, arguments.batch)

    times: dict[str, list[float]] = {"tensors": [], "arrays": [], "pairs": [], "predictions": []}
    for _ in range(arguments.repeats):
        for name, as_ in (("tensors", tf.constant), ("arrays", np.asarray)):
            times[name].append(seconds_of_gradients(classifier, x, labels, arguments.batch, arguments.iterations, as_))
        times["pairs"].append(seconds_of_pairs(classifier, attack, x, arguments.shard, arguments.batch))
        times["predictions"].append(seconds_of_predictions(classifier, x, arguments.batch))
        print(", ".join(f"{name} {each[-1]:.2f} s" for name, each in times.items()), file=sys.stderr, flush=True)

    fastest = {name: min(each) for name, each in times.items()}
    gradients = arguments.images * arguments.iterations
    print(machine() + "\n")
    print(
        f"EfficientNet-Lite0, {SIZE}x{SIZE}, {arguments.images} images, batches of {arguments.batch}, PGD with "
        f"{arguments.iterations} iterations, fastest of {arguments.repeats}.\n"
    )
    print("| what | seconds | gradients/s | of tensors' | of arrays' |")
    print("|---|---|---|---|---|")
    for name, seconds in {
        "`loss_gradient` of tensors": fastest["tensors"],
        "`loss_gradient` of arrays": fastest["arrays"],
        "`generate_pairs`": fastest["pairs"],
        "gradients of tensors and two predictions": fastest["tensors"] + fastest["predictions"],
    }.items():
        shares = " | ".join(f"{fastest[bare] / seconds:.1%}" for bare in ("tensors", "arrays"))
        print(f"| {name} | {seconds:.2f} | {gradients / seconds:.1f} | {shares} |")


def machine() -> str:
    """What it runs on."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), GPUs: {len(tf.config.list_physical_devices('GPU'))}; "
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, ART {art.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}."
    )


def memory(arguments: argparse.Namespace) -> None:
    """Make the pairs in a child process, whose memory nothing else has touched."""
    count = arguments.images
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        for number, image in enumerate(tiled(min(count, 20))):
            save_png(image, photographs / f"{number:06d}.png")
        for number in range(20, count):
            shutil.copyfile(photographs / f"{number % 20:06d}.png", photographs / f"{number:06d}.png")
        start = time.perf_counter()
        child = [sys.executable, __file__, "--child", folder, "--batch", str(arguments.batch)]
        child += ["--shard", str(arguments.shard)]
        answer = subprocess.run(child, capture_output=True, text=True, check=True).stdout.split()
        seconds = time.perf_counter() - start
    before, peak = (int(number) / MIB for number in answer[-2:])
    print(machine() + "\n")
    print(f"EfficientNet-Lite0, {SIZE}x{SIZE}, FGSM, files, shards of {arguments.shard}.\n")
    print("| images | memory before, MiB | peak, MiB | seconds |")
    print("|---|---|---|---|")
    print(f"| {count:,} | {before:,.0f} | {peak:,.0f} | {seconds:.0f} |")


def child(folder: str, arguments: argparse.Namespace) -> None:
    """Print the peak of the memory, in bytes, once the classifier is there and at the end."""
    classifier = compile_classifier(efficientnet_lite0(SIZE))
    attack = compile_attack(FastGradientMethod(classifier, eps=EPS, batch_size=arguments.batch))
    before = peak_memory()
    options = {"shard_size": arguments.shard, "batch_size": arguments.batch, "verbose": False}
    generate_pairs(f"{folder}/photographs", classifier, {"FGSM": attack}, f"{folder}/store", **options)
    print(before, peak_memory())


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what a child inherits counts in getrusage, not here
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="how many (default: 64; 2,000 with --memory)")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="images in a batch of the attack and of predict")
    parser.add_argument("--shard", type=int, default=64, help="images in a shard")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory instead")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.images = arguments.images or (2000 if arguments.memory else 64)
    for name in ("images", "iterations", "batch", "shard", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"Expected --{name} of at least 1. Received {getattr(arguments, name)}.")
    if arguments.child:
        child(arguments.child, arguments)
    elif arguments.memory:
        memory(arguments)
    else:
        throughput(arguments)


if __name__ == "__main__":
    main()
