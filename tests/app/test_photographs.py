import numpy as np
import pytest
from PIL import Image

from art_versatile.app.photographs import MAX_BYTES, load_photograph

RED = np.full((40, 60, 3), (200, 30, 60), np.uint8)


def write(path, kind):
    """One file that a stranger may send."""
    picture = Image.fromarray(RED)
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":  # the file is small: the pixels are all of one value
        Image.new("1", (20_000, 20_000)).save(path, "PNG")
    elif kind == "large":
        Image.new("1", (8_000, 8_000)).save(path, "PNG")
    elif kind == "heavy":
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
    elif kind == "cmyk":
        picture.convert("CMYK").save(path, "JPEG")
    elif kind == "gif":
        picture.save(path, "GIF")
    elif kind == "truncated":
        picture.save(path, "PNG")
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "broken header":
        path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
    elif kind == "float":
        Image.fromarray(np.ones((8, 8), np.float32)).save(path, "TIFF")
    elif kind == "svg":
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "Received none"),
        ("folder", "Received none"),
        ("text", "none of these"),
        ("empty", "none of these"),
        ("svg", "none of these"),
        ("huge", "million pixels"),
        ("large", "8000 × 8000"),
        ("heavy", "20 MB"),
        ("cmyk", "CMYK"),
        ("gif", "format GIF"),
        ("truncated", "damaged"),
        ("broken header", "damaged|none of these"),
        ("float", "kind F"),
    ],
)
def test_refuses_in_one_sentence_that_names_no_path(tmp_path, kind, says):
    path = tmp_path / "secret-name"
    write(path, kind)
    with pytest.raises(ValueError, match=says) as caught:
        load_photograph(path, 32)
    message = str(caught.value)
    assert message.startswith("Expected")
    assert message.endswith(".")
    assert "\n" not in message
    assert "secret-name" not in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_reads_each_format_whatever_its_name(tmp_path, kind):
    path = tmp_path / "photograph.txt"
    Image.fromarray(RED).save(path, kind)
    image = load_photograph(path)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, RED / 255, atol=4 / 255)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_reads_each_kind_of_pixel(tmp_path, mode):
    Image.fromarray(RED).convert(mode).save(tmp_path / "photograph.png")
    assert load_photograph(tmp_path / "photograph.png", 32).shape == (32, 32, 3)


def test_reduces_to_as_many_pixels_and_keeps_the_proportions(tmp_path):
    Image.fromarray(RED).save(tmp_path / "photograph.png")
    assert load_photograph(tmp_path / "photograph.png", largest=100).shape == (40, 60, 3)
    reduced = load_photograph(tmp_path / "photograph.png", largest=20)
    assert reduced.shape == (16, 24, 3)  # 400 / 2,400 of the pixels
    np.testing.assert_allclose(reduced, RED[:16, :24] / 255, atol=1 / 255)
