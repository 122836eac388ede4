"""VersatileTrainer: the ART trainer that makes a purifier for a classifier."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import keras
import numpy as np
import tensorflow as tf
from art.attacks import EvasionAttack
from art.defences.trainer import Trainer
from art.estimators.classification import KerasClassifier
from art.utils import is_probability

from art_versatile import weights
from art_versatile._checks import check_choice, check_images, check_integer, pixel_range
from art_versatile.attacks.compiled import compile_classifier
from art_versatile.attacks.description import attack_parameters
from art_versatile.attacks.suite import paper_attacks
from art_versatile.defended import check_defendable, check_pixels, defend
from art_versatile.pairs import MemoryPairs, Pairs, attack_in_memory, generate_pairs
from art_versatile.pairs._sources import Source, attacks_per_image, check_split, find_labels
from art_versatile.pairs.attacking import check_target
from art_versatile.pairs.replay import UpdateSource
from art_versatile.pix2pix.perceptual import PerceptualLoss
from art_versatile.pix2pix.schedule import LossSchedule
from art_versatile.purifier import VersatilePurifier
from art_versatile.training import Preset, Training, Validation, new_discriminator, new_generator, perceptual_loss
from art_versatile.training.inner import INNER, GaussianNoise, InnerAttack, inner_source
from art_versatile.training.presets import find_preset
from art_versatile.training.updating import UpdateResult, prepare_update

if TYPE_CHECKING:
    from art.data_generators import DataGenerator

__all__ = ["PAIRS_IN_MEMORY", "UPDATE_LEARNING_RATE", "VersatileTrainer", "defend"]

PAIRS_IN_MEMORY = 2 * 2**30
"""Bytes of pairs, in float32, that :meth:`VersatileTrainer.fit` and its ``update`` hold in memory at most."""

# What fit takes besides.
_SETTINGS = (
    "callbacks", "precision", "patience", "monitor", "watch", "steps_per_epoch", "strategy", "tensorboard",
    "learning_rate", "decay", "warmup", "beta_1", "clip_norm", "ema", "scale", "clean_share",
)  # fmt: skip

Attacks: TypeAlias = "EvasionAttack | Sequence[EvasionAttack] | Mapping[str, EvasionAttack]"
"""An attack, several, or names and attacks."""

UPDATE_LEARNING_RATE = 2e-4
"""Of :meth:`VersatileTrainer.update`: the purifier has learnt already."""

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
        :func:`art_versatile.paper_attacks` with eps 16/255 and eps_step 0.01 of the range of the pixels; they need a
        classifier with logits that has gradients.
    :param purifier: The purifier to train further, as ``VersatilePurifier()``, the one that ships; None makes a new one
        around the preset's generator.
    :param preset: "compact", "paper" (U-Net-256, VGG19, the paper's schedule), or a
        :class:`~art_versatile.training.Preset`: what the parameters below and those of :meth:`fit` leave open.
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
        to every attack; a number, to so many different ones. Within each class the attacks are dealt evenly.
    :param seed: Seed of the new generator, of the random attacks and of the order of the images.
    :param verbose: Show progress.
    :raises ValueError: If a parameter is not as expected, or an attack is targeted.
    :raises TypeError: If a parameter is of the wrong type, the classifier is an ``EnsembleClassifier`` or none, or the
        default attacks cannot be built on it.
    """

    def __init__(
        self,
        classifier: Any,
        attacks: Attacks | None = None,
        purifier: VersatilePurifier | None = None,
        *,
        preset: str | Preset = "compact",
        schedule: LossSchedule | None = None,
        perceptual: PerceptualLoss | str | None = "preset",
        discriminator: keras.Model | str | None = "preset",
        optimizer: keras.optimizers.Optimizer | None = None,
        split: str | int = "one_per_image",
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        super().__init__(classifier)
        check_defendable(classifier)
        self.preset = preset = find_preset(preset)
        self.schedule = preset.schedule if schedule is None else schedule
        if isinstance(discriminator, str) and discriminator == "preset":
            discriminator = new_discriminator(preset, seed)  # once: it goes on from one fit to the next
        self.discriminator = discriminator
        self.perceptual, self.split, self.seed, self.verbose = perceptual, split, seed, verbose
        self.optimizer = optimizer
        low, high = pixel_range(classifier)
        self.attacks = _default_attacks(classifier) if attacks is None else _named(attacks)
        self._fitted = purifier is not None
        self.purifier = purifier or VersatilePurifier(
            new_generator(preset, seed),
            clip_values=(low, high),
            channels_first=bool(getattr(classifier, "channels_first", False)),
        )
        self._check_params()

    def _check_params(self) -> None:
        check_target((self._classifier, self.attacks))
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
        self._attacks_per_image = attacks_per_image(check_split(self.split), len(self.attacks))
        check_pixels(self._classifier, self.purifier)

    def fit(
        self,
        x: np.ndarray | Pairs,
        y: np.ndarray | None = None,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        *,
        inner: InnerAttack | GaussianNoise | str | None = None,
        eps: float | None = None,
        sigma: float | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        validation_data: tuple[np.ndarray, np.ndarray] | MemoryPairs | None = None,
        pairs_folder: str | Path | None = None,
        verbose: bool | int | None = None,
        **settings: Any,
    ) -> keras.callbacks.History:
        """
        Attack the classifier, then train the purifier on the pairs: whole images, mirrored at their far edges up to a
        size that the generator takes, as the purifier does. With ``inner`` the attacks are made inside the training
        step, through the purifier as it is then, or noise is; the trainer's own attacks then make validation images at
        most.

        :param x: Clean images in the classifier's ``clip_values``, (N, H, W, 3), or (N, 3, H, W) for a classifier with
            channels first. Or pairs that are there already, in that range: a
            :class:`~art_versatile.pairs.PairStore`, :class:`~art_versatile.pairs.MemoryPairs`, ...; nothing is attacked
            then but the validation images.
        :param y: Labels for the attacks, class indices (N,) or one-hot (N, classes); None takes the classifier's own
            predictions, which leak no label.
        :param batch_size: Images a step; None takes the preset's.
        :param nb_epochs: Passes over the pairs; None takes the length of the schedule. The schedule is stretched to
            another number, its stages in their proportions: the paper's 40, 30 and 30 epochs are 4, 3 and 3 of 10.
        :param inner: "fgsm", "pgd", "free" or "gaussian" (:func:`~art_versatile.training.inner.inner_source`), on this
            classifier, whose model has to be a Keras model with channels last, without defences of its own; or an
            :class:`~art_versatile.training.inner.InnerAttack` or :class:`~art_versatile.training.inner.GaussianNoise`.
            ``x`` is clean images then, and ``y`` is None: the attacks climb away from the classifier's own prediction.
        :param eps: Budget of the attacks of ``inner``, where that is a name; a share of the pixel range. None is 4/255.
        :param sigma: Largest standard deviation of the noise of "gaussian", a share of the pixel range. None is 0.25.
        :param out: Folder for weights, log, curves and checkpoints, as :func:`art_versatile.training.train` fills it.
        :param resume: Go on with the run in ``out``. The attacks are made anew, unless they are in a folder.
        :param validation_data: Held images and their right labels, as ``x`` and ``y``: they are attacked too, and the
            accuracy behind the purifier is measured after each epoch. Or held pairs that are there already.
        :param pairs_folder: Folder of a store for the pairs, which stays; called again on it, the attacks go on where
            they stopped. None holds pairs in memory up to :data:`PAIRS_IN_MEMORY` bytes, and more in a store in a
            temporary folder.
        :param verbose: Show progress; None as the trainer does.
        :param settings: ``callbacks``, ``precision``, ``patience``, ``monitor``, ``watch``, ``steps_per_epoch``,
            ``strategy``, ``tensorboard``, and the fields of a preset that the trainer does not settle itself:
            ``learning_rate``, ``decay``, ``warmup``, ``beta_1``, ``clip_norm``, ``ema``, ``scale``, ``clean_share``.
        :return: The mean of each named loss in each epoch, and what was measured, as Keras gives it.
        :raises ValueError: If the images, the pairs or the numbers are not as expected; nothing has been attacked then.
        """
        if refused := sorted(set(settings) - set(_SETTINGS)):
            raise ValueError(
                f"Expected settings among {list(_SETTINGS)}: networks, losses, optimizer and seed are the trainer's "
                "own, and crops and mirror images are never taken, as they would move a perturbation off the "
                f"classifier's grid. Received {refused}."
            )
        verbose = self.verbose if verbose is None else bool(verbose)
        if inner is not None:
            if isinstance(x, Pairs) or y is not None or pairs_folder is not None:
                raise ValueError("Expected clean images alone with inner. Received pairs, y or pairs_folder.")
            x, _ = self._check_data(x, None, attacked=False)
            x = MemoryPairs(x, x, attacks=("none",), clip_values=self.purifier.clip_values)
        image_shape: tuple[int, int, int]
        if isinstance(x, Pairs):
            image_shape = self._check_pairs(x, y, pairs_folder)
        else:
            x, y = self._check_data(x, y)
            image_shape = cast(tuple[int, int, int], x.shape[1:])
        source = self._inner(inner, image_shape, eps=eps, sigma=sigma)
        training = Training.of(
            self._preset(batch_size, nb_epochs),
            perceptual=self._perceptual_loss(image_shape),
            generator=self.purifier.generator,
            inner=source,
            optimizer=self.optimizer,
            validation=None if validation_data is None else self._validation(validation_data, verbose),
            seed=self.seed,
            resume=resume,
            verbose=verbose,
            **settings,
        )
        prepared = training.prepare(image_shape, out)  # all that can be wrong, before images are attacked
        with self._pairs(x, y, pairs_folder, verbose) as pairs:
            result = prepared.run(pairs)
        self._fitted = True
        self._write_card(result.parameters)
        return _as_history(result.history)

    def update(
        self,
        x: np.ndarray | Pairs,
        attacks: Attacks | None = None,
        y: np.ndarray | None = None,
        batch_size: int | None = None,
        nb_epochs: int = 10,
        *,
        old: Pairs | None = None,
        memory: int = 256,
        distillation: float = 1.0,
        tolerance: float = 0.01,
        validation_data: tuple[np.ndarray, np.ndarray] | MemoryPairs | None = None,
        patience: int | None = 3,
        out: str | Path | None = None,
        resume: bool = False,
        verbose: bool | int | None = None,
        **settings: Any,
    ) -> UpdateResult:
        """
        Teach the purifier new attacks, and keep what it knows of the old ones, which are those of the trainer.

        It goes on from its weights with pairs of the new attacks, while a bounded memory of old pairs is replayed, on
        which its former answers are a second target (``distillation``). Held pairs of both decide: of the epochs in
        which the accuracy on the old pairs and on clean images has not dropped by more than ``tolerance``, the best on
        the new attacks is taken. Where none is better than before, the purifier stays as it is.

        The purifier's card gets an entry of its ``lineage``: the parent's SHA-256, what was added, what it cost, the
        accuracy before and after. The trainer's attacks then include the new ones.

        :param x: Clean images, as in :meth:`fit`: they are attacked with the new attacks, and at most ``memory`` of
            them with the trainer's. Or pairs of the new attacks.
        :param attacks: The new attacks, as the trainer's: an attack, several, or a mapping of other names to them; None
            where ``x`` is pairs.
        :param y: Labels for the attacks; None takes the classifier's own predictions.
        :param batch_size: Images a step; None takes the preset's.
        :param nb_epochs: Passes over new and old pairs; the schedule is scaled to them.
        :param old: Pairs of the old attacks, in their place of those that would be made; where ``x`` is pairs, None
            replays none.
        :param memory: Old pairs held in memory, evenly over their attacks, at most; 0 replays none.
        :param distillation: Weight of the former answers on the old pairs; 0 leaves them out.
        :param tolerance: By how much the accuracy on old held pairs and on clean ones may drop, 0 to 1.
        :param validation_data: Held images with their right labels, which are attacked, or held pairs of the new and
            the old attacks; None holds out a fifth of the images, or of the pairs, and what the attacks were to change
            counts as right.
        :param patience: Stop after so many epochs without a better one; None never stops.
        :param out: Folder of the run, as in :meth:`fit`; its ``best`` is the best by the rule above, whether the update
            is accepted or not. None writes nothing.
        :param resume: Go on with the run in ``out``, which began with the purifier as it is now. The attacks are made
            anew, the same ones.
        :param verbose: Show progress; None as the trainer does.
        :param settings: As in :meth:`fit`, but for ``monitor`` and ``strategy``; ``learning_rate`` is
            :data:`UPDATE_LEARNING_RATE` unless an optimizer was given.
        :return: Whether it was accepted, accuracy before and after, history.
        :raises ValueError: If the images, the pairs, the attacks or the numbers are not as expected, nothing has been
            attacked then; before :meth:`fit`, where the purifier was not given.
        :raises TypeError: If an attack or the pairs are of the wrong type.
        """
        if not self._fitted:
            raise ValueError("Expected a fitted purifier: call fit first. Received a new one.")
        allowed = [name for name in _SETTINGS if name not in ("monitor", "strategy", "patience")]
        if refused := sorted(set(settings) - set(allowed)):
            raise ValueError(f"Expected settings among {allowed}. Received {refused}.")
        verbose = self.verbose if verbose is None else bool(verbose)
        for pairs in (x, old, validation_data):
            if isinstance(pairs, Pairs):
                self._check_pairs(pairs, y if pairs is x else None, None)
        held: Any = validation_data
        if validation_data is not None and not isinstance(validation_data, MemoryPairs):
            held = self._check_data(*validation_data)
        source = UpdateSource(
            self._classifier,
            self.attacks,
            x if isinstance(x, Pairs) else self._check_data(x, y),
            {} if attacks is None else _named(attacks, len(self.attacks)),
            old=old,
            memory=memory,
            held=held,
            split=self.split,
            batch_size=self.purifier.batch_size,
            seed=self.seed,
            verbose=verbose,
        )
        size = 8 * int(np.prod(source.image_shape)) * source.count
        if size > PAIRS_IN_MEMORY:
            raise ValueError(
                f"Expected pairs of at most {PAIRS_IN_MEMORY / 2**30:g} GiB in memory; fit trains on more. Received "
                f"{size / 2**30:.1f} GiB of them."
            )
        if self.optimizer is None:
            settings = {"learning_rate": UPDATE_LEARNING_RATE, **settings}
        preset = self._preset(batch_size, nb_epochs)
        with contextlib.ExitStack() as stack:
            if out is None:
                out = stack.enter_context(tempfile.TemporaryDirectory(prefix="art-versatile-"))
            prepared = prepare_update(
                self.purifier.generator,
                source.image_shape,
                out,
                preset=dataclasses.replace(preset, whole=tuple(dict.fromkeys([*preset.whole, *source.unscaled]))),
                new=source.new_names,
                replayed=source.replayed_names,
                held=source.held_names,
                classify=self._classify,
                distillation=distillation,
                tolerance=tolerance,
                perceptual=self._perceptual_loss(source.image_shape),
                optimizer=self.optimizer,
                patience=patience,
                seed=self.seed,
                resume=resume,
                verbose=verbose,
                **settings,
            )
            parent = weights.sha256(self.purifier.generator, self.purifier.card)
            start = time.perf_counter()
            new, replayed, both = source.make()
            seconds = time.perf_counter() - start
            result = prepared.run(new, replayed, both)
        result = dataclasses.replace(result, lineage=_lineage(parent, source, new, replayed, both, seconds, result))
        if not result.accepted:
            logger.warning("No epoch was better on the new attacks and kept the old ones: the purifier is as it was.")
            return result
        lineage = [*self.purifier.card.get("lineage", []), result.lineage]
        self._write_card(result.parameters)
        self.purifier.card["lineage"] = lineage
        self.attacks |= source.attacks
        self._attacks_per_image = attacks_per_image(self.split, len(self.attacks))
        return result

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
        y = np.concatenate(labels)[: generator.size] if len(labels) == len(images) else None
        kwargs.setdefault("batch_size", generator.batch_size)
        return self.fit(np.concatenate(images)[: generator.size], y, nb_epochs=nb_epochs, **kwargs)

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

    def _check_data(self, x: np.ndarray, y: Any, *, attacked: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        """Images, (N, H, W, 3), enough of them to be attacked, and their labels, (N,)."""
        first = self.purifier.channels_first
        x = check_images(x, self.purifier.clip_values, channels_first=first).astype(np.float32)
        if attacked and len(x) * self._attacks_per_image < len(self.attacks):
            raise ValueError(f"Expected at least one image for each of {len(self.attacks)} attacks. Received {len(x)}.")
        x = np.moveaxis(x, 1, -1) if first else x
        return x, find_labels(y, Source(x), self._classifier.nb_classes)

    def _check_pairs(self, pairs: Pairs, y: Any, pairs_folder: Any) -> tuple[int, int, int]:
        """Whether pairs that are there are of the classifier's pixels; their (H, W, C)."""
        if y is not None or pairs_folder is not None:
            raise ValueError("Expected neither y nor pairs_folder with pairs that are there. Received one.")
        if not np.allclose(pairs.clip_values, self.purifier.clip_values):
            raise ValueError(
                f"Expected pairs in the classifier's clip_values {self.purifier.clip_values}. Received "
                f"{pairs.clip_values}."
            )
        return pairs.image_shape

    def _preset(self, batch_size: int | None, epochs: int | None) -> Preset:
        """The preset with what the trainer settles."""
        generator = self.purifier.generator
        # The smallest perturbation that fools does so no more when it is made smaller.
        minimal = [name for name, attack in self.attacks.items() if not hasattr(attack, "eps")]
        return dataclasses.replace(
            self.preset,
            architecture=getattr(generator, "architecture", generator.name),
            generator_options={},
            discriminator=self.discriminator,
            features=None,  # the perceptual loss is given
            features_options={},
            schedule=self.schedule if epochs is None else self.schedule.scaled_to(check_integer("nb_epochs", epochs)),
            batch_size=self.preset.batch_size if batch_size is None else batch_size,
            crop=None,
            flip=False,
            whole=tuple(dict.fromkeys([*self.preset.whole, *minimal])),
        )

    def _validation(self, held: tuple[np.ndarray, np.ndarray | None] | MemoryPairs, verbose: bool) -> Validation:
        """What measures on held pairs, or on held images, which are attacked when the run begins."""
        if isinstance(held, MemoryPairs):
            self._check_pairs(held, None, None)
            return Validation(held, self._classify)
        x, y = self._check_data(*held)
        if y is None:
            raise ValueError("Expected right labels with the validation images. Received None.")
        return Validation(lambda: self._attacked(x, y, verbose), self._classify, attacks=tuple(self.attacks))

    @contextlib.contextmanager
    def _pairs(
        self, x: np.ndarray | Pairs, y: np.ndarray | None, folder: str | Path | None, verbose: bool
    ) -> Iterator[Pairs]:
        """The pairs to train on: those given, or made in memory, or in a store."""
        if isinstance(x, Pairs):
            yield x
            return
        size = 2 * x.nbytes * self._attacks_per_image
        if folder is None and size <= PAIRS_IN_MEMORY:
            yield self._attacked(x, y, verbose)
            return
        with contextlib.ExitStack() as stack:
            if folder is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="art-versatile-"))
                logger.info("The pairs take %.1f GiB: they go through a store in %s.", size / 2**30, folder)
            options = {**self._options(y, verbose), "dtype": "float32", "n_jobs": 1}
            yield generate_pairs(x, self._classifier, self.attacks, folder, **options)

    def _attacked(self, x: np.ndarray, y: np.ndarray | None, verbose: bool) -> MemoryPairs:
        """Attacked images, (N, H, W, 3), in memory."""
        return attack_in_memory(x, self._classifier, self.attacks, **self._options(y, verbose))

    def _options(self, y: np.ndarray | None, verbose: bool) -> dict[str, Any]:
        """What pairs in memory and in a store are made with alike."""
        return {
            "labels": y, "split": self.split, "batch_size": self.purifier.batch_size, "seed": self.seed,
            "verbose": verbose,
        }  # fmt: skip

    def _classify(self, images: np.ndarray) -> np.ndarray:
        """The undefended classifier's answer to (N, H, W, 3) in [0, 1]."""
        low, high = self.purifier.clip_values
        images = (images * (high - low) + low).astype(np.float32)
        return self._classifier.predict(np.moveaxis(images, -1, 1) if self.purifier.channels_first else images)

    def _inner(
        self, inner: InnerAttack | GaussianNoise | str | None, image_shape: tuple[int, ...], **options: float | None
    ) -> InnerAttack | GaussianNoise | None:
        """What makes attacks or noise inside the step: what was given, or that of a name on this classifier."""
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if inner is not None and not isinstance(inner, InnerAttack | GaussianNoise | str):
            raise TypeError(f"Expected inner to be an InnerAttack, GaussianNoise or a name. Received {inner!r}.")
        if isinstance(inner, str):
            check_choice("inner", inner, INNER)
        taken = {"sigma" if inner == "gaussian" else "eps"} if isinstance(inner, str) else set()
        if others := sorted(set(given) - taken):
            raise ValueError(f"Expected no {' or '.join(others)} with inner={inner!r}. Received {given}.")
        if not isinstance(inner, str):
            return inner
        if inner == "gaussian":
            return inner_source(inner, [], **given)
        model = self._keras_model()
        if model is None or getattr(self._classifier, "preprocessing_defences", None):
            raise ValueError(
                "Expected a classifier with a Keras model, channels last, without defences of its own; else "
                f"InnerAttack([model from pixels in [0, 1] to logits]). Received {type(self._classifier).__name__}."
            )
        return inner_source(inner, [_Logits(model, *self._input_of_model(image_shape))], **given)

    def _keras_model(self) -> keras.Model | None:
        """The classifier's model, where it can be called on (N, H, W, 3)."""
        model = getattr(self._classifier, "model", None)
        return model if isinstance(model, keras.Model) and not self.purifier.channels_first else None

    def _input_of_model(self, image_shape: tuple[int, ...]) -> tuple[Callable[[tf.Tensor], tf.Tensor], bool]:
        """From pixels in [0, 1] to what the classifier's model is given, and whether it answers probabilities."""
        low, high = self.purifier.clip_values
        height, width, _ = image_shape
        noise = np.random.default_rng(0).random((1, height, width, 3), np.float32)
        # The classifier's own standardisation stands between its pixels and its model.
        standardisation = self._classifier.preprocessing
        mean, std = (0.0, 1.0) if standardisation is None else (standardisation.mean, standardisation.std)

        def to_model(pixels: tf.Tensor) -> tf.Tensor:
            pixels = tf.ensure_shape(pixels[:, :height, :width], (None, height, width, 3))
            return (pixels * (high - low) + low - tf.cast(mean, tf.float32)) / tf.cast(std, tf.float32)

        return to_model, bool(is_probability(self._classify(noise)))

    def _perceptual_loss(self, image_shape: tuple[int, ...]) -> PerceptualLoss | None:
        """The loss that was given, or the one of the preset, or of the classifier's own features."""
        if self.perceptual is None or isinstance(self.perceptual, PerceptualLoss):
            return self.perceptual
        preset = self.preset
        if self.perceptual == "classifier" and preset.features != "classifier":
            preset = dataclasses.replace(preset, features="classifier", features_options={})
        if preset.features != "classifier":
            return perceptual_loss(preset)
        model = self._keras_model()
        if model is None:
            logger.warning(
                "%s holds no Keras model with channels last: training without a perceptual loss.",
                type(self._classifier).__name__,
            )
            return None
        to_model, probabilities = self._input_of_model(image_shape)
        return perceptual_loss(preset, model, preprocess=to_model, probabilities=probabilities)

    def _write_card(self, parameters: dict[str, Any]) -> None:
        """The purifier's card: facts and figures on the one before were those of the weights before."""
        before, card = self.purifier.card, {"training": parameters}
        if "weights" in before:
            card["initial_weights"] = {"sha256": before["weights"]["sha256"]}
        card |= {key: before[key] for key in ("initial_weights", "license") if key in before and key not in card}
        self.purifier.card = card

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(classifier={type(self._classifier).__name__}, attacks={list(self.attacks)}, "
            f"purifier={self.purifier!r}, schedule={self.schedule!r}, split={self.split!r}, seed={self.seed})"
        )


class _Logits:
    """A classifier's model as inner attacks call it: pixels in [0, 1], of any size that its cut takes, to logits."""

    def __init__(self, model: keras.Model, to_model: Callable[[tf.Tensor], tf.Tensor], probabilities: bool) -> None:
        self.name = model.name
        self._model, self._to_model, self._probabilities = model, to_model, probabilities

    def __call__(self, pixels: tf.Tensor, training: bool = False) -> tf.Tensor:
        answers = tf.cast(self._model(self._to_model(pixels), training=training), tf.float32)
        return tf.math.log(answers + 1e-6) if self._probabilities else answers


def _named(attacks: Attacks, first: int = 0) -> dict[str, EvasionAttack]:
    """Attacks by name; numbered from ``first`` where they have none."""
    if isinstance(attacks, EvasionAttack):
        attacks = [attacks]
    if isinstance(attacks, Mapping):
        return dict(attacks)
    return {f"{i} {type(attack).__name__}": attack for i, attack in enumerate(attacks, first)}


def _default_attacks(classifier: Any) -> dict[str, EvasionAttack]:
    """The paper's six attacks; on a Keras classifier they run compiled."""
    try:
        return paper_attacks(compile_classifier(classifier) if isinstance(classifier, KerasClassifier) else classifier)
    except (TypeError, ValueError) as err:
        raise TypeError(
            "Expected attacks for this classifier: the paper's six, which None stands for, take a "
            "TensorFlowV2Classifier, KerasClassifier or PyTorchClassifier with logits and three classes or more. "
            f"Received None with {type(classifier).__name__}: {err}"
        ) from err


def _lineage(
    parent: str,
    source: UpdateSource,
    new: MemoryPairs,
    replayed: MemoryPairs | None,
    held: MemoryPairs,
    seconds: float,
    result: UpdateResult,
) -> dict[str, Any]:
    """What a card says of an update; JSON-able."""
    return {
        "parent": {"sha256": parent},
        "added": {name: attack_parameters(source.attacks[name]) if source.attacks else {} for name in source.new_names},
        "replayed": {} if replayed is None else {name: n for name, n in replayed.counts.items() if n},
        "cost": {
            "images": len(new if new.images is None else np.unique(new.images)),
            "new_pairs": len(new),
            "replayed_pairs": 0 if replayed is None else len(replayed),
            "attack_seconds": round(seconds, 1),
            "training_seconds": round(result.seconds, 1),
            "epochs": len(result.history),
        },
        "held": {"pairs": {name: n for name, n in held.counts.items() if n}, "clean_sha256": held.clean_sha256},
        "accuracy": {"before": result.before, "after": result.after},
    }


def _as_history(rows: Sequence[Mapping[str, float]]) -> keras.callbacks.History:
    """A run's history as Keras gives it."""
    history = keras.callbacks.History()
    history.epoch = [int(row["epoch"]) for row in rows]
    for row in rows:
        for key, value in row.items():
            if key not in ("epoch", "learning_rate"):
                history.history.setdefault(key, []).append(value)
    return history
