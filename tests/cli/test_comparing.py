from __future__ import annotations

import json

import keras
import pytest

from art_versatile.images import labelled_images


def test_two_classifiers_on_one_half(run, labelled, tiny, weights, tmp_path):
    """Pictures 0 and 2 are what the network takes them for; the labels of the other half are wrong."""
    x = labelled_images(*labelled, 32)[0]
    said = keras.models.load_model(tiny, compile=False).predict(x, verbose=0).argmax(1)
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n" + "".join(f"{i}.png,{(said[i] + i % 2) % 4}\n" for i in range(3)))
    arguments = ("--rows", "even", "--classifier", f"first={tiny}", "--classifier", tiny, "--image-size", 32,
                 "--weights", weights, "--attacks", "FGSM", "--out", tmp_path / "o")  # fmt: skip
    result = run("compare", labelled[0], table, *arguments)
    assert result.exit_code == 0, result.output
    for number, name in enumerate(("first at 32x32", "tiny at 32x32")):
        records = json.loads((tmp_path / "o" / f"classifier_{number}" / "records.json").read_text())["records"]
        assert {(r["n"], r["classifier"]) for r in records} == {(2, name)}
        assert name in (tmp_path / "o" / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "third"), "Expected rows to be one of"),
        (("--per-class", 2), "Expected at least 2 images of each class"),
        (("--classifier", "mine=missing.keras:0,255"), "Expected a .keras file"),
        (("--classifier", "mine=missing.keras"), "Expected a .keras file"),
        (("--classifier", "m=a.keras", "--classifier", "m=b.keras"), "Expected classifiers of different names"),
        (("--classifier", "a/b=c.keras"), "Received 'a/b=c.keras'"),
        (("--weights", "missing"), "Received 'missing'"),
        (("--attacks", "x"), "Expected attacks to be one of"),
    ],
)
def test_refused(refuses, labelled, arguments, message):
    assert message in refuses(("compare", *labelled), *arguments)
