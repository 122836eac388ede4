"""Sheets: what is on the page and in the PDF; pictures read back from synthetic photographs of the rendered page."""

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from photographs import photograph, smooth_pictures
from PIL import Image

from art_versatile.physical import make_sheet, read_sheet
from art_versatile.physical.sheet import _rotations, _words

SIDE = 96
ABOUT = [{"attack": "PGD", "label": k} for k in range(5)]


@pytest.fixture(scope="module")
def pictures():
    return smooth_pictures(5, SIDE)


@pytest.fixture(scope="module")
def files(pictures, tmp_path_factory):
    return make_sheet(pictures, tmp_path_factory.mktemp("sheet") / "made" / "sheet.pdf", about=ABOUT)


@pytest.fixture(scope="module")
def page(files):
    return np.asarray(Image.open(files[2]).convert("RGB"))


def png_bytes(header, data):
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def inflated(stream):
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


class TestMake:
    def test_files(self, files):
        assert [file.name for file in files] == ["sheet.pdf", "sheet.json", "sheet-1.png"]
        assert sorted(files[0].parent.iterdir()) == sorted(files)

    def test_the_pdf_holds_the_pixels(self, tmp_path):
        noise = np.random.default_rng(0).uniform(size=(3, 40, 56, 3))
        pdf = make_sheet(noise, tmp_path / "noise.pdf", preview_dpi=None)[0].read_bytes()
        assert re.search(rb"/MediaBox \[ 0 0 595\.\d+ 841\.\d+ \]", pdf)
        images = [
            np.asarray(
                Image.open(io.BytesIO(png_bytes(struct.pack(">IIBBBBB", 56, 40, 8, 2, 0, 0, 0), found.group(1))))
            )
            for found in re.finditer(rb"/Subtype /Image(?:(?!stream).)*?stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
        ]
        # From the lowest line up, and turned over where it is placed.
        np.testing.assert_array_equal(np.flip(images, 1), np.round(noise * 255))
        streams = b"".join(inflated(found) for found in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL))
        assert len(re.findall(rb"141\.73\d* 0 0\s-101\.23\d* 0 101\.23\d* cm\s/I\d Do", streams)) == 3

    def test_same_bytes_again(self, pictures, files, tmp_path):
        again = make_sheet(pictures, tmp_path / "sheet.pdf", about=ABOUT, preview_dpi=None)
        assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files[:2]]

    @pytest.mark.parametrize(
        ("picture_mm", "shape"), [(20, (30, 30)), (50, (30, 40)), (63.3, (40, 30)), (190, (30, 30))]
    )
    def test_nothing_overlaps(self, tmp_path, picture_mm, shape):
        count = 14 if picture_mm < 100 else 3
        made = make_sheet(np.zeros((count, *shape, 3)), tmp_path / "a.pdf", picture_mm=picture_mm, preview_dpi=None)
        sheet = json.loads(made[1].read_text())
        boxes = [
            (p["page"], p["left_mm"], p["top_mm"], p["left_mm"] + p["width_mm"], p["top_mm"] + p["height_mm"] + 5)
            for p in sheet["pictures"]
        ]
        assert [p["index"] for p in sheet["pictures"]] == list(range(count))
        for p in sheet["pictures"]:
            assert max(p["width_mm"], p["height_mm"]) == pytest.approx(picture_mm)
            assert p["width_mm"] / p["height_mm"] == pytest.approx(shape[1] / shape[0])
        size = sheet["marker_mm"]
        boxes += [
            (q["page"], m["left_mm"], m["top_mm"], m["left_mm"] + size, m["top_mm"] + size)
            for q in sheet["pages"]
            for m in q["markers"]
        ]
        for k, a in enumerate(boxes):
            assert a[1] >= 10
            assert a[2] >= 10
            assert a[3] <= 200 + 1e-9
            assert a[4] <= 287 + 1e-9
            for b in boxes[:k]:
                apart = a[1] >= b[3] or b[1] >= a[3] or a[2] >= b[4] or b[2] >= a[4]
                assert a[0] != b[0] or apart

    def test_words_are_apart_in_every_rotation(self):
        turned = [rotation for word in _words(48) for rotation in _rotations(word)]
        assert len(turned) == 192
        assert min((a ^ b).bit_count() for k, a in enumerate(turned) for b in turned[:k]) >= 4

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"path": "sheet.png"}, r"Expected path to end in .pdf. Received 'sheet.png'"),
            ({"picture_mm": 5}, "Expected picture_mm to be a number from 20 to 190"),
            ({"about": [{}]}, "Expected about to hold one mapping for each of 5 images. Received 1"),
            ({"preview_dpi": 0}, "Expected preview_dpi"),
            ({"images": np.full((1, 4, 4, 3), 2.0)}, "Expected images inside"),
            ({"images": np.zeros((13, 4, 4, 3)), "picture_mm": 190}, r"Expected at most 12 pictures .* Received 13"),
        ],
    )
    def test_bad_parameters(self, pictures, kwargs, message):
        with pytest.raises(ValueError, match=message):
            make_sheet(**{"images": pictures, "path": "sheet.pdf", **kwargs})


class TestRead:
    def test_the_page_itself(self, files, page, pictures):
        read = read_sheet(files[2], files[1])
        assert read.page == 0
        assert [picture.about for picture in read.pictures] == ABOUT
        assert read.error_mm < 0.15
        for picture, original in zip(read.pictures, pictures, strict=True):
            assert picture.image.shape == (SIDE, SIDE, 3)
            assert picture.image.dtype == np.float32
            assert np.abs(picture.image - original).mean() < 0.01

    @pytest.mark.parametrize("seed", range(1000, 1005))
    def test_photographs(self, files, page, pictures, seed):
        read = read_sheet(photograph(page, seed, shape=(750, 1000)), files[1])
        assert [picture.index for picture in read.pictures] == list(range(5))
        assert read.error_mm < 0.2
        for picture in read.pictures:
            errors = [np.abs(picture.image - original).mean() for original in pictures]
            assert np.argmin(errors) == picture.index
            assert errors[picture.index] < 0.04

    def test_second_page_large_photograph_and_colours_as_they_are(self, tmp_path):
        pictures = smooth_pictures(2, SIDE)
        _, sheet, _, second = make_sheet(pictures, tmp_path / "two.pdf", picture_mm=190)
        page = Image.open(second).convert("RGB").transpose(Image.Transpose.ROTATE_90).point(lambda v: v // 2)
        page.save(tmp_path / "photo.jpg", quality=95)
        dim = read_sheet(tmp_path / "photo.jpg", sheet, balance=False, max_pixels=300_000)
        assert (dim.page, dim.pictures[0].index) == (1, 1)
        assert np.abs(dim.pictures[0].image - pictures[1] / 2).mean() < 0.01
        read = read_sheet(np.asarray(page, np.float32) / 255, json.loads(sheet.read_text()))
        assert np.abs(read.pictures[0].image - pictures[1]).mean() < 0.015

    def test_missing_marker(self, files, page):
        covered = page.copy()
        covered[:150, :150] = 255
        with pytest.raises(ValueError, match="Expected the four corner markers .* Received .* upper right of page 1"):
            read_sheet(covered, files[1])

    def test_mirrored(self, files, page):
        with pytest.raises(ValueError, match="could be read"):
            read_sheet(page[:, ::-1], files[1])

    @pytest.mark.parametrize("noise", [0, 80])
    def test_no_page(self, files, noise):
        picture = np.random.default_rng(0).normal(128, noise, (300, 400, 3)).clip(0, 255).astype(np.uint8)
        with pytest.raises(ValueError, match="Received a photograph in which none could be read"):
            read_sheet(picture, files[1])

    def test_bad_files(self, files, tmp_path):
        text = tmp_path / "a.jpg"
        text.write_text("no picture")
        with pytest.raises(ValueError, match=r"Expected a readable photograph. Received .*a\.jpg"):
            read_sheet(text, files[1])
        with pytest.raises(ValueError, match="Expected the JSON file of a sheet"):
            read_sheet(files[2], text)
        with pytest.raises(ValueError, match="Expected a sheet of format"):
            read_sheet(files[2], {"format": "another"})
        with pytest.raises(FileNotFoundError):
            read_sheet(tmp_path / "none.png", files[1])

    @pytest.mark.parametrize(("width", "message"), [(13_000, "13000 x 12000 pixels"), (60_000, "exceeds limit")])
    def test_too_large(self, files, tmp_path, width, message):
        # The size is in the header: nothing else is read.
        header = struct.pack(">IIBBBBB", width, 12_000, 8, 2, 0, 0, 0)
        (tmp_path / "huge.png").write_bytes(png_bytes(header, zlib.compress(b"")))
        with pytest.raises(ValueError, match=f"Expected a readable photograph. Received .*{message}"):
            read_sheet(tmp_path / "huge.png", files[1])

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((8, 8), np.uint8), r"Expected a photograph \(H, W, 3\). Received shape \(8, 8\)"),
            (np.full((8, 8, 3), 7.0), r"floats in \[0, 1\]. Received float64 from 7 to 7"),
            (np.zeros((8, 8, 3), np.int64), "Received int64"),
        ],
    )
    def test_bad_arrays(self, files, array, message):
        with pytest.raises(ValueError, match=message):
            read_sheet(array, files[1])
