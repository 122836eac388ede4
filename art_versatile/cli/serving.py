"""The command that serves the app."""

from __future__ import annotations

from typing import Annotated

import typer

from art_versatile.cli import common
from art_versatile.cli.common import Classifier, ImageSize, Weights, reported

__all__ = ["app"]


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
    from art_versatile.classifiers import check_classifier

    check_classifier(classifier)
    common.check_weights(weights)
    page = launch(classifier, weights, port, image_size=image_size, open_browser=open_browser, block=False)
    typer.echo(f"{page.local_url} (Ctrl-C ends it)")
    page.block_thread()
    page.close()
