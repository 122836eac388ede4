"""Clean and static PGD accuracy of the purifier, the paper's comparison defences and ART's own, as a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from art.defences.preprocessor import JpegCompression, SpatialSmoothing, TotalVarMin
from rich.console import Console
from rich.table import Table

from art_versatile import VersatilePurifier, paper_attacks
from art_versatile.attacks import isolated_seed
from art_versatile.attacks.compiled import compile_attack, compile_classifier
from art_versatile.baselines import PixelDeflection, RandomResizing, SuperResolution, WaveletDenoising
from art_versatile.classifiers import load_classifier
from art_versatile.evaluation import hits, wilson_interval
from art_versatile.evaluation.benchmark import Benchmark
from art_versatile.images import list_images, load_images, read_labels

CLIP = (0.0, 1.0)


def defences(
    model: Any, seed: int, resize_back: bool, total_variation: bool
) -> dict[str, tuple[Callable[[], Any], bool]]:
    """Name -> (what makes the defence, whether it is random)."""
    output_size = "input" if resize_back else None
    made: dict[str, tuple[Callable[[], Any], bool]] = {
        "VersatilePurifier": (VersatilePurifier, False),
        "RandomResizing": (lambda: RandomResizing(output_size=output_size, seed=seed), True),
        "PixelDeflection (WD+PD)": (lambda: PixelDeflection.code(seed=seed), True),
        "PixelDeflection (WD+PD), R-CAM": (lambda: PixelDeflection.notebook(model, seed=seed), True),
        "SuperResolution (WD+SR), small": (lambda: SuperResolution("small", output_size=output_size), False),
        "SuperResolution (WD+SR), small, resized back": (lambda: SuperResolution("small"), False),
        "ablation: SuperResolution (WD+SR), bicubic": (
            lambda: SuperResolution("bicubic", output_size=output_size),
            False,
        ),
        "WaveletDenoising": (WaveletDenoising, False),
        "ART JpegCompression": (lambda: JpegCompression(CLIP, quality=50, apply_fit=False), False),
        "ART SpatialSmoothing": (lambda: SpatialSmoothing(clip_values=CLIP), False),
    }
    if total_variation:
        made["ART TotalVarMin"] = (lambda: TotalVarMin(clip_values=CLIP), True)
    return made


def count_correct(benchmark: Benchmark, defence: Any, x: np.ndarray) -> int:
    """Images classified right behind a defence, or None. A batch at a time: a defence may enlarge its images."""
    total = 0
    for start in range(0, len(x), benchmark.batch_size):
        part = slice(start, start + benchmark.batch_size)
        shown = x[part] if defence is None else defence(x[part])[0]
        total += int(hits(benchmark.predict(shown), benchmark.y[part]).sum())
    return total


def main(
    folder: Annotated[Path, typer.Argument(help="Photographs.")],
    labels: Annotated[Path, typer.Argument(help="CSV table with the columns named below.")],
    file_column: str = "file",
    label_column: str = "imagenet_index",
    classifier: str = "efficientnet_lite0",
    images: int = 100,
    size: int = 256,
    eps: float = 8 / 255,
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
    """The first ``images`` labelled files. PGD runs once, on the undefended classifier: it knows of no defence."""
    table = read_labels(labels, file=file_column, label=label_column)
    files = {path.name: path for path in list_images(folder)}
    names = [name for name in table if name in files][:images]
    x = load_images([files[name] for name in names], size)
    y = np.array([table[name] for name in names])

    target = compile_classifier(load_classifier(classifier, size))
    benchmark = Benchmark(
        classifier=target,
        x=x,
        y=y,
        defences={},
        dataset=f"{folder.name}, first {len(x)}",
        classifier_name=f"{classifier} at {size}x{size}",
        seed=seed,
        batch_size=batch_size,
    )
    console = Console()
    with console.status(f"PGD-{max_iter}"):
        attack = paper_attacks(target, eps=eps, max_iter=max_iter, batch_size=batch_size)["PGD"]
        attacked = benchmark.static("PGD", compile_attack(attack))

    def cell(defence: Any, shown: np.ndarray, times: int) -> str:
        correct = [count_correct(benchmark, defence, shown) for _ in range(times)]
        if times > 1:
            return f"{np.mean(correct) / len(y):.1%}, worst {min(correct) / len(y):.1%}"
        low, high = wilson_interval(correct[0], len(y))
        return f"{correct[0] / len(y):.1%} ({100 * low:.0f}–{100 * high:.0f})"

    result = Table(
        title=f"{benchmark.dataset}; {benchmark.classifier_name}; eps = {eps * 255:.3g}/255; n = {len(x)}",
        caption="One evaluation with its 95% interval; of a random defence the mean and the worst of "
        f"{evaluations}. Static: the attack knows of no defence; a defence that holds here may fall to one that does.",
    )
    for column in ("defence", "clean", f"static PGD-{max_iter}"):
        result.add_column(column)
    result.add_row("none", cell(None, x, 1), cell(None, attacked, 1))
    for name, (make, random) in defences(target.model, seed, resize_back, total_variation).items():
        with console.status(name), isolated_seed(seed):  # TotalVarMin draws from NumPy's global generator
            defence = make()
            result.add_row(name, *(cell(defence, shown, evaluations if random else 1) for shown in (x, attacked)))
    console.print(result)


if __name__ == "__main__":
    typer.run(main)
