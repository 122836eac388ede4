from __future__ import annotations

import re

import numpy as np
import pytest

from art_versatile._checks import check_batch_size, check_bool, check_choice, check_clip_values, check_images


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


class TestBatchSize:
    @pytest.mark.parametrize("value", [1, 7, np.int64(16)])
    def test_an_integer_of_at_least_one(self, value):
        assert check_batch_size(value) == value
        assert type(check_batch_size(value)) is int

    @pytest.mark.parametrize("value", [0, -1, 1.0, True, "4", None])
    def test_anything_else_is_refused(self, value):
        with pytest.raises(
            ValueError, match=re.escape(f"Expected batch_size to be an integer of at least 1. Received {value!r}.")
        ):
            check_batch_size(value)


class TestBool:
    @pytest.mark.parametrize("value", [True, False, np.True_])
    def test_a_flag(self, value):
        assert check_bool("flag", value) is bool(value)

    @pytest.mark.parametrize("value", [0, 1, "True", None])
    def test_anything_else_is_refused(self, value):
        with pytest.raises(ValueError, match=re.escape(f"Expected flag to be True or False. Received {value!r}.")):
            check_bool("flag", value)


class TestChoice:
    def test_one_of_them(self):
        assert check_choice("side", "left", ("left", "right")) == "left"

    @pytest.mark.parametrize("value", ["up", None, 3, "Left"])
    def test_none_of_them(self, value):
        expected = f"Expected side to be one of ['left', 'right']. Received {value!r}."
        with pytest.raises(ValueError, match=re.escape(expected)):
            check_choice("side", value, ("left", "right"))


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

    @pytest.mark.parametrize("shape", [(4, 5, 3), (3,), (), (1, 2, 4, 5, 3)])
    def test_rank(self, shape):
        expected = f"Expected x to be a batch of images (N, H, W, 3). Received shape {shape}."
        with pytest.raises(ValueError, match=re.escape(expected)):
            check_images(image(shape))

    def test_channels(self):
        with pytest.raises(
            ValueError, match=re.escape("Expected x to have 3 channels, (N, H, W, 3). Received shape (2, 3, 4, 5).")
        ):
            check_images(image((2, 3, 4, 5)))
        with pytest.raises(
            ValueError, match=re.escape("Expected x to have 1 channels, (N, 1, H, W). Received shape (2, 3, 4, 5).")
        ):
            check_images(image((2, 3, 4, 5)), channels_first=True, channels=1)

    @pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0, 3)])
    def test_emptiness(self, shape):
        expected = f"Expected x to hold at least one image and one pixel. Received shape {shape}."
        with pytest.raises(ValueError, match=re.escape(expected)):
            check_images(image(shape))

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

    def test_the_message_calls_the_array_by_its_name(self):
        with pytest.raises(ValueError, match="Expected clean to be a batch"):
            check_images(image((4, 5, 3)), name="clean")
