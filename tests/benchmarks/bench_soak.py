"""
Memory and answers of a purifier, and of a classifier behind it, over many images, in two threads.

``python tests/benchmarks/bench_soak.py [--images 10000] [--side 224] [--batch 4]`` prints one Markdown table; the exit
code is 1 where an answer differs from that of the image by itself, or memory grows by more than 5% after the first
thousand images (the first tenth, where that is less).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from art_versatile import VersatilePurifier
from art_versatile.classifiers import efficientnet_lite0
from art_versatile.defended import defend
from art_versatile.images import demo_images


def resident() -> float:
    """Memory that this process holds now, in MiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Purify, and classify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    photographs = demo_images(20, options.side)[0]
    purifier = VersatilePurifier()
    defended = defend(efficientnet_lite0(options.side), purifier)
    head = "MiB before | after the first tenth, at most 1,000 | at the end | largest difference from one by one"
    print(f"| what | images | {head} | images/s |\n|{' --- |' * 7}")
    failed = False
    for name, answer in (("purifier", lambda x: purifier(x)[0]), ("defended classifier", defended.predict)):
        failed |= soak(name, answer, photographs, options.images, options.batch)
    sys.exit(failed)


def soak(name: str, answer: Callable[[np.ndarray], np.ndarray], x: np.ndarray, images: int, batch: int) -> bool:
    """Print a row; whether something was not as it has to be."""
    expected = np.concatenate([answer(image[None]) for image in x])
    batches = -(-images // batch)
    rows = [np.arange(i * batch, (i + 1) * batch) % len(x) for i in range(batches)]

    def difference(chosen: np.ndarray) -> float:
        return float(np.abs(answer(x[chosen]) - expected[chosen]).max() / np.abs(expected).max())

    first = max(1, min(batches // 10, 1000 // batch))
    begin, start = resident(), time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        largest = max(pool.map(difference, rows[:first]))
        tenth = resident()
        largest = max([largest, *pool.map(difference, rows[first:])])
    seconds, end = time.perf_counter() - start, resident()
    count = batches * batch
    print(
        f"| {name} | {count:,} | {begin:,.0f} | {tenth:,.0f} | {end:,.0f} | {largest:.1e} | {count / seconds:.1f} |",
        flush=True,
    )
    return largest > 1e-5 or end > 1.05 * tenth


if __name__ == "__main__":
    main()
