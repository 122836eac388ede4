"""Pairs as a training run reads them."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from art_versatile.pairs.batches import Pairs
from art_versatile.pairs.memory import MemoryPairs
from art_versatile.pix2pix.generators import padded_sides
from art_versatile.training.presets import Preset

__all__ = ["endless_batches", "examples"]


def endless_batches(
    pairs: Pairs,
    preset: Preset,
    generator: keras.Model,
    *,
    seed: int,
    first_epoch: int,
    marked: Sequence[str] | None = None,
) -> tf.data.Dataset:
    """
    Batches (adversarial, clean) without end, float32 (N, H, W, 3) in [0, 1], of a size that the generator takes.

    All are of one shape: a pass's last one is filled with its first pairs, unless there are fewer than one batch.
    Another shape would be compiled anew, and replicas need equal shares.

    :param pairs: The pairs.
    :param preset: How they are cut, scaled and mixed.
    :param generator: Whole images are mirrored at their far edges up to the multiples that it takes.
    :param seed: Of order and augmentation.
    :param first_epoch: Number of the first pass.
    :param marked: Names of attacks: batches are (adversarial, clean, whether a pair is of one of them).
    """
    data = pairs.dataset(
        preset.batch_size,
        crop=preset.crop,
        crop_step=preset.crop_step,
        flip=preset.flip,
        scale=preset.scale,
        whole=[name for name in preset.whole if name in pairs.attacks],
        clean_share=preset.clean_share,
        seed=seed,
        repeat=True,
        first_epoch=first_epoch,
        marked=marked,
        fill_remainder=len(pairs) >= preset.batch_size,
    )
    low, high = pairs.clip_values
    if (low, high) != (0.0, 1.0):
        data = data.map(lambda *batch: (*((images - low) / (high - low) for images in batch[:2]), *batch[2:]))
    height, width = data.element_spec[0].shape[1:3]
    if height is not None and width is not None and padded_sides(generator, height, width) != (height, width):
        sides = zip((height, width), padded_sides(generator, height, width), strict=True)
        rows, columns = (np.pad(np.arange(side), (0, padded - side), mode="reflect") for side, padded in sides)
        data = data.map(
            lambda *batch: (*(tf.gather(tf.gather(x, rows, axis=1), columns, axis=2) for x in batch[:2]), *batch[2:])
        )
    distribution = tf.data.Options()
    # A generator inside cannot be split by files: every worker reads all and takes its share of each batch.
    distribution.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(distribution)


def examples(held: MemoryPairs | None, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """
    Six adversarial and six clean images for a panel, in [0, 1].

    :param held: Held pairs, from which they are taken where there are any.
    :param pairs: The pairs of the training.
    """
    if held is not None:
        rows = np.linspace(0, len(held) - 1, 6).astype(int)
        batch, (low, high) = [held.adversarial[rows], held.clean[rows]], held.clip_values
    else:
        first = next(iter(pairs.dataset(min(6, len(pairs)), flip=False, shuffle=False)))
        batch, (low, high) = [images.numpy() for images in first[:2]], pairs.clip_values
    adversarial, clean = ((images - low) / (high - low) for images in batch)
    return adversarial, clean
