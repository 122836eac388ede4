"""Train one purifier on several machines at once: the same command on each, with its own --index."""

import json
import os
import subprocess
import sys
from pathlib import Path

import typer


def main(
    pairs: Path,
    out: Path,
    workers: str = "localhost:20001,localhost:20002",
    index: int | None = None,
    epochs: int = 40,
    crop: int = 192,
    batch_size: int = 16,
) -> None:
    """
    PAIRS is a store made by `art-versatile pairs`; PAIRS and OUT are on a file system that all machines see.

    --workers lists a free port of each machine, the first one writes OUT; --batch-size is over all of them. Without
    --index all workers run on this machine: a rehearsal. Killed and called again, the run goes on.
    """
    addresses = workers.split(",")
    if index is None:
        options = ["--workers", workers, "--epochs", epochs, "--crop", crop, "--batch-size", batch_size]
        command = [sys.executable, __file__, pairs, out, *options]
        started = [subprocess.Popen([*map(str, command), "--index", str(i)]) for i in range(len(addresses))]  # noqa: S603
        if any([worker.wait() for worker in started]):  # noqa: C419 - wait for each of them
            raise SystemExit("a worker failed")
        return

    # Before TensorFlow does anything.
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    import tensorflow as tf

    from art_versatile import LossSchedule
    from art_versatile.classifiers import efficientnet_lite_model
    from art_versatile.pairs import PairStore
    from art_versatile.pix2pix import PerceptualLoss
    from art_versatile.training import train

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        perceptual = PerceptualLoss.of_classifier(efficientnet_lite_model(0), count=3)
    result = train(
        PairStore(pairs),
        out,
        perceptual=perceptual,
        strategy=strategy,
        schedule=LossSchedule([(epochs, 100.0, 20.0)]),
        crop=crop,
        batch_size=batch_size,
        resume=True,
    )
    if index == 0:
        print("loss by epoch:", ", ".join(f"{row['loss']:.2f}" for row in result.history), flush=True)


if __name__ == "__main__":
    typer.run(main)
