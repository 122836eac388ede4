"""The command ``art-versatile``: one thin layer over the public API."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_versatile._version import __version__

if TYPE_CHECKING:
    import rich.console
    import rich.table
    from art.estimators.classification import TensorFlowV2Classifier

    from art_versatile.evaluation.records import Check, EvaluationRecord
    from art_versatile.pairs import PairStore
    from art_versatile.training import Preset, Validation

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="One purifier against many adversarial attacks, for the Adversarial Robustness Toolbox.",
)


def _fail(error: Exception | str) -> typer.Exit:
    typer.secho(f"error: {error}", fg="red", err=True)
    return typer.Exit(2)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Errors that the user can do something about end the command with one line."""
    try:
        yield
    except (ValueError, TypeError, ModuleNotFoundError, OSError, FloatingPointError) as err:
        raise _fail(err) from err
    except Exception as err:
        tensorflow = sys.modules.get("tensorflow")  # where it is not loaded, the error is none of its own
        if tensorflow is not None and isinstance(err, tensorflow.errors.OpError):
            raise _fail(f"{type(err).__name__}: {_reason(err.message)}") from err
        if type(err) is Exception and str(err).startswith("URL fetch failure"):  # keras.utils.get_file's
            raise _fail(
                "Expected a network to download weights of keras.applications from; VGG19's may be a file: "
                f"--vgg19-weights FILE. Received {err}"
            ) from err
        raise


def _reason(message: str) -> str:
    """The line of a TensorFlow error that says what happened; those around it are of its graph."""
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith(("\t", " "))]
    reason = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", lines[-1] if lines else message).strip()
    if "corrupted record" in reason:  # TensorFlow names no file
        reason += "; the command pairs, called again as it was, finds damaged shards and remakes them"
    return reason


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


# Options of several commands.
Images = Annotated[Path | None, typer.Argument(help="A folder of photographs; by default those of the demonstration.")]
Labels = Annotated[Path | None, typer.Argument(help="CSV table of their classes.")]
FileColumn = Annotated[str, typer.Option(help="Column of the file names.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the class index.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many labelled images.")]
Classifier = Annotated[str, typer.Option(help="Name of a classifier of this package.")]
Weights = Annotated[str, typer.Option(help="Name of shipped weights, or a folder of weights.")]
ImageSize = Annotated[int, typer.Option(help="Height and width in pixels.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images attacked at once.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the attacks.")]


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    # TensorFlow prints start-up notes on every run; ART warns of frameworks that this package does not use.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", message="PyTorch not found", category=UserWarning)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and records.json.")] = Path("report"),
    images: Annotated[int, typer.Option(min=1, max=20, help="Photographs.")] = 20,
    eps: Annotated[str, typer.Option(help="L-infinity budget, pixels in [0, 1]; 8/255 is understood.")] = "8/255",
    seed: Seed = 0,
) -> None:
    """Attack 20 photographs, purify them, print a table and write an HTML page. Minutes on two cores."""
    from rich.console import Console

    from art_versatile.experiments.demo import run_demo

    console = Console()
    with _reported(), console.status("attacking"):
        found = run_demo(out, images=images, eps=_fraction(eps), seed=seed)
    _print_tables(console, found.records)
    for sentence in found.verdicts:
        console.print(sentence, highlight=False)
    console.print(f"page: {out / 'report.html'}    records: {out / 'records.json'}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and records.json.")] = Path("evaluation"),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Limit = None,
    classifier: Classifier = "efficientnet_lite0",
    weights: Weights = "compact",
    eps: Annotated[str, typer.Option(help="L-infinity budgets, pixels in [0, 1], the main one first.")] = "8/255",
    effort: Annotated[str, typer.Option(help="How hard the attacks try: quick or paper.")] = "quick",
    max_iter: Annotated[
        int | None, typer.Option(min=1, help="Iterations of static BIM, PGD, MI-FGSM; the effort's by default.")
    ] = None,
    attacks: Annotated[str, typer.Option(help="Static attacks, with commas; the paper's six and DeepFool.")] = "",
    threats: Annotated[
        str, typer.Option(help="Out of static, transfer, query and adaptive, with commas.")
    ] = "static,transfer,query,adaptive",
    surrogate: Annotated[
        str | None, typer.Option(help="Name of the classifier of transferred attacks; none by default.")
    ] = None,
    controls: Annotated[
        int, typer.Option(min=0, help="Attack defences that are known to fall, too, on so many images.")
    ] = 0,
    eot_samples: Annotated[int, typer.Option(min=1, help="Draws of a random defence in each gradient.")] = 20,
    image_size: ImageSize = 256,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
) -> None:
    """Attack a purifier in every way there is; print tables, checks and a verdict, write an HTML page."""
    from rich.console import Console

    console = Console()
    with _reported(), console.status("attacking"):
        from art_versatile.experiments.robustness import Plan
        from art_versatile.experiments.robustness import evaluate as run

        main_eps, *other_eps = _budgets(eps).values()
        plan = Plan(
            eps=main_eps,
            other_eps=other_eps,
            effort=effort,
            iterations=() if max_iter is None else (max_iter,),
            attacks=[attack.strip() for attack in attacks.split(",")] if attacks else None,
            threats=[threat.strip() for threat in threats.split(",")],
            controls=controls,
            eot_samples=eot_samples,
            batch_size=batch_size,
            seed=seed,
        )
        x, y, names, dataset = _chosen_images(images, labels, file_column, label_column, limit, image_size)

        from art_versatile.classifiers import class_names, load_classifier
        from art_versatile.purifier import VersatilePurifier

        found = run(
            load_classifier(classifier, image_size),
            {"VersatilePurifier": VersatilePurifier.from_pretrained(weights)},
            x,
            y,
            out,
            plan,
            dataset=dataset,
            classifier_name=f"{classifier} at {image_size}x{image_size}",
            surrogate=None if surrogate is None else load_classifier(surrogate, image_size),
            surrogate_name=surrogate or "",
            names=names,
            class_names=class_names(),
        )
    _print_tables(console, found.records)
    console.print(_check_table(found.checks))
    for sentence in found.verdicts:
        console.print(sentence, highlight=False)
    console.print(f"page: {out / 'report.html'}    records: {out / 'records.json'}", highlight=False, soft_wrap=True)
    if any(check.name == "labels" and check.passed is False for check in found.checks):
        raise typer.Exit(1)


@app.command()
def reproduce(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and records.")] = Path("reproduction"),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Limit = None,
    classifier: Classifier = "efficientnet_lite0",
    weights: Weights = "compact",
    specific: Annotated[
        list[str] | None, typer.Option(help="Purifier trained on one attack, ATTACK=FOLDER; see train --only.")
    ] = None,
    eps: Annotated[str, typer.Option(help="L-infinity budget, pixels in [0, 1].")] = "16/255",
    effort: Annotated[str, typer.Option(help="How hard the attacks try: quick or paper.")] = "quick",
    strength_images: Annotated[
        int | None, typer.Option(min=0, help="Images of Figure 4; all by default, 0 leaves it out.")
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, help="Of each random defence.")] = 10,
    image_size: ImageSize = 256,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
) -> None:
    """The paper's Tables 1 and 2, Figures 3 to 5 and floats against PNG files, on your images; static attacks."""
    from rich.console import Console

    console = Console()
    with _reported(), console.status("attacking"):
        budget = _fraction(eps)
        folders = dict(_named_folder(pair) for pair in specific or ())
        x, y, _, dataset = _chosen_images(images, labels, file_column, label_column, limit, image_size)

        from art_versatile.classifiers import class_names, load_classifier
        from art_versatile.experiments.paper import reproduce as run
        from art_versatile.purifier import VersatilePurifier

        found = run(
            load_classifier(classifier, image_size),
            VersatilePurifier.from_pretrained(weights),
            x,
            y,
            out,
            dataset=dataset,
            classifier_name=f"{classifier} at {image_size}x{image_size}",
            specific={attack: VersatilePurifier.from_pretrained(folder) for attack, folder in folders.items()},
            eps=budget,
            effort=effort,
            strength_images=strength_images,
            evaluations=evaluations,
            batch_size=batch_size,
            seed=seed,
            class_names=class_names(),
        )
    for table in found.tables:
        console.print(table.to_rich())
    console.print(f"tables, figures, records: {out}", highlight=False, soft_wrap=True)


def _named_folder(text: str) -> tuple[str, str]:
    """An attack and the folder of the purifier that was trained on it."""
    attack, equals, folder = text.partition("=")
    if not (attack and equals and folder):
        raise ValueError(f"Expected ATTACK=FOLDER. Received {text!r}.")
    return attack, folder


def _chosen_images(
    images: Path | None, labels: Path | None, file_column: str, label_column: str, limit: int | None, size: int
) -> tuple[Any, Any, list[str], str]:
    """Images, classes, names of the files, name of the set: the user's, or the demonstration's."""
    if images is None and labels is None:
        from art_versatile.images import demo_images

        return *demo_images(limit or 20, size), "foolbox ImageNet samples"
    if images is None or labels is None:
        raise ValueError("Expected both a folder and a table of labels, or neither. Received one.")
    from art_versatile.images import labelled_images

    x, y, names = labelled_images(images, labels, size, limit=limit, file=file_column, label=label_column)
    return x, y, names, f"{images.name}, first {len(x)}"


def _print_tables(console: rich.console.Console, records: list[EvaluationRecord]) -> None:
    from art_versatile.reports.tables import tables_by_threat_model

    for table in tables_by_threat_model(records):
        console.print(table.to_rich())


def _check_table(checks: list[Check]) -> rich.table.Table:
    from rich.table import Table

    words = {True: "passed", False: "FAILED", None: "not run"}
    table = Table("check", "defence", "result", "compared", title="Was the attack strong enough?")
    for check in checks:
        table.add_row(check.name, check.defence, words[check.passed], check.said)
    return table


@app.command()
def purify(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Image files or folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the purified PNG files.")],
    weights: Weights = "compact",
    force: Annotated[bool, typer.Option(help="Overwrite files that are there.")] = False,
) -> None:
    """Purify image files, each at its own size, into PNG files of the same names."""
    from tqdm.auto import tqdm

    from art_versatile.images import list_images, load_image, save_png

    jobs: dict[Path, Path] = {}
    failures = []
    with _reported():
        for source in sources:
            for file in list_images(source):
                inside = file.relative_to(source) if source.is_dir() else Path(file.name)
                target = out / inside.with_suffix(".png")
                if target in jobs:
                    raise ValueError(f"Expected one image for {target}. Received {jobs[target]} and {file}.")
                jobs[target] = file

    from art_versatile.purifier import VersatilePurifier

    with _reported():
        purifier = VersatilePurifier.from_pretrained(weights)
    for target, file in tqdm(jobs.items(), desc="purify", unit="image"):
        try:
            if target.exists() and not force:
                raise FileExistsError(f"Expected no file {target}; --force overwrites it. Received one.")
            save_png(purifier(load_image(file)[None])[0][0], target)
        except (ValueError, OSError) as err:
            failures.append(f"{file}: {err}")
    for failure in failures:
        typer.secho(f"skipped {failure}", fg="red", err=True)
    typer.echo(f"{len(jobs) - len(failures)} of {len(jobs)} images purified into {out}")
    if failures:
        raise typer.Exit(1)


@app.command()
def pairs(
    images: Annotated[Path, typer.Argument(help="A folder of images, or of one folder for each class.")],
    out: Annotated[Path, typer.Option(help="Folder of the store; called again, an interrupted run goes on.")],
    classifier: Classifier = "efficientnet_lite0",
    attacks: Annotated[str, typer.Option(help="Names out of the paper's six, with commas; all by default.")] = "",
    eps: Annotated[
        str, typer.Option(help="L-infinity budgets, pixels in [0, 1], with commas: each attack at each of them.")
    ] = "16/255",
    max_iter: Annotated[
        int | None, typer.Option(help="Iterations of BIM, PGD, MI-FGSM; the preset's by default.")
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--attack-preset", help="Attack preset, how much is spent: paper or quick.")
    ] = "paper",
    split: Annotated[str, typer.Option(help="Attacks an image: one_per_image, every, or a number.")] = "one_per_image",
    per_class: Annotated[int | None, typer.Option(help="Images drawn of each class folder; the paper: 18.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV table: file,label. The classifier's own by default.")] = None,
    label_column: LabelColumn = "label",
    drop_misclassified: Annotated[bool, typer.Option(help="Leave out what the classifier gets wrong.")] = False,
    image_size: ImageSize = 256,
    shard_size: Annotated[int, typer.Option(help="Pairs a shard.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Images attacked at once.")] = 32,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    flip: Annotated[bool, typer.Option(help="Mirror half of the images before they are attacked.")] = False,
    zoom: Annotated[
        float, typer.Option(min=1, help="Attack random parts, their sides up to so many times smaller, resized.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample, of flips and parts, of the attacks.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Attack images and store (adversarial, clean) pairs for training."""
    import functools

    from rich.console import Console
    from rich.table import Table

    from art_versatile.images import read_labels
    from art_versatile.pairs import generate_pairs

    names = tuple(name for name in attacks.split(",") if name)
    with _reported():
        budgets = _budgets(eps)
        known = None if labels is None else read_labels(labels, label=label_column)
        build = functools.partial(
            _attacked_classifier, classifier, image_size, names, budgets, max_iter, preset, batch_size
        )
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
            classifier_name=classifier,
        )
    table = Table("attack", "success rate", title=f"{len(store)} pairs in {out}")
    for name, rate in store.success_rates.items():
        table.add_row(name, "-" if rate is None else f"{rate:.1%}")
    Console().print(table)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: weights, log, curves, checkpoints.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="A store made by the command pairs; several are read as one.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Attacks of the stores to train on, with commas: an attack-specific purifier.")
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="In place of --pairs: images to attack first, into OUT/pairs.")
    ] = None,
    classifier: Annotated[
        str, typer.Option(help="Classifier of the features, of the validation and of --images.")
    ] = "efficientnet_lite0",
    attacks: Annotated[str, typer.Option(help="With --images: names out of the paper's six; all by default.")] = "",
    attack_preset: Annotated[str, typer.Option(help="With --images: attack preset, paper or quick.")] = "quick",
    eps: Annotated[str, typer.Option(help="With --images: L-infinity budgets, as in pairs.")] = "16/255",
    image_size: Annotated[int, typer.Option(help="With --images: height and width in pixels.")] = 256,
    preset: Annotated[str, typer.Option(help="Training preset: paper or compact.")] = "compact",
    weights: Annotated[
        str | None, typer.Option(help="Train these further: a shipped name or a folder; else new ones.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The preset's schedule is scaled to so many; its own by default.")
    ] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(min=1, help="One pass over the pairs by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs a step; the preset's by default.")] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Side of the crops; the preset's by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's; the preset's by default.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Stages epochs:pixel:perceptual, with commas; a single one is fixed weights.")
    ] = None,
    adversarial: Annotated[bool, typer.Option(help="Train with the discriminator.")] = True,
    clean_share: Annotated[float | None, typer.Option(help="Share of clean pairs; the preset's by default.")] = None,
    noise: Annotated[float | None, typer.Option(help="compact: standard deviation of the input noise.")] = None,
    features: Annotated[str | None, typer.Option(help="vgg19, classifier or none; the preset's by default.")] = None,
    vgg19_weights: Annotated[str, typer.Option(help="A weights file, or imagenet (downloads).")] = "imagenet",
    validation: Annotated[Path | None, typer.Option(help="A store of held pairs, with given labels.")] = None,
    validation_limit: Annotated[int | None, typer.Option(min=1, help="Held pairs measured.")] = None,
    validation_every: Annotated[int, typer.Option(min=1, help="Epochs between two measurements.")] = 1,
    monitor: Annotated[str, typer.Option(help="What the best weights are best in.")] = "val_recovered_accuracy",
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many without a better one.")] = None,
    precision: Annotated[str, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")] = "float32",
    mirrored: Annotated[bool, typer.Option(help="On all GPUs of this machine (MirroredStrategy).")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Also write OUT/tensorboard.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of networks, order and augmentation.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with the run in OUT.")] = False,
) -> None:
    """Train a purifier on adversarial pairs; OUT/best or OUT/last is then a purifier's weights folder."""
    if bool(pairs) == (images is not None):
        raise _fail(ValueError("Expected either --pairs or --images. Received both or neither."))
    if only and images is not None:
        raise _fail(ValueError("Expected --only with --pairs; with --images, --attacks says which. Received both."))
    with _reported():
        from art_versatile import training
        from art_versatile import weights as stored
        from art_versatile.classifiers import load_classifier
        from art_versatile.pairs import JoinedPairs, PairStore

        settings = _preset(
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
        )
        training.RunFolder(out, resume=resume)  # refuses one that holds a run, before anything is loaded
        held = None if validation is None else PairStore(validation)
        stores = [PairStore(path) for path in pairs or ()]
        image_shape = JoinedPairs(stores).image_shape if stores else (image_size, image_size, 3)

        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy() if mirrored else tf.distribute.get_strategy()
        card: dict[str, Any] = {}
        with strategy.scope():
            target = None
            if settings.features == "classifier" or held is not None:
                target = load_classifier(classifier, image_shape[0] if held is None else held.image_shape[0])
            generator = None
            if weights is not None:
                generator, origin = stored.load(weights, **({} if noise is None else {"noise": noise}))
                card["initial_weights"] = {"name": Path(weights).name, "sha256": origin["weights"]["sha256"]}
            perceptual = training.perceptual_loss(settings, None if target is None else target.model)
        measured = None
        if held is not None and target is not None:
            measured = _validation(held, target, validation_limit, validation_every)
        arguments: dict[str, Any] = {
            "preset": settings,
            "perceptual": perceptual,
            "generator": generator,
            "validation": measured,
            "monitor": monitor,
            "patience": patience,
            "steps_per_epoch": steps_per_epoch,
            "precision": precision,
            "strategy": strategy,
            "seed": seed,
            "resume": resume,
            "tensorboard": tensorboard,
        }
        names, budgets = tuple(name for name in attacks.split(",") if name), _budgets(eps)
        # All that can be wrong is looked at before images are attacked.
        prepared = training.Training(**arguments).prepare(image_shape, out)
        if images is not None:
            _make_pairs(images, out / "pairs", classifier, image_size, names, budgets, attack_preset, seed)
            stores = [PairStore(out / "pairs")]
        facts = [{"images": len(s.manifest["images"]), **s.manifest["parameters"]} for s in stores]
        card["pairs"] = facts if len(facts) > 1 else facts[0]
        chosen: Any = stores[0] if len(stores) == 1 else JoinedPairs(stores)
        if only:
            card["only"] = [name.strip() for name in only.split(",")]
            chosen = chosen.only(card["only"])
        result = prepared.run(chosen, card=card)
    typer.echo(f"{len(result.history)} epochs; weights in {out / 'last'}" + f" and {out / 'best'}" * (held is not None))


@app.command()
def compare_schedules(
    pairs: Annotated[Path, typer.Option(help="A store made by the command pairs.")],
    validation: Annotated[Path, typer.Option(help="A store of held pairs, with given labels.")],
    out: Annotated[Path, typer.Option(help="Folder of the two runs and of schedules.json.")],
    classifier: Annotated[
        str, typer.Option(help="Classifier of the features and of the validation.")
    ] = "efficientnet_lite0",
    preset: Annotated[str, typer.Option(help="Training preset: paper or compact.")] = "compact",
    epochs: Annotated[int, typer.Option(min=3, help="Of each run; the paper's 100 are scaled to them.")] = 100,
    steps_per_epoch: Annotated[int | None, typer.Option(min=1, help="One pass over the pairs by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs a step; the preset's by default.")] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Side of the crops; the preset's by default.")] = None,
    features: Annotated[str | None, typer.Option(help="vgg19, classifier or none; the preset's by default.")] = None,
    vgg19_weights: Annotated[str, typer.Option(help="A weights file, or imagenet (downloads).")] = "imagenet",
    validation_limit: Annotated[int | None, typer.Option(min=1, help="Held pairs measured.")] = None,
    validation_every: Annotated[int, typer.Option(min=1, help="Epochs between two measurements.")] = 1,
    precision: Annotated[str, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of networks, order and augmentation.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with the runs in OUT.")] = False,
) -> None:
    """Train twice with the same seed, with the paper's schedule and with fixed weights 100 and 1, and compare."""
    from rich.console import Console

    with _reported():
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
    Console().print(schedule_table(runs))


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
    import dataclasses

    from art_versatile._checks import check_choice
    from art_versatile.training import PRESETS

    base = PRESETS[check_choice("--preset", name, tuple(PRESETS))]
    changes = {key: value for key, value in fields.items() if value is not None}
    if features is not None:
        changes["features"] = None if features == "none" else features
    wanted = changes.get("features", base.features)
    if wanted != base.features:
        changes["features_options"] = {}  # those of other features
    if wanted == "vgg19":
        if vgg19_weights != "imagenet" and not Path(vgg19_weights).is_file():
            raise FileNotFoundError(f"Expected --vgg19-weights to be imagenet or a file. Received {vgg19_weights!r}.")
        changes["features_options"] = {**changes.get("features_options", base.features_options)}
        changes["features_options"]["weights"] = vgg19_weights
    if not adversarial:
        changes["discriminator"] = None
    if noise is not None:
        changes["generator_options"] = {**base.generator_options, "noise": noise}
    if epochs is not None:
        changes["schedule"] = changes.get("schedule", base.schedule).scaled_to(epochs)
    return dataclasses.replace(base, **changes)


def _validation(held: PairStore, target: TensorFlowV2Classifier, limit: int | None, every: int) -> Validation:
    """What measures a run on a store of held pairs."""
    from art_versatile.training import Validation

    return Validation(held.arrays(limit), target.predict, every)


def _make_pairs(
    images: Path,
    out: Path,
    classifier: str,
    image_size: int,
    names: tuple[str, ...],
    budgets: dict[str, float],
    preset: str,
    seed: int,
) -> None:
    """The pairs of ``train --images``; finished ones are checked and kept."""
    import functools

    from art_versatile.pairs import generate_pairs

    build = functools.partial(_attacked_classifier, classifier, image_size, names, budgets, None, preset, 32)
    generate_pairs(images, None, build, out, image_size=image_size, seed=seed, classifier_name=classifier)


def _stages(text: str) -> Any:
    """A schedule, as "40:100:100,30:100:50"."""
    from art_versatile.pix2pix.schedule import LossSchedule

    try:
        triples = [stage.split(":") for stage in text.split(",")]
        return LossSchedule([(int(count), float(pixel), float(weight)) for count, pixel, weight in triples])
    except ValueError as err:
        raise ValueError(
            f"Expected stages epochs:pixel:perceptual, as 40:100:100,60:100:1. Received {text!r}: {err}"
        ) from err


def _attacked_classifier(
    classifier: str,
    image_size: int,
    names: tuple[str, ...],
    budgets: dict[str, float],
    max_iter: int | None,
    preset: str,
    batch_size: int,
) -> tuple[Any, dict[str, Any]]:
    """
    What each worker process builds for itself: a compiled classifier, and the attacks on it.

    With several budgets an attack is named with its own, "PGD 8/255"; C&W has none.
    """
    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.classifiers import load_classifier

    target = compile_classifier(load_classifier(classifier, image_size))
    attacks = {}
    for text, eps in budgets.items():
        suite = paper_attacks(target, eps, max_iter=max_iter, effort=preset, batch_size=batch_size)
        unknown = sorted(set(names) - set(suite))
        if unknown:
            raise ValueError(f"Expected attacks among {list(suite)}. Received {unknown}.")
        for name in names or suite:
            bounded = len(budgets) > 1 and hasattr(suite[name], "eps")
            attacks[f"{name} {text}" if bounded else name] = compile_attack(suite[name])
    return target, attacks


def _budgets(text: str) -> dict[str, float]:
    """Budgets with commas between them, as "4/255,8/255": each as it is written -> its value."""
    budgets = {part.strip(): _fraction(part.strip()) for part in text.split(",")}
    if len(set(budgets.values())) < text.count(",") + 1:
        raise ValueError(f"Expected different budgets. Received {text!r}.")
    return budgets


def _fraction(text: str) -> float:
    """A number, or a quotient of two, as "8/255"."""
    from fractions import Fraction

    try:
        numerator, _, denominator = text.partition("/")
        return float(Fraction(numerator) / Fraction(denominator or 1))
    except (ValueError, ZeroDivisionError) as err:
        raise ValueError(f"Expected a number such as 0.03 or 8/255. Received {text!r}.") from err
