"""Pixel deflection against a plain loop over single draws; its map against numbers by hand; the two steps together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile.baselines import PixelDeflection, robust_class_activation_map, wavelet_denoise
from art_versatile.baselines.pixel_deflection import deflect_pixels
from art_versatile.classifiers import efficientnet_lite_model
from art_versatile.images import demo_images

SEED = 7


def by_loop(image, rcam, rng, deflections=200, window=10, count="value"):
    """The official loop, a source drawn among a list of those that it would accept."""
    image = image.copy()
    height, width, channels = image.shape
    copies = 0
    while deflections > 0:
        for c in range(channels):
            x, y = int(rng.random() * height), int(rng.random() * width)
            skipped, first, second = rng.random() < rcam[x, y], rng.random(), rng.random()
            if skipped:
                continue
            rows = [x + a for a in range(-window, window + 1) if 0 < x + a < height]
            columns = [y + b for b in range(-window, window + 1) if 0 < y + b < width]
            image[x, y, c] = image[rows[int(first * len(rows))], columns[int(second * len(columns))], c]
            copies += 1
            deflections -= count == "value"
        deflections -= count == "pixel"
    return image, copies


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(4, 32, 32, 3)).astype(np.float32)


def pooled_classifier(classes=6, softmax=False, dropout=False, seed=1):
    """Convolutions, global average pooling, dense: what a class activation map is defined on."""

    def init(n):
        return keras.initializers.RandomNormal(stddev=0.5, seed=seed + n)

    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=init(0), name="first")(image)
    x = keras.layers.Conv2D(5, 3, 2, activation="relu", kernel_initializer=init(1), name="last")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.5)(x) if dropout else x
    x = keras.layers.Dense(classes, kernel_initializer=init(2), bias_initializer=init(3), name="scores")(x)
    return keras.Model(image, keras.layers.Softmax()(x) if softmax else x)


def map_by_hand(model, images, k, features="last"):
    """Class by class, in NumPy but for the enlarging."""
    kernel, _ = model.get_layer("scores").get_weights()
    features = keras.Model(model.inputs[0], model.get_layer(features).output)(images).numpy()
    maps = []
    for feature, scores in zip(features, model(images).numpy(), strict=True):
        total = sum(feature @ kernel[:, c] / 2.0**i for i, c in enumerate(np.argsort(-scores)[:k], start=1))
        large = tf.image.resize(total[..., None], images.shape[1:3]).numpy()[..., 0]
        maps.append((large - large.min()) / np.ptp(large))
    return np.array(maps)


class TestDeflection:
    @pytest.mark.parametrize("count", ["value", "pixel"])
    @pytest.mark.parametrize("shape", [(32, 32, 3), (5, 9, 3), (2, 2, 3), (16, 8, 1)])
    @pytest.mark.parametrize("mapped", [False, True])
    def test_equals_the_loop(self, shape, count, mapped):
        rng = np.random.default_rng(2)
        image = rng.random(shape).astype(np.float32)
        rcam = rng.random(shape[:2]) ** 0.5 if mapped else np.zeros(shape[:2])
        for deflections, window in ((1, 1), (50, 3), (400, 10)):
            ours, theirs = np.random.default_rng(SEED), np.random.default_rng(SEED)
            given = {"deflections": deflections, "window": window, "count": count}
            expected, _ = by_loop(image, rcam, theirs, **given)
            before = image.copy()
            np.testing.assert_array_equal(deflect_pixels(image, rcam, ours, **given), expected)
            np.testing.assert_array_equal(image, before)
            assert ours.random() == theirs.random()  # the generators are left in one state

    def test_a_replaced_value_is_copied_on(self):
        image = np.random.default_rng(2).random((6, 6, 1))
        given = {"deflections": 200, "window": 2, "count": "pixel"}
        deflected = deflect_pixels(image, np.zeros((6, 6)), np.random.default_rng(SEED), **given)
        once = image.copy()
        rng = np.random.default_rng(SEED)
        for _ in range(200):
            i, j, _, k, l = rng.random(5)  # noqa: E741
            i, j = int(6 * i), int(6 * j)
            rows, columns = range(max(i - 2, 1), min(i + 2, 5) + 1), range(max(j - 2, 1), min(j + 2, 5) + 1)
            once[i, j] = image[rows[int(k * len(rows))], columns[int(l * len(columns))]]
        assert (once != deflected).any()

    @pytest.mark.parametrize(("count", "copies"), [("value", 201), ("pixel", 600)])
    def test_what_is_counted(self, images, count, copies):
        rng, expected = np.random.default_rng(SEED), np.random.default_rng(SEED)
        deflect_pixels(images[0], np.zeros((32, 32)), rng, deflections=200, count=count)
        expected.random((copies, 5))
        assert rng.random() == expected.random()

    def test_with_a_map_values_are_counted_until_copied_and_rounds_are_not(self):
        image, rcam = np.random.default_rng(2).random((32, 32, 3)), np.full((32, 32), 0.9)
        assert by_loop(image, rcam, np.random.default_rng(SEED))[1] in (200, 201, 202)
        assert 30 < by_loop(image, rcam, np.random.default_rng(SEED), count="pixel")[1] < 90

    def test_only_where_the_map_allows(self, images):
        rcam = np.zeros((32, 32))
        rcam[:, 16:] = 1
        deflected = deflect_pixels(images[0], rcam, np.random.default_rng(SEED), deflections=2000)
        np.testing.assert_array_equal(deflected[:, 16:], images[0, :, 16:])
        assert (deflected[:, :16] != images[0, :, :16]).mean() > 0.5

    def test_sources_are_those_of_rejection(self):
        # Each pixel holds its own number, so that a copy shows where it came from.
        image = np.arange(49.0).reshape(7, 7, 1)
        rng, found = np.random.default_rng(SEED), {}
        for _ in range(12000):
            deflected = deflect_pixels(image, np.zeros((7, 7)), rng, deflections=1, window=2, count="pixel")
            for target in np.flatnonzero(deflected != image):
                found.setdefault(int(target), []).append(int(deflected.reshape(-1)[target]))
        near = {
            7 * i + j: {7 * k + l for k in range(1, 7) for l in range(1, 7) if max(abs(k - i), abs(l - j)) <= 2}  # noqa: E741
            for i in range(7)
            for j in range(7)
        }
        assert {target: set(sources) for target, sources in found.items()} == {t: s - {t} for t, s in near.items()}
        middle = np.unique(found[24], return_counts=True)[1]
        assert (np.abs(middle - middle.mean()) < 5 * np.sqrt(middle.mean())).all()


class TestMap:
    @pytest.mark.parametrize("softmax", [False, True])
    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_against_numbers_by_hand(self, images, k, softmax):
        model = pooled_classifier(softmax=softmax)
        maps = robust_class_activation_map(model, images, k=k)
        assert maps.shape == (4, 32, 32)
        np.testing.assert_allclose(maps, map_by_hand(model, images, k), atol=1e-5)

    def test_default_is_five_classes_of_a_named_layer_or_what_is_pooled(self, images):
        for dropout, layer in ((False, None), (True, "last")):
            model = pooled_classifier(dropout=dropout)
            maps = robust_class_activation_map(model, images, layer=layer)
            np.testing.assert_allclose(maps, map_by_hand(model, images, 5), atol=1e-5)

    def test_sequential(self, images):
        model = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Conv2D(5, 3, kernel_initializer=keras.initializers.HeNormal(seed=1), name="last"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(6, kernel_initializer=keras.initializers.HeNormal(seed=2), name="scores"),
            ]
        )
        np.testing.assert_allclose(robust_class_activation_map(model, images), map_by_hand(model, images, 5), atol=1e-5)

    def test_constant_map_is_zero(self, images):
        model = pooled_classifier()
        model.get_layer("scores").set_weights([np.zeros((5, 6)), np.arange(6.0)])
        np.testing.assert_array_equal(robust_class_activation_map(model, images), np.zeros((4, 32, 32)))

    def test_trained_classifier(self):
        # The mean of a class's map before the stretching is its logit: the features and weights are the right ones.
        x, _, _ = demo_images(2, 96)
        model = efficientnet_lite_model(0)
        features = keras.Model(model.inputs[0], model.get_layer("head").output)(x).numpy()
        kernel, bias = model.get_layer("logits").get_weights()
        best = model(x).numpy().argmax(axis=1)
        raw = np.stack([feature @ kernel[:, c] for feature, c in zip(features, best, strict=True)])
        np.testing.assert_allclose(raw.mean(axis=(1, 2)) + bias[best], model(x).numpy().max(axis=1), rtol=1e-3)
        large = tf.image.resize(raw[..., None], (96, 96)).numpy()[..., 0]
        low, high = large.min(axis=(1, 2), keepdims=True), large.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(robust_class_activation_map(model, x, k=1), (large - low) / (high - low), atol=1e-4)
        robust = robust_class_activation_map(model, x)
        assert (np.min(robust, axis=(1, 2)).tolist(), np.max(robust, axis=(1, 2)).tolist()) == ([0, 0], [1, 1])

    @pytest.mark.parametrize(
        ("layers", "found"),
        [
            ([keras.layers.Flatten(), keras.layers.Dense(3)], "follows no layer of its own|follows InputLayer"),
            ([keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(3)], "follows Conv2D"),
            ([keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(3)], "follows GlobalMaxPooling2D"),
            (
                [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4), keras.layers.Dense(3)],
                "follows Dense",
            ),
            (
                [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4), keras.layers.Reshape((2, 2))],
                r"4 units and outputs of shape \(None, 2, 2\)",
            ),
            ([keras.layers.GlobalAveragePooling2D()], "no graph of layers with a dense one"),
            (
                [keras.layers.GlobalAveragePooling2D(data_format="channels_first"), keras.layers.Dense(3)],
                "follows Glob",
            ),
        ],
    )
    def test_other_heads_are_refused(self, images, layers, found):
        model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        with pytest.raises(ValueError, match=f"ends in GlobalAveragePooling2D and one Dense layer.*({found})"):
            robust_class_activation_map(model, images)

    def test_models_without_a_graph_are_refused(self, images):
        class Subclassed(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match="ends in GlobalAveragePooling2D"):
            robust_class_activation_map(Subclassed(), images)
        nested = keras.Sequential([keras.Input((32, 32, 3)), pooled_classifier(), keras.layers.Dense(3)])
        with pytest.raises(ValueError, match="follows no layer of its own"):
            robust_class_activation_map(nested, images)
        with pytest.raises(TypeError, match=r"Expected a keras.Model. Received str"):
            robust_class_activation_map("model", images)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"k": 0}, "Expected k to be an integer of at least 1"),
            ({"k": 7}, "Expected k from 1 to 6, the number of classes. Received 7"),
            ({"layer": "nowhere"}, r"such as one of \['first', 'last'\]. Received 'nowhere'"),
            ({"layer": "first"}, r"Expected a layer with features \(N, h, w, 5\).*Received 'first'"),
            ({"layer": "scores"}, "Expected a layer with features"),
        ],
    )
    def test_bad_arguments(self, images, kwargs, message):
        with pytest.raises(ValueError, match=message):
            robust_class_activation_map(pooled_classifier(), images, **kwargs)


def both_steps(images, maps=None, seed=SEED, sigma=0.04, **given):
    rng = np.random.default_rng(seed)
    maps = np.zeros(images.shape[:3]) if maps is None else np.broadcast_to(maps, images.shape[:3])
    loop = np.stack([by_loop(image, rcam, rng, **given)[0] for image, rcam in zip(images, maps, strict=True)])
    return wavelet_denoise(loop, sigma=sigma)


class TestPreprocessor:
    def test_code(self, images):
        np.testing.assert_array_equal(PixelDeflection.code(seed=SEED)(images)[0], both_steps(images))

    def test_notebook(self, images):
        model = pooled_classifier()
        maps = robust_class_activation_map(model, images).numpy()
        expected = both_steps(images, maps, deflections=1500, count="pixel")
        assert np.abs(expected - both_steps(images, deflections=1500, count="pixel")).max() > 0.05
        np.testing.assert_array_equal(PixelDeflection.notebook(model, seed=SEED)(images)[0], expected)
        np.testing.assert_array_equal(PixelDeflection.notebook(maps, seed=SEED)(images)[0], expected)

    def test_parameters_reach_their_places(self, images):
        given = {"deflections": 77, "window": 2, "count": "pixel"}
        defence = PixelDeflection(**given, sigma=0.1, seed=SEED)
        np.testing.assert_array_equal(defence(images)[0], both_steps(images, sigma=0.1, **given))
        defence = PixelDeflection(rescale_sigma=True, seed=SEED)
        assert np.abs(defence(images)[0] - both_steps(images)).max() > 0.01

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("batch_size", [3, 32])
    @pytest.mark.parametrize("kind", ["one", "each", "model", "function"])
    def test_maps(self, images, kind, batch_size, compiled):
        model = pooled_classifier()
        maps = robust_class_activation_map(model, images, k=3).numpy()
        rcam = {
            "one": maps[0],
            "each": maps,
            "model": model,
            "function": lambda x: robust_class_activation_map(model, x, k=3, layer="last"),
        }[kind]
        defence = PixelDeflection(rcam=rcam, rcam_classes=3, deflections=900, batch_size=batch_size, seed=SEED)
        run = tf.function(lambda x: defence.forward(x)[0]) if compiled else lambda x: defence.forward(x)[0]
        expected = both_steps(images, maps[0] if kind == "one" else maps, deflections=900)
        changed = np.abs(run(tf.constant(images)) - expected) > 1e-6
        assert changed.mean() < (0.002 if kind in ("model", "function") else 1e-9)  # a map may round to either side

    def test_model_sees_the_range_of_the_pixels(self, images):
        model, seen = pooled_classifier(), []

        def rcam(x):
            seen.append(x.numpy())
            return robust_class_activation_map(model, x)

        PixelDeflection(rcam=rcam, clip_values=(0, 255), channels_first=True)(255 * images.transpose(0, 3, 1, 2))
        np.testing.assert_allclose(seen[0], 255 * images, rtol=1e-6)

    @pytest.mark.parametrize("rcam", [None, "model"])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_gradient_is_the_identity(self, images, rcam, compiled):
        defence = PixelDeflection(rcam=pooled_classifier() if rcam else None, seed=SEED)
        upstream = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)

        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = defence.forward(x)[0]
            return tape.gradient(y, x, upstream)

        got = (tf.function(gradient) if compiled else gradient)(tf.constant(images))
        np.testing.assert_array_equal(got, upstream)
        np.testing.assert_array_equal(defence.estimate_gradient(images, upstream), upstream)

    def test_draws(self, images):
        defence = PixelDeflection(seed=SEED)
        first, second = defence(images)[0], defence(images)[0]
        assert np.abs(first - second).max() > 0.05
        again = PixelDeflection(seed=SEED)
        np.testing.assert_array_equal(again(images)[0], first)
        np.testing.assert_array_equal(again(images)[0], second)
        again.set_params(seed=SEED)
        np.testing.assert_array_equal(again(images)[0], first)
        assert np.abs(PixelDeflection()(images)[0] - PixelDeflection()(images)[0]).max() > 0.05
        traced = tf.function(lambda x: again.forward(x)[0])
        np.testing.assert_array_equal(traced(images), second)
        assert np.abs(traced(images) - second).max() > 0.05

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"deflections": 0}, "Expected deflections to be an integer of at least 1. Received 0"),
            ({"window": 1.5}, "Expected window to be an integer of at least 1"),
            ({"count": "round"}, r"Expected count to be one of \['value', 'pixel'\]. Received 'round'"),
            *(
                ({"rcam": rcam}, "Expected rcam to be None, an array .* Received shape")
                for rcam in (np.zeros(3), "model")
            ),
            *(({"rcam": np.full((4, 4), v)}, "Expected rcam to hold values from 0 to 1") for v in (1.5, np.nan)),
            ({"rcam": np.stack([np.zeros((4, 4)), np.ones((4, 4))])}, "Expected rcam below 1 somewhere in each map"),
            ({"rcam_classes": 0}, "Expected rcam_classes to be an integer of at least 1"),
            ({"rcam": pooled_classifier(4)}, "Expected rcam_classes to be at most 4, the classes of the model"),
            ({"sigma": 2}, "Expected sigma to be a number from 0 to 1"),
            ({"rescale_sigma": "yes"}, "Expected rescale_sigma to be True or False"),
            ({"seed": 1.0}, "Expected seed to be an integer of at least 0"),
            ({"batch_size": 0}, "Expected batch_size"),
        ],
    )
    def test_bad_parameters(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            PixelDeflection(**kwargs)

    def test_a_refused_map_changes_nothing(self, images):
        model = pooled_classifier()
        defence, same = (PixelDeflection(rcam=model, seed=SEED) for _ in range(2))
        with pytest.raises(ValueError, match="ends in GlobalAveragePooling2D"):
            defence.set_params(rcam=keras.Sequential([keras.Input((32, 32, 3))]), seed=3)
        assert (defence.rcam, defence.seed) == (model, SEED)
        np.testing.assert_array_equal(defence(images)[0], same(images)[0])

    @pytest.mark.parametrize("shape", [(31, 32), (3, 32, 32)])
    def test_map_of_another_shape(self, images, shape):
        with pytest.raises(ValueError, match=r"Expected rcam \(H, W\) or \(N, H, W\) for images of shape.*Received"):
            PixelDeflection(rcam=np.zeros(shape))(images)

    def test_function_that_gives_no_map(self, images):
        with pytest.raises(ValueError, match="Expected rcam below 1"):
            PixelDeflection(rcam=lambda x: tf.ones(x.shape[:3]))(images)
        with pytest.raises(ValueError, match="Expected rcam to be None, an array"):
            PixelDeflection(rcam=lambda x: x)(images)

    def test_images_too_small(self):
        with pytest.raises(ValueError, match="Expected images of at least 2 x 2 pixels"):
            PixelDeflection()(np.zeros((1, 1, 8, 3), np.float32))
