from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from art_versatile.reports.pictures import Panel, Prediction, data_uri, magnification, shots, story


def panel(side: int = 120, *, right: tuple[bool, bool, bool] = (True, False, True), **changes: Any) -> Panel:
    rng = np.random.default_rng(side)
    clean = 0.2 + 0.6 * rng.random((side, side, 3))
    names = ("clean", "adversarial", "purified")
    said = {
        f"{name}_prediction": Prediction(label="cat", correct=value) for name, value in zip(names, right, strict=True)
    }
    images = {
        "clean": clean,
        "adversarial": clean + 8 / 255 * rng.choice([-1.0, 1.0], size=clean.shape),
        "purified": (clean + 0.5) / 2,
    }
    return Panel(**{"name": "a.jpg", "attack": "AutoAttack", "true_label": "cat", **images, **said, **changes})


def decoded(source: str) -> Image.Image:
    head, data = source.split(",", 1)
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    assert str(image.format).lower() == head[len("data:image/") : head.index(";")]
    return image


def test_the_four_pictures() -> None:
    given = panel()
    clean, attacked, perturbation, purified = shots(given)
    assert [shot.title for shot in shots(given)] == ["Clean", "After ART AutoAttack", "Perturbation ×8", "Purified"]
    for shot, image in ((clean, given.clean), (attacked, given.adversarial), (purified, given.purified)):
        assert shot.image is image
    # x8 at 8/255: two greys, 0.5 - 0.25 and 0.5 + 0.25.
    np.testing.assert_allclose(np.abs(perturbation.image - 0.5), 64 / 255)
    assert perturbation.prediction is None
    assert perturbation.note == "L∞ 8.0/255 · L2 6.52"  # 8/255 * sqrt(120 * 120 * 3)
    same = panel(adversarial=given.clean)
    assert (shots(same)[2].title, shots(same)[2].note) == ("Perturbation", "none: the image is unchanged")


@pytest.mark.parametrize(
    ("right", "threat_model", "words"),
    [
        ((True, False, True), "static", "Right behind the defence, wrong without it."),
        ((True, False, False), "static", "Wrong behind the defence, too."),
        ((True, True, True), "static", "The attack fails, with and without the defence."),
        ((True, True, False), "static", "what the defence makes of the image does."),
        ((True, True, False), "adaptive", "Made for the defended classifier"),
        ((False, False, False), "static", "The clean image is wrong already."),
    ],
)
def test_what_the_predictions_mean_together(right: tuple[bool, bool, bool], threat_model: str, words: str) -> None:
    assert words in story(panel(right=right, threat_model=threat_model))


def test_pictures_decode_to_what_was_given() -> None:
    image = panel(120).clean
    assert np.abs(np.asarray(decoded(data_uri(image))) / 255 - image).mean() < 0.03
    small = panel(32).clean
    assert np.array_equal(np.asarray(decoded(data_uri(small))), np.rint(small * 255).astype(np.uint8))
    assert decoded(data_uri(panel(300).clean)).size == (256, 256)
    noise = np.random.default_rng(0).random((256, 256, 3))  # the largest JPEG there is
    assert decoded(data_uri(noise)).size == (256, 256)


@pytest.mark.parametrize(
    ("eps", "factor"), [(16 / 255, 4), (8 / 255, 8), (4 / 255, 16), (2 / 255, 32), (1e-6, 128), (0.9, 1), (0.0, 1)]
)
def test_magnification(eps: float, factor: int) -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(20, 20, 3))
    assert magnification(eps * signs) == factor


def test_magnification_of_a_single_pixel() -> None:
    perturbation = np.zeros((20, 20, 3))
    perturbation[3, 3] = 0.1
    assert magnification(perturbation) == 2


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"clean": np.zeros((1, 8, 8, 3))}, ValueError, "clean"),
        ({"clean": np.zeros((8, 8, 1))}, ValueError, "clean"),
        ({"adversarial": np.zeros((8, 8, 3))}, ValueError, "adversarial"),
        ({"purified": np.full((120, 120, 3), 2.0)}, ValueError, "purified"),
        ({"purified": np.zeros((120, 120, 3), np.uint8)}, TypeError, "purified"),
    ],
)
def test_panels_refuse(changes: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"Expected {name} "):
        panel(**changes)


def test_predictions_refuse() -> None:
    with pytest.raises(ValueError, match="Expected confidence"):
        Prediction(label="a", confidence=93, correct=True)
