from __future__ import annotations

import pickle
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from art_versatile.pix2pix.efficientnet import efficientnet_lite_model
from art_versatile.pix2pix.generators import (
    CompactGenerator,
    UNet256Generator,
    bare_in_training,
    build_generator,
    mirrored_up,
    padded_sides,
    purified,
)
from art_versatile.pix2pix.layers import Noise

SMALL = {"widths": (8, 12), "blocks": (1, 2), "factor": 2, "sigmas": (0.0, 1.0), "noise": 0.0}


def images(n=2, height=32, width=32, seed=0):
    return np.random.default_rng(seed).random((n, height, width, 3)).astype(np.float32)


def trained(generator, scale=0.02, seed=0):
    """Every weight moved a little: the last layer of ``compact`` starts at zero."""
    rng = np.random.default_rng(seed)
    generator.set_weights([w + scale * rng.standard_normal(w.shape) for w in generator.get_weights()])
    return generator


def blur(x, sigma):
    """Each channel of each image; an edge is a mirror; cut at 2.5 standard deviations, rounded up."""
    if sigma == 0:
        return x
    radius = int(np.ceil(2.5 * sigma))
    return gaussian_filter(x.astype(np.float64), (0, sigma, sigma, 0), mode="mirror", radius=(0, radius, radius, 0))


@pytest.fixture(scope="module", params=["compact", "unet256"])
def made(request):
    """A generator and images for it."""
    if request.param == "compact":
        return trained(build_generator("compact", **{**SMALL, "noise": 0.1}, seed=7)), images(3)
    return trained(build_generator("unet256", filters=2, seed=7), 0.1), images(3, 256, 256)


class TestBoth:
    """What holds for either architecture."""

    def test_shape_and_range(self, made):
        generator, x = made
        for training in (False, True):
            y = generator(x, training=training).numpy()
            assert y.shape == x.shape
            assert y.dtype == np.float32
            assert y.min() >= 0
            assert y.max() <= 1
            assert y.std() > 0.01

    def test_deterministic_unless_training(self, made):
        generator, x = made
        np.testing.assert_array_equal(generator(x), generator(x, training=False))
        noisy = generator(x, training=True).numpy()
        assert np.abs(noisy - generator(x)).max() > 1e-4
        assert np.abs(noisy - generator(x, training=True)).max() > 1e-4

    def test_an_answer_does_not_depend_on_its_batch(self, made):
        generator, x = made
        alone = np.concatenate([generator(x[i : i + 1]) for i in range(len(x))])
        np.testing.assert_allclose(generator(x), alone, atol=1e-5)

    def test_the_noise_is_the_seeds(self, made):
        generator, x = made
        first, second = (trained(type(generator).from_config(generator.get_config())) for _ in range(2))
        for _ in range(2):
            np.testing.assert_array_equal(first(x, training=True), second(x, training=True))

    def test_config_round_trip(self, made):
        generator, x = made
        config = generator.get_config()
        again = type(generator).from_config(config)
        assert again.get_config() == config
        again.set_weights(generator.get_weights())
        np.testing.assert_array_equal(again(x), generator(x))
        assert again.size_multiple == generator.size_multiple

    def test_pickle_and_keras_file(self, made, tmp_path):
        generator, x = made
        generator.save(tmp_path / "generator.keras")
        for again in (pickle.loads(pickle.dumps(generator)), keras.models.load_model(tmp_path / "generator.keras")):
            assert type(again) is type(generator)
            assert again.architecture == generator.architecture
            assert again.get_config() == generator.get_config()
            np.testing.assert_array_equal(again(x), generator(x))

    def test_seed_of_the_initial_weights(self, made):
        generator, _ = made
        config = generator.get_config()
        assert config["seed"] == 7
        first, same = (type(generator)(**config).get_weights() for _ in range(2))
        other = type(generator)(**{**config, "seed": 8}).get_weights()
        for a, b in zip(first, same, strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(first[0], other[0])

    def test_global_random_state_is_left_alone(self, made):
        generator, x = made
        np.random.seed(5)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        type(generator)(**generator.get_config())(x, training=True)
        np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    def test_every_weight_is_used(self, made):
        generator, x = made
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(generator(x[:1], training=True) * images(1, *x.shape[1:3], seed=9))
        for variable, gradient in zip(
            generator.trainable_variables, tape.gradient(loss, generator.trainable_variables), strict=True
        ):
            assert gradient is not None, variable.path
            assert np.isfinite(gradient).all(), variable.path
            assert np.abs(gradient).max() > 0, variable.path

    def test_in_a_graph(self, made):
        """TensorFlow fuses layers there."""
        generator, x = made
        np.testing.assert_allclose(tf.function(generator)(tf.constant(x)), generator(x), atol=1e-5)


class TestUNet256:
    def test_parameters_of_the_published_network(self):
        """
        4x4 kernels, C_in x C_out x 16.

        Down: 3x64 3,072; 64x128 131,072; 128x256 524,288; 256x512 2,097,152; 512x512 4,194,304 four times: 19,532,800.
        Up, on the concatenations: 512x512 4,194,304; 1024x512 8,388,608 three times; 1024x256 4,194,304;
        512x128 1,048,576; 256x64 262,144; 128x3 6,144 and 3 biases: 34,871,299.
        Two numbers a channel of the normalised layers, 128 + 256 + 4x512 down, 4x512 + 256 + 128 + 64 up:
        2 x (2,432 + 2,496) = 9,856.
        Together 54,413,955, the "54.414 M" of the published U-Net-256. The first and the innermost convolution are
        not normalised, so they have biases here: 64 + 512 more.
        """
        published = 19_532_800 + 34_871_299 + 9_856
        assert published == 54_413_955
        generator = UNet256Generator()
        assert generator.count_params() == published + 64 + 512
        assert sum(int(np.prod(v.shape)) for v in generator.trainable_variables) == published + 64 + 512

    def test_against_an_independent_computation(self):
        """The same network written out in plain operations, from the same weights."""
        generator = trained(UNet256Generator(filters=2), 0.2)
        x = images(1, 256, 512)
        weights = [tf.constant(w) for w in generator.get_weights()]
        rest = iter(weights)

        def norm(t):
            mean, variance = tf.nn.moments(t, (1, 2), keepdims=True)
            return (t - mean) / tf.sqrt(variance + 1e-5) * next(rest) + next(rest)

        t, encoded = x * 2 - 1, []
        for level in range(8):
            t = t if level == 0 else tf.where(t > 0, t, 0.2 * t)
            t = tf.nn.conv2d(tf.pad(t, [[0, 0], [1, 1], [1, 1], [0, 0]]), next(rest), 2, "VALID")
            t = t + next(rest) if level in (0, 7) else norm(t)
            encoded.append(t)
        for level in range(8):
            n, h, w, _ = t.shape
            kernel = next(rest)
            t = tf.nn.conv2d_transpose(tf.nn.relu(t), kernel, (n, 2 * h, 2 * w, kernel.shape[2]), 2, "SAME")
            if level < 7:
                t = tf.concat([norm(t), encoded[6 - level]], -1)
        expected = (tf.tanh(t + next(rest)) + 1) / 2
        np.testing.assert_allclose(generator(x), expected, atol=2e-5)

    @pytest.mark.parametrize("size", [(128, 128), (256, 384)])
    def test_other_sizes_than_multiples_of_256(self, size):
        generator = UNet256Generator(filters=1)
        assert generator.size_multiple == 256
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="(?i)concat"):
            generator(images(1, *size))

    def test_without_dropout(self):
        generator = UNet256Generator(filters=1, dropout=0.0)
        x = images(1, 256, 256)
        np.testing.assert_array_equal(generator(x, training=True), generator(x))

    def test_initial_weights(self):
        kernels = [w for w in UNet256Generator(filters=8).get_weights() if w.ndim == 4]
        for kernel in kernels[3:12]:
            assert kernel.mean() == pytest.approx(0, abs=1e-3)
            assert kernel.std() == pytest.approx(0.02, rel=0.02)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            *(
                ({"filters": n}, f"Expected filters to be an integer from 1 to 1024. Received {n!r}")
                for n in (0, 1.5, True)
            ),
            ({"dropout": -0.1}, "Expected dropout to be a number from 0 to 1. Received -0.1"),
            ({"dropout": 1.0}, "Expected dropout below 1. Received 1.0"),
        ],
        ids=str,
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            UNet256Generator(**{"filters": 1, **arguments})


class TestCompact:
    def test_the_raw_image_is_shown_besides_the_noisy_one(self):
        """With zeros for what comes from the raw image, it is the generator that does not see it."""
        config = {**SMALL, "noise": 0.1, "seed": 2}
        both = trained(build_generator("compact", **config, raw_input=True))
        one = build_generator("compact", **config)
        kernel, *rest = both.get_weights()
        pixels = config["factor"] ** 2
        split = kernel.reshape(3, 3, pixels, 2, 3, -1)  # noisy, raw
        one.set_weights([split[:, :, :, 0].reshape(3, 3, 3 * pixels, -1), *rest])
        x = images(2)
        assert np.abs(both(x).numpy() - one(x).numpy()).max() > 1e-3
        split[:, :, :, 1] = 0
        both.set_weights([split.reshape(kernel.shape), *rest])
        np.testing.assert_allclose(both(x), one(x), atol=1e-6)

    def test_the_raw_image_is_one_more_in_the_mixture(self):
        """Its gates come last: far above the others it is the answer, far below it is as if it were not there."""
        config = {**SMALL, "noise": 0.1, "seed": 2, "raw_input": True}
        with_it = trained(build_generator("compact", **config, raw_base=True))
        without = build_generator("compact", **config)
        *rest, kernel, bias = with_it.get_weights()
        pixels = config["factor"] ** 2
        without.set_weights([*rest, kernel[..., :-pixels], bias[:-pixels]])
        x = images(2)
        assert np.abs(with_it(x).numpy() - without(x).numpy()).max() > 1e-3
        bias[-pixels:] = -500
        with_it.set_weights([*rest, kernel, bias])
        np.testing.assert_allclose(with_it(x), without(x), atol=1e-6)
        kernel[..., : 3 * pixels], bias[: 3 * pixels], bias[-pixels:] = 0, 0, 500
        with_it.set_weights([*rest, kernel, bias])
        np.testing.assert_allclose(with_it(x), x, atol=1e-6)

    def test_parameters(self):
        """
        Kernel size x C_in x C_out + C_out; a residual block is two 3x3 convolutions.

        stem 3x3 48->96 41,568; a block of 96 166,080, of 160 461,120, two of 256 2,360,320;
        down 2x2 96->160 61,600, 160->256 164,096; up 1x1 256->4x160 164,480, 160->4x96 61,824, and blocks of 160 and
        96 again; head 3x3 96->16 pixels x (3 colours + 4 sigmas) 96,880.
        """
        expected = 41_568 + 2 * 166_080 + 2 * 461_120 + 2_360_320 + 61_600 + 164_096 + 164_480 + 61_824 + 96_880
        generator = CompactGenerator(widths=(96, 160, 256), blocks=(1, 1, 2), factor=4, sigmas=(0.0, 0.8, 1.6, 3.2))
        assert generator.count_params() == expected == 4_205_168

    def test_the_frozen_encoder(self):
        """Its features are those of the classifier; training leaves them; its weights are the generator's own."""
        generator = build_generator("compact", widths=(8, 8), blocks=(1, 1), encoder="efficientnet_lite0", noise=0.0)
        x = images(1, 64, 64)
        classifier = efficientnet_lite_model(0)
        wanted = [classifier.get_layer(name).output for name in ("block2_add", "block4_depthwise")]
        encoder = generator.get_layer("encoder")
        for features, want in zip(
            (encoder(x)[0], encoder(x)[3]), keras.Model(classifier.input, wanted)(x), strict=True
        ):
            np.testing.assert_allclose(features, want, atol=1e-5)
        assert not encoder.trainable_variables
        assert generator.size_multiple == 8
        other = trained(generator, 0.05)
        read = CompactGenerator.from_config(other.get_config())
        assert not np.array_equal(read.get_layer("encoder").get_weights()[0], encoder.get_weights()[0])
        read.set_weights(other.get_weights())
        np.testing.assert_array_equal(read(x), other(x))

    @pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 48), (64, 32), (80, 112)])
    def test_fully_convolutional(self, height, width):
        generator = trained(CompactGenerator(widths=(8, 8, 8)))
        assert generator.size_multiple == 16
        x = images(1, height, width)
        assert generator(x).shape == x.shape

    def test_a_shifted_image_gives_a_shifted_answer(self):
        generator = trained(CompactGenerator(**SMALL), 0.05)
        x = images(1, 96, 96)
        m = generator.size_multiple
        whole, part = generator(x).numpy(), generator(x[:, m:, 2 * m :]).numpy()
        np.testing.assert_allclose(part[:, 32:-1, 32:-1], whole[:, m + 32 : -1, 2 * m + 32 : -1], atol=1e-5)

    @pytest.mark.parametrize(("factor", "widths", "multiple"), [(2, (8,), 2), (4, (8, 8), 8), (3, (8,), 3)])
    def test_size_multiple(self, factor, widths, multiple):
        generator = CompactGenerator(
            widths=widths, blocks=(1,) * len(widths), factor=factor, sigmas=(0.0, 0.5), noise=0.0
        )
        assert generator.size_multiple == multiple
        x = images(1, 5 * multiple, 7 * multiple)
        np.testing.assert_allclose(generator(x), (x + blur(x, 0.5)) / 2, atol=1e-6)

    @pytest.mark.parametrize("sigma", [0.8, 1.6, 3.2])
    def test_untrained_with_one_sigma_it_is_scipys_gaussian(self, sigma):
        x = images(2, 32, 48)
        expected = gaussian_filter(x.astype(np.float64), (0, sigma, sigma, 0), mode="mirror", truncate=2.5)
        generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), sigmas=(sigma,), noise=0.0)
        np.testing.assert_allclose(generator(x), expected, atol=1e-6)

    def test_untrained_it_is_the_even_mixture(self):
        x = images(2, 32, 48)
        sigmas = (0.0, 0.8, 1.6, 3.2)
        expected = np.mean([blur(x, s) for s in sigmas], axis=0)
        generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), sigmas=sigmas, noise=0.0)
        np.testing.assert_allclose(generator(x), expected, atol=1e-6)

    def test_untrained_with_sigma_zero_it_is_the_identity(self):
        x = images()
        np.testing.assert_array_equal(CompactGenerator(widths=(8,), blocks=(1,), sigmas=(0,), noise=0.0)(x), x)

    @pytest.mark.parametrize(("option", "least"), [({"output_noise": 0.1}, 0.1), ({"strength": 1.5}, 0.02)])
    def test_bare_in_training(self, option, least):
        """In training alone, and for as long as it is asked."""
        options = {"widths": (8, 8), "blocks": (1, 1), "noise": 0.0}
        changed, plain = trained(CompactGenerator(**option, **options)), trained(CompactGenerator(**options))
        x = images(2)
        with bare_in_training(changed):
            np.testing.assert_array_equal(changed(x, training=True), plain(x, training=True))
            assert np.abs(changed(x) - plain(x)).max() > least
        assert np.abs(changed(x, training=True) - plain(x)).max() > least

    def test_the_strength_may_count_in_training(self):
        strong = trained(CompactGenerator(**SMALL, strength=1.5))
        x = images()
        with bare_in_training(strong, strength=True):
            np.testing.assert_array_equal(strong(x, training=True), strong(x))

    @pytest.mark.parametrize("where", [{"noise": 0.05}, {"noise": 0.0, "output_noise": 0.05}])
    def test_noise(self, where):
        """Untrained and unblurred, the answer is the input and the noise itself, cut at 0 and 1."""
        generator = CompactGenerator(widths=(8,), blocks=(1,), sigmas=(0.0,), **where)
        x = np.full((4, 64, 64, 3), 0.5, np.float32)
        noise, other = (generator(x, training=True).numpy() - x for _ in range(2))
        for sample in (noise, other):
            assert sample.mean() == pytest.approx(0, abs=1e-3)
            assert sample.std() == pytest.approx(0.05, rel=0.02)
        for a, b in ((noise, other), (noise[:1], noise[1:2])):
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05

    @pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
    def test_strength(self, strength):
        """From the image as far towards the answer, or beyond it, as it says; cut at 0 and 1 at the end alone."""
        options = {**SMALL, "output_noise": 0.05}
        plain, strong = (trained(CompactGenerator(**options, strength=s)) for s in (1.0, strength))
        noise = CompactGenerator(**options)(np.full((1, 32, 32, 3), 0.5, np.float32)) - 0.5
        x = 0.4 + 0.2 * images()
        answer = plain(x) - noise
        assert np.abs(answer - x).max() > 0.02
        np.testing.assert_allclose(strong(x), x + strength * (answer - x) + noise, atol=1e-5)

    def test_the_two_noises_differ(self):
        x = np.full((1, 64, 64, 3), 0.5, np.float32)
        options = {"widths": (8,), "blocks": (1,), "sigmas": (0.0,), "seed": 3}
        first = CompactGenerator(noise=0.05, **options)(x) - x
        last = CompactGenerator(noise=0.0, output_noise=0.05, **options)(x) - x
        assert abs(np.corrcoef(np.ravel(first), np.ravel(last))[0, 1]) < 0.05
        both = CompactGenerator(noise=0.05, output_noise=0.05, **options)(x) - x
        np.testing.assert_allclose(both, first + last, atol=1e-6)
        white = np.ones_like(x)
        assert CompactGenerator(noise=0.0, output_noise=0.05, **options)(white).numpy().max() == 1

    def test_the_noise_of_one_device_is_kerass(self):
        layer, x, seeds = Noise(0.1, 5), tf.zeros((2, 8, 8, 3)), keras.random.SeedGenerator(5)
        for _ in range(2):
            expected = keras.random.normal((2, 8, 8, 3), stddev=0.1, seed=seeds)
            np.testing.assert_array_equal(layer(x, training=True), expected)

    def test_the_noise_at_test_time_is_one_pattern_of_64_by_64(self):
        generator = CompactGenerator(widths=(8,), blocks=(1,), sigmas=(0.0,), noise=0.05, seed=3)
        x = np.full((2, 128, 96, 3), 0.5, np.float32)
        noise = generator(x).numpy() - x
        np.testing.assert_array_equal(noise[0], noise[1])
        np.testing.assert_array_equal(noise[:, :64, :32], noise[:, 64:, 64:])
        assert noise[0, :64, :64].mean() == pytest.approx(0, abs=2e-3)
        assert noise[0, :64, :64].std() == pytest.approx(0.05, rel=0.03)
        same = CompactGenerator(widths=(8,), blocks=(1,), sigmas=(0.0,), noise=0.05, seed=3)
        np.testing.assert_array_equal(same(x[:, :40, :40]) - x[:, :40, :40], noise[:, :40, :40])
        other = CompactGenerator(widths=(8,), blocks=(1,), sigmas=(0.0,), noise=0.05, seed=4)
        assert np.abs(other(x) - x - noise).max() > 0.05

    def test_answers_are_cut_at_0_and_1(self):
        y = trained(CompactGenerator(**SMALL), 0.5)(images()).numpy()
        assert (y.min(), y.max()) == (0, 1)

    def test_against_an_independent_computation(self):
        """Two levels written out in plain operations, from the same weights."""
        generator = trained(CompactGenerator(**SMALL), 0.05)
        x = tf.constant(images(2, 16, 24))
        weights = [tf.constant(w) for w in generator.get_weights()]
        rest = iter(weights)

        def conv(t, stride=1):
            return tf.nn.conv2d(t, next(rest), stride, "SAME") + next(rest)

        def active(t):
            return tf.where(t > 0, t, 0.2 * t)

        def block(t):
            return t + conv(active(conv(active(t))))

        fine = block(conv(tf.nn.space_to_depth(2 * x - 1, 2)))
        coarse = block(block(conv(fine, 2)))
        t = 0.1 * conv(active(block(tf.nn.depth_to_space(conv(coarse), 2) + fine)))
        assert next(rest, None) is None
        # 4 pixels x 3 colours to add, then 4 gates for each of the two sigmas.
        added = tf.nn.depth_to_space(t[..., :12], 2)
        gates = [tf.nn.depth_to_space(t[..., a : a + 4], 2) for a in (12, 16)]
        shares = tf.nn.softmax(tf.concat(gates, -1))
        mixture = shares[..., :1] * x + shares[..., 1:] * tf.cast(blur(x.numpy(), 1.0), tf.float32)
        np.testing.assert_allclose(generator(x), tf.clip_by_value(mixture + added, 0, 1), atol=1e-5)

    def test_gradient_with_respect_to_the_input(self):
        """Against central differences, in float64."""
        policy = keras.config.dtype_policy()
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            generator = trained(CompactGenerator(**SMALL))
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy(policy)
        rng = np.random.default_rng(3)
        x, r = 0.3 + 0.4 * rng.random((1, 16, 16, 3)), rng.standard_normal((1, 16, 16, 3))

        def value(image):
            return tf.reduce_sum(generator(image) * r)

        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            y = value(variable)
        gradient = tape.gradient(y, variable).numpy()
        assert gradient.dtype == np.float64
        assert np.isfinite(gradient).all()
        for place in [(0, 0, 0, 0), (0, 0, 15, 1), (0, 7, 8, 2), (0, 15, 15, 0), (0, 9, 3, 1)]:
            step = np.zeros_like(x)
            step[place] = 1e-6
            difference = (value(tf.constant(x + step)) - value(tf.constant(x - step))) / 2e-6
            assert gradient[place] == pytest.approx(float(difference), rel=1e-5, abs=1e-7)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"widths": ()}, "Expected widths to be 1 to 8 integers. Received ()."),
            ({"widths": (8, 0)}, "Expected widths to be an integer from 1 to 4096. Received 0."),
            ({"widths": (8.0, 8)}, "Expected widths to be an integer from 1 to 4096. Received 8.0."),
            ({"blocks": (1, True)}, "Expected blocks to be an integer from 1 to 64. Received True."),
            ({"blocks": (1, 65)}, "Expected blocks to be an integer from 1 to 64. Received 65."),
            ({"blocks": (32, 33)}, "Expected as many blocks as widths, 64 together at most. Received blocks=(32, 33)"),
            ({"blocks": (1,)}, "Expected as many blocks as widths, 64 together at most. Received blocks=(1,)"),
            *(({"factor": f}, f"Expected factor to be an integer from 2 to 16. Received {f!r}.") for f in (1, 2.0, 17)),
            ({"sigmas": ()}, "Expected sigmas to be 1 to 16 numbers. Received ()."),
            *(({"sigmas": (0, v)}, "Expected sigmas to be a number from 0 to 64.") for v in (-1, np.nan, np.inf, 65)),
            ({"sigmas": (64, 64), "factor": 16}, "Expected sigmas whose kernels are small at factor 16."),
            ({"noise": -0.1}, "Expected noise to be a number from 0 to 1. Received -0.1."),
            ({"output_noise": 1.1}, "Expected output_noise to be a number from 0 to 1. Received 1.1."),
            ({"strength": -1}, "Expected strength to be a number from 0 to 4. Received -1."),
            ({"raw_input": "no"}, "Expected raw_input to be True or False"),
            ({"raw_base": 1}, "Expected raw_base to be True or False"),
            ({"seed": -1}, "Expected seed to be an integer of at least 0"),
            ({"encoder": "vgg19"}, "Expected encoder to be one of ['efficientnet_lite0']. Received 'vgg19'"),
            (
                {"encoder": "efficientnet_lite0", "encoder_weights": "x"},
                "Expected encoder_weights to be 'package' or None",
            ),
            (
                {"encoder": "efficientnet_lite0", "encoder_weights": None, "widths": (8,), "blocks": (1,)},
                "Expected levels at a stride in [4, 8, 16, 32]. Received [2]",
            ),
        ],
        ids=str,
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            CompactGenerator(**{**SMALL, **arguments})

    def test_unknown_arguments(self):
        with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
            CompactGenerator(depth=3)


class TestBuildGenerator:
    def test_an_unknown_name(self):
        with pytest.raises(ValueError, match=r"Expected a generator in \['compact', 'unet256'\]\. Received 'resnet'\."):
            build_generator("resnet")


@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (8, 5), (3, 41), (1, 1)])
def test_images_of_any_size_are_mirrored_up_and_cut(shape):
    """As by NumPy's reflection, which mirrors a small image more than once."""
    generator = trained(CompactGenerator(widths=(8, 8), blocks=(1, 1), noise=0.0))
    x = images(2, *shape)
    pads = [(0, 0), *((0, -size % 8) for size in shape), (0, 0)]
    expected = np.pad(x, pads, mode="reflect")
    np.testing.assert_array_equal(mirrored_up(generator, tf.constant(x)), expected)
    assert padded_sides(generator, *shape) == expected.shape[1:3]
    unknown = tf.function(lambda x: purified(generator, x), input_signature=[tf.TensorSpec((None, None, None, 3))])
    np.testing.assert_allclose(unknown(x), generator(expected)[:, : shape[0], : shape[1]], atol=1e-6)
