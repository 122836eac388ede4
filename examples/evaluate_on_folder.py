"""Every attack that this package has, adaptive ones too, on your own defence and a folder of labelled photographs."""

from pathlib import Path
from typing import Annotated

import typer
from art.defences.preprocessor import JpegCompression
from rich.console import Console

from art_versatile import VersatilePurifier
from art_versatile.classifiers import load_classifier
from art_versatile.experiments.robustness import Plan, evaluate
from art_versatile.images import labelled_images
from art_versatile.reports import tables_by_threat_model


def main(
    folder: Annotated[Path, typer.Argument(help="Photographs.")],
    labels: Annotated[Path, typer.Argument(help="CSV table with the columns named below.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and records.json.")] = Path("evaluation"),
    file_column: str = "file",
    label_column: str = "imagenet_index",
    classifier: str = "efficientnet_lite0",
    images: int = 20,
    size: int = 256,
    eps: float = 8 / 255,
    threats: str = "static,query,adaptive",
    seed: int = 0,
) -> None:
    """The first ``images`` labelled files. ART's JPEG compression stands for the defence that you would add."""
    x, y, names = labelled_images(folder, labels, size, limit=images, file=file_column, label=label_column)
    found = evaluate(
        load_classifier(classifier, size),
        {"VersatilePurifier": VersatilePurifier(), "JPEG": JpegCompression((0.0, 1.0), quality=50)},
        x,
        y,
        out,
        Plan(eps=eps, threats=threats.split(","), seed=seed),
        dataset=f"{folder.name}, first {len(names)}",
        classifier_name=f"{classifier} at {size}x{size}",
        names=names,
    )
    console = Console()
    for table in tables_by_threat_model(found.records):
        console.print(table.to_rich())
    for check in found.checks:
        console.print(f"{check.defence}: {check.name}: {check.passed}; {check.said}")
    for sentence in found.verdicts:
        console.print(sentence)


if __name__ == "__main__":
    typer.run(main)
