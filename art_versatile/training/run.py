"""One training run: pairs -> a purifier's weights, with checkpoints, a log, curves and the best generator."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import tensorflow as tf

from art_versatile._checks import check_bool, check_choice, check_integer
from art_versatile.pairs.batches import Pairs, check_crop
from art_versatile.pix2pix import Pix2Pix
from art_versatile.pix2pix.distillation import Distillation
from art_versatile.pix2pix.generators import bare_in_training, padded_sides
from art_versatile.pix2pix.model import InnerSource
from art_versatile.pix2pix.perceptual import PerceptualLoss, RandomPerceptualLoss
from art_versatile.pix2pix.precision import POLICIES, set_precision
from art_versatile.training.batches import endless_batches, examples
from art_versatile.training.folder import RunFolder
from art_versatile.training.inner import InnerAttack
from art_versatile.training.monitor import Monitor, Progress, Validation, purifying
from art_versatile.training.presets import Preset, find_preset, new_discriminator, new_generator, perceptual_loss
from art_versatile.training.watch import ACCURACY_AT_EPS, PGD_ACCURACY, Watch

__all__ = ["PreparedTraining", "Training", "TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """
    A finished run.

    :param generator: The running average of the last epoch; of the best one where ``overfitted``.
    :param history: One dictionary an epoch: losses, accuracies, learning rate.
    :param seconds: Of this call.
    :param parameters: What was trained how; JSON-able.
    :param overfitted: Whether it stopped for catastrophic overfitting, and went back.
    """

    generator: keras.Model
    history: list[dict[str, float]]
    seconds: float
    parameters: dict[str, Any]
    overfitted: bool = False


@dataclass(frozen=True)
class Training:
    """
    Settings of a training run (paper, section 3.2): :meth:`prepare` checks and builds all, before there are pairs, and
    what it answers trains. :func:`train` is all of it in one call.

    :param preset: "paper", "compact", or a :class:`~art_versatile.training.Preset`.
    :param perceptual: The perceptual loss, where the preset's features are "classifier", or in their place.
    :param generator: A generator to train further; None builds the preset's. It is changed.
    :param inner: What makes the adversarial images inside the step, from the clean half of the pairs:
        :class:`~art_versatile.training.inner.InnerAttack` (through the purifier as it is then) or
        :class:`~art_versatile.training.inner.GaussianNoise`; None takes those of the pairs.
    :param distillation: Keeps the answers of an older generator on the pairs of some attacks.
    :param optimizer: The generator's, in place of the Adam and the running average (``ema``) that the preset states:
        its own ``use_ema`` and ``ema_momentum`` count.
    :param validation: Held pairs; their accuracy is logged.
    :param watch: Held images that are attacked through the purifier as it is then: their accuracy is logged, and the
        run stops and goes back to its best weights at catastrophic overfitting. Not on several workers.
    :param monitor: What the best generator is best in, a key of the logs; None takes ``val_pgd_accuracy`` with
        ``watch``, else ``val_recovered_accuracy``. Used with ``watch`` or ``validation``.
    :param patience: Stop after so many measurements without a better one; None never stops.
    :param steps_per_epoch: Length of an epoch, which is what the schedule counts and what a checkpoint follows; None is
        one pass over the pairs, whose last batch is filled with its first ones.
    :param precision: "float32", "mixed_bfloat16" or "mixed_float16", of the two networks' computations; their weights
        are float32.
    :param strategy: A ``tf.distribute`` strategy: ``MirroredStrategy`` and ``MultiWorkerMirroredStrategy`` are tested,
        others are not. What is given besides (perceptual loss, generator, discriminator, optimizer) has to be built in
        its scope.
    :param seed: Of new networks, of the order of the pairs and of their augmentation.
    :param resume: Go on with the run in the folder, whose settings have to be these; none there starts one.
    :param tensorboard: Also write ``tensorboard/`` in the folder; needs the package tensorboard.
    :param verbose: Show a bar with the losses and the time left.
    :param callbacks: Further Keras callbacks. In their ``on_epoch_end`` the logs hold what was measured, and nothing of
        the epoch has been written.
    :raises ValueError: If a setting is not as expected.
    """

    preset: str | Preset = "compact"
    perceptual: PerceptualLoss | RandomPerceptualLoss | None = None
    generator: keras.Model | None = None
    inner: InnerSource | None = None
    distillation: Distillation | None = None
    optimizer: keras.optimizers.Optimizer | None = None
    validation: Validation | None = None
    watch: Watch | None = None
    monitor: str | None = None
    patience: int | None = None
    steps_per_epoch: int | None = None
    precision: str = "float32"
    strategy: tf.distribute.Strategy | None = None
    seed: int = 0
    resume: bool = False
    tensorboard: bool = False
    verbose: bool = True
    callbacks: Sequence[keras.callbacks.Callback] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "preset", find_preset(self.preset))
        check_choice("precision", self.precision, POLICIES)
        for name in ("resume", "tensorboard", "verbose"):
            check_bool(name, getattr(self, name))
        for name in ("patience", "steps_per_epoch"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        check_integer("seed", self.seed, least=0)
        if self.patience is not None and not self.measures:
            raise ValueError("Expected validation pairs or a watch with patience. Received neither.")
        if self.measures and self.monitor is not None:
            # A run that overfits goes back to its best weights: by what says that it does.
            check_choice("monitor", self.monitor, self.measures if self.watch is None else (PGD_ACCURACY,))
        if self.watch is not None and isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise ValueError("Expected one worker with a watch: each would have to go back. Received several.")
        if self.inner is not None and self.inner.level is not None and self.watch is None:
            raise ValueError("Expected a watch with an attack that is raised by what is held. Received none.")
        if self.recipe.batch_size % self.replicas:
            raise ValueError(
                f"Expected batch_size to be a multiple of the {self.replicas} replicas. Received "
                f"{self.recipe.batch_size}."
            )

    @classmethod
    def of(cls, preset: str | Preset = "compact", **settings: Any) -> Training:
        """
        Settings of a run, and fields of its preset to change, in one list.

        :param preset: "paper", "compact", or a :class:`~art_versatile.training.Preset`.
        :param settings: Fields of this class, and of the preset: ``schedule``, ``batch_size``, ``learning_rate``, ...
        :raises ValueError: If one is unknown or not as expected.
        """
        own = {field.name for field in dataclasses.fields(cls)}
        changes = {name: value for name, value in settings.items() if name not in own}
        training = cls(find_preset(preset, **changes), **{n: v for n, v in settings.items() if n in own})
        kept = training.recipe.ema if training.optimizer is None else _average(training.optimizer)
        if changes.get("ema") not in (None, kept):
            raise ValueError(
                f"Expected an optimizer with use_ema=True and ema_momentum={changes['ema']!r} for "
                f"ema={changes['ema']!r}. Received one that keeps ema={kept!r}."
            )
        return training

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured after an epoch, keys of the logs."""
        sources = (self.watch, self.validation)
        return tuple(name for source in sources if source is not None for name in source.measures)

    @property
    def best_in(self) -> str | None:
        """What the best generator is best in; None where nothing is measured."""
        if not self.measures:
            return None
        return self.monitor or (PGD_ACCURACY if self.watch is not None else "val_recovered_accuracy")

    @property
    def replicas(self) -> int:
        """Devices over which a batch is spread."""
        return (self.strategy or tf.distribute.get_strategy()).num_replicas_in_sync

    def prepare(self, image_shape: tuple[int, int, int], out: str | Path | None = None) -> PreparedTraining:
        """
        Check all that can be wrong and build the networks, before there are pairs: attacks take hours.

        :param image_shape: (H, W, C) of the pairs.
        :param out: Folder of the run; None writes nothing.
        :raises ValueError: If the networks do not take such images, or a folder or a perceptual loss is missing. Here
            nothing is written in any case.
        :raises FileExistsError: If ``out`` holds a run and ``resume`` is False.
        """
        if (self.tensorboard or self.resume) and out is None:
            raise ValueError("Expected out, a folder, with tensorboard or resume. Received None.")
        if out is not None and self.generator is not None and not hasattr(self.generator, "architecture"):
            raise ValueError(
                "Expected a generator made by build_generator with out: others cannot be written as weights and card. "
                f"Received {self.generator.name!r}."
            )
        folder = RunFolder(
            out,
            resume=self.resume,
            monitor=self.best_in,
            patience=self.patience,
            drop=None if self.watch is None else self.watch.drop,
            tensorboard=self.tensorboard,
        )
        with (self.strategy or tf.distribute.get_strategy()).scope():
            perceptual = self.perceptual or perceptual_loss(self.recipe)
            generator = new_generator(self.recipe, self.seed) if self.generator is None else self.generator
            sides = _sides(generator, image_shape, self.recipe)
            discriminator = new_discriminator(self.recipe, self.seed)
            if perceptual is not None:
                _check_features(perceptual, sides)
        return PreparedTraining(self, folder, image_shape, generator, discriminator, perceptual)

    @property
    def recipe(self) -> Preset:
        """The preset itself, also where its name was given."""
        return cast(Preset, self.preset)


def train(
    pairs: Pairs,
    out: str | Path | None = None,
    *,
    preset: str | Preset = "compact",
    card: dict[str, Any] | None = None,
    **settings: Any,
) -> TrainingResult:
    """
    Train a generator on (adversarial, clean) pairs (paper, section 3.2).

    With ``out``, the folder holds after each epoch: ``last/`` and ``best/`` (weights and card, for
    :meth:`VersatilePurifier.from_pretrained`), ``log.csv``, ``curves.png``, ``panel.png`` and ``checkpoints/``. A run
    that was killed at any moment goes on with ``resume=True`` from its last whole epoch and reaches the same weights
    as one that was not, on the same machine; on a GPU only with ``tf.config.experimental.enable_op_determinism()``.
    With a loss that is not finite it stops, the last checkpoint kept.

    Of several workers (``MultiWorkerMirroredStrategy``) each makes this call, with the same arguments; ``out`` is on a
    file system that all of them see, and the chief alone writes there.

    :param pairs: A pair store, or pairs in memory. Whole images are mirrored at their far edges up to a size that the
        generator takes, as the purifier does.
    :param out: Folder; None writes nothing.
    :param preset: "paper", "compact", or a :class:`~art_versatile.training.Preset`.
    :param card: Further facts for the cards; JSON-able.
    :param settings: Fields of :class:`Training` (``perceptual``, ``validation``, ``resume``, ...), and fields of the
        preset to change (``schedule``, ``batch_size``, ``learning_rate``, ...).
    :return: The generator with its history.
    :raises ValueError: If a setting is not as expected; nothing has been written then.
    :raises FileExistsError: If ``out`` holds a run and ``resume`` is False.
    :raises FloatingPointError: If a loss or a weight was not finite.
    """
    return Training.of(preset, **settings).prepare(pairs.image_shape, out).run(pairs, card=card)


@dataclass(frozen=True)
class PreparedTraining:
    """
    A run whose settings are checked and whose networks are built; :meth:`Training.prepare` makes it, for one run.

    :param settings: The settings.
    :param folder: The folder of the run.
    :param image_shape: (H, W, C) of the pairs.
    :param generator: The generator.
    :param discriminator: The discriminator; None trains without.
    :param perceptual: The perceptual loss; None trains without.
    """

    settings: Training
    folder: RunFolder
    image_shape: tuple[int, int, int]
    generator: keras.Model
    discriminator: keras.Model | None
    perceptual: PerceptualLoss | RandomPerceptualLoss | None

    def run(self, pairs: Pairs, *, card: dict[str, Any] | None = None) -> TrainingResult:
        """
        Train.

        :param pairs: A pair store, or pairs in memory, of the size that was prepared for.
        :param card: Further facts for the cards; JSON-able.
        :raises ValueError: If the pairs are of another size, or too few; nothing has been written then.
        :raises FloatingPointError: If a loss or a weight was not finite.
        """
        settings, preset, folder = self.settings, self.settings.recipe, self.folder
        if pairs.image_shape != self.image_shape:
            raise ValueError(f"Expected pairs of {self.image_shape}. Received {pairs.image_shape}.")
        start = time.perf_counter()
        strategy = settings.strategy or tf.distribute.get_strategy()
        per_pass = -(-len(pairs) // preset.batch_size)
        # Replicas need equal shares, or the mean of their losses is not that of the batch.
        if len(pairs) < preset.batch_size and settings.replicas > 1:
            raise ValueError(f"Expected at least one batch of {preset.batch_size}. Received {len(pairs)} pairs.")
        steps, epochs = settings.steps_per_epoch or per_pass, preset.schedule.epochs
        try:
            with strategy.scope():
                model = self._compiled(epochs * steps)
            parameters = _parameters(settings, pairs, model, steps)
            facts = {"training": parameters, **(card or {})}
            chief = bool(strategy.extended.should_checkpoint)  # of several workers, one writes
            done = folder.restore(_variables(model), parameters, write=chief)
            passes, skipped = divmod(done * steps, per_pass)
            data = endless_batches(
                pairs,
                preset,
                self.generator,
                seed=settings.seed,
                first_epoch=passes,
                marked=None if settings.distillation is None else settings.distillation.names,
            )
            if done < epochs and not folder.patience_is_over and not folder.overfitted:
                with (
                    Progress(steps, shown=settings.verbose and chief) as bar,
                    bare_in_training(self.generator, strength=settings.inner is not None),
                ):
                    model.fit(
                        data.skip(skipped) if skipped else data,
                        epochs=epochs,
                        initial_epoch=done,
                        steps_per_epoch=steps,
                        callbacks=[*self._callbacks(model, pairs, facts, chief), bar],
                        shuffle=False,  # the dataset shuffles itself
                        verbose=0,
                    )
            if folder.overfitted:
                final = folder.best_weights()
            else:
                with model.averaged() as averaged:
                    final = averaged.get_weights()
            self.generator.set_weights(final)
        finally:
            for network in (self.generator, self.discriminator):
                if network is not None:
                    set_precision(network, "float32")
        seconds = time.perf_counter() - start
        return TrainingResult(self.generator, folder.history, seconds, parameters, folder.overfitted)

    def _compiled(self, steps: int) -> Pix2Pix:
        """The model, for so many steps."""
        preset, optimizer = self.settings.recipe, self.settings.optimizer
        inner = self.settings.inner
        steps *= 1 if inner is None else inner.replay
        model = Pix2Pix(
            self.generator,
            self.discriminator,
            self.perceptual,
            schedule=preset.schedule,
            clip_norm=preset.clip_norm,
            real_label=preset.real_label,
            r1=preset.r1,
            inner=inner,
            inner_steps=steps,
            distillation=self.settings.distillation,
            seed=self.settings.seed,
        )
        rate: Any = preset.learning_rate
        if preset.decay == "cosine":
            warmup = min(preset.warmup, steps // 10)
            start, rise = (0.0, {"warmup_target": rate, "warmup_steps": warmup}) if warmup else (rate, {})
            rate = keras.optimizers.schedules.CosineDecay(start, steps - warmup, alpha=0.02, **rise)
        if optimizer is None:
            average = {}
            if preset.ema is not None:
                # Longer than a tenth of the run, it would hold weights from before anything was learnt.
                average = {"use_ema": True, "ema_momentum": min(preset.ema, max(0.0, 1 - 10 / steps))}
            optimizer = keras.optimizers.Adam(rate, beta_1=preset.beta_1, **average)
        for network in (self.generator, self.discriminator):
            if network is not None:
                set_precision(network, self.settings.precision)  # compile looks at it
        model.compile(optimizer, keras.optimizers.Adam(rate, beta_1=preset.beta_1))
        return model

    def _callbacks(self, model: Pix2Pix, pairs: Pairs, card: dict[str, Any], chief: bool) -> list[Any]:
        """What measures, what the user gave, what writes."""
        validation, held = self.settings.validation, None
        measures: list[Any] = []
        if validation is not None and chief:
            held = validation.load()
            measure, purify = validation.measurement(held), purifying(self.generator)

            def measured() -> dict[str, float]:
                with model.averaged():
                    return measure(purify)

            measures.append((measured, validation.every))
        if self.settings.watch is not None:
            measures.append((self._watched(model, self.settings.watch), self.settings.watch.every))
        shown = None if self.folder.path is None else examples(held, pairs)
        driver = self.folder.callback(model.averaged, card=card, examples=shown)
        return [Monitor(*measures), *self.settings.callbacks, driver]

    def _watched(self, model: Pix2Pix, watch: Watch) -> Callable[[], dict[str, float]]:
        """What attacks the held images, and raises the budget of the inner attack where enough of them hold."""
        measure, inner = watch.measuring(self.generator), self.settings.inner
        level = model.inner_level

        def measured() -> dict[str, float]:
            with model.averaged():
                if not isinstance(inner, InnerAttack) or level is None:
                    return measure(None)
                found = measure(inner.eps * float(level.numpy()))
            level.assign(inner.raised(float(level.numpy()), found[ACCURACY_AT_EPS]))
            return found

        return measured


def _average(optimizer: Any) -> float | None:
    """Momentum of the running average that an optimizer keeps; None for none."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner.ema_momentum if inner.use_ema else None


def _sides(generator: keras.Model, image_shape: tuple[int, int, int], preset: Preset) -> tuple[int, int]:
    """Height and width of what the networks are given."""
    height, width, channels = image_shape
    multiple = int(getattr(generator, "size_multiple", 1))
    sides = check_crop(preset.crop, image_shape)
    if preset.crop is None:
        sides = padded_sides(generator, height, width)
    if isinstance(preset.discriminator, int) and min(sides) < 24:
        raise ValueError(f"Expected at least 24x24 pixels for a PatchGAN. Received {sides[0]}x{sides[1]}.")
    if channels != 3 or any(side % multiple for side in sides):
        raise ValueError(
            f"Expected RGB images, or crops of them in multiples of {multiple} pixels for {generator.name}. Received "
            f"crop={preset.crop} of images {height}x{width}x{channels}."
        )
    return sides


def _check_features(perceptual: PerceptualLoss | RandomPerceptualLoss, sides: tuple[int, int]) -> None:
    """Whether the perceptual loss takes what it will be given."""
    try:
        perceptual.features(tf.zeros((1, *sides, 3)))
    except (ValueError, TypeError, tf.errors.OpError) as err:
        raise ValueError(
            f"Expected a perceptual loss that takes {sides[0]}x{sides[1]} pixels. Received {perceptual!r}: {err}"
        ) from err


def _variables(model: Pix2Pix) -> list[Any]:
    """All that training changes: networks, optimizers with their averages, seeds."""
    parts = [model.generator, model.discriminator, model.optimizer, model.discriminator_optimizer, model.perceptual]
    found = [variable for part in parts for variable in getattr(part, "variables", [])]
    return found if model.inner_level is None else [*found, model.inner_level]


def _parameters(settings: Training, pairs: Pairs, model: Pix2Pix, steps: int) -> dict[str, Any]:
    """What is trained how, JSON-able: a run that goes on has to have the same."""
    preset, optimizer = settings.recipe, settings.optimizer
    fields = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    if isinstance(preset.discriminator, keras.Model):
        fields["discriminator"] = {"parameters": preset.discriminator.count_params()}
    fields["schedule"] = [dataclasses.astuple(stage) for stage in preset.schedule.stages]
    fields["features_options"] = {
        key: Path(str(value)).name if key == "weights" else str(value)  # no folder of this machine
        for key, value in preset.features_options.items()
    }
    generator = model.generator  # of the preset, or another
    known = hasattr(generator, "architecture")
    fields["architecture"] = generator.architecture if known else generator.name
    fields["generator_options"] = generator.get_config() if known else {}
    if optimizer is not None:
        # What the preset says of Adam is the discriminator's alone.
        adam = {name: fields.pop(name) for name in ("learning_rate", "decay", "warmup", "beta_1")}
        fields["discriminator_optimizer"] = None if model.discriminator is None else adam
        fields["ema"] = _average(optimizer)
    fields["ema_momentum"] = _average(model.optimizer)  # the run may be too short for the preset's
    parameters = {
        **fields,
        "perceptual": None if model.perceptual is None else repr(model.perceptual),
        "inner": None if settings.inner is None else settings.inner.identity,
        "watch": None if settings.watch is None else settings.watch.identity,
        "distillation": None if settings.distillation is None else settings.distillation.identity,
        "pairs": len(pairs),
        "steps_per_epoch": steps,
        "precision": settings.precision,
        "seed": settings.seed,
        "optimizer": None if optimizer is None else keras.optimizers.serialize(optimizer),
        **pairs.identity,
    }
    return json.loads(json.dumps(parameters, default=str))
