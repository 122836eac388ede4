"""Commands that make purifiers: pairs, train, compare-schedules, train-super-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_versatile.cli import common
from art_versatile.cli.common import Classifier, Effort, ImageSize, LabelColumn, Seed, reported

if TYPE_CHECKING:
    from art.estimators.classification import TensorFlowV2Classifier

    from art_versatile.pairs import PairStore
    from art_versatile.training import Preset, Validation

__all__ = ["compare_schedules", "pairs", "train", "train_super_resolution"]

# Options of several commands.
Recipe = Annotated[str, typer.Option("--preset", help="Training recipe: paper or compact.")]
Steps = Annotated[int | None, typer.Option(min=1, help="One pass over the pairs by default.")]
StepPairs = Annotated[int | None, typer.Option(min=1, help="Pairs a step; the preset's by default.")]
Crop = Annotated[int | None, typer.Option(min=1, help="Side of the crops; the preset's by default.")]
Features = Annotated[str | None, typer.Option(help="vgg19, classifier or none; the preset's by default.")]
Vgg19Weights = Annotated[str, typer.Option(help="A weights file, or imagenet (downloads).")]
HeldLimit = Annotated[int | None, typer.Option(min=1, help="Held pairs measured.")]
HeldEvery = Annotated[int, typer.Option(min=1, help="Epochs between two measurements.")]
Precision = Annotated[str, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")]
Resume = Annotated[bool, typer.Option(help="Go on with the run in OUT.")]
_RESUME = "call again with --resume to go on"


@reported()
def pairs(
    images: Annotated[Path, typer.Argument(help="A folder of images, or of one folder for each class.")],
    out: Annotated[Path, common.folder("Folder of the store; called again, an interrupted run goes on.")],
    classifier: Classifier = "efficientnet_lite0",
    attacks: Annotated[str, typer.Option(help="Names out of the paper's six, with commas; all by default.")] = "",
    eps: Annotated[
        str, typer.Option(help="L-infinity budgets, shares of the pixel range, with commas: each attack at each.")
    ] = "16/255",
    max_iter: Annotated[
        int | None, typer.Option(min=1, help="Iterations of BIM, PGD, MI-FGSM; the effort's by default.")
    ] = None,
    effort: Effort = "paper",
    split: Annotated[str, typer.Option(help="Attacks an image: one_per_image, every, or a number.")] = "one_per_image",
    per_class: Annotated[int | None, typer.Option(help="Images drawn of each class folder; the paper: 18.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV table: file,label. The classifier's own by default.")] = None,
    label_column: LabelColumn = "label",
    drop_misclassified: Annotated[bool, typer.Option(help="Leave out what the classifier gets wrong.")] = False,
    image_size: ImageSize = 256,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs a shard.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 32,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    flip: Annotated[bool, typer.Option(help="Mirror half of the images before they are attacked.")] = False,
    zoom: Annotated[
        float, typer.Option(min=1, help="Attack random parts, their sides up to so many times smaller, resized.")
    ] = 1.0,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Attack images and store (adversarial, clean) pairs for training."""
    from art_versatile.images import list_images, read_labels

    known = None if labels is None else read_labels(labels, label=label_column)
    list_images(images)
    build = _builder(classifier, image_size, attacks, eps, effort, max_iter=max_iter, batch_size=batch_size)
    common.load_tensorflow()
    from art_versatile.pairs import generate_pairs

    store = generate_pairs(
        images,
        None,
        build,
        out,
        labels=known,
        split=int(split) if split.isdecimal() else split,
        per_class=per_class,
        drop_misclassified=drop_misclassified,
        image_size=image_size,
        shard_size=shard_size,
        batch_size=batch_size,
        dtype=dtype,
        flip=flip,
        zoom=zoom,
        seed=seed,
        n_jobs=jobs,
        classifier_name=_short(classifier),
    )
    rates = ((name, "-" if rate is None else f"{rate:.1%}") for name, rate in store.success_rates.items())
    common.table(f"{len(store)} pairs", ("attack", "success rate"), rates)
    typer.echo(f"pairs: {out}")


def _short(classifier: str) -> str:
    from art_versatile.classifiers import check_classifier

    return check_classifier(classifier)


def _builder(classifier: str, image_size: int, attacks: str, eps: str, effort: str, **others: Any) -> Any:
    """What makes classifier and attacks, in each worker process."""
    import functools

    from art_versatile.experiments.targets import attacked_classifier

    common.check_effort(effort)
    _short(classifier)
    chosen: dict[str, Any] = {"names": common.listed(attacks) or None, "budgets": common.shares(eps), "effort": effort}
    return functools.partial(attacked_classifier, classifier, image_size, **chosen, **others)


@reported(_RESUME)
def train(
    out: Annotated[Path, common.folder("Folder of the run: weights, log, curves, checkpoints.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="A store made by the command pairs; several are read as one.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Attacks of the stores to train on, with commas: an attack-specific purifier.")
    ] = "",
    images: Annotated[
        list[Path] | None,
        typer.Option(help="In place of --pairs: folders of images to attack first, into OUT/pairs."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Attack the --images while training instead.")] = False,
    inner: Annotated[
        str | None, typer.Option(help="Attack them inside the step, through the purifier: fgsm, pgd, free; gaussian.")
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            help="Classifier of the features, of the validation and of --images, a name or a .keras file; several with "
            "--fresh or --inner. efficientnet_lite0 by default."
        ),
    ] = None,
    feature_network: Annotated[
        list[str] | None, typer.Option(help="With --fresh or --inner, besides: alexnet=FILE, vgg16=FILE.")
    ] = None,
    sides: Annotated[str, typer.Option(help="With --fresh or --inner: sides of the images, with commas.")] = "",
    reuse: Annotated[int, typer.Option(min=1, help="With --fresh: how often a pair is used.")] = 4,
    epoch_pairs: Annotated[int, typer.Option(min=1, help="With --fresh or --inner: pairs in an epoch.")] = 2000,
    inner_steps: Annotated[int, typer.Option(min=1, help="With --inner pgd: steps.")] = 2,
    replay: Annotated[int, typer.Option(min=2, help="With --inner free: steps on each batch.")] = 4,
    sigma: Annotated[float, typer.Option(min=0, max=2, help="With --inner gaussian: largest deviation.")] = 0.25,
    attacks: Annotated[str, typer.Option(help="With --images: names out of the paper's six; all by default.")] = "",
    effort: Annotated[str, typer.Option(help="With --images: how hard the attacks try, quick or paper.")] = "quick",
    eps: Annotated[
        str | None,
        typer.Option(
            help="Budgets, shares of the pixel range. With --images as in pairs, 16/255 by default; with --fresh the "
            "smallest and the largest, 2/255,16/255; with --inner one, 4/255."
        ),
    ] = None,
    image_size: ImageSize = 256,
    preset: Recipe = "compact",
    weights: Annotated[
        str | None, typer.Option(help="Train these further: a shipped name or a folder; else new ones.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The preset's schedule is scaled to so many; its own by default.")
    ] = None,
    steps_per_epoch: Steps = None,
    minutes: Annotated[float | None, typer.Option(help="End with the epoch in which so many have passed.")] = None,
    batch_size: StepPairs = None,
    crop: Crop = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's; the preset's by default.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Stages epochs:pixel:perceptual, with commas; a single one is fixed weights.")
    ] = None,
    adversarial: Annotated[bool, typer.Option(help="Train with the discriminator.")] = True,
    clean_share: Annotated[float | None, typer.Option(help="Share of clean pairs; the preset's by default.")] = None,
    noise: Annotated[float | None, typer.Option(help="compact: standard deviation of the input noise.")] = None,
    features: Features = None,
    vgg19_weights: Vgg19Weights = "imagenet",
    validation: Annotated[Path | None, typer.Option(help="A store of held pairs, with given labels.")] = None,
    validation_limit: HeldLimit = None,
    validation_every: HeldEvery = 1,
    monitor: Annotated[str, typer.Option(help="What the best weights are best in.")] = "val_recovered_accuracy",
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many without a better one.")] = None,
    precision: Precision = "float32",
    mirrored: Annotated[bool, typer.Option(help="On all GPUs of this machine (MirroredStrategy).")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Also write OUT/tensorboard.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of networks, order and augmentation.")] = 0,
    resume: Resume = False,
) -> None:
    """Train a purifier on adversarial pairs; OUT/best or OUT/last is then a purifier's weights folder."""
    chosen = _chosen_classifiers(classifier, fresh=fresh, inner=inner)
    _check_source(pairs, images, only, chosen, feature_network, fresh=fresh, inner=inner)
    _check_choices(preset, features, precision, schedule, weights, vgg19_weights)
    drawn = fresh or inner is not None
    if drawn and (crop is not None or clean_share is not None):
        raise ValueError("Expected --crop and --clean-share with stored pairs alone: others are as they are drawn.")
    chosen_sides = _sides(sides)
    budgets = common.shares(eps or _default_eps(fresh, inner))
    build = None if drawn else _builder(chosen[0], image_size, attacks, eps or "16/255", effort)
    common.load_tensorflow()
    from art_versatile import training
    from art_versatile.training.time_limit import TimeLimit

    settings: dict[str, Any] = {
        "preset": _preset(
            preset,
            epochs=epochs,
            features=features,
            vgg19_weights=vgg19_weights,
            batch_size=batch_size,
            crop=crop,
            learning_rate=learning_rate,
            clean_share=clean_share,
            schedule=None if schedule is None else _stages(schedule),
            adversarial=adversarial,
            noise=noise,
        ),
        "monitor": monitor,
        "patience": patience,
        "steps_per_epoch": steps_per_epoch,
        "precision": precision,
        "seed": seed,
        "resume": resume,
        "tensorboard": tensorboard,
        "callbacks": () if minutes is None else (TimeLimit(minutes),),
    }
    training.RunFolder(out, resume=resume)  # refuses one that holds a run, before anything is loaded
    run = _Run(out, chosen, settings, validation, validation_limit, validation_every, mirrored)
    if drawn:
        result = run.on_drawn(
            images or [],
            feature_network or [],
            sides=chosen_sides,
            recipe={"eps": (min(budgets.values()), max(budgets.values())), "reuse": reuse} if fresh else {},
            inner=None
            if inner is None
            else (inner, {"eps": max(budgets.values()), "steps": inner_steps, "replay": replay, "sigma": sigma}),
            epoch_pairs=epoch_pairs,
            weights=weights,
            noise=noise,
        )
    else:
        result = run.on_stored(pairs, images, common.listed(only), build, image_size, weights=weights, noise=noise)
    best = f" and {out / 'best'}" * (validation is not None)
    typer.echo(f"{len(result.history)} epochs; weights in {out / 'last'}{best}")


class _Run:
    """What both ways to train share: where they write, what measures them, the strategy, the weights to begin with."""

    def __init__(
        self,
        out: Path,
        classifiers: Sequence[str],
        settings: dict[str, Any],
        validation: Path | None,
        limit: int | None,
        every: int,
        mirrored: bool,
    ) -> None:
        import tensorflow as tf

        from art_versatile.pairs import PairStore

        self.out, self.classifiers, self.settings = out, classifiers, settings
        self.held = None if validation is None else PairStore(validation)
        self.limit, self.every = limit, every
        self.strategy = tf.distribute.MirroredStrategy() if mirrored else tf.distribute.get_strategy()
        self.settings["strategy"] = self.strategy
        self.card: dict[str, Any] = {}

    def begin(self, weights: str | None, noise: float | None) -> None:
        """Load the weights that are trained further."""
        from art_versatile import weights as stored

        if weights is not None:
            generator, origin = stored.load(weights, **({} if noise is None else {"noise": noise}))
            self.settings["generator"] = generator
            self.card["initial_weights"] = {"name": Path(weights).name, "sha256": origin["weights"]["sha256"]}

    def measure(self, target: TensorFlowV2Classifier | None) -> None:
        """What measures."""
        if self.held is not None and target is not None:
            self.settings["validation"] = _validation(self.held, target, self.limit, self.every)

    def on_stored(
        self,
        pairs: Sequence[Path] | None,
        images: Sequence[Path] | None,
        only: list[str],
        build: Any,
        image_size: int,
        *,
        weights: str | None,
        noise: float | None,
    ) -> Any:
        """Train on stores, or on images that are attacked first."""
        from art_versatile.classifiers import load_classifier
        from art_versatile.pairs import JoinedPairs, PairStore
        from art_versatile.training import Training, perceptual_loss

        stores, preset = [PairStore(path) for path in pairs or ()], self.settings["preset"]
        shape = JoinedPairs(stores).image_shape if stores else (image_size, image_size, 3)
        with self.strategy.scope():
            target = None
            if preset.features == "classifier" or self.held is not None:
                height = (shape if self.held is None else self.held.image_shape)[0]
                target = load_classifier(self.classifiers[0], height)
            self.begin(weights, noise)
            self.settings["perceptual"] = perceptual_loss(preset, None if target is None else target.model)
        self.measure(target)
        # All that can be wrong is looked at before images are attacked.
        prepared = Training(**self.settings).prepare(shape, self.out)
        if images:
            stores = [_make_pairs(images, self.out / "pairs", build, image_size, self.settings["seed"])]
        facts = [{"images": len(store.manifest["images"]), **store.manifest["parameters"]} for store in stores]
        chosen: Any = stores[0] if len(stores) == 1 else JoinedPairs(stores)
        if only:
            self.card["only"] = only
            chosen = chosen.only(only)
        return prepared.run(chosen, card={**self.card, "pairs": facts if len(facts) > 1 else facts[0]})

    def on_drawn(
        self,
        images: Sequence[Path],
        networks: Sequence[str],
        *,
        sides: tuple[int, ...],
        recipe: dict[str, Any],
        inner: tuple[str, dict[str, Any]] | None,
        epoch_pairs: int,
        weights: str | None,
        noise: float | None,
    ) -> Any:
        """Train on what is made while training."""
        from art_versatile.classifiers import load_classifier
        from art_versatile.experiments import fresh_training as fresh
        from art_versatile.pairs.fresh import Recipe

        drawn = Recipe(**(recipe | ({"sides": sides} if sides else {})))
        with self.strategy.scope():
            models = {_short(name): load_classifier(name, max(drawn.sides)).model for name in self.classifiers}
            target = None
            if self.held is not None:
                target = load_classifier(self.classifiers[0], self.held.image_shape[0])
            files = dict(common.named(text, "NAME=FILE") for text in networks)
            features = {name: fresh.feature_network(name, path) for name, path in files.items()}
            self.begin(weights, noise)
        self.measure(target)
        source = None if inner is None else fresh.inner_source(inner[0], list(models.values()), **inner[1])
        return fresh.fresh_training(
            images,
            models,
            self.out,
            networks=features,
            inner=source,
            recipe=drawn,
            epoch_pairs=epoch_pairs,
            card=self.card,
            **self.settings,
        )


def _chosen_classifiers(given: list[str] | None, *, fresh: bool, inner: str | None) -> list[str]:
    chosen = given or ["efficientnet_lite0"]
    names = [_short(name) for name in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected classifiers of different names. Received {names}.")
    if len(chosen) > 1 and not fresh and inner is None:
        raise ValueError(f"Expected one --classifier; --fresh and --inner take several. Received {names}.")
    return chosen


def _check_source(
    pairs: list[Path] | None,
    images: list[Path] | None,
    only: str,
    classifiers: list[str],
    networks: list[str] | None,
    *,
    fresh: bool,
    inner: str | None,
) -> None:
    """Where the pairs come from."""
    from art_versatile._checks import check_choice
    from art_versatile.experiments.fresh_training import INNER, NETWORKS
    from art_versatile.images import list_images

    if bool(pairs) == bool(images):
        raise ValueError("Expected either --pairs or --images. Received both or neither.")
    if only and images:
        raise ValueError("Expected --only with --pairs; with --images, --attacks says which. Received both.")
    if fresh and inner is not None:
        raise ValueError("Expected either --fresh or --inner. Received both.")
    if (fresh or inner is not None) and not images:
        raise ValueError("Expected --images with --fresh or --inner. Received none.")
    if networks and not fresh and inner is None:
        raise ValueError("Expected --feature-network with --fresh or --inner. Received neither.")
    if inner is not None:
        check_choice("inner", inner, INNER)
    for text in networks or ():
        name, path = common.named(text, "alexnet=FILE or vgg16=FILE")
        check_choice("feature-network", name, NETWORKS)
        if not Path(path).is_file():
            raise FileNotFoundError(f"Expected a file of the weights of {name}. Received {path!r}: there is none.")
    for source in images or ():
        list_images(source)


def _check_choices(
    preset: str, features: str | None, precision: str, schedule: str | None, weights: str | None, vgg19: str
) -> None:
    """What can be refused without Keras."""
    from art_versatile._checks import check_choice

    check_choice("--preset", preset, ("paper", "compact"))
    check_choice("precision", precision, ("float32", "mixed_bfloat16", "mixed_float16"))
    if features is not None:
        check_choice("features", features, ("vgg19", "classifier", common.NONE))
    if schedule is not None:
        _triples(schedule)
    if weights is not None:
        common.check_weights(weights)
    if vgg19 != "imagenet" and not Path(vgg19).is_file():
        raise FileNotFoundError(f"Expected --vgg19-weights to be imagenet or a file. Received {vgg19!r}.")


def _sides(text: str) -> tuple[int, ...]:
    from art_versatile._checks import check_integer

    return tuple(check_integer("sides", int(side) if side.isdecimal() else side, 32) for side in common.listed(text))


def _default_eps(fresh: bool, inner: str | None) -> str:
    return "4/255" if inner is not None else "2/255,16/255" if fresh else "16/255"


@reported(_RESUME)
def compare_schedules(
    pairs: Annotated[Path, typer.Option(help="A store made by the command pairs.")],
    validation: Annotated[Path, typer.Option(help="A store of held pairs, with given labels.")],
    out: Annotated[Path, common.folder("Folder of the two runs and of schedules.json.")],
    classifier: Classifier = "efficientnet_lite0",
    preset: Recipe = "compact",
    epochs: Annotated[int, typer.Option(min=3, help="Of each run; the paper's 100 are scaled to them.")] = 100,
    steps_per_epoch: Steps = None,
    batch_size: StepPairs = None,
    crop: Crop = None,
    features: Features = None,
    vgg19_weights: Vgg19Weights = "imagenet",
    validation_limit: HeldLimit = None,
    validation_every: HeldEvery = 1,
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of networks, order and augmentation.")] = 0,
    resume: Resume = False,
) -> None:
    """Train twice with the same seed, with the paper's schedule and with fixed weights 100 and 1, and compare."""
    _short(classifier)
    _check_choices(preset, features, precision, None, None, vgg19_weights)
    common.load_tensorflow()
    from art_versatile.classifiers import load_classifier
    from art_versatile.experiments.schedules import compare_schedules, schedule_table
    from art_versatile.pairs import PairStore
    from art_versatile.training import perceptual_loss

    settings = _preset(preset, features=features, vgg19_weights=vgg19_weights, batch_size=batch_size, crop=crop)
    store, held = PairStore(pairs), PairStore(validation)
    target = load_classifier(classifier, held.image_shape[0])
    runs = compare_schedules(
        store,
        _validation(held, target, validation_limit, validation_every),
        out,
        epochs=epochs,
        preset=settings,
        perceptual=perceptual_loss(settings, target.model),
        steps_per_epoch=steps_per_epoch,
        precision=precision,
        seed=seed,
        resume=resume,
    )
    common.console().print(schedule_table(runs))


@reported(_RESUME)
def train_super_resolution(
    images: Annotated[Path, typer.Argument(help="A folder of large images.")],
    out: Annotated[Path, common.folder("Folder of the run; OUT/last is for SuperResolution(network=...).")],
    network: Annotated[str, typer.Option(help="small or edsr_baseline.")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 6000,
    patch: Annotated[int, typer.Option(min=1, help="Side of the small patches; the large ones are twice that.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches a step.")] = 16,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's first one; the network's by default.")] = None,
    decay: Annotated[str, typer.Option(help="cosine, or halving every 200000 steps.")] = "cosine",
    validation: Annotated[Path | None, typer.Option(help="A folder of further images, to measure on.")] = None,
    steps_per_epoch: Annotated[int, typer.Option(min=1, help="Between two checkpoints.")] = 500,
    dtype: Annotated[str, typer.Option(help="Of the weights on disk: float32 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of patches and weights.")] = 0,
    resume: Resume = False,
) -> None:
    """Train the network of the comparison defence SuperResolution."""
    from art_versatile._checks import check_choice
    from art_versatile.images import list_images

    check_choice("network", network, ("small", "edsr_baseline"))
    check_choice("decay", decay, ("cosine", "halving"))
    check_choice("dtype", dtype, ("float32", "float16"))
    for folder in (images, *([] if validation is None else [validation])):
        list_images(folder)
    common.load_tensorflow()
    from art_versatile.baselines.super_resolution_training import train_super_resolution as run

    _, history = run(
        images,
        out,
        network=network,
        steps=steps,
        patch=patch,
        batch_size=batch_size,
        learning_rate=learning_rate,
        decay=decay,
        seed=seed,
        validation=validation,
        steps_per_epoch=steps_per_epoch,
        resume=resume,
        dtype=dtype,
    )
    typer.echo(f"{len(history)} epochs; weights in {out / 'last'}")


def _preset(
    name: str,
    *,
    epochs: int | None = None,
    features: str | None = None,
    vgg19_weights: str = "imagenet",
    adversarial: bool = True,
    noise: float | None = None,
    **fields: Any,
) -> Preset:
    """A preset with what the command line changes; None changes nothing."""
    from art_versatile.training.presets import find_preset

    base = find_preset(name)
    changes = {key: value for key, value in fields.items() if value is not None}
    if features is not None:
        changes["features"] = None if features == common.NONE else features
    wanted = changes.get("features", base.features)
    if wanted != base.features:
        changes["features_options"] = {}  # those of other features
    if wanted == "vgg19":
        options = changes.get("features_options", base.features_options)
        changes["features_options"] = {**options, "weights": vgg19_weights}
    if not adversarial:
        changes["discriminator"] = None
    if noise is not None:
        changes["generator_options"] = {**base.generator_options, "noise": noise}
    if epochs is not None:
        changes["schedule"] = changes.get("schedule", base.schedule).scaled_to(epochs)
    return find_preset(base, **changes)


def _validation(held: PairStore, target: TensorFlowV2Classifier, limit: int | None, every: int) -> Validation:
    """What measures a run on a store of held pairs."""
    from art_versatile.training import Validation

    return Validation(held.arrays(limit), target.predict, every)


def _make_pairs(images: Sequence[Path], out: Path, build: Any, image_size: int, seed: int) -> PairStore:
    """The pairs of ``train --images``; finished ones are checked and kept."""
    from art_versatile.images import list_images
    from art_versatile.pairs import generate_pairs

    files: Any = images[0] if len(images) == 1 else [file for folder in images for file in list_images(folder)]
    name = _short(build.args[0])
    return generate_pairs(files, None, build, out, image_size=image_size, seed=seed, classifier_name=name)


def _triples(text: str) -> list[tuple[int, float, float]]:
    """Stages, as "40:100:100,30:100:50"."""
    try:
        triples = [stage.split(":") for stage in text.split(",")]
        return [(int(count), float(pixel), float(weight)) for count, pixel, weight in triples]
    except ValueError as err:
        raise ValueError(
            f"Expected stages epochs:pixel:perceptual, as 40:100:100,60:100:1. Received {text!r}: {err}"
        ) from err


def _stages(text: str) -> Any:
    """A schedule."""
    from art_versatile.pix2pix.schedule import LossSchedule

    return LossSchedule(_triples(text))
