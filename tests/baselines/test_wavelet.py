"""Wavelet denoising against scikit-image called directly, and against the algorithm of 2018 on PyWavelets alone."""

import importlib.util
import re

import numpy as np
import pytest
import pywt
import tensorflow as tf
from skimage.restoration import denoise_wavelet

from art_versatile._defence import straight_through
from art_versatile.baselines import WaveletDenoising, wavelet_denoise


@pytest.fixture(scope="module")
def noisy():
    """(2, 40, 36, 3) float64: coloured patches with noise of 0.04."""
    rng = np.random.default_rng(0)
    patches = rng.uniform(0.1, 0.9, (2, 5, 9, 3)).repeat(8, axis=1).repeat(4, axis=2)
    return np.clip(patches + rng.normal(0, 0.04, patches.shape), 0, 1)


def as_in_2018(image, sigma, soft=True):
    """Stretch each YCbCr plane (ITU-R BT.601) to [0, 1], shrink by BayesShrink (Chang et al. 2000), put it back."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    offset = np.array([16.0, 128.0, 128.0])

    def shrink(detail):
        threshold = sigma**2 / np.sqrt(max(np.mean(detail**2) - sigma**2, np.finfo(float).eps))
        if soft:
            return np.sign(detail) * np.maximum(np.abs(detail) - threshold, 0)
        return np.where(np.abs(detail) < threshold, 0, detail)

    planes = image @ matrix.T + offset
    for channel in range(3):
        low, high = planes[..., channel].min(), planes[..., channel].max()
        plane = (planes[..., channel] - low) / (high - low)
        levels = max(pywt.dwt_max_level(min(plane.shape), 2) - 3, 1)
        coarse, *details = pywt.wavedec2(plane, "db1", level=levels)
        shrunk = pywt.waverec2([coarse, *(tuple(shrink(d) for d in level) for level in details)], "db1")
        shrunk = np.clip(shrunk[: plane.shape[0], : plane.shape[1]], 0, 1)
        planes[..., channel] = shrunk * (high - low) + low
    return np.clip((planes - offset) @ np.linalg.inv(matrix).T, 0, 1)


@pytest.mark.parametrize("crop", [np.s_[:, :], np.s_[:37, :35]], ids=["even", "odd"])
@pytest.mark.parametrize("sigma", [0.01, 0.04])
def test_old_rule_is_that_of_2018(noisy, sigma, crop):
    images = noisy[:, crop[0], crop[1]]
    expected = np.stack([as_in_2018(image, sigma) for image in images])
    np.testing.assert_allclose(wavelet_denoise(images, sigma=sigma), expected, atol=1e-9)


def test_old_rule_with_hard_thresholds(noisy):
    expected = np.stack([as_in_2018(image, 0.04, soft=False) for image in noisy])
    np.testing.assert_allclose(wavelet_denoise(noisy, mode="hard"), expected, atol=1e-9)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"sigma": 0.1},
        {"sigma": None},
        {"mode": "hard"},
        {"method": "VisuShrink"},
        {"levels": 3},
    ],
    ids=str,
)
def test_new_rule_is_scikit_image(noisy, kwargs):
    names = {"levels": "wavelet_levels"}
    given = {"sigma": 0.04, **{names.get(name, name): value for name, value in kwargs.items()}}
    expected = [denoise_wavelet(i, convert2ycbcr=True, rescale_sigma=True, channel_axis=-1, **given) for i in noisy]
    np.testing.assert_array_equal(wavelet_denoise(noisy, rescale_sigma=True, **kwargs), np.clip(expected, 0, 1))
    if kwargs:
        assert np.abs(wavelet_denoise(noisy, rescale_sigma=True) - np.clip(expected, 0, 1)).max() > 1e-4


def test_rescale_sigma_false_of_scikit_image_is_no_denoising(noisy):
    # Why the old rule is written out: this would look like it, and leaves the noise in.
    theirs = [denoise_wavelet(i, 0.04, convert2ycbcr=True, rescale_sigma=False, channel_axis=-1) for i in noisy]
    change = np.abs(np.array(theirs) - noisy).mean()
    assert np.abs(wavelet_denoise(noisy) - noisy).mean() > 100 * change


def test_noise_is_removed(noisy):
    rng = np.random.default_rng(1)
    ramp = np.linspace(0.2, 0.8, 64)
    clean = np.stack([np.add.outer(ramp, ramp) / 2, np.tile(ramp, (64, 1)), np.tile(ramp[:, None], 64)], axis=-1)[None]
    spoilt = clean + rng.normal(0, 0.04, clean.shape)
    for rescale_sigma in (False, True):
        denoised = wavelet_denoise(spoilt, rescale_sigma=rescale_sigma)
        assert np.mean((denoised - clean) ** 2) < 0.35 * np.mean((spoilt - clean) ** 2)


def overshooting():
    """Strong stripes keep two sub-bands; the third is shrunk away, and with it goes a part of one bright pixel."""
    image = np.zeros((32, 32, 3), np.float32)
    image[:16, ::2] = image[16:24:2] = image[29, 29] = 1
    return image[None]


def test_without_clipping():
    given = {"sigma": 0.2, "rescale_sigma": True}
    free, kept = wavelet_denoise(overshooting(), clip=False, **given), wavelet_denoise(overshooting(), **given)
    assert free.min() < -0.1
    np.testing.assert_array_equal(np.clip(free, 0, 1), kept)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of scikit-image, finding no noise to estimate
@pytest.mark.parametrize("sigma", [0.04, None])
@pytest.mark.parametrize("rescale_sigma", [False, True])
@pytest.mark.parametrize(
    "images",
    [
        np.full((1, 16, 16, 3), 0.5),
        np.full((1, 2, 2, 3), 0.5),
        np.random.default_rng(3).random((1, 8, 8, 3)).repeat(2, axis=1).repeat(2, axis=2),
        np.random.default_rng(3).random((1, 16, 16, 1)).repeat(3, axis=3),
        np.random.default_rng(3).random((1, 2, 7, 3)),
    ],
    ids=["constant", "tiny", "blocks", "grey", "flat"],
)
def test_degenerate_images_stay_finite(images, sigma, rescale_sigma):
    for dtype in (np.float32, np.float64):
        denoised = wavelet_denoise(images.astype(dtype), sigma=sigma, rescale_sigma=rescale_sigma)
        assert denoised.dtype == dtype
        assert np.isfinite(denoised).all()
        if np.ptp(images) == 0:
            np.testing.assert_allclose(denoised, images, atol=1e-6)


class TestStraightThrough:
    @pytest.mark.parametrize("compiled", [False, True])
    def test_value_and_identity(self, compiled):
        def function(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = straight_through(lambda a, b: np.square(a) + b, x, tf.constant([[[[3.0]]]]))
            return y, tape.gradient(y, x, 2 * x)

        x = tf.reshape(tf.range(12.0), (1, 2, 2, 3))
        y, gradient = (tf.function(function) if compiled else function)(x)
        np.testing.assert_array_equal(y, np.square(x) + 3)
        np.testing.assert_array_equal(gradient, 2 * x)

    def test_runs_at_every_call_of_a_trace(self):
        calls = []

        def count(x):
            calls.append(1)
            return x + np.float32(len(calls))

        traced = tf.function(lambda x: straight_through(count, x) + straight_through(count, x))
        x = tf.zeros((1, 1, 1, 3))
        assert [float(traced(x)[0, 0, 0, 0]) for _ in range(3)] == [3.0, 7.0, 11.0]


class TestPreprocessor:
    @pytest.mark.parametrize("clip", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
    def test_is_the_function(self, noisy, clip):
        low, high = clip
        given = {"sigma": 0.015, "rescale_sigma": True, "mode": "hard", "method": "VisuShrink", "levels": 4}
        expected = wavelet_denoise(noisy.astype(np.float32), **given)
        defence = WaveletDenoising(**given, clip_values=clip)
        defended, _ = defence((noisy * (high - low) + low).astype(np.float32))
        for name in given:  # each of them matters
            others = {key: value for key, value in given.items() if key != name}
            assert np.abs(expected - wavelet_denoise(noisy.astype(np.float32), **others)).max() > 1e-4, name
        np.testing.assert_allclose((defended - low) / (high - low), expected, atol=1e-5)

    def test_clip(self):
        images = 255 * overshooting()
        given = {"rescale_sigma": True, "clip_values": (0, 255)}
        assert WaveletDenoising(0.2, **given)(images)[0].min() == 0
        assert WaveletDenoising(0.2, clip=False, **given)(images)[0].min() < -25

    @pytest.mark.parametrize(
        ("name", "values", "expected"),
        [
            ("sigma", [-0.1, "0.04", np.nan], "a number from 0 to 1"),
            ("rescale_sigma", [1], "True or False"),
            ("mode", ["firm"], "one of ['soft', 'hard']"),
            ("method", ["SureShrink"], "one of ['BayesShrink', 'VisuShrink']"),
            ("levels", [0, True], "an integer of at least 1"),
            ("clip", [None], "True or False"),
        ],
    )
    def test_bad_parameters(self, name, values, expected):
        for value in values:
            with pytest.raises(ValueError, match=re.escape(f"Expected {name} to be {expected}. Received {value!r}.")):
                WaveletDenoising(**{name: value})

    def test_without_pywavelets(self, monkeypatch):
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pywt" else found(name, *a))
        with pytest.raises(ModuleNotFoundError, match="Expected the package PyWavelets"):
            WaveletDenoising()
        with pytest.raises(ModuleNotFoundError, match="Expected the package PyWavelets"):
            wavelet_denoise(np.zeros((1, 8, 8, 3)))
