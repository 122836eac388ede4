"""VersatileTrainer: the ART trainer that makes a purifier for a classifier."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from art.attacks import EvasionAttack
from art.defences.trainer import Trainer
from art.utils import check_and_transform_label_format, is_probability
from tqdm.auto import tqdm

from art_versatile._checks import check_batch_size, check_choice, check_images
from art_versatile.attacks.suite import numpy_seed, paper_attacks
from art_versatile.pix2pix.generators import build_generator
from art_versatile.pix2pix.model import Pix2Pix
from art_versatile.pix2pix.perceptual import PerceptualLoss
from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule
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
        :func:`art_versatile.paper_attacks`.
    :param purifier: The purifier to train further; None makes a new one around the compact generator.
    :param schedule: Weights of the pixel and the perceptual loss by epoch.
    :param perceptual: The perceptual loss. "classifier" takes the features that the classifier itself computes, where
        its model is a Keras model, and trains without a perceptual loss (a warning says so) where it is not; None
        trains without.
    :param discriminator: Pix2pix's discriminator, :func:`art_versatile.pix2pix.patchgan`; None trains without the
        adversarial loss.
    :param optimizer: The generator's optimizer; None takes Adam with learning rate 2e-4 and beta_1 0.5.
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
        schedule: LossSchedule = PAPER_SCHEDULE,
        perceptual: PerceptualLoss | str | None = "classifier",
        discriminator: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        split: str = "one_per_image",
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        super().__init__(classifier)
        self.schedule, self.discriminator, self.optimizer = schedule, discriminator, optimizer
        self.perceptual, self.split, self.seed, self.verbose = perceptual, split, seed, verbose
        if getattr(classifier, "clip_values", None) is None:
            raise ValueError("Expected an ART classifier with clip_values. Received one without.")
        if attacks is None:
            attacks = paper_attacks(classifier)
        elif isinstance(attacks, EvasionAttack):
            attacks = [attacks]
        if not isinstance(attacks, Mapping):
            attacks = {f"{i} {type(attack).__name__}": attack for i, attack in enumerate(attacks)}
        self.attacks = dict(attacks)
        low, high = np.ravel(classifier.clip_values)[:2]
        self._clip_values = (float(low), float(high))
        self._fitted = purifier is not None
        self.purifier = purifier or VersatilePurifier(
            build_generator("compact", seed=seed),
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
        if not isinstance(self.perceptual, PerceptualLoss) and self.perceptual not in ("classifier", None):
            raise ValueError(
                f"Expected perceptual to be a PerceptualLoss, 'classifier' or None. Received {self.perceptual!r}."
            )
        check_choice("split", self.split, ("one_per_image", "every"))
        if not np.allclose(self.purifier.clip_values, self._clip_values):
            raise ValueError(
                f"Expected a purifier with the classifier's clip_values {self._clip_values}. Received "
                f"{self.purifier.clip_values}."
            )
        if self.purifier.channels_first != bool(getattr(self._classifier, "channels_first", False)):
            raise ValueError(
                f"Expected a purifier with the classifier's channels_first. Received {self.purifier.channels_first}."
            )

    def fit(
        self, x: np.ndarray, y: np.ndarray | None = None, batch_size: int = 8, nb_epochs: int = 100, **kwargs: Any
    ) -> keras.callbacks.History:
        """
        Attack the classifier, then train the purifier on the pairs.

        :param x: Clean images in the classifier's ``clip_values``, (N, H, W, 3), or (N, 3, H, W) for a classifier with
            channels first.
        :param y: Labels for the attacks, class indices (N,) or one-hot (N, classes); None takes the classifier's own
            predictions, which leak no label.
        :param batch_size: Images a step.
        :param nb_epochs: Passes over the pairs. The schedule is by epoch and is not stretched to them; see
            :meth:`LossSchedule.scaled_to`.
        :param kwargs: Passed to :meth:`keras.Model.fit`: callbacks, ...
        :return: Keras's history: the mean of each named loss in each epoch.
        :raises ValueError: If the images or the numbers are not as expected; nothing has been trained then.
        """
        x = check_images(x, self.purifier.clip_values, channels_first=self.purifier.channels_first)
        batch_size = check_batch_size(batch_size)
        if isinstance(nb_epochs, bool) or not isinstance(nb_epochs, int | np.integer) or nb_epochs < 1:
            raise ValueError(f"Expected nb_epochs to be an integer of at least 1. Received {nb_epochs!r}.")
        if self.split == "one_per_image" and len(x) < len(self.attacks):
            raise ValueError(f"Expected at least one image for each of {len(self.attacks)} attacks. Received {len(x)}.")
        if y is not None and len(y) != len(x):
            raise ValueError(f"Expected as many labels as images, {len(x)}. Received {len(y)}.")
        height, width = np.delete(x.shape[1:], 0 if self.purifier.channels_first else 2)
        multiple = int(getattr(self.purifier.generator, "size_multiple", 1))
        crop = (height // multiple * multiple, width // multiple * multiple)
        if 0 in crop:
            raise ValueError(
                f"Expected images of at least {multiple}x{multiple} pixels for {self.purifier.generator.name}. "
                f"Received {height}x{width}."
            )
        x_adv, clean = self._pairs(x.astype(np.float32), y)
        perceptual = self._perceptual_loss(clean)
        model = Pix2Pix(self.purifier.generator, self.discriminator, perceptual, schedule=self.schedule)
        model.compile(self.optimizer)
        history = model.fit(
            self._dataset(x_adv, clean, crop, batch_size),
            shuffle=False,  # the dataset shuffles itself
            epochs=int(nb_epochs),
            verbose=kwargs.pop("verbose", 1 if self.verbose else 0),
            **kwargs,
        )
        self._fitted = True
        return history

    def fit_generator(self, generator: DataGenerator, nb_epochs: int = 100, **kwargs: Any) -> keras.callbacks.History:
        """
        :meth:`fit` on one pass of an ART data generator; its images are held in memory.

        :param generator: Yields batches of images, or of images and labels; its ``size`` is known.
        :param nb_epochs: Passes over the pairs.
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

    def _pairs(self, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(adversarial, clean), each (M, H, W, 3) in [0, 1]."""
        if y is None:
            y = np.argmax(self._classifier.predict(x), axis=1)
        y = check_and_transform_label_format(np.asarray(y), nb_classes=self._classifier.nb_classes)
        order = np.random.default_rng(self.seed).permutation(len(x))
        adversarial, chosen = [], []
        progress = tqdm(self.attacks.items(), desc="attacks", disable=not self.verbose)
        for place, (name, attack) in enumerate(progress):
            progress.set_postfix_str(name)
            index = order if self.split == "every" else order[place :: len(self.attacks)]
            with numpy_seed(self.seed + place):
                x_adv = attack.generate(x[index].copy(), y=y[index].copy())
            if not np.isfinite(x_adv).all():
                raise ValueError(f"Expected finite adversarial images. Received NaN or infinity from {name!r}.")
            adversarial.append(x_adv)
            chosen.append(index)
        low, high = self.purifier.clip_values
        pair = (np.concatenate(adversarial), x[np.concatenate(chosen)])
        if self.purifier.channels_first:
            pair = tuple(np.transpose(images, (0, 2, 3, 1)) for images in pair)  # type: ignore[assignment]
        adv, clean = (np.clip((images - low) / (high - low), 0, 1).astype(np.float32) for images in pair)
        return adv, clean

    def _dataset(self, x_adv: np.ndarray, clean: np.ndarray, crop: tuple[int, int], batch_size: int) -> tf.data.Dataset:
        """Batches in random order, cropped where the generator needs it."""
        count, height, width = x_adv.shape[:3]

        def cut(draw: tf.Tensor, pair: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            # Both images of a pair are cut at the same place, another one each time.
            top = tf.random.stateless_uniform((), [draw, 0], 0, height - crop[0] + 1, tf.int32)
            left = tf.random.stateless_uniform((), [draw, 1], 0, width - crop[1] + 1, tf.int32)
            box = (top, left, *crop)
            return tf.image.crop_to_bounding_box(pair[0], *box), tf.image.crop_to_bounding_box(pair[1], *box)

        pairs = tf.data.Dataset.from_tensor_slices((x_adv, clean)).shuffle(count, seed=self.seed)
        if crop != (height, width):
            draws = tf.data.Dataset.random(self.seed, rerandomize_each_iteration=True)
            pairs = tf.data.Dataset.zip(draws, pairs).map(cut)
        return pairs.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def _perceptual_loss(self, clean: np.ndarray) -> PerceptualLoss | None:
        if self.perceptual is None or isinstance(self.perceptual, PerceptualLoss):
            return self.perceptual
        model = getattr(self._classifier, "model", None)
        low, high = self.purifier.clip_values
        if not isinstance(model, keras.Model) or self.purifier.channels_first:
            logger.warning(
                "%s holds no Keras model with channels last: training without a perceptual loss.",
                type(self._classifier).__name__,
            )
            return None
        images = clean[:1] * (high - low) + low
        # The classifier's own standardisation stands between its pixels and its model.
        standardisation = self._classifier.preprocessing
        mean, std = (0.0, 1.0) if standardisation is None else (standardisation.mean, standardisation.std)

        def to_model(pixels: tf.Tensor) -> tf.Tensor:
            return (pixels * (high - low) + low - tf.cast(mean, tf.float32)) / tf.cast(std, tf.float32)

        probabilities = bool(is_probability(self._classifier.predict(images)))
        return PerceptualLoss.of_classifier(model, preprocess=to_model, probabilities=probabilities)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(classifier={type(self._classifier).__name__}, attacks={list(self.attacks)}, "
            f"purifier={self.purifier!r}, schedule={self.schedule!r}, split={self.split!r}, seed={self.seed})"
        )


def defend(classifier: Any, purifier: VersatilePurifier) -> Any:
    """
    A copy of an ART classifier that purifies before its own defences; the two share the model.

    :param classifier: Any ART classifier that takes ``preprocessing_defences``; it stays as it was.
    :param purifier: The purifier.
    """
    defended = copy.copy(classifier)
    # ART refills this list in place: the copy needs its own.
    defended.preprocessing_operations = []
    defended.set_params(preprocessing_defences=[purifier, *(classifier.preprocessing_defences or [])])
    return defended
