"""
Train the network of :class:`~art_versatile.baselines.super_resolution.SuperResolution`, and measure it.

The low resolution is the image halved by :func:`~art_versatile.baselines._edsr.bicubic_resize` and rounded to 8 bits,
as a file of it would be; whole images are halved, then patches are cut. Halving also averages out most of what JPEG
left in a photograph, so that the network is not taught to undo JPEG; what JPEG left in the large image stays in the
target. Height and width are cut to even numbers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf
import typer

from art_versatile import weights
from art_versatile._checks import check_batch_size, check_choice, check_images, check_integer, check_positive
from art_versatile._files import write_text_atomically
from art_versatile.baselines._edsr import EDSR, NETWORKS, PRESETS, bicubic_resize, build_network
from art_versatile.images import list_images, load_image

__all__ = ["main", "super_resolution_psnr", "train_super_resolution"]

LEARNING_RATES = {"small": 1e-3, "edsr_baseline": 1e-4}
HALVING_STEPS = 200_000
"""EDSR halves its learning rate every 2e5 steps, and takes 3e5."""
STATE, SETTINGS = "state", "settings.json"
"""What a backup folder holds."""


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
    backup: str | Path | None = None,
    dtype: str = "float32",
    card: dict[str, Any] | None = None,
    verbose: bool = True,
) -> tuple[EDSR, keras.callbacks.History]:
    """
    Train with the L1 loss on random patches, flipped and turned at random; then write the weights and their card.

    The patches of a step depend on the seed and on the step's number alone, so that a run that went on from its backup
    has seen what it would have seen without the interruption.

    :param images: Large images: a folder, or arrays (H, W, 3), uint8 or floats in [0, 1]. They are held in memory, one
        byte a value.
    :param out: Folder of the weights, for ``SuperResolution(network=out)``.
    :param network: A preset, "small" or "edsr_baseline"; or an :class:`EDSR`, which is trained on, in place.
    :param steps: Optimiser steps.
    :param patch: Height and width of the small patches in pixels; the large ones are twice that.
    :param batch_size: Patches a step.
    :param learning_rate: Adam's first one; None takes 1e-4 for ``edsr_baseline``, as in the paper, else 1e-3.
    :param decay: "cosine", to zero at the last step; or "halving" every 200,000 steps, as in the paper.
    :param seed: Seed of the patches, and of a preset's initial weights.
    :param validation: Further images, on which the PSNR is measured after each epoch and at the end.
    :param steps_per_epoch: Steps between two backups, validations and lines of the log.
    :param backup: Folder for the state after each epoch, from which the same call goes on; removed from it at the end.
    :param dtype: Of the weights on disk: "float32" or "float16". The last PSNR is that of the weights on disk.
    :param card: Further facts for the card.
    :param verbose: Print the loss, and the PSNR beside that of bicubic interpolation.
    :return: The network as it was written, and Keras's history.
    :raises ValueError: If a parameter is not as expected, or an image is smaller than a patch; before any training.
    """
    for name, value in (("steps", steps), ("patch", patch), ("steps_per_epoch", steps_per_epoch)):
        check_integer(name, value)
    batch_size = check_batch_size(batch_size)
    check_choice("decay", decay, ("cosine", "halving"))
    check_choice("dtype", dtype, ("float32", "float16"))
    if steps > steps_per_epoch and steps % steps_per_epoch:
        raise ValueError(f"Expected steps to be a multiple of steps_per_epoch, {steps_per_epoch}. Received {steps}.")
    if learning_rate is None:
        learning_rate = LEARNING_RATES.get(network if isinstance(network, str) else "", 1e-3)
    check_positive("learning_rate", learning_rate)
    if isinstance(network, str):
        network = build_network(network, seed=seed)
    if not isinstance(network, EDSR):
        raise TypeError(f"Expected network to be an EDSR or a name in {sorted(PRESETS)}. Received {network!r}.")
    large = _read(images, least=2 * patch)
    held_out = None if validation is None else _read(validation, least=2)
    small = [_halved(image) for image in large]

    if decay == "cosine":
        rate: Any = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    else:
        rate = keras.optimizers.schedules.ExponentialDecay(learning_rate, HALVING_STEPS, 0.5, staircase=True)
    optimizer = keras.optimizers.Adam(rate)
    network.compile(optimizer, loss="mae")
    optimizer.build(network.trainable_variables)  # a backup can be read back only into slots that are there
    epoch_steps = min(steps, steps_per_epoch)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = int(optimizer.iterations)
        for step in range(first, first + epoch_steps):
            yield _patches(small, large, patch, batch_size, np.random.default_rng([seed, step]))

    shapes = tuple(tf.TensorSpec((batch_size, size, size, 3), tf.float32) for size in (patch, 2 * patch))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=shapes)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(epoch_steps)).prefetch(4)
    callbacks: list[keras.callbacks.Callback] = []
    if held_out is not None:
        callbacks.append(_Validation(held_out, verbose))
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
    if backup is not None:
        _claim(Path(backup), {"config": network.get_config(), **facts})
        # Keras would delete the folder before the weights are written.
        state = keras.callbacks.BackupAndRestore(
            str(Path(backup) / STATE), double_checkpoint=True, delete_checkpoint=False
        )
        callbacks.append(state)
    history = network.fit(
        dataset,
        epochs=steps // epoch_steps,
        callbacks=callbacks,
        shuffle=False,
        verbose=2 if verbose else 0,
    )
    content: dict[str, Any] = {"training": facts}
    if held_out is not None:
        stored = EDSR.from_config(network.get_config())
        stored.set_weights([w.astype(dtype).astype(np.float32) for w in network.get_weights()])
        network = stored
        content["evaluation"] = _evaluation(network, held_out)
        if verbose:
            print(json.dumps(content["evaluation"]))
    for key, value in (card or {}).items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    weights.save(network, out, dtype=dtype, card=content, networks=NETWORKS)
    if backup is not None:
        shutil.rmtree(Path(backup) / STATE)
        (Path(backup) / SETTINGS).unlink()
    return weights.load(Path(out), NETWORKS)[0], history


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


class _Validation(keras.callbacks.Callback):
    """PSNR after each epoch, in the logs as ``val_psnr`` and ``val_gain``, its difference to bicubic's."""

    def __init__(self, images: Sequence[np.ndarray], verbose: bool) -> None:
        super().__init__()
        self._images, self._verbose = images, verbose

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure."""
        by_network, by_bicubic = super_resolution_psnr(self.model, self._images)
        figures = {"val_psnr": float(by_network.mean()), "val_gain": float((by_network - by_bicubic).mean())}
        if logs is not None:
            logs.update(figures)
        if self._verbose:
            print(f"epoch {epoch + 1}: {by_network.mean():.3f} dB, {figures['val_gain']:+.3f} over bicubic", flush=True)


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


def _claim(backup: Path, settings: dict[str, Any]) -> None:
    """Refuse a backup that a run with other settings left."""
    file = backup / SETTINGS
    backup.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=2, sort_keys=True)
    if file.is_file() and file.read_text() != text:
        raise ValueError(f"Expected a backup of a run with these settings. Received another's: {file}.")
    write_text_atomically(file, text)


def main(
    images: Annotated[Path, typer.Option(help="Folder of photographs to train on.")],
    out: Annotated[Path, typer.Option(help="Folder of the weights.")],
    val: Annotated[Path | None, typer.Option(help="Folder of photographs to measure on.")] = None,
    val_count: Annotated[int, typer.Option(min=1, help="How many of them, the first by name.")] = 100,
    preset: Annotated[str, typer.Option(help="small or edsr_baseline.")] = "small",
    blocks: Annotated[int | None, typer.Option(help="Residual blocks; the preset's by default.")] = None,
    features: Annotated[int | None, typer.Option(help="Channels; the preset's by default.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 6000,
    steps_per_epoch: Annotated[int, typer.Option(min=1, help="Steps between two backups.")] = 500,
    patch: Annotated[int, typer.Option(min=1, help="Height and width of the small patches.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches a step.")] = 16,
    learning_rate: Annotated[float | None, typer.Option(help="The preset's by default.")] = None,
    decay: Annotated[str, typer.Option(help="cosine or halving.")] = "cosine",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the patches.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or float16, on disk.")] = "float32",
    backup: Annotated[Path | None, typer.Option(help="Folder from which an interrupted run goes on.")] = None,
    data: Annotated[str, typer.Option(help="What the images are, for the card.")] = "",
    val_data: Annotated[str, typer.Option(help="What the validation images are, for the card.")] = "",
) -> None:
    """Train the super-resolution network of the WD+SR defence, and print its PSNR beside bicubic's."""
    given = {key: value for key, value in (("blocks", blocks), ("features", features)) if value is not None}
    card = {key: {"data": text} for key, text in (("training", data), ("evaluation", val_data)) if text}
    try:
        held_out = None if val is None else [load_image(file) for file in list_images(val)[:val_count]]
        train_super_resolution(
            images,
            out,
            network=build_network(preset, seed=seed, **given),
            steps=steps,
            patch=patch,
            batch_size=batch_size,
            learning_rate=LEARNING_RATES[preset] if learning_rate is None else learning_rate,
            decay=decay,
            seed=seed,
            validation=held_out,
            steps_per_epoch=steps_per_epoch,
            backup=backup,
            dtype=dtype,
            card=card,
        )
    except (ValueError, OSError) as err:
        typer.secho(f"error: {err}", fg="red", err=True)
        raise typer.Exit(2) from err


if __name__ == "__main__":
    typer.run(main)
