"""
One training step of each preset, and purification: images/s, floating-point work, share of this machine's peak.

``python tests/benchmarks/bench_training.py [--quick] [--precision float32 mixed_bfloat16] [--architectures]`` prints
Markdown tables. A step is compared with the same step written as in TensorFlow's pix2pix tutorial (both features inside
the tape, three separate calls), in turn, each from the same weights; that both give the same losses is checked first.

Work is counted in the traced graph: two operations a multiply-add of every convolution (dense, transposed, depthwise)
and matrix product, forward, with respect to inputs and with respect to kernels; nothing else. The peak is the best rate
that a 3x3 convolution of this TensorFlow reaches here in the same precision, over four shapes. The perceptual loss is
over EfficientNet-Lite0 for both presets, as its weights are there offline; VGG19 would weigh more.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from art_versatile.classifiers import efficientnet_lite_model
from art_versatile.pix2pix import PerceptualLoss, Pix2Pix, build_generator, patchgan
from art_versatile.pix2pix.losses import discriminator_loss, generator_adversarial_loss, pixel_loss
from art_versatile.pix2pix.precision import POLICIES, set_precision
from art_versatile.training import PRESETS

# Preset -> (batch, height and width).
STEPS = {"compact": (8, 128), "paper": (1, 256)}
PURIFICATION = (8, 256)
PEAK_SHAPES = ((8, 128, 64), (8, 64, 128), (8, 32, 256), (8, 16, 512))  # batch, height and width, channels
VARIANTS: dict[str, dict[str, Any]] = {
    "widths 64-128-256, blocks 1-1-2, factor 4": {},
    "widths 96-128-256": {"widths": (96, 128, 256)},
    "widths 32-64-128": {"widths": (32, 64, 128)},
    "widths 48-96-192": {"widths": (48, 96, 192)},
    "widths 96-192-384": {"widths": (96, 192, 384)},
    "blocks 1-1-1": {"blocks": (1, 1, 1)},
    "blocks 2-2-4": {"blocks": (2, 2, 4)},
    "factor 2, widths 32-64-128-256, blocks 1-1-1-2": {
        "factor": 2, "widths": (32, 64, 128, 256), "blocks": (1, 1, 1, 2),
    },
    "factor 8, widths 128-256, blocks 1-2": {"factor": 8, "widths": (128, 256), "blocks": (1, 2)},
    "widths 96-160-256, blocks 1-1-1": {"widths": (96, 160, 256), "blocks": (1, 1, 1)},
    "widths 128-192-256": {"widths": (128, 192, 256)},
    "widths 128-160-256, blocks 1-1-1": {"widths": (128, 160, 256), "blocks": (1, 1, 1)},
    "raw_input": {"raw_input": True},
    "raw_input, raw_base": {"raw_input": True, "raw_base": True},
    "one low-pass version (no blur)": {"sigmas": (0.0,)},
    "widths 96-128-192-256, blocks 1-1-1-1": {"widths": (96, 128, 192, 256), "blocks": (1, 1, 1, 1)},
    "the preset: the same with the encoder": PRESETS["compact"].generator_options,
}  # fmt: skip


def gflop(function: Any, *arguments: Any) -> float:
    """
    Work of one call in units of 1e9 operations, counted in its graph: of what its answers and its side effects need,
    and not of gradients of frozen kernels, which a tape writes down and nothing computes.

    :param function: A ``tf.function``.
    :param arguments: Of static shape.
    :raises ValueError: If a shape is not known.
    """
    total = 0
    for op in _needed(function.get_concrete_function(*arguments).graph):
        kernel, places = _kernel_and_places(op)
        if kernel is None:
            continue
        if not (kernel.is_fully_defined() and places.is_fully_defined()):
            raise ValueError(f"Expected static shapes. Received {op.type} {op.name}: {places}, kernel {kernel}.")
        total += 2 * kernel.num_elements() * places.num_elements()
    return total / 1e9


def _needed(graph: Any) -> set[tf.Operation]:
    """The operations that a call runs."""
    found: set[tf.Operation] = set()
    rest = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while rest:
        op = rest.pop()
        if op not in found:
            found.add(op)
            rest += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return found


def _kernel_and_places(op: tf.Operation) -> tuple[Any, Any]:
    """Shape of the kernel, and (batch, height, width) of the positions at which each of its weights counts once."""
    shapes = [tensor.shape for tensor in op.inputs]
    if op.type in ("Conv2D", "DepthwiseConv2dNative"):
        return shapes[1], op.outputs[0].shape[:3]
    if op.type in ("Conv2DBackpropInput", "DepthwiseConv2dNativeBackpropInput"):  # a transposed convolution too
        return shapes[1], shapes[2][:3]
    if op.type in ("Conv2DBackpropFilter", "DepthwiseConv2dNativeBackpropFilter"):
        return op.outputs[0].shape, shapes[2][:3]
    if op.type == "MatMul":
        inner = shapes[0][0] if op.get_attr("transpose_a") else shapes[0][1]
        return tf.TensorShape([inner]), op.outputs[0].shape
    return None, None


def timed(calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """Median seconds of each call; they take turns, after two turns of warming up."""
    times: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    turn = 0
    while turn < 5 or time.perf_counter() - start < seconds:
        for call, taken in zip(calls, times, strict=True):
            before = time.perf_counter()
            call()
            if turn >= 2:
                taken.append(time.perf_counter() - before)
        turn += 1
    return [statistics.median(taken) for taken in times]


def peak(precision: str, seconds: float) -> float:
    """The best rate of a convolution, in GFLOP/s."""
    dtype = precision.removeprefix("mixed_")
    rates = []
    for batch, size, channels in PEAK_SHAPES:
        image = tf.cast(tf.random.stateless_normal((batch, size, size, channels), [0, 0]), dtype)
        kernel = tf.cast(tf.random.stateless_normal((3, 3, channels, channels), [0, 1]), dtype)
        function = tf.function(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"))
        times = []
        start = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < seconds / len(PEAK_SHAPES):
            before = time.perf_counter()
            function(image, kernel).numpy()
            times.append(time.perf_counter() - before)
        rates.append(gflop(function, image, kernel) / min(times[1:]))
    return max(rates)


def generator_of(name: str) -> keras.Model:
    """A preset's generator."""
    return build_generator(PRESETS[name].architecture, **PRESETS[name].generator_options)


def make_model(name: str, precision: str, perceptual: PerceptualLoss) -> Pix2Pix:
    """A preset's networks with its optimizers, compiled."""
    preset = PRESETS[name]
    model = Pix2Pix(
        generator_of(name),
        patchgan(preset.discriminator, seed=1),
        perceptual,
        schedule=preset.schedule,
        clip_norm=preset.clip_norm,
    )
    for network in (model.generator, model.discriminator):
        set_precision(network, precision)
    average = {} if preset.ema is None else {"use_ema": True, "ema_momentum": preset.ema}
    model.compile(
        keras.optimizers.Adam(preset.learning_rate, beta_1=preset.beta_1, **average),
        keras.optimizers.Adam(preset.learning_rate, beta_1=preset.beta_1),
    )
    return model


def tutorial_step(model: Pix2Pix) -> Any:
    """The same step as in TensorFlow's pix2pix tutorial."""

    @tf.function
    def step(x_adv: tf.Tensor, clean: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape, tf.GradientTape() as discriminator_tape:
            purified = model.generator(x_adv, training=True)
            real = model.discriminator([x_adv, clean], training=True)
            fake = model.discriminator([x_adv, purified], training=True)
            losses = {
                "pixel": pixel_loss(purified, clean),
                "perceptual": model.perceptual(purified, clean),
                "adversarial": generator_adversarial_loss(fake),
                "discriminator": discriminator_loss(real, fake),
            }
            total = model.pixel_weight * losses["pixel"] + model.perceptual_weight * losses["perceptual"]
            total += losses["adversarial"]
        variables = model.generator.trainable_variables
        gradients = tape.gradient(total, variables)
        if model.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, model.clip_norm)
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        variables = model.discriminator.trainable_variables
        gradients = discriminator_tape.gradient(losses["discriminator"], variables)
        model.discriminator_optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {**losses, "loss": total}

    return step


def images(batch: int, size: int, seed: int = 0) -> tf.Tensor:
    """Smooth pictures in [0, 1]."""
    coarse = tf.random.stateless_uniform((batch, size // 16, size // 16, 3), [seed, 0])
    return tf.clip_by_value(tf.image.resize(coarse, (size, size), "bicubic"), 0, 1)


def step_rows(name: str, precision: str, rate: float, perceptual: PerceptualLoss, seconds: float) -> str:
    """A row of the table of steps."""
    batch, size = STEPS[name]
    clean = images(batch, size)
    x_adv = tf.clip_by_value(clean + tf.sign(images(batch, size, 1) - 0.5) * 8 / 255, 0, 1)
    model, other = (make_model(name, precision, perceptual) for _ in range(2))
    step = tf.function(lambda a, b: model.train_step((a, b)))
    plain = tutorial_step(other)
    first, second = step(x_adv, clean), plain(x_adv, clean)
    for loss, value in second.items():
        np.testing.assert_allclose(first[loss], value, rtol=0.02 if "16" in precision else 1e-3, err_msg=loss)
    work = gflop(step, x_adv, clean)
    ours, theirs = timed([lambda: step(x_adv, clean)["loss"].numpy(), lambda: plain(x_adv, clean)["loss"].numpy()],
                         seconds)  # fmt: skip
    return (
        f"| {name}, {batch} x {size}x{size} | {precision} | {batch / ours:.2f} | {ours:.3f} "
        f"| {work:.1f} ({gflop(plain, x_adv, clean):.1f}) "
        f"| {work / ours:.0f} | {work / ours / rate:.0%} | {theirs / ours:.2f}x |"
    )


def purification_row(label: str, generator: keras.Model, precision: str, rate: float, seconds: float) -> str:
    """A row of the tables of purification."""
    batch, size = PURIFICATION
    set_precision(generator, precision)
    x = images(batch, size)
    purify = tf.function(lambda image: generator(image, training=False))
    work = gflop(purify, x)
    (taken,) = timed([lambda: purify(x).numpy()], seconds)
    return (
        f"| {label} | {precision} | {generator.count_params() / 1e6:.2f} M | {work / batch / 2:.2f} "
        f"| {batch / taken:.1f} | {work / taken:.0f} | {work / taken / rate:.0%} |"
    )


def machine() -> str:
    """What this runs on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), name)
    return (
        f"{name}, {os.cpu_count()} cores, GPUs: {len(tf.config.list_physical_devices('GPU'))}; TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a second a row: what it prints, not what is true")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row, tracing apart")
    parser.add_argument("--presets", nargs="*", choices=STEPS, default=list(STEPS), help="none leaves the steps out")
    parser.add_argument("--precision", nargs="+", choices=POLICIES[:2], default=POLICIES[:2])
    parser.add_argument("--architectures", action="store_true", help="also variants of the compact generator")
    arguments = parser.parse_args()
    seconds = 1.0 if arguments.quick else arguments.seconds

    def tell(row: str) -> str:
        print(row, file=sys.stderr, flush=True)
        return row

    rates = {precision: peak(precision, seconds) for precision in arguments.precision}
    lines = [machine(), ""]
    lines += [f"Peak of a 3x3 convolution, {name}: {rate:.0f} GFLOP/s." for name, rate in rates.items()]
    if arguments.presets:
        options = PRESETS["compact"].features_options
        perceptual = PerceptualLoss.of_classifier(efficientnet_lite_model(0), **options)
        lines += [
            "",
            "| training step | precision | images/s | s/step | GFLOP/step (tutorial's) | GFLOP/s | of peak "
            "| tutorial's time / ours |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            tell(step_rows(name, precision, rate, perceptual, seconds))
            for name in arguments.presets
            for precision, rate in rates.items()
        ]
    header = ["precision | parameters | GMAC/image | images/s | GFLOP/s | of peak |", "|---|---|---|---|---|---|---|"]
    batch, size = PURIFICATION
    lines += ["", f"| purification, {batch} x {size}x{size} | {header[0]}", header[1]]
    lines += [
        tell(purification_row(name, generator_of(name), precision, rate, seconds))
        for name in STEPS
        for precision, rate in rates.items()
    ]
    if arguments.architectures:
        lines += ["", f"| compact | {header[0]}", header[1]]
        lines += [
            tell(purification_row(label, build_generator("compact", **options), precision, rate, seconds))
            for label, options in VARIANTS.items()
            for precision, rate in rates.items()
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
