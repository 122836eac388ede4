"""The command that sets purifiers before several classifiers: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from art_versatile.cli import common
from art_versatile.cli.common import (
    BatchSize,
    Effort,
    FileColumn,
    Images,
    ImageSize,
    LabelColumn,
    Labels,
    Limit,
    PerClass,
    Seed,
    Stretch,
    reported,
)

__all__ = ["compare"]


@reported()
def compare(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[
        Path, common.folder("Folder for table.md and each classifier's records; one that is there goes on.")
    ] = Path("comparison"),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    rows: Annotated[
        str, typer.Option(help="Of the table: all, even or odd, counted from 0: one half to choose on.")
    ] = "all",
    limit: Limit = None,
    per_class: PerClass = None,
    stretch: Stretch = False,
    classifier: Annotated[
        list[str] | None,
        typer.Option(help="As in evaluate; several, EfficientNet-Lite0 by default. NAME=FILE.keras gives it a name."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Name of shipped weights, or a folder of weights; several, compact by default."),
    ] = None,
    eps: Annotated[
        str, typer.Option(help="L-infinity budgets, shares of the pixel range, with commas, the main one first.")
    ] = "8/255",
    effort: Effort = "quick",
    attacks: Annotated[str, typer.Option(help="Attacks, with commas; the paper's six and DeepFool.")] = "",
    max_iter: Annotated[
        int | None, typer.Option(min=1, help="Iterations of BIM, PGD, MI-FGSM; the effort's by default.")
    ] = None,
    image_size: ImageSize = 256,
    batch_size: BatchSize = 20,
    seed: Seed = 0,
) -> None:
    """Purifiers before several classifiers, beside noise, blur and JPEG; static attacks, images classified right."""
    from art_versatile._checks import check_choice
    from art_versatile.classifiers import check_classifier_name
    from art_versatile.experiments.robustness import Plan

    check_choice("rows", rows, tuple(common.ROWS))
    main_eps, *other_eps = common.shares(eps).values()
    plan = Plan(
        eps=main_eps,
        other_eps=other_eps,
        effort=effort,
        iterations=() if max_iter is None else (max_iter,),
        attacks=common.listed(attacks) or None,
        threats=("static",),
        batch_size=batch_size,
        seed=seed,
    )
    called_files = [_called(text) for text in classifier or ("efficientnet_lite0",)]
    files = dict(called_files)
    if len(files) < len(called_files):
        raise ValueError(f"Expected classifiers of different names. Received {[name for name, _ in called_files]}.")
    for file in files.values():
        check_classifier_name(file)
    chosen = dict.fromkeys(weights or ("compact",))
    for name in chosen:
        common.check_weights(name)
    drawn: dict[str, Any] = {"per_class": per_class, "stretch": stretch, "seed": seed}
    common.check_chosen(images, labels, file_column, label_column, image_size, **drawn)
    common.load_tensorflow()
    from art_versatile.experiments.comparison import compare as run
    from art_versatile.purifier import VersatilePurifier

    targets, sets, dataset = {}, {}, ""
    read: dict[int, Any] = {}  # by size: most classifiers take the same images
    for name, file in files.items():
        target, size, called = common.classifier_of_size(file, image_size)
        if size not in read:
            read[size] = common.chosen_images(images, labels, file_column, label_column, None, size, **drawn)
        x, y, _, dataset = read[size]
        called = called if name == file else f"{name} at {size}x{size}"
        if called in targets:
            raise ValueError(f"Expected classifiers of different names, as NAME=FILE.keras. Received {called!r} twice.")
        targets[called], sets[called] = target, common.half(x, y, rows)
    purifiers = {f"VersatilePurifier, {Path(name).name}": VersatilePurifier.from_pretrained(name) for name in chosen}
    if len(purifiers) < len(chosen):
        raise ValueError(f"Expected weights of different names. Received {list(chosen)}.")
    dataset += "" if rows == "all" else f", {rows} rows"
    with common.console().status("attacking"):
        _, table = run(targets, purifiers, sets, out, plan, dataset=dataset, limit=limit)
    common.console().print(table.to_rich())
    typer.echo(f"table and records: {out}")


def _called(text: str) -> tuple[str, str]:
    """What a classifier is called, and its name or file."""
    name, equals, file = text.partition("=")
    # In a path, or in a path after a colon, the sign is a part of it.
    return (name, file) if equals and name and file and not set("/\\:") & set(name) else (text, text)
