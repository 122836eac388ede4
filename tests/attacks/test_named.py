from __future__ import annotations

import numpy as np
import pytest
from art.attacks.evasion import ElasticNet, FastGradientMethod

from art_versatile.attacks.named import attack_class, named_attack, parse_attack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ElasticNet", ("ElasticNet", {})),
        ("ElasticNet:max_iter=20", ("ElasticNet", {"max_iter": 20})),
        ("SquareAttack: eps=8/255, norm='inf'", ("SquareAttack", {"eps": 8 / 255, "norm": "inf"})),
        ("A:a=-1.5,b=(1,2),c={'x': [True, None]},d=-1/2", ("A", {"a": -1.5, "b": (1, 2), "c": {"x": [True, None]},
                                                                "d": -0.5})),
    ],
)  # fmt: skip
def test_parsed(text, expected):
    assert parse_attack(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "a b", "os.system", "A:max_iter", "A:1", "A:a=b", "A:a=f(1)", "A:a=__import__('os')", "A:a=1,a=2", "A:**{}",
        "A:a=1)(b=2", "A:a=1/0", "A:a=2**9", "A:a=[x for x in (1,)]", "A:a='x'/2", "A:a=" + "(" * 300,
    ],
)  # fmt: skip
def test_nothing_but_literals(text):
    with pytest.raises(ValueError, match=r"Expected an attack as Class:name=literal"):
        parse_attack(text)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Missing", {}, "Expected a class of art.attacks.evasion .* Received 'Missing'\\."),
        ("AdversarialPatch", {}, "'AdversarialPatch', which returns something else"),
        ("importlib", {}, "Received 'importlib'"),
        ("ElasticNet", {"steps": 3}, r"among \['confidence', .*Received \['steps'\]"),
        ("ElasticNet", {"classifier": 3}, r"Received \['classifier'\]"),
        ("FastGradientMethod", {"summary_writer": True}, "summary_writer"),
        ("FastGradientMethod", {"targeted": True}, "untargeted"),
    ],
)
def test_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        attack_class(name, parameters)


def test_the_images_are_those_of_art(tiny_classifier, tiny_images):
    made = named_attack("FastGradientMethod:eps=0.1", tiny_classifier, batch_size=4)
    assert made.batch_size == 4
    expected = FastGradientMethod(tiny_classifier, eps=0.1).generate(tiny_images)
    np.testing.assert_allclose(made.generate(tiny_images), expected, atol=1e-6)
    assert named_attack("ElasticNet:batch_size=2", tiny_classifier, batch_size=4).batch_size == 2
    assert isinstance(named_attack("ElasticNet:max_iter=2", tiny_classifier), ElasticNet)


@pytest.mark.parametrize(
    "text", ["FastGradientMethod:eps=-1", "ElasticNet:max_iter='x'", "DPatch", "DecisionTreeAttack"]
)
def test_what_art_refuses(tiny_classifier, text):
    with pytest.raises(ValueError, match="Expected"):
        named_attack(text, tiny_classifier)
