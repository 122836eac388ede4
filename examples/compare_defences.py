"""Clean and static accuracy of the purifier, the paper's comparison defences and ART's own, as a table."""

from pathlib import Path
from typing import Annotated, Any

import typer
from art.defences.preprocessor import JpegCompression, SpatialSmoothing, TotalVarMin
from rich.console import Console
from rich.table import Table

from art_versatile import VersatilePurifier, paper_attacks
from art_versatile.attacks.compiled import compile_attack, compile_classifier
from art_versatile.baselines import PixelDeflection, RandomResizing, SuperResolution, WaveletDenoising
from art_versatile.classifiers import load_classifier
from art_versatile.evaluation import Benchmark
from art_versatile.images import labelled_images
from art_versatile.reports import accuracy_table, format_spread

CLIP = (0.0, 1.0)


def defences(model: Any, seed: int, resize_back: bool, total_variation: bool) -> dict[str, Any]:
    """Name -> defence."""
    output_size = "input" if resize_back else None
    made: dict[str, Any] = {
        "VersatilePurifier": VersatilePurifier(),
        "RandomResizing": RandomResizing(output_size=output_size, seed=seed),
        "PixelDeflection (WD+PD)": PixelDeflection.code(seed=seed),
        "PixelDeflection (WD+PD), R-CAM": PixelDeflection.notebook(model, seed=seed),
        "SuperResolution (WD+SR), small": SuperResolution("small", output_size=output_size),
        "SuperResolution (WD+SR), small, resized back": SuperResolution("small", output_size="input"),
        "ablation: SuperResolution (WD+SR), bicubic": SuperResolution("bicubic", output_size=output_size),
        "WaveletDenoising": WaveletDenoising(),
        "ART JpegCompression": JpegCompression(CLIP, quality=50, apply_fit=False),
        "ART SpatialSmoothing": SpatialSmoothing(clip_values=CLIP),
    }
    if total_variation:
        made["ART TotalVarMin"] = TotalVarMin(clip_values=CLIP)
    return made


def main(
    folder: Annotated[Path, typer.Argument(help="Photographs.")],
    labels: Annotated[Path, typer.Argument(help="CSV table with the columns named below.")],
    out: Annotated[Path, typer.Option(help="JSON file of the records; what is there is kept.")] = Path("defences.json"),
    file_column: str = "file",
    label_column: str = "imagenet_index",
    classifier: str = "efficientnet_lite0",
    images: int = 100,
    size: int = 256,
    eps: float = 8 / 255,
    attacks: str = "FGSM,PGD,MI-FGSM",
    max_iter: int = 40,
    evaluations: Annotated[int, typer.Option(help="Evaluations of a random defence: their mean and the worst.")] = 10,
    resize_back: Annotated[
        bool,
        typer.Option(help="RandomResizing and WD+SR back to the images' size, for a classifier of one input size."),
    ] = False,
    total_variation: Annotated[bool, typer.Option(help="Also ART's TotalVarMin: seconds an image.")] = False,
    batch_size: int = 20,
    seed: int = 0,
) -> None:
    """The first ``images`` labelled files. Attacks run once, on the undefended classifier: they know of no defence."""
    x, y, files = labelled_images(folder, labels, size, limit=images, file=file_column, label=label_column)
    target = compile_classifier(load_classifier(classifier, size))
    benchmark = Benchmark(
        classifier=target,
        x=x,
        y=y,
        defences=defences(target.model, seed, resize_back, total_variation),
        dataset=f"{folder.name}, first {len(files)}",
        classifier_name=f"{classifier} at {size}x{size}",
        seed=seed,
        batch_size=batch_size,
        evaluations=evaluations,
        file=out,
    )
    console = Console()
    names = [name.strip() for name in attacks.split(",")]
    suite = paper_attacks(target, eps=eps, max_iter=max_iter, batch_size=batch_size)
    if not set(names) <= set(suite):
        raise typer.BadParameter(f"Expected attacks among {list(suite)}. Received {attacks!r}.")
    with console.status("clean"):
        benchmark.clean()
    for name in names:
        with console.status(name):
            benchmark.run(name, compile_attack(suite[name]))
    records = accuracy_table(benchmark.records)
    result = Table(
        title=f"{records.title}; eps = {eps * 255:.3g}/255",
        caption="One evaluation with its 95% interval; of a random defence the mean and the worst. Static: the attacks "
        "know of no defence; a defence that holds here may fall to one that does.",
    )
    for heading in ("defence", *(row.label for row in records.rows), "worst case per image"):
        result.add_column(heading)
    for index, column in enumerate(records.columns):
        cells = [line[index] for line in records.cells]
        worst = records.worst(index, "inf", eps)
        said = ["–" if cell is None else f"{cell.accuracy:.1%} ({format_spread(cell)})" for cell in cells]
        result.add_row(column.label, *said, "–" if worst is None else f"{worst.accuracy:.1%}")
    console.print(result)


if __name__ == "__main__":
    typer.run(main)
