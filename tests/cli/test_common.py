"""What every command does: help, errors in one line, nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

import art_versatile
from art_versatile import cli
from art_versatile.cli import common
from art_versatile.images import MAX_PIXELS

COMMANDS = get_command(cli.app).commands
GROUPS = ("printed", "weights")
LEAVES = [(name,) for name in COMMANDS if name not in GROUPS]
LEAVES += [("printed", name) for name in COMMANDS["printed"].commands]


def test_the_commands():
    assert set(COMMANDS) == {
        "demo", "evaluate", "reproduce", "certify", "purify", "pairs", "train", "compare-schedules",
        "train-super-resolution", "app", "export", "printed", "update", "weights", "reproduce-updates", "compare",
        "paper-table",
    }  # fmt: skip


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_at_80_columns_names_every_option_whole(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(*command, "--help").output
    found = COMMANDS[command[0]]
    options = [p for p in (found.commands[command[1]] if len(command) > 1 else found).params if p.opts[0][0] == "-"]
    assert options
    for option in options:
        assert option.opts[0] in shown.split()
        assert option.help
        assert " ".join(option.help.split()) in " ".join(shown.split())


def test_help_says_how_to_roll_back(run):
    for command in ("update", "weights"):
        assert "parent" in run(command, "--help").output


def test_version(run):
    assert run("--version").output.strip() == art_versatile.__version__


def test_bad_values_are_refused_before_tensorflow_is_loaded(tmp_path):
    (tmp_path / "file").touch()
    commands = [
        ["demo", "--eps", "two"],
        ["demo", "--out", "file"],
        ["evaluate", "--threats", "black-box"],
        ["reproduce", "--weights", "missing"],
        ["certify", "--classifier", "missing.keras"],
        ["purify", "missing", "--out", "o"],
        ["pairs", ".", "--out", "o"],
        ["train", "--pairs", "p", "--out", "o", "--preset", "big"],
        ["train", "--images", "p", "--fresh", "--inner", "fgsm", "--out", "o"],
        ["compare-schedules", "--pairs", "p", "--validation", "p", "--out", "o", "--features", "x"],
        ["train-super-resolution", "missing", "--out", "o"],
        ["printed", "make", "--attacks", "FGSM"],
        ["printed", "study", "--eps", "two"],
        ["app", "--classifier", "missing"],
        ["export", "--out", "o.onnx", "--format", "tflite"],
        ["export", "--out", "file"],
        ["update", "--attacks", "ElasticNet:max_iter", "--images", "p", "--out", "o"],
        ["reproduce-updates", "missing"],
        ["weights", "diff", "missing", "missing"],
    ]
    code = (
        "import sys; from typer.testing import CliRunner; from art_versatile.cli import app\n"
        f"codes = [CliRunner().invoke(app, command).exit_code for command in {commands!r}]\n"
        "print(codes, [name for name in ('tensorflow', 'keras', 'art') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == f"{[2] * len(commands)} []"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("level", "notes"), [(None, False), ("0", True)])
def test_start_up_notes_of_tensorflow(monkeypatch, tmp_path, level, notes):
    """A module in its place, that writes to the file descriptor as it does."""
    (tmp_path / "tensorflow.py").write_text("import os; os.write(2, b'oneDNN')")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    code = "from art_versatile.cli.common import load_tensorflow as load; import os; load(); os.write(2, b'after')"
    paths = [str(tmp_path), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ("oneDNNafter" if notes else "after")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("Expected a. Received b."), 2, "error: Expected a. Received b."),
        (FileExistsError(17, "File exists", "o[/x]"), 2, "error: File exists: o[/x]"),
        (FloatingPointError("inf"), 2, "error: inf"),
        (KeyboardInterrupt(), 130, "interrupted: call again to go on"),
        (Exception("URL fetch failure on https://x"), 2, "--vgg19-weights FILE. Received URL fetch failure on"),
        (Exception("a bug"), 1, ""),
    ],
)
def test_what_ends_a_command(run, monkeypatch, error, code, line):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("art_versatile.experiments.demo.run_demo", fails)
    result = run("demo", "--out", "o[/x]")
    assert result.exit_code == code
    assert line in result.output
    assert code != 1 or result.exception is error


@pytest.mark.parametrize("text", ["8/255,8/255", "", "x", "0", "2", "1/0"])
def test_budgets_that_are_refused(text):
    with pytest.raises(ValueError, match=r"Expected (different budgets|a number|eps)"):
        common.shares(text)


def test_budgets():
    assert common.shares("8/255, 0.5") == {"8/255": 8 / 255, "0.5": 0.5}


@pytest.mark.parametrize("missing", [True, False])
def test_app(run, monkeypatch, missing):
    """Without Gradio one sentence; with it, what is given arrives."""
    if missing:
        monkeypatch.setitem(sys.modules, "gradio", None)
        result = run("app")
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
        assert "pip install 'art-versatile[app]'" in result.output
        return
    given = []

    class Page:
        local_url = "http://127.0.0.1:7000/"
        block_thread = close = staticmethod(lambda: given.append("called"))

    monkeypatch.setattr("art_versatile.app.launch", lambda *args, **kwargs: given.append((args, kwargs)) or Page)
    result = run("app", "--port", 7000, "--classifier", "efficientnet_lite1")
    assert result.exit_code == 0, result.output
    assert given[0][0] == ("efficientnet_lite1", "compact", 7000)
    assert given[1:] == ["called", "called"]
    assert "127.0.0.1:7000" in result.output


def test_the_limit_of_pixels_is_that_of_the_images():
    assert common.MAX_PIXELS == MAX_PIXELS
