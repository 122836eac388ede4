from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from art_versatile.evaluation.metrics import accuracy, hits, mae, psnr, ssim, wilson_interval


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    clean = rng.random((3, 16, 20, 3))
    # A different distance for each image, so that the mean over images is not the measure of the whole batch.
    scale = np.array([0.01, 0.05, 0.2]).reshape(3, 1, 1, 1)
    return np.clip(clean + scale * rng.standard_normal(clean.shape), 0, 1), clean


def test_hits_from_scores_and_from_indices() -> None:
    scores = np.array([[0.1, 0.9], [2.0, -1.0], [0.0, 3.0], [0.2, 0.1]])
    labels = np.array([1, 0, 0, 1])
    assert hits(scores, labels).tolist() == [True, True, False, False]
    assert hits(scores, np.eye(2)[labels]).tolist() == [True, True, False, False]
    assert hits(np.array([1, 0, 1, 0]), labels).tolist() == [True, True, False, False]
    assert accuracy(scores, labels) == 0.5


def test_one_hot_booleans_are_labels() -> None:
    assert accuracy(np.array([2, 0]), np.eye(3, dtype=bool)[[2, 1]]) == 0.5


@pytest.mark.parametrize(
    ("predictions", "labels", "name"),
    [
        (np.zeros((2, 3, 3)), [0, 1], "predictions"),
        ([], [], "predictions"),
        (np.array([0.2, 0.8]), [0, 1], "predictions"),
        (np.array([[0.1, np.nan]]), [0], "predictions"),
        (np.array([["a", "b"]]), [0], "predictions"),
        (np.zeros((2, 1)), [0, 0], "predictions"),
        (np.array([[0.1, 0.2]]), np.array(["cat"]), "labels"),
        (np.array([0, 1, 2]), [0, 1], "as many predictions as labels"),
        (np.zeros((2, 3)), np.zeros((2, 4)), "predictions and labels of as many classes"),
    ],
)
def test_hits_refuses(predictions: object, labels: object, name: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {name}"):
        hits(predictions, labels)


@pytest.mark.parametrize(("correct", "n", "level"), [(86, 100, 0.95), (0, 20, 0.95), (20, 20, 0.95), (7, 11, 0.8)])
def test_wilson_interval_is_the_formula(correct: int, n: int, level: float) -> None:
    z = norm.ppf(0.5 + level / 2)
    share = correct / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert wilson_interval(correct, n, level) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_wilson_interval_known_values() -> None:
    # 86 of 100, by hand with z = 1.96.
    assert wilson_interval(86, 100) == pytest.approx((0.7786, 0.9147), abs=5e-4)
    low, high = wilson_interval(np.int64(0), np.int64(20))
    assert low == 0
    assert 0.15 < high < 0.17


@pytest.mark.parametrize("arguments", [(1.0, 2), (True, 2), (1, "2"), (0, 0), (3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0)])
def test_wilson_interval_refuses(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"Expected (correct|n|level) "):
        wilson_interval(*arguments)


def test_psnr_by_hand() -> None:
    clean = np.zeros((2, 4, 4, 3))
    images = clean.copy()
    images[0] += 0.1  # mean square 0.01: 20 dB
    images[1] += 0.01  # 40 dB
    assert psnr(images, clean) == pytest.approx(30.0)


def test_psnr_leaves_out_equal_images_and_is_infinite_if_all_are() -> None:
    clean = np.zeros((2, 4, 4, 3))
    images = clean.copy()
    images[1] += 0.1
    assert psnr(images, clean) == pytest.approx(20.0)
    assert psnr(clean, clean) == math.inf


def test_psnr_is_the_mean_over_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    images, clean = pair
    each = [10 * math.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(images, clean, strict=True)]
    assert psnr(images, clean) == pytest.approx(np.mean(each))


def test_mae_by_hand(pair: tuple[np.ndarray, np.ndarray]) -> None:
    images, clean = pair
    assert mae(images, clean) == pytest.approx(np.abs(images - clean).mean())
    assert mae(clean, clean) == 0
    assert mae(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1))) == 1


def test_ssim_is_wangs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    from scipy.ndimage import gaussian_filter

    def smooth(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, sigma=(1.5, 1.5, 0), truncate=3.5)

    # Wang et al. (2004), equation 13, the five-pixel border without a full window left out.
    values = []
    for a, b in zip(*pair, strict=True):
        mean_a, mean_b = smooth(a), smooth(b)
        var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
        covariance = smooth(a * b) - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        value = numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        values.append(value[5:-5, 5:-5].mean())
    assert ssim(*pair) == pytest.approx(np.mean(values), abs=1e-9)
    assert ssim(pair[1], pair[1]) == pytest.approx(1)


@pytest.mark.parametrize("measure", [psnr, mae, ssim])
def test_measures_do_not_depend_on_the_range(measure, pair: tuple[np.ndarray, np.ndarray]) -> None:
    images, clean = pair
    assert measure(images * 4 - 1, clean * 4 - 1, clip_values=(-1, 3)) == pytest.approx(measure(images, clean))


@pytest.mark.parametrize("measure", [psnr, mae, ssim])
def test_measures_refuse(measure) -> None:
    clean = np.zeros((1, 12, 12, 3))
    for images, reference, error, name in (
        (clean, np.zeros((2, 12, 12, 3)), ValueError, "images and reference of one shape"),
        (clean[..., :1], clean, ValueError, "reference"),
        (clean[0], clean, ValueError, "images"),
        (np.full_like(clean, np.nan), clean, ValueError, "images"),
        (clean, clean + 2, ValueError, "reference"),
        (clean.astype(np.uint8), clean, TypeError, "images"),
    ):
        with pytest.raises(error, match=f"Expected {name}"):
            measure(images, reference)
    with pytest.raises(ValueError, match="Expected clip_values"):
        measure(clean, clean, clip_values=(1, 0))


def test_ssim_refuses_images_below_its_window() -> None:
    small = np.zeros((1, 10, 30, 3))
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels. Received shape \(1, 10, 30, 3\)"):
        ssim(small, small)
