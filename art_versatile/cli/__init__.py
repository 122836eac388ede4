"""The command ``art-versatile``: one thin layer over the public API."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from art_versatile._version import __version__
from art_versatile.cli import comparing, evaluating, images, reproducing, serving, training, updating

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options at 80 columns
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="One purifier against many adversarial attacks, for the Adversarial Robustness Toolbox.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    # ART warns of frameworks that this package does not use.
    warnings.filterwarnings("ignore", message="PyTorch not found", category=UserWarning)


for _command in (
    evaluating.demo,
    evaluating.evaluate,
    reproducing.reproduce,
    reproducing.paper_table,
    comparing.compare,
    evaluating.certify,
    updating.reproduce_updates,
    images.purify,
    training.pairs,
    training.train,
    training.compare_schedules,
    training.train_super_resolution,
    updating.update,
    serving.app,
    serving.export,
):
    app.command()(_command)
app.add_typer(images.printed, name="printed")
app.add_typer(updating.weights, name="weights")
