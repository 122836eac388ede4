import re

import pytest

from art_versatile.app.chart import accuracy_lines, chart_html, load_lines
from art_versatile.evaluation.records import EvaluationRecord, save_records


def record(attack, correct, eps=None, defence="none", threat_model="static", **changed):
    values = {"dataset": "photographs", "n": 20, "classifier": "a classifier", "norm": None if eps is None else "inf"}
    values |= {"defence": defence, "attack": attack, "threat_model": threat_model, "correct": correct, "eps": eps}
    return EvaluationRecord(**{**values, **changed})


RECORDS = [
    record("clean", 18, threat_model="clean"),
    record("clean", 16, threat_model="clean", defence="a <purifier>"),
    record("PGD", 1, 8 / 255),
    record("PGD", 6, 4 / 255),
    record("PGD", 12, 8 / 255, "a <purifier>", attack_parameters={"max_iter": 10}),
    record("PGD", 9, 8 / 255, "a <purifier>", attack_parameters={"max_iter": 40}),
    record("PGD", 2, 8 / 255, "a <purifier>", "adaptive"),
    record("C&W", 3, norm="2"),
]


def test_a_line_for_each_attack_against_each_defence_from_clean_images_on():
    lines = accuracy_lines(RECORDS)
    found = {(line.threat_model, line.attack, line.defence): line.points for line in lines}
    assert {key: [(round(255 * p.eps), p.accuracy) for p in points] for key, points in found.items()} == {
        ("static", "PGD", "none"): [(0, 0.9), (4, 0.3), (8, 0.05)],
        ("static", "PGD", "a <purifier>"): [(0, 0.8), (8, 0.45)],  # the lower of two
        ("adaptive", "PGD", "a <purifier>"): [(0, 0.8), (8, 0.1)],
    }
    assert all(p.low <= p.accuracy <= p.high and p.n == 20 for points in found.values() for p in points)


def test_other_images_are_another_line():
    lines = accuracy_lines([*RECORDS, record("PGD", 5, 8 / 255, dataset="others")])
    assert len(lines) == 4
    assert len(lines[-1].points) == 1
    assert "others" in lines[-1].on


def test_the_chart_shows_every_point_and_lets_no_name_be_markup():
    page = chart_html(accuracy_lines(RECORDS))
    assert page.count("<circle") == 7
    assert page.count("<figure>") == 2
    assert "<purifier>" not in page
    assert "a &lt;purifier&gt;" in page
    # 30% at 4 of 8: half way between the edges 46 and 606, 70% of the way down from 12 to 290
    assert re.search(r'cx="326.0" cy="206.6"', page)


@pytest.mark.parametrize("content", ["hello", "{}", "[" * 100_000, None])
def test_load_refuses_what_is_no_file_of_records(tmp_path, content):
    path = tmp_path / "records.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"^Expected a records\.json of art-versatile\. Received a file"):
        load_lines(path)


def test_load_refuses_records_without_a_budget(tmp_path):
    save_records(RECORDS[:2], tmp_path / "records.json")
    with pytest.raises(ValueError, match="L-infinity"):
        load_lines(tmp_path / "records.json")
    save_records(RECORDS, tmp_path / "records.json")
    assert len(load_lines(tmp_path / "records.json")) == 3
