"""VersatileTrainer: the ART trainer that makes a purifier for a classifier."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from art.attacks import EvasionAttack
from art.defences.trainer import Trainer
from art.utils import check_and_transform_label_format, is_probability
from tqdm.auto import tqdm

from art_versatile import training
from art_versatile._checks import check_batch_size, check_choice, check_images, check_integer
from art_versatile.attacks.adaptive import check_pixels, defend, one_range
from art_versatile.attacks.seeding import isolated_seed
from art_versatile.attacks.suite import paper_attacks
from art_versatile.pairs.memory import ArrayPairs
from art_versatile.pairs.store import PairArrays
from art_versatile.pix2pix.generators import mirrored_up, padded_sides
from art_versatile.pix2pix.perceptual import PerceptualLoss
from art_versatile.pix2pix.presets import PRESETS, Preset
from art_versatile.pix2pix.schedule import LossSchedule
from art_versatile.purifier import VersatilePurifier

if TYPE_CHECKING:
    from art.data_generators import DataGenerator

__all__ = ["VersatileTrainer", "defend"]

logger = logging.getLogger(__name__)


class VersatileTrainer(Trainer):
    """
    Train one purifier against several attacks, for a classifier that stays as it is.

    :meth:`fit` attacks the classifier with each ART attack object, and trains the purifier to bring the clean images
    back. The caller's arrays, attacks and classifier are left unchanged: :meth:`get_classifier` answers a defended copy
    that shares the classifier's model.

    | Paper: "Versatile Defense Against Adversarial Attacks on Image Recognition", Zhang, Yao and Sakurai, section 3.

    :param classifier: An ART classifier of images with ``clip_values``.
    :param attacks: An untargeted ART evasion attack, several, or a mapping of names to them; None takes
        :func:`art_versatile.paper_attacks` with eps 16/255 and eps_step 0.01 of the range of the pixels.
    :param purifier: The purifier to train further, as ``VersatilePurifier()``, the one that ships; None makes a new one
        around the preset's generator.
    :param preset: "compact", "paper" (U-Net-256, VGG19, the paper's schedule), or a
        :class:`~art_versatile.pix2pix.presets.Preset`: what the parameters below and those of :meth:`fit` leave open.
        Its crops and mirror images are not taken: they would move a perturbation off the classifier's grid. "paper"
        downloads VGG19's weights in :meth:`fit`, unless ``perceptual`` is given.
    :param schedule: Weights of the pixel and the perceptual loss by epoch; None takes the preset's.
    :param perceptual: The perceptual loss. "preset" takes what the preset names. "classifier" takes the features that
        the classifier itself computes, where its model is a Keras model, and trains without a perceptual loss (a
        warning says so) where it is not; None trains without.
    :param discriminator: Pix2pix's discriminator, :func:`art_versatile.pix2pix.patchgan`; "preset" takes the preset's,
        None trains without the adversarial loss.
    :param optimizer: The generator's optimizer; None takes the preset's Adam.
    :param split: "one_per_image" gives each image to one attack, in turn (the paper's way); "every" gives every image
        to every attack.
    :param seed: Seed of the new generator, of the random attacks and of the order of the images.
    :param verbose: Show progress.
    :raises ValueError: If a parameter is not as expected, or an attack is targeted.
    """

    def __init__(
        self,
        classifier: Any,
        attacks: EvasionAttack | Sequence[EvasionAttack] | Mapping[str, EvasionAttack] | None = None,
        purifier: VersatilePurifier | None = None,
        *,
        preset: str | Preset = "compact",
        schedule: LossSchedule | None = None,
        perceptual: PerceptualLoss | str | None = "preset",
        discriminator: keras.Model | str | None = "preset",
        optimizer: keras.optimizers.Optimizer | None = None,
        split: str = "one_per_image",
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        super().__init__(classifier)
        if not isinstance(preset, Preset):
            preset = PRESETS[check_choice("preset", preset, tuple(PRESETS))]
        self.preset = preset
        self.schedule = preset.schedule if schedule is None else schedule
        if isinstance(discriminator, str) and discriminator == "preset":
            discriminator = training.new_discriminator(preset, seed)  # once: it goes on from one fit to the next
        self.discriminator = discriminator
        self.perceptual, self.split, self.seed, self.verbose = perceptual, split, seed, verbose
        self.optimizer = optimizer
        if getattr(classifier, "clip_values", None) is None:
            raise ValueError("Expected an ART classifier with clip_values. Received one without.")
        self._clip_values = low, high = one_range(classifier.clip_values)
        if attacks is None:
            attacks = paper_attacks(classifier, 16 / 255 * (high - low), eps_step=0.01 * (high - low))
        elif isinstance(attacks, EvasionAttack):
            attacks = [attacks]
        if not isinstance(attacks, Mapping):
            attacks = {f"{i} {type(attack).__name__}": attack for i, attack in enumerate(attacks)}
        self.attacks = dict(attacks)
        self._fitted = purifier is not None
        self.purifier = purifier or VersatilePurifier(
            training.new_generator(preset, seed),
            clip_values=self._clip_values,
            channels_first=bool(getattr(classifier, "channels_first", False)),
        )
        self._check_params()

    def _check_params(self) -> None:
        if not self.attacks:
            raise ValueError("Expected at least one attack. Received none.")
        for name, attack in self.attacks.items():
            if not isinstance(attack, EvasionAttack):
                raise TypeError(f"Expected ART evasion attacks. Received {type(attack).__name__} as {name!r}.")
            if getattr(attack, "targeted", False):
                raise ValueError(f"Expected untargeted attacks. Received the targeted attack {name!r}.")
        if not isinstance(self.schedule, LossSchedule):
            raise TypeError(f"Expected schedule to be a LossSchedule. Received {self.schedule!r}.")
        if not isinstance(self.perceptual, PerceptualLoss) and self.perceptual not in ("preset", "classifier", None):
            raise ValueError(
                "Expected perceptual to be a PerceptualLoss, 'preset', 'classifier' or None. Received "
                f"{self.perceptual!r}."
            )
        if self.discriminator is not None and not isinstance(self.discriminator, keras.Model):
            raise ValueError(
                f"Expected discriminator to be a network, 'preset' or None. Received {self.discriminator!r}."
            )
        check_choice("split", self.split, ("one_per_image", "every"))
        check_pixels(self._classifier, self.purifier)

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray | None = None,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        *,
        out: str | Path | None = None,
        resume: bool = False,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        verbose: bool | int | None = None,
        **changes: Any,
    ) -> keras.callbacks.History:
        """
        Attack the classifier, then train the purifier on the pairs: whole images, mirrored at their far edges up to a
        size that the generator takes, as the purifier does.

        :param x: Clean images in the classifier's ``clip_values``, (N, H, W, 3), or (N, 3, H, W) for a classifier with
            channels first.
        :param y: Labels for the attacks, class indices (N,) or one-hot (N, classes); None takes the classifier's own
            predictions, which leak no label.
        :param batch_size: Images a step; None takes the preset's.
        :param nb_epochs: Passes over the pairs; None takes the length of the schedule, which is by epoch and is not
            stretched to another number: see :meth:`LossSchedule.scaled_to`.
        :param out: Folder for weights, log, curves and checkpoints; see :func:`art_versatile.training.train`.
        :param resume: Go on with the run in ``out``. The attacks are made anew.
        :param validation_data: Held images and their right labels, as ``x`` and ``y``: they are attacked too, and the
            accuracy behind the purifier is measured after each epoch.
        :param verbose: Show progress; None as the trainer does.
        :param changes: Passed to :func:`art_versatile.training.train`: ``callbacks``, ``precision``, ``patience``,
            fields of a preset as ``ema`` or ``flip``, ...
        :return: The mean of each named loss in each epoch, and what was measured, as Keras gives it.
        :raises ValueError: If the images or the numbers are not as expected; nothing has been trained then.
        """
        batch_size = check_batch_size(self.preset.batch_size if batch_size is None else batch_size)
        nb_epochs = check_integer("nb_epochs", self.schedule.epochs if nb_epochs is None else nb_epochs)
        verbose = self.verbose if verbose is None else bool(verbose)
        x, y = self._check_data(x, y)
        preset = self._preset(batch_size, nb_epochs)
        names, validation = tuple(self.attacks), None
        if validation_data is not None:
            held_x, held_y = self._check_data(*validation_data)
            if held_y is None:
                raise ValueError("Expected right labels with the validation images. Received None.")
            classify = functools.partial(self._classify, sides=self._sides(held_x))
            validation = training.Validation(self._blank_pairs(), names, classify)
        arguments: dict[str, Any] = {
            "preset": preset,
            "perceptual": self._perceptual_loss(x),
            "generator": self.purifier.generator,
            "optimizer": self.optimizer,
            "seed": self.seed,
            "resume": resume,
            "progress": verbose,
        }
        # All that can be wrong is looked at before images are attacked.
        sides = padded_sides(self.purifier.generator, *self._sides(x))
        training.check_arguments((*sides, 3), out, validation=validation, **arguments, **changes)
        if validation is not None:
            validation = dataclasses.replace(validation, pairs=self._pairs(held_x, held_y, verbose))
        pairs = ArrayPairs(*self._pairs(x, y, verbose)[:4], names)
        result = training.train(pairs, out, validation=validation, **arguments, **changes)
        self._fitted = True
        # Facts and figures on the card were those of the weights before.
        before, card = self.purifier.card, {"training": result.parameters}
        if "weights" in before:
            card["initial_weights"] = {"sha256": before["weights"]["sha256"]}
        card |= {key: before[key] for key in ("initial_weights", "license") if key in before and key not in card}
        self.purifier.card = card
        history = keras.callbacks.History()
        history.epoch = [int(row["epoch"]) for row in result.history]
        for row in result.history:
            for key, value in row.items():
                if key not in ("epoch", "learning_rate"):
                    history.history.setdefault(key, []).append(value)
        return history

    def fit_generator(
        self, generator: DataGenerator, nb_epochs: int | None = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """
        :meth:`fit` on one pass of an ART data generator; its images are held in memory.

        :param generator: Yields batches of images, or of images and labels; its ``size`` is known.
        :param nb_epochs: Passes over the pairs; None takes the length of the schedule.
        :param kwargs: Passed to :meth:`fit`.
        :raises ValueError: If the generator has no size.
        """
        if getattr(generator, "size", None) is None:
            raise ValueError("Expected a data generator with a size. Received one without.")
        images: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        while sum(map(len, images)) < generator.size:
            try:
                batch = generator.get_batch()
            except StopIteration:  # a dataset that does not repeat
                break
            batch_x, *batch_y = batch if isinstance(batch, tuple) else (batch,)
            images.append(np.asarray(batch_x))
            labels += [np.asarray(batch_y[0])] if batch_y and batch_y[0] is not None else []
        if not images:
            raise ValueError("Expected a data generator with images. Received one that yields none.")
        size = generator.size
        y = np.concatenate(labels)[:size] if len(labels) == len(images) else None
        kwargs.setdefault("batch_size", generator.batch_size)
        return self.fit(np.concatenate(images)[:size], y, nb_epochs=nb_epochs, **kwargs)

    def get_classifier(self) -> Any:
        """
        The defended classifier: a copy of the caller's that shares its model and has the purifier in front of its own
        defences.

        :raises ValueError: Before :meth:`fit`, where the purifier was not given.
        """
        if not self._fitted:
            raise ValueError("Expected a fitted purifier: call fit first. Received a new one.")
        return defend(self._classifier, self.purifier)

    def predict(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """
        Predictions of the defended classifier.

        :param x: Images as in :meth:`fit`.
        :param kwargs: Passed to the classifier's ``predict``.
        """
        return self.get_classifier().predict(x, **kwargs)

    def _check_data(self, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Images and labels that can be attacked."""
        x = check_images(x, self.purifier.clip_values, channels_first=self.purifier.channels_first)
        if self.split == "one_per_image" and len(x) < len(self.attacks):
            raise ValueError(f"Expected at least one image for each of {len(self.attacks)} attacks. Received {len(x)}.")
        if y is not None and len(y) != len(x):
            raise ValueError(f"Expected as many labels as images, {len(x)}. Received {len(y)}.")
        return x.astype(np.float32), y

    def _preset(self, batch_size: int, epochs: int) -> Preset:
        """What :func:`art_versatile.training.train` is to do."""
        generator = self.purifier.generator
        # The smallest perturbation that fools does so no more when it is made smaller.
        minimal = {name for name, attack in self.attacks.items() if not hasattr(attack, "eps")}
        return dataclasses.replace(
            self.preset,
            architecture=getattr(generator, "architecture", generator.name),
            generator_options={},
            discriminator=self.discriminator,
            features=None,  # the perceptual loss is given
            features_options={},
            schedule=self._schedule(epochs),
            batch_size=batch_size,
            crop=None,
            flip=False,
            whole=tuple(name for name in self.attacks if name in minimal or name in self.preset.whole),
        )

    def _sides(self, x: np.ndarray) -> tuple[int, int]:
        """Height and width of images."""
        height, width = x.shape[2:] if self.purifier.channels_first else x.shape[1:3]
        return height, width

    def _schedule(self, epochs: int) -> LossSchedule:
        """The schedule, cut or prolonged to so many epochs."""
        weights = [self.schedule(epoch) for epoch in range(epochs)]
        return LossSchedule((len(list(run)), *pair) for pair, run in itertools.groupby(weights))

    def _pairs(self, x: np.ndarray, y: np.ndarray | None, verbose: bool = False) -> PairArrays:
        """Adversarial and clean images, (M, H, W, 3) in [0, 1], with labels and the numbers of attacks and images."""
        if y is None:  # a batch at a time: ART hands an array to the model whole
            size = self.purifier.batch_size
            labels = np.concatenate(
                [np.argmax(self._classifier.predict(x[i : i + size]), axis=1) for i in range(0, len(x), size)]
            )
        else:
            labels = np.asarray(y)
        one_hot = check_and_transform_label_format(labels, nb_classes=self._classifier.nb_classes)
        order = np.random.default_rng(self.seed).permutation(len(x))
        adversarial, chosen = [], []
        progress = tqdm(self.attacks.items(), desc="attacks", disable=not verbose)
        for place, (name, attack) in enumerate(progress):
            progress.set_postfix_str(name)
            index = order if self.split == "every" else order[place :: len(self.attacks)]
            with isolated_seed(self.seed + place):
                x_adv = attack.generate(x[index].copy(), y=one_hot[index].copy())
            if not np.isfinite(x_adv).all():
                raise ValueError(f"Expected finite adversarial images. Received NaN or infinity from {name!r}.")
            adversarial.append(x_adv)
            chosen.append(index)
        low, high = self.purifier.clip_values
        rows = np.concatenate(chosen)
        pair = [np.concatenate(adversarial), x[rows]]
        if self.purifier.channels_first:
            pair = [np.transpose(images, (0, 2, 3, 1)) for images in pair]
        pair = [np.clip((images - low) / (high - low), 0, 1).astype(np.float32) for images in pair]
        x_adv, clean = (mirrored_up(self.purifier.generator, images).numpy() for images in pair)
        numbers = np.repeat(np.arange(len(chosen)), [len(index) for index in chosen])
        return PairArrays(x_adv, clean, np.argmax(one_hot, axis=1)[rows], numbers, rows)

    def _blank_pairs(self) -> PairArrays:
        """One pair of each attack, to stand for those that are to come."""
        numbers = np.arange(len(self.attacks))
        images = np.zeros((len(numbers), 1, 1, 3), np.float32)
        return PairArrays(images, images, numbers, numbers, numbers)

    def _classify(self, images: np.ndarray, sides: tuple[int, int] | None = None) -> np.ndarray:
        """The undefended classifier's answer to (N, H, W, 3) in [0, 1], or to their part of such sides."""
        low, high = self.purifier.clip_values
        if sides is not None:
            images = images[:, : sides[0], : sides[1]]
        if self.purifier.channels_first:
            images = np.transpose(images, (0, 3, 1, 2))
        return self._classifier.predict((images * (high - low) + low).astype(np.float32))

    def _perceptual_loss(self, x: np.ndarray) -> PerceptualLoss | None:
        if self.perceptual is None or isinstance(self.perceptual, PerceptualLoss):
            return self.perceptual
        options = dict(self.preset.features_options) if self.preset.features == "classifier" else {}
        if self.perceptual == "preset" and self.preset.features != "classifier":
            return None if self.preset.features is None else PerceptualLoss.vgg19(**self.preset.features_options)
        model = getattr(self._classifier, "model", None)
        low, high = self.purifier.clip_values
        if not isinstance(model, keras.Model) or self.purifier.channels_first:
            logger.warning(
                "%s holds no Keras model with channels last: training without a perceptual loss.",
                type(self._classifier).__name__,
            )
            return None
        probabilities = bool(is_probability(self._classifier.predict(x[:1])))
        height, width = self._sides(x)
        # The classifier's own standardisation stands between its pixels and its model.
        standardisation = self._classifier.preprocessing
        mean, std = (0.0, 1.0) if standardisation is None else (standardisation.mean, standardisation.std)

        def to_model(pixels: tf.Tensor) -> tf.Tensor:
            pixels = tf.ensure_shape(pixels[:, :height, :width], (None, height, width, 3))
            return (pixels * (high - low) + low - tf.cast(mean, tf.float32)) / tf.cast(std, tf.float32)

        return PerceptualLoss.of_classifier(model, preprocess=to_model, probabilities=probabilities, **options)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(classifier={type(self._classifier).__name__}, attacks={list(self.attacks)}, "
            f"purifier={self.purifier!r}, schedule={self.schedule!r}, split={self.split!r}, seed={self.seed})"
        )
