"""What test_model.py runs on two devices, in a process of its own: loss scaling and noise."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from art_versatile.pix2pix import LossSchedule, Pix2Pix
from art_versatile.pix2pix.layers import Noise


def make() -> Pix2Pix:
    """Two networks of one layer; their gradients grow with the images, and overflow only where the images are huge."""
    image, other = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(2)]
    seen = keras.layers.Concatenate()([image, other])
    model = Pix2Pix(
        keras.Model(image, keras.layers.Conv2D(3, 1, use_bias=False, kernel_initializer=init[0])(image)),
        keras.Model([image, other], keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=init[1])(seen)),
        schedule=LossSchedule([(1, 1.0, 0.0)]),
    )
    optimizers = [
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0**100) for _ in range(2)
    ]
    model.compile(*optimizers)
    return model


def step(strategy: tf.distribute.Strategy, huge: int | None) -> tuple[dict, dict, dict]:
    """One step on a batch of four; kernels before and after, scales of the loss after."""
    images = np.random.default_rng(0).random((4, 2, 2, 3)).astype(np.float32)
    clean = np.zeros_like(images)
    if huge is not None:
        images[2 * huge : 2 * huge + 2] *= 1e10
    with strategy.scope():
        model = make()

    def kernels():
        return {name: getattr(model, name).get_weights()[0] for name in ("generator", "discriminator")}

    before = kernels()
    model.fit(tf.data.Dataset.from_tensors((images, clean)), epochs=1, verbose=0, shuffle=False)
    scales = {
        "generator": model.optimizer.dynamic_scale.numpy(),
        "discriminator": model.discriminator_optimizer.dynamic_scale.numpy(),
    }
    return before, kernels(), scales


def main() -> None:
    """Everything into the file that the first argument names."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for huge in (0, 1, None):
        for part, arrays in zip(("before", "after", "scale"), step(strategy, huge), strict=True):
            found |= {f"{'none' if huge is None else huge} {name} {part}": array for name, array in arrays.items()}
    one = step(tf.distribute.get_strategy(), None)[1]
    found |= {f"none {name} one device": array for name, array in one.items()}
    with strategy.scope():
        layer = Noise(0.1, seed=3)
    draw = tf.function(lambda: strategy.run(lambda: layer(tf.zeros((2, 16, 16, 3)), training=True)))
    found["noise"] = np.stack([
        np.stack([part.numpy() for part in strategy.experimental_local_results(draw())]) for _ in range(2)
    ])  # fmt: skip
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
