"""Commands that attack a purifier and say what holds: demo, evaluate, certify."""

from __future__ import annotations

from collections.abc import Iterable
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
    from art_versatile.evaluation.records import Check, EvaluationRecord

__all__ = ["certify", "demo", "evaluate"]


@reported()
def demo(
    out: Annotated[Path, common.folder("Folder for report.html and records.json; one that is there goes on.")] = Path(
        "report"
    ),
    images: Annotated[int, typer.Option(min=1, max=20, help="Photographs.")] = 20,
    eps: Annotated[str, typer.Option(help="L-infinity budget, a share of the pixel range.")] = "8/255",
    seed: Seed = 0,
) -> None:
    """Attack 20 photographs, purify them, print a table and write an HTML page. Minutes on two cores."""
    budget = common.share(eps)
    from art_versatile.experiments.demo import run_demo

    common.say_resumed(out / "records.json")
    common.load_tensorflow()
    with common.console().status("attacking"):
        found = run_demo(out, images=images, eps=budget, seed=seed)
    _print_tables(found.records)
    _print_verdicts(found.verdicts, out)


@reported()
def evaluate(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[Path, common.folder("Folder for report.html and records.json; one that is there goes on.")] = Path(
        "evaluation"
    ),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Limit = None,
    per_class: PerClass = None,
    stretch: Stretch = False,
    classifier: Classifier = "efficientnet_lite0",
    weights: Weights = "compact",
    eps: Annotated[
        str, typer.Option(help="L-infinity budgets, shares of the pixel range, with commas, the main one first.")
    ] = "8/255",
    effort: Effort = "quick",
    max_iter: Annotated[
        int | None, typer.Option(min=1, help="Iterations of static BIM, PGD, MI-FGSM; the effort's by default.")
    ] = None,
    attacks: Annotated[str, typer.Option(help="Static attacks, with commas; the paper's six and DeepFool.")] = "",
    threats: Annotated[
        str, typer.Option(help="Out of static, transfer, query and adaptive, with commas.")
    ] = "static,transfer,query,adaptive",
    surrogate: Annotated[
        str | None, typer.Option(help="Classifier of transferred attacks, as --classifier; none by default.")
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
    from art_versatile.classifiers import check_classifier_name
    from art_versatile.experiments.robustness import Plan
    from art_versatile.experiments.robustness import evaluate as run

    main_eps, *other_eps = common.shares(eps).values()
    plan = Plan(
        eps=main_eps,
        other_eps=other_eps,
        effort=effort,
        iterations=() if max_iter is None else (max_iter,),
        attacks=common.listed(attacks) or None,
        threats=common.listed(threats),
        controls=controls,
        eot_samples=eot_samples,
        batch_size=batch_size,
        seed=seed,
    )
    for name in (classifier, *([] if surrogate is None else [surrogate])):
        check_classifier_name(name)
    common.check_weights(weights)
    drawn: dict[str, Any] = {"per_class": per_class, "stretch": stretch, "seed": seed}
    common.check_chosen(images, labels, file_column, label_column, image_size, **drawn)
    common.say_resumed(out / "records.json")
    common.load_tensorflow()
    from art_versatile.purifier import VersatilePurifier

    target, size, called = common.classifier_of_size(classifier, image_size)
    other = None if surrogate is None else common.classifier_of_size(surrogate, size)[0]
    x, y, names, dataset = common.chosen_images(images, labels, file_column, label_column, limit, size, **drawn)
    with common.console().status("attacking"):
        found = run(
            target,
            {"VersatilePurifier": VersatilePurifier.from_pretrained(weights)},
            x,
            y,
            out,
            plan,
            dataset=dataset,
            classifier_name=called,
            surrogate=other,
            surrogate_name="" if surrogate is None else check_classifier_name(surrogate),
            names=names,
            class_names=common.class_names_of(target),
        )
    _print_tables(found.records)
    _print_checks(found.checks)
    _print_verdicts(found.verdicts, out)
    if any(check.name == "labels" and check.passed is False for check in found.checks):
        raise typer.Exit(1)


@reported()
def certify(
    images: Images = None,
    labels: Labels = None,
    out: Annotated[
        Path, common.folder("Folder for certificates.json, certified.csv, certified.png; one that is there goes on.")
    ] = Path("certified"),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    limit: Limit = None,
    classifier: Classifier = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="Name of shipped weights, a folder of weights, or none: no purifier.")
    ] = common.NONE,
    sigma: Annotated[
        float, typer.Option(min=1e-6, max=10, help="Standard deviation of the noise, a share of the pixel range.")
    ] = 0.25,
    n0: Annotated[int, typer.Option(min=1, help="Draws that choose the class.")] = 100,
    n: Annotated[int, typer.Option(min=1, help="Draws that bound its share; 10000 for a figure to publish.")] = 1000,
    alpha: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="Chance, for each image, that its certificate is wrong.")
    ] = 0.001,
    image_size: ImageSize = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Noisy images at once.")] = 50,
    seed: Seed = 0,
) -> None:
    """Certify images by randomised smoothing with a purifier in front: L2 radii within which no change helps."""
    from art_versatile.classifiers import check_classifier_name

    check_classifier_name(classifier)
    if weights != common.NONE:
        common.check_weights(weights)
    common.check_chosen(images, labels, file_column, label_column, image_size)
    common.say_resumed(out / "certificates.json")
    common.load_tensorflow()
    from art_versatile.experiments.certified import certify_images
    from art_versatile.purifier import VersatilePurifier

    target, size, _ = common.classifier_of_size(classifier, image_size)
    x, y, *_ = common.chosen_images(images, labels, file_column, label_column, limit, size)
    if weights != common.NONE:
        target.set_params(preprocessing_defences=[VersatilePurifier.from_pretrained(weights)])
    settings: dict[str, Any] = {"sigma": sigma, "n0": n0, "n": n, "alpha": alpha, "batch_size": batch_size}
    found = certify_images(target, x, y, out, seed=seed, **settings)
    common.table(
        f"certified accuracy, sigma {sigma:g}, n = {len(x)} images, {found.abstained:.1%} abstained",
        ("L2 radius", "L-infinity, 255ths", "certified accuracy"),
        ((f"{r['radius']:g}", f"{r['infinity_255']:.3f}", f"{r['accuracy']:.1%}") for r in found.rows()),
    )
    typer.echo(f"certificates, table, curve: {out}")


def _print_tables(records: list[EvaluationRecord]) -> None:
    from art_versatile.reports.tables import tables_by_threat_model

    console = common.console()
    for table in tables_by_threat_model(records):
        console.print(table.to_rich())


def _print_checks(checks: Iterable[Check]) -> None:
    words = {True: "passed", False: "FAILED", None: "not run"}
    rows = [(check.name, check.defence, words[check.passed], check.said) for check in checks]
    common.table("Was the attack strong enough?", ("check", "defence", "result", "compared"), rows)


def _print_verdicts(verdicts: Iterable[str], out: Path) -> None:
    # As they are: a name in brackets is no style.
    for sentence in verdicts:
        typer.echo(sentence)
    typer.echo(f"page: {out / 'report.html'}    records: {out / 'records.json'}")
