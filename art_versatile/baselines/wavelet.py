"""Wavelet denoising, alone and as the step that pixel deflection and super-resolution share."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import tensorflow as tf

from art_versatile._checks import check_bool, check_choice, check_integer, check_number
from art_versatile._defence import ImageDefence, straight_through

__all__ = ["WaveletDenoising", "check_wavelet", "wavelet_denoise"]

_MODES = ("soft", "hard")
_METHODS = ("BayesShrink", "VisuShrink")


def check_wavelet(
    sigma: Any = None, rescale_sigma: Any = False, mode: Any = "soft", method: Any = "BayesShrink", levels: Any = None
) -> None:
    """
    Check the parameters of :func:`wavelet_denoise`, and that PyWavelets is there.

    :param sigma: A number from 0 to 1, or None.
    :param rescale_sigma: True or False.
    :param mode: "soft" or "hard".
    :param method: "BayesShrink" or "VisuShrink".
    :param levels: An integer of at least 1, or None.
    :raises ValueError: If one is none of these.
    :raises ModuleNotFoundError: If PyWavelets is missing.
    """
    if sigma is not None:
        check_number("sigma", sigma, 0.0, 1.0)
    check_bool("rescale_sigma", rescale_sigma)
    check_choice("mode", mode, _MODES)
    check_choice("method", method, _METHODS)
    if levels is not None:
        check_integer("levels", levels)
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
    :raises ValueError: If a parameter is of another kind or out of its range.
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


class WaveletDenoising(ImageDefence):
    """
    Wavelet denoising: shrink what is small in the wavelet domain, where noise is and photographs are not.

    The first half of the WD+SR and the second half of the WD+PD comparison defence, as a defence of its own. On the way
    back it is the identity (BPDA), which is also what breaks it: a fixed transformation that hides the gradient falls
    to Athalye et al., arXiv 1802.00420. Evaluate it with an attack through it.

    | Papers: "Deflecting Adversarial Attacks with Pixel Deflection", Prakash et al., arXiv 1801.08926 (sigma 0.04);
        "Image Super-Resolution as a Defense Against Adversarial Attacks", Mustafa et al., arXiv 1901.01677 (0.01).

    :param sigma: Standard deviation of the noise, for pixels in [0, 1] whatever ``clip_values`` are; None estimates it.
    :param rescale_sigma: False for scikit-image's rule before 0.16, which both papers used; True for that since.
    :param mode: "soft" or "hard".
    :param method: "BayesShrink" or "VisuShrink".
    :param levels: Levels of the decomposition, or None.
    :param clip: Keep the result in ``clip_values``; without it denoising overshoots by a little.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param apply_fit: Denoise when the classifier is fitted.
    :param apply_predict: Denoise when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is of another kind or out of its range.
    :raises ModuleNotFoundError: If PyWavelets is missing.
    """

    gradient = "bpda"
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
