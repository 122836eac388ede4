from __future__ import annotations

import pytest

from art_versatile import attacks
from art_versatile.attacks import compiled


@pytest.mark.parametrize(("package", "name"), [(p, name) for p in (attacks, compiled) for name in p.__all__])
def test_every_public_name_is_there(package, name):
    assert name in dir(package)
    assert getattr(package, name) is not None


def test_names_that_the_documentation_mentions():
    assert {
        "BackwardPassIdentity",
        "adaptive_attacks",
        "compile_attack",
        "compile_classifier",
        "paper_attacks",
        "query_attacks",
        "through",
    } <= set(attacks.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        attacks.Nothing  # noqa: B018
