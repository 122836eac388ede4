"""A purifier, alone or with a classifier behind it, in one file that runs without this package.

TensorFlow's SavedModel (a folder), ONNX (through the package ``tf2onnx``) or TensorFlow Lite. What is written has been
run on photographs first, and answers what the purifier and the classifier answer here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice, check_images, check_integer, pixel_range
from art_versatile._files import write_text_atomically

__all__ = ["FORMATS", "TOLERANCE", "Exported", "check_export", "export", "load_exported"]

FORMATS = ("savedmodel", "onnx", "tflite")
#: Largest difference that is accepted: of pixels, which are in [0, 1], and of logits as a share of the largest one.
TOLERANCE = 1e-3
_OPSET = 17
_PACKAGES = {"savedmodel": (), "onnx": ("onnx", "tf2onnx", "onnxruntime"), "tflite": ()}
_AT_ONCE = 4


@dataclass(frozen=True)
class Exported:
    """
    What :func:`export` wrote.

    :param path: The file, or the folder of a SavedModel.
    :param report: The file beside it, ``PATH.json``, that holds ``facts``.
    :param facts: JSON values: "format", "bytes", "input", "output", "image_size" (None: any), "purifier"
        (fingerprint), "license", "classifier" (its number of classes, or None), "versions", and of the check "images"
        (which, in words), "n", "largest_difference" (of a pixel, or of a logit), "largest_logit" and "same_labels" (of
        ``n``), both None without a classifier.
    """

    path: Path
    report: Path
    facts: dict[str, Any]


def check_export(path: str | Path, format: str) -> Path:  # noqa: A002
    """
    Check what :func:`export` is to write, without TensorFlow.

    :param path: Where to; nothing may be there yet.
    :param format: One of ``FORMATS``.
    :return: The path.
    :raises ValueError: If the format is another, or the path ends otherwise than in ".onnx" or ".tflite".
    :raises FileExistsError: If there is something at the path.
    :raises ModuleNotFoundError: If a package for the format is missing.
    """
    check_choice("format", format, FORMATS)
    path = Path(path)
    if format != "savedmodel" and path.suffix != f".{format}":
        raise ValueError(f"Expected a file that ends in .{format}. Received {str(path)!r}.")
    if path.exists():
        raise FileExistsError(f"Expected a path where nothing is. Received {str(path)!r}.")
    missing = [name for name in _PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"Expected the packages {', '.join(_PACKAGES[format])} (pip install 'art-versatile[export]'). Received an "
            f"environment without {', '.join(missing)}."
        )
    return path


def export(
    purifier: Any,
    path: str | Path,
    format: str = "savedmodel",  # noqa: A002
    *,
    classifier: Any = None,
    image_size: int | None = None,
    images: np.ndarray | None = None,
    seed: int = 0,
) -> Exported:
    """
    Write a purifier, or a purifier and the classifier behind it, and compare its answers with the original's.

    The input, "image", is (N, H, W, 3) float32 in [0, 1], whatever the purifier's own range and layout; the answer is
    "purified", of the same shape, or "logits", (N, classes). TensorFlow Lite begins with N = 1 (and 1x1 pixels at any
    size): ``resize_tensor_input`` changes it. Large images go through whole, not in tiles.

    :param purifier: A ``VersatilePurifier``, not stochastic.
    :param path: The file, ".onnx" or ".tflite", or the folder of a SavedModel; nothing may be there yet.
    :param format: One of ``FORMATS``.
    :param classifier: An undefended ART classifier of a Keras model, ``clip_values=(0, 1)``, channels last, without
        preprocessing; None writes the purifier alone.
    :param image_size: Height and width in pixels; None takes any, or the one that the classifier's model takes.
    :param images: (N, H, W, 3) floats in [0, 1] to compare the answers on; None takes the demonstration's 20
        photographs where the package foolbox is installed, else 20 mosaics of random colours.
    :param seed: Of the mosaics.
    :return: What was written.
    :raises ValueError: If a parameter is not as expected, or the answers differ by more than ``TOLERANCE`` or in a
        label. Nothing is written then.
    :raises TypeError: If the purifier or the classifier is of another kind.
    :raises FileExistsError: If there is something at the path.
    :raises ModuleNotFoundError: If a package for the format is missing.
    """
    path = check_export(path, format)
    from art_versatile.purifier import VersatilePurifier

    if not isinstance(purifier, VersatilePurifier):
        raise TypeError(f"Expected a VersatilePurifier. Received {type(purifier).__name__}.")
    if purifier.stochastic:
        raise ValueError(f"Expected a purifier that is not stochastic. Received {purifier!r}.")
    model = None if classifier is None else _checked_model(classifier)
    size = _checked_size(model, image_size)
    images, called = _checked_images(images, size, seed)
    original = VersatilePurifier(purifier.generator, batch_size=_AT_ONCE)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        _WRITERS[format](_traceable(purifier.generator, model, size), made)
        answer = load_exported(made, format)
        batches = [images[i : i + _AT_ONCE] for i in range(0, len(images), _AT_ONCE)]
        if size is None:
            height, width = images.shape[1:3]
            batches.append(images[:1, : max(1, height - 5), : max(1, 2 * width // 3)])
        expected, received = [], []
        for batch in batches:
            purified = original(batch)[0]
            expected.append(purified if classifier is None else classifier.predict(purified))
            received.append(answer(batch))
        facts = {
            "format": format,
            "bytes": _bytes(made),
            "input": "image, (N, H, W, 3) float32 in [0, 1]",
            "output": "purified, (N, H, W, 3) float32 in [0, 1]" if model is None else "logits, (N, classes) float32",
            "image_size": size,
            "purifier": purifier.fingerprint,
            "license": purifier.card.get("license"),
            "classifier": None if classifier is None else int(classifier.nb_classes),
            "versions": {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy", *_PACKAGES[format])},
            "images": called + (", and the first one cut to another size" if size is None else ""),
            **_compared(expected, received, labels=model is not None),
        }
        os.replace(made, path)
    report = write_text_atomically(path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1) + "\n")
    return Exported(path, report, facts)


def load_exported(path: str | Path, format: str, *, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:  # noqa: A002
    """
    What :func:`export` wrote, as a function from images to answers.

    :param path: The file or folder.
    :param format: One of ``FORMATS``.
    :param threads: Threads of ONNX Runtime or TensorFlow Lite; None leaves it to them. A SavedModel has TensorFlow's.
    :return: (N, H, W, 3) float32 in [0, 1] -> the purified images or the logits.
    """
    return _LOADERS[check_choice("format", format, FORMATS)](Path(path), threads)


def _checked_model(classifier: Any) -> Any:
    """The Keras model of an ART classifier to which it adds nothing."""
    import keras

    model = getattr(classifier, "model", None)
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected an ART classifier of a Keras model. Received {type(classifier).__name__}.")
    defences = [*(classifier.preprocessing_defences or ()), *(classifier.postprocessing_defences or ())]
    shift, scale = (getattr(classifier.preprocessing, name, default) for name, default in (("mean", 0), ("std", 1)))
    changed = np.any(np.asarray(shift) != 0) or np.any(np.asarray(scale) != 1)
    if pixel_range(classifier) != (0, 1) or classifier.channels_first or defences or changed:
        raise ValueError(
            "Expected an undefended classifier of images (N, H, W, 3) in [0, 1] without preprocessing. Received "
            f"clip_values={classifier.clip_values}, channels_first={classifier.channels_first}, "
            f"preprocessing={classifier.preprocessing}, defences {defences}."
        )
    return model


def _checked_size(model: Any, image_size: int | None) -> int | None:
    """The size of the images; that of a model which takes one alone."""
    size = None if image_size is None else check_integer("image_size", image_size)
    own = (None, None) if model is None else tuple(model.input_shape[1:3])
    if own == (None, None):
        return size
    if own[0] != own[1] or size not in (None, own[0]):
        wanted = f"images of {own[0]}x{own[1]}, as the classifier takes"
        raise ValueError(f"Expected {wanted}, and square. Received image_size={image_size}.")
    return own[0]


def _checked_images(images: np.ndarray | None, size: int | None, seed: int) -> tuple[np.ndarray, str]:
    """Images to compare on, and what they are."""
    if images is not None:
        images = check_images(images, (0.0, 1.0), name="images").astype(np.float32)
        if size is not None and images.shape[1:3] != (size, size):
            raise ValueError(f"Expected images of {size}x{size}. Received shape {images.shape}.")
        return images, f"{len(images)} given images"
    from art_versatile.images import demo_images

    side = size or 224
    try:
        return demo_images(20, side)[0], "the demonstration's 20 photographs"
    except ModuleNotFoundError:
        rng = np.random.default_rng(check_integer("seed", seed, 0))
        cells = rng.uniform(size=(20, -(-side // 16), -(-side // 16), 3)).repeat(16, axis=1).repeat(16, axis=2)
        images = cells[:, :side, :side] + rng.normal(0, 0.02, (20, side, side, 3))
        return np.clip(images, 0, 1).astype(np.float32), f"20 mosaics of random colours, seed {seed}"


def _compared(expected: list[np.ndarray], received: list[np.ndarray], *, labels: bool) -> dict[str, Any]:
    """The result of the check, where the answers are alike."""
    count = sum(map(len, expected))
    difference = max(float(np.abs(a - b).max()) for a, b in zip(expected, received, strict=True))
    largest = max(float(np.abs(a).max()) for a in expected)
    same = None
    if labels:
        same = int(sum(np.sum(a.argmax(1) == b.argmax(1)) for a, b in zip(expected, received, strict=True)))
    allowed = TOLERANCE * (max(1.0, largest) if labels else 1.0)
    # "not <=": NaN is refused too.
    if not difference <= allowed or same not in (None, count):
        alike = "" if same is None else f" and the same {count} labels"
        raise ValueError(
            f"Expected answers as the original's, to within {allowed:.3g}{alike}. Received a largest difference of "
            f"{difference:.3g}" + ("." if same is None else f" and {same} labels the same.")
        )
    return {
        "n": count,
        "largest_difference": difference,
        "largest_logit": largest if labels else None,
        "same_labels": same,
    }


def _traceable(generator: Any, model: Any, size: int | None) -> Any:
    """A ``tf.Module`` that holds the weights; its function ``answer`` takes images (N, size, size, 3)."""
    import tensorflow as tf

    from art_versatile.pix2pix.generators import purified

    module = tf.Module()
    module.generator, module.model = generator, model

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32, name="image")])
    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        # As the purifier does, a generator without a last activation.
        clean = tf.clip_by_value(purified(generator, image), 0.0, 1.0)
        return {"purified": clean} if model is None else {"logits": model(clean, training=False)}

    module.answer = answer
    return module


def _write_savedmodel(module: Any, path: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(module, str(path), signatures=module.answer)


def _write_onnx(module: Any, path: Path) -> None:
    import tf2onnx

    made, _ = tf2onnx.convert.from_function(module.answer, module.answer.input_signature, opset=_OPSET)
    for value in (*made.graph.input, *made.graph.output):
        for name, dimension in zip(("N", "H", "W"), value.type.tensor_type.shape.dim, strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    path.write_bytes(made.SerializeToString())


def _write_tflite(module: Any, path: Path) -> None:
    import tensorflow as tf

    # Given the module too, TensorFlow 2.21 writes a file without the weights of Keras 3's models.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.answer.get_concrete_function()])
    path.write_bytes(converter.convert())


def _load_savedmodel(path: Path, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]

    def answer(images: np.ndarray, loaded: Any = loaded) -> np.ndarray:  # the signature alone does not hold the weights
        (result,) = function(image=tf.convert_to_tensor(images)).values()
        return result.numpy()

    return answer


def _load_onnx(path: Path, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def _load_tflite(path: Path, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated.*", UserWarning)
        interpreter = tf.lite.Interpreter(str(path), num_threads=threads)

    def answer(images: np.ndarray) -> np.ndarray:
        place = interpreter.get_input_details()[0]
        if tuple(place["shape"]) != images.shape:
            interpreter.resize_tensor_input(place["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return answer


_WRITERS = {"savedmodel": _write_savedmodel, "onnx": _write_onnx, "tflite": _write_tflite}
_LOADERS = {"savedmodel": _load_savedmodel, "onnx": _load_onnx, "tflite": _load_tflite}


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
