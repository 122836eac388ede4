"""Pix2Pix with a perceptual loss as a Keras model: ``fit``, callbacks and checkpoints are Keras's own."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from art_versatile.pix2pix.losses import discriminator_loss, generator_adversarial_loss, pixel_loss
from art_versatile.pix2pix.perceptual import PerceptualLoss
from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule

__all__ = ["Pix2Pix", "ScheduleCallback"]


class Pix2Pix(keras.Model):
    """
    The paper's objective (equations 1 to 4): ``L = L_cGAN + lambda L1 + mu L_perceptual``.

    Trained on (adversarial, clean) batches, (N, H, W, 3) float32 in [0, 1]. The weights lambda and mu follow the
    schedule through :class:`ScheduleCallback`, which ``fit`` adds.

    :param generator: Adversarial image -> purified image.
    :param discriminator: [adversarial, image] -> patch logits; None trains without the adversarial loss.
    :param perceptual: The perceptual loss; None trains without it.
    :param schedule: lambda and mu by epoch.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model | None = None,
        perceptual: PerceptualLoss | None = None,
        *,
        schedule: LossSchedule = PAPER_SCHEDULE,
        name: str = "pix2pix",
    ) -> None:
        super().__init__(name=name)
        if not isinstance(schedule, LossSchedule):
            raise TypeError(f"Expected schedule to be a LossSchedule. Received {schedule!r}.")
        self.generator, self.discriminator = generator, discriminator
        self.perceptual, self.schedule = perceptual, schedule
        pixel, perceptual_weight = schedule(0)
        self.pixel_weight = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(pixel), trainable=False, name="pixel_weight"
        )
        self.perceptual_weight = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(perceptual_weight),
            trainable=False,
            name="perceptual_weight",
        )
        names = ["loss", "pixel"]
        if perceptual is not None:
            names.append("perceptual")
        if discriminator is not None:
            names += ["adversarial", "discriminator"]
        self.discriminator_optimizer: keras.optimizers.Optimizer | None = None
        self._trackers = {n: keras.metrics.Mean(name=n) for n in names}
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The named losses, averaged over the epoch."""
        return list(self._trackers.values())

    def compile(
        self,
        generator_optimizer: keras.optimizers.Optimizer | None = None,
        discriminator_optimizer: keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Set the optimizers; Adam with learning rate 2e-4 and beta_1 0.5 by default (arXiv 1611.07004, section 3.3).

        :param generator_optimizer: The generator's.
        :param discriminator_optimizer: The discriminator's, another object.
        :param kwargs: Passed to :meth:`keras.Model.compile`.
        """
        if generator_optimizer is not None and generator_optimizer is discriminator_optimizer:
            raise ValueError("Expected two optimizers. Received one object for both.")
        super().compile(optimizer=generator_optimizer or keras.optimizers.Adam(2e-4, beta_1=0.5), **kwargs)
        self.optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer = None
        if self.discriminator is not None:
            self.discriminator_optimizer = discriminator_optimizer or keras.optimizers.Adam(2e-4, beta_1=0.5)
            self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def fit(self, x: Any = None, *args: Any, epochs: int | None = None, callbacks: Any = None, **kwargs: Any) -> Any:
        """
        :meth:`keras.Model.fit` under the schedule.

        :param x: A dataset of (adversarial, clean) batches.
        :param epochs: Epochs; by default those of the schedule.
        :param callbacks: Further callbacks.
        """
        callbacks = [ScheduleCallback(), *(callbacks or [])]
        epochs = self.schedule.epochs if epochs is None else epochs
        return super().fit(x, *args, epochs=epochs, callbacks=callbacks, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Purify (N, H, W, 3) in [0, 1]."""
        return self.generator(inputs, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """
        One step on a batch: the generator, then the discriminator on the same purified images.

        :param data: (adversarial, clean).
        :return: The epoch's running means of the named losses.
        """
        x_adv, clean = data
        losses: dict[str, tf.Tensor] = {}
        # The clean features carry no gradient: computed outside the tape.
        clean_features = self.perceptual.features(clean) if self.perceptual is not None else []
        with tf.GradientTape() as tape:
            purified = self.generator(x_adv, training=True)
            losses["pixel"] = pixel_loss(purified, clean)
            total = self.pixel_weight * losses["pixel"]
            if self.perceptual is not None:
                terms = self.perceptual.terms(self.perceptual.features(purified), clean_features)
                losses["perceptual"] = tf.add_n(list(terms.values()))
                total += self.perceptual_weight * losses["perceptual"]
            if self.discriminator is not None:
                losses["adversarial"] = generator_adversarial_loss(self.discriminator([x_adv, purified], training=True))
                total += losses["adversarial"]
        losses["loss"] = total
        variables = self.generator.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))

        if self.discriminator is not None and self.discriminator_optimizer is not None:
            purified = tf.stop_gradient(purified)
            # Real and generated pairs in one pass.
            pairs = [tf.concat([x_adv, x_adv], 0), tf.concat([clean, purified], 0)]
            with tf.GradientTape() as tape:
                real, fake = tf.split(self.discriminator(pairs, training=True), 2)
                losses["discriminator"] = discriminator_loss(real, fake)
            variables = self.discriminator.trainable_variables
            gradients = tape.gradient(losses["discriminator"], variables)
            self.discriminator_optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for name, tracker in self._trackers.items():
            tracker.update_state(losses[name])
        return {name: tracker.result() for name, tracker in self._trackers.items()}

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """
        Losses of the deterministic generator on a batch, without the adversarial ones.

        :param data: (adversarial, clean).
        """
        x_adv, clean = data
        purified = self.generator(x_adv, training=False)
        losses = {"pixel": pixel_loss(purified, clean)}
        losses["loss"] = self.pixel_weight * losses["pixel"]
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(purified, clean)
            losses["loss"] += self.perceptual_weight * losses["perceptual"]
        for name, value in losses.items():
            self._trackers[name].update_state(value)
        return {name: self._trackers[name].result() for name in losses}


class ScheduleCallback(keras.callbacks.Callback):
    """Sets the model's loss weights at the start of each epoch, from its schedule."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set them."""
        pixel, perceptual = self.model.schedule(epoch)
        self.model.pixel_weight.assign(pixel)
        self.model.perceptual_weight.assign(perceptual)
