from __future__ import annotations

import csv
import json

import keras
import pytest
from PIL import Image

from art_versatile.images import load_images


class TestDemo:
    def test_on_real_photographs(self, run, tmp_path):
        """The main job, on three photographs, with the shipped weights; again, it attacks nothing."""
        command = ("demo", "--out", tmp_path / "o[/x]", "--images", 3, "--seed", 5, "--eps", "8/255")
        result = run(*command)
        assert result.exit_code == 0, result.output
        records = json.loads((tmp_path / "o[/x]" / "records.json").read_text())["records"]
        attacks = {r["attack"] for r in records}
        assert {"clean", "FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool"} <= attacks
        assert {r["threat_model"] for r in records} == {"clean", "static", "adaptive"}
        assert {r["n"] for r in records} == {3}
        assert "data:image" in (tmp_path / "o[/x]" / "report.html").read_text()
        assert "DeepFool" in result.output
        assert f"page: {tmp_path / 'o[/x]' / 'report.html'}" in result.output
        assert "going on" not in result.output
        again = run(*command)
        assert again.exit_code == 0
        assert "records.json is there: going on with it" in again.output

    @pytest.mark.parametrize("eps", ["0", "two", "1/0", "2"])
    def test_refused(self, refuses, eps):
        assert "Expected" in refuses(("demo",), "--eps", eps)


class TestEvaluate:
    def test_a_folder(self, run, labelled, tiny, weights, tmp_path):
        arguments = ("--limit", 2, "--classifier", tiny, "--image-size", 32, "--eps", "8/255,4/255", "--weights",
                     weights, "--threats", "static, adaptive", "--out", tmp_path / "o")  # fmt: skip
        result = run("evaluate", *labelled, *arguments)
        assert result.exit_code in (0, 1), result.output  # 1 where the untrained network gets all wrong
        records = json.loads((tmp_path / "o" / "records.json").read_text())["records"]
        assert {r["n"] for r in records} == {2}
        assert {r["classifier"] for r in records} == {"tiny at 32x32"}
        assert {r["threat_model"] for r in records} == {"clean", "static", "adaptive"}
        assert {r["eps"] for r in records if r["attack"] == "PGD" and r["threat_model"] == "static"} == {
            8 / 255,
            4 / 255,
        }
        assert "Was the attack strong enough?" in result.output
        assert "VersatilePurifier: an adaptive attacker (" in result.output
        assert "Threat model: static" in " ".join(result.output.split())
        assert "0.png" in (tmp_path / "o" / "report.html").read_text()
        (tmp_path / "o" / "records.json").write_text('{"records": [')
        broken = run("evaluate", *labelled, *arguments)
        assert broken.exit_code == 2
        assert "delete it to begin anew" in broken.output

    def test_labels_shifted_by_one(self, run, colourful, tiny, weights, tmp_path, caplog):
        """The exit code tells, and the verdict; rows left out are said once; records say how images were cut."""
        folder = colourful(tmp_path / "pictures", 8, 40)
        said = keras.models.load_model(tiny, compile=False).predict(load_images(folder, 32, stretch=True), verbose=0)
        rows = [f"{i}.png,{(label + 1) % 4}" for i, label in enumerate(said.argmax(1))]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows, "gone.png,1", "x.png"]))
        arguments = ("--classifier", tiny, "--image-size", 32, "--weights", weights, "--attacks", "FGSM", "--threats",
                     "static", "--stretch", "--out", tmp_path / "o")  # fmt: skip
        result = run("evaluate", folder, tmp_path / "labels.csv", *arguments)
        assert result.exit_code == 1, result.output
        assert "VersatilePurifier: nothing is said, for the classifier alone is no better than chance" in result.output
        assert caplog.text.count("8 of 10 rows of") == 1
        records = json.loads((tmp_path / "o" / "records.json").read_text())["records"]
        assert {r["dataset"] for r in records} == {"pictures, first 8, stretched"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--eps", "two"), "Expected a number such as 0.03 or 8/255"),
            (("--threats", "black-box"), "Expected threats to be one of"),
            (("--attacks", "FGSM,x"), "Expected attacks to be one of"),
            (("--effort", "full"), "Expected effort to be one of"),
            (("--weights", "missing"), "Received 'missing'"),
            (("--label-column", "missing"), "Expected the columns"),
            (("--classifier", "missing"), "Expected a classifier in"),
            (("--surrogate", "missing.keras"), "Expected a .keras file"),
            (("--per-class", 3), "Expected at least 3 images of each class"),
        ],
    )
    def test_refused(self, refuses, labelled, arguments, message):
        assert message in refuses(("evaluate", *labelled), *arguments)

    @pytest.mark.parametrize("command", ["evaluate", "reproduce", "certify"])
    def test_a_folder_without_labels(self, refuses, labelled, command):
        weights = ("--weights", "none") if command == "certify" else ()
        assert "Expected both a folder and a table of labels" in refuses((command, labelled[0]), *weights)


class TestCertify:
    def test_a_folder_and_again(self, run, labelled, tiny, weights, tmp_path):
        command = ("certify", *labelled, "--weights", weights, "--classifier", tiny, "--image-size", 32, "--n0", 10,
                   "--n", 50, "--sigma", 0.1, "--limit", 2, "--out", tmp_path / "o")  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "n = 2 images" in result.output
        with (tmp_path / "o" / "certified.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["draws"] for row in rows] == ["50", "50"]
        for row in rows:  # 32x32x3 values
            assert float(row["infinity_255"]) == pytest.approx(255 * float(row["radius"]) / 3072**0.5)
        with Image.open(tmp_path / "o" / "certified.png") as picture:
            assert min(picture.size) > 200
        before = (tmp_path / "o" / "certificates.json").read_bytes()
        assert run(*command).exit_code == 0
        assert (tmp_path / "o" / "certificates.json").read_bytes() == before
        other = run(*command[:-2], "--seed", 1, "--out", tmp_path / "o")
        assert other.exit_code == 2
        assert "Expected certificates of the same images" in other.output
        bare = run(*command[:3], "--weights", "none", *command[5:-1], tmp_path / "bare")
        assert bare.exit_code == 0, bare.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--sigma", 0), "--sigma"),
            (("--n", 0), "--n"),
            (("--alpha", 0.9), "--alpha"),
            (("--weights", "missing"), "weights"),
            (("--classifier", "missing"), "classifier"),
        ],
    )
    def test_refused(self, refuses, arguments, message):
        assert message in refuses(("certify",), *arguments)
