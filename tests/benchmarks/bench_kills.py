"""
``evaluate``, ``pairs`` and ``train`` killed at random moments: after going on, is everything as without the kill?

``python tests/benchmarks/bench_kills.py [--kills 100] [--commands train]`` prints one Markdown table; the exit code is
1 where records, shards or weights differ from those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WORKS = ("evaluate", "pairs", "train")
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]


def tiny() -> tuple[Any, np.ndarray]:
    """A classifier of 32x32 pictures, and 16 of them."""
    from conftest import make_tiny_classifier

    patches = np.random.default_rng(0).uniform(0.1, 0.9, (16, 4, 4, 3)).astype(np.float32)
    return make_tiny_classifier(), patches.repeat(8, axis=1).repeat(8, axis=2)


def run_evaluate(folder: Path) -> None:
    """Static and adaptive attacks, with a page."""
    from art_versatile.baselines import WaveletDenoising
    from art_versatile.experiments import Plan, evaluate

    classifier, x = tiny()
    plan = Plan(attacks=["FGSM", "BIM", "PGD", "MI-FGSM"], threats=["static", "adaptive"], adaptive=["FGSM", "PGD"])
    y = classifier.predict(x).argmax(1)
    facts = {"dataset": "patches", "classifier_name": "tiny", "verbose": False}
    evaluate(classifier, {"wavelets": WaveletDenoising()}, x, y, folder / "out", plan, **facts)


def run_pairs(folder: Path) -> None:
    """Eight shards of four attacks."""
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.pairs import generate_pairs

    classifier, x = tiny()
    attacks = paper_attacks(classifier, names=["FGSM", "BIM", "PGD", "C&W"], effort="quick")
    generate_pairs(x, classifier, attacks, folder / "out", split="every", shard_size=8, verbose=False)


def run_train(folder: Path) -> None:
    """Four epochs of four steps on pairs in memory."""
    from process import arrays, run

    # A kill before the first checkpoint leaves a folder that there is nothing of to go on with.
    run(arrays(), folder / "out", resume=(folder / "out").exists())


def result_of(work: str, folder: Path) -> dict[str, Any]:
    """What has to be the same after all: records without their times, shards and manifest, weights."""
    if work == "evaluate":
        from art_versatile.evaluation import load_records

        records = load_records(folder / "out" / "records.json")
        return {str(i): dataclasses.replace(record, seconds=None) for i, record in enumerate(records)}
    names = ("*.tfrecord", "manifest.json") if work == "pairs" else ("last/*.safetensors", "log.csv")
    files = [file for name in names for file in sorted((folder / "out").rglob(name))]
    return {str(f.relative_to(folder)): hashlib.sha256(_bytes(f)).hexdigest() for f in files}


def _bytes(file: Path) -> bytes:
    """A log's lines without the seconds that they took."""
    if file.name != "log.csv":
        return file.read_bytes()
    rows = [line.split(",") for line in file.read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if "second" not in name]
    return "\n".join(",".join(row[i] for i in kept) for row in rows).encode()


def start(work: str, folder: Path) -> subprocess.Popen:
    """A process that has begun the work."""
    command = [sys.executable, __file__, "--work", work, "--folder", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while child.stdout is not None and (line := child.stdout.readline()) and line.strip() != "begun":
        pass
    return child


def finish(work: str, folder: Path) -> float:
    """Run to the end; the seconds that it took after its start."""
    child, begun = start(work, folder), time.perf_counter()
    _, said = child.communicate()
    if child.returncode:
        raise RuntimeError(f"Expected {work} to finish. Received: {said[-2000:]}")
    return time.perf_counter() - begun


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        works: dict[str, Callable[[Path], None]] = {"evaluate": run_evaluate, "pairs": run_pairs, "train": run_train}
        import tensorflow  # noqa: F401

        import art_versatile.experiments.robustness  # noqa: F401

        print("begun", flush=True)
        works[options.work](options.folder)
        return
    rng, failures = np.random.default_rng(options.seed), 0
    print("| command | seconds alone | kills | while it ran | the same after all |\n| --- | --- | --- | --- | --- |")
    for number, work in enumerate(options.commands):
        kills = len(range(number, options.kills, len(options.commands)))
        hit = same = 0
        with tempfile.TemporaryDirectory() as temporary:
            whole = Path(temporary) / "whole"
            seconds = finish(work, whole)
            expected = result_of(work, whole)
            for kill in range(kills):
                folder = Path(temporary) / str(kill)
                child = start(work, folder)
                time.sleep(rng.uniform(0, seconds))
                child.kill()
                child.communicate()
                hit += child.returncode == -signal.SIGKILL
                finish(work, folder)
                same += result_of(work, folder) == expected != {}
        failures += kills - same
        print(f"| `{work}` | {seconds:.0f} | {kills} | {hit} | {same} |", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
