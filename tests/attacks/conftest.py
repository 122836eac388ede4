from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # for compiled_cases


@pytest.fixture(scope="module")
def model():
    from compiled_cases import make_model

    return make_model()


@pytest.fixture(scope="module")
def x():
    from compiled_cases import SHAPE, N

    return np.random.default_rng(0).uniform(0.1, 0.9, (N, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def y():
    from compiled_cases import CLASSES, N

    return np.eye(CLASSES, dtype=np.float32)[np.random.default_rng(1).integers(CLASSES, size=N)]


@pytest.fixture(autouse=True)
def random_state():
    """ART's random attacks draw from the global states, which each test leaves as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)


@pytest.fixture(autouse=True)
def no_fallback_unnoticed():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*runs on ART's eager path.*")
        yield
