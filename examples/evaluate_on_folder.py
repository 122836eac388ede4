"""Static and adaptive accuracy of the purifier on a folder of labelled ImageNet photographs, as a table."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from art.attacks.evasion import ProjectedGradientDescent
from rich.console import Console

from art_versatile import VersatilePurifier, paper_attacks
from art_versatile.attacks.compiled import compile_attack, compile_classifier
from art_versatile.classifiers import load_classifier
from art_versatile.evaluation.benchmark import Benchmark
from art_versatile.evaluation.records import save_records
from art_versatile.images import list_images, load_images, read_labels
from art_versatile.reports.tables import accuracy_table
from art_versatile.trainer import defend


def main(
    folder: Annotated[Path, typer.Argument(help="Photographs.")],
    labels: Annotated[Path, typer.Argument(help="CSV table with the columns named below.")],
    out: Annotated[Path, typer.Option(help="JSON file for the records.")] = Path("records.json"),
    file_column: str = "file",
    label_column: str = "imagenet_index",
    weights: str = "compact",
    classifier: str = "efficientnet_lite0",
    images: int = 100,
    size: int = 256,
    eps: float = 8 / 255,
    attacks: Annotated[str, typer.Option(help="Static attacks, out of the paper's six.")] = "FGSM,PGD,MI-FGSM",
    max_iter: int = 40,
    adaptive_iterations: Annotated[int, typer.Option(help="PGD through the purifier; 0 leaves it out.")] = 20,
    batch_size: int = 20,
    seed: int = 0,
) -> None:
    """The first ``images`` labelled files, in the order of the table."""
    table = read_labels(labels, file=file_column, label=label_column)
    files = {path.name: path for path in list_images(folder)}
    names = [name for name in table if name in files][:images]
    x = load_images([files[name] for name in names], size)
    y = np.array([table[name] for name in names])

    target = compile_classifier(load_classifier(classifier, size))
    purifier = VersatilePurifier.from_pretrained(weights)
    benchmark = Benchmark(
        classifier=target,
        x=x,
        y=y,
        defences={"VersatilePurifier": purifier},
        dataset=f"{folder.name}, first {len(x)}",
        classifier_name=f"{classifier} at {size}x{size}",
        seed=seed,
    )
    console = Console()
    benchmark.clean()
    suite = paper_attacks(target, eps=eps, max_iter=max_iter, batch_size=batch_size)
    for name in attacks.split(","):
        with console.status(name):
            benchmark.static(name, compile_attack(suite[name]))
        save_records(benchmark.records, out)
    if adaptive_iterations:
        through = ProjectedGradientDescent(
            compile_classifier(defend(target, purifier)),
            eps=eps,
            eps_step=eps / 4,
            max_iter=adaptive_iterations,
            num_random_init=1,
            batch_size=batch_size,
            verbose=False,
        )
        with console.status("PGD through the purifier"):
            benchmark.adaptive("PGD through the purifier", "VersatilePurifier", through)
        save_records(benchmark.records, out)
    console.print(accuracy_table(benchmark.records).to_rich())


if __name__ == "__main__":
    typer.run(main)
