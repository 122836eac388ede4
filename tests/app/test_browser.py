"""The app in a browser: Chromium as the system has it (its path in CHROMIUM, or Debian's)."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
if shutil.which(CHROMIUM) is None:
    pytest.skip(f"no browser at {CHROMIUM}", allow_module_level=True)

pytestmark = pytest.mark.slow
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WAIT = 60_000  # ms: the machine may be busy
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def opened(browser, served):
    """Opens pages in sessions of their own, and at the end looks at what went wrong in them."""
    wrong, contexts = [], []

    def open_page(viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((served, "data:", "blob:")) else wrong.append(f"asked for {request.url}")
            ),
        )
        page.goto(served)
        button(page, "Attack").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def choose(page, file, says):
    page.locator("#setup input[type=file]").first.set_input_files(file)
    verdict(page).filter(has_text=f"The classifier says “{says}”").wait_for()


def verdict(page):
    return page.locator(".verdict:visible")


def answers(page):
    """Of the clean, the attacked and the purified picture, as far as there are any."""
    return page.locator("[data-testid=label-output-value]:visible").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_from_photograph_to_verdict(opened, red_file, viewport, scheme):
    page = opened(viewport, color_scheme=scheme)
    choose(page, red_file, "red")
    assert answers(page) == ["red"]
    assert button(page, "Purify").is_disabled()
    button(page, "Attack").click()
    verdict(page).filter(has_text="The classifier is fooled").wait_for()
    before, after = answers(page)
    assert before == "red" != after
    button(page, "Purify").click()
    verdict(page).filter(has_text="The purifier wins").wait_for()
    assert answers(page) == ["red", after, "red"]
    assert "PSNR, purified" in page.locator(".numbers:visible").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(part) for part in background.strip("rgba()").split(",")[:3]])
    assert (brightness < 128) == (scheme == "dark")


def test_adaptive_and_stop(opened, red_file):
    page = opened()
    choose(page, red_file, "red")
    page.get_by_role("tab", name="Adaptive").click()
    page.locator("input[type=number]:visible").nth(1).fill("100")
    page.locator("input[type=number]:visible").nth(0).fill("32")
    button(page, "Attack through the purifier").click()
    verdict(page).filter(has_text="The attacker wins").wait_for()
    assert answers(page)[0] == "red" != answers(page)[2]
    button(page, "Attack through the purifier").click()
    page.locator(".progress-text:visible, .progress-level:visible").first.wait_for()
    button(page, "Stop").click()
    verdict(page).filter(has_text="Stopped.").wait_for()


def test_two_people_do_not_mix(opened, red_file, red, tmp_path):
    Image.fromarray((red[..., [1, 2, 0]] * 255).round().astype(np.uint8)).save(tmp_path / "blue.png")
    pages = {"red": opened(), "blue": opened()}
    choose(pages["red"], red_file, "red")
    choose(pages["blue"], tmp_path / "blue.png", "blue")
    for page in pages.values():
        button(page, "Attack").click()
    for page in pages.values():
        verdict(page).filter(has_text="The classifier is fooled").wait_for()
    for page in pages.values():
        button(page, "Purify").click()
    for colour, page in pages.items():
        verdict(page).filter(has_text="The purifier wins").wait_for()
        before, attacked, after = answers(page)
        assert before == after == colour != attacked


def test_keyboard_alone(opened):
    pytest.importorskip("foolbox")  # its photographs can be chosen without a file dialogue
    page = opened()

    def tab_to(name):
        for _ in range(80):
            page.keyboard.press("Tab")
            focused = "e => e.tagName === 'BUTTON' && (e.getAttribute('aria-label') || e.innerText || '').trim()"
            if page.evaluate(f"({focused})(document.activeElement)") == name:
                return
        raise AssertionError(f"{name} is out of reach")

    page.locator("#setup [aria-label='Photograph 2']").wait_for()
    tab_to("Photograph 2")
    page.keyboard.press("Enter")
    verdict(page).filter(has_text="The classifier says").wait_for()
    tab_to("Attack")
    page.keyboard.press("Enter")
    verdict(page).filter(has_text="PGD at 8/255").wait_for()


def test_a_bad_file_gets_a_sentence(opened, tmp_path):
    page = opened()
    (tmp_path / "text.png").write_text("hello")
    page.locator("#setup input[type=file]").first.set_input_files(tmp_path / "text.png")
    page.get_by_text("Received a file that is none of these.").first.wait_for()
    assert "Traceback" not in page.content()


def test_chart(opened, tmp_path):
    from art_versatile.evaluation.records import EvaluationRecord, save_records

    one = {"dataset": "photographs", "n": 20, "classifier": "a classifier", "defence": "a purifier", "attack": "PGD"}
    one |= {"threat_model": "adaptive", "norm": "inf"}
    records = [EvaluationRecord(**one, correct=20 - eps, eps=eps / 255) for eps in (2, 4, 8)]
    save_records(records, tmp_path / "records.json")
    page = opened()
    page.get_by_role("tab", name="Accuracy").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "records.json")
    page.get_by_role("img", name="Accuracy against eps").wait_for()
    assert page.locator(".chart circle").count() == 3
    page.get_by_text("The numbers").click()
    assert page.locator(".chart td:visible").count() == 21
