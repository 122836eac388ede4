"""Wavelet denoising and super-resolution (WD+SR), the strongest of the paper's comparison defences."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from art_versatile import weights
from art_versatile._checks import (
    check_batch_size,
    check_bool,
    check_choice,
    check_integer,
    check_number,
    check_output_size,
)
from art_versatile._defence import ImageDefence, differentiated_as, in_chunks, straight_through
from art_versatile.baselines._edsr import NETWORKS, Bicubic, bicubic_resize
from art_versatile.baselines.wavelet import check_wavelet, wavelet_denoise

__all__ = ["SuperResolution"]

SHIPPED = {"small": "super_resolution_small"}
"""Names of networks -> names of the weights that ship with the package."""


class SuperResolution(ImageDefence):
    """
    Denoise by wavelets, then let a super-resolution network redraw the image at twice the size.

    The paper's network is EDSR; its weights are in no package. ``network="small"`` is a far smaller one of the same
    family, trained by this package (its card gives the figures); :func:`train_super_resolution
    <art_versatile.baselines.super_resolution_training.train_super_resolution>` trains EDSR-baseline itself.

    By default the classifier gets the large image, as in the paper, and has to take it
    (``input_shape=(None, None, 3)``). ``output_size="input"`` puts the defence before a classifier of one input size,
    but at a price: halving is what the network was trained to undo, so that resizing back all but undoes the network.
    On photographs of 256x256 it then changes a pixel by 0.002 of the range on average, without the denoising by 0.0008
    (bicubic: 0.009).

    The defence is a fixed transformation: expect a white-box attack through it to win.

    | Paper: "Image Super-Resolution as a Defense Against Adversarial Attacks", Mustafa et al., arXiv 1901.01677.

    :param network: "small" (ships); "bicubic", interpolation without any network, an ablation; the folder ``last``
        or ``best`` of a run of ``train_super_resolution``; or a Keras model (N, H, W, 3) -> (N, 2H, 2W, 3), pixels in
        [0, 1].
    :param sigma: Of :func:`~art_versatile.baselines.wavelet.wavelet_denoise`, for pixels in [0, 1]; None estimates it;
        0 leaves the denoising out.
    :param rescale_sigma: False for scikit-image's rule before 0.16, which the paper used; True for that since.
    :param jpeg_quality: 1 to 100: the denoised image is stored as JPEG and read again, as the official code does (a
        defence of its own, which the paper does not name). None leaves that out.
    :param output_size: None leaves twice the height and width of the input, as the paper; "input" resizes back; an
        integer or (height, width) to that. Resizing is bicubic with antialiasing.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param batch_size: Images enlarged at once; larger inputs go through in chunks, in a pass with a gradient too
        (except inside a ``tf.function`` that does not know the number of images: there a gradient holds every chunk).
    :param gradient: "exact" differentiates through the network and the resizing, and takes the denoising and JPEG,
        which have no gradient, for the identity; "bpda" takes the whole defence for the identity, or where its output
        is of another size for bicubic interpolation to it (arXiv 1802.00420).
    :param apply_fit: Defend when the classifier is fitted.
    :param apply_predict: Defend when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is of another kind or out of its range.
    :raises ModuleNotFoundError: If PyWavelets is missing and ``sigma`` is not 0.
    """

    params = [  # noqa: RUF012
        "network",
        "sigma",
        "rescale_sigma",
        "jpeg_quality",
        "output_size",
        "clip_values",
        "channels_first",
        "batch_size",
        "gradient",
    ]

    def __init__(
        self,
        network: str | Path | keras.Model = "small",
        *,
        sigma: float | None = 0.01,
        rescale_sigma: bool = False,
        jpeg_quality: int | None = None,
        output_size: int | tuple[int, int] | str | None = None,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        batch_size: int = 8,
        gradient: str = "exact",
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.network = network
        self.sigma = sigma
        self.rescale_sigma = rescale_sigma
        self.jpeg_quality = jpeg_quality
        self.output_size = output_size
        self.clip_values = clip_values
        self.channels_first = channels_first
        self.batch_size = batch_size
        self.gradient = gradient
        self.card: dict[str, Any] = {}
        self._model: Any = None
        self._loaded: str | Path | keras.Model | None = None
        self._compiled: Callable[[tf.Tensor], tf.Tensor] | None = None
        self._check_params()

    @property
    def model(self) -> keras.Model:
        """The Keras model that doubles the size of pixels in [0, 1]."""
        return self._model

    def _check_params(self) -> None:
        super()._check_params()
        self.rescale_sigma = check_bool("rescale_sigma", self.rescale_sigma)
        if self.sigma is not None:
            self.sigma = check_number("sigma", self.sigma, 0.0, 1.0)
        if self.sigma != 0:
            check_wavelet()  # that PyWavelets is there
        if self.jpeg_quality is not None:
            self.jpeg_quality = check_integer("jpeg_quality", self.jpeg_quality, most=100)
        self.output_size = check_output_size(self.output_size)
        self.batch_size = check_batch_size(self.batch_size)
        check_choice("gradient", self.gradient, ("exact", "bpda"))
        if self._model is None or self.network is not self._loaded:  # last: nothing can be refused after it
            self._model, self.card = _load(self.network)
            self._loaded, self._compiled = self.network, None

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        low, high = self.clip_values
        images = (images - low) / (high - low)
        if self.sigma != 0 or self.jpeg_quality is not None:
            images = straight_through(self._denoise, images)
        enlarge = self._enlarge_all
        images = (differentiated_as(enlarge, self._interpolate) if self.gradient == "bpda" else enlarge)(images)
        return tf.clip_by_value(images * (high - low) + low, low, high)

    def _denoise(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) in [0, 1], up to rounding -> the same."""
        images = np.clip(images, 0, 1)
        if self.sigma != 0:
            images = wavelet_denoise(images, sigma=self.sigma, rescale_sigma=self.rescale_sigma)
        if self.jpeg_quality is not None:
            images = np.stack([_jpeg(image, self.jpeg_quality) for image in images])
        return images

    def _new_size(self, images: tf.Tensor) -> tuple[Any, Any]:
        """Height and width of the output; tensors where they are not known."""
        if isinstance(self.output_size, int):
            return self.output_size, self.output_size
        if isinstance(self.output_size, tuple):
            return self.output_size
        factor = 2 if self.output_size is None else 1
        size = tf.shape(images)
        return tuple(factor * (known or size[axis]) for axis, known in ((1, images.shape[1]), (2, images.shape[2])))

    def _interpolate(self, images: tf.Tensor) -> tf.Tensor:
        """What stands for the defence on the way back."""
        return images if self.output_size == "input" else bicubic_resize(images, *self._new_size(images))

    def _enlarge(self, images: tf.Tensor) -> tf.Tensor:
        """One chunk through the network and the resizing; (N, H, W, 3) -> (N, H', W', 3), both in [0, 1]."""
        if self._compiled is None:
            model = self._model

            @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
            def compiled(images: tf.Tensor) -> tf.Tensor:
                return tf.cast(model(images, training=False), tf.float32)

            self._compiled = compiled
        large = self._compiled(images)
        n, height, width, _ = images.shape
        expected = tf.TensorShape((n, height and 2 * height, width and 2 * width, 3))
        if not large.shape.is_compatible_with(expected):
            raise ValueError(f"Expected a network that answers {expected} to {images.shape}. Received {large.shape}.")
        large = tf.clip_by_value(tf.ensure_shape(large, expected), 0, 1)
        if self.output_size is None:
            return large
        return tf.clip_by_value(bicubic_resize(large, *self._new_size(images)), 0, 1)

    def _enlarge_all(self, images: tf.Tensor) -> tf.Tensor:
        """The same for any number of images."""
        large = in_chunks(self._enlarge, images, self.batch_size)
        height, width = (length if isinstance(length, int) else None for length in self._new_size(images))
        return tf.ensure_shape(large, (images.shape[0], height, width, 3))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": None}


def _load(network: str | Path | keras.Model) -> tuple[keras.Model, dict[str, Any]]:
    """The Keras model and its card, which is empty where there is none."""
    if isinstance(network, keras.Model):
        return network, {}
    if network == "bicubic":
        return keras.Sequential([keras.Input((None, None, 3)), Bicubic()], name="bicubic"), {}
    if not isinstance(network, str | Path):
        raise TypeError(f"Expected network to be a name, a folder or a Keras model. Received {type(network).__name__}.")
    if network not in SHIPPED and not Path(network).is_dir():
        raise ValueError(
            f"Expected network to be one of {[*SHIPPED, 'bicubic']}, or a folder that train_super_resolution wrote. "
            f"Received {str(network)!r}."
        )
    if isinstance(network, str) and network in SHIPPED:
        return weights.load_shipped(SHIPPED[network], NETWORKS)
    return weights.load(Path(network), NETWORKS)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> what Pillow writes and reads, of the same dtype."""
    stream = io.BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), image.dtype) / 255
