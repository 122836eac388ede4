"""What Pix2Pix makes of an inner source: the adversarial half of a batch inside the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pix2pix.model import Pix2Pix


def network(seed=0):
    image = keras.Input((None, None, 3))
    init = keras.initializers.RandomNormal(0.0, 0.3, seed=seed)
    return keras.Model(image, keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=init)(image))


class Recorded:
    """Adds 0.1 and keeps what it was told; moves along the sign of the gradient."""

    level = None

    def __init__(self, replay=1):
        self.replay = replay
        self.shares, self.seeds, self.gradients = [], [], []

    def __call__(self, purify, clean, share, seed):
        self.shares.append(float(share))
        self.seeds.append(tuple(seed.numpy().tolist()))
        self.before = purify(clean)
        return clean + 0.1

    def moved(self, image, clean, gradient, share, seed):
        self.gradients.append(gradient.numpy())
        return image + 0.01 * tf.sign(gradient)


def model(inner, seed=0, **kwargs):
    made = Pix2Pix(network(), inner=inner, inner_steps=4, seed=seed, **kwargs)
    made.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    return made


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3)).astype(np.float32)


def run(made, images, steps=2):
    data = tf.data.Dataset.from_tensor_slices((images, images)).batch(2).repeat()
    made.fit(data, epochs=1, steps_per_epoch=steps, verbose=0)
    return made.generator.get_weights()


def test_the_step_is_that_of_the_images_the_source_makes(images):
    inner = run(model(Recorded()), images)
    plain = Pix2Pix(network())
    plain.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices((images + np.float32(0.1), images)).batch(2).repeat()
    plain.fit(data, epochs=1, steps_per_epoch=2, verbose=0)
    for a, b in zip(inner, plain.generator.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_is_told_the_share_of_the_run_and_another_seed_each_step(images):
    inner = Recorded()
    run(model(inner), images, steps=4)
    assert inner.shares == [0.0, 0.25, 0.5, 0.75]
    assert len(set(inner.seeds)) == 4
    again, other = Recorded(), Recorded()
    run(model(again), images, steps=4)
    run(model(other, seed=1), images, steps=4)
    assert again.seeds == inner.seeds
    assert not set(other.seeds) & set(inner.seeds)


def test_replay_trains_on_each_batch_so_often_and_moves_by_the_same_pass(images):
    inner = Recorded(replay=3)
    made = model(inner)
    before = made.generator.get_weights()
    run(made, images, steps=1)
    assert int(made.optimizer.iterations) == 3
    assert len(inner.gradients) == 2
    # The gradient of the first pass is that of the loss with the weights as they were.
    made.generator.set_weights(before)
    x = tf.constant(images) + 0.1
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = 100 * tf.reduce_mean(tf.abs(made.generator(x) - images))
    np.testing.assert_allclose(inner.gradients[0], tape.gradient(loss, x), rtol=1e-4, atol=1e-7)
