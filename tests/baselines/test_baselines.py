"""What every comparison defence keeps to: layout, range, parameters, and its place in ART."""

import functools
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier

from art_versatile.attacks.compiled import CompiledTensorFlowV2Classifier, compile_classifier
from art_versatile.baselines import PixelDeflection, RandomResizing, SuperResolution, WaveletDenoising
from art_versatile.baselines._edsr import EDSR

EPS = 8 / 255


@functools.cache
def network():
    """One of super-resolution; not bicubic: each weight is moved off its start."""
    network = EDSR(blocks=1, features=4, skip="bicubic", pixel_range=1.0, upsampler="pixelshuffledirect")
    rng = np.random.default_rng(0)
    network.set_weights([w + rng.normal(0, 0.03, w.shape) for w in network.get_weights()])
    return network


MAKE = {
    "wavelet": WaveletDenoising,
    "resizing": lambda **kwargs: RandomResizing(**{"seed": 3, **kwargs}),
    "resizing-back": lambda **kwargs: RandomResizing(**{"seed": 3, "output_size": "input", **kwargs}),
    "deflection": lambda **kwargs: PixelDeflection(**{"seed": 3, **kwargs}),
    "super-resolution": lambda **kwargs: SuperResolution(**{"network": network(), "sigma": 0.05, **kwargs}),
}
FIXED = ("wavelet", "super-resolution")
RANDOM = [name for name in MAKE if name not in FIXED]


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


@pytest.fixture(params=RANDOM)
def make_random(request):
    return MAKE[request.param]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    patches = rng.uniform(0.1, 0.9, (4, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(patches + rng.normal(0, 0.05, patches.shape), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 2, activation="softplus", kernel_initializer=keras.initializers.HeNormal(seed=1))(
        image
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(5, kernel_initializer=keras.initializers.HeNormal(seed=2))(x)
    return keras.Model(image, keras.layers.Rescaling(10.0)(x))


@pytest.fixture(scope="module")
def labels():
    return np.eye(5, dtype=np.float32)[[0, 2, 3, 4]]


def classifier(model, defences=None):
    return TensorFlowV2Classifier(
        model=model,
        nb_classes=5,
        input_shape=(None, None, 3),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
        preprocessing_defences=defences,
    )


def tape(model, defence, x, labels):
    """The loss gradient, by a tape over the definition."""
    x = tf.constant(x)
    with tf.GradientTape() as record:
        record.watch(x)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)(labels, model(defence.forward(x)[0]))
    return record.gradient(loss, x).numpy()


class TestImages:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_dtype_and_range_are_kept(self, make, images, dtype):
        x = images.astype(dtype)
        defended, _ = make()(x)
        assert defended.dtype == dtype
        assert defended.min() >= 0
        assert defended.max() <= 1
        np.testing.assert_allclose(
            defended, make()(x.astype(np.float32))[0], atol=5e-3 if dtype == np.float16 else 1e-4
        )

    def test_it_does_something(self, make, images):
        defended, _ = make()(images)
        assert defended.shape != images.shape or np.abs(defended - images).max() > 0.05

    def test_labels_pass_through_untouched(self, make, images):
        labels = np.array([{"any": "object"}] * 4, dtype=object)
        assert make()(images, labels)[1] is labels

    def test_channels_first_is_the_same_transposed(self, make, images):
        first = make(channels_first=True)(images.transpose(0, 3, 1, 2))[0]
        np.testing.assert_allclose(first, make()(images)[0].transpose(0, 3, 1, 2), atol=1e-6)

    @pytest.mark.parametrize("clip", [(0.0, 255.0), (-1.0, 1.0)])
    def test_other_ranges_are_the_same_rescaled(self, make, images, clip):
        low, high = clip
        defended, _ = make(clip_values=clip)(images * (high - low) + low)
        np.testing.assert_allclose((defended - low) / (high - low), make()(images)[0], atol=1e-4)
        assert defended.min() >= low
        assert defended.max() <= high

    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (lambda x: x[0], ValueError, r"Expected x to be a batch of images \(N, H, W, 3\)"),
            (lambda x: x[..., :1], ValueError, "Expected x to have 3 channels"),
            (lambda x: x[:0], ValueError, "at least one image"),
            (lambda x: (x * 255).astype(np.uint8), TypeError, "Expected x to be an array of floats"),
            (lambda x: np.where(x > 0.8, np.nan, x), ValueError, "Expected x to be finite"),
            (lambda x: x * 255, ValueError, r"Expected x inside clip_values \(0.0, 1.0\)"),
        ],
    )
    def test_bad_images(self, make, images, spoil, error, message):
        defence = make()
        with pytest.raises(error, match=message):
            defence(spoil(images))
        with pytest.raises(error, match=message):
            defence.forward(tf.constant(spoil(images)))

    def test_types_are_checked_inside_tf_function(self, make):
        defence = make()
        traced = tf.function(lambda x: defence.forward(x)[0])
        with pytest.raises(ValueError, match="Expected x to be a batch of images"):
            traced(tf.zeros((32, 32, 3)))
        with pytest.raises(TypeError, match="Expected x to be an array of floats"):
            traced(tf.zeros((1, 32, 32, 3), tf.int32))


class TestParameters:
    def test_common_ones_are_checked(self, make):
        with pytest.raises(ValueError, match=r"Expected clip_values.*Received \(1, 0\)"):
            make(clip_values=(1, 0))
        with pytest.raises(ValueError, match="Expected channels_first to be True or False. Received 'yes'"):
            make(channels_first="yes")
        with pytest.raises(TypeError, match="eps"):
            make(eps=1)

    def test_set_params(self, make, images):
        defence = make()
        defence.set_params(clip_values=(0, 255), channels_first=True)
        assert defence.clip_values == (0.0, 255.0)
        expected = make(clip_values=(0, 255), channels_first=True)
        x = 255 * images.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(defence(x)[0], expected(x)[0])

    def test_set_params_changes_nothing_when_refused(self, make, images):
        defence = make()
        before = repr(defence)
        with pytest.raises(ValueError, match=r"Expected parameters among .*Received \['eps'\]"):
            defence.set_params(channels_first=True, eps=1)
        with pytest.raises(ValueError, match="Expected clip_values"):
            defence.set_params(channels_first=True, clip_values=(1, 0))
        assert repr(defence) == before
        np.testing.assert_array_equal(defence(images)[0], make()(images)[0])

    def test_repr_names_every_parameter(self, make):
        for name in [*make().params, "apply_fit", "apply_predict"]:
            assert f"{name}=" in repr(make())

    def test_pickle(self, make, images):
        defence = make()
        copy = pickle.loads(pickle.dumps(defence))
        assert repr(copy) == repr(defence)
        np.testing.assert_array_equal(copy(images)[0], defence(images)[0])

    def test_applied_at_prediction_only_by_default(self, make):
        defence = make()
        assert (defence.is_fitted, defence.apply_fit, defence.apply_predict) == (True, False, True)
        assert make(apply_fit=True, apply_predict=False).apply_fit is True


class TestInArt:
    def test_predictions_and_gradients_are_those_of_the_definition(self, make, model, images, labels):
        predicted = classifier(model, [make()]).predict(images)
        np.testing.assert_allclose(predicted, model(make()(images)[0]), atol=1e-4)
        expected = tape(model, make(), images, labels)
        assert np.abs(expected).max() > 0
        scale = np.abs(expected).max()
        got = classifier(model, [make()]).loss_gradient(images, labels)
        np.testing.assert_allclose(got, expected, atol=1e-4 * scale)
        compiled = compile_classifier(classifier(model, [make()]))
        np.testing.assert_allclose(compiled.loss_gradient(images, labels), expected, atol=1e-4 * scale)

    @pytest.mark.parametrize("name", ["wavelet", "deflection"])
    def test_bpda_is_the_gradient_at_what_the_defence_gives(self, name, model, images, labels):
        expected = classifier(model).loss_gradient(MAKE[name]()(images)[0], labels)
        got = classifier(model, [MAKE[name]()]).loss_gradient(images, labels)
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())

    @pytest.mark.parametrize("compiled", [False, True])
    def test_pgd_goes_through(self, make, model, images, labels, compiled):
        defended = classifier(model, [make()])
        defended = compile_classifier(defended) if compiled else defended
        settings = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 5, "batch_size": 3, "verbose": False}
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # of the compiled classifier taking ART's path
            adversarial = ProjectedGradientDescent(defended, **settings).generate(images, labels)
        assert np.abs(adversarial - images).max() <= EPS + 1e-6

        def loss(x):
            draws = [{}] if make in [MAKE[name] for name in FIXED] else [{"seed": seed} for seed in range(10)]
            scores = [model(make(**kwargs)(x)[0]) for kwargs in draws]
            return np.mean([keras.losses.CategoricalCrossentropy(from_logits=True)(labels, s) for s in scores])

        assert loss(adversarial) > loss(images) + 0.1

    def test_random_draws_are_new_at_every_call(self, make_random, model, images, labels):
        defended = compile_classifier(classifier(model, [make_random()]))
        assert type(defended) is CompiledTensorFlowV2Classifier
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            predictions = [defended.predict(images) for _ in range(3)]
            gradients = [defended.loss_gradient(images, labels) for _ in range(3)]
        for first, second in ((0, 1), (1, 2), (0, 2)):
            assert np.abs(predictions[first] - predictions[second]).max() > 1e-3
            assert np.abs(gradients[first] - gradients[second]).max() > 1e-3 * np.abs(gradients[0]).max()
        again = compile_classifier(classifier(model, [make_random()]))
        np.testing.assert_array_equal([again.predict(images) for _ in range(3)], predictions)

    def test_every_prediction_is_the_same_without_randomness(self, model, images):
        defended = compile_classifier(classifier(model, [WaveletDenoising()]))
        np.testing.assert_array_equal(defended.predict(images), defended.predict(images))

    def test_eot_is_the_mean_over_draws(self, make_random, model, images, labels):
        defence = make_random()
        expected = np.mean([tape(model, defence, images, labels) for _ in range(4)], axis=0)
        defended = compile_classifier(classifier(model, [make_random()]), eot_samples=4)
        got = defended.loss_gradient(images, labels)
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())

    def test_class_gradients(self, make, model, images):
        every = compile_classifier(classifier(model, [make()])).class_gradient(images)
        x = tf.constant(images)
        with tf.GradientTape(persistent=True) as record:
            record.watch(x)
            scores = model(make().forward(x)[0])
            chosen = [scores[:, k] for k in range(5)]
        for k in range(5):
            expected = record.gradient(chosen[k], x).numpy()
            np.testing.assert_allclose(every[:, k], expected, atol=1e-4 * np.abs(expected).max())

    @pytest.mark.parametrize("name", ["deflection", "resizing"])
    def test_keras_classifier(self, name, model, images, labels):
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        twin.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
        defended = KerasClassifier(twin, use_logits=True, clip_values=(0.0, 1.0), preprocessing_defences=[MAKE[name]()])
        np.testing.assert_allclose(defended.predict(images), model(MAKE[name]()(images)[0]), atol=1e-4)
        gradient = defended.loss_gradient(images, labels)
        assert gradient.shape == images.shape
        assert np.abs(gradient).max() > 0

    def test_float64_probe_of_apgd(self, make, model):
        assert classifier(model, [make()]).predict(np.ones((1, 32, 32, 3))).shape == (1, 5)


def test_one_default_of_the_two_that_enlarge_and_one_word_for_the_way_back(images):
    """As in their papers the classifier gets the larger image; "exact" or "bpda" for each."""
    for name, side in (("resizing", 35), ("super-resolution", 64)):
        assert MAKE[name]()(images)[0].shape == (4, side, side, 3)
        for output_size, size in (("input", (32, 32)), (24, (24, 24)), ((20, 40), (20, 40))):
            assert MAKE[name](output_size=output_size)(images)[0].shape == (4, *size, 3)
    words = {name: MAKE[name]().gradient for name in MAKE}
    assert {name for name, word in words.items() if word == "bpda"} == {"wavelet", "deflection"}
    assert set(words.values()) == {"exact", "bpda"}
