"""
Train the network of :class:`~art_versatile.baselines.super_resolution.SuperResolution`, and measure it.

The low resolution is the image halved by :func:`~art_versatile.baselines._edsr.bicubic_resize` and rounded to 8 bits,
as a file of it would be; whole images are halved, then patches are cut. Halving also averages out most of what JPEG
left in a photograph, so that the network is not taught to undo JPEG; what JPEG left in the large image stays in the
target. Height and width are cut to even numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from art_versatile import weights
from art_versatile._checks import (
    check_batch_size,
    check_bool,
    check_choice,
    check_images,
    check_integer,
    check_positive,
)
from art_versatile.baselines._edsr import EDSR, NETWORKS, PRESETS, bicubic_resize, build_network
from art_versatile.images import list_images, load_image
from art_versatile.training.folder import RunFolder
from art_versatile.training.monitor import Monitor, Progress

__all__ = ["super_resolution_psnr", "train_super_resolution"]

LEARNING_RATES = {"small": 1e-3, "edsr_baseline": 1e-4}
HALVING_STEPS = 200_000
"""EDSR halves its learning rate every 2e5 steps, and takes 3e5."""


def train_super_resolution(
    images: str | Path | Sequence[np.ndarray],
    out: str | Path,
    *,
    network: str | EDSR = "small",
    steps: int = 6000,
    patch: int = 48,
    batch_size: int = 16,
    learning_rate: float | None = None,
    decay: str = "cosine",
    seed: int = 0,
    validation: str | Path | Sequence[np.ndarray] | None = None,
    steps_per_epoch: int = 500,
    resume: bool = False,
    dtype: str = "float32",
    card: dict[str, Any] | None = None,
    verbose: bool = True,
) -> tuple[EDSR, list[dict[str, float]]]:
    """
    Train with the L1 loss on random patches, flipped and turned at random.

    The folder holds after each epoch what a purifier's run leaves (:class:`~art_versatile.training.RunFolder`):
    ``last/`` is for ``SuperResolution(network=out / "last")``, and ``best/`` is the best on the validation images. The
    patches of a step depend on the seed and on the step's number alone, so that a run that goes on has seen what it
    would have seen without the interruption.

    :param images: Large images: a folder, or arrays (H, W, 3), uint8 or floats in [0, 1]. They are held in memory, one
        byte a value.
    :param out: Folder of the run.
    :param network: A preset, "small" or "edsr_baseline"; or an :class:`EDSR`, which is trained on, in place.
    :param steps: Optimiser steps.
    :param patch: Height and width of the small patches in pixels; the large ones are twice that.
    :param batch_size: Patches a step.
    :param learning_rate: Adam's first one; None takes 1e-4 for ``edsr_baseline``, as in the paper, else 1e-3.
    :param decay: "cosine", to zero at the last step; or "halving" every 200,000 steps, as in the paper.
    :param seed: Seed of the patches, and of a preset's initial weights.
    :param validation: Further images, on which the PSNR is measured after each epoch and at the end.
    :param steps_per_epoch: Steps between two checkpoints, validations and lines of the log.
    :param resume: Go on with the run in ``out``, whose settings have to be these; none there starts one.
    :param dtype: Of the weights on disk: "float32" or "float16". The last PSNR is that of the weights on disk.
    :param card: Further facts for the card.
    :param verbose: Show a bar with the loss, and after each epoch the PSNR and its gain over bicubic interpolation.
    :return: The network as it was written, and one dictionary an epoch.
    :raises ValueError: If a parameter is not as expected, or an image is smaller than a patch; before any training.
    :raises FileExistsError: If ``out`` holds a run and ``resume`` is False.
    :raises FloatingPointError: If a loss or a weight was not finite.
    """
    for name, value in (("steps", steps), ("patch", patch), ("steps_per_epoch", steps_per_epoch)):
        check_integer(name, value)
    batch_size = check_batch_size(batch_size)
    check_choice("decay", decay, ("cosine", "halving"))
    check_choice("dtype", dtype, ("float32", "float16"))
    check_bool("resume", resume)
    check_bool("verbose", verbose)
    if steps > steps_per_epoch and steps % steps_per_epoch:
        raise ValueError(f"Expected steps to be a multiple of steps_per_epoch, {steps_per_epoch}. Received {steps}.")
    if learning_rate is None:
        learning_rate = LEARNING_RATES.get(network if isinstance(network, str) else "", 1e-3)
    check_positive("learning_rate", learning_rate)
    folder = RunFolder(out, resume=resume, monitor=None if validation is None else "val_psnr")
    if isinstance(network, str):
        network = build_network(network, seed=seed)
    if not isinstance(network, EDSR):
        raise TypeError(f"Expected network to be an EDSR or a name in {sorted(PRESETS)}. Received {network!r}.")
    large = _read(images, least=2 * patch)
    held_out = None if validation is None else _read(validation, least=2)

    _compile(network, learning_rate, decay, steps)
    facts: dict[str, Any] = {
        "images": len(large),
        "low_resolution": "halved by antialiased bicubic interpolation (Keys, a = -0.5), rounded to 8 bits",
        "loss": "L1",
        "optimizer": f"Adam, learning rate {learning_rate:g}, {decay}",
        "steps": int(steps),
        "patch": int(patch),
        "batch_size": batch_size,
        "augmentation": "flips and quarter turns",
        "seed": int(seed),
    }
    variables = [*network.variables, *network.optimizer.variables]
    done = folder.restore(variables, {"config": network.get_config(), **facts})
    epoch_steps = min(steps, steps_per_epoch)
    epochs = steps // epoch_steps
    content = _merged({"training": facts}, card)

    def save(trained: keras.Model, path: Path, facts: dict[str, Any]) -> None:
        weights.save(trained, path, dtype=dtype, card=facts, networks=NETWORKS)

    if done < epochs:
        with Progress(epoch_steps, shown=verbose) as bar:
            network.fit(
                _batches(network, large, patch, batch_size, seed, epoch_steps),
                epochs=epochs,
                initial_epoch=done,
                callbacks=[
                    Monitor(*([] if held_out is None else [(lambda: _gain(network, held_out), 1)])),
                    folder.callback(lambda: contextlib.nullcontext(network), save, card=content),
                    bar,
                ],
                shuffle=False,
                verbose=0,
            )
    if held_out is not None:
        # Of the weights on disk, which may be rounded.
        content = _merged(content, {"evaluation": _evaluation(weights.load(Path(out) / "last", NETWORKS)[0], held_out)})
        content = _merged(content, card)
        save(network, Path(out) / "last", {**content, "epoch": folder.history[-1]})
    return weights.load(Path(out) / "last", NETWORKS)[0], folder.history


def _compile(network: EDSR, learning_rate: float, decay: str, steps: int) -> None:
    """Loss and optimiser; its slots are there at once, as a checkpoint can be read back only into them."""
    if decay == "cosine":
        rate: Any = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    else:
        rate = keras.optimizers.schedules.ExponentialDecay(learning_rate, HALVING_STEPS, 0.5, staircase=True)
    network.compile(keras.optimizers.Adam(rate), loss="mae")
    network.optimizer.build(network.trainable_variables)


def _batches(
    network: EDSR, large: Sequence[np.ndarray], patch: int, batch_size: int, seed: int, epoch_steps: int
) -> tf.data.Dataset:
    """Batches of the epoch that the optimiser has come to."""
    small = [_halved(image) for image in large]

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = int(network.optimizer.iterations)
        for step in range(first, first + epoch_steps):
            yield _patches(small, large, patch, batch_size, np.random.default_rng([seed, step]))

    shapes = tuple(tf.TensorSpec((batch_size, size, size, 3), tf.float32) for size in (patch, 2 * patch))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=shapes)
    return dataset.apply(tf.data.experimental.assert_cardinality(epoch_steps)).prefetch(4)


def _merged(facts: dict[str, Any], more: dict[str, Any] | None) -> dict[str, Any]:
    """Facts with further ones; a dictionary in both is merged."""
    merged = dict(facts)
    for key, value in (more or {}).items():
        merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
    return merged


def super_resolution_psnr(
    network: keras.Model, images: str | Path | Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """
    PSNR of the images halved and doubled again, by the network and by bicubic interpolation.

    Over red, green and blue, the whole image (no border is shaved), the answer clipped to [0, 1] and not rounded. The
    literature shaves a border and often takes luminance only, so its figures are higher; the gain over bicubic is what
    can be compared.

    :param network: (N, H, W, 3) -> (N, 2H, 2W, 3), pixels in [0, 1].
    :param images: Large images, as in :func:`train_super_resolution`.
    :return: dB of each image (N,): the network's, bicubic's.
    """
    compiled = tf.function(
        lambda x: network(x, training=False), input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)]
    )
    ratios = []
    for image in _read(images, least=2):
        small = tf.constant(_halved(image)[None] / np.float32(255))
        large = (image[None] / np.float32(255)).astype(np.float32)
        answers = (compiled(small), bicubic_resize(small, *large.shape[1:3]))
        errors = [np.mean((np.clip(a, 0, 1) - large) ** 2, dtype=np.float64) for a in answers]
        with np.errstate(divide="ignore"):  # an image that is met exactly has an infinite ratio
            ratios.append(-10 * np.log10(errors))
    by_network, by_bicubic = np.transpose(ratios)
    return by_network, by_bicubic


def _evaluation(network: keras.Model, images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Figures for the card."""
    by_network, by_bicubic = super_resolution_psnr(network, images)
    return {
        "metric": "PSNR in dB of images halved and doubled again, mean over n; RGB, whole image, not rounded",
        "n": len(by_network),
        "psnr": round(float(by_network.mean()), 3),
        "bicubic_psnr": round(float(by_bicubic.mean()), 3),
        "gain": round(float((by_network - by_bicubic).mean()), 3),
        "images_better_than_bicubic": int((by_network > by_bicubic).sum()),
    }


def _gain(network: keras.Model, images: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean PSNR in dB, and its difference to bicubic's."""
    by_network, by_bicubic = super_resolution_psnr(network, images)
    return {"val_psnr": float(by_network.mean()), "val_gain": float((by_network - by_bicubic).mean())}


def _read(images: str | Path | Sequence[np.ndarray], least: int) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, H and W even and not below ``least``."""
    arrays = map(load_image, list_images(images)) if isinstance(images, str | Path) else iter(images)
    read = []
    for array in arrays:
        image = np.asarray(array)
        if image.dtype != np.uint8:
            check_images(image[None], (0.0, 1.0), name="images")
            image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < least:
            raise ValueError(f"Expected images (H, W, 3) of at least {least}x{least} pixels. Received {image.shape}.")
        read.append(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
    if not read:
        raise ValueError("Expected at least one image. Received none.")
    return read


def _halved(image: np.ndarray) -> np.ndarray:
    """(2H, 2W, 3) uint8 -> (H, W, 3) uint8."""
    small = bicubic_resize(tf.constant(image[None], tf.float32), image.shape[0] // 2, image.shape[1] // 2)
    return np.round(np.clip(small[0], 0, 255)).astype(np.uint8)


def _patches(
    small: Sequence[np.ndarray], large: Sequence[np.ndarray], patch: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of (small, large) patches in [0, 1], float32, each turned one of eight ways."""
    pair: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(count):
        i = int(rng.integers(len(small)))
        top, left = (int(rng.integers(size - patch + 1)) for size in small[i].shape[:2])
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        for patches, image, factor in zip(pair, (small[i], large[i]), (1, 2), strict=True):
            cut = image[factor * top : factor * (top + patch), factor * left : factor * (left + patch)]
            patches.append(np.rot90(cut[:, ::-1] if mirrored else cut, turns))
    return tuple(np.stack(patches).astype(np.float32) / 255 for patches in pair)  # type: ignore[return-value]
