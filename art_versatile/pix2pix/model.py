"""Pix2Pix with a perceptual loss as a Keras model: ``fit``, callbacks and strategies are Keras's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from art_versatile._checks import check_number
from art_versatile.pix2pix.distillation import Distillation
from art_versatile.pix2pix.losses import discriminator_loss, generator_adversarial_loss, gradient_penalty, pixel_loss
from art_versatile.pix2pix.perceptual import PerceptualLoss, RandomPerceptualLoss
from art_versatile.pix2pix.precision import computed_in, followed_policy
from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule

__all__ = ["InnerSource", "Pix2Pix", "ScheduleCallback"]


class InnerSource(Protocol):
    """Makes what the purifier is given from a clean batch, inside the step."""

    replay: int
    """Steps of training on what is made of one batch; above 1 :meth:`moved` changes it from one to the next."""

    @property
    def level(self) -> float | None:
        """The share of the budget to begin with, where it is raised by what is held; None where it is not."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its settings, JSON-able: a run that goes on has to have the same."""

    def __call__(
        self, purify: Callable[[tf.Tensor], tf.Tensor], clean: tf.Tensor, share: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """
        What the purifier is given.

        :param purify: The purifier as it is, (N, H, W, 3) -> the same shape.
        :param clean: (N, H, W, 3) in [0, 1].
        :param share: How much of the run has passed, 0 to 1; with a ``level`` that one, as it is now.
        :param seed: (2,), stateless, another at each step.
        """

    def moved(
        self, image: tf.Tensor, clean: tf.Tensor, gradient: tf.Tensor, share: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """
        What it is given in the next replay.

        :param image: What it was given.
        :param clean: The clean images.
        :param gradient: Of the loss with respect to ``image``.
        :param share: As in the call that began.
        :param seed: As in the call that began.
        """


class Pix2Pix(keras.Model):
    """
    The paper's objective (equations 1 to 4): ``L = L_cGAN + lambda L1 + mu L_perceptual``.

    Trained on (adversarial, clean) batches, (N, H, W, 3) float32 in [0, 1]. The weights lambda and mu follow the
    schedule through :class:`ScheduleCallback`, which ``fit`` adds. Under a ``tf.distribute`` strategy (build and
    compile in its scope) the losses are those of the global batch.

    :param generator: Adversarial image -> purified image.
    :param discriminator: [adversarial, image] -> patch logits; None trains without the adversarial loss.
    :param perceptual: The perceptual loss; None trains without it. Its networks follow the generator's precision where
        there is a GPU, all but their layers up to the first with weights.
    :param schedule: lambda and mu by epoch.
    :param clip_norm: The generator's gradient is scaled down to this norm where it is longer, over all replicas; None
        leaves it.
    :param real_label: What the discriminator is to call a real patch; below 1 is one-sided label smoothing.
    :param r1: Weight of the R1 penalty of the discriminator; 0 leaves it out.
    :param inner: What makes the adversarial images inside the step, in place of those that come with a batch.
    :param inner_steps: Steps of the generator in the whole run, by which ``inner`` knows how much of it has passed.
    :param distillation: Keeps the answers of an older generator on some of the pairs.
    :param seed: Of what ``inner`` draws: of the step alone, so that a run that goes on draws what it would have drawn.
    :raises ValueError: If ``clip_norm``, ``real_label`` or ``r1`` is not as expected.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model | None = None,
        perceptual: PerceptualLoss | RandomPerceptualLoss | None = None,
        *,
        schedule: LossSchedule = PAPER_SCHEDULE,
        clip_norm: float | None = None,
        real_label: float = 1.0,
        r1: float = 0.0,
        inner: InnerSource | None = None,
        inner_steps: int = 1,
        distillation: Distillation | None = None,
        seed: int = 0,
        name: str = "pix2pix",
    ) -> None:
        super().__init__(name=name)
        if not isinstance(schedule, LossSchedule):
            raise TypeError(f"Expected schedule to be a LossSchedule. Received {schedule!r}.")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"Expected clip_norm to be None or above 0. Received {clip_norm!r}.")
        self.generator, self.discriminator = generator, discriminator
        self.perceptual, self.schedule, self.clip_norm = perceptual, schedule, clip_norm
        self.real_label, self.r1 = check_number("real_label", real_label, 0.5, 1), check_number("r1", r1, 0, 1e6)
        self.inner, self.inner_steps, self.seed = inner, inner_steps, seed
        self.distillation = distillation
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
        self.inner_level = None
        if inner is not None and inner.level is not None:
            self.inner_level = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(inner.level), trainable=False, name="inner_level"
            )
        names = ["loss", "pixel"]
        if perceptual is not None:
            names.append("perceptual")
        if distillation is not None and distillation.weight:
            names.append("distillation")
        if discriminator is not None:
            names += ["adversarial", "discriminator"]
        self.discriminator_optimizer: Any = None
        self.train_function: Any = None
        self._trackers = {n: keras.metrics.Mean(name=n) for n in names}
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The named losses, averaged over the epoch."""
        return list(self._trackers.values())

    def compile(
        self,
        generator_optimizer: Any = None,
        discriminator_optimizer: Any = None,
        *,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """
        Set the optimizers; Adam with learning rate 2e-4 and beta_1 0.5 by default (arXiv 1611.07004, section 3.3).

        An optimizer with ``use_ema=True`` keeps the running average that :meth:`averaged` puts in place. For a network
        in mixed float16 the optimizer is wrapped into Keras's ``LossScaleOptimizer``.

        :param generator_optimizer: The generator's: an optimizer, or what ``keras.optimizers.get`` takes ("adam").
        :param discriminator_optimizer: The discriminator's, another object.
        :param optimizer: Keras's name for ``generator_optimizer``.
        :param kwargs: Passed to :meth:`keras.Model.compile`.
        :raises ValueError: If two optimizers are given for one network, or one object for both.
        """
        if optimizer is not None and generator_optimizer is not None:
            raise ValueError("Expected generator_optimizer or optimizer, which are the same. Received both.")
        own = _optimizer(generator_optimizer if optimizer is None else optimizer)
        other = _optimizer(discriminator_optimizer)
        if own is other:
            raise ValueError("Expected two optimizers. Received one object for both.")
        own = _scaled(own, self.generator)
        super().compile(optimizer=own, auto_scale_loss=False, **kwargs)
        own.build(self.generator.trainable_variables)
        self.discriminator_optimizer = None
        if self.discriminator is not None:
            other = _scaled(other, self.discriminator)
            other.build(self.discriminator.trainable_variables)
            self.discriminator_optimizer = other

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        verbose: Any = "auto",
        callbacks: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """
        :meth:`keras.Model.fit` under the schedule, with its parameters in their order.

        :param x: A dataset of (adversarial, clean) batches, or adversarial images (N, H, W, 3).
        :param y: The clean images, where ``x`` is images.
        :param batch_size: Images a step, where ``x`` is images.
        :param epochs: Epochs; by default those of the schedule.
        :param verbose: "auto", 0 for silence, 1 for a bar, 2 for a line an epoch.
        :param callbacks: A further callback, or several.
        """
        if callbacks is None:
            callbacks = []
        elif isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        callbacks = [ScheduleCallback(), *callbacks]
        epochs = self.schedule.epochs if epochs is None else epochs
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        """
        Keras's own compiled step; for several workers one that takes the mean of their losses itself, as Keras 3.15
        takes it along an axis that a scalar does not have.

        :param force: Make it anew.
        """
        strategy = self.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            super().make_train_function(force)
        elif self.train_function is None or force:

            @tf.function(reduce_retracing=True)
            def step(batches: Any) -> dict[str, tf.Tensor]:
                losses = strategy.run(self.train_step, args=(next(batches),))
                return {name: strategy.reduce("MEAN", loss, axis=None) for name, loss in losses.items()}

            self.train_function = step

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # The networks come built. Under a strategy Keras 3.15 would build them on a mean over the replicas of a pair of
        # batches, and fails to take it where there are several workers.
        pass

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Purify (N, H, W, 3) in [0, 1]."""
        return self.generator(inputs, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """
        One step of both networks on a batch, each against the other as it was.

        :param data: (adversarial, clean), or (adversarial, clean, victims): the number of the attacked network, (N,),
            all the same, by which :class:`~art_versatile.pix2pix.perceptual.RandomPerceptualLoss` takes its own. With
            ``distillation`` (adversarial, clean, kept): whether the older answer on a pair is to be kept, bool (N,).
        :return: The epoch's running means of the named losses.
        """
        victims: list[tf.Tensor]
        x_adv, clean, *victims = data
        kept = victims.pop() if self.distillation is not None else None
        if self.inner is None:
            losses, _ = self._step(x_adv, clean, victims, kept)
        else:
            share, seed = self._passed()
            x_adv = self.inner(lambda images: self.generator(images, training=False), clean, share, seed)
            for replay in range(self.inner.replay):
                losses, gradient = self._step(x_adv, clean, victims, kept, watched=self.inner.replay > 1)
                if replay + 1 < self.inner.replay:
                    x_adv = self.inner.moved(x_adv, clean, gradient, share, seed)
        for name, tracker in self._trackers.items():
            tracker.update_state(losses[name])
        return {name: tracker.result() for name, tracker in self._trackers.items()}

    def _passed(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The share of the run that has passed, or the level, and the seed of this step on this replica."""
        step = tf.cast(self.optimizer.iterations, tf.int64)
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else tf.cast(context.replica_id_in_sync_group, tf.int64)
        key = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(replica, tf.int64)])
        passed = tf.cast(step, tf.float32) / self.inner_steps
        share = passed if self.inner_level is None else tf.convert_to_tensor(self.inner_level)
        return share, tf.random.experimental.stateless_fold_in(key, step)

    def _step(
        self,
        x_adv: tf.Tensor,
        clean: tf.Tensor,
        victims: Sequence[tf.Tensor],
        kept: tf.Tensor | None,
        *,
        watched: bool = False,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """Losses of one step of both networks and, where ``x_adv`` is watched, the gradient with respect to it."""
        losses: dict[str, tf.Tensor] = {}
        with tf.GradientTape() as discriminator_tape:
            if self.discriminator is not None:
                real, penalty = self._judged(self.discriminator, x_adv, clean)
            with tf.GradientTape() as tape:
                if watched:
                    tape.watch(x_adv)
                purified = self.generator(x_adv, training=True)
                losses["pixel"] = pixel_loss(purified, clean)
                total = self.pixel_weight * losses["pixel"]
                if self.perceptual is not None:
                    losses["perceptual"] = self._perceptual_loss(purified, clean, victims)
                    total += self.perceptual_weight * losses["perceptual"]
                if self.distillation is not None and self.distillation.weight:
                    losses["distillation"] = self._distillation_loss(self.distillation.teacher, x_adv, purified, kept)
                    total += self.distillation.weight * losses["distillation"]
                if self.discriminator is not None:
                    fake = self.discriminator([x_adv, purified], training=True)  # one pass for both networks' losses
                    losses["adversarial"] = generator_adversarial_loss(fake)
                    total += losses["adversarial"]
                objective = self.optimizer.scale_loss(_of_global_batch(total))
            if self.discriminator is not None:
                losses["discriminator"] = discriminator_loss(real, fake, self.real_label)
                judgement = losses["discriminator"] + penalty
                judgement = self.discriminator_optimizer.scale_loss(_of_global_batch(judgement))
        losses["loss"] = total
        variables = self.generator.trainable_variables
        # One pass gives the gradient of the weights and that of the images.
        *gradients, of_images = tape.gradient(objective, [*variables, x_adv])
        self._apply(self.optimizer, gradients, variables, self.clip_norm)
        if self.discriminator is not None:
            variables = self.discriminator.trainable_variables
            self._apply(self.discriminator_optimizer, discriminator_tape.gradient(judgement, variables), variables)
        return losses, of_images

    def _judged(
        self, discriminator: keras.Model, x_adv: tf.Tensor, clean: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | float]:
        """The discriminator's logits on real patches, and its weighted R1 penalty."""
        if not self.r1:
            return discriminator([x_adv, clean], training=True), 0.0
        with tf.GradientTape() as tape:
            tape.watch(clean)
            real = discriminator([x_adv, clean], training=True)
            total = tf.reduce_sum(real)
        return real, self.r1 * gradient_penalty(tape.gradient(total, clean), real)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """
        Losses of the deterministic generator on a batch, without the adversarial ones.

        :param data: (adversarial, clean).
        """
        victims: list[tf.Tensor]
        x_adv, clean, *victims = data
        if self.distillation is not None:
            victims = []
        purified = self.generator(x_adv, training=False)
        losses = {"pixel": pixel_loss(purified, clean)}
        losses["loss"] = self.pixel_weight * losses["pixel"]
        if self.perceptual is not None:
            losses["perceptual"] = self._perceptual_loss(purified, clean, victims)
            losses["loss"] += self.perceptual_weight * losses["perceptual"]
        for name, value in losses.items():
            self._trackers[name].update_state(value)
        return {name: self._trackers[name].result() for name in losses}

    def _perceptual_loss(self, purified: tf.Tensor, clean: tf.Tensor, victims: Sequence[tf.Tensor]) -> tf.Tensor:
        """The loss; of the attacked network where there are several and it is known."""
        perceptual: Any = self.perceptual
        policy = followed_policy(self.generator)
        with contextlib.ExitStack() as stack:
            for network in perceptual.networks if policy != "float32" else ():
                stack.enter_context(computed_in(network, policy, from_pixels=True))
            if victims and isinstance(perceptual, RandomPerceptualLoss):
                return perceptual(purified, clean, victims[0][0])
            return perceptual(purified, clean)

    def _distillation_loss(
        self, teacher: keras.Model, x_adv: tf.Tensor, purified: tf.Tensor, kept: tf.Tensor
    ) -> tf.Tensor:
        """The weighted pixel and perceptual loss between what is answered now and what the older generator answers."""
        older = tf.cast(teacher(x_adv, training=False), purified.dtype)
        # Where nothing is kept the target is the answer itself: no loss, no gradient, and no shape that varies.
        target = tf.stop_gradient(tf.where(tf.reshape(kept, (-1, 1, 1, 1)), older, purified))
        loss = self.pixel_weight * pixel_loss(purified, target)
        if self.perceptual is not None:
            loss += self.perceptual_weight * self._perceptual_loss(purified, target, [])
        return loss

    @contextlib.contextmanager
    def averaged(self) -> Iterator[keras.Model]:
        """
        The generator with its running average (EMA) as weights; the trained weights are put back at the end.

        Without ``use_ema`` in the optimizer, and before the first step, it is the generator as it is.
        """
        optimizer: Any = self.optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if not inner.use_ema or not int(inner.iterations.numpy()):
            yield self.generator
            return
        trained = self.generator.get_weights()
        inner.finalize_variable_values(self.generator.trainable_variables)
        try:
            yield self.generator
        finally:
            self.generator.set_weights(trained)

    def _apply(
        self,
        optimizer: Any,
        gradients: list[tf.Tensor | None],
        variables: Any,
        clip_norm: float | None = None,
    ) -> None:
        found = [gradient for gradient in gradients if gradient is not None]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        summed = bool(found) and replicas > 1 and (clip_norm is not None or scaled)
        if summed:
            # Keras clips, and looks for an overflow on one replica, before it sums over them; what counts is the sum.
            found = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, found)
        if found and clip_norm is not None:
            # The gradient is still that of the scaled loss.
            found, _ = tf.clip_by_global_norm(found, optimizer.scale_loss(tf.constant(float(clip_norm))))
        if summed:
            found = [gradient / replicas for gradient in found]  # the optimizer sums them
        rest = iter(found)
        gradients = [None if gradient is None else next(rest) for gradient in gradients]  # Keras skips and names these
        optimizer.apply_gradients(zip(gradients, variables, strict=True))


def _of_global_batch(loss: tf.Tensor) -> tf.Tensor:
    """A replica's share of the mean over the global batch: the optimizer sums the replicas' gradients."""
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def _optimizer(given: Any) -> Any:
    return keras.optimizers.Adam(2e-4, beta_1=0.5) if given is None else keras.optimizers.get(given)


def _scaled(optimizer: Any, network: keras.Model) -> Any:
    half = any(getattr(layer, "compute_dtype", None) == "float16" for layer in network.layers)
    if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


class ScheduleCallback(keras.callbacks.Callback):
    """Sets the model's loss weights at the start of each epoch, from its schedule."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set them."""
        pixel, perceptual = self.model.schedule(epoch)
        self.model.pixel_weight.assign(pixel)
        self.model.perceptual_weight.assign(perceptual)
