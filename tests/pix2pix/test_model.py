from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pix2pix import CompactGenerator, LossSchedule, PerceptualLoss, Pix2Pix, patchgan
from art_versatile.pix2pix import precision as precisions
from art_versatile.pix2pix.model import ScheduleCallback
from art_versatile.pix2pix.precision import set_precision

SCHEDULE = LossSchedule([(2, 10.0, 3.0), (1, 5.0, 0.5)])


def make_generator(seed=0, noise=0.0):
    generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), factor=2, sigmas=(0.0, 1.0), noise=noise, seed=seed)
    rng = np.random.default_rng(seed)
    generator.set_weights([w + 0.02 * rng.standard_normal(w.shape) for w in generator.get_weights()])
    return generator


def make_perceptual(seed=0):
    image = keras.Input((None, None, 3))
    init = [keras.initializers.GlorotUniform(seed=seed + k) for k in range(2)]
    x = keras.layers.Conv2D(4, 3, activation="tanh", kernel_initializer=init[0], name="features")(image)
    x = keras.layers.Dense(5, kernel_initializer=init[1])(keras.layers.GlobalAveragePooling2D()(x))
    return PerceptualLoss(keras.Model(image, x), ["features"], prediction_weight=0.5)


def make(
    generator_optimizer=None, discriminator_optimizer=None, *, adversarial=True, perceptual=True, noise=0.0,
    clip_norm=None, precision="float32", **more,
):  # fmt: skip
    model = Pix2Pix(
        make_generator(noise=noise),
        patchgan(4, seed=1) if adversarial else None,
        make_perceptual() if perceptual else None,
        schedule=SCHEDULE,
        clip_norm=clip_norm,
    )
    for network in (model.generator, model.discriminator):
        if network is not None:
            set_precision(network, precision)
    model.compile(generator_optimizer, discriminator_optimizer, **more)
    return model


def make_small(generator_optimizer=None, *, generator=None, clip_norm=None, **more):
    """What the loop does can be seen on networks of one layer, compiled at once."""
    image, other = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    init = [keras.initializers.GlorotUniform(seed=seed) for seed in range(3)]
    noisy = keras.layers.GaussianNoise(0.1, seed=0)(image)
    seen = keras.layers.Concatenate()([image, other])
    model = Pix2Pix(
        generator or keras.Model(image, keras.layers.Conv2D(3, 1, kernel_initializer=init[0])(noisy)),
        keras.Model([image, other], keras.layers.Conv2D(1, 8, 8, kernel_initializer=init[1])(seen)),
        PerceptualLoss(
            keras.Model(image, keras.layers.Conv2D(2, 3, kernel_initializer=init[2], name="f")(image)), ["f"]
        ),
        schedule=SCHEDULE,
        clip_norm=clip_norm,
    )
    model.compile(generator_optimizer or keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01), **more)
    return model


def batch(n=2, seed=0):
    """(adversarial, clean): smooth pictures and the same under noise of one sign a pixel."""
    rng = np.random.default_rng(seed)
    clean = rng.uniform(0.2, 0.8, (n, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    adversarial = clean + 0.1 * rng.choice([-1.0, 1.0], clean.shape)
    return tf.constant(adversarial, tf.float32), tf.constant(clean, tf.float32)


def fit(model, data=None, **kwargs):
    data = dataset() if data is None else data
    return model.fit(data, **{"verbose": 0, "shuffle": False, **kwargs}).history


def dataset(n=4, batch_size=2):
    return tf.data.Dataset.from_tensor_slices(batch(n)).batch(batch_size)


def weights(model):
    return [w.copy() for w in model.get_weights()]


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def changed(a, b):
    return [not np.array_equal(x, y) for x, y in zip(a, b, strict=True)]


class TestTrainStep:
    def test_losses_and_gradients_against_a_hand_written_step(self):
        """With plain gradient descent of rate 1 the weights move by the gradient itself."""
        model = make(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
        x_adv, clean = batch()
        generator, discriminator, perceptual = make_generator(), patchgan(4, seed=1), make_perceptual()
        assert_equal(weights(model.generator), weights(generator))

        def bce(logits, real):
            d = 1 / (1 + tf.exp(-tf.cast(logits, tf.float64)))
            return tf.cast(-tf.reduce_mean(tf.math.log(d if real else 1 - d)), tf.float32)

        with tf.GradientTape() as tape:
            purified = generator(x_adv)
            expected = {
                "pixel": tf.reduce_mean(tf.abs(purified - clean)),
                "perceptual": perceptual(purified, clean),
                "adversarial": bce(discriminator([x_adv, purified]), True),
            }
            total = 10.0 * expected["pixel"] + 3.0 * expected["perceptual"] + expected["adversarial"]
        generator_gradients = tape.gradient(total, generator.trainable_variables)
        with tf.GradientTape() as tape:  # two separate passes
            real, fake = discriminator([x_adv, clean]), discriminator([x_adv, tf.stop_gradient(purified)])
            expected["discriminator"] = (bce(real, True) + bce(fake, False)) / 2
        discriminator_gradients = tape.gradient(expected["discriminator"], discriminator.trainable_variables)
        expected["loss"] = total

        metrics = model.train_step((x_adv, clean))
        assert set(metrics) == set(expected)
        for name, value in expected.items():
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4), name
        for network, before, gradients in (
            (model.generator, generator, generator_gradients),
            (model.discriminator, discriminator, discriminator_gradients),
        ):
            for after, start, gradient in zip(
                network.trainable_variables, before.trainable_variables, gradients, strict=True
            ):
                np.testing.assert_allclose(start - after, gradient, atol=2e-5, rtol=1e-3, err_msg=after.path)
                assert np.abs(gradient).max() > 0 or "bias" in after.path

    @pytest.mark.parametrize("frozen", ["generator", "discriminator"])
    def test_each_step_moves_its_own_network_only(self, frozen):
        optimizers = [keras.optimizers.SGD(0.0 if frozen == name else 0.1) for name in ("generator", "discriminator")]
        model = make(*optimizers)
        networks = {"generator": model.generator, "discriminator": model.discriminator}
        before = {name: weights(network) for name, network in networks.items()}
        model.train_step(batch())
        for name, network in networks.items():
            moved = changed(before[name], weights(network))
            assert any(moved) == (name != frozen)

    def test_the_perceptual_network_stays_as_it_is(self):
        model = make()
        extractor = model.perceptual._extractor
        before = weights(extractor)
        model.train_step(batch())
        assert_equal(before, weights(extractor))
        own = model.generator.count_params() + model.discriminator.count_params()
        assert model.count_params() == own + 2  # and the two loss weights

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            ({}, {"loss", "pixel", "perceptual", "adversarial", "discriminator"}),
            ({"perceptual": False}, {"loss", "pixel", "adversarial", "discriminator"}),
            ({"adversarial": False}, {"loss", "pixel", "perceptual"}),
            ({"adversarial": False, "perceptual": False}, {"loss", "pixel"}),
        ],
    )
    def test_with_and_without_each_part(self, arguments, names):
        model = make(**arguments, run_eagerly=True)
        assert (model.discriminator_optimizer is None) == (not arguments.get("adversarial", True))
        history = fit(model, epochs=2)
        assert set(history) == names
        assert all(np.isfinite(values).all() and len(values) == 2 for values in history.values())

    def test_the_total_is_the_weighted_sum(self):
        model = make()
        model.pixel_weight.assign(7.0)
        model.perceptual_weight.assign(0.25)
        m = {name: float(value) for name, value in model.train_step(batch()).items()}
        assert m["loss"] == pytest.approx(7 * m["pixel"] + 0.25 * m["perceptual"] + m["adversarial"], rel=1e-5)

    def test_metrics_are_means_over_the_epoch(self):
        model = make(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0))
        first, second = (float(model.generator(x)[0, 0, 0, 0]) for x, _ in (batch(seed=0), batch(seed=1)))
        assert first != second
        values = []
        for seed in (0, 1):
            model.reset_metrics()
            values.append(float(model.train_step(batch(seed=seed))["loss"]))
        model.reset_metrics()
        model.train_step(batch(seed=0))
        assert float(model.train_step(batch(seed=1))["loss"]) == pytest.approx(np.mean(values), rel=1e-5)
        assert values[0] != pytest.approx(values[1], rel=1e-3)


def moves(model):
    """By how much a step moves the generator: with plain gradient descent of rate 1, its gradient."""
    before = [v.numpy() for v in model.generator.trainable_variables]
    model.train_step(batch())
    return [b - v.numpy() for b, v in zip(before, model.generator.trainable_variables, strict=True)]


def norm_of(arrays):
    return np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays))


@pytest.fixture(scope="module")
def gradients():
    """Of the generator's whole objective, without clipping."""
    return moves(make(keras.optimizers.SGD(1.0)))


class TestDiscriminatorSettings:
    """On a discriminator of one weight a channel, a patch a pixel."""

    @staticmethod
    def moved(**settings):
        """The weights before a step of plain gradient descent at a rate of 1, and after it."""
        image, other = keras.Input((None, None, 3)), keras.Input((None, None, 3))
        judge = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=keras.initializers.Constant(0.5))
        discriminator = keras.Model([image, other], judge(other))
        model = Pix2Pix(keras.Model(image, keras.layers.Conv2D(3, 1)(image)), discriminator, **settings)
        model.generator.set_weights([np.eye(3).reshape(1, 1, 3, 3), np.zeros(3)])  # answers what it is given
        model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
        before = discriminator.get_weights()[0].ravel()
        losses = model.train_step(batch())
        return before, discriminator.get_weights()[0].ravel(), losses

    def test_r1_pulls_by_its_weight_times_the_weights(self):
        # The gradient of the summed logits at each pixel is w itself: the penalty is |w|^2 / 2, its gradient w.
        before, plain, losses = self.moved()
        _, pulled, same = self.moved(r1=0.2)
        np.testing.assert_allclose(pulled, plain - 0.2 * before, rtol=1e-5)
        assert float(same["discriminator"]) == float(losses["discriminator"])  # logged without it

    def test_smoothed_labels_against_the_gradient_by_hand(self):
        x_adv, clean = (images.numpy().reshape(-1, 3) for images in batch())
        before, after, _ = self.moved(real_label=0.9)
        real, fake = (1 / (1 + np.exp(-images @ before)) for images in (clean, x_adv))
        gradient = 0.5 * ((real - 0.9) @ clean / len(clean) + fake @ x_adv / len(x_adv))
        np.testing.assert_allclose(after, before - gradient, rtol=1e-4)

    @pytest.mark.parametrize(("name", "value"), [("real_label", 0.4), ("real_label", 1.1), ("r1", -1), ("r1", "1")])
    def test_errors(self, name, value):
        with pytest.raises(ValueError, match=f"Expected {name}"):
            Pix2Pix(make_generator(), **{name: value})


class TestClipNorm:
    @pytest.mark.parametrize("share", [0.1, 0.9, 1.5])
    def test_by_hand(self, gradients, share):
        norm = norm_of(gradients)
        got = moves(make(keras.optimizers.SGD(1.0), clip_norm=share * norm))
        assert norm_of(got) == pytest.approx(min(share, 1) * norm, rel=1e-4)
        for move, gradient in zip(got, gradients, strict=True):
            np.testing.assert_allclose(move, min(share, 1) * gradient, atol=1e-5 * norm)

    def test_the_discriminator_is_not_clipped(self):
        expected, clipped = (
            make(keras.optimizers.SGD(0.0), keras.optimizers.SGD(1.0), clip_norm=norm) for norm in (None, 1e-3)
        )
        for model in (expected, clipped):
            model.train_step(batch())
        assert_equal(weights(clipped.discriminator), weights(expected.discriminator))

    @pytest.mark.parametrize("share", [0.1, 1.5])
    @pytest.mark.parametrize(
        "optimizer",
        [
            lambda: keras.optimizers.SGD(1.0, loss_scale_factor=256.0),
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=64.0),
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0),
        ],
    )
    def test_the_scale_of_the_loss_does_not_count(self, gradients, optimizer, share):
        norm = norm_of(gradients)
        got = moves(make(optimizer(), clip_norm=share * norm))
        for move, gradient in zip(got, gradients, strict=True):
            np.testing.assert_allclose(move, min(share, 1) * gradient, atol=1e-4 * norm)

    @pytest.mark.parametrize("clip_norm", [0, -1.0])
    def test_errors(self, clip_norm):
        with pytest.raises(ValueError, match=f"Expected clip_norm to be None or above 0. Received {clip_norm}"):
            make(clip_norm=clip_norm)


class Idle(keras.layers.Layer):
    """Has a weight that counts nowhere."""

    def build(self, shape):
        self.idle = self.add_weight(shape=(2,), name="idle")

    def call(self, x):
        return x


@pytest.mark.parametrize("clip_norm", [None, 1e-3])
def test_a_weight_without_a_gradient(clip_norm):
    image = keras.Input((None, None, 3))
    model = Pix2Pix(keras.Model(image, keras.layers.Conv2D(3, 1)(Idle()(image))), clip_norm=clip_norm)
    model.compile(keras.optimizers.SGD(1.0))
    before = weights(model.generator)
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['idle.*/idle'\]"):
        model.train_step(batch())
    idle, *others = changed(before, weights(model.generator))
    assert not idle
    assert any(others)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    path = tmp_path_factory.mktemp("replicas") / "replicas.npz"
    script = Path(__file__).parent / "replicas_process.py"
    child = subprocess.run([sys.executable, script, path], capture_output=True, text=True, timeout=240)
    assert child.returncode == 0, child.stderr[-4000:]
    return dict(np.load(path))


class TestReplicas:
    """On two devices, in a process of its own."""

    @pytest.mark.parametrize("network", ["generator", "discriminator"])
    @pytest.mark.parametrize("replica", [0, 1])
    def test_an_overflow_on_one_leaves_the_step_out_on_all(self, replicas, replica, network):
        for part in ("before", "after"):
            assert np.isfinite(replicas[f"{replica} {network} {part}"]).all()
        np.testing.assert_array_equal(replicas[f"{replica} {network} after"], replicas[f"{replica} {network} before"])
        assert replicas[f"{replica} {network} scale"] == 2.0**99

    @pytest.mark.parametrize("network", ["generator", "discriminator"])
    def test_without_an_overflow_the_step_is_that_of_one_device(self, replicas, network):
        before, after, one = (replicas[f"none {network} {part}"] for part in ("before", "after", "one device"))
        assert np.abs(after - before).max() > 1e-3
        np.testing.assert_allclose(after, one, rtol=1e-5)
        assert replicas[f"none {network} scale"] == 2.0**100

    def test_each_draws_its_own_noise(self, replicas):
        noise = replicas["noise"]  # (call, replica, ...)
        assert noise.std(axis=tuple(range(2, noise.ndim))) == pytest.approx(0.1, rel=0.05)
        pairwise = np.corrcoef(noise.reshape(4, -1))
        assert np.abs(pairwise - np.eye(4)).max() < 0.05


class TestHalfPrecision:
    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_the_perceptual_network_follows_on_a_gpu(self, monkeypatch, policy):
        """While it is computed, and all but the layer that sees pixels; on a CPU it stays as it is."""
        seen = []

        class Look(keras.layers.Layer):
            def call(self, x):
                seen.append(x.dtype)
                return x

        image = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(4, 3, activation="tanh", name="first")(image)
        x = keras.layers.Conv2D(4, 3, name="second")(Look()(x))
        network = keras.Model(image, Look()(x))
        losses = []
        for gpu in (False, True):
            monkeypatch.setattr(precisions, "gpu_is_used", lambda gpu=gpu: gpu)
            model = Pix2Pix(make_generator(), None, PerceptualLoss(network, ["second"]))
            set_precision(model.generator, policy)
            seen.clear()
            model.compile(run_eagerly=True)
            losses.append(float(model.train_step(batch())["perceptual"]))
            half = tf.as_dtype(policy.removeprefix("mixed_")) if gpu else tf.float32
            assert seen == [half] * 2, "of the layer between; nothing needs the last one"
            assert {layer.compute_dtype for layer in network.layers} == {"float32"}
        assert losses[1] == pytest.approx(losses[0], rel=0.05)
        assert losses[1] != losses[0]

    def test_the_optimizers_scale_the_loss(self):
        model = make(precision="mixed_float16")
        for optimizer in (model.optimizer, model.discriminator_optimizer):
            assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            assert isinstance(optimizer.inner_optimizer, keras.optimizers.Adam)
        for precision in ("float32", "mixed_bfloat16"):
            assert isinstance(make(precision=precision).optimizer, keras.optimizers.Adam)

    def test_one_that_scales_is_left_as_it_is(self):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
        assert make(optimizer, precision="mixed_float16").optimizer is optimizer

    def test_the_clipped_norm(self, gradients):
        norm = norm_of(gradients)
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=64.0)
        got = moves(make(optimizer, clip_norm=norm / 4, precision="mixed_float16"))
        assert norm_of(got) == pytest.approx(norm / 4, rel=1e-2)

    def test_an_overflow_leaves_the_step_out(self):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0**60)
        model = make(optimizer, clip_norm=1.0, precision="mixed_float16")
        before = [v.numpy() for v in model.generator.trainable_variables]
        metrics = model.train_step(batch())
        assert np.isfinite(float(metrics["loss"]))
        for a, b in zip(before, model.generator.trainable_variables, strict=True):
            np.testing.assert_array_equal(a, b.numpy())
        assert float(optimizer.dynamic_scale.numpy()) == 2.0**59


class TestGlobalPolicy:
    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    @pytest.mark.parametrize("own", [True, False])
    def test_a_step_under_a_mixed_policy(self, policy, own):
        """With this package's generator, and with one that answers in half precision."""
        expected = make() if own else make_small()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = make() if own else make_small()
        finally:
            keras.config.set_dtype_policy(before)
        half = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert half == (policy == "mixed_float16")
        if own:  # noise is drawn in the precision of its layer
            metrics, reference = model.train_step(batch()), expected.train_step(batch())
            for name, value in reference.items():
                assert float(metrics[name]) == pytest.approx(float(value), rel=0.05), name
        else:
            assert model.generator(batch()[0]).dtype == policy.removeprefix("mixed_")
            trained = weights(model.generator)
            metrics = fit(model, epochs=8)  # the first overflow, until the scale fits
            assert all(np.isfinite(values).all() for values in metrics.values())
            assert any(changed(trained, weights(model.generator)))


class TestAveraged:
    @pytest.mark.parametrize("scaled", [False, True])
    def test_by_hand(self, scaled):
        """Keras's average: the weights after the first step, then m a + (1 - m) w after each further one."""
        optimizer = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.8)
        model = make(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0) if scaled else optimizer)
        average = None
        for seed in range(4):
            model.train_step(batch(seed=seed))
            trained = weights(model.generator)
            average = trained if average is None else [0.8 * a + 0.2 * w for a, w in zip(average, trained, strict=True)]
        with model.averaged() as generator:
            assert generator is model.generator
            for got, want in zip(weights(generator), average, strict=True):
                np.testing.assert_allclose(got, want, atol=1e-6)
        assert_equal(weights(model.generator), trained)
        assert any(np.abs(a - w).max() > 1e-4 for a, w in zip(average, trained, strict=True))

    def test_an_error_inside_puts_the_weights_back(self):
        model = make(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.8))
        for seed in range(2):
            model.train_step(batch(seed=seed))
        trained = weights(model.generator)
        with contextlib.suppress(KeyError), model.averaged() as generator:
            assert any(changed(weights(generator), trained))
            raise KeyError
        assert_equal(weights(model.generator), trained)

    def test_without_an_average_and_before_the_first_step(self):
        for optimizer, steps in ((keras.optimizers.Adam(1e-2), 1), (keras.optimizers.Adam(1e-2, use_ema=True), 0)):
            model = make(optimizer)
            for _ in range(steps):
                model.train_step(batch())
            trained = weights(model.generator)
            with model.averaged() as generator:
                assert_equal(weights(generator), trained)

    def test_fit_ends_with_the_average(self):
        """Keras's own way; the discriminator keeps its weights."""
        model = make_small(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
        seen = []
        look = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append([weights(model.generator), weights(model.discriminator)])
        )
        fit(model, epochs=1, callbacks=[look])
        (first, _), (second, discriminator) = seen
        for got, a, b in zip(weights(model.generator), first, second, strict=True):
            np.testing.assert_allclose(got, (a + b) / 2, atol=1e-6)
        assert_equal(weights(model.discriminator), discriminator)


class TestFit:
    def test_loss_falls_with_every_part(self):
        model = make(keras.optimizers.Adam(1e-2))
        history = fit(model, dataset(4, 4), epochs=12)
        weighted = 10 * np.array(history["pixel"]) + np.array(history["perceptual"])
        assert weighted[-1] < 0.8 * weighted[0]
        assert history["pixel"][-1] < 0.8 * history["pixel"][0]
        assert set(history) == {"loss", "pixel", "perceptual", "adversarial", "discriminator"}

    def test_parameters_in_kerass_order(self):
        model, seen = make_small(run_eagerly=True), []
        look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
        assert len(model.fit(dataset(), None, None, 2, 0, look).history["loss"]) == 2  # one callback, not in a list
        assert seen == [0, 1]
        model.fit(*batch(4), 2, 1, 0, [look], 0.5)  # arrays; half of them held
        assert seen == [0, 1, 0]
        assert model.history.params["steps"] == 1
        assert "val_pixel" in model.history.history

    def test_the_schedule_sets_the_weights_as_epochs_begin(self):
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                seen.append((float(self.model.pixel_weight.numpy()), float(self.model.perceptual_weight.numpy())))

        model = make_small()
        assert (float(model.pixel_weight.numpy()), float(model.perceptual_weight.numpy())) == (10.0, 3.0)
        fit(model, epochs=4, callbacks=[Look()])
        assert seen == [(10.0, 3.0)] * 4 + [(5.0, 0.5)] * 4

    def test_a_run_that_goes_on_is_in_the_stage_of_its_epoch(self):
        m = fit(make_small(), initial_epoch=2, epochs=3)
        expected = 5 * m["pixel"][0] + 0.5 * m["perceptual"][0] + m["adversarial"][0]
        assert m["loss"][0] == pytest.approx(expected, rel=1e-4)

    def test_the_weights_are_followed_inside_the_compiled_step(self):
        m = fit(make_small())
        assert len(m["loss"]) == SCHEDULE.epochs == 3
        for epoch in range(3):
            pixel, perceptual = SCHEDULE(epoch)
            expected = pixel * m["pixel"][epoch] + perceptual * m["perceptual"][epoch] + m["adversarial"][epoch]
            assert m["loss"][epoch] == pytest.approx(expected, rel=1e-4)

    def test_no_epochs(self):
        model = make_small()
        before = weights(model.generator)
        assert fit(model, epochs=0) == {}
        assert_equal(before, weights(model.generator))

    def test_the_same_seeds_give_the_same_weights(self):
        runs = []
        for _ in range(2):
            model = make_small()
            fit(model, epochs=2)
            runs.append([*weights(model.generator), *weights(model.discriminator)])
        for a, b in zip(*runs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)
        assert any(changed(runs[0], [*weights(make_small().generator), *weights(make_small().discriminator)]))

    def test_eager_and_compiled_steps_agree(self):
        eager, compiled = (fit(make_small(run_eagerly=eagerly), epochs=2) for eagerly in (True, False))
        for name, values in eager.items():
            np.testing.assert_allclose(values, compiled[name], rtol=1e-4, err_msg=name)

    def test_xla_compiles_the_step(self):
        """As Keras does on one GPU. With the whole objective, clipping and an average."""
        runs = []
        for how in ({"run_eagerly": True}, {"jit_compile": True}):
            generator = CompactGenerator(widths=(4,), blocks=(1,), factor=2, sigmas=(0.0, 1.0), noise=0.0)
            model = make_small(keras.optimizers.SGD(0.1, use_ema=True), generator=generator, clip_norm=1.0, **how)
            runs.append((fit(model, dataset(4, 4), epochs=1), weights(generator)))
        for name, values in runs[0][0].items():
            np.testing.assert_allclose(values, runs[1][0][name], rtol=1e-4, err_msg=name)
        for a, b in zip(runs[0][1], runs[1][1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)

    def test_evaluate_is_the_deterministic_generator(self):
        model = make_small()
        before = weights(model.generator)
        x_adv, clean = batch(4)
        result = model.evaluate(dataset(), verbose=0, return_dict=True)
        assert {"loss", "pixel", "perceptual"} <= set(result)
        purified = model.generator(x_adv)
        pixel = float(tf.reduce_mean(tf.abs(purified - clean)))
        perceptual = np.mean([model.perceptual(purified[i : i + 2], clean[i : i + 2]) for i in (0, 2)])
        assert result["pixel"] == pytest.approx(pixel, rel=1e-4)
        assert result["perceptual"] == pytest.approx(perceptual, rel=1e-3)
        assert result["loss"] == pytest.approx(10 * pixel + 3 * perceptual, rel=1e-3)
        assert_equal(before, weights(model.generator))

    def test_validation_data(self):
        history = fit(make_small(), epochs=1, validation_data=dataset())
        trained = {"loss", "pixel", "perceptual", "adversarial", "discriminator"}
        assert {name for name in history if not name.startswith("val_")} == trained
        assert {"val_loss", "val_pixel", "val_perceptual"} == set(history) - trained

    def test_predict(self):
        model = make_small()
        x_adv, _ = batch()
        np.testing.assert_allclose(model.predict(x_adv), model.generator(x_adv), atol=1e-5)
        assert not np.allclose(model(x_adv, training=True), model.generator(x_adv))

    def test_weights_come_back_from_a_checkpoint(self, tmp_path):
        model = make()
        model.train_step(batch())
        model.save_weights(tmp_path / "pix2pix.weights.h5")
        again = make()
        assert any(changed(weights(again.generator), weights(model.generator)))
        again.load_weights(tmp_path / "pix2pix.weights.h5")
        assert_equal(weights(again.generator), weights(model.generator))
        assert_equal(weights(again.discriminator), weights(model.discriminator))


class TestCompile:
    def test_the_papers_optimizers(self):
        model = make()
        assert model.optimizer is not model.discriminator_optimizer
        for optimizer in (model.optimizer, model.discriminator_optimizer):
            assert isinstance(optimizer, keras.optimizers.Adam)
            assert float(optimizer.learning_rate.numpy()) == pytest.approx(2e-4)
            assert (optimizer.beta_1, optimizer.beta_2) == (0.5, 0.999)

    @pytest.mark.parametrize("name", ["generator_optimizer", "optimizer"])
    def test_names(self, name):
        model = make_small()
        model.compile(**{name: "adam"}, discriminator_optimizer="adam")
        for optimizer in (model.optimizer, model.discriminator_optimizer):
            assert type(optimizer) is keras.optimizers.Adam
            assert float(optimizer.learning_rate.numpy()) == pytest.approx(1e-3)  # Keras's, not the paper's
        assert model.optimizer is not model.discriminator_optimizer
        model.compile(**{name: keras.optimizers.SGD(0.1)})
        assert isinstance(model.optimizer, keras.optimizers.SGD)
        assert isinstance(model.discriminator_optimizer, keras.optimizers.Adam)

    def test_two_optimizers_for_the_generator(self):
        with pytest.raises(ValueError, match=r"Expected generator_optimizer or optimizer, .*\. Received both\."):
            make_small().compile("adam", optimizer="adam")

    def test_one_optimizer_for_both(self):
        optimizer = keras.optimizers.Adam()
        with pytest.raises(ValueError, match=r"Expected two optimizers\. Received one object for both\."):
            make(optimizer, optimizer)

    def test_schedule(self):
        with pytest.raises(TypeError, match=r"Expected schedule to be a LossSchedule\. Received \(100, 1\)\."):
            Pix2Pix(make_generator(), schedule=(100, 1))

    def test_the_paper_schedule_is_the_default(self):
        model = Pix2Pix(make_generator())
        assert model.schedule.epochs == 100
        callback = ScheduleCallback()
        callback.set_model(model)
        callback.on_epoch_begin(40)
        assert (float(model.pixel_weight.numpy()), float(model.perceptual_weight.numpy())) == (100.0, 50.0)
