"""Pairs that are made while a purifier is trained: random parts of photographs, random victims, random attacks."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_batch_size, check_bool, check_integer, check_number
from art_versatile.images import load_image, random_view
from art_versatile.pairs.batches import Pairs, Reader

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

__all__ = ["INNER", "FreshPairs", "RandomViews", "Recipe", "Victim"]

logger = logging.getLogger(__name__)

ATTACKS = ("FGSM", "BIM", "PGD", "MI-FGSM")

INNER = ("fgsm", "pgd", "free", "gaussian")
"""Names of what is made inside the training step instead (:mod:`art_versatile.training.inner`)."""

# What RandomViews.dataset may be asked for, as that is how its pairs are; and what makes no difference then.
_AS_DRAWN: dict[str, Any] = {
    "crop": None, "flip": False, "scale": (1.0, 1.0), "clean_share": 0, "labels": False, "attacks": None,
    "marked": None,
}  # fmt: skip
_NO_MATTER = ("crop_step", "whole", "drop_remainder", "fill_remainder", "shuffle", "shuffle_buffer")


@dataclass(frozen=True)
class Recipe:
    """
    What a fresh pair is drawn from.

    :param sides: Height and width of the images, one of these for each round. The classifier's sampling grid moves with
        the size.
    :param zoom: Each image is a random part of a photograph, its sides divided by a factor from 1 to this.
    :param eps: Smallest and largest L-infinity budget, pixels in [0, 1]; drawn for each image, evenly in its logarithm.
    :param iterations: Smallest and largest number of steps of the iterative attacks, drawn evenly in its logarithm.
    :param eps_step: Step of the iterative attacks, or 2.5 eps / iterations where that is larger.
    :param shares: Attack -> share of the groups.
    :param feature_share: Share of a classifier's groups in which its features are attacked, at a random layer, instead
        of its prediction (self-supervised perturbation, arXiv 2006.04924). Networks without a prediction always are.
    :param clean_share: Share of each batch, rounded down, that is left as it is: what keeps clean images clean.
    :param round_images: Images attacked before the training goes on with them.
    :param reuse: How often each pair is used, in the steps of its round.
    :raises ValueError: If a number or a name is not as expected.
    """

    sides: tuple[int, ...] = (128, 160, 192, 224)
    zoom: float = 1.5
    eps: tuple[float, float] = (2 / 255, 16 / 255)
    iterations: tuple[int, int] = (3, 20)
    eps_step: float = 0.01
    shares: Mapping[str, float] | None = None
    feature_share: float = 0.25
    clean_share: float = 0.125
    round_images: int = 128
    reuse: int = 4

    def __post_init__(self) -> None:
        for name, (low, high) in {"eps": self.eps, "iterations": self.iterations}.items():
            if not 0 < low <= high < math.inf:
                raise ValueError(f"Expected {name} to be (low, high) with 0 < low <= high. Received {(low, high)!r}.")
        for name in ("feature_share", "clean_share"):
            check_number(name, getattr(self, name), 0, 1)
        check_integer("round_images", self.round_images)
        check_integer("reuse", self.reuse)
        if unknown := sorted(set(self.shares or {}) - set(ATTACKS)):
            raise ValueError(f"Expected attacks among {list(ATTACKS)}. Received {unknown}.")

    @property
    def attack_shares(self) -> dict[str, float]:
        """Attack -> share, of sum 1."""
        given = self.shares or {"FGSM": 0.35, "BIM": 0.1, "PGD": 0.3, "MI-FGSM": 0.25}
        return {name: share / sum(given.values()) for name, share in given.items()}


class RandomViews(Pairs):
    """
    Random parts of photographs, (clean, clean): what a run is given that makes its attacks or its noise in the step.

    What is drawn depends on the seed, the epoch and the round alone, so that a run that goes on sees what it would have
    seen.

    :param images: Files of photographs.
    :param sides: Height and width of the images, one of these for each batch.
    :param zoom: Each image is a random part of a photograph, its sides divided by a factor from 1 to this, mirrored by
        the toss of a coin.
    :param epoch_pairs: Pairs in an epoch.
    :raises ValueError: If there is no image, or a number is not as expected.
    """

    round_images = reuse = 1
    parts = 2  # of what the batches are made of

    def __init__(
        self,
        images: Sequence[str | Path],
        sides: Sequence[int] = (128, 160, 192, 224),
        *,
        zoom: float = 1.5,
        epoch_pairs: int = 2000,
    ) -> None:
        self.images, self.sides = [Path(file) for file in images], tuple(sides)
        self.zoom, self.epoch_pairs = check_number("zoom", zoom, 1, 100), check_integer("epoch_pairs", epoch_pairs)
        if not self.images or not self.sides:
            raise ValueError("Expected at least one image and one of sides. Received none.")
        for side in self.sides:
            check_integer("sides", side, 32)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the largest."""
        return max(self.sides), max(self.sides), 3

    @property
    def clip_values(self) -> tuple[float, float]:
        """Range of the pixels."""
        return 0.0, 1.0

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks: "none"."""
        return ("none",)

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each attack in an epoch, as expected."""
        return {"none": self.epoch_pairs}

    def __len__(self) -> int:
        return self.epoch_pairs

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.images)} photographs, sides={self.sides}, zoom={self.zoom})"

    @property
    def identity(self) -> dict[str, Any]:
        """The checksum of the names of the images and of what is drawn."""
        known = "\n".join([*(file.name for file in self.images), repr(self)])
        return {"pairs_sha256": hashlib.sha256(known.encode()).hexdigest()}

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """Not there: these come in batches."""
        raise NotImplementedError("Expected dataset(): these pairs are made batch by batch.")

    def dataset(
        self, batch_size: int, *, seed: int = 0, repeat: bool = False, first_epoch: int = 0, **others: Any
    ) -> tf.data.Dataset:
        """
        Batches of (adversarial, clean): float32 (batch, H, W, 3) in [0, 1], twice; H and W are the round's.

        Every batch is whole, is drawn at random and is mirrored, scaled and cut out before the attack. Of the other
        parameters of :meth:`art_versatile.pairs.Pairs.dataset` those that ask for no more than that may be given.

        :param batch_size: Pairs in a batch.
        :param seed: Of all that is drawn.
        :param repeat: Go on for ever; otherwise each pass is the first epoch.
        :param first_epoch: Number of the first epoch.
        :param others: ``crop=None``, ``flip=False``, ``scale=(1.0, 1.0)``, ``clean_share=0``, ``labels=False``,
            ``attacks=None``, ``marked=None``; ``crop_step``, ``whole``, ``drop_remainder``, ``fill_remainder``,
            ``shuffle`` and ``shuffle_buffer`` with any value, as they change nothing then.
        :raises ValueError: If another value is asked for.
        :raises TypeError: If a parameter is unknown.
        """
        import tensorflow as tf

        check_batch_size(batch_size)
        check_integer("seed", seed, least=0)
        check_bool("repeat", repeat)
        check_integer("first_epoch", first_epoch, least=0)
        if unknown := sorted(set(others) - set(_AS_DRAWN) - set(_NO_MATTER)):
            raise TypeError(f"Expected parameters among {[*_AS_DRAWN, *_NO_MATTER]}. Received {unknown}.")
        for name, drawn in _AS_DRAWN.items():
            if (value := others.get(name, drawn)) != drawn:
                raise ValueError(f"Expected {name}={drawn!r}: these pairs are as they are drawn. Received {value!r}.")
        images = tf.TensorSpec((None, None, None, 3), tf.float32)
        spec = (images, images, tf.TensorSpec((None,), tf.int32))[: self.parts]
        epochs = range(first_epoch, 2**31) if repeat else range(first_epoch, first_epoch + 1)

        def batches() -> Iterator[tuple[np.ndarray, ...]]:
            return (batch[: self.parts] for epoch in epochs for batch in self._epoch(batch_size, seed, epoch))

        return tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(2)

    def _epoch(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, ...]]:
        done = number = 0
        steps = -(-self.epoch_pairs // batch_size)
        while done < steps:
            rng = np.random.default_rng([seed, epoch, number])
            adversarial, clean, victims = self._round(batch_size, rng)
            for _ in range(self.reuse):
                # Mixed among the batches of one victim: a batch has one.
                order = np.concatenate([rng.permutation(np.flatnonzero(victims == v)) for v in np.unique(victims)])
                for rows in rng.permutation(order.reshape(-1, batch_size)):
                    if done < steps:
                        yield adversarial[rows], clean[rows], victims[rows]
                    done += 1
            number += 1

    def _round(self, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Attacked images, clean images and numbers of the victims; all of one size: some whole batches."""
        side = int(rng.choice(self.sides))
        groups = []
        for _ in range(max(1, self.round_images // batch_size)):
            files = rng.choice(len(self.images), batch_size, replace=len(self.images) < batch_size)
            clean = np.stack(
                [
                    random_view(load_image(self.images[file]), (side, side), rng, zoom=self.zoom, flip=True)
                    for file in files
                ]
            )
            attacked, victim = self._attacked(clean, rng)
            groups.append((attacked, clean, np.full(len(clean), victim, np.int32)))
        return tuple(np.concatenate(part) for part in zip(*groups, strict=True))

    def _attacked(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """What becomes of one batch, and the number of the victim."""
        return clean, 0


class FreshPairs(RandomViews):
    """
    Pairs made while training: each round attacks new parts of photographs on victims drawn at random.

    A group of a round is one batch: one victim, one attack and its number of iterations; eps is each image's own.
    The batches are (adversarial, clean, victims): int32 (batch,), all the same, numbers in the order of ``victims``.

    :param images: Files of photographs.
    :param classifiers: Name -> Keras model from pixels in [0, 1] to logits, any size. Attacked: the cross-entropy to
        its own clean prediction (no labels are needed), or its features.
    :param features: Name -> Keras model from pixels in [0, 1] to features.
    :param recipe: What is drawn.
    :param epoch_pairs: Pairs in an epoch.
    :raises ValueError: If there is no image or no victim, or two victims have one name.
    """

    parts = 3

    def __init__(
        self,
        images: Sequence[str | Path],
        classifiers: Mapping[str, keras.Model],
        features: Mapping[str, keras.Model] | None = None,
        recipe: Recipe | None = None,
        *,
        epoch_pairs: int = 2000,
    ) -> None:
        self.recipe = Recipe() if recipe is None else recipe
        super().__init__(images, self.recipe.sides, zoom=self.recipe.zoom, epoch_pairs=epoch_pairs)
        self.round_images, self.reuse = self.recipe.round_images, self.recipe.reuse
        if twice := sorted(set(classifiers) & set(features or {})):
            raise ValueError(
                f"Expected classifiers and networks of features of different names. Received {twice} twice."
            )
        self.victims = {name: Victim(model, logits=True) for name, model in classifiers.items()}
        self.victims |= {name: Victim(model, logits=False) for name, model in (features or {}).items()}
        if not self.victims:
            raise ValueError("Expected at least one classifier or network of features. Received none.")

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks."""
        return tuple(self.recipe.attack_shares)

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each attack in an epoch, as expected."""
        return {name: round(self.epoch_pairs * share) for name, share in self.recipe.attack_shares.items()}

    def __repr__(self) -> str:
        return f"FreshPairs({len(self.images)} photographs, victims={list(self.victims)}, {self.recipe})"

    def _attacked(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """One batch, by one victim and one attack."""
        recipe = self.recipe
        number = int(rng.integers(len(self.victims)))
        victim = list(self.victims.values())[number]
        shares = recipe.attack_shares
        attack = str(rng.choice(list(shares), p=list(shares.values())))
        eps = np.exp(rng.uniform(math.log(recipe.eps[0]), math.log(recipe.eps[1]), len(clean))).astype(np.float32)
        fewest, most = recipe.iterations
        steps = 1 if attack == "FGSM" else round(math.exp(rng.uniform(math.log(fewest), math.log(most))))
        layer = victim.draw(rng, recipe.feature_share)
        attacked = victim.perturb(
            clean,
            eps,
            steps=steps,
            eps_step=eps if attack == "FGSM" else np.maximum(recipe.eps_step, 2.5 * eps / steps),
            decay=1.0 if attack == "MI-FGSM" else 0.0,
            # The clean image is where features change least: no gradient leads away from it.
            random_start=attack == "PGD" or layer is not None,
            seed=rng.integers(2**31, size=2),
            layer=layer,
        )
        left = int(recipe.clean_share * len(clean))
        attacked[:left] = clean[:left]
        return attacked, number


class Victim:
    """
    A frozen network that is attacked, itself alone: FGSM, BIM, PGD and MI-FGSM in one compiled loop.

    :param model: From pixels in [0, 1], (N, H, W, 3), any size.
    :param logits: Whether it answers logits (a classifier) or features.
    """

    def __init__(self, model: keras.Model, *, logits: bool) -> None:
        import keras

        self.logits = logits
        convolutions = [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]
        if logits and not convolutions:
            logger.warning("No convolution is seen in %s: its prediction alone is attacked.", model.name)
        count = min(6, len(convolutions))
        layers = [convolutions[(i + 1) * len(convolutions) // count - 1].output for i in range(count)]
        self._parts: list[keras.Model] = [keras.Model(model.input, output) for output in layers]
        self._model = model
        self._compiled: dict[int | None, Any] = {}

    def draw(self, rng: np.random.Generator, feature_share: float) -> int | None:
        """Which layer is attacked; None is the prediction."""
        if self.logits and (not self._parts or rng.uniform() >= feature_share):
            return None
        return int(rng.integers(len(self._parts)))

    def perturb(
        self,
        clean: np.ndarray,
        eps: np.ndarray,
        *,
        steps: int,
        eps_step: np.ndarray,
        decay: float = 0.0,
        random_start: bool = False,
        seed: Sequence[int] | np.ndarray = (0, 0),
        layer: int | None = None,
    ) -> np.ndarray:
        """
        Adversarial images in [0, 1].

        :param clean: (N, H, W, 3) in [0, 1].
        :param eps: (N,), pixels in [0, 1].
        :param steps: Number of steps.
        :param eps_step: (N,), of each step.
        :param decay: Of the momentum (MI-FGSM); 0 takes each gradient as it is.
        :param random_start: Start anywhere within eps instead of at the clean image.
        :param seed: (2,), of the start.
        :param layer: Number of the attacked layer; None attacks the prediction.
        """
        import tensorflow as tf

        if layer not in self._compiled:
            self._compiled[layer] = tf.function(self._loop(layer), reduce_retracing=True)
        floats = [tf.constant(value, tf.float32) for value in (clean, eps, eps_step, decay, float(random_start))]
        return self._compiled[layer](*floats, tf.constant(steps), tf.constant(seed, tf.int32)).numpy()

    def _loop(self, layer: int | None) -> Any:
        import tensorflow as tf

        from art_versatile.attacks.ascent import ascend, random_start

        network = self._model if layer is None else self._parts[layer]

        def loop(
            clean: tf.Tensor,
            eps: tf.Tensor,
            eps_step: tf.Tensor,
            decay: tf.Tensor,
            started: tf.Tensor,
            steps: tf.Tensor,
            seed: tf.Tensor,
        ) -> tf.Tensor:
            answer = tf.cast(network(clean, training=False), tf.float32)
            wanted = tf.argmax(answer, axis=-1)

            def objective(image: tf.Tensor) -> tf.Tensor:
                now = tf.cast(network(image, training=False), tf.float32)
                if layer is None:
                    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, now))
                distance = tf.reduce_sum(tf.square(now - answer), axis=[1, 2, 3])
                return tf.reduce_sum(tf.math.log(distance + 1e-6))

            start = clean + started * (random_start(clean, eps, seed) - clean)
            return ascend(objective, start, clean, eps, eps_step, steps, decay=decay)

        return loop
