from __future__ import annotations

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from art_versatile.pix2pix.perceptual import PerceptualLoss, RandomPerceptualLoss


def tiny(softmax=False):
    """
    "a" is r + 2g + 3b, "b" is (2a, -a + 1), the logits are the means of "b" over the image. No activation between, so
    that every number can be worked out by hand.
    """
    image = keras.Input((None, None, 3), name="image")
    a = layers.Conv2D(1, 1, name="a")(image)
    b = layers.Conv2D(2, 1, name="b")(a)
    out = layers.GlobalAveragePooling2D(name="logits")(b)
    model = keras.Model(image, layers.Softmax()(out) if softmax else out, name="tiny")
    model.get_layer("a").set_weights([np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1), np.zeros(1)])
    model.get_layer("b").set_weights([np.array([2.0, -1.0]).reshape(1, 1, 1, 2), np.array([0.0, 1.0])])
    return model


# One image of two pixels each. a: clean 1.4 and 0.6, purified 1.1 and 0.6.
CLEAN = tf.constant([[[[0.1, 0.2, 0.3], [0.6, 0.0, 0.0]]]])
PURIFIED = tf.constant([[[[0.1, 0.2, 0.2], [0.0, 0.3, 0.0]]]])
# b: clean (2.8, -0.4) and (1.2, 0.4); purified (2.2, -0.1) and (1.2, 0.4).


class TestTerms:
    def test_features(self):
        a, b, logits = PerceptualLoss(tiny(), ["a", "b"], prediction_weight=1.0).features(CLEAN)
        np.testing.assert_allclose(a[0, 0, :, 0], [1.4, 0.6], rtol=1e-5)
        np.testing.assert_allclose(b[0, 0], [[2.8, -0.4], [1.2, 0.4]], rtol=1e-5)
        np.testing.assert_allclose(logits[0], [2.0, 0.0], atol=1e-6)

    @pytest.mark.parametrize(
        ("distance", "normalize", "expected"),
        [
            # a differs by (0.3, 0), b by (0.6, -0.3, 0, 0); mean |a| is 1, mean |b| is 4.8 / 4.
            ("l1", False, {"a": 0.15, "b": 0.225}),
            ("l1", True, {"a": 0.15, "b": 0.225 / 1.2}),
            # mean a^2 is 2.32 / 2, mean b^2 is (7.84 + 0.16 + 1.44 + 0.16) / 4 = 2.4.
            ("l2", False, {"a": 0.045, "b": 0.45 / 4}),
            ("l2", True, {"a": 0.045 / 1.16, "b": 0.1125 / 2.4}),
        ],
    )
    def test_by_hand(self, distance, normalize, expected):
        loss = PerceptualLoss(tiny(), {"a": 1.0, "b": 3.0}, distance=distance, normalize=normalize)
        terms = loss.terms(loss.features(PURIFIED), loss.features(CLEAN))
        assert list(terms) == ["a", "b"]
        assert float(terms["a"]) == pytest.approx(expected["a"], rel=1e-4)
        assert float(terms["b"]) == pytest.approx(3 * expected["b"], rel=1e-4)
        assert float(loss(PURIFIED, CLEAN)) == pytest.approx(expected["a"] + 3 * expected["b"], rel=1e-4)

    def test_names_without_weights_count_once_each(self):
        loss = PerceptualLoss(tiny(), ["b", "a"], normalize=False)
        assert loss.layers == {"b": 1.0, "a": 1.0}
        assert float(loss(PURIFIED, CLEAN)) == pytest.approx(0.15 + 0.225, rel=1e-5)

    @pytest.mark.parametrize("layers_", [[], {"a": 1.0}])
    def test_prediction(self, layers_):
        """KL(clean || purified); logits: clean (2, 0), purified (1.7, 0.15)."""
        clean, purified = [1 / (1 + math.exp(-d)) for d in (2.0, 1.55)]
        kl = clean * math.log(clean / purified) + (1 - clean) * math.log((1 - clean) / (1 - purified))
        loss = PerceptualLoss(tiny(), layers_, prediction_weight=2.0)
        terms = loss.terms(loss.features(PURIFIED), loss.features(CLEAN))
        assert list(terms) == [*layers_, "prediction"]
        assert float(terms["prediction"]) == pytest.approx(2 * kl, rel=1e-4)
        assert float(loss(PURIFIED, CLEAN)) == pytest.approx(2 * kl + 0.15 * len(layers_), rel=1e-4)

    def test_log_of_each_image(self):
        """log(1 + KL) of each image, then the mean; KL as in the test before, and 0."""
        clean, purified = [1 / (1 + math.exp(-d)) for d in (2.0, 1.55)]
        kl = clean * math.log(clean / purified) + (1 - clean) * math.log((1 - clean) / (1 - purified))
        loss = PerceptualLoss(tiny(), [], prediction_weight=2.0, prediction="log")
        both = [loss.features(tf.concat([images, CLEAN], axis=0)) for images in (PURIFIED, CLEAN)]
        assert float(loss.terms(*both)["prediction"]) == pytest.approx(2 * (math.log1p(kl) + 0) / 2, rel=1e-4)

    def test_probabilities(self):
        """Logits and their softmax say the same."""
        logits = PerceptualLoss(tiny(), [], prediction_weight=1.0)
        probabilities = PerceptualLoss(tiny(softmax=True), [], prediction_weight=1.0, probabilities=True)
        assert float(probabilities(PURIFIED, CLEAN)) == pytest.approx(float(logits(PURIFIED, CLEAN)), rel=1e-3)
        wrong = PerceptualLoss(tiny(softmax=True), [], prediction_weight=1.0)
        assert float(wrong(PURIFIED, CLEAN)) != pytest.approx(float(logits(PURIFIED, CLEAN)), rel=0.1)

    def test_a_class_of_probability_zero(self):
        certain = keras.Sequential([keras.Input((1, 2, 3)), layers.Lambda(lambda x: x[:, 0, 0, :2])])
        loss = PerceptualLoss(certain, [], prediction_weight=1.0, probabilities=True)
        a, b = (tf.constant([[[[p, 1 - p, 0.0], [0.0] * 3]]]) for p in (1.0, 0.0))
        assert np.isfinite(loss(a, b))
        assert float(loss(a, b)) > 5
        assert float(loss(a, a)) == pytest.approx(0, abs=1e-5)

    def test_mean_over_the_batch(self):
        loss = PerceptualLoss(tiny(), ["a"], normalize=False, prediction_weight=1.0)
        one = float(loss(PURIFIED, CLEAN))
        two = loss(tf.concat([PURIFIED, CLEAN], 0), tf.concat([CLEAN, CLEAN], 0))
        assert float(two) == pytest.approx(one / 2, rel=1e-5)

    @pytest.mark.parametrize("distance", ["l1", "l2"])
    def test_each_image_is_measured_by_its_own_features(self, distance):
        """A dark image beside a bright one counts as it does alone: the batch makes no difference."""
        loss = PerceptualLoss(tiny(), ["a", "b"], distance=distance, prediction_weight=1.0)
        pairs = [(PURIFIED, CLEAN), (0.02 * PURIFIED, 0.02 * CLEAN), (3 * CLEAN, PURIFIED)]
        alone = [float(loss(*pair)) for pair in pairs]
        together = loss(*(tf.concat(part, 0) for part in zip(*pairs, strict=True)))
        assert float(together) == pytest.approx(np.mean(alone), rel=1e-4)
        # By hand, for "a": the same relative change in both; the mean is that of each, not of the sums.
        loss = PerceptualLoss(tiny(), ["a"], distance=distance)
        assert float(loss(tf.concat([PURIFIED, 0.02 * PURIFIED], 0), tf.concat([CLEAN, 0.02 * CLEAN], 0))) == (
            pytest.approx(float(loss(PURIFIED, CLEAN)), rel=1e-2)
        )

    def test_features_without_places(self):
        """A dense layer's: (N, C)."""
        image = keras.Input((1, 2, 3))
        model = keras.Model(image, layers.Flatten(name="f")(image))
        loss = PerceptualLoss(model, ["f"])
        expected = float(tf.reduce_sum(tf.abs(PURIFIED - CLEAN)) / tf.reduce_sum(CLEAN))
        assert float(loss(PURIFIED, CLEAN)) == pytest.approx(expected, rel=1e-4)

    def test_features_of_zero_divide(self):
        loss = PerceptualLoss(tiny(), ["a"])
        assert np.isfinite(loss(CLEAN, tf.zeros_like(CLEAN)))

    def test_preprocess(self):
        plain = PerceptualLoss(tiny(), ["a"], normalize=False)
        doubled = PerceptualLoss(tiny(), ["a"], normalize=False, preprocess=lambda x: 2 * x - 1)
        assert float(doubled(PURIFIED, CLEAN)) == pytest.approx(2 * float(plain(PURIFIED, CLEAN)), rel=1e-5)
        np.testing.assert_allclose(doubled.features(CLEAN)[0][0, 0, :, 0], [2 * 1.4 - 6, 2 * 0.6 - 6], rtol=1e-5)

    def test_gradient_reaches_the_purified_image_only(self):
        model = tiny()
        loss = PerceptualLoss(model, ["a"], normalize=False)
        purified = tf.Variable(PURIFIED)
        with tf.GradientTape() as tape:
            value = loss(purified, CLEAN)
        # Only the first pixel differs; the purified one is lower; the mean is over two pixels.
        np.testing.assert_allclose(
            tape.gradient(value, purified)[0, 0], [[-0.5, -1.0, -1.5], [0.0, 0.0, 0.0]], atol=1e-6
        )

    def test_features_in_half_precision_are_compared_in_single(self):
        loss = PerceptualLoss(tiny(), ["a"], prediction_weight=1.0)
        features = [[tf.cast(f, tf.float16) for f in loss.features(x)] for x in (PURIFIED, CLEAN)]
        terms = loss.terms(*features)
        assert {t.dtype for t in terms.values()} == {tf.float32}
        assert float(terms["a"]) == pytest.approx(0.15, rel=1e-2)

    def test_the_model_runs_as_at_test_time(self):
        model = keras.Sequential([keras.Input((4, 4, 3)), layers.Dropout(0.5, name="d"), layers.BatchNormalization()])
        loss = PerceptualLoss(model, ["d"], prediction_weight=0.0)
        x = tf.ones((1, 4, 4, 3))
        np.testing.assert_array_equal(loss.features(x)[0], x)

    def test_the_model_is_not_changed(self):
        model = tiny()
        before, trainable = model.get_weights(), model.trainable
        loss = PerceptualLoss(model, ["a", "b"], prediction_weight=1.0)
        loss(PURIFIED, CLEAN)
        assert model.trainable == trainable
        assert len(model.layers) == 4
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class TestErrors:
    @pytest.mark.parametrize(
        ("chosen", "arguments", "message"),
        [
            (["a", "c"], {}, "Expected layers of tiny. Received ['c']; it has ['image', 'a', 'b', 'logits']."),
            ([], {}, "Expected at least one layer, or a prediction_weight above 0"),
            (["a"], {"distance": "l3"}, "Expected distance to be one of ['l1', 'l2']. Received 'l3'."),
            (["a"], {"prediction": "l1"}, "Expected prediction to be one of"),
            ({"a": -1.0}, {}, "Expected weights of at least 0. Received {'a': -1.0}"),
            (["a"], {"prediction_weight": -1.0}, "Expected weights of at least 0"),
        ],
    )
    def test_refused(self, chosen, arguments, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            PerceptualLoss(tiny(), chosen, **arguments)


class TestOfClassifier:
    def make(self, convolutions):
        """Depthwise convolutions in between do not count."""
        image = x = keras.Input((16, 16, 3))
        for i in range(convolutions):
            x = layers.Conv2D(4, 3, padding="same", name=f"c{i}")(x)
            x = layers.DepthwiseConv2D(3, padding="same", name=f"d{i}")(x)
        return keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))

    @pytest.mark.parametrize(
        ("convolutions", "count", "chosen"),
        [(8, 4, [1, 3, 5, 7]), (10, 4, [1, 4, 6, 9]), (5, 1, [4]), (4, 4, [0, 1, 2, 3]), (2, 4, [0, 1]), (1, 4, [0])],
    )
    def test_evenly_spaced_with_the_last(self, convolutions, count, chosen):
        loss = PerceptualLoss.of_classifier(self.make(convolutions), count=count)
        assert loss.layers == {f"c{i}": pytest.approx(1 / len(chosen)) for i in chosen}
        assert loss.prediction_weight == 1.0

    @pytest.mark.parametrize(
        ("convolutions", "count", "start", "chosen"),
        [(8, 2, 0.5, [5, 7]), (10, 3, 0.3, [4, 6, 9]), (3, 4, 0.5, [1, 2]), (4, 2, 1, [3]), (1, 1, 0.9, [0])],
    )
    def test_the_first_can_be_left_out(self, convolutions, count, start, chosen):
        loss = PerceptualLoss.of_classifier(self.make(convolutions), count=count, start=start)
        assert list(loss.layers) == [f"c{i}" for i in chosen]

    def test_start_is_a_share(self):
        with pytest.raises(ValueError, match=r"Expected start to be a number from 0 to 1. Received 1.5"):
            PerceptualLoss.of_classifier(self.make(2), start=1.5)

    @pytest.mark.parametrize("depth", [1, 2])
    @pytest.mark.parametrize("sequential", [True, False])
    def test_a_backbone_inside(self, depth, sequential):
        """Its convolutions count as they do laid open; the classifier stays as it is."""
        flat = self.make(3)
        backbone = keras.Model(flat.inputs, flat.layers[-3].output, name="backbone")
        model, prefix = backbone, "backbone/"
        for level in range(depth):
            head = [layers.Conv2D(2, 1, name=f"head{level}")]
            if level == depth - 1:
                head += [layers.GlobalAveragePooling2D(), layers.Dense(5)]
            if sequential:
                model = keras.Sequential([keras.Input((16, 16, 3)), model, *head], name=f"outer{level}")
            else:
                image = keras.Input((16, 16, 3))
                x = model(layers.Rescaling(1.0)(image), training=False)
                for layer in head:
                    x = layer(x)
                model = keras.Model(image, x, name=f"outer{level}")
            prefix = f"outer{level}/{prefix}" if level < depth - 1 else prefix
        before, names = model.get_weights(), [layer.name for layer in model.layers]
        x = tf.constant(np.random.default_rng(0).random((2, 16, 16, 3), np.float32))
        expected = keras.Model(backbone.inputs, [backbone.get_layer(f"c{i}").output for i in range(3)])(x)
        heads = [f"outer{level}/head{level}" for level in range(depth - 1)] + [f"head{depth - 1}"]
        loss = PerceptualLoss.of_classifier(model, count=9)
        assert list(loss.layers) == [*(f"{prefix}c{i}" for i in range(3)), *heads]
        features = loss.features(x)
        for got, want in zip(features, expected, strict=False):
            np.testing.assert_allclose(got, want, atol=1e-6)
        np.testing.assert_allclose(features[-1], model(x), atol=1e-6)
        assert [layer.name for layer in model.layers] == names
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        # Any of them, by its name.
        chosen = PerceptualLoss(model, [f"{prefix}c1", prefix.split("/")[0]])
        np.testing.assert_allclose(chosen.features(x)[0], expected[1], atol=1e-6)
        again = PerceptualLoss.of_classifier(model, count=9).features(x)
        for got, want in zip(again, features, strict=True):
            np.testing.assert_array_equal(got, want)

    def test_a_model_without_a_convolution_is_named(self, caplog):
        model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2)], name="flat")
        assert PerceptualLoss.of_classifier(model).layers == {}
        assert "No convolution is seen in flat: its prediction alone makes the perceptual loss." in caplog.text
        caplog.clear()
        PerceptualLoss.of_classifier(self.make(1))
        assert not caplog.text

    def test_a_model_without_a_graph_gives_its_prediction(self, tiny_images, caplog):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.c, self.pool = layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()

            def call(self, x):
                return self.pool(self.c(x))

        model = Subclassed()
        x = tf.constant(tiny_images[:2])
        expected = model(x)
        loss = PerceptualLoss.of_classifier(model)
        assert loss.layers == {}
        assert "No convolution is seen in " in caplog.text
        np.testing.assert_array_equal(loss.features(x)[0], expected)
        assert float(loss(x[:1], x[1:])) > 0

    def test_a_real_one(self, tiny_classifier, tiny_images):
        loss = PerceptualLoss.of_classifier(tiny_classifier.model)
        assert list(loss.layers) == ["conv_1", "conv_2"]
        features = loss.features(tf.constant(tiny_images))
        assert [tuple(f.shape) for f in features] == [(8, 16, 16, 8), (8, 8, 8, 16), (8, 10)]
        np.testing.assert_allclose(features[-1], tiny_classifier.predict(tiny_images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def vgg():
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG19(include_top=False, weights=None)
    rng = np.random.default_rng(0)
    network.set_weights(
        [w if w.ndim > 1 else rng.normal(0, 0.1, w.shape).astype(np.float32) for w in network.get_weights()]
    )
    return network


class TestVgg19:
    NAMES = tuple(f"block{k}_conv1" for k in range(1, 6))

    def test_from_a_file_it_is_kerass_on_caffes_input(self, vgg, tmp_path):
        vgg.save_weights(tmp_path / "vgg.weights.h5")
        loss = PerceptualLoss.vgg19(tmp_path / "vgg.weights.h5")
        image = np.random.default_rng(1).random((2, 32, 48, 3)).astype(np.float32)
        caffe = keras.applications.vgg19.preprocess_input(255 * image.copy())
        reference = keras.Model(vgg.inputs[0], [vgg.get_layer(name).output for name in self.NAMES])(caffe)
        features = loss.features(tf.constant(image))
        assert len(features) == 5
        for feature, expected in zip(features, reference, strict=True):
            scale = float(tf.reduce_mean(tf.abs(expected)))
            assert scale > 0
            np.testing.assert_allclose(feature, expected, atol=1e-3 * scale)

    def test_without_weights_it_needs_no_network(self, monkeypatch):
        monkeypatch.setattr("keras.utils.get_file", lambda *_, **__: pytest.fail("a download"))
        loss = PerceptualLoss.vgg19(None, distance="l2")
        assert loss.layers == dict(zip(self.NAMES, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True))
        assert loss.distance == "l2"
        assert repr(loss).startswith("PerceptualLoss('vgg19', ")
        x = tf.constant(np.random.default_rng(0).random((2, 32, 32, 3)), tf.float32)
        assert float(loss(x, x)) == 0
        # Each normalised term is of the order of its weight.
        assert 0 < float(loss(x, x[::-1])) < 5

    def test_no_such_file(self):
        with pytest.raises(
            FileNotFoundError, match=r"Expected weights to be 'imagenet', None or a file\. Received 'none\.h5'\."
        ):
            PerceptualLoss.vgg19("none.h5")


class TestRandom:
    def make(self, seed=0, always=()):
        return RandomPerceptualLoss([PerceptualLoss(tiny(), [name]) for name in ("a", "b")], always, seed=seed)

    def test_each_call_draws_one(self):
        """Of the losses' own values; both come up, as often as a fair coin."""
        values = [float(PerceptualLoss(tiny(), [name])(PURIFIED, CLEAN)) for name in ("a", "b")]
        loss = self.make()
        drawn = [float(loss(PURIFIED, CLEAN)) for _ in range(60)]
        places = [int(np.argmin(np.abs(np.array(values) - value))) for value in drawn]
        np.testing.assert_allclose(drawn, np.array(values)[places], rtol=1e-5)
        assert abs(sum(places) - 30) < 4 * math.sqrt(60 / 4)

    def test_a_number_names_one(self):
        loss = self.make()
        for number, name in enumerate(("a", "b")):
            assert float(loss(PURIFIED, CLEAN, tf.constant(number))) == float(
                PerceptualLoss(tiny(), [name])(PURIFIED, CLEAN)
            )

    def test_losses_that_always_count(self):
        always = PerceptualLoss(tiny(), [], prediction_weight=1.0)
        with_it, without = self.make(always=[always]), self.make()
        for _ in range(4):
            expected = without(PURIFIED, CLEAN) + always(PURIFIED, CLEAN)
            np.testing.assert_allclose(with_it(PURIFIED, CLEAN), expected, rtol=1e-5)

    def test_its_state_is_all_that_the_draws_depend_on(self):
        first, other, later = self.make(3), self.make(4), self.make(5)
        drawn = [float(first(PURIFIED, CLEAN)) for _ in range(12)]
        assert [float(other(PURIFIED, CLEAN)) for _ in range(12)] != drawn
        (state,) = (self.make(3)).variables
        later.variables[0].assign(state)
        tf.random.set_seed(7)
        assert [float(later(PURIFIED, CLEAN)) for _ in range(12)] == drawn

    def test_none(self):
        with pytest.raises(ValueError, match="Expected at least one perceptual loss. Received none"):
            RandomPerceptualLoss([])
