import dataclasses
import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import CarliniL2Method, DeepFool, FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator, TensorFlowV2DataGenerator
from art.estimators.classification import BlackBoxClassifier, EnsembleClassifier, TensorFlowV2Classifier

from art_versatile import PAPER_SCHEDULE, LossSchedule, VersatilePurifier, VersatileTrainer
from art_versatile import trainer as trainer_module
from art_versatile.pairs import MemoryPairs, PairStore, attack_in_memory, generate_pairs
from art_versatile.pairs.replay import joined
from art_versatile.pix2pix import CompactGenerator, PerceptualLoss, patchgan
from art_versatile.trainer import defend
from art_versatile.training import PRESETS
from art_versatile.training.inner import GaussianNoise, InnerAttack, inner_source

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
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])
    return Wrapped(model) if subclassed else model


def make_any_size():
    model = keras.models.clone_model(make_model(), input_tensors=keras.Input((None, None, 3)))
    model.set_weights(make_model().get_weights())
    return model


class Wrapped(keras.Model):
    """A model that shows no layers."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def call(self, x):
        return self.inner(x)


def make_classifier(model=None, softmax=False, scale=1.0, **kwargs):
    return TensorFlowV2Classifier(
        model=model or make_model(softmax=softmax),
        nb_classes=CLASSES,
        input_shape=(SIZE, SIZE, 3),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=not softmax),
        **{"clip_values": (0.0, scale), **kwargs},
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
            classifier, attacks, small_purifier(), schedule=SCHEDULE, split="every", discriminator=None, verbose=False
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
        # ART draws a new eps in each call, and keeps it.
        attacks.append(ProjectedGradientDescent(classifier, eps=0.1, max_iter=1, random_eps=True, num_random_init=1))
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

    @pytest.mark.parametrize("split", ["one_per_image", "every", 2])
    def test_trained_on_the_pairs_of_the_one_core(self, classifier, attacks, images, split):
        """Class balance, any split, labels and seeds are the core's: its pairs give the same run."""
        options = {"schedule": SCHEDULE, "perceptual": None, "discriminator": None, "seed": 3, "verbose": False}
        y = np.arange(8) % CLASSES
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), split=split, **options)
        history = fit(trainer, images, y, nb_epochs=1)
        pairs = attack_in_memory(
            images, classifier, trainer.attacks, labels=y, split=split, seed=3, batch_size=16, verbose=False
        )
        assert len(pairs) == (8 if split == "one_per_image" else 16)
        given = VersatileTrainer(classifier, attacks, small_purifier(), split=split, **options)
        assert fit(given, pairs, nb_epochs=1).history == history.history

    def test_other_range_and_subclassed_model(self, images):
        model = make_model(subclassed=True)
        classifier = make_classifier(model, scale=255.0, preprocessing=(127.0, 128.0))
        attack = FastGradientMethod(classifier, eps=10.0)
        trainer = VersatileTrainer(
            classifier, attack, small_purifier(clip_values=(0, 255)), schedule=SCHEDULE, perceptual="classifier",
            discriminator=None, verbose=False,
        )  # fmt: skip
        history = fit(trainer, images * 255, nb_epochs=4)
        assert history.history["loss"][-1] < history.history["loss"][0]
        # A subclassed model shows no layers: what counts is its prediction on standardised pixels.
        loss = trainer._perceptual_loss(images.shape[1:])
        p, c = (tf.nn.log_softmax(model((x * 255 - 127) / 128)) for x in (images * 0.5, images))
        expected = tf.reduce_mean(tf.math.log1p(tf.reduce_sum(tf.exp(c) * (c - p), -1)))
        np.testing.assert_allclose(loss(images * 0.5, images), expected, rtol=1e-4)

    def test_softmax_classifier(self, images):
        classifier = make_classifier(softmax=True)
        trainer = VersatileTrainer(classifier, FastGradientMethod(classifier, eps=0.1), small_purifier(), verbose=False)
        loss = trainer._perceptual_loss(images.shape[1:])
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
        trainer = VersatileTrainer(
            black_box, attacks, small_purifier(), schedule=SCHEDULE, discriminator=None, verbose=False
        )
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

    def test_images_are_mirrored_up_to_what_the_generator_takes(self, attacks):
        """As the purifier mirrors them: 37x29 to 40x32, at their far edges."""
        classifier = make_classifier(make_any_size())
        attack = FastGradientMethod(classifier, eps=0.1)
        trainer = VersatileTrainer(classifier, attack, small_purifier(), verbose=False)
        assert trainer.purifier.generator.size_multiple == 8
        x = np.random.default_rng(0).random((4, 37, 29, 3), np.float32)
        # Held images of another size are classified at theirs.
        asked, held = [], x[:, :, :21]
        predict = classifier.predict
        classifier.predict = lambda images, **kwargs: asked.append(images.shape[1:3]) or predict(images, **kwargs)
        history = fit(trainer, x, nb_epochs=1, validation_data=(held, np.zeros(4, int)))
        assert {"val_clean_accuracy", "perceptual"} < set(history.history)
        assert set(asked) == {(37, 29), (37, 21)}

    def test_smallest_perturbations_are_not_scaled(self, classifier):
        """By what an attack is, whatever its name."""
        attacks = [FastGradientMethod(classifier), CarliniL2Method(classifier), DeepFool(classifier)]
        trainer = VersatileTrainer(classifier, attacks, small_purifier())
        assert trainer._preset(2, 3).whole == ("C&W", "DeepFool", "1 CarliniL2Method", "2 DeepFool")

    def test_batch_size_and_epochs_of_the_preset(self, classifier, attacks, images, tmp_path):
        preset = dataclasses.replace(PRESETS["compact"], batch_size=2, schedule=LossSchedule([(3, 10.0, 1.0)]))
        trainer = VersatileTrainer(
            classifier, attacks, small_purifier(), preset=preset, perceptual=None, discriminator=None, verbose=False
        )
        assert len(trainer.fit(images, out=tmp_path).history["loss"]) == 3
        assert VersatilePurifier.from_pretrained(tmp_path / "last").card["training"]["batch_size"] == 2

    def test_the_card_is_of_what_was_trained(self, classifier, images, tmp_path):
        """No figures of the weights before; where they came from, and the licence, stay."""
        purifier = VersatilePurifier()
        before = purifier.card
        trainer = VersatileTrainer(
            classifier, FastGradientMethod(classifier), purifier, perceptual=None, discriminator=None, verbose=False
        )
        for _ in range(2):
            fit(trainer, images, nb_epochs=1)
        trainer.purifier.save(tmp_path)
        card = VersatilePurifier.from_pretrained(tmp_path).card
        assert "evaluation" in before
        assert "evaluation" not in card
        assert card["training"]["clean_sha256"]
        assert card["initial_weights"] == {"sha256": before["weights"]["sha256"]}
        assert card["license"] == before["license"]
        assert "Apache-2.0" in card["encoder_license"]

    def test_the_schedule_is_stretched(self, classifier, attacks):
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), schedule=PAPER_SCHEDULE, verbose=False)
        expected = LossSchedule([(4, 100.0, 100.0), (3, 100.0, 50.0), (3, 100.0, 1.0)])
        assert trainer._preset(2, 10).schedule == expected
        assert trainer._preset(2, None).schedule == PAPER_SCHEDULE

    def test_the_users_optimizer(self, classifier, attacks, images):
        """Gradient descent of rate 0 moves nothing; what is counted says that it was asked."""
        optimizer = keras.optimizers.SGD(0.0)
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), perceptual=None, verbose=False,
                                   optimizer=optimizer)  # fmt: skip
        before = trainer.purifier.generator.get_weights()
        fit(trainer, images, nb_epochs=2)
        for a, b in zip(before, trainer.purifier.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert int(optimizer.iterations.numpy()) == 4

    def test_the_papers_preset(self, classifier, attacks, images, monkeypatch):
        """U-Net-256, VGG19 and PatchGAN; VGG19 would be downloaded."""
        asked = []
        monkeypatch.setattr(PerceptualLoss, "vgg19", classmethod(lambda cls, **kw: asked.append(kw) or None))
        preset = dataclasses.replace(PRESETS["paper"], features_options={"distance": "l2"})
        trainer = VersatileTrainer(classifier, attacks, preset=preset, verbose=False)
        assert trainer.purifier.generator.architecture == "unet256"
        trainer._perceptual_loss(images.shape[1:])
        assert asked == [{"distance": "l2"}]
        assert trainer.schedule == PAPER_SCHEDULE

    def test_what_ships_is_trained_further(self, classifier, images):
        """It begins where it was, and its encoder stays."""
        purifier = VersatilePurifier()
        trainer = VersatileTrainer(
            classifier, FastGradientMethod(classifier, eps=0.05), purifier, perceptual=None, discriminator=None,
            verbose=False,
        )  # fmt: skip
        before, encoder = purifier(images)[0], purifier.generator.get_layer("encoder").get_weights()
        fit(trainer, images, nb_epochs=1, learning_rate=1e-9)
        np.testing.assert_allclose(purifier(images)[0], before, atol=1e-4)
        fit(trainer, images, nb_epochs=1, learning_rate=1e-3)
        assert np.abs(purifier(images)[0] - before).max() > 1e-3
        for a, b in zip(encoder, purifier.generator.get_layer("encoder").get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_callbacks_and_fields_of_a_preset(self, classifier, attacks, images):
        seen = []
        trainer = VersatileTrainer(classifier, attacks, small_purifier(), perceptual=None, verbose=False)
        look = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: seen.append((look.model.clip_norm, look.model.optimizer.use_ema))
        )
        fit(trainer, images, nb_epochs=1, callbacks=[look], clip_norm=2.0, ema=0.9)
        assert seen == [(2.0, True)]

    def test_history_is_kerass(self, classifier, attacks, images):
        trainer = VersatileTrainer(
            classifier, attacks, small_purifier(), perceptual=None, discriminator=None, verbose=False
        )
        history = fit(trainer, images, nb_epochs=3)
        assert history.epoch == [0, 1, 2]
        assert {name: len(values) for name, values in history.history.items()} == {"loss": 3, "pixel": 3}
        weight = PRESETS["compact"].schedule(0)[0]
        assert history.history["loss"] == pytest.approx([weight * value for value in history.history["pixel"]])


class TestInner:
    OPTIONS = {"schedule": SCHEDULE, "discriminator": None, "seed": 3, "verbose": False}  # noqa: RUF012

    def trainer(self, classifier, **options):
        return VersatileTrainer(classifier, FastGradientMethod(classifier), small_purifier(), **self.OPTIONS, **options)

    @pytest.mark.parametrize(("inner", "options"), [("fgsm", {"eps": 0.1}), ("gaussian", {"sigma": 0.1})])
    def test_it_trains_without_attacks_and_the_same_twice(self, classifier, images, monkeypatch, inner, options):
        monkeypatch.setattr(FastGradientMethod, "generate", lambda *_, **__: pytest.fail("an attack"))
        source, seed = inner_source(inner, [classifier.model], start=1.0, **options), tf.constant([1, 2])

        loss = self.trainer(classifier)._perceptual_loss(images.shape[1:])

        def lost(generator):
            """Under attacks or noise that are the same each time."""
            return float(loss(generator(source(generator, images, tf.constant(1.0), seed)), images))

        before, runs = lost(small_purifier().generator), []
        for _ in range(2):
            trainer = self.trainer(classifier, optimizer=keras.optimizers.Adam(2e-3))
            fit(trainer, images, nb_epochs=30, inner=inner, **options)
            assert lost(trainer.purifier.generator) < 0.8 * before
            runs.append(trainer.purifier.generator.get_weights())
        for a, b in zip(*runs, strict=True):
            np.testing.assert_array_equal(a, b)
        facts = trainer.purifier.card["training"]["inner"]
        assert facts["class"] == ("GaussianNoise" if inner == "gaussian" else "InnerAttack")
        assert facts["sigma" if inner == "gaussian" else "eps"] == 0.1
        assert trainer.get_classifier().predict(images).shape == (8, CLASSES)

    @pytest.mark.parametrize("softmax", [False, True])
    def test_by_name_it_goes_through_the_classifiers_own_pixels(self, images, softmax):
        """Range, standardisation, softmax: the logits are those of the classifier, up to a constant."""
        classifier = make_classifier(softmax=softmax, scale=255.0, preprocessing=(127.0, 128.0))
        trainer = VersatileTrainer(
            classifier, FastGradientMethod(classifier), small_purifier(clip_values=(0, 255)), **self.OPTIONS
        )
        (model,) = trainer._inner("pgd", images.shape[1:], eps=None, sigma=None).classifiers
        expected = classifier.predict(images * 255)
        expected = expected if softmax else tf.nn.softmax(expected)
        np.testing.assert_allclose(tf.nn.softmax(model(images)), expected, atol=1e-5)
        assert trainer._inner("pgd", images.shape[1:], eps=0.5, sigma=None).eps == 0.5

    def test_an_object(self, classifier, images):
        """As it is given: with a name and the same settings the run is the same."""
        attack = InnerAttack([classifier.model], 0.1)
        given = fit(self.trainer(classifier), images, nb_epochs=1, inner=attack).history
        named = fit(self.trainer(classifier), images, nb_epochs=1, inner="fgsm", eps=0.1).history
        assert {name: pytest.approx(values, rel=1e-5) for name, values in given.items()} == named

    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (lambda x: {"inner": "cw"}, ValueError, "Expected inner to be one of"),
            (lambda x: {"inner": 4}, TypeError, "Expected inner to be an InnerAttack, GaussianNoise or a name"),
            (lambda x: {"inner": "fgsm", "sigma": 0.1}, ValueError, "Expected no sigma with inner='fgsm'"),
            (lambda x: {"inner": "gaussian", "eps": 0.1}, ValueError, "Expected no eps with inner='gaussian'"),
            (lambda x: {"inner": GaussianNoise(), "sigma": 0.1}, ValueError, "Expected no sigma with inner=Gauss"),
            (lambda x: {"eps": 0.1}, ValueError, "Expected no eps with inner=None"),
            (lambda x: {"inner": "fgsm", "eps": -1.0}, ValueError, "Expected eps"),
            (lambda x: {"inner": "fgsm", "y": np.zeros(8, int)}, ValueError, "clean images alone with inner"),
            (lambda x: {"inner": "fgsm", "pairs_folder": "pairs"}, ValueError, "clean images alone with inner"),
            (lambda x: {"inner": "fgsm", "x": MemoryPairs(x, x)}, ValueError, "clean images alone with inner"),
            (lambda x: {"inner": "fgsm", "x": x * 2}, ValueError, "Expected x inside clip_values"),
        ],
    )
    def test_refused(self, classifier, images, tmp_path, spoil, error, message):
        trainer = self.trainer(classifier)
        before = trainer.purifier.generator.get_weights()
        with pytest.raises(error, match=message):
            trainer.fit(**{"x": images, "out": tmp_path / "run", **spoil(images)})
        assert not (tmp_path / "run").exists()
        for a, b in zip(before, trainer.purifier.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_classifier_that_cannot_be_gone_through(self, classifier, images):
        black_box = BlackBoxClassifier(classifier.predict, (SIZE, SIZE, 3), CLASSES, clip_values=(0.0, 1.0))
        trainer = VersatileTrainer(black_box, FastGradientMethod(classifier), small_purifier(), **self.OPTIONS)
        with pytest.raises(ValueError, match="Expected a classifier with a Keras model, channels last"):
            trainer.fit(images, inner="fgsm")


class NotYet(FastGradientMethod):
    """An attack that nothing may come to."""

    def generate(self, *args, **kwargs):
        pytest.fail("an attack")


class TestFixedSize:
    """A classifier of 36x36 pixels, which the generator takes as 40x40."""

    @pytest.fixture(params=[False, True], ids=["functional", "subclassed"])
    def fixed(self, request):
        init = [keras.initializers.HeNormal(seed=seed) for seed in range(2)]
        layers = [
            keras.layers.Conv2D(4, 5, 4, activation="relu", kernel_initializer=init[0], name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, kernel_initializer=init[1]),
        ]
        model = keras.Sequential([keras.Input((36, 36, 3)), *layers])
        return make_classifier(Wrapped(model) if request.param else model)

    @pytest.fixture
    def large(self, images):
        return tf.image.resize(images, (36, 36), "bicubic").numpy().clip(0, 1)

    def test_fit(self, fixed, large):
        trainer = VersatileTrainer(
            fixed, FastGradientMethod(fixed, eps=0.1), small_purifier(), schedule=SCHEDULE, discriminator=None,
            verbose=False,
        )  # fmt: skip
        history = fit(trainer, large, nb_epochs=6, scale=(1.0, 1.0), clean_share=0.0)  # every epoch the same pairs
        assert history.history["loss"][-1] < history.history["loss"][0]
        assert min(history.history["perceptual"]) > 0
        assert trainer.predict(large).shape == (8, CLASSES)

    def test_the_classifier_sees_its_own_size(self, fixed, large):
        """What was mirrored up to the generator's 40x40 is cut off again."""
        trainer = VersatileTrainer(fixed, NotYet(fixed), small_purifier(), verbose=False)
        loss = trainer._perceptual_loss(large.shape[1:])
        padded = [np.pad(x, [(0, 0), (0, 4), (0, 4), (0, 0)], "reflect") for x in (0.5 * large, large)]
        expected = PerceptualLoss.of_classifier(fixed.model, **PRESETS["compact"].features_options)(0.5 * large, large)
        np.testing.assert_allclose(loss(*padded), expected, rtol=1e-4)

    @pytest.mark.parametrize("fixed", [False], indirect=True)
    def test_a_loss_that_does_not_fit_is_found_before_the_attacks(self, fixed, large):
        perceptual = PerceptualLoss(fixed.model, ["conv"])
        trainer = VersatileTrainer(fixed, NotYet(fixed), small_purifier(), perceptual=perceptual, verbose=False)
        with pytest.raises(ValueError, match="Expected a perceptual loss that takes 40x40 pixels. Received Perc"):
            fit(trainer, large)


class TestBeforeTheAttacks:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"precision": "half"}, "Expected precision to be one of ['float32', "),
            *(({name: 1}, f"Received ['{name}'].") for name in ("flip", "crop", "generator", "preset", "learning_rat")),
            ({"learning_rate": -1.0}, "Expected learning_rate above 0"),
            ({"patience": 2}, "Expected validation pairs or a watch with patience. Received neither."),
            ({"validation_data": True, "monitor": "val_accuracy/B"}, "Expected monitor to be one of ['val_clean_acc"),
            ({"scale": (1, 0)}, "Expected scale to be two finite numbers"),
            ({"tensorboard": True}, "Expected out, a folder, with tensorboard or resume. Received None."),
            ({"optimizer": True, "ema": 0.9}, "Expected an optimizer with use_ema=True and ema_momentum=0.9"),
        ],
    )
    def test_bad_arguments(self, classifier, images, arguments, message):
        arguments = dict(arguments)
        optimizer = keras.optimizers.SGD(0.1) if arguments.pop("optimizer", False) else None
        trainer = VersatileTrainer(
            classifier, {"A": NotYet(classifier)}, small_purifier(), optimizer=optimizer, verbose=False
        )
        if arguments.pop("validation_data", False):
            arguments["validation_data"] = images, np.zeros(8, int)
        with pytest.raises(ValueError, match=re.escape(message)):
            fit(trainer, images, **arguments)

    def test_pairs_of_other_pixels(self, classifier, images):
        trainer = VersatileTrainer(classifier, NotYet(classifier), small_purifier(), verbose=False)
        pairs = MemoryPairs(255 * images, 255 * images, clip_values=(0, 255))
        with pytest.raises(ValueError, match=r"Expected pairs in the classifier's clip_values \(0.0, 1.0\)"):
            fit(trainer, pairs)
        with pytest.raises(ValueError, match="Expected neither y nor pairs_folder with pairs that are there"):
            fit(trainer, MemoryPairs(images, images), np.zeros(8, int))


class TestPairs:
    def run(self, classifier, attacks, x, y=None, **options):
        trainer = VersatileTrainer(
            classifier, attacks, small_purifier(), perceptual=None, discriminator=None, seed=3, verbose=False
        )
        return fit(trainer, x, y, nb_epochs=1, **options)

    def test_a_store(self, classifier, attacks, images, tmp_path):
        names = {f"{i} {type(attack).__name__}": attack for i, attack in enumerate(attacks)}
        store = generate_pairs(images, classifier, names, tmp_path, verbose=False)
        nothing = [NotYet(classifier), NotYet(classifier)]
        assert len(self.run(classifier, nothing, store).history["loss"]) == 1

    def test_beyond_what_memory_may_hold(self, classifier, attacks, images, tmp_path, monkeypatch):
        """8 pairs of 2 x 32 x 32 x 3 floats are 196,608 bytes."""
        asked = []

        def generate(*args, **kwargs):
            asked.append(kwargs["dtype"])
            return generate_pairs(*args, **kwargs)

        monkeypatch.setattr(trainer_module, "generate_pairs", generate)
        monkeypatch.setattr(trainer_module.tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(trainer_module, "PAIRS_IN_MEMORY", 196_608)
        self.run(classifier, attacks, images)
        assert asked == []
        monkeypatch.setattr(trainer_module, "PAIRS_IN_MEMORY", 196_607)
        self.run(classifier, attacks, images)
        assert asked == ["float32"]
        assert not list(tmp_path.iterdir()), "it is gone with the run"

    def test_a_folder_for_them(self, classifier, attacks, images, tmp_path):
        """They stay, and are those that would have been held in memory."""
        self.run(classifier, attacks, images, pairs_folder=tmp_path / "pairs")
        store = PairStore(tmp_path / "pairs").arrays()
        names = dict(zip(store.attacks, attacks, strict=True))
        want = attack_in_memory(images, classifier, names, seed=3, batch_size=16, verbose=False)
        np.testing.assert_array_equal(store.adversarial, want.adversarial)


class TestFolder:
    def make(self, classifier, attacks):
        return VersatileTrainer(
            classifier, attacks, small_purifier(), schedule=SCHEDULE, perceptual=None, seed=3, verbose=False
        )

    def test_a_run_goes_on(self, classifier, attacks, images, tmp_path):
        """Two epochs, an end, two more: as four at once."""

        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise KeyboardInterrupt

        whole = self.make(classifier, attacks)
        expected = fit(whole, images)
        with pytest.raises(KeyboardInterrupt):
            fit(self.make(classifier, attacks), images, out=tmp_path, callbacks=[Stop()])
        trainer = self.make(classifier, attacks)
        with pytest.raises(FileExistsError, match="Expected no run in"):
            fit(trainer, images, out=tmp_path)
        history = fit(trainer, images, out=tmp_path, resume=True)
        assert history.history == expected.history
        purified = trainer.purifier(images)[0]
        np.testing.assert_array_equal(purified, whole.purifier(images)[0])
        np.testing.assert_allclose(VersatilePurifier.from_pretrained(tmp_path / "last")(images)[0], purified, atol=1e-6)

    def test_validation_data(self, classifier, attacks, images, tmp_path):
        trainer = self.make(classifier, attacks)
        labels = classifier.predict(images).argmax(1)
        history = fit(trainer, images, nb_epochs=2, out=tmp_path, validation_data=(images, np.eye(CLASSES)[labels]))
        names = {"val_clean_accuracy", "val_recovered_accuracy", "val_psnr"} | {
            f"val_accuracy/{name}" for name in trainer.attacks
        }
        assert names < set(history.history)
        assert VersatilePurifier.from_pretrained(tmp_path / "best")
        # The accuracy of the defended classifier on the attacks of the undefended one.
        held = attack_in_memory(
            images, classifier, trainer.attacks, labels=labels, seed=3, batch_size=16, verbose=False
        )
        answers = trainer.predict(held.adversarial).argmax(1)
        assert history.history["val_recovered_accuracy"][-1] == (answers == held.labels).mean()
        clean = trainer.predict(held.clean).argmax(1)
        assert history.history["val_clean_accuracy"][-1] == (clean == held.labels).mean()

    def test_validation_in_another_layout(self, images):
        """What the classifier is asked is in its own range."""
        classifier = make_classifier(scale=255.0)
        trainer = VersatileTrainer(
            classifier, FastGradientMethod(classifier, eps=10.0), small_purifier(clip_values=(0, 255)), verbose=False
        )
        np.testing.assert_allclose(trainer._classify(images), classifier.predict(images * 255), rtol=1e-4)

    def test_validation_without_labels(self, classifier, attacks, images):
        with pytest.raises(ValueError, match="Expected right labels with the validation images. Received None."):
            fit(self.make(classifier, attacks), images, validation_data=(images, None))


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

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"clip_values": (0, 255)}, r"clip_values \(0.0, 1.0\)"), ({"channels_first": True}, "channels_first")],
    )
    def test_a_purifier_of_other_pixels(self, classifier, options, message):
        with pytest.raises(ValueError, match=f"Expected a defence with the classifier's {message}"):
            defend(classifier, small_purifier(**options))

    def test_before_fit(self, classifier, attacks):
        with pytest.raises(ValueError, match="Expected a fitted purifier: call fit first"):
            VersatileTrainer(classifier, attacks).get_classifier()


class TestParameters:
    def test_defaults(self, classifier, attacks):
        trainer = VersatileTrainer(classifier, attacks)
        assert trainer.schedule == PRESETS["compact"].schedule
        assert trainer.purifier.generator.architecture == "compact"
        assert trainer.purifier.generator.get_config()["encoder"] == "efficientnet_lite0"
        assert "FastGradientMethod" in repr(trainer)

    def test_paper_attacks_by_default(self, classifier):
        assert list(VersatileTrainer(classifier).attacks) == ["FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack"]

    @pytest.mark.parametrize(
        ("clip_values", "width"),
        [((0.0, 1.0), 1), ((0.0, 255.0), 255), ((-1.0, 1.0), 2), ((np.zeros(3), np.ones(3)), 1)],
    )
    def test_their_budget_is_a_share_of_the_range(self, clip_values, width):
        trainer = VersatileTrainer(make_classifier(clip_values=clip_values))
        for name in ("FGSM", "BIM", "PGD", "MI-FGSM", "AutoAttack"):
            assert trainer.attacks[name].eps == pytest.approx(16 / 255 * width)
        for name in ("BIM", "PGD", "MI-FGSM"):
            assert trainer.attacks[name].eps_step == pytest.approx(0.01 * width)
        assert trainer.purifier.clip_values == tuple(float(np.min(bound)) for bound in clip_values)

    def test_channels_of_different_ranges(self):
        classifier = make_classifier(clip_values=(np.zeros(3), np.array([1.0, 1.0, 2.0])))
        with pytest.raises(ValueError, match=r"one range for all channels\. Received .*\[1\.0, 1\.0, 2\.0\]"):
            VersatileTrainer(classifier)

    def test_targeted_attacks_are_refused(self, classifier):
        targeted = ProjectedGradientDescent(classifier, targeted=True, verbose=False)
        with pytest.raises(
            ValueError, match="Expected untargeted attacks, .* Received '0 ProjectedGradientDescent' with targeted=True"
        ):
            VersatileTrainer(classifier, [targeted])

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"attacks": []}, ValueError, "Expected at least one attack"),
            ({"attacks": ["FGSM"]}, TypeError, "Expected the attack '0 str' to be an ART attack. Received str"),
            ({"schedule": (1, 2)}, TypeError, "Expected schedule to be a LossSchedule"),
            ({"split": "some"}, ValueError, "Expected split to be one of"),
            ({"split": 0}, ValueError, "Expected split to be an integer of at least 1"),
            ({"split": 3}, ValueError, "Expected split of at most 2, the number of attacks. Received 3"),
            ({"perceptual": "vgg"}, ValueError, "Expected perceptual to be"),
            ({"preset": "fast"}, ValueError, "Expected preset to be one of"),
            ({"discriminator": 16}, ValueError, "Expected discriminator to be a network, 'preset' or None"),
            ({"discriminator": "patchgan"}, ValueError, "Expected discriminator to be a network, 'preset' or None"),
            ({"purifier": "clip"}, ValueError, r"Expected a defence with the classifier's clip_values \(0.0, 1.0\)"),
            ({"purifier": "first"}, ValueError, "Expected a defence with the classifier's channels_first"),
        ],
    )
    def test_bad_parameters(self, classifier, attacks, kwargs, error, message):
        purifiers = {"clip": {"clip_values": (0, 255)}, "first": {"channels_first": True}}
        if "purifier" in kwargs:
            kwargs = {"purifier": small_purifier(**purifiers[kwargs["purifier"]])}
        with pytest.raises(error, match=message):
            VersatileTrainer(**{"classifier": classifier, "attacks": attacks, **kwargs})

    def test_an_ensemble_is_refused(self, classifier):
        """It would take no defence, and stay undefended."""
        ensemble = EnsembleClassifier([classifier, classifier], clip_values=(0.0, 1.0))
        with pytest.raises(TypeError, match="Expected a single classifier: .* Received an EnsembleClassifier"):
            VersatileTrainer(ensemble, FastGradientMethod(classifier))

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
            (lambda x: {"x": x, "y": np.zeros(3, int)}, r"Expected labels to be integers \(8,\) or one-hot"),
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


class TestUpdate:
    """The rules by which an update is judged are tested in tests/training/test_updating.py."""

    @staticmethod
    def trainer(classifier, attacks, purifier=None):
        return VersatileTrainer(
            classifier, attacks[:1], purifier or small_purifier(), schedule=SCHEDULE, discriminator=None,
            optimizer=keras.optimizers.Adam(5e-3), split="every", seed=2, verbose=False,
        )  # fmt: skip

    @pytest.fixture
    def many(self):
        coarse = np.random.default_rng(0).uniform(size=(20, 4, 4, 3)).astype(np.float32)
        return tf.image.resize(coarse, (SIZE, SIZE), "bicubic").numpy().clip(0, 1)

    def test_an_update_and_another(self, classifier, attacks, many, tmp_path):
        """Lineage, on the purifier and on disk; the attack of the first is an old one of the second."""
        small_purifier().save(tmp_path / "parent")
        parent = VersatilePurifier.from_pretrained(tmp_path / "parent")
        parent_sha256 = parent.card["weights"]["sha256"]
        trainer = self.trainer(classifier, attacks, parent)
        pgd = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.03, max_iter=3, verbose=False)
        found = trainer.update(many, {"PGD": pgd}, batch_size=8, nb_epochs=4, memory=8, tolerance=1.0)
        assert found.accepted
        assert found.after["PGD"] > found.before["PGD"]
        entry = found.lineage
        assert entry["parent"] == {"sha256": parent_sha256}
        assert entry["added"]["PGD"]["class"] == "ProjectedGradientDescent"
        assert entry["added"]["PGD"]["max_iter"] == 3
        assert entry["replayed"] == {"0 FastGradientMethod": 8}
        assert entry["held"]["pairs"] == {"PGD": 4, "0 FastGradientMethod": 4}  # a fifth of the images
        cost = entry["cost"]
        assert (cost["images"], cost["new_pairs"], cost["replayed_pairs"], cost["epochs"]) == (16, 16, 8, 4)
        assert min(cost["attack_seconds"], cost["training_seconds"]) > 0
        assert entry["accuracy"] == {"before": found.before, "after": found.after}
        card = VersatilePurifier.from_pretrained(trainer.purifier.save(tmp_path / "child")).card
        assert card["lineage"] == [entry]
        assert card["training"]["distillation"]["names"] == ["0 FastGradientMethod"]

        again = trainer.update(
            many, DeepFool(classifier, max_iter=1, verbose=False), batch_size=8, nb_epochs=1, memory=4, tolerance=1.0
        )
        assert again.lineage["parent"] == {"sha256": card["weights"]["sha256"]}
        assert again.lineage["replayed"] == {"0 FastGradientMethod": 4, "PGD": 4}
        assert list(again.lineage["added"]) == ["2 DeepFool"]
        assert len(trainer.purifier.card["lineage"]) == 1 + again.accepted

    def test_given_pairs_and_a_refused_update(self, classifier, attacks, images):
        """Nothing but what is given is trained on; what is no better leaves purifier, card and attacks as they are."""
        trainer = self.trainer(classifier, attacks)
        pairs = [attack_in_memory(images, classifier, {name: attacks[1]}, verbose=False) for name in ("N", "O")]
        before = trainer.purifier.generator.get_weights()
        found = trainer.update(
            pairs[0], old=pairs[1], validation_data=joined(pairs), memory=4, batch_size=8, nb_epochs=1, tolerance=0.0,
            callbacks=[Undo(before)],
        )  # fmt: skip
        assert not found.accepted
        assert found.lineage["added"] == {"N": {}}
        assert found.lineage["replayed"] == {"O": 4}
        for a, b in zip(trainer.purifier.generator.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        assert trainer.purifier.card == {}
        assert list(trainer.attacks) == ["0 FastGradientMethod"]

    def test_refused_before_work(self, classifier, attacks, images, tmp_path, monkeypatch):
        trainer = self.trainer(classifier, attacks)
        with pytest.raises(ValueError, match="fitted"):
            VersatileTrainer(classifier, attacks).update(images, attacks[0])
        pairs = MemoryPairs(images, images)
        for message, changes in {
            "settings": {"crop": 16},
            "other names": {"attacks": {"0 FastGradientMethod": attacks[1]}},
            "at least one attack": {"attacks": None},
            "neither y": {"x": pairs, "attacks": None, "y": np.zeros(8, int)},
            "clip_values": {"old": MemoryPairs(images, images, clip_values=(0, 255))},
            "distillation=0": {"memory": 0},
            "tolerance": {"tolerance": -1},
        }.items():
            arguments = {"x": images, "attacks": {"PGD": attacks[1]}, "out": tmp_path / "never", **changes}
            with pytest.raises(ValueError, match=message):
                trainer.update(**arguments)
        monkeypatch.setattr(trainer_module, "PAIRS_IN_MEMORY", 8 * 32 * 32 * 3 * 8)
        with pytest.raises(ValueError, match="GiB in memory"):
            trainer.update(images, {"PGD": attacks[1]}, memory=4, out=tmp_path / "never")
        assert not (tmp_path / "never").exists()


class Undo(keras.callbacks.Callback):
    """Puts weights back before each epoch is measured: training that teaches nothing."""

    def __init__(self, weights):
        super().__init__()
        self._weights = weights

    def on_train_batch_end(self, batch, logs=None):
        self.model.generator.set_weights(self._weights)
