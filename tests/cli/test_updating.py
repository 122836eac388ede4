from __future__ import annotations

import json

import pytest

from art_versatile import VersatilePurifier, VersatileTrainer
from art_versatile.training.updating import UpdateResult


@pytest.fixture(scope="module")
def updated(run, tiny, weights, colourful, tmp_path_factory):
    """An update of small weights, what it printed, and its folder."""
    base = tmp_path_factory.mktemp("update")
    out = base / "run"
    command = ("update", "--weights", weights, "--attacks", "FastGradientMethod:eps=4/255", "--images",
               colourful(base / "pictures", 16, 32), "--limit", 15, "--eps", "4/255", "--classifier", tiny,
               "--image-size", 32, "--old-attacks", "PGD", "--memory", 6, "--tolerance", 1, "--epochs", 6,
               "--batch-size", 4, "--learning-rate", 0.01, "--out", out)  # fmt: skip
    return command, run(*command), out


def test_update_and_its_lineage(run, updated, weights, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # no folded paths
    command, result, out = updated
    assert result.exit_code == 0, result.output
    assert f"updated weights: {out / 'updated'}" in result.output
    assert "12 images, 12 new and 6 old pairs" in result.output
    purifier = VersatilePurifier.from_pretrained(out / "updated")
    (entry,) = purifier.card["lineage"]
    parent = json.loads((weights / "card.json").read_text())["weights"]["sha256"]
    assert entry["parent"]["sha256"] == parent
    name = "FastGradientMethod:eps=4/255"
    assert entry["added"][name]["eps"] == pytest.approx(4 / 255)
    assert entry["replayed"] == {"PGD": 6}
    assert entry["accuracy"]["after"][name] > entry["accuracy"]["before"][name]

    listing = run("weights", "--in", out, "--in", weights.parent)
    assert listing.exit_code == 0, listing.output
    line = next(line for line in listing.output.splitlines() if str(out / "updated") in line)
    assert str(weights) in line
    assert name in line
    difference = run("weights", "diff", weights, out / "updated")
    assert difference.exit_code == 0, difference.output
    before, after = (100 * entry["accuracy"][key][name] for key in ("before", "after"))
    row = next(line for line in difference.output.splitlines() if name in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == [f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]
    assert "other held images" not in difference.output

    assert "Expected no run" in run(*command).output
    again = run(*command, "--resume")
    assert again.exit_code == 0, again.output
    kept = VersatilePurifier.from_pretrained(out / "updated")
    assert kept.card["weights"] == purifier.card["weights"]


def test_refused_updates_write_nothing(run, updated, tmp_path, monkeypatch):
    """Why an update is refused is tested in tests/training/test_updating.py."""
    command, _, _ = updated
    cost = {"images": 3, "new_pairs": 3, "replayed_pairs": 2, "attack_seconds": 1.0, "training_seconds": 2.0}
    refused = UpdateResult(
        False, 0, {"clean": 0.5, "A": 0.25}, {"clean": 0.5, "A": 0.125}, [], 2.0, {},
        {"cost": cost, "held": {"pairs": {"A": 8}}},
    )  # fmt: skip
    monkeypatch.setattr(VersatileTrainer, "update", lambda *_, **__: refused)
    result = run(*command[:-1], tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert "refused" in result.output
    assert "12.5" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attacks", "ElasticNet:max_iter=open('x')"), "literal"),
        (("--attacks", "ElasticNet:steps=2"), "steps"),
        (("--attacks", "AdversarialPatch"), "which returns something else"),
        (("--attacks", "Nothing"), "Nothing"),
        (("--attacks", "ElasticNet", "--attacks", "ElasticNet"), "different attacks"),
        (("--attacks", "ElasticNet", "--old", "missing"), "missing"),
        (("--attacks", "ElasticNet", "--old-attacks", "x"), "names"),
        (("--attacks", "ElasticNet", "--weights", "missing"), "missing"),
    ],
)
def test_refused(refuses, updated, tiny, weights, arguments, message):
    command, _, _ = updated
    images = command[command.index("--images") + 1]
    assert message in refuses(
        ("update", "--weights", weights, "--images", images, "--classifier", tiny, "--image-size", 32), *arguments
    )


def test_diff_needs_figures(run, weights):
    result = run("weights", "diff", "compact", weights)
    assert result.exit_code == 2
    assert "no such figures" in result.output
    assert "Expected a folder" in run("weights", "--in", "missing").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scale", "huge"), "scale"),
        (("--then", "AdversarialPatch"), "which returns something else"),
        (("--modes", "x"), "modes"),
        (("--attacks", "FGSM"), "two attacks"),
        (("--weights", "compact"), "Expected --then"),
        (("--weights", "missing"), "Received 'missing'"),
        ((), "at least 112 images"),
    ],
)
def test_reproduce_updates_refused(refuses, updated, tiny, arguments, message):
    images = updated[0][updated[0].index("--images") + 1]
    command = ("reproduce-updates", images, "--classifier", tiny, "--image-size", 32, "--attacks", "FGSM,PGD")
    assert message in refuses(command, *arguments)
