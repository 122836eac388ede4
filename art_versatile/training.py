"""The training engine: pairs -> a purifier's weights, with checkpoints, a log, curves and the best generator."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile import weights
from art_versatile._checks import check_batch_size, check_bool, check_choice, check_integer
from art_versatile.pairs.batches import Pairs
from art_versatile.pairs.joined import ChosenPairs, JoinedPairs
from art_versatile.pairs.memory import ArrayPairs
from art_versatile.pairs.store import PairArrays, PairStore
from art_versatile.pix2pix.presets import PRESETS, Preset

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from art_versatile.pix2pix.callbacks import RecoveredAccuracy
    from art_versatile.pix2pix.generators import CompactGenerator, UNet256Generator
    from art_versatile.pix2pix.model import Pix2Pix
    from art_versatile.pix2pix.perceptual import PerceptualLoss

__all__ = [
    "TrainingResult",
    "Validation",
    "check_arguments",
    "check_folder",
    "new_discriminator",
    "new_generator",
    "train",
]

CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"


@dataclass(frozen=True)
class Validation:
    """
    Held pairs on which a run is measured.

    :param pairs: The pairs, in ``clip_values``, with the right labels: class indices.
    :param names: Names of the attacks that ``pairs.attacks`` numbers.
    :param classify: Images (N, H, W, 3) in [0, 1] -> class scores (N, classes).
    :param clip_values: Range of the pixels.
    :param every: Epochs between two measurements.
    :raises ValueError: If the arrays do not belong together, or a number is not as expected.
    :raises TypeError: If the images are not floats.
    """

    pairs: PairArrays
    names: Sequence[str]
    classify: Callable[[np.ndarray], np.ndarray]
    clip_values: tuple[float, float] = (0.0, 1.0)
    every: int = 1

    def __post_init__(self) -> None:
        check_integer("every", self.every)
        ArrayPairs(*self.pairs[:4], self.names, clip_values=self.clip_values)  # for its checks

    def callback(self) -> RecoveredAccuracy:
        """The Keras callback that measures."""
        from art_versatile.pix2pix.callbacks import RecoveredAccuracy

        low, high = self.clip_values
        pairs = self.pairs
        return RecoveredAccuracy(
            self.classify,
            (pairs.adversarial - low) / (high - low),
            (pairs.clean - low) / (high - low),
            pairs.labels,
            {name: np.flatnonzero(pairs.attacks == index) for index, name in enumerate(self.names)},
            every=self.every,
        )


@dataclass(frozen=True)
class TrainingResult:
    """
    A finished run.

    :param generator: The running average of the last epoch.
    :param history: One dictionary an epoch: losses, accuracies, learning rate.
    :param seconds: Of this call.
    :param parameters: What was trained how; JSON-able.
    """

    generator: keras.Model
    history: list[dict[str, float]]
    seconds: float
    parameters: dict[str, Any]


def train(
    pairs: Pairs,
    out: str | Path | None = None,
    *,
    preset: str | Preset = "compact",
    perceptual: PerceptualLoss | None = None,
    generator: keras.Model | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    validation: Validation | None = None,
    monitor: str = "val_recovered_accuracy",
    patience: int | None = None,
    steps_per_epoch: int | None = None,
    precision: str = "float32",
    strategy: tf.distribute.Strategy | None = None,
    seed: int = 0,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    card: dict[str, Any] | None = None,
    **changes: Any,
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

    :param pairs: A pair store, or pairs in memory.
    :param out: Folder; None writes nothing.
    :param preset: "paper", "compact", or a :class:`~art_versatile.pix2pix.presets.Preset`.
    :param perceptual: The perceptual loss, where the preset's features are "classifier", or in their place.
    :param generator: A generator to train further; None builds the preset's. It is changed.
    :param optimizer: The generator's, in place of the Adam and the running average (``ema``) that the preset states:
        its own ``use_ema`` and ``ema_momentum`` count.
    :param validation: Held pairs; their accuracy is logged.
    :param monitor: What the best generator is best in, a key of the logs; used with ``validation``.
    :param patience: Stop after so many measurements without a better one; None never stops.
    :param steps_per_epoch: Length of an epoch, which is what the schedule counts and what a checkpoint follows; None is
        one pass over the pairs.
    :param precision: "float32", "mixed_bfloat16" or "mixed_float16"; see
        :func:`~art_versatile.pix2pix.precision.set_precision`.
    :param strategy: A ``tf.distribute`` strategy: ``MirroredStrategy`` and ``MultiWorkerMirroredStrategy`` are tested,
        others are not. What is given besides (perceptual loss, generator, discriminator, optimizer) has to be built in
        its scope.
    :param seed: Of new networks, of the order of the pairs and of their augmentation.
    :param resume: Go on with the run in ``out``, whose settings have to be these; none there starts one.
    :param tensorboard: Also write ``out/tensorboard``; needs the package tensorboard.
    :param progress: Show a bar with the losses and the time left.
    :param callbacks: Further Keras callbacks.
    :param card: Further facts for the cards; JSON-able.
    :param changes: Fields of the preset to change: ``schedule``, ``batch_size``, ``learning_rate``, ...
    :return: The generator with its history.
    :raises ValueError: If a parameter is not as expected; nothing has been written then.
    :raises FileExistsError: If ``out`` holds a run and ``resume`` is False.
    :raises FloatingPointError: If a loss or a weight was not finite.
    """
    import tensorflow as tf

    from art_versatile.pix2pix import callbacks as watching
    from art_versatile.pix2pix.generators import output_noise_left_out
    from art_versatile.pix2pix.precision import set_precision

    settings, measure = _check(
        out,
        preset=preset,
        perceptual=perceptual,
        generator=generator,
        optimizer=optimizer,
        validation=validation,
        monitor=monitor,
        patience=patience,
        steps_per_epoch=steps_per_epoch,
        precision=precision,
        strategy=strategy,
        resume=resume,
        tensorboard=tensorboard,
        progress=progress,
        **changes,
    )
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    # Replicas need equal shares, or the mean of their losses is not that of the batch.
    batches = functools.partial(_dataset, pairs, settings, seed, drop_remainder=replicas > 1)
    batches()  # for its checks

    start = time.perf_counter()
    per_pass = len(pairs) // settings.batch_size if replicas > 1 else -(-len(pairs) // settings.batch_size)
    steps, epochs = steps_per_epoch or per_pass, settings.schedule.epochs
    with strategy.scope():
        networks = _networks(settings, pairs.image_shape, perceptual, generator, seed)
        model = _build(settings, *networks, optimizer, precision, epochs * steps)
    parameters = _parameters(settings, pairs, model, optimizer, steps, precision, seed)
    history: list[dict[str, float]] = []
    done = 0
    chief = bool(strategy.extended.should_checkpoint)  # of several workers, one writes
    try:
        last: list[keras.callbacks.Callback] = []
        if out is not None:
            checkpoint = watching.Checkpoint(Path(out) / CHECKPOINTS, model, history, parameters, write=chief)
            done = checkpoint.restore()
            last.append(checkpoint)
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            last.append(watching.StopTogether())
        if done < epochs and not watching.patience_is_over(history, monitor, patience):
            passes, skipped = divmod(done * steps, per_pass)
            data = batches(first_pass=passes)
            folder = Path(out) if out is not None and chief else None
            measuring = [] if measure is None or not chief else [measure]
            facts = {"training": parameters, **(card or {})}
            writers = _writers(
                folder, history, facts, validation if chief else None, monitor, patience, pairs, tensorboard
            )
            watchers = [watching.StopOnNaN(), *measuring, *writers, *callbacks, *last]
            with (
                watching.Progress(steps, shown=progress and chief) as bar,
                output_noise_left_out(model.generator),
            ):
                model.fit(
                    data.skip(skipped) if skipped else data,
                    epochs=epochs,
                    initial_epoch=done,
                    steps_per_epoch=steps,
                    callbacks=[*watchers, bar],
                    shuffle=False,  # the dataset shuffles itself
                    verbose=0,
                )
        with model.averaged() as averaged:
            final = averaged.get_weights()
        model.generator.set_weights(final)
    finally:
        for network in (model.generator, model.discriminator):
            if network is not None:
                set_precision(network, "float32")
    return TrainingResult(model.generator, history, time.perf_counter() - start, parameters)


def check_arguments(image_shape: tuple[int, int, int], out: str | Path | None = None, **arguments: Any) -> None:
    """
    Check what :func:`train` is to be given before there are pairs: attacks take hours.

    :param image_shape: (H, W, C) of the pairs.
    :param out: As there.
    :param arguments: As there. A validation may be a stand-in: names and numbers of its attacks are what counts.
    :raises ValueError: As there, and likewise all others; nothing has been written then.
    """
    import tensorflow as tf

    blank = np.zeros((1, *image_shape), np.float32)
    pairs = ArrayPairs(blank, blank)
    call = inspect.signature(train).bind(pairs, out, **arguments)
    call.apply_defaults()
    given = call.arguments
    unchecked = ("pairs", "seed", "callbacks", "card", "changes")
    settings, _ = _check(**{k: v for k, v in given.items() if k not in unchecked}, **given["changes"])
    _dataset(pairs, settings, given["seed"])
    with (given["strategy"] or tf.distribute.get_strategy()).scope():
        _networks(settings, image_shape, given["perceptual"], given["generator"], given["seed"])


def check_folder(out: str | Path | None, resume: bool) -> None:
    """
    Check that a run may write to a folder.

    :param out: The folder; None writes nothing.
    :param resume: Whether it is to go on with what is there.
    :raises FileExistsError: If the folder holds a run that is not to go on.
    """
    from art_versatile.pix2pix.callbacks import holds_run

    if out is not None and not resume and holds_run(Path(out) / CHECKPOINTS):
        raise FileExistsError(f"Expected no run in {out}; resume=True goes on with it. Received one.")


def _check(
    out: str | Path | None,
    *,
    preset: str | Preset,
    perceptual: PerceptualLoss | None,
    generator: keras.Model | None,
    optimizer: keras.optimizers.Optimizer | None,
    validation: Validation | None,
    monitor: str,
    patience: int | None,
    steps_per_epoch: int | None,
    precision: str,
    strategy: tf.distribute.Strategy | None,
    resume: bool,
    tensorboard: bool,
    progress: bool,
    **changes: Any,
) -> tuple[Preset, RecoveredAccuracy | None]:
    """Checks of :func:`train` that need no pairs -> the preset with its changes, and what measures."""
    import tensorflow as tf

    from art_versatile.pix2pix import callbacks as watching
    from art_versatile.pix2pix.precision import POLICIES

    settings = _settings(preset, changes)
    measure = None if validation is None else validation.callback()
    check_choice("precision", precision, POLICIES)
    for name, flag in (("resume", resume), ("tensorboard", tensorboard), ("progress", progress)):
        check_bool(name, flag)
    for name, number in (("patience", patience), ("steps_per_epoch", steps_per_epoch)):
        if number is not None:
            check_integer(name, number)
    if (tensorboard or resume) and out is None:
        raise ValueError("Expected out, a folder, with tensorboard or resume. Received None.")
    if patience is not None and measure is None:
        raise ValueError("Expected validation pairs with patience. Received none.")
    if measure is not None:
        check_choice("monitor", monitor, measure.measures)
    if settings.features == "classifier" and perceptual is None:
        raise ValueError(
            "Expected a perceptual loss, PerceptualLoss.of_classifier(model), or features=None to train without. "
            "Received neither."
        )
    if out is not None and generator is not None and not hasattr(generator, "architecture"):
        raise ValueError(
            "Expected a generator made by build_generator with out: others cannot be written as weights and card. "
            f"Received {generator.name!r}."
        )
    if optimizer is not None and changes.get("ema") not in (None, _average(optimizer)):
        raise ValueError(
            f"Expected an optimizer with use_ema=True and ema_momentum={changes['ema']!r} for ema={changes['ema']!r}. "
            f"Received one that keeps ema={_average(optimizer)!r}."
        )
    replicas = (strategy or tf.distribute.get_strategy()).num_replicas_in_sync
    if check_batch_size(settings.batch_size) % replicas:
        raise ValueError(
            f"Expected batch_size to be a multiple of the {replicas} replicas. Received {settings.batch_size}."
        )
    if tensorboard and out is not None:
        watching.TensorBoard(Path(out) / TENSORBOARD)  # for its check
    check_folder(out, resume)
    return settings, measure


def _average(optimizer: Any) -> float | None:
    """Momentum of the running average that an optimizer keeps; None for none."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner.ema_momentum if inner.use_ema else None


def _settings(preset: str | Preset, changes: dict[str, Any]) -> Preset:
    """The preset with its changes, checked."""
    if not isinstance(preset, Preset):
        check_choice("preset", preset, tuple(PRESETS))
        preset = PRESETS[preset]
    known = [field.name for field in dataclasses.fields(Preset)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"Expected changes among {known}. Received {unknown}.")
    return dataclasses.replace(preset, **changes)


def new_generator(preset: str | Preset = "compact", seed: int = 0) -> CompactGenerator | UNet256Generator:
    """
    The untrained generator of a preset.

    A frozen encoder gets the weights that it has in the generator that ships: no further package is needed.

    :param preset: "paper", "compact", or a :class:`~art_versatile.pix2pix.presets.Preset`.
    :param seed: Of its initial weights and of its noise, unless the preset's options say otherwise.
    """
    from art_versatile.pix2pix import build_generator

    settings = _settings(preset, {})
    options: dict[str, Any] = {"seed": seed, **settings.generator_options}
    if settings.architecture != "compact" or options.get("encoder") is None or "encoder_weights" in options:
        return build_generator(settings.architecture, **options)
    generator = build_generator(settings.architecture, **options, encoder_weights=None)
    shipped, _ = weights.load_shipped(settings.architecture)
    known = {layer.name: layer for layer in shipped.get_layer("encoder").layers}
    for layer in generator.get_layer("encoder").layers:
        layer.set_weights(known[layer.name].get_weights())
    return generator


def new_discriminator(preset: str | Preset = "compact", seed: int = 0) -> keras.Model | None:
    """
    The discriminator of a preset: a new one, or the network that the preset holds; None where it has none.

    :param preset: As in :func:`new_generator`.
    :param seed: Of the run; that of the discriminator's initial weights is the next one.
    """
    import keras

    from art_versatile.pix2pix import patchgan

    discriminator = _settings(preset, {}).discriminator
    if discriminator is None or isinstance(discriminator, keras.Model):
        return discriminator
    return patchgan(discriminator, seed=seed + 1)


def _networks(
    settings: Preset,
    image_shape: tuple[int, int, int],
    perceptual: PerceptualLoss | None,
    generator: keras.Model | None,
    seed: int,
) -> tuple[keras.Model, keras.Model | None, PerceptualLoss | None]:
    """Generator, discriminator and perceptual loss: those given, or the preset's."""
    from art_versatile.pix2pix import PerceptualLoss

    if generator is None:
        generator = new_generator(settings, seed)
    sides = _check_size(generator, image_shape, settings)
    discriminator = new_discriminator(settings, seed)
    if perceptual is None and settings.features == "vgg19":
        perceptual = PerceptualLoss.vgg19(**settings.features_options)
    if perceptual is not None:
        _check_features(perceptual, sides)
    return generator, discriminator, perceptual


def _build(
    settings: Preset,
    generator: keras.Model,
    discriminator: keras.Model | None,
    perceptual: PerceptualLoss | None,
    optimizer: keras.optimizers.Optimizer | None,
    precision: str,
    steps: int,
) -> Pix2Pix:
    """The compiled model, for so many steps."""
    import keras

    from art_versatile.pix2pix import Pix2Pix
    from art_versatile.pix2pix.precision import set_precision

    model = Pix2Pix(generator, discriminator, perceptual, schedule=settings.schedule, clip_norm=settings.clip_norm)
    rate: Any = settings.learning_rate
    if settings.decay == "cosine":
        warmup = min(settings.warmup, steps // 10)
        start, rise = (0.0, {"warmup_target": rate, "warmup_steps": warmup}) if warmup else (rate, {})
        rate = keras.optimizers.schedules.CosineDecay(start, steps - warmup, alpha=0.02, **rise)
    if optimizer is None:
        average = {}
        if settings.ema is not None:
            # Longer than a tenth of the run, it would hold weights from before anything was learnt.
            average = {"use_ema": True, "ema_momentum": min(settings.ema, max(0.0, 1 - 10 / steps))}
        optimizer = keras.optimizers.Adam(rate, beta_1=settings.beta_1, **average)
    for network in (generator, discriminator):
        if network is not None:
            set_precision(network, precision)  # compile looks at it
    model.compile(optimizer, keras.optimizers.Adam(rate, beta_1=settings.beta_1))
    return model


def _check_size(generator: keras.Model, image_shape: tuple[int, int, int], settings: Preset) -> tuple[int, int]:
    """Whether the generator takes what it will be given, and its size."""
    multiple = int(getattr(generator, "size_multiple", 1))
    height, width, channels = image_shape
    crop = (height, width) if settings.crop is None else settings.crop
    sides = (crop, crop) if isinstance(crop, int) else crop
    if isinstance(settings.discriminator, int) and min(sides) < 24:
        raise ValueError(f"Expected at least 24x24 pixels for a PatchGAN. Received {sides[0]}x{sides[1]}.")
    if channels != 3 or any(side % multiple for side in sides):
        raise ValueError(
            f"Expected RGB images, or crops of them, in multiples of {multiple} pixels for {generator.name}. Received "
            f"crop={settings.crop} of images {height}x{width}x{channels}."
        )
    return sides


def _check_features(perceptual: PerceptualLoss, sides: tuple[int, int]) -> None:
    """Whether the perceptual loss takes what it will be given."""
    import tensorflow as tf

    try:
        perceptual.features(tf.zeros((1, *sides, 3)))
    except (ValueError, TypeError, tf.errors.OpError) as err:
        raise ValueError(
            f"Expected a perceptual loss that takes the crops, {sides[0]}x{sides[1]}. Received {perceptual!r}: {err}"
        ) from err


def _parameters(
    settings: Preset,
    pairs: Pairs,
    model: Pix2Pix,
    optimizer: keras.optimizers.Optimizer | None,
    steps: int,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """What is trained how, JSON-able: a run that goes on has to have the same."""
    import keras

    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    if isinstance(settings.discriminator, keras.Model):
        fields["discriminator"] = {"parameters": settings.discriminator.count_params()}
    fields["schedule"] = [dataclasses.astuple(stage) for stage in settings.schedule.stages]
    fields["features_options"] = {
        key: Path(str(value)).name if key == "weights" else str(value)  # no folder of this machine
        for key, value in settings.features_options.items()
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
        "pairs": len(pairs),
        "steps_per_epoch": steps,
        "precision": precision,
        "seed": seed,
        "optimizer": None if optimizer is None else keras.optimizers.serialize(optimizer),
    }
    if hasattr(pairs, "sha256"):
        parameters["pairs_sha256"] = pairs.sha256
    elif isinstance(pairs, ArrayPairs):
        # Attacks that are made anew may differ in the last bit.
        parameters |= {"attacks": pairs.attacks, "clean_sha256": pairs.clean_sha256}
    return json.loads(json.dumps(parameters, default=str))


def _dataset(
    pairs: Pairs, settings: Preset, seed: int, *, first_pass: int = 0, drop_remainder: bool = False
) -> tf.data.Dataset:
    """Batches in [0, 1] without end."""
    import tensorflow as tf

    data = pairs.dataset(
        settings.batch_size,
        crop=settings.crop,
        crop_step=settings.crop_step,
        flip=settings.flip,
        scale=settings.scale,
        whole=[name for name in settings.whole if name in pairs.attacks],
        clean_share=settings.clean_share,
        seed=seed,
        repeat=True,
        first_epoch=first_pass,
        drop_remainder=drop_remainder,
    )
    low, high = pairs.clip_values
    if (low, high) != (0.0, 1.0):
        data = data.map(lambda *pair: tuple((images - low) / (high - low) for images in pair))
    options = tf.data.Options()
    # A generator inside cannot be split by files: every worker reads all and takes its share of each batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


def _writers(
    folder: Path | None,
    history: list[dict[str, float]],
    facts: dict[str, Any],
    validation: Validation | None,
    monitor: str,
    patience: int | None,
    pairs: Pairs,
    tensorboard: bool,
) -> list[Any]:
    """Callbacks that fill the history and the folder; None keeps the history alone."""
    from art_versatile.pix2pix import callbacks as watching

    def save(name: str) -> Callable[[keras.Model, dict[str, float]], None]:
        def write(generator: keras.Model, row: dict[str, float]) -> None:
            if folder is not None:
                weights.save(generator, folder / name, card={**facts, "epoch": row})

        return write

    log = watching.TrainingLog(folder, history)
    best = [] if validation is None else [watching.KeepBest(history, save("best"), monitor, patience)]
    if folder is None:
        return [log, *best]
    panel = watching.ImagePanel(folder, *_examples(validation, pairs))
    board = [watching.TensorBoard(folder / TENSORBOARD, panel)] if tensorboard else []
    folder.mkdir(parents=True, exist_ok=True)
    return [log, watching.KeepWeights(history, save("last")), *best, panel, *board]


def _examples(validation: Validation | None, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Six pairs for the panel, in [0, 1]: held ones, where there are any."""
    if validation is not None:
        rows = np.linspace(0, len(validation.pairs.clean) - 1, 6).astype(int)
        (low, high), arrays = validation.clip_values, validation.pairs
        adversarial, clean = arrays.adversarial[rows], arrays.clean[rows]
    else:
        low, high = pairs.clip_values
        batch = next(iter(pairs.dataset(min(6, len(pairs)), flip=False, shuffle=False)))
        adversarial, clean = (images.numpy() for images in batch)
    return (adversarial - low) / (high - low), (clean - low) / (high - low)
