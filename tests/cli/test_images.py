from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from art_versatile import VersatilePurifier
from art_versatile.classifiers import load_classifier
from art_versatile.images import load_image


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 30)), ("inner/b.png", (17, 23))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


class TestPurify:
    def test_a_folder_and_again(self, run, pictures, weights, tmp_path):
        Image.new("RGB", (8, 8)).save(pictures / "moving.gif")
        command = ("purify", pictures, "--out", tmp_path / "o[/x]", "--weights", weights)
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert f"2 of 2 images purified into {tmp_path / 'o[/x]'}" in result.output
        assert "moving.gif" in result.output
        purifier = VersatilePurifier.from_pretrained(weights)
        for source, target in (("a.jpg", "a.png"), ("inner/b.png", "inner/b.png")):
            expected = purifier(load_image(pictures / source)[None])[0][0]
            got = load_image(tmp_path / "o[/x]" / target)
            assert np.abs(got - expected).max() <= 0.5 / 255 + 1e-6
        (tmp_path / "o[/x]" / "a.png").write_bytes(b"mine")
        again = run(*command)
        assert again.exit_code == 0
        assert "2 were there already" in again.output
        assert (tmp_path / "o[/x]" / "a.png").read_bytes() == b"mine"
        assert run(*command, "--force").exit_code == 0
        assert load_image(tmp_path / "o[/x]" / "a.png").shape == (40, 30, 3)

    def test_broken_image_is_named_and_skipped(self, run, pictures, weights, tmp_path):
        (pictures / "broken.png").write_bytes(b"\x89PNG not really")
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 1
        assert "broken.png" in result.output
        assert "2 of 3 images" in result.output
        assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["a.png", "b.png"]

    def test_larger_images_than_allowed_are_named_and_skipped(self, run, pictures, weights, tmp_path):
        given = ("--out", tmp_path / "out", "--weights", weights, "--max-pixels", 40 * 30 - 1)
        result = run("purify", pictures, *given)
        assert result.exit_code == 1
        assert "40 x 30 pixels, more than max_pixels=1,199" in result.output.replace("30 x 40", "40 x 30")

    def test_two_images_of_one_name(self, run, pictures, weights, tmp_path):
        Image.new("RGB", (8, 8)).save(pictures / "a.webp")
        result = run("purify", pictures, "--out", tmp_path / "out", "--weights", weights)
        assert result.exit_code == 0, result.output
        made = sorted(path.name for path in (tmp_path / "out").rglob("*.png"))
        assert made == ["a.jpg.png", "a.webp.png", "b.png"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("missing",), "Expected an image file or a folder of them"),
            (("PICTURES", "PICTURES/../again"), "Expected one image for"),
            (("PICTURES", "--weights", "missing"), "Received 'missing'"),
        ],
    )
    def test_refused(self, refuses, pictures, tmp_path, arguments, message):
        (tmp_path / "again").mkdir()
        (tmp_path / "again" / "a.jpg").write_bytes((pictures / "a.jpg").read_bytes())
        given = [argument.replace("PICTURES", str(pictures)) for argument in arguments]
        assert message in refuses(("purify",), *given)


class TestPrinted:
    def test_make_and_read(self, run, labelled, tiny, weights, tmp_path):
        """The page as it was drawn, in place of a photograph."""
        facts = ("--classifier", tiny, "--image-size", 64)
        result = run("printed", "make", *labelled, "--out", tmp_path / "sheet.pdf", "--limit", 2, "--max-iter", 2,
                     "--eot-samples", 1, "--attacks", "PGD,MI-FGSM", *facts)  # fmt: skip
        assert result.exit_code == 0, result.output
        about = [picture["about"] for picture in json.loads((tmp_path / "sheet.json").read_text())["pictures"]]
        assert [item["attack"] for item in about] == ["clean", "PGD", "MI-FGSM"] * 2
        assert [(item["label"], item["name"]) for item in about[::3]] == [(0, "0.png"), (1, "1.png")]
        shutil.copy(tmp_path / "sheet-1.png", tmp_path / "other.png")
        read = run("printed", "read", tmp_path / "sheet-1.png", tmp_path / "other.png", "--sheet",
                   tmp_path / "sheet.json", "--out", tmp_path / "cut", "--weights", weights, *facts)  # fmt: skip
        assert read.exit_code == 0, read.output
        assert "MI-FGSM" in read.output
        for photograph in ("sheet-1", "other"):
            assert len(list((tmp_path / "cut" / photograph).glob("*.png"))) == 12
            assert load_image(tmp_path / "cut" / photograph / "0.png").shape == (64, 64, 3)
        records = json.loads((tmp_path / "cut" / "records.json").read_text())
        assert [(r["photograph"], r["index"]) for r in records["records"]] == [
            (name, i) for name in ("sheet-1.png", "other.png") for i in range(6)
        ]
        assert records["defence"]["fingerprint"] == VersatilePurifier.from_pretrained(weights).fingerprint
        # What was saved is what was classified.
        purified = np.stack([load_image(tmp_path / "cut" / "other" / f"{i}-purified.png") for i in range(6)])
        answers = load_classifier(str(tiny), 64).predict(purified).argmax(1)
        assert [r["defended"] for r in records["records"][6:]] == answers.tolist()
        page = (tmp_path / "cut" / "report.html").read_text()
        assert page.count("<img") == 24
        assert page.count("<h2>") == 2
        assert "<script" not in page

    def test_read_refuses(self, refuses, tmp_path):
        (tmp_path / "sheet.json").write_text("{}")
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        (tmp_path / "b").mkdir()
        shutil.copy(tmp_path / "a.png", tmp_path / "b" / "a.png")
        command = ("printed", "read", tmp_path / "a.png")
        sheet = ("--sheet", tmp_path / "sheet.json")
        assert "--sheet" in refuses(command, "--sheet", tmp_path / "missing.json")
        assert "Expected" in refuses(command, *sheet)
        assert "different names" in refuses((*command, tmp_path / "b" / "a.png"), *sheet)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--attacks", "FGSM"), "attacks"),
            (("--eps", "2"), "eps"),
            (("--classifier", "missing"), "classifier"),
            (("--weights", "missing"), "weights"),
            ((), "to end in .pdf"),
        ],
    )
    def test_make_refuses(self, refuses, arguments, message):
        assert message in refuses(("printed", "make"), *arguments)

    def test_study(self, run, labelled, tiny, weights, tmp_path):
        command = ("printed", "study", *labelled, "--classifier", tiny, "--image-size", 32, "--weights", weights,
                   "--attacks", "PGD", "--eps", "8/255", "--max-iter", 2, "--eot-samples", 2, "--draws", 2,
                   "--batch-size", 2, "--out", tmp_path / "o")  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert {path.name for path in (tmp_path / "o").iterdir()} == {"printed.json", "printed.md", "printed.png"}
        study = json.loads((tmp_path / "o" / "printed.json").read_text())
        assert [(row["eot_samples"], row["threat_model"]) for row in study["rows"]] == [
            *[(0, "clean")] * 2, *[(0, "static")] * 2, *[(2, "static")] * 2, (2, "adaptive"),
        ]  # fmt: skip
        assert {row["n"] for row in study["rows"]} == {3}
        settings = study["settings"]
        purifier = VersatilePurifier.from_pretrained(weights)
        assert settings["defences"]["VersatilePurifier"]["fingerprint"] == purifier.fingerprint
        assert (settings["max_iter"], settings["draws"], settings["printing"]["tilt"]) == (2, 2, 0.1)
        text = (tmp_path / "o" / "printed.md").read_text()
        assert text.count("PGD 8/255, adaptive, knows of printing") == 2
        assert "2 iterations, EOT over 2 draws" in text
        again = run(*command)
        assert again.exit_code == 0
        assert json.loads((tmp_path / "o" / "printed.json").read_text()) == study
