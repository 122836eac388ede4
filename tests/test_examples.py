"""Each example runs, at smoke size."""

import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import art_versatile.attacks.compiled  # noqa: F401 - ART's first import under capsys leaves a closed stream behind
from art_versatile.evaluation.records import load_records
from art_versatile.images import demo_images, save_png

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def main():
    return lambda name: runpy.run_path(str(EXAMPLES / name))["main"]


def test_every_example_is_tested():
    tested = Path(__file__).read_text() + (Path(__file__).parent / "pairs" / "test_generate.py").read_text()
    assert [f.name for f in EXAMPLES.glob("*.py") if f.name not in tested] == []


def test_defend_your_classifier(main, capsys):
    main("defend_your_classifier.py")(images=2, size=96, iterations=2)
    output = capsys.readouterr().out
    assert "static" in output
    assert "adaptive" in output


def test_evaluate_on_folder(main, capsys, tmp_path):
    x, y, names = demo_images(2, 96)
    for image, name in zip(x, names, strict=True):
        save_png(image, tmp_path / "photographs" / name.replace(".jpg", ".png"))
    rows = [f"{name.replace('.jpg', '.png')},{label}" for name, label in zip(names, y, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,imagenet_index", *rows]) + "\n")
    main("evaluate_on_folder.py")(
        tmp_path / "photographs", tmp_path / "labels.csv", tmp_path / "out", size=96, threats="query"
    )  # fmt: skip
    records = load_records(tmp_path / "out" / "records.json")
    assert {(r.defence, r.threat_model) for r in records if r.attack != "clean"} == {
        ("VersatilePurifier", "query"), ("JPEG", "query"),
    }  # fmt: skip
    assert {r.n for r in records} == {2}
    output = " ".join(capsys.readouterr().out.split())
    assert "VersatilePurifier: no adaptive attack was run" in output
    assert "JPEG: adaptive: False; none was run" in output


def test_train_your_purifier(main, capsys, tmp_path):
    main("train_your_purifier.py")(out=tmp_path / "mine", images=4, size=64, epochs=2)
    assert "loss by epoch" in capsys.readouterr().out
    assert (tmp_path / "mine" / "card.json").is_file()


def test_compare_defences(main, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    x, y, names = demo_images(3, 96)
    for image, name in zip(x, names, strict=True):
        save_png(image, tmp_path / "photographs" / name.replace(".jpg", ".png"))
    rows = [f"{name.replace('.jpg', '.png')},{label}" for name, label in zip(names, y, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,imagenet_index", *rows]) + "\n")
    main("compare_defences.py")(
        tmp_path / "photographs", tmp_path / "labels.csv", tmp_path / "r.json", size=96, attacks="FGSM,PGD", max_iter=2,
        evaluations=2, batch_size=2,
    )  # fmt: skip
    output = " ".join(capsys.readouterr().out.split())
    for name in ("No defence", "VersatilePurifier", "RandomResizing", "R-CAM", "small", "bicubic", "Wavelet", "ART"):
        assert name in output
    assert "n = 3" in output
    records = load_records(tmp_path / "r.json")
    assert {r.attack for r in records} == {"clean", "FGSM", "PGD"}
    assert len({r.defence for r in records if r.evaluations}) == 3  # the random ones
    assert output.count("worst of 2") == 9
    assert "worst case per image" in output


@pytest.mark.slow
def test_train_on_two_workers(tmp_path):
    """Both on this machine, at the smallest size."""
    process = runpy.run_path(str(Path(__file__).parent / "training" / "process.py"))
    store = process["make_store"](tmp_path / "pairs", 4, (64, 64, 3))
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("localhost", 0))
        workers = ",".join(f"localhost:{free.getsockname()[1]}" for free in (first, second))
    command = [sys.executable, str(EXAMPLES / "train_on_two_workers.py"), store.path, str(tmp_path / "run")]
    options = ["--workers", workers, "--epochs", "1", "--crop", "64", "--batch-size", "4"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("loss by epoch") == 1
    assert (tmp_path / "run" / "last" / "card.json").is_file()
