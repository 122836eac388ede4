"""ART's own tools, wrappers and trainers with a purifier in front; what cannot work is refused before any work."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from art.attacks.evasion import AdversarialPatch, FastGradientMethod, ProjectedGradientDescent, SquareAttack
from art.defences.preprocessor import JpegCompression
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import (
    BlackBoxClassifierNeuralNetwork,
    KerasClassifier,
    TensorFlowV2Classifier,
)
from art.estimators.estimator import BaseEstimator
from art.estimators.object_detection.object_detector import ObjectDetectorMixin
from art.evaluations.security_curve.security_curve import SecurityCurve
from art.metrics import clever_u, empirical_robustness, loss_sensitivity

from art_versatile import VersatilePurifier, VersatileTrainer
from art_versatile.attacks import compile_classifier
from art_versatile.defended import BackwardPassIdentity, defend
from art_versatile.evaluation import Benchmark
from art_versatile.experiments.robustness import evaluate
from art_versatile.pairs import generate_pairs
from art_versatile.pix2pix import CompactGenerator


@pytest.fixture(scope="module")
def purifier():
    generator = CompactGenerator(widths=(8, 16), blocks=(1, 1))
    rng = np.random.default_rng(0)
    generator.set_weights([w + rng.normal(0, 0.03, w.shape) for w in generator.get_weights()])
    return VersatilePurifier(generator)


@pytest.fixture
def defended(tiny_classifier, purifier):
    return defend(tiny_classifier, purifier)


@pytest.fixture
def one_hot(tiny_labels):
    return np.eye(10, dtype=np.float32)[tiny_labels]


def keras_model(channels=3, softmax=False):
    image = keras.Input((32, 32, channels))
    x = keras.layers.Conv2D(4, 3, 4, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1))(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    last = keras.layers.Dense(
        10, "softmax" if softmax else None, kernel_initializer=keras.initializers.HeNormal(seed=2)
    )
    return keras.Model(image, last(x))


def wrapped(model, **kwargs):
    return TensorFlowV2Classifier(
        model=model, nb_classes=10, input_shape=model.input_shape[1:], clip_values=(0.0, 1.0), **kwargs
    )


class TestArtsTools:
    """32x32 pictures, of the shape of ``art.utils.load_cifar10``."""

    def test_security_curve(self, defended, tiny_images, tiny_labels, one_hot):
        x = tiny_images.copy()
        budgets, left, clean = SecurityCurve(eps=[0.01, 0.1]).evaluate(
            defended, x, one_hot, max_iter=3, eps_step=0.05, verbose=False
        )
        assert budgets == [0.01, 0.1]
        assert clean == np.mean(defended.predict(x).argmax(1) == tiny_labels)
        assert left[1] <= left[0] <= clean
        attack = ProjectedGradientDescent(defended, eps=0.1, eps_step=0.05, max_iter=3, verbose=False)
        assert left[1] == np.mean(defended.predict(attack.generate(x, one_hot)).argmax(1) == tiny_labels)

    def test_empirical_robustness(self, defended, tiny_images):
        options = {"eps_step": 0.05, "eps": 0.5, "minimal": True}
        assert 0 < empirical_robustness(defended, tiny_images.copy(), "fgsm", options) < 1

    def test_loss_sensitivity(self, defended, tiny_images, one_hot):
        gradient = defended.loss_gradient(tiny_images, one_hot)
        expected = np.linalg.norm(gradient.reshape(len(gradient), -1), axis=1).mean()
        assert loss_sensitivity(defended, tiny_images, one_hot) == pytest.approx(expected, rel=1e-4)
        assert expected > 0

    def test_clever(self, tiny_classifier, defended, tiny_images):
        """ART hands its own classifier a label that it cannot take, with a defence and without; a compiled one can."""
        settings = {"nb_batches": 2, "batch_size": 2, "radius": 0.3, "norm": 2, "pool_factor": 2, "verbose": False}
        for classifier in (tiny_classifier, defended):
            with pytest.raises(TypeError, match="not iterable"):
                clever_u(classifier, tiny_images[0], **settings)
        assert 0 <= clever_u(compile_classifier(defended), tiny_images[0], **settings) <= 0.3

    def test_adversarial_trainer(self, purifier, tiny_images, tiny_labels):
        """Adversarial training of the classifier behind the purifier, which stays as it was."""
        model = keras_model()
        classifier = wrapped(
            model,
            loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            optimizer=keras.optimizers.Adam(1e-2),
            preprocessing_defences=[purifier],
        )
        kept, before = purifier.fingerprint, [w.copy() for w in model.get_weights()]
        attack = FastGradientMethod(classifier, eps=0.03)
        AdversarialTrainer(classifier, attack).fit(tiny_images, np.eye(10)[tiny_labels], batch_size=4, nb_epochs=1)
        assert purifier.fingerprint == kept
        assert any(np.abs(w - b).max() > 0 for w, b in zip(model.get_weights(), before, strict=True))

    def test_jpeg_beside_the_purifier(self, tiny_classifier, purifier, tiny_images, one_hot):
        """ART refuses its NumPy defence beside one of TensorFlow; as :class:`BackwardPassIdentity` it is one."""
        jpeg = JpegCompression(clip_values=(0, 1), quality=50)
        with pytest.raises(NotImplementedError):
            defend(defend(tiny_classifier, jpeg), purifier).loss_gradient(tiny_images, one_hot)
        both = defend(defend(tiny_classifier, BackwardPassIdentity(jpeg)), purifier)
        expected = tiny_classifier.predict(jpeg(purifier(tiny_images)[0])[0])
        np.testing.assert_allclose(both.predict(tiny_images), expected, atol=1e-3)
        assert np.abs(both.loss_gradient(tiny_images, one_hot)).max() > 0


class TestWrappers:
    def test_black_box_neural_network(self, purifier, tiny_images, tiny_labels):
        model = keras_model()
        black_box = BlackBoxClassifierNeuralNetwork(
            lambda x: model(x).numpy(), (32, 32, 3), 10, channels_first=False, clip_values=(0.0, 1.0)
        )
        defended = defend(black_box, purifier)
        expected = model(purifier(tiny_images)[0]).numpy()
        np.testing.assert_allclose(defended.predict(tiny_images), expected, atol=1e-5)
        attack = SquareAttack(black_box, max_iter=3, eps=0.1, verbose=False)
        trainer = VersatileTrainer(black_box, attack, purifier, perceptual=None, discriminator=None, verbose=False)
        kept = purifier.generator.get_weights()
        try:
            history = trainer.fit(tiny_images, tiny_labels, batch_size=4, nb_epochs=1)
            assert np.isfinite(history.history["loss"]).all()
            assert trainer.get_classifier().predict(tiny_images).shape == (8, 10)
        finally:
            purifier.generator.set_weights(kept)

    def test_pytorch_classifier_and_the_default_attacks(self, purifier, tiny_images, tiny_labels):
        """Channels first, as PyTorch has them; the network is trained on by its pixels alone."""
        torch = pytest.importorskip("torch")
        from art.estimators.classification import PyTorchClassifier

        torch.manual_seed(0)
        nn = torch.nn
        model = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        x = np.ascontiguousarray(tiny_images.transpose(0, 3, 1, 2))
        first = VersatilePurifier(purifier.generator, channels_first=True)
        options = {"perceptual": None, "discriminator": None, "verbose": False}
        trainer = VersatileTrainer(classifier, None, first, **options)
        assert list(trainer.attacks) == ["FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack"]
        attacked = trainer.attacks["FGSM"].generate(x)
        assert 0 < np.abs(attacked - x).max() <= 16 / 255 + 1e-6
        trainer = VersatileTrainer(classifier, FastGradientMethod(classifier, eps=0.03), first, **options)
        kept = first.generator.get_weights()
        try:
            history = trainer.fit(x, tiny_labels, batch_size=4, nb_epochs=1)
            assert np.isfinite(history.history["loss"]).all()
            expected = classifier.predict(first(x)[0])
            np.testing.assert_allclose(trainer.get_classifier().predict(x), expected, atol=1e-5)
        finally:
            first.generator.set_weights(kept)

    @pytest.mark.parametrize("softmax", [False, True])
    def test_keras_classifier_and_the_default_attacks(self, purifier, tiny_images, softmax):
        model = keras_model(softmax=softmax)
        model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=not softmax))
        classifier = KerasClassifier(model, clip_values=(0.0, 1.0), use_logits=not softmax)
        if softmax:
            with pytest.raises(
                TypeError, match=r"Expected attacks for this classifier: .* with logits .*KerasClassifier"
            ):
                VersatileTrainer(classifier, None, purifier)
            return
        attacks = VersatileTrainer(classifier, None, purifier).attacks
        assert list(attacks) == ["FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack"]
        x = attacks["FGSM"].generate(tiny_images)
        assert 0 < np.abs(x - tiny_images).max() <= 16 / 255 + 1e-6

    def test_default_attacks_without_gradients(self, purifier):
        black_box = BlackBoxClassifierNeuralNetwork(
            lambda x: x, (32, 32, 3), 10, channels_first=False, clip_values=(0.0, 1.0)
        )
        with pytest.raises(
            TypeError, match=r"Expected attacks for this classifier: .* BlackBoxClassifierNeuralNetwork"
        ):
            VersatileTrainer(black_box, None, purifier)

    def test_an_object_detector(self, purifier, tiny_images, tiny_labels, tmp_path):
        class Detector(ObjectDetectorMixin, BaseEstimator):
            native_label_is_pytorch_format = True
            input_shape = (32, 32, 3)
            compute_loss = fit = predict = None

        detector, defences = Detector.__new__(Detector), {"purifier": purifier}
        detector._clip_values = (0.0, 1.0)
        facts = {"dataset": "d", "classifier_name": "c"}
        for attempt in (
            lambda: VersatileTrainer(detector, None, purifier),
            lambda: VersatileTrainer(detector, FastGradientMethod, purifier),
            lambda: defend(detector, purifier),
            lambda: generate_pairs(tiny_images, detector, {"FGSM": FastGradientMethod}, tmp_path / "s", verbose=False),
            lambda: Benchmark(classifier=detector, x=tiny_images, y=tiny_labels, defences=defences, **facts),
            lambda: evaluate(detector, defences, tiny_images, tiny_labels, tmp_path / "o", verbose=False, **facts),
        ):
            with pytest.raises(TypeError, match="Expected classifier to be an ART classifier. Received Detector"):
                attempt()
        assert not list(tmp_path.iterdir())


class TestRefusedBeforeAttacking:
    def test_one_channel(self, purifier, tiny_images, tiny_labels):
        """Pictures of the shape of ``art.utils.load_mnist``."""
        classifier = wrapped(
            keras_model(channels=1), loss_object=keras.losses.CategoricalCrossentropy(from_logits=True)
        )
        x, attack = tiny_images[..., :1], FastGradientMethod(classifier)
        tries = {
            "purifier": lambda: purifier(x),
            "classifier": lambda: defend(classifier, purifier).predict(x),
            "trainer": lambda: VersatileTrainer(classifier, attack, purifier).fit(x, tiny_labels),
            "benchmark": lambda: Benchmark(
                classifier=classifier, x=x, y=tiny_labels, defences={}, dataset="d", classifier_name="c"
            ),
        }
        for attempt in tries.values():
            with pytest.raises(
                ValueError, match=r"to have 3 channels, \(N, H, W, 3\)\. Received shape \(8, 32, 32, 1\)"
            ):
                attempt()

    def test_a_patch(self, tiny_classifier, purifier, tiny_images, tiny_labels, tmp_path):
        patch = AdversarialPatch(tiny_classifier, verbose=False, targeted=False)
        attacks = {"patch": patch}
        benchmark = Benchmark(
            classifier=tiny_classifier, x=tiny_images, y=tiny_labels, defences={}, dataset="d", classifier_name="c"
        )
        for attempt in (
            lambda: generate_pairs(tiny_images, tiny_classifier, attacks, tmp_path / "store", verbose=False),
            lambda: VersatileTrainer(tiny_classifier, attacks, purifier),
            lambda: benchmark.run("patch", patch),
        ):
            with pytest.raises(ValueError, match=r"that returns? images of the shape .* Received AdversarialPatch"):
                attempt()
        assert not list(tmp_path.iterdir())

    def test_probabilities(self, purifier, tiny_images, tiny_labels, tmp_path):
        classifier = wrapped(keras_model(softmax=True), loss_object=keras.losses.CategoricalCrossentropy())
        with pytest.raises(ValueError, match="Expected a classifier of logits, .*leave its softmax out"):
            evaluate(
                classifier,
                {"purifier": purifier},
                tiny_images,
                tiny_labels,
                tmp_path / "out",
                dataset="d",
                classifier_name="c",
                verbose=False,
            )
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("label", [-1, 10])
    def test_labels_out_of_range(self, tiny_classifier, purifier, tiny_images, tiny_labels, tmp_path, label):
        y = np.where(np.arange(8) == 3, label, tiny_labels)
        attack = FastGradientMethod(tiny_classifier)
        with pytest.raises(ValueError, match=f"Expected labels from 0 to 9. Received .*{label}"):
            VersatileTrainer(tiny_classifier, attack, purifier).fit(tiny_images, y)
        with pytest.raises(ValueError, match=f"Expected y from 0 to 9. Received .*{label}"):
            evaluate(
                tiny_classifier,
                {"purifier": purifier},
                tiny_images,
                y,
                tmp_path / "out",
                dataset="d",
                classifier_name="c",
                verbose=False,
            )
        assert not list(tmp_path.iterdir())
