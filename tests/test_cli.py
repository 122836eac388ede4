import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import art_versatile
from art_versatile import VersatilePurifier, cli
from art_versatile.images import load_image
from art_versatile.pix2pix import CompactGenerator


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def weights(tmp_path):
    """Small and quick; the shipped ones are tested by the demo."""
    return VersatilePurifier(CompactGenerator(widths=(8, 8), blocks=(1, 1))).save(tmp_path / "weights")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 30)), ("inner/b.png", (17, 23))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


class TestPurify:
    def test_folder(self, run, pictures, weights, tmp_path):
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 0, result.output
        purifier = VersatilePurifier.from_pretrained(weights)
        for source, target in (("a.jpg", "a.png"), ("inner/b.png", "inner/b.png")):
            expected = purifier(load_image(pictures / source)[None])[0][0]
            got = load_image(tmp_path / "out" / target)
            assert np.abs(got - expected).max() <= 0.5 / 255 + 1e-6
        assert "2 of 2 images" in result.output

    def test_broken_image_is_named_and_skipped(self, run, pictures, weights, tmp_path):
        (pictures / "broken.png").write_bytes(b"\x89PNG not really")
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 1
        assert "broken.png" in result.output
        assert "2 of 3 images" in result.output
        assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["a.png", "b.png"]

    def test_nothing_is_overwritten_without_force(self, run, pictures, weights, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "a.png").write_bytes(b"mine")
        result = run("purify", pictures / "a.jpg", "--out", out, "--weights", weights)
        assert result.exit_code == 1
        assert "--force" in result.output
        assert (out / "a.png").read_bytes() == b"mine"
        assert run("purify", pictures / "a.jpg", "--out", out, "--weights", weights, "--force").exit_code == 0
        assert load_image(out / "a.png").shape == (40, 30, 3)

    def test_two_images_for_one_name(self, run, pictures, weights, tmp_path):
        Image.new("RGB", (8, 8)).save(pictures / "a.bmp")
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 2
        assert "Expected one image for" in result.output

    @pytest.mark.parametrize(
        ("source", "name", "message"),
        [
            ("missing", "compact", "Expected an image file or a folder of them"),
            ("pictures", "missing", "Received 'missing'"),
        ],
    )
    def test_missing(self, run, pictures, tmp_path, source, name, message):
        result = run("purify", tmp_path / source, "--out", tmp_path / "out", "--weights", name)
        assert result.exit_code == 2
        assert message in result.output
        assert not (tmp_path / "out").exists()


class TestDemo:
    def test_on_real_photographs(self, run, tmp_path):
        """The main job, on three photographs, with the shipped weights."""
        result = run("demo", "--out", tmp_path / "out", "--images", 3, "--seed", 5, "--eps", "8/255")
        assert result.exit_code == 0, result.output
        records = json.loads((tmp_path / "out" / "records.json").read_text())["records"]
        attacks = {r["attack"] for r in records}
        assert {"clean", "FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool"} < attacks
        assert {r["threat_model"] for r in records} == {"clean", "static", "adaptive"}
        assert {r["n"] for r in records} == {3}
        page = (tmp_path / "out" / "report.html").read_text()
        assert "data:image" in page
        assert "DeepFool" in page
        assert "DeepFool" in result.output

    @pytest.mark.parametrize("eps", ["0", "two", "1/0", "2"])
    def test_bad_eps(self, run, tmp_path, eps):
        result = run("demo", "--out", tmp_path / "out", "--eps", eps)
        assert result.exit_code == 2
        assert "Expected" in result.output
        assert not (tmp_path / "out").exists()


def test_version(run):
    assert run("--version").output.strip() == art_versatile.__version__
