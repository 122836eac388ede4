"""
Serve the page, on this machine alone.

It binds 127.0.0.1, shares nothing, counts nobody, and asks for nothing from elsewhere: it works without a network.
Uploads are bounded, and lie in a folder of this run that is emptied on the way and goes at its end.

A program has the same by Gradio's own API, ``/classify`` and ``/purify``::

    from gradio_client import Client, handle_file

    app = Client("http://127.0.0.1:7860")
    answer = app.predict(handle_file("cat.jpg"), api_name="/classify")
    print(answer["label"], answer["confidences"])  # the five likeliest classes
    path = app.predict(handle_file("cat.jpg"), api_name="/purify")  # a PNG file in a temporary folder
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from art_versatile._checks import check_integer
from art_versatile.app.photographs import MAX_BYTES
from art_versatile.app.service import Workbench
from art_versatile.app.style import CSS, FONT, FONT_MONO
from art_versatile.classifiers import check_classifier_name, load_classifier

__all__ = ["launch", "workbench"]

_PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def launch(
    classifier: Any = None,
    weights: Any = "compact",
    port: int = 7860,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int = 256,
    open_browser: bool = False,
    block: bool = True,
) -> Any:
    """
    Serve the app on http://127.0.0.1:port until interrupted. One app at a time in a process: Gradio's folder of uploads
    is the process's.

    :param classifier: An ART classifier with logits, ``clip_values=(0, 1)``, channels last; a ``.keras`` file; or the
        name of a classifier of this package. Offered first, before the package's EfficientNets.
    :param weights: Name of shipped weights, a folder of weights, an ART preprocessor, or a list of these. Offered
        first, before the other weights that ship.
    :param port: 1 to 65535; 0 takes a free one.
    :param class_names: Of the classifier's classes.
    :param image_size: Height and width in pixels, where a classifier takes any.
    :param open_browser: Open the page in the user's browser.
    :param block: Return when it has ended; False returns at once, and ``close()`` of what it returns ends it.
    :return: The Gradio app; its ``local_url`` says where it is.
    :raises ModuleNotFoundError: If Gradio is missing.
    :raises FileNotFoundError: If there is no such file or folder.
    :raises ValueError: If a parameter is out of range, or names nothing that there is.
    :raises OSError: If the port is in use.
    """
    if not 0 <= check_integer("port", port, 0) < 65536:
        raise ValueError(f"Expected port to be an integer from 0 to 65535. Received {port!r}.")
    gr = _gradio()
    bench = workbench(classifier, weights, class_names=class_names, image_size=image_size)
    from art_versatile.app.ui import build

    folder = tempfile.TemporaryDirectory(prefix="art-versatile-app-")  # readable by this user alone
    former = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    page = build(bench)
    page.queue(max_size=32)
    page.launch(
        server_name="127.0.0.1",
        server_port=port or _free_port(),
        share=False,
        inbrowser=open_browser,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=MAX_BYTES,
        max_threads=8,
        theme=_theme(gr),
        css=CSS,
        prevent_thread_lock=True,
    )
    close = page.close

    def close_and_delete(*args: Any, **kwargs: Any) -> None:
        close(*args, **kwargs)
        folder.cleanup()
        if former is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = former

    page.close = close_and_delete
    if block:
        try:
            page.block_thread()
        finally:
            folder.cleanup()
    return page


def workbench(
    classifier: Any = None, weights: Any = "compact", *, class_names: Sequence[str] | None = None, image_size: int = 256
) -> Workbench:
    """
    The classifiers and purifiers that the page offers; none is loaded yet.

    :param classifier: See :func:`launch`, also for the others.
    :param weights: What :func:`launch` takes.
    :param class_names: Of the classifier's classes.
    :param image_size: Height and width in pixels, at least 32.
    :raises FileNotFoundError: If there is no such file or folder.
    :raises ValueError: If there is no classifier of that name.
    """
    check_integer("image_size", image_size, 32)
    classifiers = {**_given_classifier(classifier, image_size)}
    for name in _PACKAGED:
        classifiers.setdefault(name, _loader(name, image_size))
    return Workbench(classifiers, _given_purifiers(weights), class_names=class_names)


def _given_classifier(classifier: Any, image_size: int) -> dict[str, Callable[[], Any]]:
    if classifier is None:
        return {}
    if not isinstance(classifier, str | Path):
        return {"your classifier": lambda: classifier}
    return {check_classifier_name(classifier): _loader(classifier, image_size)}


def _loader(name: str | Path, image_size: int) -> Callable[[], Any]:
    return lambda: load_classifier(name, image_size)


def _given_purifiers(weights: Any) -> dict[str, Callable[[], Any]]:
    from art_versatile.weights import CARD, pretrained_names

    def loader(name_or_path: str | Path) -> Callable[[], Any]:
        def load() -> Any:
            from art_versatile.purifier import VersatilePurifier

            return VersatilePurifier.from_pretrained(name_or_path, batch_size=1)

        return load

    purifiers: dict[str, Callable[[], Any]] = {}
    shipped = pretrained_names()
    for given in weights if isinstance(weights, list | tuple) else [weights]:
        if not isinstance(given, str | Path):
            purifiers[type(given).__name__] = lambda given=given: given  # type: ignore[misc]
        elif str(given) in shipped:
            purifiers[str(given)] = loader(given)
        elif (Path(given) / CARD).is_file():
            purifiers[Path(given).resolve().name] = loader(Path(given).resolve())
        else:
            raise FileNotFoundError(f"Expected one of {shipped} or a folder with a {CARD}. Received {str(given)!r}.")
    for name in shipped:
        purifiers.setdefault(name, loader(name))
    return purifiers


def _gradio() -> Any:
    """Gradio, told before it is imported to count nobody and to ask nothing of the network."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ModuleNotFoundError as err:
        if err.name != "gradio":
            raise
        raise ModuleNotFoundError(
            "Expected the package gradio (pip install 'art-versatile[app]'). Received an environment without it."
        ) from err
    return gradio


def _theme(gr: Any) -> Any:
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="sm", font=FONT, font_mono=FONT_MONO)
    # Gradio's own are too pale on white, and too dark on black, to be read with ease (WCAG 2.2 asks for 4.5 to 1).
    button = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    return theme.set(
        **button,
        **{f"{name}_dark": value for name, value in button.items()},
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
