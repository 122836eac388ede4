"""The random numbers of ART's attacks, which come from global generators: seeded inside, untouched outside."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

__all__ = ["isolated_seed"]


@contextlib.contextmanager
def isolated_seed(seed: int | np.random.SeedSequence) -> Iterator[None]:
    """
    Seed the global generators of NumPy, Python and TensorFlow inside, and put them back after.

    ART's attacks draw from all three. Not for several threads at once: the generators are the process's.

    :param seed: 0 to 2^32 - 1, given to each of the three; or a sequence, of which each gets a word of its own.
    :raises ValueError: If it is anything else.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context  # TensorFlow has no public way to read this state

    if isinstance(seed, np.random.SeedSequence):
        words = [int(word) for word in seed.generate_state(3)]
    elif isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"Expected seed to be an integer from 0 to 2^32 - 1, or a SeedSequence. Received {seed!r}.")
    else:
        words = [int(seed)] * 3
    eager = context.context()
    tensorflow_state = eager._seed, getattr(eager, "_rng", None)  # it has none before the first set_seed
    numpy_state = np.random.get_state()  # noqa: NPY002, the legacy generator is the one that ART uses
    python_state = random.getstate()
    try:
        np.random.seed(words[0])  # noqa: NPY002
        random.seed(words[1])
        tf.random.set_seed(words[2])
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        eager._seed, eager._rng = tensorflow_state
