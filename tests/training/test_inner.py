import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import TensorFlowV2Classifier
from PIL import Image

from art_versatile.pairs.fresh import RandomViews
from art_versatile.pix2pix import LossSchedule, PerceptualLoss
from art_versatile.purifier import VersatilePurifier
from art_versatile.training import Preset, train
from art_versatile.training.inner import GaussianNoise, InnerAttack

EPS = 0.05
SEED = tf.constant([3, 4])
WHOLE = {"start": 1.0, "spread": (1.0, 1.0), "clean_share": 0.0}


@pytest.fixture(scope="module")
def classifier():
    image = keras.Input((8, 8, 3))
    init = keras.initializers.GlorotUniform(seed=1)
    x = keras.layers.Conv2D(4, 3, activation="softplus", kernel_initializer=init)(image)
    return keras.Model(image, keras.layers.Dense(5, kernel_initializer=init)(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def generator():
    image = keras.Input((None, None, 3))
    init = keras.initializers.RandomNormal(0.0, 0.05, seed=2)
    change = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=init)(image)
    return keras.Model(image, keras.layers.Add()([image, change]))


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.default_rng(0).uniform(0.2, 0.8, (6, 8, 8, 3)), tf.float32)


def defended(classifier, generator):
    return TensorFlowV2Classifier(
        model=classifier,
        nb_classes=5,
        input_shape=(8, 8, 3),
        clip_values=(0.0, 1.0),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        preprocessing_defences=[VersatilePurifier(generator)],
    )


def one_hot(classifier, images):
    return np.eye(5, dtype=np.float32)[np.argmax(classifier(images), axis=1)]


@pytest.mark.parametrize(("norm", "order"), [("inf", np.inf), ("2", 2)])
def test_its_step_is_arts_through_the_purifier(classifier, generator, images, norm, order):
    """From the same start: ART's FGSM with the start as the image, then the ball's projection by hand."""
    inner = InnerAttack([classifier], EPS, norm, eps_step=0.1, **WHOLE)
    start = InnerAttack([classifier], EPS, norm, eps_step=0.0, **WHOLE)(generator, images, tf.constant(1.0), SEED)
    attack = FastGradientMethod(defended(classifier, generator), norm=order, eps=0.1 * EPS)
    change = attack.generate(start.numpy(), one_hot(classifier, images)) - images.numpy()
    if norm == "inf":
        change = np.clip(change, -EPS, EPS)
    else:
        lengths = np.linalg.norm(change.reshape(6, -1), axis=1)
        change *= np.minimum(1, EPS / lengths)[:, None, None, None]
    found = inner(generator, images, tf.constant(1.0), SEED)
    assert np.abs(found - start).max() > 1e-4
    np.testing.assert_allclose(found, images + change, atol=1e-5)


def test_pgd_beats_one_step_and_both_beat_the_start(classifier, generator, images):
    def loss(inner):
        attacked = inner(generator, images, tf.constant(1.0), SEED)
        assert np.abs(attacked - images).max() <= EPS + 1e-6
        return float(
            keras.losses.CategoricalCrossentropy(from_logits=True)(
                one_hot(classifier, images), classifier(generator(attacked))
            )
        )

    start, one, many = (
        loss(InnerAttack([classifier], EPS, **WHOLE, **options)) for options in ({"eps_step": 0.0}, {}, {"steps": 10})
    )
    assert start < one < many + 1e-6
    art = ProjectedGradientDescent(
        defended(classifier, generator), eps=EPS, eps_step=EPS / 4, max_iter=10, num_random_init=1, verbose=False
    ).generate(images.numpy(), one_hot(classifier, images))
    reference = float(
        keras.losses.CategoricalCrossentropy(from_logits=True)(one_hot(classifier, images), classifier(generator(art)))
    )
    assert many == pytest.approx(reference, rel=0.02)


def test_budgets_rise_and_spread_and_some_stay_clean():
    inner = InnerAttack([None], 0.1, start=0.2, rise=0.5, spread=(0.5, 1.0), clean_share=0.25)
    for share, eps in ((0.0, 0.02), (0.25, 0.06), (0.5, 0.1), (0.9, 0.1)):
        found = inner.budgets(tf.constant(400), tf.constant(share), SEED).numpy()
        assert (found[:100] == 0).all()
        assert found[100:].min() == pytest.approx(eps / 2, rel=0.05)
        assert found[100:].max() == pytest.approx(eps, rel=0.05)
        assert found[100:].max() <= eps * 1.0001
    assert InnerAttack([None], 0.1, rise=0.0, **WHOLE).budgets(tf.constant(1), tf.constant(0.0), SEED) == 0.1


def test_several_classifiers_take_turns(classifier, generator, images):
    other = keras.models.clone_model(classifier)
    both = InnerAttack([classifier, other], EPS, eps_step=1.0, **WHOLE)
    alone = [InnerAttack([c], EPS, eps_step=1.0, **WHOLE) for c in (classifier, other)]
    turns = set()
    for number in range(12):
        seed = tf.constant([number, 0])
        found = both(generator, images, tf.constant(1.0), seed)
        turns |= {i for i, a in enumerate(alone) if np.allclose(found, a(generator, images, tf.constant(1.0), seed))}
    assert turns == {0, 1}


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_replay_moves_inside_the_same_budgets(images, norm):
    inner = InnerAttack([None], 0.1, norm, replay=3, start=1.0, spread=(0.5, 1.0), clean_share=0.25)
    begun = inner(None, images, tf.constant(1.0), SEED)
    gradient = tf.constant(np.random.default_rng(1).normal(size=images.shape), tf.float32)
    moved = begun
    for _ in range(20):
        moved = inner.moved(moved, images, gradient, tf.constant(1.0), SEED)
    eps = inner.budgets(tf.constant(6), tf.constant(1.0), SEED).numpy()
    order = np.inf if norm == "inf" else 2
    lengths = np.linalg.norm((moved - images).numpy().reshape(6, -1), order, axis=1)
    np.testing.assert_allclose(lengths, eps, rtol=1e-3, atol=1e-6)
    broken = inner.moved(begun, images, gradient * np.nan, tf.constant(1.0), SEED)
    np.testing.assert_allclose(broken, begun, atol=1e-6)  # an overflow of float16 moves nothing


def test_noise_is_of_all_levels_up_to_sigma_and_not_clipped():
    grey = tf.fill((400, 16, 16, 3), 0.5)
    levels = np.std(GaussianNoise(0.5)(None, grey, tf.constant(0.0), SEED) - grey, axis=(1, 2, 3))
    # sigma sqrt(u): the square is uniform.
    assert np.mean((levels / 0.5) ** 2) == pytest.approx(0.5, abs=0.05)
    assert levels.max() < 0.55
    assert GaussianNoise(0.5)(None, grey, tf.constant(0.0), SEED).numpy().min() < 0


@pytest.mark.parametrize("replay", [1, 2])
def test_a_run_that_goes_on_reaches_the_same_weights(classifier, tmp_path, replay):
    """Stopped at the end of the first of two epochs; the attacks of the second are those it would have made."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{number}.png")
    views = RandomViews(sorted(tmp_path.glob("*.png")), (32,), epoch_pairs=8)
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, 2, activation="relu")(image))
    target = keras.Model(image, keras.layers.Dense(5)(pooled), name="target")

    def run(out, **options):
        preset = Preset(
            "compact", {"widths": (4,), "blocks": (1,), "factor": 2}, discriminator=None, features=None, batch_size=4,
            flip=False, schedule=LossSchedule([(2, 1.0, 1.0)]),
        )  # fmt: skip
        inner = InnerAttack([target], 0.1, replay=replay)
        loss = PerceptualLoss.of_classifier(target)
        return train(views, out, preset=preset, inner=inner, perceptual=loss, verbose=False, **options)

    whole = run(None)
    assert whole.parameters["inner"]["classifiers"] == ["target"]
    assert len(run(tmp_path / "run", callbacks=[Stop()]).history) == 1
    again = run(tmp_path / "run", resume=True)
    assert again.history == whole.history
    for a, b in zip(again.generator.get_weights(), whole.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("classifier", {"classifiers": []}),
        ("norm", {"norm": "1"}),
        ("eps", {"eps": -1}),
        ("steps", {"steps": 0}),
        ("eps_step", {"eps_step": -1}),
        ("replay", {"replay": 0}),
        ("start", {"start": 2}),
        ("rise", {"rise": -1}),
        ("spread", {"spread": (1.0, 0.5)}),
        ("clean_share", {"clean_share": 1.5}),
    ],
)
def test_refusals(name, wrong):
    with pytest.raises(ValueError, match=name):
        InnerAttack(**{"classifiers": [None], **wrong})
    with pytest.raises(ValueError, match="sigma"):
        GaussianNoise(-1)
