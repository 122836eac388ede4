"""The command ``art-versatile``: one thin layer over the public API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from art_versatile._version import __version__

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="One purifier against many adversarial attacks, for the Adversarial Robustness Toolbox.",
)


def _fail(error: Exception) -> typer.Exit:
    typer.secho(f"error: {error}", fg="red", err=True)
    return typer.Exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    # TensorFlow prints start-up notes on every run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and records.json.")] = Path("report"),
    images: Annotated[int, typer.Option(min=1, max=20, help="Photographs.")] = 20,
    eps: Annotated[str, typer.Option(help="L-infinity budget, pixels in [0, 1]; 8/255 is understood.")] = "8/255",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the attacks.")] = 0,
) -> None:
    """Attack 20 photographs, purify them, print a table and write an HTML page. Minutes on two cores."""
    from rich.console import Console

    from art_versatile.experiments.demo import run_demo
    from art_versatile.reports.tables import accuracy_table

    console = Console()
    try:
        budget = _fraction(eps)
        with console.status("starting") as status:

            def report(line: str) -> None:
                console.print(f"  {line}", highlight=False)
                status.update(line)

            records = run_demo(out, images=images, eps=budget, seed=seed, report=report)
    except (ValueError, ModuleNotFoundError, FileNotFoundError) as err:
        raise _fail(err) from err
    console.print(accuracy_table(records).to_rich())
    console.print(f"page: {out / 'report.html'}    records: {out / 'records.json'}", highlight=False, soft_wrap=True)


@app.command()
def purify(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Image files or folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the purified PNG files.")],
    weights: Annotated[str, typer.Option(help="Name of shipped weights, or a folder of weights.")] = "compact",
    force: Annotated[bool, typer.Option(help="Overwrite files that are there.")] = False,
) -> None:
    """Purify image files, each at its own size, into PNG files of the same names."""
    from tqdm.auto import tqdm

    from art_versatile.images import list_images, load_image, save_png

    jobs: dict[Path, Path] = {}
    failures = []
    try:
        for source in sources:
            for file in list_images(source):
                inside = file.relative_to(source) if source.is_dir() else Path(file.name)
                target = out / inside.with_suffix(".png")
                if target in jobs:
                    raise ValueError(f"Expected one image for {target}. Received {jobs[target]} and {file}.")
                jobs[target] = file
    except (ValueError, FileNotFoundError) as err:
        raise _fail(err) from err

    from art_versatile.purifier import VersatilePurifier

    try:
        purifier = VersatilePurifier.from_pretrained(weights)
    except (ValueError, FileNotFoundError) as err:
        raise _fail(err) from err
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
    classifier: Annotated[str, typer.Option(help="Name of a classifier of this package.")] = "efficientnet_lite0",
    attacks: Annotated[str, typer.Option(help="Names out of the paper's six, with commas; all by default.")] = "",
    eps: Annotated[str, typer.Option(help="L-infinity budget, pixels in [0, 1].")] = "16/255",
    max_iter: Annotated[
        int | None, typer.Option(help="Iterations of BIM, PGD, MI-FGSM; the preset's by default.")
    ] = None,
    preset: Annotated[str, typer.Option(help="paper or quick.")] = "paper",
    split: Annotated[str, typer.Option(help="one_per_image or every.")] = "one_per_image",
    per_class: Annotated[int | None, typer.Option(help="Images drawn of each class folder; the paper: 18.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV table: file,label. The classifier's own by default.")] = None,
    label_column: Annotated[str, typer.Option(help="Column of the class index.")] = "label",
    drop_misclassified: Annotated[bool, typer.Option(help="Leave out what the classifier gets wrong.")] = False,
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 256,
    shard_size: Annotated[int, typer.Option(help="Pairs a shard.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Images attacked at once.")] = 32,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample and of the attacks.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Attack images and store (adversarial, clean) pairs for training."""
    import functools

    from rich.console import Console
    from rich.table import Table

    from art_versatile.images import read_labels
    from art_versatile.pairs import generate_pairs

    names = tuple(name for name in attacks.split(",") if name)
    try:
        budget = _fraction(eps)
        known = None if labels is None else read_labels(labels, label=label_column)
        build = functools.partial(
            _attacked_classifier, classifier, image_size, names, budget, max_iter, preset, batch_size
        )
        store = generate_pairs(
            images,
            None,
            build,
            out,
            labels=known,
            split=split,
            per_class=per_class,
            drop_misclassified=drop_misclassified,
            image_size=image_size,
            shard_size=shard_size,
            batch_size=batch_size,
            dtype=dtype,
            seed=seed,
            n_jobs=jobs,
            classifier_name=classifier,
        )
    except (ValueError, TypeError, ModuleNotFoundError, OSError) as err:
        raise _fail(err) from err
    table = Table("attack", "success rate", title=f"{len(store)} pairs in {out}")
    for name, rate in store.success_rates.items():
        table.add_row(name, "-" if rate is None else f"{rate:.1%}")
    Console().print(table)


def _attacked_classifier(
    classifier: str,
    image_size: int,
    names: tuple[str, ...],
    eps: float,
    max_iter: int | None,
    preset: str,
    batch_size: int,
) -> tuple[Any, dict[str, Any]]:
    """What each worker process builds for itself: a compiled classifier, and the attacks on it."""
    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.classifiers import load_classifier

    target = compile_classifier(load_classifier(classifier, image_size))
    suite = paper_attacks(target, eps, max_iter=max_iter, preset=preset, batch_size=batch_size)
    unknown = sorted(set(names) - set(suite))
    if unknown:
        raise ValueError(f"Expected attacks among {list(suite)}. Received {unknown}.")
    return target, {name: compile_attack(suite[name]) for name in names or suite}


def _fraction(text: str) -> float:
    """A number, or a quotient of two, as "8/255"."""
    from fractions import Fraction

    try:
        numerator, _, denominator = text.partition("/")
        return float(Fraction(numerator) / Fraction(denominator or 1))
    except (ValueError, ZeroDivisionError) as err:
        raise ValueError(f"Expected a number such as 0.03 or 8/255. Received {text!r}.") from err
