from __future__ import annotations

import random

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.attacks.seeding import isolated_seed
from art_versatile.attacks.suite import paper_attacks


def draw():
    return np.random.random(), random.random(), float(tf.random.uniform([]))  # noqa: NPY002, S311


def seed_all(seed):
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    tf.random.set_seed(seed)


@pytest.fixture(autouse=True)
def tensorflow_state():
    """tests/attacks/conftest.py sees to the other two."""
    yield
    tf.random.set_seed(0)


def test_an_integer_seeds_each_generator_as_its_own_function_does():
    seed_all(7)
    expected = [draw(), draw()]
    with isolated_seed(7):
        assert [draw(), draw()] == expected
    with isolated_seed(np.int64(7)):
        assert draw() == expected[0]
    with isolated_seed(8):
        assert not set(draw()) & set(expected[0])


def test_a_sequence_gives_each_generator_a_word():
    words = np.random.SeedSequence([5, 1]).generate_state(3)
    np.random.seed(words[0])  # noqa: NPY002
    random.seed(int(words[1]))
    tf.random.set_seed(int(words[2]))
    expected = draw()
    with isolated_seed(np.random.SeedSequence([5, 1])):
        assert draw() == expected


def test_untouched_outside():
    seed_all(3)
    expected = [draw(), draw()]
    seed_all(3)
    assert draw() == expected[0]
    with isolated_seed(1):
        draw()
        with isolated_seed(2):
            draw()
    assert draw() == expected[1]


def test_restored_after_an_error():
    seed_all(3)
    expected = [draw(), draw()][1]
    seed_all(3)
    draw()

    def fail():
        with isolated_seed(1):
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, None, "1"])
def test_what_is_no_seed(seed):
    seed_all(3)
    expected = draw()
    seed_all(3)
    with pytest.raises(ValueError, match=r"Expected seed to be an integer from 0 to 2\^32 - 1, or a SeedSequence"):
        isolated_seed(seed).__enter__()
    assert draw() == expected


def test_random_attacks_are_reproducible_in_it(tiny_classifier, tiny_images):
    attack = paper_attacks(tiny_classifier, effort="quick", max_iter=1)["PGD"]
    made = []
    for seed in (0, 0, 1):
        with isolated_seed(seed):
            made.append(attack.generate(tiny_images[:2]))
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
