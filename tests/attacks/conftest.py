from __future__ import annotations

import random
import warnings

import numpy as np
import pytest


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
