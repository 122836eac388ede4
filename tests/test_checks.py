from __future__ import annotations

import re

import numpy as np
import pytest

from art_versatile._checks import (
    check_batch_size,
    check_bool,
    check_choice,
    check_clip_values,
    check_images,
    check_integer,
    check_number,
    check_output_size,
    check_pair,
    check_positive,
)


def image(shape=(2, 4, 5, 3), value=0.5, dtype=np.float32):
    return np.full(shape, value, dtype)


class TestClipValues:
    @pytest.mark.parametrize("value", [(0, 1), [0.0, 255.0], np.array([-1.0, 1.0]), (np.float32(0), 1)])
    def test_a_pair_becomes_floats(self, value):
        low, high = check_clip_values(value)
        assert (low, high) == (float(value[0]), float(value[1]))
        assert type(low) is float
        assert type(high) is float

    @pytest.mark.parametrize(
        "value",
        [(1, 0), (1, 1), (0,), (0, 1, 2), 1.0, None, ("a", "b"), (0, np.inf), (np.nan, 1), ([0, 0, 0], [1, 1, 1])],
    )
    def test_anything_else_is_refused(self, value):
        expected = "Expected clip_values to be two finite numbers (minimum, maximum) with minimum < maximum. Received"
        with pytest.raises(ValueError, match=re.escape(expected)):
            check_clip_values(value)


@pytest.mark.parametrize(
    ("check", "value", "answer"),
    [
        (check_batch_size, np.int64(16), 16),
        (lambda v: check_integer("n", v, 0, 7), 7, 7),
        (lambda v: check_number("n", v, 0, 1), np.float32(0.5), 0.5),
        (lambda v: check_number("n", v, 0, 1), 1, 1.0),
        (lambda v: check_positive("n", v), 1e300, 1e300),
        (lambda v: check_positive("n", v, 1), 1, 1.0),
        (lambda v: check_pair("n", v), [1, np.int64(2)], (1, 2)),
        (check_output_size, None, None),
        (check_output_size, "input", "input"),
        (check_output_size, 3, 3),
        (check_output_size, [3, 4], (3, 4)),
        (lambda v: check_bool("flag", v), np.True_, True),
        (lambda v: check_choice("side", v, ("left", "right")), "left", "left"),
    ],
)
def test_what_is_right_comes_back_as_pythons_own(check, value, answer):
    assert check(value) == answer
    assert type(check(value)) is type(answer)


@pytest.mark.parametrize(
    ("check", "values", "expected"),
    [
        (check_batch_size, [0, -1, 1.0, True, "4", None], "batch_size to be an integer of at least 1"),
        (lambda v: check_integer("n", v, 0, 7), [-1, 8, False], "n to be an integer from 0 to 7"),
        (lambda v: check_number("n", v, 0, 1), [-0.1, 1.1, np.nan, "1", True, None], "n to be a number from 0 to 1"),
        (lambda v: check_positive("n", v), [0, -1, np.nan, np.inf, "1", True], "n to be a positive finite number"),
        (lambda v: check_positive("n", v, 2), [0, 2.1], "n to be a number above 0 and at most 2"),
        (lambda v: check_pair("n", v), [3, (1,), (1, 2, 3)], "n to be two integers"),
        (check_output_size, ["same"], "output_size to be one of ['input']"),
        (check_output_size, [0, 2.5, True], "output_size to be an integer of at least 1"),
        (lambda v: check_bool("flag", v), [0, 1, "True", None], "flag to be True or False"),
        (
            lambda v: check_choice("side", v, ("left", "right")),
            ["up", None, 3, "Left"],
            "side to be one of ['left', 'right']",
        ),
    ],
)
def test_anything_else_is_refused(check, values, expected):
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"Expected {expected}. Received {value!r}.")):
            check(value)


class TestImages:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_come_back_as_they_are(self, dtype):
        x = image(dtype=dtype)
        assert check_images(x, (0.0, 1.0)) is x

    def test_channels_first_and_other_channels(self):
        assert check_images(image((2, 3, 4, 5)), channels_first=True).shape == (2, 3, 4, 5)
        assert check_images(image((2, 4, 5, 1)), channels=1).shape == (2, 4, 5, 1)
        assert check_images(image((2, 1, 4, 5)), channels_first=True, channels=1).shape == (2, 1, 4, 5)

    def test_a_nested_list_becomes_an_array(self):
        assert check_images(image().tolist()).shape == (2, 4, 5, 3)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, object, complex])
    def test_dtype(self, dtype):
        expected = f"Expected x to be an array of floats, (N, H, W, 3). Received dtype {np.dtype(dtype)}."
        with pytest.raises(TypeError, match=re.escape(expected)):
            check_images(np.ones((2, 4, 5, 3), dtype))

    @pytest.mark.parametrize(
        ("shapes", "layout", "expected"),
        [
            ([(4, 5, 3), (), (1, 2, 4, 5, 3)], {}, "x to be a batch of images (N, H, W, 3)"),
            ([(4, 5, 3)], {"name": "clean"}, "clean to be a batch of images (N, H, W, 3)"),
            ([(2, 3, 4, 5)], {}, "x to have 3 channels, (N, H, W, 3)"),
            ([(2, 3, 4, 5)], {"channels_first": True, "channels": 1}, "x to have 1 channels, (N, 1, H, W)"),
            ([(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0, 3)], {}, "x to hold at least one image and one pixel"),
        ],
    )
    def test_shapes(self, shapes, layout, expected):
        for shape in shapes:
            with pytest.raises(ValueError, match=re.escape(f"Expected {expected}. Received shape {shape}.")):
                check_images(image(shape), **layout)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("clip_values", [None, (0.0, 1.0)])
    def test_finiteness(self, value, clip_values):
        x = image()
        x[1, 2, 3, 1] = value
        with pytest.raises(ValueError, match=re.escape("Expected x to be finite. Received NaN or infinity.")):
            check_images(x, clip_values)

    @pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
    def test_range(self, value):
        x = image()
        x[0, 0, 0, 0] = value
        low, high = min(value, 0.5), max(value, 0.5)
        expected = f"Expected x inside clip_values (0.0, 1.0). Received values from {low:.6g} to {high:.6g}."
        with pytest.raises(ValueError, match=re.escape(expected)):
            check_images(x, (0.0, 1.0))
        assert check_images(x) is x

    @pytest.mark.parametrize("clip_values", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
    def test_rounding_errors_are_let_through_in_proportion_to_the_range(self, clip_values):
        low, high = clip_values
        x = image(value=high)
        x[0, 0, 0, 0] = high + 0.5e-4 * (high - low)
        x[0, 0, 0, 1] = low - 0.5e-4 * (high - low)
        assert check_images(x, clip_values) is x
        x[0, 0, 0, 0] = high + 2e-4 * (high - low)
        with pytest.raises(ValueError, match="inside clip_values"):
            check_images(x, clip_values)
