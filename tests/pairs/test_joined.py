"""Several stores, read as one."""

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pairs import JoinedPairs, MemoryPairs, PairStore
from art_versatile.pairs.store import encode_pair, write_json, write_shard

SHAPE = (4, 6, 3)


def make(path, name, labels, *, dtype="float16", shape=SHAPE, value=0.25):
    """One attack's pairs of flat images, the adversarial ones brighter by ``value``."""
    tf.io.gfile.makedirs(f"{path}/shards")
    records = [
        encode_pair(np.zeros(shape), np.full(shape, value), label=label, attack=1, image=0, dtype=dtype)
        for label in labels
    ]
    digest = write_shard(f"{path}/shards/0.tfrecord", records)
    attacks = [{"name": "never"}, {"name": name}]
    totals = {"count": len(labels), "skipped": 0, "success_rate": None}
    write_json(
        f"{path}/manifest.json",
        {
            "format": 1,
            "complete": True,
            "parameters": {"attacks": attacks, "clip_values": (0, 1), "dtype": dtype, "compression": ""},
            "image_shape": shape,
            "attacks": {"never": {**totals, "count": 0}, name: totals},
            "shards": [{"file": "shards/0.tfrecord", "attack": name, "sha256": digest, "count": len(labels)}],
        },
    )
    return PairStore(path)


@pytest.fixture
def joined(tmp_path):
    return JoinedPairs(
        [
            make(f"{tmp_path}/a", "FGSM", range(10)),
            make(f"{tmp_path}/b", "PGD", range(100, 130), dtype="float32", value=0.5),
        ]
    )


def labels(dataset):
    return [batch[2].tolist() for batch in dataset.as_numpy_iterator()]


def test_all_pairs_of_all_stores(joined):
    assert (len(joined), joined.image_shape, joined.clip_values) == (40, SHAPE, (0, 1))
    assert joined.attacks == ("never", "FGSM", "PGD")
    assert joined.counts == {"never": 0, "FGSM": 10, "PGD": 30}
    batches = list(joined.dataset(16, labels=True).as_numpy_iterator())
    assert [len(batch[0]) for batch in batches] == [16, 16, 8]
    adversarial, clean, found = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert sorted(found) == [*range(10), *range(100, 130)]
    np.testing.assert_array_equal(clean, 0)
    np.testing.assert_array_equal(adversarial[:, 0, 0, 0], np.where(found < 100, 0.25, 0.5))


def test_stores_are_mixed_and_each_epoch_anew(joined):
    dataset = joined.dataset(40, labels=True, seed=3)
    (first,), (second,) = labels(dataset), labels(dataset)
    assert first != second
    assert sorted(first) == sorted(second)
    places = np.flatnonzero(np.array(first) < 100)
    assert places.min() < 10
    assert places.max() > 25


def test_a_run_that_goes_on_sees_what_it_would_have_seen(joined):
    """Whatever the global seed."""
    options = {"labels": True, "seed": 3, "repeat": True}
    whole = labels(joined.dataset(16, **options).take(9))
    tf.random.set_seed(99)
    assert labels(joined.dataset(16, first_epoch=1, **options).take(6)) == whole[3:]


def test_in_their_order(joined):
    (found,) = labels(joined.dataset(40, labels=True, shuffle=False))
    assert found == [*range(10), *range(100, 130)]


def test_attacks_by_name(joined):
    (found,) = labels(joined.dataset(40, labels=True, attacks=["PGD"]))
    assert sorted(found) == list(range(100, 130))
    ((adversarial, _, found),) = joined.dataset(40, labels=True, scale=(0.5, 0.5), whole=["PGD"]).as_numpy_iterator()
    np.testing.assert_allclose(adversarial[:, 0, 0, 0], np.where(found < 100, 0.125, 0.5))


def test_checksum_is_of_all_stores_in_their_order(joined):
    assert joined.sha256 != JoinedPairs(joined.stores[::-1]).sha256
    assert joined.sha256 == JoinedPairs(joined.stores).sha256


def test_errors(tmp_path, joined):
    with pytest.raises(ValueError, match="Expected at least one store. Received none"):
        JoinedPairs([])
    other = make(f"{tmp_path}/c", "PGD", range(3), shape=(8, 6, 3))
    with pytest.raises(ValueError, match=r"Expected stores of one image_shape. Received \[\(4, 6, 3\), \(8, 6, 3\)\]"):
        JoinedPairs([joined.stores[0], other])
    with pytest.raises(ValueError, match="Expected attacks among"):
        joined.dataset(4, attacks=["BIM"])


class TestOnly:
    def test_the_pairs_of_one_attack(self, joined):
        chosen = joined.only(["PGD"])
        assert (chosen.attacks, chosen.counts, len(chosen)) == (("PGD",), {"PGD": 30}, 30)
        assert (chosen.image_shape, chosen.clip_values, chosen.has_labels) == (SHAPE, (0, 1), True)
        batches = list(chosen.dataset(16, labels=True).as_numpy_iterator())
        adversarial, _, found = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert sorted(found) == list(range(100, 130))
        np.testing.assert_array_equal(adversarial, 0.5)

    def test_a_name_stands_for_its_budgets(self, tmp_path):
        store = JoinedPairs(
            [make(f"{tmp_path}/{name}", name, [0, 1]) for name in ("PGD 4/255", "PGD 8/255", "PGDX 8/255", "FGSM")]
        )
        assert store.only(["PGD"]).attacks == ("PGD 4/255", "PGD 8/255")
        assert store.only(["PGD 8/255", "FGSM"]).attacks == ("PGD 8/255", "FGSM")

    def test_attacks_that_are_left_whole_keep_their_numbers(self, joined):
        """Of the numbers, which are others than those of the store, scaling makes use."""
        whole = joined.only(["PGD"]).dataset(30, scale=(0.5, 0.5), whole=["PGD"])
        scaled = joined.only(["PGD"]).dataset(30, scale=(0.5, 0.5))
        np.testing.assert_array_equal(next(whole.as_numpy_iterator())[0], 0.5)
        np.testing.assert_array_equal(next(scaled.as_numpy_iterator())[0], 0.25)

    def test_of_arrays(self):
        rng = np.random.default_rng(0)
        clean = rng.random((6, 4, 4, 3), np.float32)
        x_adv = np.clip(clean + np.arange(6).reshape(-1, 1, 1, 1) / 10, 0, 1)
        pairs = MemoryPairs(x_adv, clean, indices=np.array([0, 1, 0, 1, 0, 1]), attacks=("a", "b"))
        batch = next(pairs.only(["b"]).dataset(3, shuffle=False, flip=False).as_numpy_iterator())
        np.testing.assert_array_equal(batch[1], clean[1::2])

    def test_what_it_is_known_by(self, joined):
        """Another choice is other pairs to a training run that goes on."""
        choices = [["PGD"], ["FGSM"], ["PGD", "FGSM"]]
        known = [str(pairs.identity) for pairs in (joined, *(joined.only(names) for names in choices))]
        assert len(set(known)) == 4
        assert joined.only(["PGD"]).identity == joined.only(["PGD"]).identity

    @pytest.mark.parametrize(("names", "received"), [(["BIM"], "'BIM'"), (["PG"], "'PG'"), ([], "none")])
    def test_unknown_names(self, joined, names, received):
        with pytest.raises(ValueError, match=rf"Expected .*\. Received {received}\."):
            joined.only(names)
