"""A training run small enough for a test, as functions for the tests and as a process that they start and kill."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from art_versatile.pairs import MemoryPairs, PairStore
from art_versatile.pairs.store import encode_pair, write_json, write_shard
from art_versatile.pix2pix import LossSchedule, PerceptualLoss, patchgan
from art_versatile.training import Preset, train

SHAPE, COUNT = (24, 24, 3), 16

# Six batches a pass, the last one filled up; epochs of four steps, so that they end in mid-pass.
PRESET = Preset(
    architecture="compact",
    generator_options={"widths": (8,), "blocks": (1,), "factor": 2, "sigmas": (0.0, 1.0), "noise": 0.1},
    discriminator=2,
    features="classifier",
    schedule=LossSchedule([(2, 10.0, 2.0), (2, 5.0, 0.5)]),
    learning_rate=3e-3,
    decay="cosine",
    clip_norm=0.5,
    ema=0.8,
    batch_size=3,
    scale=(0.5, 1.0),
    clean_share=0.2,
)
STEPS = 4


def arrays(count: int = COUNT, shape: tuple[int, int, int] = SHAPE, **changes) -> MemoryPairs:
    """Smooth pictures in [0, 1], the same under noise of one sign a pixel, labels 0 to 3, two attacks."""
    rng = np.random.default_rng(0)
    height, width, channels = shape
    coarse = rng.uniform(0.2, 0.8, (count, -(-height // 4), -(-width // 4), channels))
    clean = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].astype(np.float32)
    adversarial = clean + np.float32(0.1) * rng.choice(np.float32([-1, 1]), clean.shape)
    numbers = np.arange(count)
    given = {
        "adversarial": adversarial, "clean": clean, "labels": numbers % 4, "indices": numbers % 2,
        "attacks": ("A", "B"), "images": numbers,
    }  # fmt: skip
    return MemoryPairs(**{**given, **changes})


def make_store(path: Path, count: int = COUNT, shape: tuple[int, int, int] = SHAPE) -> PairStore:
    """:func:`arrays` as a store of two shards."""
    pairs = arrays(count, shape)
    (path / "shards").mkdir(parents=True)
    shards = []
    for attack in range(2):
        rows = np.flatnonzero(pairs.indices == attack)
        records = [
            encode_pair(pairs.clean[i], pairs.adversarial[i], label=pairs.labels[i], attack=attack, image=i,
                        dtype="float32")
            for i in rows
        ]  # fmt: skip
        file = f"shards/{attack}.tfrecord"
        checksum = write_shard(f"{path}/{file}", records)
        shards.append({"file": file, "attack": "AB"[attack], "sha256": checksum, "count": len(rows)})
    manifest = {
        "format": 1,
        "complete": True,
        "parameters": {
            "attacks": [{"name": "A"}, {"name": "B"}], "clip_values": (0.0, 1.0), "dtype": "float32", "compression": "",
        },
        "image_shape": shape,
        "images": [{"name": str(i)} for i in range(count)],
        "attacks": {"AB"[i]: {"count": shards[i]["count"], "skipped": 0, "success_rate": 1.0} for i in range(2)},
        "shards": shards,
    }  # fmt: skip
    write_json(f"{path}/manifest.json", manifest)
    return PairStore(path)


def make_perceptual() -> PerceptualLoss:
    """Over a convolution with random weights and a prediction; the same at each call."""
    image = keras.Input((None, None, 3))
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(2)]
    x = keras.layers.Conv2D(4, 3, activation="tanh", kernel_initializer=init[0], name="features")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4, kernel_initializer=init[1], name="logits")(x)
    return PerceptualLoss.of_classifier(keras.Model(image, x, name="tiny"))


def run(pairs, out, **arguments):
    """A run of :data:`PRESET`."""
    perceptual = arguments.pop("perceptual", None)
    if perceptual is None and arguments.get("features", "classifier") == "classifier":
        perceptual = make_perceptual()
    return train(
        pairs, out, **{"preset": PRESET, "perceptual": perceptual, "steps_per_epoch": STEPS, "seed": 5,
                       "verbose": False, **arguments},
    )  # fmt: skip


class KillAt(keras.callbacks.Callback):
    """Ends this process, at once and without a word, before a step."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self._place, self._epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self._epoch, batch) == self._place:
            os.kill(os.getpid(), signal.SIGKILL)


def run_under(strategy, pairs, out=None, *, adversarial=True, **arguments):
    """
    A run whose result does not depend on how many devices there are: a generator without noise, whole batches.

    Returns a dictionary of arrays: losses by epoch, weights of generator and discriminator.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        perceptual = make_perceptual()
        discriminator = patchgan(2, seed=6) if adversarial else None
    result = run(
        pairs,
        out,
        perceptual=perceptual,
        strategy=strategy,
        discriminator=discriminator,
        batch_size=4,
        generator_options={**PRESET.generator_options, "noise": 0.0},
        **arguments,
    )
    losses = {name: [row[name] for row in result.history] for name in result.history[0] if name != "epoch"}
    networks = {"generator": result.generator, "discriminator": discriminator}
    weights = {
        f"{name} {i}": w
        for name, network in networks.items()
        if network is not None
        for i, w in enumerate(network.get_weights())
    }
    return {**losses, **weights}


def main() -> None:
    """What the tests run in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["killed", "mirrored", "worker"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", type=int, nargs=2, metavar=("EPOCH", "STEP"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.mode == "killed":
        run(PairStore(folder / "store"), folder / "run", callbacks=[KillAt(*arguments.kill)])
    elif arguments.mode == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        np.savez(folder / "mirrored.npz", **run_under(strategy, arrays(), folder / "mirrored"))
        # Noise, and half precision with its loss scaling: that they run.
        run(arrays(), None, perceptual=None, features=None, discriminator=None, strategy=strategy, batch_size=4)
        half = run_under(strategy, arrays(), precision="mixed_float16")
        np.savez(folder / "half.npz", **half)
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        stop = StopAfter(arguments.stop_after, index)
        options = {"resume": arguments.resume, "callbacks": [stop]}
        result = run_under(strategy, arrays(), folder / "run", adversarial=False, **options)
        np.savez(folder / f"worker {index}.npz", **result)


class StopAfter(keras.callbacks.Callback):
    """Ends training after an epoch, on the second worker: the first has to follow."""

    def __init__(self, epoch: int | None, worker: int) -> None:
        super().__init__()
        self._epoch = epoch if worker == 1 else None

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            self.model.stop_training = True


if __name__ == "__main__":
    main()
