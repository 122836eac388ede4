from __future__ import annotations

import sys
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
