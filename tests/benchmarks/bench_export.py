"""
Size and speed of the exported files, and whether they answer what the original answers.

``python tests/benchmarks/bench_export.py [--threads 1] [--repeats 3]`` prints one Markdown table: the shipped purifier,
alone and with EfficientNet-Lite0 behind it, at one size and at any, on the demonstration's 20 photographs at 224x224.
Images/s are the best of the repeats, one image and eight images at once, after one call of each. The labels of a
purifier alone are those of EfficientNet-Lite0 behind it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from art_versatile import VersatilePurifier
from art_versatile.classifiers import efficientnet_lite0
from art_versatile.export import FORMATS, export, load_exported
from art_versatile.images import demo_images

SIZE, EIGHT = 224, 8


def images_per_second(function: Callable[[np.ndarray], Any], images: np.ndarray, repeats: int) -> float:
    """Best of the repeats, after one call."""
    function(images)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(images)
        times.append(time.perf_counter() - start)
    return len(images) / min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", default=",".join(FORMATS))
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    purifier, classifier = VersatilePurifier(), efficientnet_lite0(SIZE)
    x = demo_images(20, SIZE)[0]
    right = classifier.predict(purifier(x)[0]).argmax(1)
    originals = {"purifier": lambda x: purifier(x)[0], "both": lambda x: classifier.predict(purifier(x)[0])}
    print("| what | image size | MB | largest difference | same labels | images/s, 1 at once | 8 at once |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for what, function in originals.items():
        speeds = [images_per_second(function, x[:n], options.repeats) for n in (1, EIGHT)]
        print(f"| {what}, here | any | | | | {speeds[0]:.1f} | {speeds[1]:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for what in originals:
            for format_ in options.formats.split(","):
                for size in (SIZE, None):
                    path = Path(folder) / f"{what}-{size}.{format_}"
                    made = export(purifier, path, format_, classifier=classifier if what == "both" else None,
                                  image_size=size, images=x)  # fmt: skip
                    answer = load_exported(path, format_, threads=options.threads)
                    answers = np.concatenate([answer(x[i : i + 4]) for i in range(0, len(x), 4)])
                    labels = (classifier.predict(answers) if what == "purifier" else answers).argmax(1)
                    speeds = [images_per_second(answer, x[:n], options.repeats) for n in (1, EIGHT)]
                    print(
                        f"| {what}, {format_} | {size or 'any'} | {made.facts['bytes'] / 1e6:.1f} | "
                        f"{made.facts['largest_difference']:.1e} | {(labels == right).sum()} of {len(x)} | "
                        f"{speeds[0]:.1f} | {speeds[1]:.1f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
