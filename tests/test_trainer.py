import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator, TensorFlowV2DataGenerator
from art.estimators.classification import BlackBoxClassifier, TensorFlowV2Classifier

from art_versatile import PAPER_SCHEDULE, LossSchedule, VersatilePurifier, VersatileTrainer
from art_versatile.pix2pix import CompactGenerator, PerceptualLoss, UNet256Generator, patchgan
from art_versatile.trainer import defend

SIZE, CLASSES, SCHEDULE = 32, 4, LossSchedule([(100, 10.0, 1.0)])


def make_model(subclassed=False, softmax=False):
    layers = [
        keras.layers.Conv2D(8, 3, 2, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1)),
        keras.layers.Conv2D(8, 3, 2, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=2)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(
            CLASSES, "softmax" if softmax else None, kernel_initializer=keras.initializers.HeNormal(seed=3)
        ),
    ]
    if not subclassed:
        return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.steps = layers

        def call(self, x):
            for layer in self.steps:
                x = layer(x)
            return x

    return Subclassed()


def make_classifier(model=None, softmax=False, scale=1.0, **kwargs):
    return TensorFlowV2Classifier(
        model=model or make_model(softmax=softmax),
        nb_classes=CLASSES,
        input_shape=(SIZE, SIZE, 3),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=not softmax),
        clip_values=(0.0, scale),
        **kwargs,
    )


def small_purifier(**kwargs):
    return VersatilePurifier(CompactGenerator(widths=(16, 32), blocks=(1, 1)), **kwargs)


@pytest.fixture
def classifier():
    return make_classifier()


@pytest.fixture
def attacks(classifier):
    return [
        FastGradientMethod(classifier, eps=0.1),
        ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.03, max_iter=3, num_random_init=1, verbose=True),
    ]


@pytest.fixture(scope="module")
def images():
    """Smooth, so that a perturbation can be told from them."""
    coarse = np.random.default_rng(0).uniform(size=(8, 4, 4, 3)).astype(np.float32)
    return tf.image.resize(coarse, (SIZE, SIZE), "bicubic").numpy().clip(0, 1)


def fit(trainer, x, y=None, **kwargs):
    return trainer.fit(x, y, **{"batch_size": 4, "nb_epochs": 4, "verbose": 0, **kwargs})


class TestFit:
    def test_loss_falls_and_the_purifier_comes_out_fitted(self, classifier, attacks, images):
        trainer = VersatileTrainer(
            classifier, attacks, small_purifier(), schedule=SCHEDULE, split="every", verbose=False
        )
        before = trainer.purifier.generator.get_weights()
        history = fit(trainer, images, nb_epochs=8)
        assert set(history.history) == {"loss", "pixel", "perceptual"}
        assert history.history["loss"][-1] < 0.8 * history.history["loss"][0]
        assert any(
            np.abs(a - b).max() > 0 for a, b in zip(before, trainer.purifier.generator.get_weights(), strict=True)
        )
        assert trainer.get_classifier().predict(images).shape == (8, CLASSES)
        assert trainer.purifier.is_fitted

    def test_purifier_removes_perturbations_better_than_before(self, classifier, attacks, images):
        trainer = VersatileTrainer(
            classifier, attacks[:1], small_purifier(), schedule=SCHEDULE, perceptual=None, verbose=False,
            optimizer=keras.optimizers.Adam(2e-3),
        )  # fmt: skip
        x_adv = attacks[0].generate(images)
        error = np.abs(trainer.purifier(x_adv)[0] - images).mean()
        fit(trainer, images, nb_epochs=30)
        assert np.abs(trainer.purifier(x_adv)[0] - images).mean() < 0.7 * error

    def test_caller_keeps_everything_as_it_was(self, classifier, attacks, images):
        x, y = images.copy(), np.arange(8) % CLASSES
        labels = y.copy()
        attack_state = [{k: getattr(a, k, None) for k in a.attack_params} for a in attacks]
        weights = [w.copy() for w in classifier.model.get_weights()]
        defences = list(classifier.preprocessing_operations)
        random_state = np.random.get_state()[1].copy()  # noqa: NPY002
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), schedule=SCHEDULE, verbose=False)
        fit(trainer, x, y, nb_epochs=1)
        trainer.get_classifier()
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(y, labels)
        assert [{k: getattr(a, k, None) for k in a.attack_params} for a in attacks] == attack_state
        for before, after in zip(weights, classifier.model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
        assert classifier.preprocessing_operations == defences
        assert classifier.preprocessing_defences is None
        np.testing.assert_array_equal(np.random.get_state()[1], random_state)  # noqa: NPY002

    def test_same_seed_same_weights(self, classifier, attacks, images):
        runs = []
        for _ in range(2):
            trainer = VersatileTrainer(classifier, attacks, small_purifier(), schedule=SCHEDULE, seed=3, verbose=False)
            fit(trainer, images, nb_epochs=2)
            runs.append(trainer.purifier.generator.get_weights())
        for a, b in zip(*runs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    @pytest.mark.parametrize(("split", "pairs"), [("one_per_image", 8), ("every", 16)])
    def test_split(self, classifier, attacks, images, split, pairs):
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), split=split, verbose=False)
        x_adv, clean = trainer._pairs(images, None)
        assert x_adv.shape == clean.shape == (pairs, SIZE, SIZE, 3)
        assert 0.01 < np.abs(x_adv - clean).max() <= 0.1 + 1e-6

    def test_labels_default_to_the_predictions(self, classifier, attacks, images):
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), verbose=False)
        predicted = classifier.predict(images).argmax(axis=1)
        expected = trainer._pairs(images, None)[0]
        np.testing.assert_array_equal(trainer._pairs(images, predicted)[0], expected)
        np.testing.assert_array_equal(trainer._pairs(images, np.eye(CLASSES)[predicted])[0], expected)
        assert np.abs(trainer._pairs(images, (predicted + 1) % CLASSES)[0] - expected).max() > 0

    def test_other_range_and_subclassed_model(self, images):
        model = make_model(subclassed=True)
        classifier = make_classifier(model, scale=255.0, preprocessing=(127.0, 128.0))
        attack = FastGradientMethod(classifier, eps=10.0)
        trainer = VersatileTrainer(
            classifier, attack, small_purifier(clip_values=(0, 255)), schedule=SCHEDULE, verbose=False
        )
        history = fit(trainer, images * 255, nb_epochs=4)
        assert history.history["loss"][-1] < history.history["loss"][0]
        # A subclassed model shows no layers: what counts is its prediction on standardised pixels.
        loss = trainer._perceptual_loss(images)
        p, c = (tf.nn.log_softmax(model((x * 255 - 127) / 128)) for x in (images * 0.5, images))
        expected = tf.reduce_mean(tf.reduce_sum(tf.exp(c) * (c - p), -1))
        np.testing.assert_allclose(loss(images * 0.5, images), expected, rtol=1e-4)

    def test_softmax_classifier(self, images):
        classifier = make_classifier(softmax=True)
        trainer = VersatileTrainer(classifier, FastGradientMethod(classifier, eps=0.1), small_purifier(), verbose=False)
        loss = trainer._perceptual_loss(images)
        p, c = (tf.math.log(classifier.model(x) + 1e-6) for x in (images * 0.5, images))
        expected = tf.reduce_mean(tf.reduce_sum(tf.exp(c) * (c - p), -1))
        features = [f[-1:] for f in (loss.features(images * 0.5), loss.features(images))]
        got = PerceptualLoss(classifier.model, [], prediction_weight=1.0, probabilities=True).terms(*features)
        np.testing.assert_allclose(got["prediction"], expected, rtol=1e-4)
        assert loss._probabilities

    def test_classifier_without_keras_model_warns(self, classifier, attacks, images, caplog):
        black_box = BlackBoxClassifier(
            lambda x: classifier.predict(x), (SIZE, SIZE, 3), CLASSES, clip_values=(0.0, 1.0)
        )
        trainer = VersatileTrainer(black_box, attacks, small_purifier(), schedule=SCHEDULE, verbose=False)
        with caplog.at_level(logging.WARNING):
            history = fit(trainer, images, nb_epochs=1)
        assert "without a perceptual loss" in caplog.text
        assert set(history.history) == {"loss", "pixel"}
        assert trainer.get_classifier().predict(images).shape == (8, CLASSES)

    def test_adversarial_loss(self, classifier, attacks, images):
        trainer = VersatileTrainer(
            classifier, attacks, small_purifier(), schedule=SCHEDULE, discriminator=patchgan(8), verbose=False
        )
        history = fit(trainer, images, nb_epochs=1)
        assert {"adversarial", "discriminator"} <= set(history.history)

    def test_images_are_cropped_to_what_the_generator_takes(self, attacks, classifier):
        purifier = small_purifier()
        assert purifier.generator.size_multiple == 8
        trainer = VersatileTrainer(classifier, attacks, purifier, verbose=False)
        ramp = np.tile(np.linspace(0, 1, 37 * 29, dtype=np.float32).reshape(1, 37, 29, 1), (4, 1, 1, 3))
        corners = set()
        for a, b in trainer._dataset(ramp, ramp, (32, 24), 2).repeat(8):
            assert a.shape[1:] == (32, 24, 3)
            np.testing.assert_array_equal(a, b)
            corners |= set(np.round(a[:, 0, 0, 0].numpy(), 6).tolist())
        assert len(corners) > 5


class TestGenerator:
    def test_numpy_generator(self, classifier, attacks, images):
        y = np.eye(CLASSES, dtype=np.float32)[np.arange(8) % CLASSES]
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), schedule=SCHEDULE, verbose=False)
        history = trainer.fit_generator(NumpyDataGenerator(images, y, batch_size=4), nb_epochs=2, verbose=0)
        assert len(history.history["loss"]) == 2

    def test_dataset_that_ends(self, classifier, attacks, images):
        dataset = tf.data.Dataset.from_tensor_slices((images, np.eye(CLASSES)[[0] * 8])).batch(3)
        generator = TensorFlowV2DataGenerator(dataset, size=9, batch_size=3)
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), schedule=SCHEDULE, verbose=False)
        history = trainer.fit_generator(generator, nb_epochs=1, verbose=0)
        assert len(history.history["loss"]) == 1

    def test_without_size(self, classifier, attacks):
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), verbose=False)
        with pytest.raises(ValueError, match="Expected a data generator with a size"):
            trainer.fit_generator(object())


class TestDefended:
    def test_defended_copy_predicts_through_the_purifier(self, classifier, images):
        purifier = small_purifier()
        trainer = VersatileTrainer(classifier, FastGradientMethod(classifier), purifier, verbose=False)
        defended = trainer.get_classifier()
        np.testing.assert_allclose(defended.predict(images), classifier.predict(purifier(images)[0]), atol=1e-5)
        np.testing.assert_allclose(trainer.predict(images), defended.predict(images))
        assert np.abs(defended.predict(images) - classifier.predict(images)).max() > 1e-4
        assert defended.model is classifier.model
        assert trainer.classifier is classifier

    def test_own_defences_come_after(self, images):
        first, second = small_purifier(), small_purifier()
        classifier = make_classifier(preprocessing_defences=[second])
        defended = defend(classifier, first)
        assert defended.preprocessing_defences == [first, second]
        assert classifier.preprocessing_defences == [second]

    def test_before_fit(self, classifier, attacks):
        with pytest.raises(ValueError, match="Expected a fitted purifier: call fit first"):
            VersatileTrainer(classifier, attacks).get_classifier()


class TestParameters:
    def test_defaults(self, classifier, attacks):
        trainer = VersatileTrainer(classifier, attacks)
        assert trainer.schedule == PAPER_SCHEDULE
        assert trainer.purifier.generator.architecture == "compact"
        assert "FastGradientMethod" in repr(trainer)

    def test_paper_attacks_by_default(self, classifier):
        assert list(VersatileTrainer(classifier).attacks) == ["FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack"]

    def test_targeted_attacks_are_refused(self, classifier):
        targeted = ProjectedGradientDescent(classifier, targeted=True, verbose=False)
        with pytest.raises(ValueError, match="Expected untargeted attacks. Received the targeted attack"):
            VersatileTrainer(classifier, [targeted])

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"attacks": []}, ValueError, "Expected at least one attack"),
            ({"attacks": ["FGSM"]}, TypeError, "Expected ART evasion attacks. Received str"),
            ({"schedule": (1, 2)}, TypeError, "Expected schedule to be a LossSchedule"),
            ({"split": "some"}, ValueError, "Expected split to be one of"),
            ({"perceptual": "vgg"}, ValueError, "Expected perceptual to be"),
            ({"purifier": "clip"}, ValueError, r"Expected a purifier with the classifier's clip_values \(0.0, 1.0\)"),
            ({"purifier": "first"}, ValueError, "Expected a purifier with the classifier's channels_first"),
        ],
    )
    def test_bad_parameters(self, classifier, attacks, kwargs, error, message):
        purifiers = {"clip": {"clip_values": (0, 255)}, "first": {"channels_first": True}}
        if "purifier" in kwargs:
            kwargs = {"purifier": small_purifier(**purifiers[kwargs["purifier"]])}
        with pytest.raises(error, match=message):
            VersatileTrainer(**{"classifier": classifier, "attacks": attacks, **kwargs})

    def test_classifier_without_clip_values(self, attacks):
        classifier = TensorFlowV2Classifier(model=make_model(), nb_classes=4, input_shape=(SIZE, SIZE, 3))
        with pytest.raises(ValueError, match="Expected an ART classifier with clip_values"):
            VersatileTrainer(classifier, attacks)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda x: {"x": x[0]}, "Expected x to be a batch of images"),
            (lambda x: {"x": x * 2}, "Expected x inside clip_values"),
            (lambda x: {"x": x[:1]}, "Expected at least one image for each of 2 attacks. Received 1"),
            (lambda x: {"x": x, "y": np.zeros(3)}, "Expected as many labels as images, 8. Received 3"),
            (lambda x: {"x": x, "batch_size": 0}, "Expected batch_size"),
            (lambda x: {"x": x, "nb_epochs": 0}, "Expected nb_epochs to be an integer of at least 1. Received 0"),
        ],
    )
    def test_bad_input_to_fit(self, classifier, attacks, images, spoil, message):
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), verbose=False)
        before = [w.copy() for w in trainer.purifier.generator.get_weights()]
        with pytest.raises(ValueError, match=message):
            trainer.fit(**spoil(images))
        for a, b in zip(before, trainer.purifier.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_images_too_small_for_the_generator(self, classifier, attacks, images):
        purifier = VersatilePurifier(UNet256Generator(filters=2))
        with pytest.raises(ValueError, match="Expected images of at least 256x256 pixels for unet256. Received 32x32"):
            VersatileTrainer(classifier, attacks, purifier, verbose=False).fit(images)
