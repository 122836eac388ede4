import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from art_versatile.baselines.gaussian import GaussianBlur, GaussianNoise


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (2, 40, 33, 3)).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_blur_is_scipys(images, sigma):
    wanted = ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0), mode="mirror", truncate=4.0)
    np.testing.assert_allclose(GaussianBlur(sigma)(images)[0], wanted, atol=2e-6)


def test_blur_in_another_range_and_layout(images):
    wanted = 255 * GaussianBlur()(images)[0].transpose(0, 3, 1, 2)
    x = 255 * images.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(GaussianBlur(clip_values=(0, 255), channels_first=True)(x)[0], wanted, atol=1e-3)


def test_blurs_gradient_is_its_adjoint(images):
    rng = np.random.default_rng(1)
    direction = rng.normal(size=images.shape).astype(np.float32)
    inside = 0.25 + 0.5 * images  # nothing is clipped
    gradient = GaussianBlur().estimate_gradient(inside, direction)
    step = rng.normal(size=images.shape).astype(np.float32) * 1e-2
    change = GaussianBlur()(inside + step)[0] - GaussianBlur()(inside)[0]
    assert np.sum(gradient * step) == pytest.approx(np.sum(direction * change), rel=1e-3)


def test_blur_refuses_images_inside_its_kernel():
    with pytest.raises(ValueError, match="6 pixels"):
        GaussianBlur(1.5)(np.zeros((1, 6, 40, 3), np.float32))


def test_noise_is_one_pattern_of_the_stated_size(images):
    grey = np.full((2, 200, 130, 3), 0.5, np.float32)
    added = GaussianNoise(0.02)(grey)[0] - grey
    assert added.std() == pytest.approx(0.02, rel=0.03)
    assert abs(added.mean()) < 1e-3
    np.testing.assert_array_equal(added[0], added[1])
    np.testing.assert_array_equal(added[:, :64, :64], added[:, 64:128, 64:128])
    assert np.abs(added - (GaussianNoise(0.02, seed=1)(grey)[0] - grey)).max() > 0.02
    answer = GaussianNoise(0.5)(images)[0]
    assert answer.min() >= 0
    assert answer.max() <= 1


def test_noise_is_a_share_of_the_range():
    grey = np.full((1, 64, 64, 3), 127.5, np.float32)
    wide = GaussianNoise(0.02, clip_values=(0, 255))(grey)[0]
    np.testing.assert_allclose(wide / 255, GaussianNoise(0.02)(grey / 255)[0], atol=1e-6)


def test_in_a_graph_of_unknown_size(images):
    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def both(x):
        return GaussianBlur().forward(x)[0], GaussianNoise().forward(x)[0]

    for answer, defence in zip(both(images), (GaussianBlur(), GaussianNoise()), strict=True):
        np.testing.assert_allclose(answer, defence(images)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (GaussianBlur, "sigma", 0),
        (GaussianBlur, "sigma", "a"),
        (GaussianNoise, "stddev", 2),
        (GaussianNoise, "seed", -1),
    ],
)
def test_refusals(make, name, value):
    with pytest.raises(ValueError, match=name):
        make(**{name: value})
