from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from art_versatile.evaluation.records import Check, EvaluationRecord
from art_versatile.reports import PAPER_TABLE_2, Panel, Prediction, accuracy_table, write_report

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
                    iterations=None if clean else 10,
                    effort=None if clean else "quick",
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
    arguments: dict[str, Any] = {
        "name": "dog.jpg",
        "attack": "PGD",
        "clean": clean,
        "adversarial": clean + eps * rng.choice([-1.0, 1.0], size=clean.shape),
        "purified": (clean + 0.5) / 2,
        "true_label": "bullmastiff",
        "clean_prediction": Prediction(label="bullmastiff", confidence=0.931, correct=True),
        "adversarial_prediction": Prediction(label="tench", confidence=0.99, correct=False),
        "purified_prediction": Prediction(label="crane", correct=True),
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


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return written(tmp_path, records(), [panel()], title="Before and after")[0]


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.problems == []
    assert page.find("title")[:1] == page.find("h1") == ["Before and after"]
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
    assert {attrs["data-label"] for attrs in page.attributes("td") if attrs.get("role")} == {"No defence", PURIFIER}
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


def tiles(page: Page) -> dict[str, tuple[str, str, str]]:
    """Label -> value, what its colour follows, note."""
    levels = [
        attrs["class"].removeprefix("tile ") for attrs in page.attributes("div") if "tile " in attrs.get("class", "")
    ]
    values, notes = page.find("dd", class_="value"), page.find("dd", class_="note")
    return dict(zip(page.find("dt"), zip(values, levels, notes, strict=True), strict=False))


def test_the_first_lines(page: Page, tmp_path: Path) -> None:
    assert tiles(page) == {
        "Adaptive attacker": ("–", "none", "not run: nothing is said of one who knows the defence"),
        "Worst static attack": ("55.0%", "middle", "FGSM"),
        "Worst static attack, no defence": ("0.0%", "low", "PGD"),
        "Clean": ("90.0%", "high", "no defence: 100.0%"),
    }
    badges = ["EfficientNet-Lite0", "photographs", "n = 20", "quick effort", "Static, grey-box"]
    assert [text for text in page.find("li") if text in badges] == badges
    assert written(tmp_path, records(), summary="It <works>.")[0].find("p", class_="lead") == ["It <works>."]
    assert page.find("p", class_="lead") == []


def test_the_adaptive_attacker_comes_first(tmp_path: Path) -> None:
    """The strongest attack at a budget that a defence can hold; what half the pixel range does is not it."""
    found = [*records(), adaptive("PGD", 3), adaptive("APGD", 1), adaptive("PGD", 0, eps=0.5)]
    page = written(tmp_path, found)[0]
    label, (value, level, note) = next(iter(tiles(page).items()))
    assert (label, value, level, note) == ("Adaptive attacker", "5.0%", "low", "APGD")
    sections = [attrs["id"] for attrs in page.attributes("section")]
    assert sections.index("adaptive") < sections.index("curves") < sections.index("accuracy-static")


def test_the_worst_case_per_image_is_a_tile(tmp_path: Path) -> None:
    right = {"clean": "1" * 18 + "00", "FGSM": "1" * 11 + "0" * 9, "PGD": "0" * 7 + "1" * 13}
    made = [dataclasses.replace(r, right=right[r.attack]) if r.attack in right and r.defence == PURIFIER else r
            for r in records()]  # fmt: skip
    assert tiles(written(tmp_path, made)[0])["Worst case per image"] == ("20.0%", "low", "static attacks, eps 8/255")


def test_pictures_come_after_the_figures_and_fold(tmp_path: Path) -> None:
    page, source = written(tmp_path, [*records(), adaptive("PGD", 1)], [panel(32)] * 11)
    assert source.index('id="adaptive"') < source.index('id="gallery"')
    assert page.find("summary")[0] == "3 more"
    assert len(page.attributes("img")) == 44
    assert len(page.find("article", class_="panel small")) == 11
    assert written(tmp_path, records())[0].attributes("img") == []


def test_captions(page: Page) -> None:
    captions = page.find("figcaption")
    assert captions[0] == "Clean ✓right:bullmastiff 93%"
    assert captions[1] == "After PGD ✗wrong:tench 99%"
    # 8/255 * sqrt(120 * 120 * 3) = 6.52
    assert captions[2] == "Perturbation ×8 L∞ 8.0/255 · L2 6.52"
    assert captions[3] == "Purified ✓right:crane"
    assert page.find("h3") == ["True class bullmastiff"]
    assert page.find("span", class_="tag") == ["PGD"]
    assert page.find("p", class_="story") == ["Right behind the defence, wrong without it."]
    assert page.attributes("img")[1]["alt"] == "dog.jpg, after PGD: classified as tench, wrong"


def test_static_records_are_told_what_they_do_not_show(page: Page) -> None:
    assert page.inside("adaptive") == ""
    limits = page.inside("limits")
    for words in (
        "An attacker who knows the defence.",
        "adaptive, white-box",
        "fell to about 0%",
        "no claim of robustness",
        "quick effort",
        # 11 of 20 has the widest interval
        "an accuracy of 55.0% measured on them is compatible with anything from 34% to 74%",
    ):
        assert words in limits
    assert page.find("h2").count("What this does not show") == 1


def test_adaptive_figures_take_the_place_of_the_disclaimer(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [*records(), adaptive("PGD-100", 1), adaptive("APGD", 0)])
    assert "no claim of robustness" not in page.inside("limits")
    text = page.inside("adaptive")
    assert f"APGD L∞ ≤ 8/255 {PURIFIER} adaptive 90.0% 0.0% (0–16)" in text
    assert f"PGD-100 L∞ ≤ 8/255 {PURIFIER} adaptive 90.0% 5.0% (1–24)" in text
    assert text.index("APGD") < text.index("PGD-100")  # the strongest first
    assert "Measured, not proven" in text
    assert "PGD-100" not in page.inside("accuracy-static")
    assert "Adaptive, white-box." in page.inside("threat-model")


def test_a_defence_that_met_no_adaptive_attack_is_named(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [*records(), adaptive("PGD", 1, "Another")])
    assert f"No adaptive attack was run on {PURIFIER}" in page.inside("limits")
    assert "PGD L∞ ≤ 8/255 Another adaptive – 5.0%" in page.inside("adaptive")


def test_threat_model(page: Page, tmp_path: Path) -> None:
    assert "Static, grey-box." in page.inside("threat-model")
    assert "No attack was run." in written(tmp_path, records()[:2])[0].inside("threat-model")


def test_a_curve_a_defence_and_threat_model(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [*records(), adaptive("PGD", 2), adaptive("PGD", 5, eps=4 / 255)])
    labels = [text for text in page.find("li") if text.endswith((", static", ", adaptive"))]
    assert labels == ["no defence, static", f"{PURIFIER}, static", f"{PURIFIER}, adaptive"]
    assert len(page.attributes("polyline")) == 3
    assert f"{PURIFIER}, adaptive: PGD, 25.0% (11–47)" in page.find("title")


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


def test_settings(tmp_path: Path) -> None:
    smaller = [dataclasses.replace(r, eps=4 / 255, attack_parameters={"max_iter": 30, "eps": 4 / 255})
               for r in records() if r.attack == "PGD"]  # fmt: skip
    page, _ = written(tmp_path, [*records(), *smaller], settings={"Images left out": 3, "Rate": 0.125})
    text = page.inside("settings")
    for words in (
        f"Defence {PURIFIER}: generator = compact",
        "Budget L∞ 8/255, L∞ 4/255",
        "Effort quick",
        "Seed 7",
        "Time, all cells 12.5 s",
        "Versions numpy 2.4.0",
        "Images left out 3",
        "Rate 0.125",
        # One line an attack, whatever was run of it; the budget is not said again among the parameters.
        "PGD static L∞ ≤ 8/255, L∞ ≤ 4/255 max_iter = 10 / 30 5.0 s",
        "C&W static L2, no limit max_iter = 10 2.5 s",
    ):
        assert words in text


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
        norm="inf",
        eps=0.1,
        correct=1,
        versions={evil: evil},
        flags=[evil],
        seed=1,
    )
    strange = Prediction(label=evil, correct=False)
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
        settings={evil: evil},
        checks=[Check(evil, evil, evil, False, evil)],
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


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"title": " "}, ValueError, "title"),
        ({"panels": [1]}, TypeError, "panels"),
        ({"records": []}, ValueError, "at least one record"),
    ],
)
def test_write_report_refuses(tmp_path: Path, options: dict[str, Any], error: type[Exception], name: str) -> None:
    arguments = {"records": records(), "panels": [], **options}
    with pytest.raises(error, match=f"Expected {name}"):
        write_report(tmp_path / "report.html", **arguments)
    assert not list(tmp_path.iterdir())


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


def test_the_worst_case_of_adaptive_attacks(tmp_path: Path) -> None:
    right = {"PGD": "1" * 5 + "0" * 15, "APGD": "0" * 3 + "1" * 5 + "0" * 12}
    made = [adaptive(name, 5, right=value) for name, value in right.items()]
    text = written(tmp_path, [*records()[2:], *made])[0].inside("adaptive")
    assert f"Worst case per image 8/255 {PURIFIER} adaptive 10.0% (2 of 20)" in text


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
    assert "Average" not in written(tmp_path, [*records(), *smaller])[0].inside("accuracy-static")
