"""The two ways to train, every number in one place: the paper's, and a fast one; and what is built from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from art_versatile import weights
from art_versatile._checks import check_batch_size, check_bool, check_choice, check_integer, check_number
from art_versatile.pairs.batches import check_scale
from art_versatile.pix2pix import CompactGenerator, PerceptualLoss, UNet256Generator, build_generator, patchgan
from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule

__all__ = ["PRESETS", "Preset", "find_preset", "new_discriminator", "new_generator", "perceptual_loss"]

DECAYS = ("constant", "cosine")


@dataclass(frozen=True)
class Preset:
    """
    Everything that a training run needs but the pairs.

    :param architecture: Generator, a key of ``GENERATORS``.
    :param generator_options: Arguments of the generator.
    :param discriminator: Filters of the first layer of the PatchGAN, or a discriminator; None trains without the
        adversarial loss.
    :param real_label: What the discriminator is to call a real patch; below 1 is one-sided label smoothing.
    :param r1: Weight of the discriminator's R1 penalty; 0 leaves it out.
    :param features: Of the perceptual loss: "vgg19", "classifier" (the one that was attacked) or None (no such loss).
    :param features_options: Arguments of ``PerceptualLoss.vgg19`` or ``PerceptualLoss.of_classifier``.
    :param schedule: Weights of the losses by epoch; its length is the number of epochs.
    :param learning_rate: Adam's, for both networks.
    :param decay: "constant", or "cosine" (to 2% at the end).
    :param warmup: With "cosine", steps over which the rate rises from 0, and at most a tenth of all: Adam's first steps
        have no average to go by, and would undo weights that are trained further.
    :param beta_1: Adam's.
    :param clip_norm: Largest norm of the generator's gradient; None leaves it.
    :param ema: Momentum of the running average of the generator's weights, which reaches over a tenth of the run at
        most (momentum 1 - 10 / steps); None keeps none.
    :param batch_size: Pairs a step, over all replicas.
    :param crop: Height and width (or one number for both) of random crops; None takes whole images.
    :param crop_step: Their places are multiples of so many pixels; moved by anything but a
        multiple of the classifier's stride (32 for most), a perturbation loses most of its effect.
    :param flip: Mirror half of the pairs.
    :param scale: Range of the random factor on the perturbation, (low, high) with 0 <= low <= high.
    :param whole: Attacks whose perturbations are not scaled, where the pairs have them: the smallest perturbation that
        fools does so no more when it is made smaller.
    :param clean_share: Share of (clean, clean) pairs, 0 to 1.
    :raises ValueError: If a number or a name is not as expected. What the networks are made with is checked when they
        are made, a crop when the size of the pairs is known.
    """

    architecture: str
    generator_options: Mapping[str, Any] = field(default_factory=dict)
    discriminator: int | keras.Model | None = 64
    real_label: float = 1.0
    r1: float = 0.0
    features: str | None = "vgg19"
    features_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: LossSchedule = PAPER_SCHEDULE
    learning_rate: float = 2e-4
    decay: str = "constant"
    warmup: int = 0
    beta_1: float = 0.5
    clip_norm: float | None = None
    ema: float | None = None
    batch_size: int = 1
    crop: int | tuple[int, int] | None = None
    crop_step: int = 1
    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    whole: tuple[str, ...] = ()
    clean_share: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, LossSchedule):
            raise TypeError(f"Expected schedule to be a LossSchedule. Received {self.schedule!r}.")
        if self.features not in ("vgg19", "classifier", None):
            raise ValueError(f"Expected features to be 'vgg19', 'classifier' or None. Received {self.features!r}.")
        check_choice("decay", self.decay, DECAYS)
        if check_integer("warmup", self.warmup, 0) and self.decay != "cosine":
            raise ValueError(f"Expected decay='cosine' with warmup. Received decay={self.decay!r}.")
        for name, below in (("learning_rate", math.inf), ("clip_norm", math.inf), ("ema", 1)):
            value = getattr(self, name)
            if value is None and name != "learning_rate":
                continue
            if not isinstance(value, int | float) or not 0 < value < below:
                raise ValueError(f"Expected {name} above 0 and below {below}. Received {value!r}.")
        if not isinstance(self.beta_1, int | float) or not 0 <= self.beta_1 < 1:
            raise ValueError(f"Expected beta_1 from 0 on and below 1. Received {self.beta_1!r}.")
        check_number("real_label", self.real_label, 0.5, 1)
        check_number("r1", self.r1, 0, 1e6)
        check_batch_size(self.batch_size)
        check_integer("crop_step", self.crop_step)
        check_bool("flip", self.flip)
        check_scale(self.scale)
        check_number("clean_share", self.clean_share, 0, 1)


PRESETS: dict[str, Preset] = {
    # Stated by the paper: Pix2pix, L1 and VGG19 perceptual loss, the schedule, 100 epochs. Assumed, as it says nothing:
    # - Pix2pix's own settings: U-Net-256 and PatchGAN 70x70 with InstanceNorm (batch norm at batch size 1), Adam
    #   2e-4 / 0.5, batch size 1, images at 256x256 (arXiv 1611.07004, section 3.3 and 6);
    # - the layers of VGG19 and their weights: relu1_1 ... relu5_1 with pix2pixHD's 1/32 ... 1 (arXiv 1711.11585), mean
    #   absolute difference, divided by the mean absolute feature of the clean image, without which the raw block5
    #   features would dwarf the L1 term at a weight of 100;
    # - "pixel weight" and "perceptual weight" are relative to an adversarial weight of 1;
    # - no jitter from 286 to 256 and no flips: a perturbation that is resampled or mirrored has lost most of its effect
    #   (see below) and is no example of the attack.
    "paper": Preset(architecture="unet256", flip=False),
    # Not the paper's. The prediction and the last features of the classifier weigh most: a small pixel error still
    # fools it, and the pixels and the early features pull the other way (cosine of their mean gradients with the
    # prediction's: -0.2 to -0.7). With a pixel weight of ten times the perceptual one and the middle layers, training
    # came to rest at 38% recovered; with this ratio and these layers it went on to 60% in 1,000 steps (natural images,
    # eps 8/255, n = 240).
    # Crops stay on the classifier's grid and are not mirrored: elsewhere EfficientNet-Lite0 is hardly fooled by its own
    # adversarial images (KL divergence of 12.4 in place, 3.3 mirrored, 2.3 moved by 3 pixels; six attacks at 8/255, 96
    # images), and what is trained on such crops does not hold against the attack itself.
    "compact": Preset(
        architecture="compact",
        generator_options={
            "widths": (96, 128, 192, 256),
            "blocks": (1, 1, 1, 1),
            "encoder": "efficientnet_lite0",
            "noise": 0.0,
            "output_noise": 0.02,
        },
        discriminator=16,
        features="classifier",
        features_options={"count": 3, "start": 0.6, "prediction_weight": 1.0, "prediction": "log"},
        # Against an adversarial weight of 1. With a tenth of these weights, where the adversarial loss counts ten times
        # as much, 750 steps came to 61.4% recovered instead of 63.4% without it (dev, n = 500; log KL divergence on 240
        # of them 0.42 and 0.39).
        schedule=LossSchedule([(40, 300.0, 200.0)]),
        learning_rate=5e-4,
        decay="cosine",
        warmup=200,
        beta_1=0.9,
        clip_norm=3000.0,
        ema=0.997,
        batch_size=8,
        crop=192,
        crop_step=32,
        flip=False,
        scale=(0.5, 1.1),
        whole=("C&W", "DeepFool"),
        clean_share=0.15,
    ),
}


def find_preset(preset: str | Preset, **changes: Any) -> Preset:
    """
    A preset, with some of its fields changed.

    :param preset: "paper", "compact", or a :class:`Preset`.
    :param changes: Fields.
    :raises ValueError: If there is no such preset or field, or a value is not as expected.
    """
    if not isinstance(preset, Preset):
        preset = PRESETS[check_choice("preset", preset, tuple(PRESETS))]
    known = [field.name for field in dataclasses.fields(Preset)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"Expected changes among {known}. Received {unknown}.")
    return dataclasses.replace(preset, **changes)


def new_generator(preset: str | Preset = "compact", seed: int = 0) -> CompactGenerator | UNet256Generator:
    """
    The untrained generator of a preset.

    A frozen encoder gets the weights that it has in the generator that ships: no further package is needed.

    :param preset: "paper", "compact", or a :class:`Preset`.
    :param seed: Of its initial weights and of its noise, unless the preset's options say otherwise.
    """
    preset = find_preset(preset)
    options: dict[str, Any] = {"seed": seed, **preset.generator_options}
    if preset.architecture != "compact" or options.get("encoder") is None or "encoder_weights" in options:
        return build_generator(preset.architecture, **options)
    generator = build_generator(preset.architecture, **options, encoder_weights=None)
    shipped, _ = weights.load_shipped(preset.architecture)
    known = {layer.name: layer for layer in shipped.get_layer("encoder").layers}
    for layer in generator.get_layer("encoder").layers:
        layer.set_weights(known[layer.name].get_weights())
    return generator


def new_discriminator(preset: str | Preset = "compact", seed: int = 0) -> keras.Model | None:
    """
    The discriminator of a preset: a new one, or the network that the preset holds; None where it has none.

    :param preset: "paper", "compact", or a :class:`Preset`.
    :param seed: Of the run; that of the discriminator's initial weights is the next one.
    """
    discriminator = find_preset(preset).discriminator
    if discriminator is None or isinstance(discriminator, keras.Model):
        return discriminator
    return patchgan(discriminator, seed=seed + 1)


def perceptual_loss(
    preset: str | Preset = "compact", model: keras.Model | None = None, **options: Any
) -> PerceptualLoss | None:
    """
    The perceptual loss of a preset; None where it has none.

    :param preset: "paper", "compact", or a :class:`Preset`. VGG19's weights are downloaded, unless the preset's options
        name a file.
    :param model: The classifier, from pixels in [0, 1] to logits, where the preset's features are "classifier".
    :param options: Further arguments of ``PerceptualLoss.of_classifier``: ``preprocess``, ``probabilities``.
    :raises ValueError: If the preset takes a classifier's features and there is none.
    """
    preset = find_preset(preset)
    if preset.features is None:
        return None
    if preset.features == "vgg19":
        return PerceptualLoss.vgg19(**preset.features_options)
    if model is None:
        raise ValueError(
            "Expected a perceptual loss, PerceptualLoss.of_classifier(model), or features=None to train without. "
            "Received neither."
        )
    return PerceptualLoss.of_classifier(model, **options, **preset.features_options)
