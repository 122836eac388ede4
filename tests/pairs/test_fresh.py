"""Pairs that are made while training: against ART's attacks, and drawn again as they were."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import BasicIterativeMethod, FastGradientMethod
from PIL import Image

from art_versatile.attacks import compile_attack, compile_classifier
from art_versatile.attacks.compiled import MomentumIterativeMethodNumpy
from art_versatile.pairs.fresh import FreshPairs, RandomViews, Recipe, Victim
from art_versatile.pix2pix import CompactGenerator, LossSchedule
from art_versatile.training import Preset, train

EPS, STEP = 0.05, 0.02


@pytest.fixture(scope="module")
def victim(tiny_classifier):
    return Victim(tiny_classifier.model, logits=True)


def perturb(victim, images, steps=4, step=STEP, decay=0.0, random_start=False, layer=None):
    eps, eps_step = np.full(len(images), EPS), np.full(len(images), step)
    return victim.perturb(
        images, eps, steps=steps, eps_step=eps_step, decay=decay, random_start=random_start, seed=(3, 4), layer=layer
    )


class TestVictim:
    @pytest.mark.parametrize(
        ("attack", "options"),
        [
            (lambda c: FastGradientMethod(c, eps=EPS), {"steps": 1, "step": EPS}),
            (lambda c: BasicIterativeMethod(c, eps=EPS, eps_step=STEP, max_iter=4, verbose=False), {}),
            (
                lambda c: compile_attack(
                    MomentumIterativeMethodNumpy(c, eps=EPS, eps_step=STEP, max_iter=4, decay=1.0, verbose=False)
                ),
                {"decay": 1.0},
            ),
        ],
        ids=["FGSM", "PGD without random start is BIM", "MI-FGSM"],
    )
    def test_the_same_as_arts(self, victim, tiny_classifier, tiny_images, attack, options):
        images = np.array(tiny_images)
        expected = attack(compile_classifier(tiny_classifier)).generate(images)
        got = perturb(victim, images, **options)
        same = np.isclose(got, expected, atol=1e-6)
        assert same.mean() > 0.999  # the sign of a gradient that is almost 0 may differ
        assert np.abs(got - images).max() > 0.9 * EPS

    def test_stays_in_budget_and_range(self, victim, tiny_images):
        for layer in (None, 0, 1):
            made = perturb(victim, tiny_images, random_start=True, decay=1.0, layer=layer)
            assert np.abs(made - tiny_images).max() <= EPS + 1e-6
            assert 0 <= made.min() <= made.max() <= 1

    @pytest.mark.parametrize("layer", [0, 1])
    def test_attacked_features_move_more_than_under_noise(self, victim, tiny_classifier, tiny_images, layer):
        """Signs at random, as large as the budget."""
        features = keras.Model(tiny_classifier.model.input, tiny_classifier.model.get_layer(f"conv_{layer + 1}").output)
        signs = np.random.default_rng(0).choice(np.float32([-EPS, EPS]), tiny_images.shape)
        noisy = np.clip(tiny_images + signs, 0, 1)
        made = perturb(victim, tiny_images, steps=8, random_start=True, layer=layer)
        clean = features(tiny_images)
        distances = [np.square(features(x) - clean).sum((1, 2, 3)) for x in (made, noisy)]
        assert (distances[0] > 1.5 * distances[1]).all()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


RECIPE = {"sides": (32, 40), "round_images": 8, "reuse": 2, "iterations": (2, 4), "eps": (0.02, 0.06)}


@pytest.fixture(scope="module")
def pairs(files, any_size_classifier):
    return FreshPairs(files, {"tiny": any_size_classifier.model}, recipe=Recipe(**RECIPE), epoch_pairs=24)


def batches(dataset):
    return list(dataset.as_numpy_iterator())


def assert_equal(got, want):
    assert len(got) == len(want)
    for pair, other in zip(got, want, strict=True):
        for a, b in zip(pair, other, strict=True):
            np.testing.assert_array_equal(a, b)


class TestDataset:
    def test_pairs_are_in_budget_and_range(self, pairs):
        made = batches(pairs.dataset(4, seed=1))
        assert len(made) == 6
        for adversarial, clean, victims in made:
            assert adversarial.shape == clean.shape
            np.testing.assert_array_equal(victims, np.zeros(4, np.int32))
            assert (len(clean), clean.shape[1] in (32, 40), clean.shape[3]) == (4, True, 3)
            assert np.abs(adversarial - clean).max() <= 0.06 + 1e-6
            assert np.abs(adversarial - clean).max((1, 2, 3)).min() > 0.01
            assert 0 <= adversarial.min() <= adversarial.max() <= 1
        assert (len(pairs), pairs.image_shape, pairs.clip_values) == (24, (40, 40, 3), (0, 1))

    def test_each_batch_is_of_one_victim_and_names_it(self, files, any_size_classifier):
        """The second never changes its mind, whatever the pixels: attacked on it, an image moves at random or not."""
        image = keras.Input((None, None, 3))
        constant = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image * 0.0))
        recipe = Recipe(**{**RECIPE, "reuse": 3, "shares": {"FGSM": 1}, "feature_share": 0})
        two = FreshPairs(
            files, {"tiny": any_size_classifier.model, "constant": constant}, recipe=recipe, epoch_pairs=96
        )
        seen = set()
        for adversarial, clean, victims in batches(two.dataset(4, seed=1)):
            assert len(set(victims)) == 1
            seen.add(int(victims[0]))
            assert np.array_equal(adversarial, clean) == (victims[0] == 1)
        assert seen == {0, 1}

    def test_what_is_drawn_depends_on_seed_and_epoch(self, pairs):
        first = batches(pairs.dataset(4, seed=1))
        tf.random.set_seed(99)
        assert_equal(batches(pairs.dataset(4, seed=1)), first)
        for other in ({"seed": 2}, {"seed": 1, "first_epoch": 1}):
            assert not np.array_equal(batches(pairs.dataset(4, **other))[0][1], first[0][1])

    def test_a_later_epoch_is_what_an_endless_pass_comes_to(self, pairs):
        endless = batches(pairs.dataset(4, seed=1, repeat=True).take(12))
        assert_equal(endless[6:], batches(pairs.dataset(4, seed=1, first_epoch=1)))

    def test_parameters_that_ask_for_no_more(self, pairs):
        given = {"crop": None, "flip": False, "scale": (1, 1), "clean_share": 0.0, "drop_remainder": True, "whole": []}
        assert_equal(batches(pairs.dataset(4, seed=1, **given)), batches(pairs.dataset(4, seed=1)))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"crop": 32}, ValueError, "Expected crop=None: .* Received 32"),
            ({"flip": True}, ValueError, "Expected flip=False: .* Received True"),
            ({"scale": (0.5, 1.0)}, ValueError, r"Expected scale=\(1.0, 1.0\): .* Received \(0.5, 1.0\)"),
            ({"clean_share": 0.1}, ValueError, "Expected clean_share=0: .* Received 0.1"),
            ({"labels": True}, ValueError, "Expected labels=False: .* Received True"),
            ({"flipped": True}, TypeError, r"Expected parameters among \['crop', .* Received \['flipped'\]"),
            ({"batch_size": 0}, ValueError, "Expected batch_size"),
            ({"first_epoch": -1}, ValueError, "Expected first_epoch"),
        ],
    )
    def test_parameters_that_are_refused(self, pairs, arguments, error, message):
        with pytest.raises(error, match=message):
            pairs.dataset(**{"batch_size": 4, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"eps": (0.1, 0.05)}, "Expected eps to be .* Received"),
            ({"iterations": (0, 3)}, "Expected iterations to be"),
            ({"feature_share": 2}, "Expected feature_share to be a number from 0 to 1"),
            ({"shares": {"C&W": 1}}, r"Expected attacks among .* Received \['C&W'\]"),
        ],
    )
    def test_recipes_that_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Recipe(**arguments)


def test_views_are_clean_and_drawn_as_stated(files):
    views = RandomViews(files, (32, 40), epoch_pairs=24)
    made = batches(views.dataset(4, seed=1))
    assert len(made) == 6
    for adversarial, clean in made:
        np.testing.assert_array_equal(adversarial, clean)
    assert {clean.shape[1] for _, clean in made} == {32, 40}
    assert_equal(batches(views.dataset(4, seed=1)), made)
    assert views.identity != RandomViews(files[1:], (32, 40)).identity


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "image"),
        ({"sides": ()}, "sides"),
        ({"sides": (16,)}, "sides .* Received 16"),
        ({"zoom": 0.5}, "zoom"),
        ({"epoch_pairs": 0}, "epoch_pairs"),
    ],
)
def test_views_that_are_refused(files, arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomViews(**{"images": files, **arguments})


def test_training_that_goes_on_reaches_the_same_weights(pairs, tmp_path):
    """Stopped at the end of the first of two epochs."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    def run(out, **options):
        preset = Preset(
            "compact", {"widths": (4,), "blocks": (1,), "factor": 2}, discriminator=None, features=None, batch_size=4,
            flip=False, schedule=LossSchedule([(2, 1.0, 0.0)]),
        )  # fmt: skip
        return train(pairs, out, preset=preset, verbose=False, **options)

    whole = run(None)
    assert len(run(tmp_path, callbacks=[Stop()]).history) == 1
    again = run(tmp_path, resume=True)
    assert again.history == whole.history
    for a, b in zip(again.generator.get_weights(), whole.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(again.generator, CompactGenerator)
