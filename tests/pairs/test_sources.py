"""Which images, which labels, which attack gets which."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from art_versatile.pairs._sources import Source, deal, find_classes, find_image_shape, find_labels


@pytest.fixture
def tree(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("split", ["one_per_image", "every", 2])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 7, 2), (13,)])
def test_deal(split, sizes):
    """Different attacks an image; each attack and each class evenly, to one image."""
    ends = np.cumsum(sizes)
    classes = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    hands = deal(classes, 3, split=split, per_class=None, seed=1)
    table = np.zeros((ends[-1], 3), int)
    for attack, rows in enumerate(hands):
        np.add.at(table, (rows, attack), 1)
    each = {"one_per_image": 1, "every": 3, 2: 2}[split]
    np.testing.assert_array_equal(table.sum(1), each)
    assert table.max() == 1
    assert np.ptp(table.sum(0)) <= 1
    for rows in classes:
        assert np.ptp(table[rows].sum(0)) <= 1
    again = deal(classes, 3, split=split, per_class=None, seed=1)
    for rows, same in zip(hands, again, strict=True):
        np.testing.assert_array_equal(rows, same)


def test_deal_of_some_of_each_class():
    hands = deal([np.arange(9), np.arange(9, 30)], 2, split="one_per_image", per_class=4, seed=0)
    assert [sum((rows < 9).sum() for rows in hands), sum((rows >= 9).sum() for rows in hands)] == [4, 4]


def test_files_and_their_classes(tree):
    source = Source(tree)
    assert source.names == ["a/0.png", "a/1.png", "b/2.png"]
    assert [rows.tolist() for rows in find_classes(source, None, None)] == [[0, 1], [2]]
    np.testing.assert_array_equal(find_labels("folders", source, 3), [0, 0, 1])
    np.testing.assert_array_equal(find_labels({"a": 2, "a/1.png": 1, "2.png": 0}, source, 3), [2, 1, 0])


def test_a_name_that_several_images_have(tree):
    (tree / "a/2.png").write_bytes((tree / "b/2.png").read_bytes())
    source = Source(tree)
    labels = {"a/0.png": 0, "a/1.png": 1, "a/2.png": 2}
    assert find_labels({**labels, "b/2.png": 0}, source, 3).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match=r"Expected labels by path .* by name alone for \['b/2\.png'\]"):
        find_labels({**labels, "2.png": 0}, source, 3)


def test_labels():
    source = Source(np.zeros((3, 4, 4, 3), np.float32))
    for given in ([2, 0, 1], np.eye(3)[[2, 0, 1]]):
        np.testing.assert_array_equal(find_labels(given, source, 3), [2, 0, 1])
    assert find_labels(None, source, 3) is None


def test_image_shape(tree):
    array = Source(np.zeros((3, 4, 6, 3), np.float32))
    assert find_image_shape(array, None, (9, 9, 3)) == (4, 6, 3)
    assert find_image_shape(Source(tree), None, (9, 9, 3)) == (9, 9, 3)
    assert find_image_shape(Source(tree), 5, (9, 9, 3)) == (5, 5, 3)
