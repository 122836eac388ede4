"""
How fast each defence is: images a second, and how many times as fast or slow as ``VersatilePurifier()``.

``python tests/benchmarks/bench_defences.py [--images 20] [--repeats 3]`` prints one Markdown table: the ImageNet
photographs that the foolbox package carries at 256x256, as one array; the best of the repeats, after one image has gone
through (which traces what is to be traced). Those marked slow see two images, once.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import art
import keras
import numpy as np
import skimage
import tensorflow as tf
from art.defences.preprocessor import JpegCompression, SpatialSmoothing, TotalVarMin

from art_versatile import VersatilePurifier
from art_versatile.baselines import PixelDeflection, RandomResizing, WaveletDenoising
from art_versatile.classifiers import efficientnet_lite_model
from art_versatile.images import demo_images

SIZE, SEED, FEW = 256, 0, 2
CLIP = (0.0, 1.0)
REFERENCE = "VersatilePurifier"


def super_resolution(network: str) -> Any:
    """The WD+SR defence."""
    from art_versatile.baselines import SuperResolution

    return SuperResolution(network=network, output_size="input")


def defences() -> dict[str, tuple[Callable[[], Any], bool]]:
    """Name -> (what makes the defence, whether it is slow). The first one is what the others are compared with."""
    return {
        REFERENCE: (VersatilePurifier, False),
        "RandomResizing": (lambda: RandomResizing(seed=SEED), False),
        "RandomResizing.nips2017": (lambda: RandomResizing.nips2017(seed=SEED), False),
        "WaveletDenoising": (WaveletDenoising, False),
        "PixelDeflection.code": (lambda: PixelDeflection.code(seed=SEED), False),
        "PixelDeflection.notebook, R-CAM of EfficientNet-Lite0": (
            lambda: PixelDeflection.notebook(efficientnet_lite_model(0), seed=SEED),
            False,
        ),
        "SuperResolution, small": (lambda: super_resolution("small"), False),
        "SuperResolution, bicubic": (lambda: super_resolution("bicubic"), False),
        "ART JpegCompression": (lambda: JpegCompression(CLIP, quality=50, apply_fit=False), False),
        "ART SpatialSmoothing": (lambda: SpatialSmoothing(clip_values=CLIP), False),
        "ART TotalVarMin": (lambda: TotalVarMin(clip_values=CLIP), True),
    }


def measure(defence: Any, x: np.ndarray, repeats: int) -> float:
    """Images a second, the best of the repeats."""
    defence(x[:1])
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        defence(x)
        spent.append(time.perf_counter() - start)
    return len(x) / min(spent)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="1 to 20")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not 1 <= arguments.images <= 20 or arguments.repeats < 1:
        parser.error(f"Expected --images from 1 to 20 and --repeats of at least 1. Received {arguments}.")

    x, _, _ = demo_images(arguments.images, SIZE)
    rows: list[tuple[str, int, float]] = []
    notes = []
    for name, (make, slow) in defences().items():
        try:
            defence = make()
        except (ImportError, FileNotFoundError) as err:
            notes.append(f"{name}: left out ({err})")
            continue
        seen = x[:FEW] if slow else x
        rows.append((name, len(seen), measure(defence, seen, 1 if slow else arguments.repeats)))
        print("{}: {} images, {:.1f} images/s".format(*rows[-1]), file=sys.stderr, flush=True)

    print(
        f"{SIZE}x{SIZE}, {os.cpu_count()} cores ({platform.machine()}), "
        f"GPUs: {len(tf.config.list_physical_devices('GPU'))}; TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"ART {art.__version__}, scikit-image {skimage.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}; best of {arguments.repeats}.\n"
    )
    print(f"| defence | images | images/s | speed relative to {REFERENCE} |")
    print("|---|---|---|---|")
    reference = next(speed for name, _, speed in rows if name == REFERENCE)
    for name, count, speed in rows:
        print(f"| {name} | {count} | {speed:.1f} | {speed / reference:.2f} |")
    for note in notes:
        print(f"\n{note}")


if __name__ == "__main__":
    main()
