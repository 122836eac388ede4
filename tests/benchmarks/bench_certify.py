"""
Votes under Gaussian noise, ``certify``'s and those of ART's ``TensorFlowV2RandomizedSmoothing``: draws/s and ratio.

``python tests/benchmarks/bench_certify.py [--draws 100] [--side 256] [--batch 50] [--seconds 20]`` prints one Markdown
table: EfficientNet-Lite0, alone and behind the preset ``compact``'s generator without its encoder, as fast with any
weights. Both sides take turns, after one turn that traces; certificates are made of nothing but these votes.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2
from art.estimators.certification.randomized_smoothing import TensorFlowV2RandomizedSmoothing
from bench_training import images, machine, timed

from art_versatile.classifiers import efficientnet_lite_model
from art_versatile.evaluation.certify import _Votes
from art_versatile.pix2pix import build_generator
from art_versatile.pix2pix.generators import purified
from art_versatile.training import PRESETS

SIGMA = 0.25


class Denoiser(PreprocessorTensorFlowV2):
    """A generator, and nothing else: in ART's own loop ``VersatilePurifier`` refuses noise beyond ``clip_values``."""

    def __init__(self, generator: keras.Model) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.generator = generator

    def forward(self, x: tf.Tensor, y: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """(N, H, W, 3) -> the same shape."""
        return purified(self.generator, x), y


def smoothed(model: keras.Model, side: int, draws: int) -> TensorFlowV2RandomizedSmoothing:
    """ART's own smoothed classifier."""
    return TensorFlowV2RandomizedSmoothing(
        model=model, nb_classes=1000, input_shape=(side, side, 3), clip_values=(0.0, 1.0), sample_size=draws,
        scale=SIGMA, loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
    )  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row, tracing apart")
    arguments = parser.parse_args()
    model = efficientnet_lite_model(0)
    options = {key: value for key, value in PRESETS["compact"].generator_options.items() if key != "encoder"}
    x = images(1, arguments.side).numpy()[0]
    lines = []
    for name, defences in (("none", []), ("purifier", [Denoiser(build_generator("compact", **options))])):
        classifier = smoothed(model, arguments.side, arguments.draws)
        if defences:
            classifier.set_params(preprocessing_defences=defences)
        votes = _Votes(classifier, SIGMA, arguments.batch, 0)

        def art(classifier: TensorFlowV2RandomizedSmoothing = classifier) -> None:
            classifier._prediction_counts(x, n=arguments.draws, batch_size=arguments.batch)

        ours, theirs = timed([lambda votes=votes: votes(x, 0, arguments.draws, 0), art], arguments.seconds)
        lines.append(
            f"| {name} | {arguments.draws / theirs:.1f} | {arguments.draws / ours:.1f} | {theirs / ours:.2f}x |"
        )
    print(f"{machine()}. {arguments.side}x{arguments.side}, {arguments.draws} draws, batches of {arguments.batch}.\n")
    print("| defence | ART, draws/s | compiled, draws/s | ratio |", "| --- | --- | --- | --- |", *lines, sep="\n")


if __name__ == "__main__":
    main()
