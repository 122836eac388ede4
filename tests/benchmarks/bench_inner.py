"""
A training step that attacks through purifier and classifier: images/s by phase of a run, share of peak, GPU hours.

``python tests/benchmarks/bench_inner.py [--phases 128x16 160x8 224x4] [--seconds 10] [--peak-tflops 400 --share 0.2]``
prints Markdown tables. The step is random-start FGSM and one step of the purifier (the preset ``compact`` without its
encoder, Adam, pixel L1 and log(1 + KL) to the clean prediction of a frozen EfficientNet-Lite0). In turn with it run:

- ART: the same loop, written with ``FastGradientMethod`` on the defended classifier and a compiled Keras step;
- bare: both passes forward and backward, compiled, and nothing else: no prediction of the clean images, no start, no
  projection, no optimizer;
- bare + clean: the same, and the one prediction of the clean images that no step without labels can spare.

Work is counted as in ``bench_training.py``. Hours = images x operations an image / (peak x share / s).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from art.attacks.evasion import FastGradientMethod
from bench_training import gflop, images, machine, peak, timed

from art_versatile import VersatilePurifier
from art_versatile.classifiers import efficientnet_lite_model, wrap
from art_versatile.pix2pix import LossSchedule, PerceptualLoss, Pix2Pix, build_generator
from art_versatile.pix2pix.losses import pixel_loss
from art_versatile.training import PRESETS
from art_versatile.training.inner import InnerAttack

EPS, PIXEL = 4 / 255, 2.0


def make_model(classifier: keras.Model, inner: InnerAttack | None) -> Pix2Pix:
    """Purifier, losses and optimizer, compiled; attacked inside the step or not."""
    options = {key: value for key, value in PRESETS["compact"].generator_options.items() if key != "encoder"}
    loss = PerceptualLoss(classifier, [], prediction_weight=1.0, prediction="log")
    schedule = LossSchedule([(1, PIXEL, 1.0)])
    model = Pix2Pix(build_generator("compact", **options), None, loss, schedule=schedule, clip_norm=10.0, inner=inner)
    model.compile(keras.optimizers.Adam(1e-5))
    return model


def art_loop(classifier: keras.Model, side: int) -> Callable[[np.ndarray], float]:
    """A step of the loop as ART's and Keras's own objects make it."""
    model, undefended, defended = make_model(classifier, None), wrap(classifier, side), wrap(classifier, side)
    defended.set_params(preprocessing_defences=[VersatilePurifier(model.generator)])
    attack = FastGradientMethod(defended, eps=EPS, num_random_init=1)
    step = tf.function(lambda x_adv, clean: model.train_step((x_adv, clean)))

    def loop(clean: np.ndarray) -> float:
        y = np.eye(1000, dtype=np.float32)[undefended.predict(clean).argmax(1)]
        return float(step(tf.constant(attack.generate(clean, y)), tf.constant(clean))["loss"])

    return loop


def bare_passes(classifier: keras.Model, *, clean_too: bool) -> Any:
    """(images, logits of the clean ones) -> what both passes come to."""
    generator = make_model(classifier, None).generator

    @tf.function
    def passes(x: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        if clean_too:
            target = classifier(x, training=False)
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = classifier(generator(x, training=False), training=False)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.argmax(target, -1), logits))
        x_adv = x + EPS * tf.sign(tape.gradient(loss, x))
        with tf.GradientTape() as tape:
            purified = generator(x_adv, training=True)
            p, c = (tf.nn.log_softmax(z) for z in (classifier(purified, training=False), target))
            divergence = tf.math.log1p(tf.maximum(tf.reduce_sum(tf.exp(c) * (c - p), -1), 0.0))
            loss = PIXEL * pixel_loss(purified, x) + tf.reduce_mean(divergence)
        return tf.add_n([tf.reduce_sum(g) for g in tape.gradient(loss, generator.trainable_variables)])

    return passes


def row(classifier: keras.Model, side: int, batch: int, rate: float, seconds: float) -> tuple[str, float]:
    """A row of the table, and the work of an image in units of 1e9 operations."""
    clean = images(batch, side)
    model = make_model(classifier, InnerAttack([classifier], EPS))
    step = tf.function(lambda x: model.train_step((x, x)))
    loop = art_loop(classifier, side)
    bare, bare_clean = (bare_passes(classifier, clean_too=given) for given in (False, True))
    target, pixels = classifier(clean), clean.numpy()
    calls = [
        lambda: step(clean)["loss"].numpy(),
        lambda: loop(pixels),
        lambda: bare(clean, target).numpy(),
        lambda: bare_clean(clean, target).numpy(),
    ]
    ours, art, two, three = timed(calls, seconds)
    work = gflop(step, clean)
    line = (
        f"| {batch} x {side}x{side} | {batch / ours:.2f} | {work / batch:.1f} | {work / ours / rate:.0%} "
        f"| {art / ours:.2f}x | {two / ours:.0%} | {three / ours:.0%} |"
    )
    print(line, file=sys.stderr, flush=True)
    return line, work / batch


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", nargs="+", default=["128x16", "160x8", "224x4"], help="side x images a step")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each phase, tracing apart")
    parser.add_argument("--peak-tflops", type=float, default=400.0, help="of the GPU that hours are stated for")
    parser.add_argument("--share", type=float, default=0.2, help="of that peak which is reached")
    arguments = parser.parse_args()
    classifier = efficientnet_lite_model(0)
    classifier.trainable = False
    rate = peak("float32", arguments.seconds)
    lines, hours = [], []
    for phase in arguments.phases:
        side, batch = (int(number) for number in phase.split("x"))
        line, work = row(classifier, side, batch, rate, arguments.seconds)
        lines.append(line)
        seconds = 1e6 * work / (1e3 * arguments.peak_tflops * arguments.share)
        hours.append(f"| {side}x{side} | {work:.1f} | {seconds / 3600:.2f} |")
    print(f"{machine()}. Peak of a 3x3 convolution: {rate:.0f} GFLOP/s.\n")
    print("| step | images/s | GFLOP/image | of peak | ART's loop: time / ours | bare: time / ours | bare + clean |")
    print("| --- | --- | --- | --- | --- | --- | --- |", *lines, sep="\n")
    print(f"\n| size | GFLOP/image | hours a million images at {arguments.share:.0%} of "
          f"{arguments.peak_tflops:.0f} TFLOP/s |\n| --- | --- | --- |", *hours, sep="\n")  # fmt: skip


if __name__ == "__main__":
    main()
