import numpy as np
import pytest
import tensorflow as tf

from art_versatile.attacks.ascent import ascend, project, random_start

EPS = np.array([0.1, 0.02], np.float32)


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.default_rng(0).uniform(0.2, 0.8, (2, 6, 6, 3)), tf.float32)


def linear(images):
    weights = tf.constant(np.random.default_rng(1).normal(size=images.shape[1:]), tf.float32)
    return weights, lambda x: tf.reduce_sum(weights * x)


def test_one_step_is_fgsm(images):
    weights, objective = linear(images)
    found = ascend(objective, images, images, EPS, EPS, 1)
    np.testing.assert_allclose(found, images + EPS[:, None, None, None] * np.sign(weights), atol=1e-6)


def test_steps_in_l2_reach_the_farthest_point_of_the_ball(images):
    # Of a linear objective that is eps along its gradient.
    weights, objective = linear(images)
    found = ascend(objective, images, images, EPS, EPS, tf.constant(5), norm="2")
    direction = weights / np.linalg.norm(weights)
    np.testing.assert_allclose(found, images + EPS[:, None, None, None] * direction, atol=1e-5)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_start_and_projection_stay_inside(images, norm):
    order = np.inf if norm == "inf" else 2
    start = random_start(images, EPS, tf.constant([1, 2]), norm)
    far = project(images + 0.5, images, EPS, norm)
    for found in (start, far):
        lengths = np.linalg.norm((found - images).numpy().reshape(2, -1), order, axis=1)
        assert (lengths <= EPS * 1.0001).all()
        assert lengths[0] > 2 * lengths[1]
    np.testing.assert_allclose(lengths, EPS, rtol=1e-4)
    assert project(images + 9.0, images, [9.0, 9.0], norm).numpy().max() == 1.0


def test_uniform_start_fills_the_l2_ball(images):
    lengths = [
        np.linalg.norm(random_start(images, EPS, tf.constant([seed, 0]), "2")[0] - images[0]) for seed in range(300)
    ]
    # In d dimensions a share q^d lies within q of the radius.
    share = np.mean(np.array(lengths) < 0.99 * EPS[0])
    assert abs(share - 0.99**108) < 0.09


def test_momentum_is_mi_fgsms_by_hand():
    """Two steps on a quadratic: g1, then g1/|g1| + g2/|g2| (mean absolute values)."""
    clean = tf.constant([[[[0.5, 0.5, 0.5]]]])
    target = tf.constant([[[[0.62, 0.4, 0.506]]]])
    objective = lambda x: -tf.reduce_sum((x - target) ** 2)  # noqa: E731
    found = ascend(objective, clean, clean, [0.2], [0.01], 2, decay=1.0)
    first = clean + 0.01 * np.sign(target - clean)
    g1, g2 = (2 * (target - x) for x in (clean, first))
    momentum = g1 / np.mean(np.abs(g1)) + g2 / np.mean(np.abs(g2))
    np.testing.assert_allclose(found, first + 0.01 * np.sign(momentum), atol=1e-6)
    without = ascend(objective, clean, clean, [0.2], [0.01], 2)
    assert without[0, 0, 0, 2] != found[0, 0, 0, 2]  # the third pixel overshot: momentum goes on, the gradient turns


def test_no_gradient_flows_into_an_attack(images):
    weight = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        found = ascend(lambda x: tf.reduce_sum(weight * x), images, images, EPS, EPS, 1)
        loss = tf.reduce_sum(found)
    assert tape.gradient(loss, weight) is None
