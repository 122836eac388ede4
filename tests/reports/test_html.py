from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from art_versatile.evaluation.records import Check, EvaluationRecord
from art_versatile.reports.html import CITATIONS, Panel, Prediction, magnification, write_report
from art_versatile.reports.tables import PAPER_TABLE_2, accuracy_table

PURIFIER = "VersatilePurifier(compact)"
FIGURES = {"clean": (20, 18), "FGSM": (3, 11), "PGD": (0, 13), "C&W": (1, 16)}
VOID = {"br", "hr", "img", "link", "meta", "wbr"}


def records() -> list[EvaluationRecord]:
    made = []
    for attack, figures in FIGURES.items():
        for defence, correct in zip(("none", PURIFIER), figures, strict=True):
            clean = attack == "clean"
            budget: dict[str, Any] = {} if clean else {"norm": "inf", "eps": 8 / 255}
            if attack == "C&W":
                budget = {"norm": "2"}
            made.append(
                EvaluationRecord(
                    dataset="photographs",
                    n=20,
                    classifier="EfficientNet-Lite0",
                    defence=defence,
                    defence_parameters={} if defence == "none" else {"generator": "compact"},
                    attack=attack,
                    attack_parameters={} if clean else {"max_iter": 10, **budget},
                    preset=None if clean else "quick",
                    threat_model="clean" if clean else "static",
                    correct=correct,
                    psnr=math.inf if clean and defence == "none" else 30 + correct / 10,
                    mae=0.0 if clean and defence == "none" else correct / 1000,
                    ssim=0.912,
                    seconds=1.25,
                    seed=7,
                    versions={"numpy": "2.4.0"},
                    **budget,
                )
            )
    return made


def adaptive(attack: str, correct: int, defence: str = PURIFIER, **more: Any) -> EvaluationRecord:
    facts: dict[str, Any] = {
        "dataset": "photographs",
        "n": 20,
        "classifier": "EfficientNet-Lite0",
        "defence": defence,
        "defence_parameters": {"generator": "compact"},
        "attack": attack,
        "norm": "inf",
        "eps": 8 / 255,
        "threat_model": "adaptive",
        "correct": correct,
    }
    return EvaluationRecord(**{**facts, **more})


def panel(side: int = 120, eps: float = 8 / 255, **changes: Any) -> Panel:
    rng = np.random.default_rng(side)
    clean = 0.2 + 0.6 * rng.random((side, side, 3))
    signs = rng.choice([-1.0, 1.0], size=clean.shape)
    arguments: dict[str, Any] = {
        "name": "dog.jpg",
        "attack": "PGD",
        "clean": clean,
        "adversarial": clean + eps * signs,
        "purified": (clean + 0.5) / 2,
        "true_label": "bullmastiff",
        "clean_prediction": Prediction(label="bullmastiff", confidence=0.931),
        "adversarial_prediction": Prediction(label="tench", confidence=0.99),
        "purified_prediction": Prediction(label="crane", confidence=None, correct=True),
    }
    return Panel(**{**arguments, **changes})


class Page(HTMLParser):
    """The page's elements as (tag, attributes, text inside), and whether every tag is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.problems: list[str] = []
        self.feed(source)
        self.close()
        self.problems += [f"<{tag}> left open" for tag, _, _ in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element: tuple[str, dict[str, str], list[str]] = (tag, {k: v or "" for k, v in attrs}, [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1][0] if self.open else 'nothing'}")
        else:
            self.open.pop()
            if tag in {"td", "th", "dt", "dd"}:
                self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def find(self, tag: str, **attributes: str) -> list[str]:
        return [
            " ".join("".join(text).split())
            for name, attrs, text in self.elements
            if name == tag and all(attrs.get(key.rstrip("_").replace("_", "-")) == v for key, v in attributes.items())
        ]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs, _ in self.elements if name == tag]

    def inside(self, identity: str) -> str:
        return " ".join(" ".join("".join(text).split()) for _, a, text in self.elements if a.get("id") == identity)


def written(tmp_path: Path, *arguments: Any, **options: Any) -> tuple[Page, str]:
    source = write_report(tmp_path / "report.html", *arguments, **options).read_text(encoding="utf-8")
    return Page(source), source


def decoded(source: str) -> Image.Image:
    head, data = source.split(",", 1)
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    assert image.format is not None
    assert image.format.lower() == head[len("data:image/") : head.index(";")]
    return image


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return written(tmp_path, records(), [panel()], title="Before and after")[0]


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.problems == []
    assert page.find("title") == page.find("h1") == ["Before and after"]
    assert page.attributes("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.attributes("meta"))
    identities = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(identities) == len(set(identities))
    for _, attrs, _ in page.elements:
        assert attrs.get("aria-labelledby", identities[0]) in identities


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    page, source = written(tmp_path, [*records(), adaptive("PGD", 1)], [panel(), panel(40)])
    for tag, attrs, _ in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:")
    text = re.sub(r'src="data:[^"]*"', "", source)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", text)
    policy = next(meta["content"] for meta in page.attributes("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_every_accuracy_in_the_page_is_its_records(page: Page) -> None:
    table = accuracy_table(records())
    cells = page.find("td", role="cell")
    rows = [cells[i : i + 2] for i in range(0, len(cells), 2)]
    assert page.find("th", role="columnheader") == ["Attack", "No defence", PURIFIER]
    assert page.find("th", role="rowheader") == [
        "Clean",
        "FGSM L∞ ≤ 8/255",
        "PGD L∞ ≤ 8/255",
        "C&W L2, no limit",
        "Average with clean",
        "Average of attacks",
    ]
    for shown, expected in zip(rows, table.cells, strict=False):
        for text, record in zip(shown, expected, strict=True):
            assert record is not None
            low, high = (100 * bound for bound in record.interval)
            assert text.startswith(f"{100 * record.accuracy:.1f}% ({low:.0f}–{high:.0f})")
            assert text.endswith(f"n {record.n}")
            if record.psnr == math.inf:
                assert "unchanged" in text
                assert "MAE" not in text
            else:
                assert f"PSNR {record.psnr:.1f} dB" in text
                assert f"MAE {record.mae:.4f}" in text
                assert "SSIM 0.912" in text
    # (100 + 15 + 0 + 5) / 4 and (15 + 0 + 5) / 3; (90 + 55 + 65 + 80) / 4 and (55 + 65 + 80) / 3
    assert rows[4] == ["30.0%", "72.5%"]
    assert rows[5] == ["6.7%", "66.7%"]


def test_the_bars_are_as_long_as_the_accuracies(page: Page) -> None:
    widths = [float(attrs["style"].removeprefix("width:").rstrip("%")) for attrs in page.attributes("i")]
    expected = [100 * correct / 20 for figures in FIGURES.values() for correct in figures]
    assert widths[:8] == pytest.approx(expected, abs=0.01)
    left, width = (float(part) for part in re.findall(r"[\d.]+", page.attributes("u")[5]["style"]))
    low, high = records()[5].interval
    assert (left, left + width) == pytest.approx((100 * low, 100 * high), abs=0.02)


def test_the_first_lines_say_the_same(page: Page, tmp_path: Path) -> None:
    assert page.find("p", class_="lead") == [
        f"Under attack, EfficientNet-Lite0 gets 6.7% of the images right; with {PURIFIER} in front of it, 66.7% "
        "(mean over 3 attacks). Clean images: 100.0% without it, 90.0% with it."
    ]
    assert page.find("dt")[:4] == [
        "Attacked, no defence",
        "Attacked, defended",
        "Worst attack, defended",
        "Clean, defended",
    ]
    assert page.find("dd", class_="value") == ["6.7%", "66.7%", "55.0%", "90.0%"]
    assert page.find("dd", class_="note") == ["mean over 3 attacks"] * 2 + ["FGSM", "no defence: 100.0%"]
    badges = ["EfficientNet-Lite0", "photographs", "n = 20", "quick preset", "Static, grey-box"]
    assert [text for text in page.find("li") if text in badges] == badges
    assert written(tmp_path, records(), summary="It <works>.")[0].find("p", class_="lead") == ["It <works>."]
    assert written(tmp_path, records(), summary="")[0].find("p", class_="lead") == []


def test_the_summary_of_other_sets_of_records(tmp_path: Path) -> None:
    def lead(chosen: list[EvaluationRecord]) -> str:
        return written(tmp_path, chosen)[0].find("p", class_="lead")[0]

    everything = records()
    assert lead(everything[:1]) == "EfficientNet-Lite0 on photographs, in 1 measurement."
    defended = f"Under attack, EfficientNet-Lite0 behind {PURIFIER} gets 55.0% of the images right."
    assert lead([everything[3]]) == defended
    assert lead([everything[1], everything[3]]) == f"{defended} Clean images: 90.0%."
    assert lead([*everything, adaptive("PGD", 1)]).endswith("Against an attacker who knows the defence: 5.0%.")
    # Only an adaptive attack: it is said once.
    alone = written(tmp_path, [adaptive("PGD", 1)])[0]
    assert alone.find("p", class_="lead") == [defended.replace("55.0", "5.0")]
    assert alone.find("dd", class_="value") == ["5.0%"]


def test_the_pictures_decode_to_what_was_given(tmp_path: Path) -> None:
    given = panel(120)
    page, _ = written(tmp_path, records(), [given], jpeg_quality=95)
    images = page.attributes("img")
    assert len(images) == 4
    shown = [np.asarray(decoded(attrs["src"])).astype(float) / 255 for attrs in images]
    assert {image.shape for image in shown} == {(120, 120, 3)}
    for image, original in zip(shown, (given.clean, given.adversarial, None, given.purified), strict=True):
        if original is not None:
            assert np.abs(image - original).mean() < 0.02
    # x8 at 8/255: two greys, 0.5 - 0.25 and 0.5 + 0.25.
    assert np.abs(shown[2] - (0.5 + 8 * (given.adversarial - given.clean))).mean() < 0.05
    assert all(attrs["alt"] for attrs in images)
    assert images[1]["alt"] == "dog.jpg, after PGD: classified as tench, wrong"
    assert "magnified 8 times" in images[2]["alt"]


def test_small_pictures_are_exact_and_large_ones_reduced(tmp_path: Path) -> None:
    small = panel(32)
    page, _ = written(tmp_path, records(), [small, panel(300)], max_side=200)
    images = [decoded(attrs["src"]) for attrs in page.attributes("img")]
    assert [image.format for image in images] == ["PNG"] * 4 + ["JPEG"] * 4
    assert np.array_equal(np.asarray(images[0]), np.rint(small.clean * 255).astype(np.uint8))
    assert {image.size for image in images[4:]} == {(200, 200)}
    assert len(page.find("article", class_="panel small")) == 1


def test_noise_can_be_written_as_jpeg(tmp_path: Path) -> None:
    # Pure noise is the largest JPEG there is.
    rng = np.random.default_rng(0)
    noise = {name: rng.random((256, 256, 3)) for name in ("clean", "adversarial", "purified")}
    page, _ = written(tmp_path, records(), [panel(256, **noise)], jpeg_quality=95)
    assert [decoded(attrs["src"]).size for attrs in page.attributes("img")] == [(256, 256)] * 4


def test_captions(page: Page) -> None:
    captions = page.find("figcaption")
    assert captions[0] == "Clean ✓right:bullmastiff 93%"
    assert captions[1] == "After PGD ✗wrong:tench 99%"
    # 8/255 * sqrt(120 * 120 * 3) = 6.52
    assert captions[2] == "Perturbation ×8 L∞ 8.0/255 · L2 6.52"
    assert captions[3] == "Purified ✓right:crane"
    assert len(page.find("span", class_="verdict right")) == 2
    assert len(page.find("span", class_="verdict wrong")) == 1
    assert page.find("h3") == ["True class bullmastiff"]
    assert page.find("span", class_="tag") == ["PGD"]


def test_a_name_that_two_classes_share_is_wrong_where_the_caller_says_so(tmp_path: Path) -> None:
    said = {"true_label": "crane", "purified_prediction": Prediction(label="crane", confidence=0.5, correct=False)}
    page, _ = written(tmp_path, records(), [panel(**said)])
    assert page.find("figcaption")[3] == "Purified ✗wrong:crane 50%"


def test_an_unchanged_image_is_called_unchanged(tmp_path: Path) -> None:
    image = np.full((40, 40, 3), 0.5)
    page, _ = written(tmp_path, records(), [panel(clean=image, adversarial=image, purified=image)])
    assert page.find("figcaption")[2] == "Perturbation none: the image is unchanged"


def test_no_panels_no_gallery(tmp_path: Path) -> None:
    page, _ = written(tmp_path, records())
    assert page.inside("gallery") == ""
    assert page.attributes("img") == []


@pytest.mark.parametrize(
    ("eps", "factor"), [(16 / 255, 4), (8 / 255, 8), (4 / 255, 16), (2 / 255, 32), (1e-6, 128), (0.9, 1), (0.0, 1)]
)
def test_magnification(eps: float, factor: int) -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(20, 20, 3))
    assert magnification(eps * signs) == factor


def test_magnification_of_a_single_pixel() -> None:
    perturbation = np.zeros((20, 20, 3))
    perturbation[3, 3] = 0.1
    assert magnification(perturbation) == 2


def test_static_records_are_told_what_they_do_not_show(page: Page) -> None:
    assert page.inside("adaptive") == ""
    limits = page.inside("limits")
    for words in (
        "An attacker who knows the defence.",
        "adaptive, white-box",
        "fell to about 0%",
        "no claim of robustness",
        "quick preset",
        # 11 of 20 has the widest interval
        "an accuracy of 55.0% measured on them is compatible with anything from 34% to 74%",
    ):
        assert words in limits
    assert page.find("h2").count("What this does not show") == 1


def test_without_quick_preset_or_few_images_less_is_said(tmp_path: Path) -> None:
    record = EvaluationRecord(
        dataset="d", n=5000, classifier="c", attack="PGD", threat_model="static", correct=10, preset="paper"
    )
    limits = written(tmp_path, [record])[0].inside("limits")
    assert "An attacker who knows the defence." in limits
    assert "quick" not in limits
    assert "few" not in limits


def test_adaptive_figures_take_the_place_of_the_disclaimer(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [*records(), adaptive("PGD-100", 1), adaptive("APGD", 0)])
    assert page.inside("limits") == ""
    text = page.inside("adaptive")
    assert f"PGD-100 {PURIFIER} · L∞ ≤ 8/255 90.0% 5.0% (1–24)" in text
    assert f"APGD {PURIFIER} · L∞ ≤ 8/255 90.0% 0.0% (0–16)" in text
    assert "Measured, not proven" in text
    assert "No adaptive attack was run on" not in text
    assert page.find("dd", class_="value") == ["6.7%", "66.7%", "55.0%", "0.0%", "90.0%"]
    assert "Adaptive, white-box." in page.inside("threat-model")


def test_a_defence_that_met_no_adaptive_attack_is_named(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [*records(), adaptive("PGD", 1, "Another")])
    assert f"No adaptive attack was run on {PURIFIER}" in page.inside("adaptive")
    assert "PGD Another · L∞ ≤ 8/255 – 5.0%" in page.inside("adaptive")


def test_threat_model(page: Page, tmp_path: Path) -> None:
    said = page.inside("threat-model")
    assert "Static, grey-box." in said
    assert "without a defence" in said
    own = written(tmp_path, records(), threat_model_text="First\nline.\n\n<b>Second</b>.\n\n")[0]
    assert own.inside("threat-model") == "Threat model First line. <b>Second</b>."
    assert "No attack was run." in written(tmp_path, records()[:2])[0].inside("threat-model")


def test_flags_are_shown_with_their_places(tmp_path: Path) -> None:
    flagged = EvaluationRecord(
        dataset="d", n=9, classifier="c", attack="BIM", threat_model="static", correct=1, flags=["Gradients are zero."]
    )
    page, _ = written(tmp_path, [flagged])
    assert "Gradients are zero. (BIM, No defence)" in page.inside("flags")
    assert written(tmp_path, records())[0].inside("flags") == ""


def test_the_papers_table_stands_beside(page: Page, tmp_path: Path) -> None:
    text = page.inside("paper")
    for attack, line in PAPER_TABLE_2.rows.items():
        assert " ".join([attack, *(f"{value:g}" for value in line)]).replace(" ", "") in text.replace(" ", "")
    for words in ("5,000 ImageNet", "Another classifier and other images", "not directly comparable", "86.03", "85.17"):
        assert words in text
    assert written(tmp_path, records(), paper_table=None)[0].inside("paper") == ""


def test_arts_autoattack_is_called_arts_wherever_it_was_run(tmp_path: Path) -> None:
    measured = [
        EvaluationRecord(
            dataset="d", n=9, classifier="c", attack="AutoAttack", threat_model=model, correct=1, defence=defence
        )
        for model, defence in (("static", "none"), ("static", PURIFIER), ("adaptive", PURIFIER))
    ]
    page, source = written(tmp_path, measured, [panel(attack="AutoAttack")])
    paper = page.inside("paper")
    assert "AutoAttack" in paper
    assert "ART" not in paper
    everywhere = source.count("AutoAttack") - paper.count("AutoAttack")
    assert everywhere == source.count("ART AutoAttack") >= 6  # row, adaptive row, tag, two pictures, run
    assert page.find("span", class_="tag") == ["ART AutoAttack"]
    assert "After ART AutoAttack" in page.find("span", class_="what")


def test_settings(tmp_path: Path) -> None:
    page, _ = written(tmp_path, records(), settings={"Images left out": 3, "Rate": 0.125})
    text = page.inside("settings")
    for words in (
        f"Defence {PURIFIER}: generator = compact",
        "Budget L∞ 8/255",
        "Preset quick",
        "Seed 7",
        "Time, all cells 10.0 s",
        "Versions numpy 2.4.0",
        "Images left out 3",
        "Rate 0.125",
    ):
        assert words in text
    rows = [text for text in page.find("tr") if text.startswith(("PGD", "C&W"))]
    # The budget is not said again among the parameters.
    assert any(re.search(r"PGD L∞ 8/255 max_iter = 10 No defence 1\.2 s", row) for row in rows)
    assert any("C&W L2 – max_iter = 10" in row for row in rows)


def test_citations(page: Page, tmp_path: Path) -> None:
    assert len(page.find("pre")) == len(CITATIONS)
    assert "Versatile Defense Against Adversarial Attacks on Image Recognition" in page.inside("cite")
    assert written(tmp_path, records(), citations=["A & B"])[0].find("pre") == ["A & B"]
    assert written(tmp_path, records(), citations=[])[0].inside("cite") == ""


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=y>{{ 7 * 7 }}'
    record = EvaluationRecord(
        dataset=evil,
        n=2,
        classifier=evil,
        defence=evil + "(",
        defence_parameters={evil: evil},
        attack=evil,
        attack_parameters={evil: evil},
        threat_model="static",
        correct=1,
        versions={evil: evil},
        flags=[evil],
        seed=1,
    )
    strange = Prediction(label=evil)
    page, source = written(
        tmp_path,
        [record, adaptive_of(record)],
        [
            panel(
                name=evil,
                attack=evil,
                true_label=evil,
                clean_prediction=strange,
                adversarial_prediction=strange,
                purified_prediction=strange,
            )
        ],
        title=evil,
        summary=evil,
        threat_model_text=evil,
        settings={evil: evil},
        citations=[evil],
    )
    assert page.problems == []
    assert page.attributes("script") == []
    assert len(page.attributes("img")) == 4
    assert "<script" not in source
    assert page.find("h1") == [evil]
    # The template engine does not run on what is put in.
    assert "{{ 7 * 7 }}" in source


def adaptive_of(record: EvaluationRecord) -> EvaluationRecord:
    values = {name: v for name, v in record.to_json().items() if name not in ("accuracy", "interval")}
    return EvaluationRecord(**{**values, "threat_model": "adaptive"})


def test_the_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path / "out" / "report.html", records())
    before = path.read_bytes()

    def broken(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, records(), title="Another")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["report.html"]


def test_equal_input_gives_an_equal_page(tmp_path: Path) -> None:
    first, second = (write_report(tmp_path / name, records(), [panel()]) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"title": " "}, ValueError, "title to be a non-empty string. Received ' '"),
        ({"max_side": 8}, ValueError, "max_side to be an integer from 16 to 4096. Received 8"),
        ({"max_side": 64.0}, ValueError, "max_side to be an integer .* Received 64.0"),
        ({"jpeg_quality": 100}, ValueError, "jpeg_quality to be an integer from 1 to 95. Received 100"),
        ({"jpeg_quality": True}, ValueError, "jpeg_quality to be an integer .* Received True"),
        ({"panels": [1]}, TypeError, "panels to be Panels. Received int"),
        ({"records": []}, ValueError, "at least one record. Received none"),
    ],
)
def test_write_report_refuses(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"records": records(), "panels": [], **options}
    with pytest.raises(error, match=message):
        write_report(tmp_path / "report.html", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": ""}, ValueError, "name to be a non-empty string. Received ''"),
        ({"attack": None}, ValueError, "attack to be a non-empty string. Received None"),
        ({"true_label": 3}, ValueError, "true_label to be a non-empty string. Received 3"),
        (
            {"clean": np.zeros((1, 8, 8, 3))},
            ValueError,
            r"clean to be one image \(H, W, 3\). Received shape \(1, 8, 8, 3\)",
        ),
        ({"clean": np.zeros((8, 8, 1))}, ValueError, "clean to have 3 channels"),
        ({"adversarial": np.zeros((8, 8, 3))}, ValueError, r"shape of clean, \(120, 120, 3\). Received \(8, 8, 3\)"),
        ({"purified": np.full((120, 120, 3), 2.0)}, ValueError, r"purified inside clip_values \(0.0, 1.0\)"),
        ({"purified": np.full((120, 120, 3), np.nan)}, ValueError, "purified to be finite"),
        ({"purified": np.zeros((120, 120, 3), np.uint8)}, TypeError, "purified to be an array of floats"),
        ({"clean_prediction": "tench"}, TypeError, "clean_prediction to be a Prediction. Received str"),
    ],
)
def test_panels_are_checked(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        panel(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": ""}, "label to be a non-empty string. Received ''"),
        ({"label": "a", "confidence": 93}, "confidence between 0 and 1, or None. Received 93"),
        ({"label": "a", "confidence": math.nan}, "confidence between 0 and 1, or None. Received nan"),
        ({"label": "a", "correct": "yes"}, "correct to be True, False or None. Received 'yes'"),
    ],
)
def test_predictions_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prediction(**arguments)


def test_a_panel_prints_short() -> None:
    assert repr(panel(40)) == "Panel(name='dog.jpg', attack='PGD', true_label='bullmastiff', 40x40)"


def test_checks_have_a_section(tmp_path: Path) -> None:
    attacked = [*records(), adaptive("PGD", 1)]
    checks = [
        Check("steps", "More is never weaker.", PURIFIER, False, "10 to 100 <steps>"),
        Check("budget", "Larger is never weaker.", PURIFIER, None, "needs two budgets"),
        Check("adaptive", "Was there one?", "another", False, "none was run"),
    ]
    page, _ = written(tmp_path, attacked, checks=checks)
    text = page.inside("checks")
    assert f"steps More is never weaker. {PURIFIER} failed 10 to 100 <steps>" in text
    assert f"budget Larger is never weaker. {PURIFIER} not run needs two budgets" in text
    assert "another" not in text
    assert written(tmp_path, attacked)[0].inside("checks") == ""


def test_attacks_on_the_defence_stand_apart_from_those_on_the_classifier(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [*records(), adaptive("PGD-100", 1), adaptive("at half the range", 0, eps=0.5)])
    assert "PGD-100" not in page.inside("accuracy")
    assert "L∞ ≤ 0.5" in page.inside("adaptive")
    # What anything breaks at is not the figure that the page leads with.
    assert page.find("dd", class_="value")[3] == "5.0%"


def test_the_worst_case_of_adaptive_attacks(tmp_path: Path) -> None:
    right = {"PGD": "1" * 5 + "0" * 15, "APGD": "0" * 3 + "1" * 5 + "0" * 12}
    made = [adaptive(name, 5, right=value) for name, value in right.items()]
    text = written(tmp_path, [*records()[2:], *made])[0].inside("adaptive")
    assert f"Worst case per image {PURIFIER} · 8/255 10.0% (2 of 20)" in text


def test_queries_without_an_adaptive_attack(tmp_path: Path) -> None:
    square = adaptive("Square", 12, threat_model="query")
    page, _ = written(tmp_path, [*records(), square])
    text = page.inside("adaptive")
    assert "By queries alone" in text
    assert "Square" in text
    assert "No attack took the gradient through the defence." in text
    assert "no claim of robustness" in text


def test_several_budgets_have_no_mean(tmp_path: Path) -> None:
    smaller = [dataclasses.replace(record, eps=4 / 255) for record in records() if record.attack == "FGSM"]
    page, _ = written(tmp_path, [*records(), *smaller])
    (lead,) = page.find("p", class_="lead")
    assert "gets 0.0% of the images right; with" in lead
    assert "in front of it, 55.0% (the strongest of 4 attacks)" in lead
    assert "Average" not in page.inside("accuracy")
