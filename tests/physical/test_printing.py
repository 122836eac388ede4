"""A printer and a camera: each effect against numbers worked by hand, gradients against differences, draws, layouts."""

import pickle

import numpy as np
import pytest
import tensorflow as tf
from skimage.transform import ProjectiveTransform

from art_versatile.attacks import compile_classifier
from art_versatile.physical import PrintAndPhotograph
from art_versatile.physical.printing import _homography

SEED = 5


@pytest.fixture(scope="module")
def images():
    """Smooth, (4, 20, 28, 3), inside [0.1, 0.9]: one resampling changes little."""
    y, x = np.mgrid[0:20, 0:28].astype(np.float32) / 20
    waves = [0.5 + 0.4 * np.sin(2 * x * (1 + k) + 3 * y + np.arange(3)[:, None, None]) for k in range(4)]
    return np.moveaxis(np.stack(waves), 1, -1).astype(np.float32)


def flat(value, side=24):
    return np.full((1, side, side, 3), value, np.float32)


def middle(photographs):
    return photographs[:, 8:-8, 8:-8].mean(axis=(0, 1, 2))


def linear(stored):
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def stored(light):
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def vjp(function, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, tf.constant(upstream)).numpy()


class TestEffects:
    @pytest.mark.parametrize("shape", [(2, 32, 32, 3), (1, 17, 40, 3), (1, 1, 1, 3), (1, 3, 64, 3)])
    def test_perfect_is_the_identity(self, shape):
        x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        np.testing.assert_allclose(PrintAndPhotograph.perfect()(x)[0], x, atol=2e-5)

    def test_perspective_is_undone_up_to_resampling(self, images):
        defence = PrintAndPhotograph.perfect(tilt=0.15, scale=(1.5, 2.0), seed=SEED)
        difference = np.abs(defence(images)[0] - images)[:, 2:-2, 2:-2]
        assert 1e-4 < difference.max() < 0.04

    def test_a_coarse_camera_loses_the_fine_pattern(self):
        stripes = np.full((1, 32, 32, 3), 0.2, np.float32)
        stripes[:, :, ::2] = 0.8
        kept = [PrintAndPhotograph.perfect(scale=(s, s))(stripes)[0][0, 16, 8:24, 0].std() for s in (4.0, 0.5)]
        assert kept[0] > 0.15
        assert kept[1] < 0.05

    def test_registration_moves_the_picture(self, images):
        x = np.repeat(images[:1], 50, axis=0)
        ramp = np.broadcast_to(np.linspace(0.2, 0.8, 28, dtype=np.float32)[None, None, :, None], x.shape)
        photographs = PrintAndPhotograph.perfect(registration=0.1, seed=SEED)(ramp.copy())[0]
        moved = photographs[:, 10, 14, 0] - ramp[0, 10, 14, 0]
        # The mean of four corners' moves, each uniform in +-0.1 of a side that the ramp climbs 0.6 x 28/27 along.
        expected = 0.6 * 28 / 27 * 0.1 / np.sqrt(3) / 2
        assert 0.6 * expected < moved.std() < 1.4 * expected

    def test_homography_against_scikit_image(self):
        corners = np.array([[0.1, 0.2], [0.9, 0.1], [0.8, 0.95], [0.05, 0.7]])
        found = ProjectiveTransform(matrix=_homography(tf.constant(corners[None]))[0].numpy())
        np.testing.assert_allclose(found([[0, 0], [1, 0], [1, 1], [0, 1]]), corners, atol=1e-12)

    @pytest.mark.parametrize("value", [0.0, 0.2, 0.7, 1.0])
    def test_colours(self, value):
        defence = PrintAndPhotograph.perfect(
            ink=(0.04, 0.04), paper=(0.9, 0.9), exposure=(0.8, 0.8), flare=(0.02, 0.02), dot_gain=(0.1, 0.1)
        )
        coverage = 1 - linear(value)
        coverage += 0.4 * coverage * (1 - coverage)
        light = (0.04 + 0.86 * (1 - coverage)) * 0.8 + 0.02
        np.testing.assert_allclose(middle(defence(flat(value))[0]), stored(light), atol=1e-5)

    def test_dot_gain_is_that_of_half_coverage(self):
        defence = PrintAndPhotograph.perfect(dot_gain=(0.2, 0.2))
        half = float(stored(0.5))
        np.testing.assert_allclose(linear(middle(defence(flat(half))[0])), 0.5 - 0.2, atol=1e-5)

    def test_gamma_keeps_black_and_white(self):
        defence = PrintAndPhotograph.perfect(gamma=(2.0, 2.0))
        ends = [middle(defence(flat(v))[0])[0] for v in (0.0, 0.5, 1.0)]
        np.testing.assert_allclose(ends, [0, (0.55**2 - 0.05**2) / (1.05**2 - 0.05**2), 1], atol=1e-5)

    def test_blur_of_a_point(self):
        x = flat(1.0, 33)
        x[0, 16, 16] = 0.0
        light = linear(PrintAndPhotograph.perfect(print_blur=(0.9, 0.9), defocus=(1.2, 1.2))(x)[0][0, :, :, 0])
        lost = 1 - light
        assert lost.sum() == pytest.approx(1, abs=1e-3)
        spread = (lost.sum(axis=0) * (np.arange(33) - 16) ** 2).sum()
        assert spread == pytest.approx(0.9**2 + 1.2**2, rel=0.03)

    def test_white_paper_around(self):
        x = flat(0.0, 32)
        edge = PrintAndPhotograph.perfect(defocus=(1.5, 1.5))(x)[0][0, 16, :, 0]
        assert linear(edge[0]) == pytest.approx(1 - 0.631, abs=0.03)  # half a pixel inside: Phi(0.5 / 1.5)
        assert edge[16] == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize(("light", "shot", "read"), [(0.5, 0.05, 0.0), (0.5, 0.0, 0.02), (0.3, 0.04, 0.03)])
    def test_noise(self, light, shot, read):
        defence = PrintAndPhotograph.perfect(shot_noise=(shot, shot), read_noise=(read, read), seed=SEED)
        noisy = linear(defence(flat(float(stored(light)), 64))[0])
        assert noisy.std() == pytest.approx(np.sqrt(shot**2 * light + read**2), rel=0.05)
        assert noisy.mean() == pytest.approx(light, abs=0.003)

    def test_jpeg(self, images):
        errors = [
            np.abs(PrintAndPhotograph.perfect(jpeg_quality=(q, q))(images)[0] - images).mean() for q in (10, 60, 100)
        ]
        assert errors[0] > 2 * errors[1] > 2 * errors[2] > 0

    def test_ranges(self):
        defence = PrintAndPhotograph.perfect(exposure=(0.4, 0.8), seed=SEED, batch_size=400)
        light = linear(defence(np.ones((400, 2, 2, 3), np.float32))[0].mean(axis=(1, 2, 3)))
        assert 0.4 <= light.min() < 0.42
        assert 0.78 < light.max() <= 0.8
        assert light.mean() == pytest.approx(0.6, abs=0.03)
        coloured = PrintAndPhotograph.perfect(light_colour=(0.5, 1.0), seed=SEED)(np.ones((9, 4, 4, 3), np.float32))[0]
        assert np.ptp(coloured, axis=3).min() > 0.001


class TestDraws:
    def test_new_at_every_call_and_seeded(self, images):
        first, second = PrintAndPhotograph(seed=SEED), PrintAndPhotograph(seed=SEED)
        one, two = first(images)[0], first(images)[0]
        assert np.abs(one - two).max() > 0.05
        np.testing.assert_array_equal(second(images)[0], one)
        first.set_params(seed=SEED)
        np.testing.assert_array_equal(first(images)[0], one)
        first.restart(SEED + 1)
        np.testing.assert_array_equal(first(images)[0], PrintAndPhotograph(seed=SEED + 1)(images)[0])
        assert first.seed == SEED
        copy = pickle.loads(pickle.dumps(second))
        np.testing.assert_array_equal(copy(images)[0], two)
        assert np.abs(PrintAndPhotograph()(images)[0] - PrintAndPhotograph()(images)[0]).max() > 0.05

    def test_images_differ(self, images):
        same = PrintAndPhotograph(seed=SEED)(np.repeat(images[:1], 3, axis=0))[0]
        assert np.abs(same[0] - same[1]).max() > 0.05

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_chunks_change_nothing(self, images, batch_size):
        expected = PrintAndPhotograph(seed=SEED)(images)[0]
        np.testing.assert_allclose(PrintAndPhotograph(seed=SEED, batch_size=batch_size)(images)[0], expected, atol=1e-5)

    def test_global_seed_is_left_alone(self, images):
        tf.random.set_seed(3)
        expected = tf.random.uniform((4,))
        tf.random.set_seed(3)
        PrintAndPhotograph(seed=SEED)(images)
        np.testing.assert_array_equal(tf.random.uniform((4,)), expected)

    def test_inside_tf_function(self, images):
        defence = PrintAndPhotograph(seed=SEED)
        traced = tf.function(lambda x: defence.forward(x)[0], input_signature=[tf.TensorSpec((None, None, None, 3))])
        first = traced(images)
        np.testing.assert_allclose(first, PrintAndPhotograph(seed=SEED)(images)[0], atol=0.01)  # a level of JPEG's
        assert np.abs(first - traced(images)).max() > 0.05
        defence.restart(SEED)
        np.testing.assert_array_equal(traced(images), first)


def test_layout_range_and_dtype(images):
    expected = PrintAndPhotograph(seed=SEED)(images)[0]
    x = np.moveaxis(images.astype(np.float64) * 255, 3, 1)
    y = np.arange(4)
    got, labels = PrintAndPhotograph(seed=SEED, clip_values=(0, 255), channels_first=True)(x, y)
    assert got.dtype == np.float64
    assert labels is y
    np.testing.assert_allclose(np.moveaxis(got, 1, 3) / 255, expected, atol=0.01)
    bright = PrintAndPhotograph(seed=SEED, exposure=(4.0, 4.0))(images)[0]
    assert bright.min() >= 0
    assert bright.max() <= 1


class TestGradients:
    def test_against_differences(self, images):
        # In the mean over draws, as EOT takes it; each draw is differentiable but where the sensor saturates.
        rng = np.random.default_rng(3)
        x = np.repeat(0.1 + 0.7 * images[:1], 12, axis=0)
        upstream = rng.normal(size=x.shape).astype(np.float32)
        direction = np.repeat(rng.normal(size=x[:1].shape), 12, axis=0).astype(np.float32)

        def photograph(x, **kwargs):
            return PrintAndPhotograph(seed=SEED, **kwargs).forward(x)[0]

        def loss(x):
            return float((photograph(x, jpeg_quality=None).numpy().astype(np.float64) * upstream).sum()) / 12

        step = 2e-3
        expected = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        got = vjp(lambda x: photograph(x, jpeg_quality=None), x, upstream)
        assert float((got * direction).sum()) / 12 == pytest.approx(expected, rel=0.02)
        straight = vjp(photograph, x, upstream)
        np.testing.assert_allclose(straight, got, atol=1e-5)

    def test_identity(self, images):
        upstream = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)
        got = PrintAndPhotograph.perfect().estimate_gradient(images, upstream)
        np.testing.assert_allclose(got, upstream, atol=1e-3)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_finite_at_the_ends_of_the_range(self, value):
        defence = PrintAndPhotograph(seed=SEED, ink=(0, 0), flare=(0, 0), read_noise=(0, 0))
        assert np.isfinite(defence.estimate_gradient(flat(value), flat(1.0))).all()

    def test_expectation_over_draws_in_a_compiled_classifier(self, tiny_classifier, tiny_images, tiny_labels):
        def classifier(**kwargs):
            compiled = compile_classifier(tiny_classifier, **kwargs)
            printing = PrintAndPhotograph.perfect(tilt=0.1, jpeg_quality=(90, 90), seed=SEED)
            compiled.set_params(preprocessing_defences=[printing])
            return compiled

        got = classifier(eot_samples=2).loss_gradient(tiny_images[:2], np.eye(10)[tiny_labels[:2]])
        single = classifier()
        draws = [single.loss_gradient(tiny_images[:2], np.eye(10)[tiny_labels[:2]]) for _ in range(2)]
        assert np.abs(draws[0] - draws[1]).max() > 1e-6
        np.testing.assert_allclose(got, np.mean(draws, axis=0), atol=1e-2 * np.abs(got).max())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scale": 1.0}, "Expected scale to be two numbers"),
        ({"scale": (1.4, 0.9)}, "Expected scale to be .*lowest <= highest"),
        ({"tilt": 0.3}, "Expected tilt to be a number from 0 to 0.2. Received 0.3"),
        ({"registration": -1}, "Expected registration"),
        ({"dot_gain": (0.0, 0.3)}, "Expected dot_gain to be a number from -0.25 to 0.25. Received 0.3"),
        ({"jpeg_quality": (0, 95)}, "Expected jpeg_quality"),
        ({"jpeg_quality": (70.5, 95)}, "Expected jpeg_quality to be an integer"),
        ({"seed": -1}, "Expected seed"),
        ({"batch_size": 0}, "Expected batch_size"),
        ({"clip_values": (1, 0)}, "Expected clip_values"),
    ],
)
def test_bad_parameters(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PrintAndPhotograph(**kwargs)
