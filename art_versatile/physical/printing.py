"""PrintAndPhotograph: a picture is printed on paper, photographed, and cut out of the photograph again."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from art_versatile._checks import check_batch_size, check_integer, check_number
from art_versatile._defence import ImageDefence, straight_through

__all__ = ["PrintAndPhotograph"]

# What may be stated at all: beyond it the picture folds over, the tone curve turns round, or nothing is left to see.
_LIMITS = {
    "scale": (0.25, 4.0),
    "dot_gain": (-0.25, 0.25),
    "ink": (0.0, 0.5),
    "paper": (0.5, 1.0),
    "print_blur": (0.0, 10.0),
    "defocus": (0.0, 10.0),
    "exposure": (0.1, 4.0),
    "light_colour": (0.1, 4.0),
    "flare": (0.0, 0.5),
    "shot_noise": (0.0, 1.0),
    "read_noise": (0.0, 1.0),
    "gamma": (0.25, 4.0),
}
_TOE = 0.05  # a bare power has an infinite slope at black
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # x, y; clockwise from the upper left

# The columns of the draws. They stay where they are whatever is switched off.
_COLUMNS = {
    "scale": 1,
    "tilt": 8,
    "registration": 8,
    "dot_gain": 1,
    "ink": 3,
    "paper": 3,
    "print_blur": 1,
    "defocus": 1,
    "exposure": 1,
    "light_colour": 3,
    "flare": 1,
    "shot_noise": 1,
    "read_noise": 1,
    "gamma": 1,
    "jpeg_quality": 1,
}


class PrintAndPhotograph(ImageDefence):
    """
    A printer, a camera and the cutting out, as one random transform, drawn anew for each image of each call.

    In this order: the printer's tone (dot gain) and its ink and paper; blur, of the spreading ink and of the lens; the
    perspective of a camera held by hand, sampled at the camera's resolution, white paper around the picture; strength
    and colour of the light, flare; shot and read noise, saturation; the camera's tone curve; JPEG; the perspective
    undone, but for an error, at the size of the picture. Blur, light and noise act on linear light (the sRGB curve
    undone), as they do in a camera. An attack goes through it as through a random defence: by the mean over draws
    (EOT).

    Differentiable: the gradient is that of the very draw that the images went through, exact but for JPEG (and the 8
    bits that it stores), which is the identity on the way back (BPDA, Athalye et al., arXiv 1802.00420). Where the
    sensor saturates, it is zero. JPEG runs as a NumPy function: XLA compiles it with ``jpeg_quality=None`` only.

    Not covered: halftone dots, uneven light, creases, the lens's distortion, moving hands, the phone's sharpening and
    denoising. Ranges marked "assumed" have no source; those of EOT are its "distribution of transformations".

    | Kurakin et al., "Adversarial examples in the physical world", arXiv 1607.02533 (print, photograph, cut out by
      corner marks, warp back; contrast, brightness, blur, noise, JPEG one by one).
    | Athalye et al., "Synthesizing Robust Adversarial Examples" (EOT), arXiv 1707.07397.
    | Eykholt et al., "Robust Physical-World Attacks on Deep Learning Visual Classification" (RP2), arXiv 1707.08945
      (perspective, distance, colours that a printer cannot print).

    Every range is (lowest, highest), drawn from uniformly; "each channel" draws three times.

    :param scale: Camera pixels for one pixel of the picture. EOT's 2D case: 0.9 to 1.4.
    :param tilt: Perspective: each corner moves by up to so much of the side, in x and in y, 0 to 0.2. Assumed.
    :param registration: How far each corner is missed when the perspective is undone, share of the side, 0 to 0.1.
        Assumed; half a percent is 1 pixel of 224.
    :param dot_gain: Ink coverage added at 50% coverage, a parabola from 0 to 100% (the tone value increase of ISO
        12647-2, 0.1 to 0.2 without correction; a driver corrects most). Assumed.
    :param ink: Reflectance of the darkest black, share of light, each channel. Assumed.
    :param paper: Reflectance of white paper, share of light, each channel. Assumed.
    :param print_blur: Standard deviation of the ink's spread, in pixels of the picture. Assumed.
    :param defocus: Standard deviation of the lens's blur, in pixels of the picture. Assumed.
    :param exposure: Factor on the light. Assumed; EOT's 3D prints: 0.5 to 2.0, of stored values.
    :param light_colour: Factor on the light, each channel. Assumed; EOT's 3D prints: 0.7 to 1.3, of stored values.
    :param flare: Light added everywhere, share of full scale. Assumed; EOT's 3D prints: -0.15 to 0.15, of stored
        values.
    :param shot_noise: Standard deviation at full scale, share of it; it grows with the root of the light. Assumed; EOT:
        0 to 0.1, of stored values, at any brightness.
    :param read_noise: Standard deviation in the dark, share of full scale. Assumed.
    :param gamma: Exponent of the camera's tone curve on stored values. Assumed.
    :param jpeg_quality: Pillow's, two integers from 1 to 100; None stores no JPEG. Assumed; Kurakin et al. go down to
        10.
    :param seed: Seed of the draws; None takes one from the operating system.
    :param clip_values: Minimum and maximum of the pixels.
    :param channels_first: Images are (N, 3, H, W) instead of (N, H, W, 3).
    :param batch_size: Images at once (all of them inside a ``tf.function`` that does not know their number).
    :param apply_fit: Apply it when the classifier is fitted.
    :param apply_predict: Apply it when the classifier predicts, and in its gradients.
    :raises ValueError: If a parameter is not as expected.
    """

    params = [  # noqa: RUF012
        "scale",
        "tilt",
        "registration",
        "dot_gain",
        "ink",
        "paper",
        "print_blur",
        "defocus",
        "exposure",
        "light_colour",
        "flare",
        "shot_noise",
        "read_noise",
        "gamma",
        "jpeg_quality",
        "seed",
        "clip_values",
        "channels_first",
        "batch_size",
    ]

    def __init__(
        self,
        *,
        scale: tuple[float, float] = (0.9, 1.4),
        tilt: float = 0.1,
        registration: float = 0.005,
        dot_gain: tuple[float, float] = (-0.05, 0.15),
        ink: tuple[float, float] = (0.0, 0.04),
        paper: tuple[float, float] = (0.85, 1.0),
        print_blur: tuple[float, float] = (0.0, 0.7),
        defocus: tuple[float, float] = (0.0, 0.7),
        exposure: tuple[float, float] = (0.8, 1.2),
        light_colour: tuple[float, float] = (0.9, 1.1),
        flare: tuple[float, float] = (0.0, 0.03),
        shot_noise: tuple[float, float] = (0.0, 0.03),
        read_noise: tuple[float, float] = (0.0, 0.005),
        gamma: tuple[float, float] = (0.8, 1.25),
        jpeg_quality: tuple[int, int] | None = (70, 95),
        seed: int | None = None,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = False,
        batch_size: int = 32,
        apply_fit: bool = False,
        apply_predict: bool = True,
    ) -> None:
        super().__init__(apply_fit=apply_fit, apply_predict=apply_predict)
        self.scale = scale
        self.tilt = tilt
        self.registration = registration
        self.dot_gain = dot_gain
        self.ink = ink
        self.paper = paper
        self.print_blur = print_blur
        self.defocus = defocus
        self.exposure = exposure
        self.light_colour = light_colour
        self.flare = flare
        self.shot_noise = shot_noise
        self.read_noise = read_noise
        self.gamma = gamma
        self.jpeg_quality = jpeg_quality
        self.seed = seed
        self.clip_values = clip_values
        self.channels_first = channels_first
        self.batch_size = batch_size
        self._check_params()
        # A generator of TensorFlow's: a tf.function draws from it anew at every call.
        self._generator = _generator(self.seed)

    @classmethod
    def perfect(cls, **kwargs: Any) -> PrintAndPhotograph:
        """
        A printer and a camera that change nothing, to switch single effects on.

        :param kwargs: Passed to the constructor.
        """
        nothing: dict[str, Any] = {
            **dict.fromkeys(("scale", "paper", "exposure", "light_colour", "gamma"), (1.0, 1.0)),
            **dict.fromkeys(("dot_gain", "ink", "print_blur", "defocus", "flare"), (0.0, 0.0)),
            **dict.fromkeys(("shot_noise", "read_noise"), (0.0, 0.0)),
            "tilt": 0.0,
            "registration": 0.0,
            "jpeg_quality": None,
        }
        return cls(**{**nothing, **kwargs})

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name. Setting ``seed`` starts its draws again.

        :raises ValueError: If a name is unknown or a value not as expected; nothing is changed then.
        """
        super().set_params(**kwargs)
        if "seed" in kwargs:
            self._generator.reset(_generator(self.seed).state)  # in place: a trace holds on to the generator

    def restart(self, seed: int) -> None:
        """
        Start its draws again from another seed than its own, which stays stated; what was traced serves on.

        :param seed: The seed, at least 0.
        """
        self._generator.reset(_generator(check_integer("seed", seed, 0)).state)  # in place, as above

    def _check_params(self) -> None:
        super()._check_params()
        for name, limits in _LIMITS.items():
            setattr(self, name, _range(name, getattr(self, name), *limits))
        self.tilt = check_number("tilt", self.tilt, 0, 0.2)
        self.registration = check_number("registration", self.registration, 0, 0.1)
        if self.jpeg_quality is not None:
            _range("jpeg_quality", self.jpeg_quality, 1, 100)
            low, high = self.jpeg_quality
            self.jpeg_quality = check_integer("jpeg_quality", low), check_integer("jpeg_quality", high)
        if self.seed is not None:
            self.seed = check_integer("seed", self.seed, 0)
        self.batch_size = check_batch_size(self.batch_size)

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        count, size = images.shape[0], self.batch_size
        # All draws at once: they do not depend on the chunks.
        draws = self._generator.uniform((tf.shape(images)[0], sum(_COLUMNS.values())))
        seeds = self._generator.uniform_full_int((tf.shape(images)[0], 2), tf.int32)
        low, high = self.clip_values
        images = (images - low) / (high - low)
        if count is None or count <= size:
            photographs = self._photograph(images, draws, seeds)
        else:
            parts = [slice(i, i + size) for i in range(0, count, size)]
            photographs = tf.concat([self._photograph(images[i], draws[i], seeds[i]) for i in parts], axis=0)
        # Interpolation may leave the range by a rounding error; clipping alone would cut the gradient there.
        photographs += tf.stop_gradient(tf.clip_by_value(photographs, 0.0, 1.0) - photographs)
        return low + photographs * (high - low)

    def _photograph(self, images: tf.Tensor, draws: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """
        Print, photograph, cut out.

        :param images: (n, H, W, 3) in [0, 1].
        :param draws: (n, 35) uniform in [0, 1), see ``_COLUMNS``.
        :param seeds: (n, 2) int32, of the noise.
        :return: (n, H, W, 3) in [0, 1].
        """
        drawn = dict(zip(_COLUMNS, tf.split(draws, list(_COLUMNS.values()), axis=1), strict=True))

        def value(name: str) -> tf.Tensor:
            low, high = getattr(self, name)
            return (low + (high - low) * drawn[name])[:, None, None, :]  # (n, 1, 1, 1 or 3)

        reach = math.ceil(3 * math.hypot(self.print_blur[1], self.defocus[1]))
        border = 2 * reach + 1
        printed = tf.pad(images, [[0, 0], [border, border], [border, border], [0, 0]], constant_values=1.0)
        coverage = 1.0 - _linear(printed)
        coverage += 4.0 * value("dot_gain") * coverage * (1.0 - coverage)
        light = value("ink") + (value("paper") - value("ink")) * (1.0 - coverage)
        variance = value("print_blur") ** 2 + value("defocus") ** 2
        light = _blurred(light, variance[:, 0, 0, 0], reach)

        corners, canvas = self._corners(images, drawn)
        light = _sampled(light, tf.linalg.inv(_homography(corners)), canvas, tf.shape(images)[1:3], reach + 1)
        light = light * value("exposure") * value("light_colour") + value("flare")
        stored = _stored(self._sensed(light, value("shot_noise"), value("read_noise"), seeds))
        if self.gamma != (1.0, 1.0):
            gamma = value("gamma")
            stored = ((stored + _TOE) ** gamma - _TOE**gamma) / ((1.0 + _TOE) ** gamma - _TOE**gamma)
        if self.jpeg_quality is not None:
            low, high = self.jpeg_quality
            quality = tf.cast(low + tf.floor(drawn["jpeg_quality"][:, 0] * (high - low + 1)), tf.int32)
            stored = straight_through(_jpeg, stored, quality)

        missed = (2.0 * tf.cast(drawn["registration"], tf.float64) - 1.0) * self.registration
        side = tf.reduce_max(corners, axis=1, keepdims=True) - tf.reduce_min(corners, axis=1, keepdims=True)
        found = _homography(corners + tf.reshape(missed, (-1, 4, 2)) * side)
        return tf.ensure_shape(_sampled(stored, found, tf.shape(images)[1:3], canvas, 0), images.shape)

    def _corners(self, images: tf.Tensor, drawn: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(n, 4, 2): where the picture's corners are in the photograph, share of its width and height; its (H, W)."""
        largest = self.scale[1] * (1.0 + 2.0 * self.tilt)
        sides = tf.cast(tf.shape(images)[1:3], tf.float64)
        canvas = tf.cast(tf.math.ceil(sides * largest - 1e-6), tf.int32)
        low, high = self.scale
        scale = low + (high - low) * tf.cast(drawn["scale"], tf.float64)
        moved = tf.reshape(2.0 * tf.cast(drawn["tilt"], tf.float64) - 1.0, (-1, 4, 2)) * self.tilt
        share = tf.reverse(sides / tf.cast(canvas, tf.float64), [0])  # x, y
        return 0.5 + (_CORNERS - 0.5 + moved) * scale[:, :, None] * share, canvas

    def _sensed(self, light: tf.Tensor, shot: tf.Tensor, read: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        if max(self.shot_noise[1], self.read_noise[1]) > 0:
            shape = tf.shape(light)[1:]
            drawn = tf.map_fn(lambda s: tf.random.stateless_normal(shape, s), seeds, fn_output_signature=tf.float32)
            light += drawn * tf.sqrt(shot**2 * light + read**2 + 1e-8)
        return tf.clip_by_value(light, 0.0, 1.0)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_generator": self._generator.state.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._generator = tf.random.Generator.from_state(state["_generator"], alg="philox")


def _linear(stored: tf.Tensor) -> tf.Tensor:
    """The light of stored values, both in [0, 1] (IEC 61966-2-1)."""
    curve = ((tf.maximum(stored, 0.04045) + 0.055) / 1.055) ** 2.4
    return tf.where(stored <= 0.04045, stored / 12.92, curve)


def _stored(light: tf.Tensor) -> tf.Tensor:
    """The inverse of :func:`_linear`."""
    curve = 1.055 * tf.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return tf.where(light <= 0.0031308, light * 12.92, curve)


def _blurred(images: tf.Tensor, variance: tf.Tensor, reach: int) -> tf.Tensor:
    """Blur each image with a Gaussian of its own variance (n,), in pixels; ``reach`` pixels are lost at each edge."""
    if reach == 0:
        return images
    places = tf.range(-reach, reach + 1, dtype=tf.float32)
    taps = tf.exp(-0.5 * places**2 / tf.maximum(variance, 1e-6)[:, None])
    taps = (taps / tf.reduce_sum(taps, axis=1, keepdims=True))[:, :, None, None, None]
    height, width = tf.shape(images)[1] - 2 * reach, tf.shape(images)[2] - 2 * reach
    images = tf.add_n([taps[:, k] * images[:, k : k + height] for k in range(2 * reach + 1)])
    return tf.add_n([taps[:, k] * images[:, :, k : k + width] for k in range(2 * reach + 1)])


def _homography(corners: tf.Tensor) -> tf.Tensor:
    """(n, 3, 3): the projective map from the unit square to the quadrilaterals with these corners (n, 4, 2)."""
    p0, p1, p2, p3 = tf.unstack(corners, axis=1)
    (sx, sy), (ax, ay), (bx, by) = (tf.unstack(v, axis=1) for v in (p0 - p1 + p2 - p3, p1 - p2, p3 - p2))
    determinant = ax * by - ay * bx
    g, h = (sx * by - sy * bx) / determinant, (ax * sy - ay * sx) / determinant
    along, down = p1 - p0 + g[:, None] * p1, p3 - p0 + h[:, None] * p3
    rows = [tf.stack([along[:, i], down[:, i], p0[:, i]], axis=1) for i in (0, 1)]
    return tf.stack([*rows, tf.stack([g, h, tf.ones_like(g)], axis=1)], axis=1)


def _sampled(images: tf.Tensor, matrices: tf.Tensor, shape: tf.Tensor, size: tf.Tensor, border: int) -> tf.Tensor:
    """
    Warp, bilinear; beyond the edge the edge goes on.

    :param images: (n, size + 2 border, 3): what is sampled.
    :param matrices: (n, 3, 3), float64: from places in the result to places in what is sampled (without the border),
        both as shares of width and height.
    :param shape: Height and width of the result.
    :param size: Height and width of what is sampled, without the border.
    :param border: Pixels around it.
    :return: (n, height, width, 3).
    """
    y, x = ((tf.range(shape[i], dtype=tf.float64) + 0.5) / tf.cast(shape[i], tf.float64) for i in (0, 1))
    x, y = tf.meshgrid(x, y)
    places = tf.einsum("nij,pqj->npqi", matrices, tf.stack([x, y, tf.ones_like(x)], axis=-1))
    padded = size + 2 * border

    def axis(share: tf.Tensor, i: int) -> tuple[tf.Tensor, tf.Tensor]:
        last = tf.cast(padded[i] - 1, tf.float64)
        place = tf.clip_by_value(share * tf.cast(size[i], tf.float64) - 0.5 + border, 0.0, last)
        before = tf.minimum(tf.floor(place), tf.maximum(last - 1.0, 0.0))
        return tf.cast(before, tf.int32), tf.cast(place - before, tf.float32)[..., None]

    top, down = axis(places[..., 1] / places[..., 2], 0)
    left, right = axis(places[..., 0] / places[..., 2], 1)
    pixels = tf.reshape(images, (tf.shape(images)[0], -1, 3))

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(pixels, row * padded[1] + column, batch_dims=1)

    below, beside = tf.minimum(top + 1, padded[0] - 1), tf.minimum(left + 1, padded[1] - 1)
    upper = at(top, left) * (1.0 - right) + at(top, beside) * right
    lower = at(below, left) * (1.0 - right) + at(below, beside) * right
    return upper * (1.0 - down) + lower * down


def _jpeg(images: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    def stored(image: np.ndarray, quality: int) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
        with Image.open(stream) as file:
            return np.asarray(file, np.float32) / 255

    return np.stack([stored(image, int(quality)) for image, quality in zip(images, qualities, strict=True)])


def _generator(seed: int | None) -> tf.random.Generator:
    if seed is None:
        return tf.random.Generator.from_non_deterministic_state(alg="philox")
    return tf.random.Generator.from_seed(seed, alg="philox")


def _range(name: str, value: Any, least: float, most: float) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"Expected {name} to be two numbers (lowest, highest). Received {value!r}.")
    low, high = (check_number(name, number, least, most) for number in value)
    if low > high:
        raise ValueError(f"Expected {name} to be (lowest, highest) with lowest <= highest. Received {value!r}.")
    return low, high
