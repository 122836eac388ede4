"""Random resizing against tf.image.resize and tf.pad, given the same draws; and its draws."""

import pickle

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.baselines import RandomResizing

SEED = 5


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(5, 32, 32, 3)).astype(np.float32)


def by_tensorflow(x, seed=SEED, smallest=299, canvas=331, method="bilinear", flip=0.0, grey=0.5):
    """One image at a time with TensorFlow's own resize and pad, from the draws of a generator with that seed."""
    draws = tf.random.Generator.from_seed(seed, alg="philox").uniform((len(x), 4), dtype=tf.float64).numpy()
    height, width = x.shape[1:3]
    low, top = round(height * smallest / 299), round(height * canvas / 299)
    wide = round(width * canvas / 299)
    results = []
    for image, (size, flipped, down, right) in zip(tf.unstack(x), draws, strict=True):
        rows = low + int(size * (top - low))
        columns = round(rows * width / height)
        resized = tf.image.resize(tf.reverse(image, [1]) if flipped < flip else image, (rows, columns), method)
        above, before = int(down * (top - rows + 1)), int(right * (wide - columns + 1))
        pads = [[above, top - rows - above], [before, wide - columns - before], [0, 0]]
        results.append(tf.pad(resized, pads, constant_values=grey))
    return tf.stack(results)


def vjp(function, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, tf.constant(upstream)).numpy()


def placed(defence, count, side):
    """(count, 4): height, width, top and left of white images on a black canvas, and the canvas."""
    defended, _ = defence(np.ones((count, side, side, 3), np.float32))
    boxes = []
    for canvas in defended[..., 0] > 0.5:
        rows, columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
        boxes.append((np.ptp(rows) + 1, np.ptp(columns) + 1, rows[0], columns[0]))
    return np.array(boxes), defended.shape[1:3]


class TestValues:
    @pytest.mark.parametrize("shape", [(6, 32, 32), (2, 299, 299), (4, 40, 57), (4, 61, 30)])
    def test_paper(self, shape):
        x = np.random.default_rng(2).uniform(size=(*shape, 3)).astype(np.float32)
        defended, _ = RandomResizing.paper(seed=SEED)(x)
        expected = by_tensorflow(x)
        assert defended.shape[1:3] == (331, 331) or shape[1] != 299
        np.testing.assert_allclose(defended, expected, atol=2e-5)

    @pytest.mark.parametrize("shape", [(8, 64, 64), (2, 299, 299)])
    def test_nips2017(self, shape):
        x = np.random.default_rng(2).uniform(size=(*shape, 3)).astype(np.float32)
        defended, _ = RandomResizing.nips2017(seed=SEED)(x)
        expected = by_tensorflow(x, smallest=310, method="nearest", flip=0.5)
        assert np.abs(expected - by_tensorflow(x, smallest=310, method="nearest")).max() > 0.1  # some are mirrored
        np.testing.assert_allclose(defended, expected, atol=1e-6)

    def test_sizes_at_299(self):
        boxes, canvas = placed(RandomResizing(padding=0.0, seed=0), 40, 299)
        assert canvas == (331, 331)
        assert 299 <= boxes[:, 0].min() < 305
        assert 325 < boxes[:, 0].max() <= 330
        np.testing.assert_array_equal(boxes[:, 0], boxes[:, 1])
        assert (boxes[:, :2] + boxes[:, 2:] <= 331).all()

    def test_every_size_and_place_is_drawn(self):
        boxes, canvas = placed(RandomResizing(padding=0.0, seed=0), 600, 30)
        assert canvas == (33, 33)
        expected = {(size, i, j) for size in (30, 31, 32) for i in range(34 - size) for j in range(34 - size)}
        assert {(size, i, j) for size, _, i, j in boxes.tolist()} == expected
        _, counts = np.unique(boxes[:, 0], return_counts=True)
        assert (abs(counts - 200) < 5 * np.sqrt(200 * 2 / 3)).all()

    @pytest.mark.parametrize("side", [1, 2, 4])
    def test_smallest_images(self, side):
        defended, _ = RandomResizing(seed=0)(np.ones((3, side, side, 3), np.float32))
        np.testing.assert_array_equal(defended, np.ones((3, round(side * 331 / 299), round(side * 331 / 299), 3)))

    @pytest.mark.parametrize(("clip", "padding", "grey"), [((0, 255), 0.5, 127.5), ((-1, 1), 0.5, 0), ((0, 1), 1, 1)])
    def test_padding(self, images, clip, padding, grey):
        low, high = clip
        x = images * (high - low) + low
        defended, _ = RandomResizing(seed=SEED, clip_values=clip, padding=padding)(x)
        np.testing.assert_allclose(defended, by_tensorflow(x, grey=grey), atol=2e-5 * (high - low))

    @pytest.mark.parametrize(
        ("output_size", "size"), [("input", (32, 32)), (48, (48, 48)), ((20, 50), (20, 50)), (None, (35, 35))]
    )
    def test_output_size(self, images, output_size, size):
        defended, _ = RandomResizing(seed=SEED, output_size=output_size)(images)
        assert defended.shape == (5, *size, 3)
        np.testing.assert_allclose(defended, tf.image.resize(by_tensorflow(images), size), atol=2e-5)

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_chunks_change_nothing(self, images, batch_size):
        defended, _ = RandomResizing(seed=SEED, batch_size=batch_size)(images)
        np.testing.assert_allclose(defended, by_tensorflow(images), atol=2e-5)

    @pytest.mark.parametrize("output_size", [None, "input"])
    @pytest.mark.parametrize("signature", [(5, 40, 57, 3), (None, None, None, 3)])
    def test_inside_tf_function(self, signature, output_size):
        x = np.random.default_rng(2).uniform(size=(5, 40, 57, 3)).astype(np.float32)
        defence = RandomResizing(seed=SEED, batch_size=2, output_size=output_size)
        traced = tf.function(lambda x: defence.forward(x)[0], input_signature=[tf.TensorSpec(signature)])
        expected = by_tensorflow(x)
        expected = expected if output_size is None else tf.image.resize(expected, (40, 57))
        np.testing.assert_allclose(traced(x), expected, atol=2e-5)


class TestDraws:
    def test_new_at_every_call(self, images):
        defence = RandomResizing(seed=SEED)
        first = defence(images)[0]
        assert np.abs(first - defence(images)[0]).max() > 0.1
        assert len(np.unique(np.concatenate([defence(images[:1])[0] for _ in range(8)]).round(4), axis=0)) > 4

    def test_new_at_every_call_of_one_trace(self, images):
        defence, traces = RandomResizing(seed=SEED), []

        @tf.function
        def traced(x):
            traces.append(1)
            return defence.forward(x)[0]

        first, second = traced(images), traced(images)
        assert len(traces) == 1
        np.testing.assert_allclose(first, by_tensorflow(images), atol=2e-5)
        assert np.abs(first - second).max() > 0.1
        defence.set_params(seed=SEED)
        np.testing.assert_array_equal(traced(images), first)
        assert len(traces) == 1

    def test_seed(self, images):
        first = RandomResizing(seed=SEED)
        second = RandomResizing(seed=SEED)
        for _ in range(3):
            np.testing.assert_array_equal(first(images)[0], second(images)[0])
        assert np.abs(RandomResizing(seed=SEED)(images)[0] - RandomResizing(seed=SEED + 1)(images)[0]).max() > 0.1
        assert np.abs(RandomResizing()(images)[0] - RandomResizing()(images)[0]).max() > 0.1

    def test_global_seed_is_left_alone(self, images):
        tf.random.set_seed(3)
        expected = tf.random.uniform((4,))
        tf.random.set_seed(3)
        RandomResizing(seed=SEED)(images)
        np.testing.assert_array_equal(tf.random.uniform((4,)), expected)

    def test_pickle_goes_on(self, images):
        defence = RandomResizing(seed=SEED)
        defence(images)
        copy = pickle.loads(pickle.dumps(defence))
        np.testing.assert_array_equal(copy(images)[0], defence(images)[0])


class TestGradients:
    @pytest.mark.parametrize(
        ("make", "given"),
        [(RandomResizing, {}), (RandomResizing.nips2017, {"smallest": 310, "method": "nearest", "flip": 0.5})],
        ids=["paper", "nips2017"],
    )
    @pytest.mark.parametrize("batch_size", [2, 32])
    def test_against_a_tape_over_tensorflow(self, images, make, given, batch_size):
        upstream = np.random.default_rng(3).normal(size=(5, 35, 35, 3)).astype(np.float32)
        expected = vjp(lambda x: by_tensorflow(x, **given), images, upstream)
        defence = make(seed=SEED, batch_size=batch_size)
        np.testing.assert_allclose(vjp(lambda x: defence.forward(x)[0], images, upstream), expected, atol=1e-4)
        estimated = make(seed=SEED, batch_size=batch_size).estimate_gradient(images, upstream)
        np.testing.assert_allclose(estimated, expected, atol=1e-4)

    def test_class_axis_is_one_draw(self, images):
        upstream = np.random.default_rng(3).normal(size=(5, 4, 35, 35, 3)).astype(np.float32)
        got = RandomResizing(seed=SEED).estimate_gradient(images, upstream)
        assert got.shape == (5, 4, 32, 32, 3)
        for k in range(4):
            np.testing.assert_allclose(got[:, k], vjp(by_tensorflow, images, upstream[:, k]), atol=1e-4)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_not_cut_at_the_ends_of_the_range(self, value):
        x = np.full((8, 32, 32, 3), value, np.float32)
        upstream = np.ones((8, 35, 35, 3), np.float32)
        defended = RandomResizing(seed=SEED)(x)[0]
        assert defended.min() >= 0
        assert defended.max() <= 1
        got = RandomResizing(seed=SEED).estimate_gradient(x, upstream)
        np.testing.assert_allclose(got, vjp(by_tensorflow, x, upstream), atol=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sizes": (331, 299)}, r"Expected sizes .*smallest < canvas. Received \(331, 299\)"),
        ({"sizes": 299}, "Expected sizes to be two integers. Received 299"),
        ({"sizes": (0, 4)}, "Expected sizes to be an integer of at least 1. Received 0"),
        ({"reference": 0}, "Expected reference to be an integer of at least 1"),
        ({"interpolation": "bicubic"}, r"Expected interpolation to be one of \['bilinear', 'nearest'\]"),
        ({"flip_probability": 1.5}, "Expected flip_probability to be a number from 0 to 1. Received 1.5"),
        ({"padding": -1}, "Expected padding to be a number from 0 to 1"),
        ({"output_size": "same"}, r"Expected output_size to be one of \['input'\]. Received 'same'"),
        ({"output_size": 0}, "Expected output_size to be an integer of at least 1"),
        ({"output_size": (1, 2, 3)}, "Expected output_size to be two integers"),
        ({"seed": -1}, "Expected seed to be an integer of at least 0"),
        ({"batch_size": 0}, "Expected batch_size"),
    ],
)
def test_bad_parameters(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RandomResizing(**kwargs)
