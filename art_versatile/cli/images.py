"""Commands on pictures: purify, printed make, printed read, printed study."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from art_versatile.cli import common
from art_versatile.cli.common import (
    BatchSize,
    Classifier,
    FileColumn,
    Images,
    ImageSize,
    LabelColumn,
    Labels,
    Limit,
    Seed,
    Weights,
    reported,
)

__all__ = ["printed", "purify"]

printed = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Adversarial pictures on paper.")


@reported()
def purify(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Image files or folders.")],
    out: Annotated[Path, common.folder("Folder for the purified PNG files.")],
    weights: Weights = "compact",
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Height times width; larger images are skipped and named.")
    ] = common.MAX_PIXELS,
    force: Annotated[bool, typer.Option(help="Make files anew that are there.")] = False,
) -> None:
    """
    Purify image files, each at its own size, into PNG files: a.jpg into a.png, but a.jpg beside a.webp into a.jpg.png.

    Files that are there are kept, so that an interrupted call goes on when it is called again.
    """
    from tqdm.auto import tqdm

    from art_versatile.images import load_image, save_png

    jobs = _targets(sources, out)
    common.check_weights(weights)
    _name_unread(sources)
    todo = {target: file for target, file in jobs.items() if force or not target.exists()}
    failures = []
    if todo:
        common.load_tensorflow()
        from art_versatile.purifier import VersatilePurifier

        purifier = VersatilePurifier.from_pretrained(weights)
        for target, file in tqdm(todo.items(), desc="purify", unit="image"):
            try:
                save_png(purifier(load_image(file, max_pixels=max_pixels)[None])[0][0], target)
            except (ValueError, OSError) as err:
                failures.append(f"{file}: {err}")
    for failure in failures:
        typer.secho(f"skipped {failure}", fg="red", err=True)
    kept = len(jobs) - len(todo)
    there = f"; {kept} were there already (--force makes them anew)" if kept else ""
    typer.echo(f"{len(todo) - len(failures)} of {len(jobs)} images purified into {out}{there}")
    if failures:
        raise typer.Exit(1)


def _targets(sources: Iterable[Path], out: Path) -> dict[Path, Path]:
    """File to write -> file to read. Where two files differ in their endings alone, these stay in the names."""
    from art_versatile.images import list_images

    inside = {}
    for source in sources:
        for file in list_images(source):
            inside[file] = file.relative_to(source) if source.is_dir() else Path(file.name)
    short = [name.with_suffix("") for name in inside.values()]
    jobs: dict[Path, Path] = {}
    for file, name in inside.items():
        several = short.count(name.with_suffix("")) > 1
        target = out / (name.with_name(f"{name.name}.png") if several else name.with_suffix(".png"))
        if target in jobs:
            raise ValueError(f"Expected one image for {target}. Received {jobs[target]} and {file}.")
        jobs[target] = file
    return jobs


def _name_unread(sources: Iterable[Path]) -> None:
    """Images in folders whose kind is not read, as GIFs."""
    from art_versatile.images import IMAGE_SUFFIXES

    for source in sources:
        for file in sorted(source.rglob("*")) if source.is_dir() else ():
            kind = mimetypes.guess_type(file.name)[0] or ""
            if kind.startswith("image/") and file.suffix.lower() not in IMAGE_SUFFIXES:
                typer.echo(f"not read: {file} ({', '.join(IMAGE_SUFFIXES)} are)", err=True)


@printed.command("make")
@reported("call again; nothing is kept of what was attacked")
def make(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(dir_okay=False, help="The PDF; a JSON file and pages as PNG beside it.")] = Path(
        "sheet.pdf"
    ),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Annotated[int, typer.Option(min=1, help="The first so many labelled images.")] = 4,
    classifier: Classifier = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="Attack through a purifier too: shipped weights or a folder; none: without.")
    ] = common.NONE,
    attacks: Annotated[str, typer.Option(help="PGD, MI-FGSM, with commas.")] = "PGD",
    eps: Annotated[str, typer.Option(help="L-infinity budget, a share of the pixel range.")] = "16/255",
    max_iter: Annotated[int, typer.Option(min=1, help="Iterations.")] = 40,
    eot_samples: Annotated[
        int, typer.Option(min=0, help="Draws of printer and camera in each gradient; 0: the attack knows of neither.")
    ] = 10,
    picture_mm: Annotated[float, typer.Option(min=20, max=190, help="Longer side of a picture on paper.")] = 50.0,
    image_size: ImageSize = 256,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
) -> None:
    """Attack images so that they stay adversarial on paper, and write pages of them beside the clean ones, to print."""
    from art_versatile._checks import check_choice
    from art_versatile.classifiers import check_classifier_name

    budget = common.share(eps)
    check_classifier_name(classifier)
    if weights != common.NONE:
        common.check_weights(weights)
    names = [check_choice("attacks", name, ("PGD", "MI-FGSM")) for name in common.listed(attacks)]
    if out.suffix.lower() != ".pdf":
        raise ValueError(f"Expected --out to end in .pdf. Received {str(out)!r}.")
    common.check_chosen(images, labels, file_column, label_column, image_size)
    common.load_tensorflow()
    from art_versatile.experiments.printed import make_printed
    from art_versatile.purifier import VersatilePurifier

    target, size, _ = common.classifier_of_size(classifier, image_size)
    x, y, files, _ = common.chosen_images(images, labels, file_column, label_column, limit, size)
    written = make_printed(
        target,
        x,
        y,
        out,
        attacks=names,
        eps=budget,
        names=files,
        picture_mm=picture_mm,
        max_iter=max_iter,
        eot_samples=eot_samples,
        defence=None if weights == common.NONE else VersatilePurifier.from_pretrained(weights),
        batch_size=batch_size,
        seed=seed,
    )
    for file in written:
        typer.echo(file)


@printed.command("read")
@reported("call again")
def read(
    photographs: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", exists=True, dir_okay=False, help="Photographs, a page each.")
    ],
    sheet: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The JSON file beside the PDF.")] = Path(
        "sheet.json"
    ),
    out: Annotated[
        Path, common.folder("Folder for records.json, report.html and the pictures that were cut out.")
    ] = Path("photographed"),
    classifier: Classifier = "efficientnet_lite0",
    weights: Annotated[str, typer.Option(help="Shipped weights, a folder of weights, or none.")] = "compact",
    image_size: ImageSize = 256,
) -> None:
    """Cut the pictures out of photographs of printed pages and classify them, bare and purified."""
    from art_versatile.classifiers import check_classifier_name

    check_classifier_name(classifier)
    if weights != common.NONE:
        common.check_weights(weights)
    common.load_tensorflow()
    from art_versatile.experiments.printed import read_printed
    from art_versatile.purifier import VersatilePurifier

    target, *_ = common.classifier_of_size(classifier, image_size)
    purifier = None if weights == common.NONE else VersatilePurifier.from_pretrained(weights)
    classes = common.class_names_of(target)

    def said(number: int | None, label: int | None) -> str:
        if number is None:
            return "-"
        return classes[number] + ("" if label is None else " (right)" if number == label else " (wrong)")

    rows = []
    for seen in read_printed(target, purifier, photographs, sheet, out, class_names=classes):
        label = seen.about.get("label")
        attack = str(seen.about.get("attack", "-"))
        rows.append(
            (
                seen.photograph,
                str(seen.index),
                attack,
                said(label, None),
                said(seen.bare, label),
                said(seen.defended, label),
            )
        )
    common.table(
        "pictures", ("photograph", "picture", "attack", "class", "classified", "purified and classified"), rows
    )
    typer.echo(f"page: {out / 'report.html'}")


@printed.command("study")
@reported()
def study(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[
        Path, common.folder("Folder for printed.json, printed.md, printed.png; one that is there goes on.")
    ] = Path("printed"),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Limit = None,
    classifier: Classifier = "efficientnet_lite0",
    weights: Weights = "compact",
    attacks: Annotated[str, typer.Option(help="PGD, MI-FGSM, with commas.")] = "PGD,MI-FGSM",
    eps: Annotated[str, typer.Option(help="L-infinity budgets, shares of the pixel range, with commas.")] = (
        "8/255,16/255"
    ),
    max_iter: Annotated[int, typer.Option(min=1, help="Iterations.")] = 10,
    eot_samples: Annotated[
        int, typer.Option(min=1, help="Draws of printer and camera that each gradient is the mean of.")
    ] = 4,
    draws: Annotated[int, typer.Option(min=1, help="Photographs of each print.")] = 5,
    adaptive: Annotated[bool, typer.Option(help="Attack through the purifier, too.")] = True,
    image_size: ImageSize = 224,
    batch_size: BatchSize = 10,
    seed: Seed = 0,
) -> None:
    """Simulate what is left of attacks that are printed and photographed, with and without a purifier."""
    from art_versatile._checks import check_choice
    from art_versatile.classifiers import check_classifier_name

    budgets = list(common.shares(eps).values())
    names = [check_choice("attacks", name, ("PGD", "MI-FGSM")) for name in common.listed(attacks)]
    check_classifier_name(classifier)
    common.check_weights(weights)
    common.check_chosen(images, labels, file_column, label_column, image_size)
    common.load_tensorflow()
    from art_versatile.experiments.printed import study_printed
    from art_versatile.purifier import VersatilePurifier

    target, size, called = common.classifier_of_size(classifier, image_size)
    x, y, _, dataset = common.chosen_images(images, labels, file_column, label_column, limit, size)
    tables, _ = study_printed(
        target,
        {"VersatilePurifier": VersatilePurifier.from_pretrained(weights)},
        x,
        y,
        out,
        dataset=dataset,
        classifier_name=called,
        attacks=names,
        eps=budgets,
        max_iter=max_iter,
        eot_samples=eot_samples,
        draws=draws,
        adaptive=adaptive,
        batch_size=batch_size,
        seed=seed,
    )
    for table in tables:
        common.console().print(table.to_rich())
    typer.echo(f"rows, tables, figure: {out}")
