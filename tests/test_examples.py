"""Each example runs, at smoke size."""

import runpy
from pathlib import Path

import pytest

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


def test_train_your_purifier(main, capsys, tmp_path):
    main("train_your_purifier.py")(out=tmp_path / "mine", images=4, size=64, epochs=2)
    assert "loss by epoch" in capsys.readouterr().out
    assert (tmp_path / "mine" / "card.json").is_file()
