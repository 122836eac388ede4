"""Commands of a defence that is kept up to date: update, weights, weights diff, reproduce-updates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from art_versatile.cli import common
from art_versatile.cli.common import (
    Classifier,
    Effort,
    FileColumn,
    ImageSize,
    LabelColumn,
    Seed,
    Weights,
    reported,
)
from art_versatile.cli.runs import check_choices, short_name

__all__ = ["reproduce_updates", "update", "weights"]

weights = typer.Typer(
    rich_markup_mode=None,
    help="The weights that ship and those in folders, each with its parent, the weights that it was updated from. "
    "Nothing is overwritten by an update: to roll it back, choose the parent.",
)


@reported("call again with --resume to go on")
def update(
    attacks: Annotated[
        list[str],
        typer.Option(
            help="A new attack: a class of art.attacks.evasion with its parameters, as ElasticNet:max_iter=20 or "
            "SquareAttack:eps=8/255; may be given several times."
        ),
    ],
    images: Annotated[list[Path], typer.Option(help="Folders of images to attack; a fifth is held out.")],
    out: Annotated[Path, common.folder("Folder of the run; OUT/updated is then a purifier's weights folder.")],
    weights: Weights = "compact",
    classifier: Classifier = "efficientnet_lite0",
    old: Annotated[
        list[Path] | None, typer.Option(help="Stores of old pairs to replay; else the images are attacked.")
    ] = None,
    old_attacks: Annotated[
        str, typer.Option(help="Without --old: names out of the paper's six, with commas; all by default.")
    ] = "",
    eps: Annotated[str, typer.Option(help="Without --old: their L-infinity budget, a share of the range.")] = "8/255",
    effort: Effort = "quick",
    limit: Annotated[int | None, typer.Option(min=5, help="The first so many images.")] = None,
    image_size: ImageSize = 256,
    memory: Annotated[int, typer.Option(min=0, help="Old pairs replayed, at most; 0 replays none.")] = 256,
    distillation: Annotated[float, typer.Option(min=0, help="Weight of the former answers on them.")] = 1.0,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="By how much accuracy on old and on clean held pairs may drop.")
    ] = 0.01,
    preset: Annotated[str, typer.Option(help="Training recipe: paper or compact.")] = "compact",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over new and old pairs.")] = 10,
    minutes: Annotated[float | None, typer.Option(help="End with the epoch in which so many have passed.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs a step; the preset's by default.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Adam's.")] = 2e-4,
    attack_batch: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 16,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
) -> None:
    """
    Teach a purifier new attacks without forgetting the old ones.

    Nothing is overwritten: to roll an update back is to choose its parent again, which `art-versatile weights` names.
    Where no epoch was better on the new attacks and kept the old ones, nothing is written to OUT/updated.
    """
    from art_versatile.attacks.named import attack_class, parse_attack
    from art_versatile.images import list_images

    parsed = {text: parse_attack(text) for text in attacks}
    if len(parsed) < len(attacks):
        raise ValueError(f"Expected different attacks. Received {attacks}.")
    short_name(classifier)
    common.check_weights(weights)
    common.check_effort(effort)
    check_choices(preset, None, "float32", None, None, "imagenet")
    budget = common.share(eps)
    files = [file for folder in images for file in list_images(folder)][:limit]
    common.load_tensorflow()
    for name, parameters in parsed.values():
        attack_class(name, parameters)
    from art_versatile.attacks import compile_attack, compile_classifier, paper_attacks
    from art_versatile.attacks.named import named_attack
    from art_versatile.classifiers import load_classifier
    from art_versatile.images import load_images
    from art_versatile.pairs import JoinedPairs, PairStore
    from art_versatile.purifier import VersatilePurifier
    from art_versatile.trainer import VersatileTrainer
    from art_versatile.training import RunFolder
    from art_versatile.training.time_limit import TimeLimit

    RunFolder(out, resume=resume)  # refuses one that holds a run, before anything is loaded
    stores = [PairStore(path) for path in old or ()]
    target = compile_classifier(load_classifier(classifier, image_size))
    new = {text: named_attack(text, target, batch_size=attack_batch) for text in attacks}
    names = common.listed(old_attacks) or None
    known = paper_attacks(target, budget, names=names, effort=effort, batch_size=attack_batch)
    trainer = VersatileTrainer(
        target,
        {name: compile_attack(attack) for name, attack in known.items()},
        VersatilePurifier.from_pretrained(weights),
        preset=preset,
        seed=seed,
    )
    found = trainer.update(
        load_images(files, int(target.input_shape[0])),
        new,
        old=JoinedPairs(stores) if stores else None,
        memory=memory,
        distillation=distillation if memory else 0.0,
        tolerance=tolerance,
        batch_size=batch_size,
        nb_epochs=epochs,
        learning_rate=learning_rate,
        callbacks=() if minutes is None else (TimeLimit(minutes),),
        out=out,
        resume=resume,
    )
    rows = ((name, f"{100 * value:.1f}", f"{100 * found.after[name]:.1f}") for name, value in found.before.items())
    held = sum(found.lineage["held"]["pairs"].values())
    common.table(f"accuracy on {held} held pairs, %", ("attack", "before", "after"), rows)
    cost = found.lineage["cost"]
    typer.echo(
        f"{cost['images']} images, {cost['new_pairs']} new and {cost['replayed_pairs']} old pairs, "
        f"{cost['attack_seconds']:.0f} s attacking, {cost['training_seconds']:.0f} s training"
    )
    if not found.accepted:
        typer.echo(
            f"refused: no epoch was better on the new attacks with a drop of at most {tolerance:g} on the old ones; "
            f"nothing written to {out / 'updated'}",
            err=True,
        )
        raise typer.Exit(1)
    trainer.purifier.save(out / "updated")
    typer.echo(f"updated weights: {out / 'updated'}")


@reported()
def reproduce_updates(
    images: Annotated[Path, typer.Argument(help="A folder of photographs.")],
    labels: Annotated[
        Path | None, typer.Argument(help="CSV table of their classes; else the classifier's own answers count.")
    ] = None,
    out: Annotated[Path, common.folder("Folder of the study; one that is there goes on.")] = Path("updates"),
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    classifier: Classifier = "efficientnet_lite0",
    attacks: Annotated[
        str, typer.Option(help="Out of the paper's six, with commas, the first for the purifier to begin with.")
    ] = "FGSM,BIM,PGD,MI-FGSM,C&W,AutoAttack",
    weights: Annotated[
        str | None,
        typer.Option(help="Weights to begin with, which know all of --attacks: those of --then alone are added."),
    ] = None,
    then: Annotated[
        list[str] | None, typer.Option(help="Further attacks, as --attacks of the command update; several times.")
    ] = None,
    eps: Annotated[str, typer.Option(help="L-infinity budget of the first, a share of the pixel range.")] = "8/255",
    effort: Effort = "quick",
    image_size: ImageSize = 256,
    scale: Annotated[str, typer.Option(help="Sizes: smoke, small or full; the options below change them.")] = "small",
    train: Annotated[int | None, typer.Option(min=1, help="Images trained on under each attack.")] = None,
    held: Annotated[int | None, typer.Option(min=1, help="Images held, by which an update stops.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Images of the tables.")] = None,
    base_epochs: Annotated[int | None, typer.Option(min=1, help="Of the first purifier.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of an update, at most.")] = None,
    anew_epochs: Annotated[int | None, typer.Option(min=0, help="Of training anew; 0 leaves it out.")] = None,
    memory: Annotated[int | None, typer.Option(min=1, help="Old pairs replayed, at most.")] = None,
    tolerance: Annotated[float | None, typer.Option(min=0, max=1, help="Drop that is not refused.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the updates.")] = None,
    modes: Annotated[
        str, typer.Option(help="Out of replay and distillation, replay and neither, with commas; all by default.")
    ] = "",
    preset: Annotated[str, typer.Option(help="Training recipe: paper or compact.")] = "compact",
    attack_batch: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 16,
    seed: Seed = 0,
) -> None:
    """Teach a purifier attacks one after another; table what is forgotten and what it costs."""
    import dataclasses

    from art_versatile._checks import check_choice
    from art_versatile.attacks.named import attack_class, parse_attack
    from art_versatile.experiments.updates import SCALES, study_tables, update_study
    from art_versatile.images import labelled_images, list_images, load_images

    given = {
        "train": train, "held": held, "test": test, "base_epochs": base_epochs, "epochs": epochs,
        "anew_epochs": anew_epochs, "memory": memory, "tolerance": tolerance, "learning_rate": learning_rate,
        "modes": common.listed(modes) or None,
    }  # fmt: skip
    check_choice("scale", scale, tuple(SCALES))
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    plan = dataclasses.replace(SCALES[scale], seed=seed, **chosen)
    parsed = [parse_attack(text) for text in then or ()]
    if weights is not None:
        common.check_weights(weights)
        if not parsed:
            raise ValueError("Expected --then, attacks that --weights do not know. Received none.")
    short_name(classifier)
    common.check_effort(effort)
    check_choices(preset, None, "float32", None, None, "imagenet")
    budget = common.share(eps)
    files = list_images(images)
    common.load_tensorflow()
    for name, parameters in parsed:
        attack_class(name, parameters)
    from art_versatile.attacks import compile_attack, compile_classifier, paper_attacks
    from art_versatile.attacks.named import named_attack
    from art_versatile.classifiers import load_classifier
    from art_versatile.purifier import VersatilePurifier

    target = compile_classifier(load_classifier(classifier, image_size))
    size = int(target.input_shape[0])
    names = common.listed(attacks)
    suite = paper_attacks(target, budget, names=names, effort=effort, batch_size=attack_batch)
    compiled = {name: compile_attack(attack) for name, attack in suite.items()}
    further = {text: named_attack(text, target, batch_size=attack_batch) for text in then or ()}
    y = None
    if labels is None:
        x = load_images(files[: plan.images], size)
    else:
        x, y, _ = labelled_images(images, labels, size, limit=plan.images, file=file_column, label=label_column)
    start = None if weights is None else VersatilePurifier.from_pretrained(weights)
    records = update_study(
        target, compiled | further, x, out, labels=y, plan=plan, start=start, known=len(compiled) if start else 1,
        preset=preset,
    )  # fmt: skip
    typer.echo(study_tables(records))
    typer.echo(f"tables: {out / 'updates.md'}; records: {out / 'records.json'}")


@weights.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    inside: Annotated[
        list[Path] | None, typer.Option("--in", help="Folders to look in; the current one by default.")
    ] = None,
) -> None:
    """List the weights that ship and those in folders."""
    if context.invoked_subcommand is not None:
        return
    with reported():
        from art_versatile.lineage import find_weights

        for folder in inside or ():
            if not folder.is_dir():
                raise FileNotFoundError(f"Expected a folder. Received {str(folder)!r}.")
        found = find_weights(inside or [Path()])
        names = {entry.sha256: entry.name for entry in reversed(found)}
        rows = []
        for entry in found:
            last = entry.updates[-1] if entry.updates else None
            parent = "" if last is None else last["parent"]["sha256"]
            rows.append(
                (
                    entry.name,
                    entry.card["architecture"],
                    entry.sha256[:12],
                    f"{names.get(parent, '')} {parent[:12]}".strip(),
                    "" if last is None else ", ".join(last["added"]),
                    str(len(entry.updates)),
                )
            )
        common.table("weights", ("name", "architecture", "SHA-256", "parent", "added", "updates"), rows)


@weights.command()
@reported()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Name of shipped weights, or a folder of weights.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
) -> None:
    """Show what two purifiers do against each attack, as updates measured it on held pairs."""
    from art_versatile.lineage import Listed, accuracy_matrix
    from art_versatile.weights import read_card

    one, other = (Listed(name, read_card(name)) for name in (first, second))
    matrix = accuracy_matrix(one, other)

    def text(value: float | None, form: str = ".1f") -> str:
        return "-" if value is None else f"{100 * value:{form}}"

    rows = [
        (name, text(a), text(b), text(None if a is None or b is None else b - a, "+.1f"))
        for name, (a, b) in matrix.rows.items()
    ]
    common.table("accuracy on held pairs, %", ("attack", first, second, "change"), rows)
    if not matrix.same_pairs:
        typer.echo("The two were measured on other held images: a change of some points says nothing.")
