"""The model: generators, discriminator, losses, schedule. Knows Keras, knows nothing of ART."""

from art_versatile.pix2pix.discriminators import patchgan
from art_versatile.pix2pix.generators import CompactGenerator, UNet256Generator, build_generator
from art_versatile.pix2pix.model import Pix2Pix
from art_versatile.pix2pix.perceptual import PerceptualLoss
from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule, Stage

__all__ = [
    "PAPER_SCHEDULE",
    "CompactGenerator",
    "LossSchedule",
    "PerceptualLoss",
    "Pix2Pix",
    "Stage",
    "UNet256Generator",
    "build_generator",
    "patchgan",
]
