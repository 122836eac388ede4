"""One training run: presets, settings that are checked and built once, the folder that a run leaves."""

from art_versatile.training.folder import RunFolder
from art_versatile.training.monitor import Validation
from art_versatile.training.presets import PRESETS, Preset, new_discriminator, new_generator, perceptual_loss
from art_versatile.training.run import PreparedTraining, Training, TrainingResult, train
from art_versatile.training.watch import Watch

__all__ = [
    "PRESETS",
    "PreparedTraining",
    "Preset",
    "RunFolder",
    "Training",
    "TrainingResult",
    "Validation",
    "Watch",
    "new_discriminator",
    "new_generator",
    "perceptual_loss",
    "train",
]
