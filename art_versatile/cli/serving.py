"""Commands that bring a purifier to where it is used: app, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from art_versatile.cli import common
from art_versatile.cli.common import Classifier, ImageSize, Seed, Weights, reported

__all__ = ["app", "export"]


@reported("the app has ended")
def app(
    classifier: Classifier = "efficientnet_lite0",
    weights: Weights = "compact",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    image_size: ImageSize = 256,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page on this machine alone: attack a photograph, purify it, attack through the purifier."""
    from art_versatile.app import launch
    from art_versatile.classifiers import check_classifier_name

    check_classifier_name(classifier)
    common.check_weights(weights)
    with common.ended_by_sigterm():
        page = launch(classifier, weights, port, image_size=image_size, open_browser=open_browser, block=False)
        try:
            typer.echo(f"{page.local_url} (Ctrl-C ends it)")
            page.block_thread()
        except KeyboardInterrupt:
            pass  # how a server ends; Gradio swallows it too, but not before it waits
        finally:
            page.close()


@reported("call again; nothing has been written")
def export(
    out: Annotated[Path, typer.Option(help="A new file .onnx or .tflite, or a new folder of a SavedModel.")],
    weights: Weights = "compact",
    format_: Annotated[str, typer.Option("--format", help="savedmodel, onnx or tflite.")] = "savedmodel",
    classifier: Annotated[
        str | None, typer.Option(help="Put it behind the purifier: a classifier of this package, or a .keras file.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=32, help="Height and width in pixels; any by default, or the classifier's own.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photographs to compare on; by default those of the demonstration.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Write a purifier, alone or with a classifier, into one file that runs without this package; compare answers."""
    from art_versatile.classifiers import check_classifier_name
    from art_versatile.export import check_export
    from art_versatile.images import list_images

    common.check_weights(weights)
    check_export(out, format_)
    if classifier is not None:
        check_classifier_name(classifier)
    files = None if images is None else list_images(images)
    common.load_tensorflow()
    from art_versatile.classifiers import load_classifier
    from art_versatile.export import export as write
    from art_versatile.images import load_images
    from art_versatile.purifier import VersatilePurifier

    target = None if classifier is None else load_classifier(classifier, image_size or 224)
    # A model in a file may take one size alone.
    own = None if target is None else target.model.input_shape[1]
    made = write(
        VersatilePurifier.from_pretrained(weights),
        out,
        format_,
        classifier=target,
        image_size=image_size,
        images=None if files is None else load_images(files, image_size or own or 224),
        seed=seed,
    )
    facts = made.facts
    labels = "" if classifier is None else f", the same label on {facts['same_labels']} of {facts['n']}"
    typer.echo(f"{made.path}: {facts['bytes'] / 1e6:.1f} MB, {facts['image_size'] or 'any'} pixels high and wide")
    typer.echo(f"compared on {facts['images']}: largest difference {facts['largest_difference']:.2g}{labels}")
    typer.echo(f"report: {made.report}")
