"""
Wavelet denoising, alone and as the step that pixel deflection and super-resolution share.

Also here: what every comparison defence does alike (:class:`ImageDefence`), and the identity on the way back through
an operation that TensorFlow cannot differentiate (:func:`straight_through`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2

from art_versatile._checks import check_bool, check_choice, check_clip_values, check_images

__all__ = [
    "ImageDefence",
    "WaveletDenoising",
    "check_integer",
    "check_number",
    "check_wavelet",
    "straight_through",
    "wavelet_denoise",
]

_MODES = ("soft", "hard")
_METHODS = ("BayesShrink", "VisuShrink")


def check_integer(name: str, value: Any, least: int) -> int:
    """
    Check an integer.

    :param name: Its name, for the message.
    :param value: An integer of at least ``least``.
    :param least: The smallest one allowed.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"Expected {name} to be an integer of at least {least}. Received {value!r}.")
    return int(value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """
    Check a number.

    :param name: Its name, for the message.
    :param value: A number from ``low`` to ``high``.
    :param low: The smallest one allowed.
    :param high: The largest one allowed.
    :return: It.
    :raises ValueError: If it is anything else.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(f"Expected {name} to be a number from {low:g} to {high:g}. Received {value!r}.")
    return float(value)


def check_wavelet(
    sigma: Any = None, rescale_sigma: Any = False, mode: Any = "soft", method: Any = "BayesShrink", levels: Any = None
) -> None:
    """
    Check the parameters of :func:`wavelet_denoise`, and that PyWavelets is there.

    :param sigma: See there, also the others.
    :param rescale_sigma: True or False.
    :param mode: "soft" or "hard".
    :param method: "BayesShrink" or "VisuShrink".
    :param levels: An integer of at least 1, or None.
    :raises ValueError: If one is not as expected.
    :raises ModuleNotFoundError: If PyWavelets is missing.
    """
    if sigma is not None:
        check_number("sigma", sigma, 0.0, 1.0)
    check_bool("rescale_sigma", rescale_sigma)
    check_choice("mode", mode, _MODES)
    check_choice("method", method, _METHODS)
    if levels is not None:
        check_integer("levels", levels, 1)
    if importlib.util.find_spec("pywt") is None:
        raise ModuleNotFoundError(
            "Expected the package PyWavelets (pip install PyWavelets), which scikit-image denoises with. Received an "
            "environment without it."
        )


def wavelet_denoise(
    images: np.ndarray,
    *,
    sigma: float | None = 0.04,
    rescale_sigma: bool = False,
    mode: str = "soft",
    method: str = "BayesShrink",
    levels: int | None = None,
    clip: bool = True,
) -> np.ndarray:
    """
    Shrink the wavelet coefficients (db1) of the YCbCr planes of each image, by ``skimage.restoration.denoise_wavelet``.

    **Which sigma.** The official codes of pixel deflection (sigma 0.04) and of super-resolution (0.01) were written for
    scikit-image before 0.16: each plane is stretched to [0, 1], sigma is applied to that, and the result is clipped.
    That is ``rescale_sigma=False`` here. Since 0.16 scikit-image converts sigma into YCbCr and stretches it with the
    plane: ``rescale_sigma=True``. scikit-image's own ``rescale_sigma=False`` is neither: it still divides sigma by the
    width of the plane (about 200), which leaves the image all but as it was.

    :param images: (N, H, W, 3) floats in [0, 1].
    :param sigma: Standard deviation of the noise; None estimates it from the finest coefficients of each plane.
    :param rescale_sigma: Which rule, see above.
    :param mode: "soft" or "hard" thresholding.
    :param method: "BayesShrink" (a threshold for each sub-band) or "VisuShrink" (one for all).
    :param levels: Levels of the decomposition; None takes three fewer than there can be, and at least one.
    :param clip: Clip the result to [0, 1].
    :return: The shape and dtype of ``images``.
    :raises ValueError: If a parameter is not as expected.
    :raises ModuleNotFoundError: If PyWavelets is missing.
    """
    from skimage.restoration import denoise_wavelet

    check_wavelet(sigma, rescale_sigma, mode, method, levels)
    shrink = {"mode": mode, "method": method, "wavelet_levels": levels}
    denoised = np.empty_like(images)
    for index, image in enumerate(images):
        if rescale_sigma:
            shrunk = denoise_wavelet(image, sigma, convert2ycbcr=True, channel_axis=-1, **shrink)
            denoised[index] = _or_unchanged(shrunk, image)
        else:
            denoised[index] = _by_the_old_rule(image, sigma, shrink)
    return np.clip(denoised, 0, 1, out=denoised) if clip else denoised


def _by_the_old_rule(image: np.ndarray, sigma: float | None, shrink: dict[str, Any]) -> np.ndarray:
    """``denoise_wavelet`` of scikit-image 0.13 to 0.15 with ``convert2ycbcr``, but for its last clipping."""
    from skimage.color import rgb2ycbcr, ycbcr2rgb
    from skimage.restoration import denoise_wavelet

    planes = rgb2ycbcr(image)
    for channel in range(3):
        plane = planes[..., channel]
        low, width = plane.min(), np.ptp(plane)
        if width > 0:  # a constant plane has no noise; the old code divided by zero
            plane = (plane - low) / width
            shrunk = _or_unchanged(denoise_wavelet(plane, sigma, **shrink), plane)
            planes[..., channel] = np.clip(shrunk, 0, 1) * width + low
    return ycbcr2rgb(planes)


def _or_unchanged(shrunk: np.ndarray, original: np.ndarray) -> np.ndarray:
    """scikit-image estimates NaN for the noise of blocks of equal pixels, where there is none."""
    return shrunk if np.isfinite(shrunk).all() else original


def straight_through(function: Callable[..., np.ndarray], images: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """
    Run a NumPy function; on the way back it is the identity in ``images`` (BPDA, Athalye et al., arXiv 1802.00420).

    Works in a ``tf.GradientTape`` and in a ``tf.function``, where it runs at every call; XLA cannot compile it.

    :param function: Arrays -> an array of the shape and dtype of the first.
    :param images: (N, H, W, C).
    :param others: Further arguments; no gradient reaches them.
    :return: The shape and dtype of ``images``.
    """

    @tf.custom_gradient
    def through(images: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        result = tf.numpy_function(function, [images, *others], images.dtype)
        return tf.ensure_shape(result, images.shape), lambda upstream: upstream

    return through(images)


class ImageDefence(PreprocessorTensorFlowV2):
    """
    What the comparison defences do alike: the checks, the layout, the parameters.

    A subclass implements :meth:`_defend` and lists its parameters in ``params``, each an attribute of that name.

    :param apply_fit: Apply the defence when the classifier is fitted.
    :param apply_predict: Apply it when the classifier predicts, and in its gradients.
    """

    clip_values: tuple[float, float]
    channels_first: bool

    def __init__(self, *, apply_fit: bool, apply_predict: bool) -> None:
        super().__init__(is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        """(N, H, W, 3) float32 in ``clip_values`` -> (N, H', W', 3) of the same kind."""
        raise NotImplementedError

    def forward(self, x: tf.Tensor, y: Any = None) -> tuple[tf.Tensor, Any]:
        """
        Defend.

        :param x: Floats in ``clip_values``, (N, H, W, 3) or with ``channels_first`` (N, 3, H, W).
        :param y: Passed through.
        :return: The defended images, of the same dtype, layout and range, and ``y``.
        :raises ValueError: If the shape is another, or (outside ``tf.function``) a value is NaN or out of range.
        :raises TypeError: If the dtype is not floating.
        """
        x = tf.convert_to_tensor(x)
        self._check_tensor(x)
        images = tf.cast(x, tf.float32)
        if self.channels_first:
            images = tf.transpose(images, (0, 2, 3, 1))
        images = self._defend(images)
        if self.channels_first:
            images = tf.transpose(images, (0, 3, 1, 2))
        return tf.cast(images, x.dtype), y

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        """
        Defend an array; see :meth:`forward`.

        :param x: Floats in ``clip_values``.
        :param y: Passed through, whatever it is.
        """
        x = check_images(x, self.clip_values, channels_first=self.channels_first)
        return self.forward(x)[0].numpy(), y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """
        Vector-Jacobian product, of one new draw where the defence is random.

        ART's own takes every output of another size than the input for gradients by class.

        :param x: Images.
        :param grad: Gradients with respect to the output, (N, ...) or, by class, (N, K, ...): one draw for all classes.
        :return: Gradients with respect to ``x``: its shape, or (N, K, ...).
        """
        images, upstream = tf.convert_to_tensor(x, tf.float32), tf.convert_to_tensor(grad, tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            defended = self.estimate_forward(images)
        if upstream.shape.rank == images.shape.rank:
            return tape.gradient(defended, images, upstream).numpy()
        by_class = [tape.gradient(defended, images, upstream[:, k]).numpy() for k in range(upstream.shape[1])]
        return np.stack(by_class, axis=1)

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name.

        :raises ValueError: If a name is unknown or a value not as expected; nothing is changed then.
        """
        unknown = sorted(set(kwargs) - set(self.params))
        if unknown:
            raise ValueError(f"Expected parameters among {self.params}. Received {unknown}.")
        before = {key: getattr(self, key) for key in kwargs}
        try:
            super().set_params(**kwargs)
        except Exception:
            for key, value in before.items():
                setattr(self, key, value)
            raise

    def _check_params(self) -> None:
        self.clip_values = check_clip_values(self.clip_values)
        self.channels_first = check_bool("channels_first", self.channels_first)

    def _check_tensor(self, x: tf.Tensor) -> None:
        if hasattr(x, "numpy"):
            check_images(x.numpy(), self.clip_values, channels_first=self.channels_first)
            return
        # Inside tf.function only the type is known, not the values.
        layout = "(N, 3, H, W)" if self.channels_first else "(N, H, W, 3)"
        if not x.dtype.is_floating:
            raise TypeError(f"Expected x to be an array of floats, {layout}. Received dtype {x.dtype.name}.")
        if x.shape.rank != 4 or x.shape[1 if self.channels_first else 3] not in (3, None):
            raise ValueError(f"Expected x to be a batch of images {layout}. Received shape {x.shape}.")

    def __repr__(self) -> str:
        parts = [f"{name}={_short(getattr(self, name))}" for name in self.params]
        parts += [f"apply_fit={self.apply_fit}", f"apply_predict={self.apply_predict}"]
        return f"{type(self).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    return repr(value) if isinstance(value, bool | int | float | str | tuple | None) else f"<{type(value).__name__}>"


class WaveletDenoising(ImageDefence):
    """
    Wavelet denoising: shrink what is small in the wavelet domain, where noise is and photographs are not.

    The first half of the WD+SR and the second half of the WD+PD comparison defence, as a defence of its own. On the way
    back it is the identity (BPDA), which is also what breaks it: a fixed transformation that hides the gradient falls
    to Athalye et al., arXiv 1802.00420. Evaluate it with an attack through it.

    | Papers: "Deflecting Adversarial Attacks with Pixel Deflection", Prakash et al., arXiv 1801.08926 (sigma 0.04);
        "Image Super-Resolution as a Defense Against Adversarial Attacks", Mustafa et al., arXiv 1901.01677 (0.01).

    :param sigma: See :func:`wavelet_denoise`, for pixels in [0, 1] whatever ``clip_values`` are.
    :param rescale_sigma: False for scikit-image's rule before 0.16, which both papers used; True for that since.
    :param mode: "soft" or "hard".
    :param method: "BayesShrink" or "VisuShrink".
    :param levels: Levels of the decomposition, or None.
    :param clip: Keep the result in ``clip_values``; without it denoising overshoots by a little.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param apply_fit: Denoise when the classifier is fitted.
    :param apply_predict: Denoise when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is not as expected.
    :raises ModuleNotFoundError: If PyWavelets is missing.
    """

    params = ["sigma", "rescale_sigma", "mode", "method", "levels", "clip", "clip_values", "channels_first"]  # noqa: RUF012

    def __init__(
        self,
        sigma: float | None = 0.04,
        *,
        rescale_sigma: bool = False,
        mode: str = "soft",
        method: str = "BayesShrink",
        levels: int | None = None,
        clip: bool = True,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.sigma = sigma
        self.rescale_sigma = rescale_sigma
        self.mode = mode
        self.method = method
        self.levels = levels
        self.clip = clip
        self.clip_values = clip_values
        self.channels_first = channels_first
        self._check_params()

    def _check_params(self) -> None:
        super()._check_params()
        check_wavelet(self.sigma, self.rescale_sigma, self.mode, self.method, self.levels)
        self.clip = check_bool("clip", self.clip)

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        return straight_through(self._denoise, images)

    def _denoise(self, images: np.ndarray) -> np.ndarray:
        low, high = self.clip_values
        denoised = wavelet_denoise(
            (images - low) / (high - low),
            sigma=self.sigma,
            rescale_sigma=self.rescale_sigma,
            mode=self.mode,
            method=self.method,
            levels=self.levels,
            clip=self.clip,
        )
        denoised = denoised * (high - low) + low
        return np.clip(denoised, low, high) if self.clip else denoised  # the last rounding of the scaling
