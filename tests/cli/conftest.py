"""The command line, a small classifier in a file, small weights, small pictures."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from art_versatile import VersatilePurifier, cli
from art_versatile.pix2pix import CompactGenerator


@pytest.fixture(scope="session")
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A .keras file: pictures of any size, 4 classes by colour; convolutions to take features of."""
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(2)]
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=init[0], name="conv_1")(image)
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=init[1], name="conv_2")(x)
    x = keras.layers.Rescaling(50.0)(keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("classifiers") / "tiny.keras"
    keras.Model(image, x, name="tiny").save(path)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Small and quick; the shipped ones are tested by the demo."""
    generator = CompactGenerator(widths=(8, 8), blocks=(1, 1))
    return VersatilePurifier(generator).save(tmp_path_factory.mktemp("purifiers") / "weights")


@pytest.fixture(scope="session")
def colourful():
    """Makes PNG files of random patches."""

    def make(folder, count, size):
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(count):
            patches = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(size // 4, 0).repeat(size // 4, 1)
            Image.fromarray(patches).save(folder / f"{i}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def labelled(colourful, tmp_path_factory):
    """Three pictures and a table of their classes."""
    base = tmp_path_factory.mktemp("labelled")
    table = base / "labels.csv"
    table.write_text("file,label\n" + "".join(f"{i}.png,{i}\n" for i in range(3)) + "absent.png,2\n")
    return colourful(base / "pictures", 3, 40), table


@pytest.fixture
def refuses(run, tmp_path):
    """Runs a command that has to end in one line, with nothing written."""

    def check(command, *arguments):
        result = run(*command, *arguments, "--out", tmp_path / "never")
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "never").exists()
        (line,) = [line for line in result.output.splitlines() if line.lower().startswith("error")]
        return line

    return check
