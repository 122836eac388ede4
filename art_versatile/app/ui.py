"""The page, as Gradio Blocks: one photograph, one classifier, one purifier; three tabs. Imports Gradio."""

from __future__ import annotations

import functools
import html
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from art_versatile.app.chart import chart_html, load_lines
from art_versatile.app.job import Job, StoppedError
from art_versatile.app.photographs import load_photograph
from art_versatile.app.service import ATTACKS, ITERATIVE, THROUGH, UNBOUNDED_ATTACKS, Answer, Attacked, Workbench
from art_versatile.app.verdict import Verdict, adaptive_verdict, static_verdict
from art_versatile.evaluation.metrics import psnr
from art_versatile.reports.pictures import magnification

__all__ = ["build"]

_LOOKED_AFTER, _KEPT_FOR = 300, 3600  # seconds; of files
_MAX_PURIFIED = 1024  # for programs: the side of the square of as many pixels
_QUEUED: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "computation", "api_visibility": "private"}
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_STATIC_HINT = "The attacker knows the classifier, and nothing of the purifier."
_ADAPTIVE_HINT = "The attacker knows both: the gradient goes through the purifier."
# Gradio gives them no name that a screen reader could say.
_NAME_THUMBNAILS = """() => document.querySelectorAll("#setup .gallery-item").forEach(
  (item, index) => item.setAttribute("aria-label", `Photograph ${index + 1}`))"""


@dataclass(frozen=True)
class _Side:
    """What the tabs share."""

    photograph: gr.Image
    classifier: gr.Dropdown
    weights: gr.Dropdown
    session: gr.State
    jobs: dict[str | None, Job]  # of the sessions that are open


@dataclass(frozen=True)
class _Controls:
    """What a tab is told: the attack, its budget, and when."""

    attack: gr.Dropdown
    eps: gr.Slider
    iterations: gr.Slider
    run: gr.Button
    purify: gr.Button
    stop: gr.Button


@dataclass(frozen=True)
class _Results:
    """What a tab shows: verdict, four pictures, three answers (of the clean, attacked and purified one), numbers."""

    verdict: gr.HTML
    clean: gr.Image
    attacked: gr.Image
    difference: gr.Image
    purified: gr.Image
    clean_answer: gr.Label
    attacked_answer: gr.Label
    purified_answer: gr.Label
    numbers: gr.HTML

    @property
    def all(self) -> list[Any]:
        """The components, in the order of the fields."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


def build(bench: Workbench) -> gr.Blocks:
    """
    The page, not yet served.

    :param bench: What it offers.
    """
    with gr.Blocks(
        title="art-versatile", analytics_enabled=False, fill_width=True, delete_cache=(_LOOKED_AFTER, _KEPT_FOR)
    ) as page:
        gr.HTML(
            '<header class="masthead"><h1>art-versatile</h1><p>Attack a photograph, purify it, '
            "and see what the classifier makes of it.</p></header>",
            padding=False,
        )
        with gr.Row():
            with gr.Column(scale=4, elem_id="setup"):
                side = _side(bench)
            with gr.Column(scale=11), gr.Tabs():
                with gr.Tab("Static"):
                    static = _static_tab(bench, side)
                with gr.Tab("Adaptive"):
                    adaptive = _adaptive_tab(bench, side)
                with gr.Tab("Accuracy"):
                    _chart_tab()
        shown = [*static.all, *adaptive.all]
        for trigger in (side.photograph.change, side.classifier.change):
            trigger(
                _guarded(functools.partial(_shown_clean, bench)),
                [side.photograph, side.classifier],
                shown,
                show_progress="minimal",
                show_progress_on=[static.verdict, adaptive.verdict],
                **_QUEUED,
            )
        _api(bench, side)

        def leave(request: gr.Request) -> None:
            if (job := side.jobs.pop(request.session_hash, None)) is not None:
                job.stop()

        page.unload(leave)
        page.load(None, js=_NAME_THUMBNAILS, api_visibility="private")
    return page


def _side(bench: Workbench) -> _Side:
    photograph = _uploaded(
        gr.Image(type="filepath", label="Photograph", sources=["upload", "webcam", "clipboard"], height=250)
    )
    if demonstration := _demonstration():
        gr.Examples(
            demonstration,
            photograph,
            label="Or one of these",
            examples_per_page=len(demonstration),
            api_visibility="private",
        )
    classifier = gr.Dropdown(bench.classifiers, value=bench.classifiers[0], label="Classifier", filterable=False)
    weights = gr.Dropdown(bench.purifiers, value=bench.purifiers[0], label="Purifier's weights", filterable=False)
    return _Side(photograph, classifier, weights, gr.State(Job()), {})


def _uploaded(component: Any) -> Any:
    """A component whose value reaches the functions as the path of an uploaded file, never decoded, never fetched."""
    move = component.async_move_resource_to_block_cache

    async def local(path: Any) -> Any:
        if path is not None and "://" in str(path):
            raise gr.Error("Expected an uploaded file. Received an address.", title="", print_exception=False)
        return await move(path)

    component.preprocess = lambda payload: None if payload is None else payload.path
    component.async_move_resource_to_block_cache = local
    return component


def _demonstration() -> list[str]:
    """The photographs of the package foolbox, or none."""
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        return []
    return sorted(str(file) for file in (Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))


def _controls(attacks: Sequence[str], run: str, *, purify: bool) -> _Controls:
    with gr.Row(equal_height=True):
        attack = gr.Dropdown(list(attacks), value="PGD", label="Attack", filterable=False, min_width=190)
        eps = gr.Slider(1, 32, 8, step=1, label="eps, 255ths", min_width=190)
        iterations = gr.Slider(1, 100, 10, step=1, label="Iterations", min_width=190)
    with gr.Row():
        first = gr.Button(run, variant="primary", scale=3, min_width=100)
        second = gr.Button("Purify", scale=3, min_width=100, interactive=False, visible=purify)
        return _Controls(attack, eps, iterations, first, second, gr.Button("Stop", scale=1, min_width=80))


def _results(hint: str, last: str) -> _Results:
    verdict = gr.HTML(_verdict_html(None, hint), padding=False)
    pictures: list[Any] = []
    answers: list[Any] = []
    with gr.Row(elem_classes="shots"):
        for title in ("Clean", "Attacked", "Difference, magnified", last):
            with gr.Column(elem_classes="shot", min_width=150):
                buttons = ["download", "fullscreen"]
                pictures.append(gr.Image(label=title, format="png", interactive=False, height=238, buttons=buttons))
                if len(pictures) == 3:
                    numbers = gr.HTML(padding=False)
                else:
                    label = f"{title}: top five"
                    answers.append(gr.Label(label=label, num_top_classes=5, show_label=False, elem_classes="answer"))
    return _Results(*[verdict, *pictures, *answers, numbers])


def _static_tab(bench: Workbench, side: _Side) -> _Results:
    controls = _controls(ATTACKS, "Attack", purify=True)
    shown = _results(_STATIC_HINT, "Purified")
    attacked = gr.State(None, time_to_live=_KEPT_FOR)

    def applicable(name: str) -> tuple[Any, Any]:
        return gr.update(interactive=name not in UNBOUNDED_ATTACKS), gr.update(interactive=name in ITERATIVE)

    def work(
        job: Job, path: str | None, classifier: str, name: str, levels: float, steps: float, progress: Any
    ) -> list[Any]:
        image = load_photograph(path or "", bench.image_size(classifier))
        job.report = lambda done, text: progress(done, desc=text)
        made = bench.attack(image, classifier, name, eps=levels / 255, iterations=int(steps), job=job)
        answers = [_label(made.clean_answer), _label(made.answer), None]
        verdict, numbers = _verdict_html(static_verdict(made)), _numbers_html(_numbers(made))
        return [verdict, *_pictures(made), None, *answers, numbers, made, gr.update(interactive=True)]

    def restore(made: Attacked | None, classifier: str, weights: str) -> list[Any]:
        if made is None:
            raise ValueError("Attack the photograph first.")
        started = time.perf_counter()
        purified = bench.purify(made.image, weights)
        seconds = time.perf_counter() - started
        answer = bench.classify(purified, classifier)
        numbers = {**_numbers(made), "PSNR, purified": _db(purified, made.clean), "Time, purifier": f"{seconds:.1f} s"}
        verdict = _verdict_html(static_verdict(made, answer))
        return [verdict, _levels(purified), _label(answer), _numbers_html(numbers)]

    controls.attack.change(applicable, controls.attack, [controls.eps, controls.iterations], **_AT_ONCE)
    chosen = [side.photograph, side.classifier, controls.attack, controls.eps, controls.iterations]
    _wire(controls, side, chosen, [*shown.all, attacked, controls.purify], work)
    controls.purify.click(
        _guarded(restore),
        [attacked, side.classifier, side.weights],
        [shown.verdict, shown.purified, shown.purified_answer, shown.numbers],
        show_progress_on=[shown.purified],
        **_QUEUED,
    )
    for trigger in (side.photograph.change, side.classifier.change):  # what was attacked is no longer shown
        trigger(lambda: (None, gr.update(interactive=False)), None, [attacked, controls.purify], **_AT_ONCE)
    return shown


def _adaptive_tab(bench: Workbench, side: _Side) -> _Results:
    controls = _controls(THROUGH, "Attack through the purifier", purify=False)
    shown = _results(_ADAPTIVE_HINT, "Attacked, then purified")

    def work(
        job: Job, path: str | None, classifier: str, weights: str, name: str, levels: float, steps: float, progress: Any
    ) -> list[Any]:
        image = load_photograph(path or "", bench.image_size(classifier))
        job.report = lambda done, text: progress(done, desc=text)
        job.step(0, "loading the classifier and the purifier")
        before = bench.classify(bench.purify(image, weights), classifier)
        made = bench.attack_through(image, classifier, weights, name, eps=levels / 255, iterations=int(steps), job=job)
        purified = bench.purify(made.image, weights)
        after = bench.classify(purified, classifier)
        answers = [_label(made.clean_answer), _label(made.answer), _label(after)]
        numbers = {**_numbers(made), "PSNR, purified": _db(purified, made.clean)}
        verdict = _verdict_html(adaptive_verdict(made, before, after))
        return [verdict, *_pictures(made), _levels(purified), *answers, _numbers_html(numbers)]

    chosen = [side.photograph, side.classifier, side.weights, controls.attack, controls.eps, controls.iterations]
    _wire(controls, side, chosen, shown.all, work)
    return shown


def _wire(
    controls: _Controls, side: _Side, inputs: list[Any], outputs: list[Any], work: Callable[..., list[Any]]
) -> None:
    """
    One button that works and one that stops; each session has one job at a time.

    :param work: (job, values of the inputs, progress bar) -> values of the outputs, of which the first is the verdict.
    """
    bar = gr.Progress()

    def begin(job: Job, request: gr.Request) -> tuple[Job, str]:
        job.stop()
        side.jobs[request.session_hash] = job = Job()
        return job, _verdict_html(None)

    def go(job: Job, progress: Any = bar, *values: Any) -> Any:  # Gradio puts the bar in this place
        try:
            job.step(0, "waiting")
            return work(job, *values, progress)
        except StoppedError:
            return [_verdict_html(None, "Stopped."), *[gr.skip() for _ in outputs[1:]]]
        finally:
            job.report = None

    # Not queued: it comes before those who wait, and so does a stop.
    started = controls.run.click(begin, side.session, [side.session, outputs[0]], **_AT_ONCE)
    started.then(_guarded(go), [side.session, *inputs], outputs, show_progress_on=[outputs[0]], **_QUEUED)
    controls.stop.click(lambda job: job.stop(), side.session, None, **_AT_ONCE)


def _chart_tab() -> None:
    label = "records.json of an evaluation (art-versatile demo, evaluate or reproduce)"
    file = _uploaded(gr.File(label=label, file_types=[".json"], height=130))
    chart = gr.HTML('<p class="hint">A line for each attack in L∞ and each defence, from clean images on.</p>')

    def draw(path: str | None) -> str:
        return "" if path is None else chart_html(load_lines(path))

    file.change(_guarded(draw), file, chart, api_visibility="private")


def _api(bench: Workbench, side: _Side) -> None:
    """The two endpoints for programs, of components that nobody sees."""
    with gr.Row(visible=False):
        photograph = _uploaded(gr.Image(type="filepath", label="Photograph"))
        answer = gr.Label(num_top_classes=5, label="Answer")
        picture = gr.Image(format="png", type="numpy", label="Purified photograph")
        ask, purify = gr.Button("Classify"), gr.Button("Purify")

    def classify(photograph: str | None, classifier: str) -> dict[str, float]:
        return _label(bench.classify(load_photograph(photograph or "", bench.image_size(classifier)), classifier))

    def purified(photograph: str | None, weights: str) -> np.ndarray:
        return _levels(bench.purify(load_photograph(photograph or "", largest=_MAX_PURIFIED), weights))

    open_to_programs = {**_QUEUED, "api_visibility": "public"}
    ask.click(
        _guarded(classify),
        [photograph, side.classifier],
        answer,
        api_name="classify",
        api_description="The five likeliest classes of a photograph, and their probabilities.",
        **open_to_programs,
    )
    purify.click(
        _guarded(purified),
        [photograph, side.weights],
        picture,
        api_name="purify",
        api_description="A photograph purified at its own size; one of more than a megapixel is reduced to one.",
        **open_to_programs,
    )


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, what it refuses said on the page in one sentence; of any other error the page says no more."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError, ModuleNotFoundError, FileNotFoundError) as err:
            raise gr.Error(html.escape(str(err), quote=False), title="", print_exception=False) from err

    return guarded


def _shown_clean(bench: Workbench, path: str | None, classifier: str) -> list[Any]:
    """A new photograph on both tabs, and nothing attacked yet."""
    said, picture, label = "", None, None
    if path is not None:
        image = load_photograph(path, bench.image_size(classifier))
        answer = bench.classify(image, classifier)
        said, picture, label = f"The classifier says {answer}. ", _levels(image), _label(answer)
    parts: list[Any] = []
    for hint in (_STATIC_HINT, _ADAPTIVE_HINT):
        parts += [_verdict_html(None, said + hint), picture, None, None, None, label, None, None, ""]
    return parts


def _pictures(made: Attacked) -> list[np.ndarray]:
    """Clean, attacked, magnified difference, as levels."""
    change = made.image - made.clean
    return [_levels(made.clean), _levels(made.image), _levels(0.5 + magnification(change) * change)]


def _levels(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _label(answer: Answer) -> dict[str, float]:
    return dict(answer.top)


def _db(image: np.ndarray, clean: np.ndarray) -> str:
    value = psnr(image[None], clean[None])
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def _numbers(made: Attacked) -> dict[str, str]:
    return {
        "Magnified": f"×{magnification(made.image - made.clean)}",
        "Largest change": f"{made.largest_change:.1f}/255",
        "PSNR, attacked": _db(made.image, made.clean),
        "Time, attack": f"{made.seconds:.1f} s",
    }


def _numbers_html(numbers: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in numbers.items())
    return f'<dl class="numbers">{rows}</dl>'


def _verdict_html(verdict: Verdict | None, hint: str = "") -> str:
    winner, said = "", html.escape(hint)
    if verdict is not None:
        winner = f" {verdict.winner}"
        said = f"<strong>{html.escape(verdict.headline)}.</strong>{html.escape(verdict.text)}"
    return f'<div class="verdict{winner}" role="status"><p>{said}</p></div>'
