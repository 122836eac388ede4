"""What several commands share: options, texts to values, errors in one line, what is printed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    import rich.console

# Options of several commands.
Images = Annotated[Path | None, typer.Argument(help="A folder of photographs; by default those of the demonstration.")]
Labels = Annotated[Path | None, typer.Argument(help="CSV table of their classes.")]
FileColumn = Annotated[str, typer.Option(help="Column of the file names.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the class index.")]
PerClass = Annotated[
    int | None, typer.Option(min=1, help="So many images of each class, drawn at random; 5 in the paper.")
]
Stretch = Annotated[
    bool, typer.Option(help="Resize images whole, as the paper does; by default the centre square is kept.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many labelled images.")]
Classifier = Annotated[
    str,
    typer.Option(
        help="Name of a classifier of this package (inception_v3:FILE reads weights), or a .keras file (pixels in 0..1 "
        "to logits; FILE.keras:0,255 for another range)."
    ),
]
Weights = Annotated[str, typer.Option(help="Name of shipped weights, or a folder of weights.")]
ImageSize = Annotated[int, typer.Option(min=32, help="Height and width in pixels.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images attacked at once.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]
Effort = Annotated[str, typer.Option(help="How hard the attacks try: quick or paper.")]
MAX_PIXELS = 50_000_000  # art_versatile.images.MAX_PIXELS, without its imports; a test compares them
EFFORTS = ("quick", "paper")
NONE = "none"
ROWS = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


def folder(text: str) -> Any:
    """The option ``--out``: a folder, made where it is missing."""
    return typer.Option("--out", file_okay=False, help=text)


def fail(error: Exception | str) -> typer.Exit:
    """Print one line; what to raise."""
    typer.secho(f"error: {error}", fg="red", err=True)
    return typer.Exit(2)


@contextlib.contextmanager
def reported(again: str = "call again to go on") -> Iterator[None]:
    """
    Errors that the user can do something about end the command with one line, and Ctrl-C says how to go on.

    :param again: How.
    """
    try:
        yield
    except KeyboardInterrupt as err:
        typer.echo(f"interrupted: {again}", err=True)
        raise typer.Exit(130) from err
    except OSError as err:
        # Without "[Errno 17]": what happened, and where.
        raise fail(f"{err.strerror}: {err.filename}" if err.strerror and err.filename else err) from err
    except (ValueError, TypeError, ModuleNotFoundError, FloatingPointError) as err:
        raise fail(err) from err
    except Exception as err:
        tensorflow = sys.modules.get("tensorflow")  # where it is not loaded, the error is none of its own
        if tensorflow is not None and isinstance(err, tensorflow.errors.OpError):
            raise fail(f"{type(err).__name__}: {_reason(err.message)}") from err
        if type(err) is Exception and str(err).startswith("URL fetch failure"):  # keras.utils.get_file's
            raise fail(
                "Expected a network to download weights of keras.applications from; VGG19's may be a file: "
                f"--vgg19-weights FILE. Received {err}"
            ) from err
        raise


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does, so that it can clean up; a second one does not disturb it there."""

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _reason(message: str) -> str:
    """The line of a TensorFlow error that says what happened; those around it are of its graph."""
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith(("\t", " "))]
    reason = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", lines[-1] if lines else message).strip()
    if "corrupted record" in reason:  # TensorFlow names no file
        reason += "; the command pairs, called again as it was, finds damaged shards and remakes them"
    return reason


def load_tensorflow() -> None:
    """
    Import TensorFlow. What can be refused without it is refused before, as this takes seconds.

    Its start-up notes go straight to the file descriptor, before any setting counts; they are kept back, unless the
    user has set TF_CPP_MIN_LOG_LEVEL or the import fails.
    """
    if "tensorflow" in sys.modules:
        return
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import tensorflow

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def fraction(text: str) -> float:
    """A number, or a quotient of two, as "8/255"."""
    from fractions import Fraction

    try:
        numerator, _, denominator = text.partition("/")
        return float(Fraction(numerator.strip()) / Fraction(denominator.strip() or 1))
    except (ValueError, ZeroDivisionError) as err:
        raise ValueError(f"Expected a number such as 0.03 or 8/255. Received {text!r}.") from err


def share(text: str) -> float:
    """A budget: a share of the pixel range, above 0 and at most 1."""
    value = fraction(text)
    if not 0 < value <= 1:
        raise ValueError(f"Expected eps to be a share of the pixel range, above 0 and at most 1. Received {text!r}.")
    return value


def shares(text: str) -> dict[str, float]:
    """Budgets with commas between them, as "4/255,8/255": each as it is written -> its value."""
    found = {part: share(part) for part in listed(text) or [text]}
    if len(set(found.values())) < text.count(",") + 1:
        raise ValueError(f"Expected different budgets. Received {text!r}.")
    return found


def listed(text: str) -> list[str]:
    """What is between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def named(text: str, form: str) -> tuple[str, str]:
    """A name and a path, as "NAME=PATH"."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError(f"Expected {form}. Received {text!r}.")
    return name, path


def check_weights(name: str) -> str:
    """A purifier's weights are there; whether they are whole, loading them says."""
    shipped = resources.files("art_versatile") / "pretrained"
    if not (shipped / name / "card.json").is_file() and not Path(name).is_dir():
        names = sorted(entry.name for entry in shipped.iterdir() if (entry / "card.json").is_file())
        raise ValueError(f"Expected weights out of {names}, or a folder of weights. Received {name!r}.")
    return name


def check_effort(effort: str) -> str:
    """The effort is one."""
    from art_versatile._checks import check_choice

    return check_choice("effort", effort, EFFORTS)


def chosen_images(
    images: Path | None,
    labels: Path | None,
    file_column: str,
    label_column: str,
    limit: int | None,
    size: int,
    *,
    per_class: int | None = None,
    stretch: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Images, classes, names of the files, name of the set: the user's, or the demonstration's."""
    if images is None and labels is None:
        if per_class is not None or stretch:
            raise ValueError("Expected a folder and a table of labels with --per-class or --stretch. Received neither.")
        from art_versatile.images import demo_images

        return *demo_images(limit or 20, size), "foolbox ImageNet samples"
    if images is None or labels is None:
        raise ValueError("Expected both a folder and a table of labels, or neither. Received one.")
    from art_versatile.images import labelled_images

    drawn: dict[str, Any] = {"per_class": per_class, "stretch": stretch, "seed": seed}
    x, y, names = labelled_images(images, labels, size, limit=limit, file=file_column, label=label_column, **drawn)
    chosen = f"first {len(x)}" if per_class is None else f"{len(x)}, {per_class} of each class, seed {seed}"
    return x, y, names, f"{images.name}, {chosen}" + (", stretched" if stretch else "")


def check_chosen(
    images: Path | None, labels: Path | None, file_column: str, label_column: str, size: int, **drawn: Any
) -> None:
    """Refuse what :func:`chosen_images` would, before TensorFlow is loaded; rows left out are told by it alone."""
    logger = logging.getLogger("art_versatile.images")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        chosen_images(images, labels, file_column, label_column, 1, size, **drawn)
    finally:
        logger.setLevel(level)


def half(x: np.ndarray, y: np.ndarray, rows: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes of all rows, or of every other one, counted from 0 (:data:`ROWS`)."""
    if not len(y[ROWS[rows]]):
        raise ValueError(f"Expected {rows} rows in the table. Received none.")
    return x[ROWS[rows]], y[ROWS[rows]]


def class_names_of(classifier: Any) -> list[str]:
    """ImageNet's where there are as many classes, else numbers."""
    from art_versatile.classifiers import class_names

    names = class_names()
    return names if classifier.nb_classes == len(names) else [f"class {i}" for i in range(classifier.nb_classes)]


def classifier_of_size(name: str, size: int) -> tuple[Any, int, str]:
    """A classifier, the size of its images (its own, where it takes one alone), and what it is called in records."""
    from art_versatile.classifiers import check_classifier_name, load_classifier

    classifier = load_classifier(name, size)
    size = int(classifier.input_shape[0])
    return classifier, size, f"{check_classifier_name(name)} at {size}x{size}"


def say_resumed(file: Path) -> None:
    """Say that a file of results is there and counts."""
    if file.is_file():
        typer.echo(f"{file} is there: going on with it; another --out begins anew", err=True)


def console() -> rich.console.Console:
    """The terminal; a pipe is not folded at 80 columns."""
    from rich.console import Console

    plain = Console()
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Console(width=160)


def table(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print cells as they are, without markup."""
    from rich.table import Table
    from rich.text import Text

    made = Table(*header, title=Text(title))
    for row in rows:
        made.add_row(*map(Text, row))
    console().print(made)
