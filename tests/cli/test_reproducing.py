from __future__ import annotations

import json

import pytest

from art_versatile.evaluation.records import EvaluationRecord, save_records


class TestReproduce:
    @pytest.mark.slow
    def test_on_real_photographs(self, run, tmp_path):
        """Two photographs, the shipped weights, the paper's defences; without Figure 4, with a printed study."""
        arguments = ["--limit", 2, "--image-size", 224, "--strength-images", 0, "--evaluations", 2]
        arguments += ["--specific", "PGD=compact", "--printed-images", 1, "--out", tmp_path / "o"]
        result = run("reproduce", *arguments)
        assert result.exit_code == 0, result.output
        output = " ".join(result.output.split())
        for words in ("classified right; the others are left out", "Comparison of defences", "Floats against PNG"):
            assert words in output
        assert "Printed and photographed" in output
        assert {path.name for path in (tmp_path / "o").iterdir()} == {
            "figure_3.png", "figure_5.png", "pictures", "printed.json", "records.json", "report.html", "tables.md",
        }  # fmt: skip
        records = json.loads((tmp_path / "o" / "records.json").read_text())["records"]
        assert {r["eps"] for r in records if r["attack"] == "FGSM"} == {16 / 255}
        assert "trained on PGD" in {r["defence"] for r in records}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--specific", "DeepFool=compact"), "Expected specific to be one of"),
            (("--specific", "FGSM"), "Expected ATTACK=FOLDER. Received 'FGSM'"),
            (("--specific", "FGSM=missing"), "Received 'missing'"),
            (("--eps", "two"), "Expected a number such as"),
            (("--effort", "full"), "Expected effort"),
        ],
    )
    def test_refused(self, refuses, arguments, message):
        assert message in refuses(("reproduce",), *arguments)

    @pytest.mark.parametrize("scale", [(), ("--scale", "mini", "--images", ".")], ids=["given", "scale"])
    def test_the_papers_sampling(self, refuses, labelled, monkeypatch, scale):
        """What is drawn of each class, and whole images, arrive where the images are read."""
        command = ("reproduce", *labelled, *scale)
        if scale:
            command = (*command[:-1], labelled[0])
        assert "Expected at least 2 images of each class" in refuses(command, "--per-class", 2)
        read = []

        def labelled_images(*_, **given):
            read.append(given)
            raise ValueError("Expected nothing more.")

        monkeypatch.setattr("art_versatile.images.labelled_images", labelled_images)
        refuses(command, "--per-class", 1, "--stretch")
        assert [(given["per_class"], given["stretch"]) for given in read] == [(1, True)]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--scale", "large"), "Expected scale to be one of"),
            (("--scale", "mini"), "Expected --images, a folder of training photographs"),
            (("--scale", "mini", "--eps", "8/255"), "Expected --set for sizes with --scale. Received eps."),
            (("--scale", "mini", "--set", "filters"), "Expected NAME=VALUE"),
            (("--scale", "mini", "--set", "filtres=1"), "Expected a size to be one of"),
            (("--scale", "mini", "--classifier", "missing"), "Expected a classifier in"),
            (("--plan",), "Expected --scale with them. Received plan."),
            (("--rows", "odd"), "Expected --scale with them. Received rows."),
        ],
    )
    def test_a_scale_refused(self, refuses, arguments, message):
        assert message in refuses(("reproduce",), *arguments)

    def test_files_of_a_scale_refused(self, refuses, labelled, tmp_path):
        command = ("reproduce", *labelled, "--scale", "mini", "--images")
        assert "Expected an image file or a folder" in refuses(command, tmp_path / "absent")
        command = (*command, labelled[0])
        assert "Expected a file of VGG16's weights" in refuses(command, "--vgg16-weights", tmp_path / "absent")
        assert "Expected rows to be one of" in refuses(command, "--rows", "third")

    def test_plan(self, run, tiny, tmp_path):
        """VGG19 with random weights, the classifier's file; nothing is written."""
        options = ["--set", "filters=8", "--set", "architecture=unet256", "--gpu-peak", 10, "--gpu-share", 0.5]
        command = ["reproduce", "--scale", "smoke", "--plan", "--classifier", tiny, "--out", tmp_path / "never"]
        result = run(*command, *options)
        assert result.exit_code == 0, result.output
        output = " ".join(result.output.split())
        for words in ("pairs/versatile-4-255", "training/fixed-weights", "measuring/tables", "50% are assumed"):
            assert words in output
        assert "filters=8, widths=4, discriminator=1" in output
        assert not (tmp_path / "never").exists()


def test_paper_table(run, tmp_path):
    facts = {"dataset": "d", "n": 50, "classifier": "c"}
    save_records(
        [
            EvaluationRecord(**facts, defence="none", attack="clean", threat_model="clean", correct=50),
            EvaluationRecord(**facts, defence="GaussianBlur", attack="PGD", threat_model="static", correct=31),
        ],
        tmp_path / "records.json",
    )
    printed = run("paper-table", tmp_path)
    assert printed.exit_code == 0, printed.output
    (line,) = [line for line in printed.output.splitlines() if line.startswith("| PGD")]
    assert line.split("|")[2].strip() == "– (2.4)"
    assert line.split("|")[-2].strip() == "62.0"
    readme = tmp_path / "README.md"
    readme.write_text("<!-- paper-table -->\n<!-- /paper-table -->\n")
    assert run("paper-table", tmp_path, "--into", readme).exit_code == 0
    assert printed.output in readme.read_text()
    assert "Expected records.json" in run("paper-table", tmp_path / "absent").output
