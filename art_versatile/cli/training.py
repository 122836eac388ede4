"""Commands that make purifiers: pairs, train, compare-schedules, train-super-resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from art_versatile.cli import common
from art_versatile.cli.common import Classifier, Effort, ImageSize, LabelColumn, Seed, reported
from art_versatile.cli.runs import (
    Run,
    builder,
    check_choices,
    check_source,
    check_watch,
    chosen_classifiers,
    chosen_preset,
    chosen_sides,
    default_eps,
    short_name,
    stages,
    validation_on,
)

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
    build = builder(classifier, image_size, attacks, eps, effort, max_iter=max_iter, batch_size=batch_size)
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
        classifier_name=short_name(classifier),
    )
    rates = ((name, "-" if rate is None else f"{rate:.1%}") for name, rate in store.success_rates.items())
    common.table(f"{len(store)} pairs", ("attack", "success rate"), rates)
    typer.echo(f"pairs: {out}")


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
    eps_start: Annotated[
        float, typer.Option(min=0, max=1, help="With --inner: share of eps to begin with; too much and it falls apart.")
    ] = 0.1,
    raise_at: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --inner and --watch: raise eps where PGD accuracy at it is so high."),
    ] = None,
    pixel_start: Annotated[
        int, typer.Option(min=0, help="With --fresh or --inner: epochs of the pixel loss alone first, in OUT/start.")
    ] = 0,
    watch: Annotated[
        Path | None,
        typer.Option(help="Folder of held images, attacked through the purifier as it is: overfitting stops the run."),
    ] = None,
    watch_eps: Annotated[str, typer.Option(help="Budget of PGD on them, a share of the pixel range.")] = "1/255",
    watch_every: HeldEvery = 1,
    watch_images: Annotated[int, typer.Option(min=1, help="So many of them, the first.")] = 64,
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
    monitor: Annotated[
        str | None,
        typer.Option(help="What the best weights are best in; val_recovered_accuracy, with --watch val_pgd_accuracy."),
    ] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many without a better one.")] = None,
    precision: Precision = "float32",
    mirrored: Annotated[bool, typer.Option(help="On all GPUs of this machine (MirroredStrategy).")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Also write OUT/tensorboard.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of networks, order and augmentation.")] = 0,
    resume: Resume = False,
) -> None:
    """Train a purifier on adversarial pairs; OUT/best or OUT/last is then a purifier's weights folder."""
    chosen = chosen_classifiers(classifier, fresh=fresh, inner=inner)
    check_source(pairs, images, only, chosen, feature_network, fresh=fresh, inner=inner)
    check_choices(preset, features, precision, schedule, weights, vgg19_weights)
    check_watch(watch, images, raise_at, inner=inner)
    held_budget = common.share(watch_eps)
    drawn = fresh or inner is not None
    if pixel_start and not drawn:
        raise ValueError("Expected --pixel-start with --fresh or --inner. Received neither.")
    if drawn and (crop is not None or clean_share is not None):
        raise ValueError("Expected --crop and --clean-share with stored pairs alone: others are as they are drawn.")
    drawn_sides = chosen_sides(sides)
    budgets = common.shares(eps or default_eps(fresh, inner))
    build = None if drawn else builder(chosen[0], image_size, attacks, eps or "16/255", effort)
    common.load_tensorflow()
    from art_versatile import training
    from art_versatile.training.time_limit import TimeLimit

    settings: dict[str, Any] = {
        "preset": chosen_preset(
            preset,
            epochs=epochs,
            features=features,
            vgg19_weights=vgg19_weights,
            batch_size=batch_size,
            crop=crop,
            learning_rate=learning_rate,
            clean_share=clean_share,
            schedule=None if schedule is None else stages(schedule),
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
    run = Run(out, chosen, settings, validation, validation_limit, validation_every, mirrored)
    inside: dict[str, Any] = {"eps": max(budgets.values()), "steps": inner_steps, "replay": replay, "sigma": sigma}
    inside |= {"start": eps_start, "raise_at": raise_at}
    if watch is not None:
        run.watch(watch, watch_images, image_size, held_budget, watch_every)
    if drawn:
        result = run.on_drawn(
            images or [],
            feature_network or [],
            sides=drawn_sides,
            recipe={"eps": (min(budgets.values()), max(budgets.values())), "reuse": reuse} if fresh else {},
            inner=None if inner is None else (inner, inside),
            epoch_pairs=epoch_pairs,
            pixel_start=pixel_start,
            weights=weights,
            noise=noise,
        )
    else:
        result = run.on_stored(pairs, images, common.listed(only), build, image_size, weights=weights, noise=noise)
    best = f" and {out / 'best'}" * (validation is not None or watch is not None)
    if result.overfitted:
        typer.echo(f"stopped: catastrophic overfitting; the weights to use are those of {out / 'best'}")
    if pixel_start and not (out / "last").exists():
        typer.echo(f"{len(result.history)} epochs of the pixel start; call again with --resume to go on")
        return
    typer.echo(f"{len(result.history)} epochs; weights in {out / 'last'}{best}")


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
    short_name(classifier)
    check_choices(preset, features, precision, None, None, vgg19_weights)
    common.load_tensorflow()
    from art_versatile.classifiers import load_classifier
    from art_versatile.experiments.schedules import compare_schedules, schedule_table
    from art_versatile.pairs import PairStore
    from art_versatile.training import perceptual_loss

    settings = chosen_preset(preset, features=features, vgg19_weights=vgg19_weights, batch_size=batch_size, crop=crop)
    store, held = PairStore(pairs), PairStore(validation)
    target = load_classifier(classifier, held.image_shape[0])
    runs = compare_schedules(
        store,
        validation_on(held, target, validation_limit, validation_every),
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
