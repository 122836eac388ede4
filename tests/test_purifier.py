import pickle
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.estimators.classification import (
    BlackBoxClassifier,
    EnsembleClassifier,
    KerasClassifier,
    TensorFlowV2Classifier,
)

from art_versatile import VersatilePurifier
from art_versatile.images import demo_images
from art_versatile.pix2pix import CompactGenerator, build_generator, precision
from art_versatile.pix2pix.generators import UNet256Generator


def small_generator(noise=0.0):
    """Not the identity: each weight is moved off its start."""
    generator = CompactGenerator(widths=(16, 32), blocks=(1, 1), noise=noise)
    rng = np.random.default_rng(0)
    generator.set_weights([w + rng.normal(0, 0.05, w.shape) for w in generator.get_weights()])
    return generator


@pytest.fixture(scope="module")
def generator():
    return small_generator()


@pytest.fixture
def purifier(generator):
    return VersatilePurifier(generator)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(5, 32, 32, 3)).astype(np.float32)


def keras_classifier(channels_first=False):
    image = keras.Input((3, 32, 32) if channels_first else (32, 32, 3))
    x = keras.layers.Permute((2, 3, 1))(image) if channels_first else image
    x = keras.layers.Conv2D(8, 3, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1))(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal(seed=2))(x))


def art_classifier(defences=None, model=None, **kwargs):
    return TensorFlowV2Classifier(
        model=model or keras_classifier(),
        nb_classes=4,
        input_shape=(32, 32, 3),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
        preprocessing_defences=defences,
        **kwargs,
    )


def reference(generator, x):
    """The definition, without any of the purifier's code: pad by NumPy, generate, crop, clip."""
    multiple = generator.size_multiple
    pads = [(0, 0), *((0, -size % multiple) for size in x.shape[1:3]), (0, 0)]
    return np.clip(generator(np.pad(x, pads, mode="reflect"))[:, : x.shape[1], : x.shape[2]], 0, 1)


def vjp(function, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, tf.constant(upstream)).numpy()


class TestValues:
    @pytest.mark.parametrize("shape", [(37, 50), (1, 1)])
    def test_any_size_is_reflected_purified_and_cropped(self, purifier, generator, shape):
        x = np.random.default_rng(2).uniform(size=(2, *shape, 3)).astype(np.float32)
        y, _ = purifier(x)
        assert y.shape == x.shape
        np.testing.assert_allclose(y, reference(generator, x), atol=1e-6)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_dtype_is_kept(self, purifier, generator, images, dtype):
        y, _ = purifier(images.astype(dtype))
        assert y.dtype == dtype
        np.testing.assert_allclose(y, reference(generator, images), atol=2e-3 if dtype == np.float16 else 1e-6)

    def test_labels_pass_through_untouched(self, purifier, images):
        labels = np.array([{"any": "object"}] * 5, dtype=object)
        assert purifier(images, labels)[1] is labels

    def test_channels_first_is_the_same_transposed(self, purifier, generator, images):
        first = VersatilePurifier(generator, channels_first=True)
        np.testing.assert_allclose(
            first(images.transpose(0, 3, 1, 2))[0], purifier(images)[0].transpose(0, 3, 1, 2), atol=1e-6
        )

    @pytest.mark.parametrize("clip", [(0.0, 255.0), (-1.0, 1.0)])
    def test_other_ranges_are_the_same_rescaled(self, purifier, generator, images, clip):
        low, high = clip
        y, _ = VersatilePurifier(generator, clip_values=clip)(images * (high - low) + low)
        np.testing.assert_allclose((y - low) / (high - low), purifier(images)[0], atol=1e-5)
        assert y.min() >= low
        assert y.max() <= high

    def test_output_is_clipped(self, images):
        class Bright(keras.Model):
            def call(self, x, training=False):
                return 2.0 * x - 0.5

        np.testing.assert_allclose(VersatilePurifier(Bright())(images)[0], np.clip(2 * images - 0.5, 0, 1), atol=1e-6)

    @pytest.mark.parametrize("batch_size", [1, 2, 7])
    def test_chunks_change_nothing(self, purifier, generator, images, batch_size):
        chunked = VersatilePurifier(generator, batch_size=batch_size)
        np.testing.assert_allclose(chunked(images)[0], purifier(images)[0], atol=1e-6)

    def test_generator_never_sees_more_than_batch_size(self, images):
        seen = []

        class Spy(keras.Model):
            def call(self, x, training=False):
                tf.py_function(lambda n: seen.append(int(n)), [tf.shape(x)[0]], [])
                return x

        purifier = VersatilePurifier(Spy(), batch_size=2)
        purifier(images)
        assert seen == [2, 2, 1]
        seen.clear()
        unknown = tf.function(lambda x: purifier.forward(x)[0], input_signature=[tf.TensorSpec((None, 32, 32, 3))])
        np.testing.assert_allclose(unknown(images), images, atol=1e-6)
        assert seen == [2, 2, 1]

    @pytest.mark.parametrize("signature", [(5, 32, 32, 3), (None, None, None, 3)])
    def test_inside_tf_function(self, purifier, generator, images, signature):
        inside = VersatilePurifier(generator, batch_size=2)
        compiled = tf.function(lambda x: inside.forward(x)[0], input_signature=[tf.TensorSpec(signature)])
        np.testing.assert_allclose(compiled(images), purifier(images)[0], atol=1e-6)

    def test_deterministic_unless_stochastic(self, images):
        quiet = VersatilePurifier(small_generator(noise=0.1))
        np.testing.assert_array_equal(quiet(images)[0], quiet(images)[0])
        noisy = VersatilePurifier(small_generator(noise=0.1), stochastic=True)
        first = noisy(images)[0]
        assert np.abs(first - noisy(images)[0]).max() > 1e-3
        again = VersatilePurifier(small_generator(noise=0.1), stochastic=True)
        np.testing.assert_array_equal(again(images)[0], first)


class TestGradients:
    @pytest.mark.parametrize("batch_size", [2, 32])
    def test_exact_against_a_tape_over_the_generator(self, generator, images, batch_size):
        purifier = VersatilePurifier(generator, batch_size=batch_size)
        upstream = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)
        expected = vjp(lambda x: tf.clip_by_value(generator(x), 0, 1), images, upstream)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(vjp(lambda x: purifier.forward(x)[0], images, upstream), expected, atol=1e-5)
        np.testing.assert_allclose(purifier.estimate_gradient(images, upstream), expected, atol=1e-5)

    def test_exact_inside_tf_function_of_unknown_batch(self, generator, images):
        purifier = VersatilePurifier(generator, batch_size=2)
        upstream = np.ones_like(images)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = purifier.forward(x)[0]
            return tape.gradient(y, x)

        expected = vjp(lambda x: tf.clip_by_value(generator(x), 0, 1), images, upstream)
        np.testing.assert_allclose(gradient(images), expected, atol=1e-5)

    def test_padding_carries_the_gradient(self, generator):
        x = np.random.default_rng(4).uniform(0.2, 0.8, size=(1, 11, 13, 3)).astype(np.float32)
        purifier = VersatilePurifier(generator)
        upstream = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)

        def padded(x):
            x = tf.pad(x, [[0, 0], [0, 5], [0, 3], [0, 0]], "REFLECT")
            return tf.clip_by_value(generator(x)[:, :11, :13], 0, 1)

        assert generator.size_multiple == 8
        expected = vjp(padded, x, upstream)
        np.testing.assert_allclose(purifier.estimate_gradient(x, upstream), expected, atol=1e-5)

    @pytest.mark.parametrize("batch_size", [2, 32])
    def test_bpda_is_the_identity(self, generator, purifier, images, batch_size):
        bpda = VersatilePurifier(generator, gradient="bpda", batch_size=batch_size)
        upstream = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)
        np.testing.assert_allclose(vjp(lambda x: bpda.forward(x)[0], images, upstream), upstream, atol=1e-6)
        np.testing.assert_allclose(bpda(images)[0], purifier(images)[0], atol=1e-6)

    def test_class_axis(self, generator, purifier, images):
        upstream = np.random.default_rng(3).normal(size=(5, 3, 32, 32, 3)).astype(np.float32)
        got = purifier.estimate_gradient(images, upstream)
        for k in range(3):
            np.testing.assert_allclose(got[:, k], purifier.estimate_gradient(images, upstream[:, k]), atol=1e-6)


class TestInArt:
    """The defended classifier against the definition: classifier(defence(x)), and a tape through both."""

    @pytest.mark.parametrize("make", [small_generator, lambda: UNet256Generator(filters=1)], ids=["compact", "unet256"])
    def test_tensorflow_classifier(self, images, make):
        generator, model = make(), keras_classifier()
        purifier = VersatilePurifier(generator)
        defended = art_classifier([purifier], model)
        np.testing.assert_allclose(defended.predict(images), model(reference(generator, images)), atol=1e-4)
        labels = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]

        def padded(x):
            low = [-size % generator.size_multiple for size in x.shape[1:3]]
            while any(low):  # tf.pad cannot reflect more than an image at a time
                step = [min(n, s - 1) for n, s in zip(low, x.shape[1:3], strict=True)]
                x = tf.pad(x, [[0, 0], [0, step[0]], [0, step[1]], [0, 0]], "REFLECT")
                low = [n - s for n, s in zip(low, step, strict=True)]
            return tf.clip_by_value(generator(x)[:, :32, :32], 0, 1)

        x = tf.constant(images)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            logits = model(padded(x))
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)(labels, logits)
            chosen = tf.gather(logits, [2], axis=1)
        expected = tape.gradient(loss, x).numpy()
        assert np.abs(expected).max() > 0
        scale = np.abs(expected).max()
        np.testing.assert_allclose(defended.loss_gradient(images, labels), expected, atol=1e-4 * scale)
        by_class = tape.gradient(chosen, x).numpy()
        np.testing.assert_allclose(
            defended.class_gradient(images, label=2)[:, 0], by_class, atol=1e-4 * np.abs(by_class).max()
        )

    def test_keras_classifier(self, purifier, images):
        model = keras_classifier()
        model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
        plain = KerasClassifier(model, use_logits=True, clip_values=(0.0, 1.0))
        defended = KerasClassifier(model, use_logits=True, clip_values=(0.0, 1.0), preprocessing_defences=[purifier])
        clean, _ = purifier(images)
        np.testing.assert_allclose(defended.predict(images), plain.predict(clean), atol=1e-5)
        labels = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
        expected = purifier.estimate_gradient(images, plain.loss_gradient(clean, labels))
        got = defended.loss_gradient(images, labels)
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max() + 1e-9)

    def test_black_box_classifier_and_members_of_an_ensemble(self, purifier, images):
        models = [keras_classifier(), keras_classifier()]
        members = [art_classifier([purifier], model) for model in models]
        ensemble = EnsembleClassifier(members, clip_values=(0.0, 1.0), channels_first=False)
        answers = [model(purifier(images)[0]) for model in models]
        np.testing.assert_allclose(ensemble.predict(images), np.mean(answers, axis=0), atol=1e-5)
        black_box = BlackBoxClassifier(
            lambda x: models[0](x).numpy(), (32, 32, 3), 4, clip_values=(0.0, 1.0), preprocessing_defences=[purifier]
        )
        np.testing.assert_allclose(black_box.predict(images), answers[0], atol=1e-5)

    def test_pytorch_classifier(self, generator, purifier, images):
        torch = pytest.importorskip("torch")
        from art.estimators.classification import PyTorchClassifier

        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, 4),
        )
        first = VersatilePurifier(generator, channels_first=True)
        settings = {"loss": torch.nn.CrossEntropyLoss(), "input_shape": (3, 32, 32), "nb_classes": 4}
        plain = PyTorchClassifier(model, clip_values=(0.0, 1.0), device_type="cpu", **settings)
        defended = PyTorchClassifier(
            model, clip_values=(0.0, 1.0), device_type="cpu", preprocessing_defences=[first], **settings
        )
        x = images.transpose(0, 3, 1, 2)
        clean = first(x)[0]
        np.testing.assert_allclose(defended.predict(x), plain.predict(clean), atol=1e-5)
        labels = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
        expected = first.estimate_gradient(x, plain.loss_gradient(clean, labels))
        np.testing.assert_allclose(
            defended.loss_gradient(x, labels), expected, atol=1e-5 * np.abs(expected).max() + 1e-9
        )


class TestParameters:
    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"clip_values": (1, 0)}, ValueError, r"Expected clip_values.*minimum < maximum.*Received \(1, 0\)"),
            ({"clip_values": 1}, ValueError, "Expected clip_values"),
            ({"batch_size": 0}, ValueError, "Expected batch_size.*Received 0"),
            ({"gradient": "identity"}, ValueError, r"Expected gradient to be one of \['exact', 'bpda'\].*'identity'"),
            ({"channels_first": "yes"}, ValueError, "Expected channels_first to be True or False. Received 'yes'"),
            ({"stochastic": 1}, ValueError, "Expected stochastic to be True or False"),
            (
                {"precision": "float16"},
                ValueError,
                r"Expected precision to be one of \['float32', 'bfloat16', 'auto'\]",
            ),
            ({"eps": 1}, TypeError, "eps"),
            ({"generator": "compact"}, TypeError, "Expected generator to be a keras.Model or None. Received str"),
        ],
        ids=str,
    )
    def test_bad_parameters(self, generator, kwargs, error, message):
        with pytest.raises(error, match=message):
            VersatilePurifier(**{"generator": generator, **kwargs})

    def test_set_params(self, generator, images):
        purifier = VersatilePurifier(generator)
        purifier.set_params(clip_values=(0, 255), batch_size=2, gradient="bpda", stochastic=False, channels_first=False)
        assert purifier.clip_values == (0.0, 255.0)
        np.testing.assert_allclose(purifier(images * 255)[0] / 255, VersatilePurifier(generator)(images)[0], atol=1e-5)

    def test_set_params_changes_nothing_when_refused(self, purifier):
        for changes, message in (
            ({"clip_values": (1, 0)}, "Expected clip_values"),
            ({"eps": 1}, r"Received \['eps'\]"),
        ):
            with pytest.raises(ValueError, match=message):
                purifier.set_params(batch_size=3, **changes)
            assert (purifier.batch_size, purifier.clip_values) == (32, (0.0, 1.0))

    def test_repr_names_every_parameter(self, purifier):
        for name in purifier.params:
            assert f"{name}=" in repr(purifier)

    def test_pickle(self, purifier, images):
        expected = purifier(images)[0]
        copy = pickle.loads(pickle.dumps(purifier))
        np.testing.assert_array_equal(copy(images)[0], expected)
        assert repr(copy) == repr(purifier)


class TestBadImages:
    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (
                lambda x: x[0],
                ValueError,
                r"Expected x to be a batch of images \(N, H, W, 3\).*Received shape \(32, 32, 3\)",
            ),
            (lambda x: x[..., :1], ValueError, "Expected x to have 3 channels.*Received shape"),
            (lambda x: x[:0], ValueError, "at least one image.*Received shape"),
            (lambda x: (x * 255).astype(np.uint8), TypeError, "Expected x to be an array of floats.*dtype uint8"),
            (lambda x: np.where(x > 0.9, np.nan, x), ValueError, "Expected x to be finite"),
            (lambda x: x * 255, ValueError, r"Expected x inside clip_values \(0.0, 1.0\). Received values from"),
        ],
    )
    def test_refused_everywhere(self, generator, images, spoil, error, message):
        with pytest.raises(error, match=message):
            VersatilePurifier(generator)(spoil(images))
        with pytest.raises(error, match=message):
            art_classifier([VersatilePurifier(generator)]).predict(spoil(images))

    def test_types_are_checked_in_every_call_and_values_in_the_first_alone(self, purifier, images):
        """A step of an attack copies nothing to the host; what a user hands over as an array is looked at."""
        purifier.forward(tf.constant(images))
        purifier.forward(tf.constant(images * 255))
        with pytest.raises(ValueError, match="Expected x to be finite"):
            purifier(images * np.nan)
        for function in (purifier.forward, tf.function(lambda x: purifier.forward(x)[0])):
            with pytest.raises(ValueError, match="Expected x to be a batch of images"):
                function(tf.zeros((32, 32, 3)))
            with pytest.raises(TypeError, match="Expected x to be an array of floats"):
                function(tf.zeros((1, 32, 32, 3), tf.int32))
        purifier.set_params(clip_values=(0, 0.5))
        with pytest.raises(ValueError, match="Expected x inside clip_values"):
            purifier.forward(tf.constant(images))

    def test_a_range_that_is_not_the_classifiers(self, generator, images):
        """Pixels in [0, 1] are nearly black in [0, 255]; APGD's probe of ones is none of them."""
        wide = VersatilePurifier(generator, clip_values=(0, 255))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            art_classifier([wide]).predict(np.ones((1, 32, 32, 3)))
            wide(images * 255)
        for call in (lambda: wide(images), lambda: art_classifier([VersatilePurifier(**CLIP)]).predict(images)):
            with pytest.warns(UserWarning, match=r"Expected x inside clip_values \(0\.0, 255\.0\)\. Received .*black"):
                call()


CLIP = {"generator": small_generator(), "clip_values": (0, 255)}


class TestPrecision:
    @pytest.mark.parametrize(("gpu", "levels"), [(False, 2), (True, 3)])
    def test_bfloat16_is_near_and_leaves_the_generator_as_it_was(self, monkeypatch, gpu, levels):
        monkeypatch.setattr(precision, "gpu_is_used", lambda: gpu)
        x, shipped = demo_images(1, 32)[0], VersatilePurifier()
        expected = shipped(x)[0]
        half = VersatilePurifier(shipped.generator, precision="bfloat16")
        difference = np.abs(half(x)[0] - expected)
        assert 0 < difference.max() <= levels / 255
        assert {w.dtype for w in shipped.generator.weights} == {"float32"}
        np.testing.assert_array_equal(VersatilePurifier(shipped.generator)(x)[0], expected)
        half.set_params(precision="float32")
        np.testing.assert_array_equal(half(x)[0], expected)

    def test_its_gradient_is_near(self, generator, images):
        images = images[:1, :8, :8]
        upstream = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)
        exact = VersatilePurifier(generator).estimate_gradient(images, upstream)
        half = VersatilePurifier(generator, precision="bfloat16").estimate_gradient(images, upstream)
        assert np.corrcoef(exact.ravel(), half.ravel())[0, 1] > 0.99

    def test_auto_is_one_of_the_two(self, generator, images):
        images = images[:1, :8, :8]
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "bf16"
        chosen = VersatilePurifier(generator, precision="auto")
        traced = tf.function(lambda x: chosen.forward(x)[0])(tf.constant(images))  # it is timed outside of the trace
        expected = [VersatilePurifier(generator, precision=p)(images)[0] for p in ("float32", "bfloat16")]
        assert min(np.abs(traced - answer).max() for answer in expected) < 1e-6
        if "bf16" not in flags and not tf.config.list_physical_devices("GPU"):
            np.testing.assert_allclose(chosen(images)[0], expected[0], atol=1e-6)


class TestSaved:
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 5e-3)])
    def test_round_trip(self, tmp_path, purifier, images, dtype, tolerance):
        folder = purifier.save(tmp_path / "deep" / "mine", dtype=dtype, card={"training": {"steps": 7}})
        loaded = VersatilePurifier.from_pretrained(folder, batch_size=3)
        assert loaded.batch_size == 3
        assert loaded.card["training"] == {"steps": 7}
        np.testing.assert_allclose(loaded(images)[0], purifier(images)[0], atol=tolerance)

    def test_card_is_carried_on(self, tmp_path, purifier):
        purifier.save(tmp_path / "a", card={"training": {"steps": 7}})
        VersatilePurifier.from_pretrained(tmp_path / "a").save(tmp_path / "b", card={"note": "again"})
        card = VersatilePurifier.from_pretrained(tmp_path / "b").card
        assert (card["training"], card["note"]) == ({"steps": 7}, "again")


class TestShipped:
    """What a user gets without any argument."""

    def test_default_loads_the_shipped_weights(self):
        purifier = VersatilePurifier()
        assert purifier.card["architecture"] == purifier.generator.architecture == "compact"
        untrained = build_generator("compact", **purifier.generator.get_config())
        pairs = zip(untrained.get_weights(), purifier.generator.get_weights(), strict=True)
        assert max(np.abs(start - shipped).max() for start, shipped in pairs) > 1e-2


def test_the_fingerprint_is_of_the_weights():
    first, same = (VersatilePurifier(CompactGenerator(widths=(8, 8), blocks=(1, 1), seed=1)) for _ in range(2))
    assert first.fingerprint == same.fingerprint
    assert re.fullmatch("[0-9a-f]{12}", first.fingerprint)
    weights = same.generator.get_weights()
    weights[-1] = weights[-1] + 1
    same.generator.set_weights(weights)
    assert same.fingerprint != first.fingerprint
