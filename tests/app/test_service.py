from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from art_versatile.app.job import Job, StoppedError
from art_versatile.app.service import ATTACKS, THROUGH, UNBOUNDED_ATTACKS, Workbench


def test_classify_gives_names_and_shares_in_order(bench, red):
    answer = bench.classify(red, "striped")
    assert answer.label == "red"
    assert answer.index == 0
    # 30 times the difference of the colours' means, 0.25, apart; the ramp is a faint stripe.
    expected = np.exp([7.5, 0, 0]) / np.exp([7.5, 0, 0]).sum()
    np.testing.assert_allclose(sorted((share for _, share in answer.top), reverse=True), expected, atol=2e-4)
    assert str(answer) == "“red” (100%)"


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "C&W"])
def test_each_attack_fools_the_classifier_and_the_purifier_undoes_it(bench, red, attack):
    told = []
    made = bench.attack(red, "striped", attack, eps=8 / 255, iterations=5, job=Job(lambda *step: told.append(step)))
    assert made.fooled
    assert made.clean_answer.label == "red"
    assert bench.classify(bench.purify(made.image, "blur"), "striped").label == "red"
    assert made.image.shape == red.shape
    assert made.image.min() >= 0
    assert made.image.max() <= 1
    assert (made.eps is None) == (attack in UNBOUNDED_ATTACKS)
    if made.eps is not None:
        assert np.abs(made.image - red).max() <= made.eps + 1e-6
        assert made.name == f"{attack} at 8/255"
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] < 1
    assert len(shares) > 1
    change = np.mean((made.image - red).astype(np.float64) ** 2)
    assert made.psnr == pytest.approx(-10 * np.log10(change))
    assert made.seconds > 0


def test_carlini_wagner_takes_the_iterations(bench, red):
    counts = []
    for iterations in (1, 4):
        told = []
        job = Job(lambda *step, told=told: told.append(step))
        bench.attack(red, "striped", "C&W", iterations=iterations, job=job)
        counts.append(len(told))
    assert counts[0] < counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("attack", THROUGH)
def test_an_attacker_who_knows_the_blur_needs_a_larger_budget(bench, red, attack):
    answers = []
    for eps in (8 / 255, 32 / 255):
        made = bench.attack_through(red, "striped", "blur", attack, eps=eps, iterations=10)
        answers.append(bench.classify(bench.purify(made.image, "blur"), "striped").label)
        assert np.abs(made.image - red).max() <= eps + 1e-6
    # The means of two colours change by 2 eps at most: 0.06 and 0.25, and they are 0.25 apart.
    assert answers[0] == "red" != answers[1]


def test_the_same_twice(bench, red):
    first, second = (bench.attack(red, "striped", "PGD").image for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_stopped_attack_ends_at_once_and_leaves_the_classifier_as_it_was(bench, red):
    expected = bench.attack(red, "striped", "PGD").image
    steps = []

    def stop_at_the_third(done, text):
        steps.append(done)
        if len(steps) == 3:
            job.stop()

    job = Job(stop_at_the_third)
    with pytest.raises(StoppedError):
        bench.attack(red, "striped", "PGD", iterations=100, job=job)
    assert len(steps) == 3
    np.testing.assert_array_equal(bench.attack(red, "striped", "PGD").image, expected)
    assert len(steps) == 3


def test_two_at_once_do_not_mix(bench, red):
    green = red[..., [1, 0, 2]]
    alone = [bench.attack(image, "striped", "PGD").image for image in (red, green)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda image: bench.attack(image, "striped", "PGD").image, (red, green)))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"classifier": "other"}, "classifier"),
        ({"attack": "DDN"}, "attack"),
        ({"eps": 0.0}, "eps"),
        ({"eps": 0.5}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"iterations": 0}, "iterations"),
        ({"iterations": 101}, "iterations"),
        ({"iterations": 2.5}, "iterations"),
        ({"image": np.full((64, 64, 3), 2, np.float32)}, "image"),
    ],
)
def test_attack_refuses(bench, red, changed, says):
    arguments = {"image": red, "classifier": "striped", "attack": "FGSM", **changed}
    with pytest.raises(ValueError, match=says):
        bench.attack(**arguments)
    if says != "classifier" and says != "image":
        arguments["attack"] = changed.get("attack", "PGD")
        with pytest.raises(ValueError, match=says):
            bench.attack_through(purifier="blur", **arguments)


def test_a_classifier_of_another_range_is_refused(tiny_classifier):
    from art.estimators.classification import TensorFlowV2Classifier

    other = TensorFlowV2Classifier(tiny_classifier.model, 10, (32, 32, 3), clip_values=(0, 255))
    bench = Workbench({"other": lambda: other}, {"none": lambda: None})
    with pytest.raises(ValueError, match="clip_values"):
        bench.image_size("other")
    for classifiers, purifiers in (({}, {"a": object}), ({"a": object}, {})):
        with pytest.raises(ValueError, match="at least one"):
            Workbench(classifiers, purifiers)


def test_classes_of_one_name_are_told_apart(tiny_classifier, tiny_images):
    names = ["crane", "crane", *"abcdefgh"]
    bench = Workbench({"tiny": lambda: tiny_classifier}, {"none": lambda: None}, class_names=names)
    labels = {name for image in tiny_images for name, _ in bench.classify(image, "tiny").top}
    assert "crane" not in labels
    assert labels <= {"crane (0)", "crane (1)", *"abcdefgh"}
