"""
Memory and answers of a purifier over many images, in two threads.

``python tests/benchmarks/bench_soak.py [--images 10000] [--side 224] [--batch 4]`` prints one Markdown table; the exit
code is 1 where an answer differs from that of the image by itself.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from art_versatile import VersatilePurifier
from art_versatile.images import demo_images


def resident() -> float:
    """Memory that this process holds now, in MiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Purify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    photographs = demo_images(20, options.side)[0]
    purifier = VersatilePurifier()
    expected = np.concatenate([purifier(image[None])[0] for image in photographs])
    batches = -(-options.images // options.batch)
    rows = [np.arange(i * options.batch, (i + 1) * options.batch) % 20 for i in range(batches)]

    def difference(chosen: np.ndarray) -> float:
        return float(np.abs(purifier(photographs[chosen])[0] - expected[chosen]).max())

    first = max(1, batches // 10)
    begin, start = resident(), time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        largest = max(pool.map(difference, rows[:first]))
        tenth = resident()
        largest = max([largest, *pool.map(difference, rows[first:])])
    seconds, end = time.perf_counter() - start, resident()
    print("| images | MiB before | after a tenth | at the end | largest difference from one by one | images/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    count = batches * options.batch
    print(f"| {count:,} | {begin:,.0f} | {tenth:,.0f} | {end:,.0f} | {largest:.1e} | {count / seconds:.1f} |")
    sys.exit(largest > 1e-5)


if __name__ == "__main__":
    main()
