"""
How many photographs of a printed page can be read, and how far the pictures cut out of them are from the originals.

``python tests/benchmarks/bench_sheet.py [--photographs 100]`` prints one Markdown table. The photographs are synthetic
ones of the rendered page (``tests/physical/photographs.py``): any rotation, tilted, blurred, dim, noisy, JPEG.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from art_versatile.physical import make_sheet, read_sheet

sys.path.append(str(Path(__file__).parents[1] / "physical"))
from photographs import photograph, smooth_pictures


def main() -> None:
    """Read the photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="a folder for the photographs that could not be read")
    options = parser.parse_args()
    pictures = smooth_pictures(12, 224)
    errors, bends, missed, seconds = [], [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        _, sheet, preview = make_sheet(pictures, Path(folder) / "sheet.pdf", preview_dpi=150)
        page = np.asarray(Image.open(preview).convert("RGB"))
        for seed in range(options.photographs):
            seen = photograph(page, seed)
            start = time.perf_counter()
            try:
                read = read_sheet(seen, sheet)
            except ValueError as err:
                missed.append(seed)
                print(f"{seed}: {err}", file=sys.stderr)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(seen).save(options.keep / f"{seed}.png")
                continue
            finally:
                seconds += time.perf_counter() - start
            bends.append(read.error_mm)
            errors += [float(np.abs(picture.image - pictures[picture.index]).mean()) for picture in read.pictures]
    found = options.photographs - len(missed)
    print("| found | error of the corners, mm, median, largest | mean absolute error, median, largest | s each |")
    print("| --- | --- | --- | --- |")
    print(
        f"| {found} of {options.photographs} | {np.median(bends):.3f}, {max(bends):.3f} "
        f"| {np.median(errors):.4f}, {max(errors):.4f} | {seconds / options.photographs:.2f} |"
    )


if __name__ == "__main__":
    main()
