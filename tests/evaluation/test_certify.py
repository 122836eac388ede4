import json

import numpy as np
import pytest
import tensorflow as tf
from art.estimators.certification.randomized_smoothing import TensorFlowV2RandomizedSmoothing
from art.estimators.classification import TensorFlowV2Classifier
from scipy import stats

from art_versatile.evaluation.certify import (
    ABSTAINED,
    Certificate,
    Certificates,
    certify,
    certify_counts,
    lower_confidence_bound,
)

SIGMA = 0.25


def half_plane(shape=(8, 8, 3), **kwargs):
    """Class 1 where the mean is above 0.5: under Gaussian noise its share and its distance to the border are known."""
    image = tf.keras.Input(shape)
    flat = tf.keras.layers.Flatten()(image)
    size = int(np.prod(shape))
    dense = tf.keras.layers.Dense(2, kernel_initializer="zeros")
    model = tf.keras.Model(image, dense(flat))
    dense.set_weights([np.stack([np.zeros(size), np.full(size, 1 / size)], 1), np.array([0.0, -0.5])])
    kind = kwargs.pop("kind", TensorFlowV2Classifier)
    return kind(model=model, nb_classes=2, input_shape=shape, clip_values=(0.0, 1.0), **kwargs)


def image_at(distance, shape=(8, 8, 3)):
    """An image so far (L2) on the side of class 1."""
    return np.full((1, *shape), 0.5 + distance / np.sqrt(np.prod(shape)), np.float32)


@pytest.mark.parametrize(("votes", "draws", "alpha"), [(990, 1000, 0.001), (51, 100, 0.05), (1000, 1000, 0.001)])
def test_bound_is_clopper_and_pearsons(votes, draws, alpha):
    reference = stats.binomtest(votes, draws).proportion_ci(1 - 2 * alpha, method="exact").low
    assert lower_confidence_bound(votes, draws, alpha) == pytest.approx(reference, rel=1e-12)


def test_bound_of_every_vote_by_hand():
    # All of n: P(all | p) = p^n = alpha.
    assert lower_confidence_bound(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100), rel=1e-12)
    assert lower_confidence_bound(0, 100, 0.001) == 0.0


def test_radius_by_hand_and_abstention():
    chosen, radius, votes = certify_counts(np.array([3, 7]), np.array([1, 99]), 0.5, 0.001)
    bound = stats.binomtest(99, 100).proportion_ci(0.998, method="exact").low
    assert (chosen, votes) == (1, 99)
    assert radius == pytest.approx(0.5 * stats.norm.ppf(bound), rel=1e-12)
    assert certify_counts(np.array([3, 7]), np.array([48, 52]), 0.5, 0.001) == (ABSTAINED, 0.0, 52)
    # The second sample bounds the class of the first, be it the minority there.
    assert certify_counts(np.array([7, 3]), np.array([1, 99]), 0.5, 0.001)[0] == ABSTAINED


def test_the_radius_never_reaches_the_border_and_comes_near_it():
    distance = 0.3
    (found,) = certify(half_plane(), image_at(distance), [1], sigma=SIGMA, n0=50, n=4000, verbose=False).certificates
    assert found.is_right
    assert 0.85 * distance < found.radius < distance
    share = stats.norm.cdf(distance / SIGMA)
    assert abs(found.votes / 4000 - share) < 5 * np.sqrt(share * (1 - share) / 4000)


def test_counts_are_arts_own_for_the_same_draws(monkeypatch):
    classifier = half_plane(kind=TensorFlowV2RandomizedSmoothing, sample_size=20, scale=SIGMA)
    x = image_at(0.1)
    from art_versatile.evaluation import certify as module

    votes = module._Votes(classifier, SIGMA, 7, 3)
    seeds = tf.constant(np.random.SeedSequence([3, 0, 0]).generate_state(2).view(np.int32))
    noise = np.stack([votes.noise(x.shape[1:], seeds, tf.constant(i)).numpy() for i in range(20)])
    monkeypatch.setattr(classifier, "_noisy_samples", lambda x, n=None: x[None] + noise)
    np.testing.assert_array_equal(votes(x[0], 0, 20, 0), classifier._prediction_counts(x[0], n=20))


def test_answer_is_arts_own_on_the_same_counts():
    pytest.importorskip("statsmodels")
    classifier = half_plane(kind=TensorFlowV2RandomizedSmoothing, sample_size=20, scale=SIGMA, alpha=0.01)
    counts = iter([np.array([2, 18]), np.array([9, 191])])
    classifier._prediction_counts = lambda *_, **__: next(counts)
    predicted, radius = classifier.certify(image_at(0.1), n=200)
    ours = certify_counts(np.array([2, 18]), np.array([9, 191]), SIGMA, 0.01)
    assert ours[:2] == (predicted[0], pytest.approx(radius[0], rel=1e-9))


def test_batches_and_order_change_nothing_and_seeds_do():
    classifier, x = half_plane(), np.concatenate([image_at(0.05), image_at(-0.1)])
    one = certify(classifier, x, [1, 0], n0=10, n=64, batch_size=64, verbose=False)
    other = certify(classifier, x, [1, 0], n0=10, n=64, batch_size=5, verbose=False)
    assert one.certificates == other.certificates
    assert one.certificates != certify(classifier, x, [1, 0], n0=10, n=64, seed=1, verbose=False).certificates


def test_a_defence_stands_between_noise_and_classifier():
    from art_versatile.purifier import VersatilePurifier

    class Dark(tf.keras.layers.Layer):
        def call(self, x):
            return 0.0 * x

    image = tf.keras.Input((None, None, 3))
    black = VersatilePurifier(tf.keras.Model(image, Dark()(image)))
    found = certify(
        half_plane(preprocessing_defences=[black]), image_at(0.3), [1], n0=10, n=50, verbose=False
    ).certificates[0]
    assert (found.predicted, found.votes) == (0, 50)


def test_accuracy_counts_abstentions_as_wrong():
    certificates = (
        Certificate(0, 1, 1, 0.6, 990, 1000),
        Certificate(1, 1, 1, 0.3, 900, 1000),
        Certificate(2, 1, 0, 0.9, 999, 1000),
        Certificate(3, 1, ABSTAINED, 0.0, 400, 1000),
    )
    found = Certificates(certificates, {"image_shape": [256, 256, 3]})
    assert [found.accuracy(r) for r in (0, 0.25, 0.5, 1)] == [0.5, 0.5, 0.25, 0.0]
    assert found.abstained == 0.25
    # README's figure: L2 0.25 at 256x256 is 0.14/255.
    assert 255 * found.infinity_radius(0.25) == pytest.approx(0.1437, abs=1e-3)


def test_goes_on_where_it_was(tmp_path):
    classifier, x = half_plane(), np.concatenate([image_at(0.05), image_at(0.2), image_at(-0.1)])
    arguments = {"n0": 10, "n": 40, "verbose": False}
    whole = certify(classifier, x, [1, 1, 0], **arguments)
    file = tmp_path / "certificates.json"
    certify(classifier, x, [1, 1, 0], tmp_path, **arguments)
    content = json.loads(file.read_text())
    content["certificates"] = content["certificates"][:1]
    content["certificates"][0]["votes"] = 12345  # kept, not made again
    file.write_text(json.dumps(content))
    again = certify(classifier, x, [1, 1, 0], tmp_path, **arguments)
    assert again.certificates[0].votes == 12345
    assert again.certificates[1:] == whole.certificates[1:]
    with pytest.raises(ValueError, match="sigma"):
        certify(classifier, x, [1, 1, 0], tmp_path, sigma=0.5, **arguments)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"certificates\.json"):
        certify(classifier, x, [1, 1, 0], tmp_path, **arguments)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sigma", {"sigma": 0.0}),
        ("alpha", {"alpha": 0.6}),
        ("n0", {"n0": 0}),
        ("n ", {"n": 0.5}),
        ("batch_size", {"batch_size": 0}),
        ("seed", {"seed": -1}),
        ("verbose", {"verbose": "yes"}),
        ("y", {"y": [0.5]}),
        ("classes from 0 to 1", {"y": [2]}),
        ("clip_values|range", {"x": image_at(0.1) + 5}),
    ],
)
def test_refusals(name, wrong):
    arguments = {"x": image_at(0.1), "y": [1], **wrong}
    with pytest.raises(ValueError, match=name):
        certify(half_plane(), **arguments)


def test_refuses_what_cannot_be_traced():
    with pytest.raises(TypeError, match="TensorFlowV2Classifier"):
        certify(object(), image_at(0.1), [1])
    from art.defences.preprocessor import FeatureSqueezing

    with pytest.raises(TypeError, match="FeatureSqueezing"):
        certify(half_plane(preprocessing_defences=[FeatureSqueezing((0.0, 1.0))]), image_at(0.1), [1], verbose=False)
