"""Keeping what a generator answered before it is trained further (learning without forgetting, arXiv 1606.09282)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from art_versatile._checks import check_number
from art_versatile.pix2pix.generators import GENERATORS
from art_versatile.pix2pix.precision import built_in_float32

__all__ = ["Distillation", "frozen_copy"]


@dataclass(frozen=True)
class Distillation:
    """
    A term of the generator's loss on some of the pairs: ``weight`` times the pixel loss and the perceptual loss, under
    the weights of the schedule, between what the generator answers and what ``teacher`` does.

    The clean image stays the target too. The term is a mean over the batch, in which the other pairs count 0.

    :param teacher: The generator as it was (:func:`frozen_copy`).
    :param weight: 0 to 1000; 0 leaves the term out.
    :param names: Attacks whose pairs it counts on.
    :raises ValueError: If the weight is not from 0 to 1000.
    """

    teacher: keras.Model = field(repr=False)
    weight: float
    names: Sequence[str]

    def __post_init__(self) -> None:
        check_number("distillation", self.weight, 0, 1000)

    @property
    def identity(self) -> dict[str, Any]:
        """Its settings and the teacher's weights, JSON-able: a run that goes on has to have the same."""
        digest = hashlib.sha256()
        for array in self.teacher.get_weights():
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return {"weight": self.weight, "names": list(self.names), "teacher_sha256": digest.hexdigest()}


def frozen_copy(generator: keras.Model) -> keras.Model:
    """
    A generator as it is now, in float32, without the noise at its output, at strength 1: what it was trained to answer.

    :param generator: Made by :func:`art_versatile.pix2pix.build_generator`.
    :return: Another network with its weights, which are not trained.
    :raises ValueError: If it is of another kind.
    """
    architecture = getattr(generator, "architecture", None)
    if architecture not in GENERATORS:
        raise ValueError(
            f"Expected a generator made by build_generator ({sorted(GENERATORS)}). Received {generator.name!r}."
        )
    config = generator.get_config()
    changes = {name: bare for name, bare in (("output_noise", 0.0), ("strength", 1.0)) if name in config}
    kind: Any = GENERATORS[architecture]
    with built_in_float32():
        copy = kind.from_config({**config, **changes})
    copy.set_weights(generator.get_weights())
    copy.trainable = False
    return copy
