"""PixelDeflection: random pixels are replaced by neighbours, then wavelet denoising smooths what that has torn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from art_versatile._checks import check_batch_size, check_bool, check_choice, check_integer
from art_versatile._defence import ImageDefence, straight_through
from art_versatile.baselines.wavelet import check_wavelet, wavelet_denoise

__all__ = ["PixelDeflection", "deflect_pixels", "robust_class_activation_map"]

_COUNTS = ("value", "pixel")


def deflect_pixels(
    image: np.ndarray,
    rcam: np.ndarray,
    rng: np.random.Generator,
    *,
    deflections: int = 200,
    window: int = 10,
    count: str = "value",
) -> np.ndarray:
    """
    Replace values of an image by values nearby, one after another, so that a replaced value may be copied on.

    In rounds of one draw for each channel: a pixel (i, j), skipped with probability ``rcam[i, j]``; a source (k, l)
    uniform among 0 < k < H and 0 < l < W at most ``window`` away on either axis; the channel's value is copied. A draw
    takes five numbers from ``rng``: i, j, the chance of being skipped, k, l.

    :param image: (H, W, C), at least 2 x 2 pixels.
    :param rcam: (H, W) in [0, 1].
    :param rng: The generator.
    :param deflections: How many.
    :param window: Largest distance of a source, pixels.
    :param count: "value": each copied value is one deflection, and a round under way is finished (the official
        ``main.py``); "pixel": each round is one, whatever it skipped (the official ``demo.ipynb``).
    :return: A new image.
    """
    height, width, channels = image.shape
    values = image.reshape(-1).copy()
    remaining = deflections
    while remaining > 0:
        # As many rounds as there must be at least: the generator is left where a loop over single draws leaves it.
        rounds = remaining if count == "pixel" else -(-remaining // channels)
        draws = rng.random((rounds * channels, 5))
        i, j = (draws[:, 0] * height).astype(int), (draws[:, 1] * width).astype(int)
        kept = draws[:, 2] >= rcam[i, j]
        k, l = _near(i, draws[:, 3], height, window), _near(j, draws[:, 4], width, window)  # noqa: E741
        channel = np.tile(np.arange(channels), rounds)
        targets = ((i * width + j) * channels + channel)[kept]
        sources = ((k * width + l) * channels + channel)[kept]
        for target, source in zip(targets.tolist(), sources.tolist(), strict=True):
            values[target] = values[source]
        remaining -= rounds if count == "pixel" else len(targets)
    return values.reshape(image.shape)


def _near(place: np.ndarray, draw: np.ndarray, size: int, window: int) -> np.ndarray:
    """Uniform among the places that the official code draws and rejects until it finds one; never the first."""
    low, high = np.maximum(place - window, 1), np.minimum(place + window, size - 1)
    return low + (draw * (high - low + 1)).astype(int)


class _ActivationMap:
    """The two ends of a class activation map: the features under the global pooling, the weights of the classes."""

    def __init__(self, model: Any, layer: str | None) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"Expected a keras.Model. Received {type(model).__name__}.")
        pooling, self._dense = _head(model)
        try:
            features = pooling.input if layer is None else model.get_layer(layer).output
        except ValueError as err:
            names = [item.name for item in model.layers if isinstance(item, keras.layers.Conv2D)]
            raise ValueError(f"Expected the name of a layer, such as one of {names[-3:]}. Received {layer!r}.") from err
        channels = self._dense.kernel.shape[0]
        if len(features.shape) != 4 or features.shape[-1] != channels:
            raise ValueError(
                f"Expected a layer with features (N, h, w, {channels}), as the dense layer takes. Received "
                f"{layer or pooling.name!r} with {features.shape}."
            )
        self.classes = int(self._dense.kernel.shape[1])
        self._model = keras.Model(model.inputs[0], [features, model.outputs[0]])

    def __call__(self, images: tf.Tensor, k: int) -> tf.Tensor:
        if not 1 <= k <= self.classes:
            raise ValueError(f"Expected k from 1 to {self.classes}, the number of classes. Received {k!r}.")
        features, scores = self._model(images, training=False)
        top = tf.math.top_k(scores, k).indices
        shares = tf.constant([2.0**-i for i in range(1, k + 1)], features.dtype)
        kernel = tf.gather(tf.transpose(tf.convert_to_tensor(self._dense.kernel)), top)  # (N, k, channels)
        maps = tf.cast(tf.einsum("nhwc,nkc,k->nhw", features, tf.cast(kernel, features.dtype), shares), tf.float32)
        maps = tf.image.resize(maps[..., None], tf.shape(images)[1:3])[..., 0]
        maps -= tf.reduce_min(maps, axis=(1, 2), keepdims=True)
        return tf.math.divide_no_nan(maps, tf.reduce_max(maps, axis=(1, 2), keepdims=True))


def _head(model: keras.Model) -> tuple[Any, Any]:
    """The global average pooling and the dense layer that a classifier ends in."""
    wrong = (
        "Expected a functional or sequential Keras classifier that ends in GlobalAveragePooling2D and one Dense layer, "
        f"both among its own layers. Received {model.name!r}"
    )
    makers = {}
    dense = None
    for layer in model.layers:
        with contextlib.suppress(AttributeError, ValueError):  # outside a graph, or in several places of it
            makers[id(layer.output)] = layer
            dense = layer if isinstance(layer, keras.layers.Dense) else dense
    if dense is None:
        raise ValueError(f"{wrong}, which has no graph of layers with a dense one in it.")
    layer = makers.get(id(dense.input))
    while isinstance(layer, keras.layers.Dropout | keras.layers.Flatten | keras.layers.Identity):
        layer = makers.get(id(layer.input))
    if not isinstance(layer, keras.layers.GlobalAveragePooling2D) or layer.data_format != "channels_last":
        found = "no layer of its own" if layer is None else f"{type(layer).__name__} {layer.name!r}"
        raise ValueError(f"{wrong}, whose dense layer {dense.name!r} follows {found}.")
    if model.outputs[0].shape[-1] != dense.units:
        raise ValueError(f"{wrong}, with {dense.units} units and outputs of shape {model.outputs[0].shape}.")
    return layer, dense


def robust_class_activation_map(model: keras.Model, images: Any, k: int = 5, layer: str | None = None) -> tf.Tensor:
    """
    R-CAM: where a classifier looks, whatever an attack did to its first guess (Prakash et al., arXiv 1801.08926).

    The class activation maps (last features x weights of the dense layer) of the k likeliest classes, halved from
    each to the next, summed, enlarged to the image (bilinear) and stretched to [0, 1].

    :param model: Classifier with global average pooling and one dense layer after it; (N, H, W, 3) -> (N, classes).
    :param images: (N, H, W, 3), in the range that the model takes.
    :param k: Number of classes.
    :param layer: Name of the layer to take the features from; None takes what is pooled.
    :return: (N, H, W) float32 in [0, 1]; zeros where a map is constant.
    :raises TypeError: If ``model`` is no Keras model.
    :raises ValueError: If it has no such head or layer, or ``k`` is out of range.
    """
    return _ActivationMap(model, layer)(tf.cast(images, tf.float32), check_integer("k", k, 1))


class PixelDeflection(ImageDefence):
    """
    Pixel deflection and wavelet denoising (WD+PD): see :func:`deflect_pixels` and :func:`wavelet_denoise`.

    Random and not differentiable: the identity on the way back (BPDA). That, with the mean over draws, took it to 0%
    (Athalye and Carlini, arXiv 1804.03286). Evaluate it with an attack through it.

    The presets count for images of 224 x 224 pixels; larger ones are left less changed by them.

    | Paper: "Deflecting Adversarial Attacks with Pixel Deflection", Prakash et al., arXiv 1801.08926.

    :param deflections: How many values or pixels of each image are replaced.
    :param window: Largest distance of a source, pixels.
    :param count: "value" or "pixel", see :func:`deflect_pixels`.
    :param rcam: Where the classifier looks and nothing is to be replaced. None for nowhere; an array (H, W) or
        (N, H, W) in [0, 1]; a Keras classifier, (N, H, W, 3) in ``clip_values`` -> (N, classes), see
        :func:`robust_class_activation_map`; or a function of such images to (N, H, W).
    :param rcam_classes: How many classes the map of a Keras classifier is made from.
    :param sigma: Of the denoising, for pixels in [0, 1]. See :func:`wavelet_denoise`.
    :param rescale_sigma: False for scikit-image's rule before 0.16, which the paper used; True for that since.
    :param seed: Seed of the draws; None takes one from the operating system.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param batch_size: Images that the Keras classifier of ``rcam`` sees at once (all of them inside a ``tf.function``
        that does not know their number).
    :param apply_fit: Deflect when the classifier is fitted.
    :param apply_predict: Deflect when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is of another kind or out of its range.
    :raises ModuleNotFoundError: If PyWavelets is missing.
    """

    gradient = "bpda"
    params = [  # noqa: RUF012
        "deflections",
        "window",
        "count",
        "rcam",
        "rcam_classes",
        "sigma",
        "rescale_sigma",
        "seed",
        "clip_values",
        "channels_first",
        "batch_size",
    ]

    def __init__(
        self,
        *,
        deflections: int = 200,
        window: int = 10,
        count: str = "value",
        rcam: np.ndarray | keras.Model | Callable[[tf.Tensor], Any] | None = None,
        rcam_classes: int = 5,
        sigma: float | None = 0.04,
        rescale_sigma: bool = False,
        seed: int | None = None,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        batch_size: int = 32,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.deflections = deflections
        self.window = window
        self.count = count
        self.rcam = rcam
        self.rcam_classes = rcam_classes
        self.sigma = sigma
        self.rescale_sigma = rescale_sigma
        self.seed = seed
        self.clip_values = clip_values
        self.channels_first = channels_first
        self.batch_size = batch_size
        self._activation_map: _ActivationMap | None = None
        self._check_params()
        self._rng = np.random.default_rng(self.seed)

    @classmethod
    def code(cls, **kwargs: Any) -> PixelDeflection:
        """
        The official ``main.py`` without a map: 200 values. The defaults.

        :param kwargs: Passed to the constructor.
        """
        return cls(**kwargs)

    @classmethod
    def notebook(cls, rcam: Any, **kwargs: Any) -> PixelDeflection:
        """
        The official ``demo.ipynb`` with a map: 1,500 rounds of three values, many of them skipped.

        :param rcam: The map, or the Keras classifier to make it from.
        :param kwargs: Passed to the constructor.
        """
        return cls(**{"rcam": rcam, "deflections": 1500, "count": "pixel", **kwargs})

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name. Setting ``seed`` starts its draws again.

        :raises ValueError: If a name is unknown or a value out of its range; nothing is changed then.
        """
        before = self._activation_map
        try:
            super().set_params(**kwargs)
        except Exception:
            self._activation_map = before
            raise
        if "seed" in kwargs:
            self._rng = np.random.default_rng(self.seed)

    def _check_params(self) -> None:
        super()._check_params()
        self.deflections = check_integer("deflections", self.deflections)
        self.window = check_integer("window", self.window)
        check_choice("count", self.count, _COUNTS)
        self.rcam_classes = check_integer("rcam_classes", self.rcam_classes)
        check_wavelet(self.sigma, self.rescale_sigma)
        self.rescale_sigma = check_bool("rescale_sigma", self.rescale_sigma)
        if self.seed is not None:
            self.seed = check_integer("seed", self.seed, 0)
        self.batch_size = check_batch_size(self.batch_size)
        self._activation_map = None
        if isinstance(self.rcam, keras.Model):
            self._activation_map = _ActivationMap(self.rcam, None)
            if self.rcam_classes > self._activation_map.classes:
                raise ValueError(
                    f"Expected rcam_classes to be at most {self._activation_map.classes}, the classes of the model. "
                    f"Received {self.rcam_classes!r}."
                )
        elif self.rcam is not None and not callable(self.rcam):
            self.rcam = self._checked_map(np.asarray(self.rcam))

    def _checked_map(self, maps: np.ndarray) -> np.ndarray:
        if maps.ndim not in (2, 3) or maps.dtype.kind not in "fiu":
            raise ValueError(
                "Expected rcam to be None, an array (H, W) or (N, H, W), a Keras model, or a function to one. "
                f"Received shape {maps.shape}, dtype {maps.dtype}."
            )
        maps = maps.astype(np.float32)
        if maps.size == 0 or not (maps.min() >= 0 and maps.max() <= 1):
            raise ValueError("Expected rcam to hold values from 0 to 1. Received others.")
        # Nothing could be replaced, and counting values would never end.
        if (maps.min(axis=(-2, -1)) >= 1).any():
            raise ValueError("Expected rcam below 1 somewhere in each map. Received a map of ones.")
        return maps

    def _check_type(self, x: tf.Tensor) -> None:
        super()._check_type(x)
        if 1 in (x.shape[2:] if self.channels_first else x.shape[1:3]):
            raise ValueError(f"Expected images of at least 2 x 2 pixels. Received shape {x.shape}.")

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        return straight_through(self._deflect_and_denoise, images, self._maps(images))

    def _maps(self, images: tf.Tensor) -> tf.Tensor:
        """(N, H, W), or (H, W) for all images."""
        if self.rcam is None:
            return tf.zeros(tf.shape(images)[:3])
        if isinstance(self.rcam, np.ndarray):
            return tf.constant(self.rcam)
        images = tf.stop_gradient(images)
        activation_map = self._activation_map
        if activation_map is None:
            return tf.cast(self.rcam(images), tf.float32)
        size = self.batch_size
        starts = range(0, images.shape[0] or 1, size)
        parts = [images] if len(starts) == 1 else [images[i : i + size] for i in starts]
        return tf.concat([activation_map(part, self.rcam_classes) for part in parts], axis=0)

    def _deflect_and_denoise(self, images: np.ndarray, maps: np.ndarray) -> np.ndarray:
        low, high = self.clip_values
        if callable(self.rcam):
            maps = self._checked_map(maps)
        try:
            maps = np.broadcast_to(maps, images.shape[:3])
        except ValueError as err:
            raise ValueError(
                f"Expected rcam (H, W) or (N, H, W) for images of shape {images.shape}. Received shape {maps.shape}."
            ) from err
        deflected = np.stack(
            [
                deflect_pixels(
                    image, rcam, self._rng, deflections=self.deflections, window=self.window, count=self.count
                )
                for image, rcam in zip(images, maps, strict=True)
            ]
        )
        denoised = wavelet_denoise((deflected - low) / (high - low), sigma=self.sigma, rescale_sigma=self.rescale_sigma)
        return np.clip(denoised * (high - low) + low, low, high)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_activation_map": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._check_params()
