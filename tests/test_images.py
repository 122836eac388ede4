from __future__ import annotations

import importlib.util
import os
import re
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from art_versatile import images
from art_versatile.images import (
    IMAGE_SUFFIXES,
    demo_images,
    labelled_images,
    list_images,
    load_image,
    load_images,
    random_view,
    read_labels,
    save_png,
)


@pytest.fixture
def picture():
    """(6, 9, 3) uint8, no two corners alike."""
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(array, path, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)
    return path


class TestListImages:
    def test_any_depth_any_case_in_the_order_of_the_paths(self, tmp_path):
        names = ["b.png", "a/z.JPG", "a/b/c.webp", "c.tiff", "A.bmp"]
        for name in [*names, "notes.txt", "a/labels.csv", "png"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        assert list_images(tmp_path) == sorted(tmp_path / name for name in names)
        assert list_images(str(tmp_path)) == list_images(tmp_path)

    def test_each_suffix(self, tmp_path):
        for suffix in IMAGE_SUFFIXES:
            (tmp_path / f"x{suffix}").touch()
        assert len(list_images(tmp_path)) == len(IMAGE_SUFFIXES)

    def test_a_file_is_itself(self, tmp_path):
        (tmp_path / "x.dat").touch()
        assert list_images(tmp_path / "x.dat") == [tmp_path / "x.dat"]

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"Expected an image file or a folder of them\. Received .*none"):
            list_images(tmp_path / "none")

    def test_an_empty_folder(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(FileNotFoundError, match=r"Expected image files \(\.bmp, .*\) in .*\. Received none\."):
            list_images(tmp_path)


class TestLoadImage:
    def test_pixels_are_the_256_levels_over_255(self, tmp_path, picture):
        x = load_image(save(picture, tmp_path / "x.png"))
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, picture.astype(np.float32) / 255)

    @pytest.mark.parametrize(
        ("orientation", "turned"),
        [
            (1, lambda a: a),
            (2, lambda a: a[:, ::-1]),
            (3, lambda a: a[::-1, ::-1]),
            (4, lambda a: a[::-1]),
            (5, lambda a: a.swapaxes(0, 1)),
            (6, lambda a: np.rot90(a, -1)),
            (7, lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
            (8, lambda a: np.rot90(a, 1)),
        ],
    )
    def test_exif_rotation(self, tmp_path, picture, orientation, turned):
        exif = Image.Exif()
        exif[0x0112] = orientation
        x = load_image(save(picture, tmp_path / "x.png", exif=exif))
        np.testing.assert_array_equal((x * 255).round(), turned(picture))

    def test_transparency_is_dropped(self, tmp_path, picture):
        alpha = np.arange(54, dtype=np.uint8).reshape(6, 9, 1)
        x = load_image(save(np.concatenate([picture, alpha], -1), tmp_path / "x.png"))
        np.testing.assert_array_equal((x * 255).round(), picture)

    def test_grey_is_three_equal_channels(self, tmp_path, picture):
        x = load_image(save(picture[..., 0], tmp_path / "x.png"))
        np.testing.assert_array_equal((x * 255).round(), np.repeat(picture[..., :1], 3, -1))

    def test_palette_and_two_levels(self, tmp_path, picture):
        Image.fromarray(picture).quantize(16).save(tmp_path / "palette.png")
        x = load_image(tmp_path / "palette.png")
        assert x.shape == picture.shape
        assert len(np.unique(x.reshape(-1, 3), axis=0)) <= 16
        Image.fromarray(picture).convert("1").save(tmp_path / "two.png")
        assert set(np.unique(load_image(tmp_path / "two.png"))) <= {0.0, 1.0}

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_sixteen_bits_are_scaled_not_cut_off(self, tmp_path, suffix):
        levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
        x = load_image(save(levels, tmp_path / f"x.{suffix}"))
        np.testing.assert_allclose(x[..., 0], levels / 65535, atol=1 / 255)

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_pixels_of_unknown_range(self, tmp_path, dtype):
        path = save(np.ones((8, 8), dtype), tmp_path / "x.tif")
        with pytest.raises(ValueError, match=r"Expected a readable image\. .*: pixels of mode [IF], whose range"):
            load_image(path)

    @pytest.mark.parametrize(("shape", "crop"), [((40, 60), np.s_[:, 10:50]), ((60, 40), np.s_[10:50, :])])
    def test_the_centre_is_kept(self, tmp_path, shape, crop):
        """At the size of its short side nothing is resized, so the crop is exact."""
        picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
        x = load_image(save(picture, tmp_path / "x.png"), 40)
        np.testing.assert_array_equal((x * 255).round(), picture[crop])

    def test_stretched_the_whole_image_is_resized(self, tmp_path):
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 256, (8, 24, 3), np.uint8))
        image.save(tmp_path / "a.png")
        got = load_image(tmp_path / "a.png", 16, stretch=True)
        np.testing.assert_array_equal(
            got, np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)) / np.float32(255)
        )

    def test_the_short_side_is_resized(self, tmp_path):
        rows, columns = np.mgrid[0:80, 0:120]
        picture = np.stack([rows * 2, columns * 2, rows + columns], -1).astype(np.uint8)
        x = load_image(save(picture, tmp_path / "x.png"), np.int64(20))
        reference = picture[:, 20:100].reshape(20, 4, 20, 4, 3).mean((1, 3)) / 255  # a ramp: bicubic is the mean
        assert x.shape == (20, 20, 3)
        np.testing.assert_allclose(x[2:-2, 2:-2], reference[2:-2, 2:-2], atol=1.1 / 255)

    @pytest.mark.parametrize("size", [0, 1.5, True, "20"])
    def test_size(self, tmp_path, picture, size):
        path = save(picture, tmp_path / "x.png")
        with pytest.raises(ValueError, match=f"Expected size to be an integer of at least 1. Received {size!r}."):
            load_image(path, size)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
    def test_broken_files(self, tmp_path, suffix):
        rng = np.random.default_rng(2)
        path = save(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), tmp_path / f"x.{suffix}")
        block = path.read_bytes()
        for content in (b"", block[:20], block[: len(block) // 2], b"no image", b"\x00" * len(block)):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=re.escape(f"Expected a readable image. Received {path}: ")):
                load_image(path)

    def test_more_pixels_than_allowed(self, tmp_path):
        """A PNG of one colour is a few kilobytes whatever its sides; it is refused before it is decoded."""
        Image.new("RGB", (8000, 7000)).save(tmp_path / "x.png")
        with pytest.raises(ValueError, match=r"Received .*x\.png: 8000 x 7000 pixels, more than max_pixels=50,000,000"):
            load_image(tmp_path / "x.png", 8)
        path = save(np.zeros((4, 5, 3), np.uint8), tmp_path / "y.png")
        assert load_image(path, max_pixels=20).shape == (4, 5, 3)
        with pytest.raises(ValueError, match="5 x 4 pixels, more than max_pixels=19"):
            load_image(path, max_pixels=19)

    def test_a_decompression_bomb(self, tmp_path, picture, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        with pytest.raises(ValueError, match="Expected a readable image"):
            load_image(save(picture, tmp_path / "x.png"))

    def test_no_file_and_a_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_image(tmp_path / "none.png")
        with pytest.raises(ValueError, match="Expected a readable image"):
            load_image(tmp_path)


class TestLoadImages:
    def test_a_folder_a_file_and_files(self, tmp_path, picture):
        files = [save(picture, tmp_path / "b.png"), save(255 - picture, tmp_path / "a.png")]
        assert load_images(tmp_path, 6).shape == (2, 6, 6, 3)
        np.testing.assert_array_equal(load_images(tmp_path, 6), load_images(files[::-1], 6))
        np.testing.assert_array_equal(load_images(str(files[0]), 6)[0], load_image(files[0], 6))
        np.testing.assert_array_equal(load_images((str(f) for f in files), 6)[1], load_image(files[1], 6))


class TestSavePng:
    def test_every_level_survives(self, tmp_path):
        levels = np.arange(768, dtype=np.float32).reshape(16, 16, 3) % 256 / 255
        save_png(levels, tmp_path / "new" / "x.png")
        np.testing.assert_array_equal(load_image(tmp_path / "new" / "x.png"), levels)

    def test_to_the_nearest_level(self, tmp_path):
        image = np.full((2, 2, 3), 100.4 / 255, np.float64)
        image[0, 0] = 100.6 / 255
        image[1, 1] = [1 + 5e-5, -5e-5, 0.5]  # a rounding error outside the range
        save_png(image, tmp_path / "x.png")
        levels = np.asarray(Image.open(tmp_path / "x.png"))
        assert levels[0, 1].tolist() == [100] * 3
        assert levels[0, 0].tolist() == [101] * 3
        assert levels[1, 1].tolist() == [255, 0, 128]

    def test_whatever_the_suffix_it_is_a_png(self, tmp_path):
        save_png(np.zeros((2, 2, 3), np.float32), str(tmp_path / "x.dat"))
        assert (tmp_path / "x.dat").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (np.zeros((2, 2, 3), np.uint8), TypeError, "Expected image to be an array of floats"),
            (np.zeros((2, 2), np.float32), ValueError, "Expected image to be a batch of images"),
            (np.zeros((2, 2, 1), np.float32), ValueError, "Expected image to have 3 channels"),
            (np.full((2, 2, 3), 2.0), ValueError, "Expected image inside clip_values"),
            (np.full((2, 2, 3), np.nan), ValueError, "Expected image to be finite"),
        ],
    )
    def test_what_is_no_image(self, tmp_path, image, error, message):
        with pytest.raises(error, match=message):
            save_png(image, tmp_path / "x.png")
        assert not os.listdir(tmp_path)


class TestReadLabels:
    def write(self, tmp_path, text, encoding="utf-8"):
        (tmp_path / "labels.csv").write_text(text, encoding=encoding)
        return tmp_path / "labels.csv"

    def test_names_to_indices(self, tmp_path):
        table = self.write(tmp_path, 'id,file,label\n1,a.png,7\n2,"b, c.png",0\n3,d.png,\n')
        assert read_labels(table) == {"a.png": 7, "b, c.png": 0}
        assert read_labels(str(table), file="id", label="label") == {"1": 7, "2": 0}

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_delimiters_and_the_byte_order_mark(self, tmp_path, delimiter, encoding):
        text = f'file{delimiter}label\r\n"ü, 1.png"{delimiter}7\r\n'
        assert read_labels(self.write(tmp_path, text, encoding)) == {"ü, 1.png": 7}

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_other_encodings(self, tmp_path, encoding):
        with pytest.raises(ValueError, match=r"Expected .*labels\.csv in UTF-8\. Received another encoding: "):
            read_labels(self.write(tmp_path, "file,label\nü.png,7\n", encoding))

    def test_rows_that_lack_something_are_told(self, tmp_path, caplog):
        read_labels(self.write(tmp_path, "file,label\na.png,7\n"))
        assert not caplog.text
        table = self.write(tmp_path, "file,label\na.png,7\nb.png\n,3\nc.png,\n")
        assert read_labels(table) == {"a.png": 7}
        assert "1 of 4 rows of" in caplog.text

    def test_a_file_twice(self, tmp_path):
        assert read_labels(self.write(tmp_path, "file,label\na.png,7\na.png,7\n")) == {"a.png": 7}
        with pytest.raises(
            ValueError, match=r"Expected one class index for each file .* Received 7 and 8 for 'a\.png'"
        ):
            read_labels(self.write(tmp_path, "file,label\na.png,7\na.png,8\n"))

    @pytest.mark.parametrize("text", ["", "name,label\na.png,1\n", "file label\na.png 1\n", "\0" * 9])
    def test_missing_columns(self, tmp_path, text):
        with pytest.raises(ValueError, match=r"Expected the columns 'file' and 'label' in .*labels\.csv\. Received"):
            read_labels(self.write(tmp_path, text))

    @pytest.mark.parametrize("label", ["cat", "1.5", "1_0", "9" * 30])
    def test_no_integers(self, tmp_path, label):
        with pytest.raises(ValueError, match=rf"Expected integers as class indices in .*Received '{label}' for"):
            read_labels(self.write(tmp_path, f"file,label\na.png,{label}\n"))

    def test_no_table(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_labels(tmp_path / "none.csv")


class TestDemoImages:
    @pytest.fixture
    def folder(self):
        spec = importlib.util.find_spec("foolbox")
        if spec is None:
            pytest.skip("the package foolbox is not installed")
        return Path(spec.submodule_search_locations[0]) / "data"

    def test_twenty_labelled_photographs(self, folder):
        x, y, files = demo_images(size=32)
        assert x.shape == (20, 32, 32, 3)
        assert x.dtype == np.float32
        assert (x.min(), x.max()) >= (0, 0.9)
        assert x.max() <= 1
        assert y.shape == (20,)
        assert ((y >= 0) & (y < 1000)).all()
        for image, label, name in zip(x, y, files, strict=True):
            assert name.endswith(f"_{label}.jpg")
            np.testing.assert_array_equal(image, load_image(folder / name, 32))

    @pytest.mark.parametrize("count", [0, 21, 2.0, True, "3"])
    def test_count(self, folder, count):
        with pytest.raises(ValueError, match=f"Expected count to be an integer from 1 to 20. Received {count!r}."):
            demo_images(count, 32)

    def test_it_does_not_import_foolbox(self, folder):
        import subprocess
        import sys

        code = "import sys, art_versatile.images as i; i.demo_images(1, 32); print('foolbox' in sys.modules)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "False"

    @pytest.mark.parametrize("spec", [None, types.SimpleNamespace(submodule_search_locations=None)])
    def test_without_the_package(self, monkeypatch, spec):
        monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: spec)
        with pytest.raises(ModuleNotFoundError, match=r"Expected the package foolbox \(pip install 'art-versatile"):
            demo_images()


class TestRandomView:
    def test_without_zoom_it_is_pillows_resize(self):
        pixels = np.random.default_rng(0).integers(60, 196, (24, 36, 3), dtype=np.uint8)  # no overshoot is cut off
        got = random_view(pixels / np.float32(255), (16, 24), np.random.default_rng(0))
        expected = np.asarray(Image.fromarray(pixels).resize((24, 16), Image.Resampling.BICUBIC)) / 255
        np.testing.assert_allclose(got, expected, atol=1.01 / 255)  # Pillow rounds 8 bits after each axis
        assert got.dtype == np.float32

    def test_zoom_and_flip_on_a_ramp(self):
        """On a horizontal ramp the slope tells the zoom, its sign the flip, its start the place."""
        ramp = np.broadcast_to((np.arange(64, dtype=np.float32) / 64)[None, :, None], (80, 64, 3))
        rng = np.random.default_rng(1)
        slopes, places = [], []
        for _ in range(300):
            row = random_view(ramp, (32, 32), rng, zoom=2, flip=True)[16, 4:-4, 0]
            assert np.ptp(np.diff(row)) < 2e-3, "proportions are kept, so the ramp stays one"
            slopes.append(np.diff(row).mean() * 32)
            places.append(row.min())
        zooms = 1 / np.abs(slopes)
        assert 1 <= zooms.min() * 1.01 < 1.1
        assert 1.9 < zooms.max() <= 2.01
        assert 100 < np.sum(np.array(slopes) < 0) < 200
        assert np.ptp(places) > 0.35

    @pytest.mark.parametrize(("sides", "size"), [((450, 600), 224), ((900, 1200), 299), ((225, 225), 299)])
    def test_sizes_whose_quotient_is_rounded_up(self, sides, size):
        """(900 / 299) * 299 is above 900 by the last bit."""
        image = np.zeros((*sides, 3), np.float32)
        for seed in range(3):
            assert random_view(image, (size, size), np.random.default_rng(seed), flip=True).shape == (size, size, 3)

    def test_the_generator_decides(self):
        image = np.random.default_rng(0).random((20, 20, 3), np.float32)
        one, same, other = (
            random_view(image, (8, 8), np.random.default_rng(seed), zoom=2, flip=True) for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() > 0.1
        assert one.min() >= 0
        assert one.max() <= 1

    def test_zoom_below_one(self):
        with pytest.raises(ValueError, match=r"Expected zoom to be at least 1. Received 0.5"):
            random_view(np.zeros((4, 4, 3)), (4, 4), np.random.default_rng(0), zoom=0.5)


class TestLabelledImages:
    @pytest.fixture
    def folder(self, tmp_path):
        for number in range(3):
            save_png(np.full((8, 8, 3), number / 4, np.float32), tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "table.csv").write_text("name,class\n2.png,5\nabsent.png,7\n0.png,3\n1.png,\n")
        return tmp_path

    def test_in_the_order_of_the_table(self, folder):
        x, y, names = labelled_images(folder / "pictures", folder / "table.csv", 4, file="name", label="class")
        assert names == ["2.png", "0.png"]
        assert y.tolist() == [5, 3]
        assert x.shape == (2, 4, 4, 3)
        np.testing.assert_allclose(x[:, 0, 0, 0], [0.5, 0], atol=0.003)

    def test_the_first(self, folder):
        given = {"file": "name", "label": "class", "limit": 1}
        assert labelled_images(folder / "pictures", folder / "table.csv", 4, **given)[2] == ["2.png"]

    def test_so_many_of_each_class(self, tmp_path):
        for number in range(12):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        table = tmp_path / "t.csv"
        table.write_text("file,label\n" + "".join(f"{i}.png,{i % 3}\n" for i in range(12)))
        x, y, names = labelled_images(tmp_path, table, 4, per_class=2, seed=5)
        assert sorted(y) == [0, 0, 1, 1, 2, 2]
        assert names == sorted(names, key=lambda name: int(name.split(".")[0]))
        assert [round(255 * float(image[0, 0, 0])) for image in x] == [int(name.split(".")[0]) for name in names]
        drawn = [labelled_images(tmp_path, table, 4, per_class=2, seed=seed)[2] for seed in (5, 5, 6, 7)]
        assert drawn[0] == drawn[1]
        assert len({tuple(d) for d in drawn}) > 1
        with pytest.raises(ValueError, match="Expected at least 5 images of each class. Received 4 of 0"):
            labelled_images(tmp_path, table, 4, per_class=5)

    def test_none_of_them(self, folder):
        (folder / "table.csv").write_text("name,class\nabsent.png,7\n")
        with pytest.raises(ValueError, match=r"Expected names of images of .* Received \['absent\.png'\]"):
            labelled_images(folder / "pictures", folder / "table.csv", 4, file="name", label="class")

    @pytest.fixture
    def tree(self, tmp_path):
        for number, name in enumerate(("a/x.png", "b/x.png", "b/y.png", "z.png")):
            save_png(np.full((8, 8, 3), number / 4, np.float32), tmp_path / "tree" / name)
        return tmp_path / "tree"

    def labelled(self, tree, text, **kwargs):
        (tree / "t.csv").write_text("file,label\n" + text)
        return labelled_images(tree, tree / "t.csv", 4, **kwargs)

    def test_by_path_then_by_name(self, tree):
        x, y, names = self.labelled(tree, "b/x.png,1\n./a/x.png,2\nb\\y.png,3\nz.png,4\n")
        assert y.tolist() == [1, 2, 3, 4]
        assert names == ["b/x.png", "./a/x.png", "b\\y.png", "z.png"]
        np.testing.assert_allclose(x[:, 0, 0, 0], [0.25, 0, 0.5, 0.75], atol=0.003)
        assert self.labelled(tree, "y.png,3\n")[1].tolist() == [3]

    def test_a_name_at_the_top_is_a_path(self, tree):
        save_png(np.ones((8, 8, 3), np.float32), tree / "x.png")
        assert self.labelled(tree, "x.png,5\n")[0].min() == 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x.png,1\n", r"Expected 'x\.png' to be one image of .*\. Received a/x\.png and b/x\.png\."),
            ("b/y.png,1\ny.png,2\n", r"Received 1 as 'b/y\.png' and 2 as 'y\.png' for .*y\.png"),
        ],
    )
    def test_ambiguity(self, tree, text, message):
        with pytest.raises(ValueError, match=message):
            self.labelled(tree, text)

    def test_one_image_named_twice_is_one(self, tree):
        assert self.labelled(tree, "b/y.png,1\ny.png,1\n")[2] == ["b/y.png"]

    def test_rows_used(self, tree, caplog):
        self.labelled(tree, "z.png,1\ny.png,\nq.png,2\nb/x.png\n", limit=1)
        assert "1 of 4 rows of" in caplog.text
        assert "2 without a name or a class index, 1 without an image, as 'q.png'" in caplog.text
