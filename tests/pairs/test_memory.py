from __future__ import annotations

import hashlib
import re
import struct

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pairs import MemoryPairs, PairStore
from art_versatile.pairs.store import encode_pair, write_json, write_shard

SHAPE, COUNT = (6, 8, 3), 60


def make_arrays(clip_values=(0.0, 1.0)):
    rng = np.random.default_rng(0)
    low, high = clip_values
    clean = rng.uniform(low, high, (COUNT, *SHAPE)).astype(np.float32)
    adversarial = np.clip(clean + 0.1 * rng.standard_normal(clean.shape), low, high).astype(np.float32)
    return adversarial, clean, np.arange(COUNT), np.arange(COUNT) // 30


@pytest.fixture(scope="module")
def pairs():
    return MemoryPairs(*make_arrays(), ("A", "B"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The same pairs on disk."""
    path = tmp_path_factory.mktemp("store")
    (path / "shards").mkdir()
    adversarial, clean, labels, attacks = make_arrays()
    shards = []
    for attack, name in enumerate("AB"):
        records = [
            encode_pair(clean[i], adversarial[i], label=labels[i], attack=attack, image=i, dtype="float32")
            for i in np.flatnonzero(attacks == attack)
        ]
        sha256 = write_shard(f"{path}/shards/{name}", records)
        shards.append({"file": f"shards/{name}", "attack": name, "sha256": sha256, "count": len(records)})
    parameters = {
        "attacks": [{"name": "A"}, {"name": "B"}], "clip_values": (0, 1), "dtype": "float32", "compression": "",
    }  # fmt: skip
    manifest = {
        "format": 1, "complete": True, "parameters": parameters, "image_shape": SHAPE, "shards": shards,
        "attacks": {name: {"count": 30, "skipped": 0, "success_rate": None} for name in "AB"},
    }  # fmt: skip
    write_json(f"{path}/manifest.json", manifest)
    return PairStore(path)


def read(dataset):
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def order(dataset):
    return read(dataset)[2].tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {"flip": False},
        {"crop": (4, 5), "scale": (0.2, 1.5), "clean_share": 0.3},
        {"scale": (0.2, 0.9), "whole": ["B"]},
        {"attacks": ["B"], "crop": 4, "seed": 2**33 + 7},
        {"repeat": True, "first_epoch": 3},
        {"drop_remainder": True},
        {"fill_remainder": True, "crop": (4, 5), "scale": (0.2, 0.9)},
    ],
)
def test_the_same_as_a_store(pairs, store, arguments):
    """In the order of the arrays, the augmentation is the same to the bit."""
    arguments = {"seed": 5, "shuffle": False, "labels": True, **arguments}
    for got, want in zip(read(pairs.dataset(16, **arguments).take(7)), read(store.dataset(16, **arguments).take(7)),
                         strict=True):  # fmt: skip
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


def test_shuffle(pairs):
    dataset = pairs.dataset(16, labels=True, seed=3)
    first, second = order(dataset), order(dataset)
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second, "each epoch has its own order"
    assert first != list(range(COUNT))
    assert order(pairs.dataset(16, labels=True, seed=4)) != first
    assert order(pairs.dataset(16, labels=True, seed=3, first_epoch=1)) == second
    endless = pairs.dataset(16, labels=True, seed=3, repeat=True)
    assert order(endless.take(8)) == first + second, "no batch spans two epochs"
    tf.random.set_seed(99)
    assert order(pairs.dataset(16, labels=True, seed=3)) == first, "the global seed does not count"


def test_a_remainder_that_is_filled(pairs):
    """With the first pairs of the same epoch, in an augmentation of their own."""
    arguments = {"labels": True, "seed": 3, "scale": (0.2, 0.9)}
    dataset = pairs.dataset(16, fill_remainder=True, **arguments)
    assert int(dataset.cardinality()) == 4
    assert dataset.element_spec[0].shape == (16, *SHAPE)
    filled, plain = read(dataset), read(pairs.dataset(16, **arguments))
    for got, want in zip(filled, plain, strict=True):
        np.testing.assert_array_equal(got[:COUNT], want)
    assert filled[2].tolist() == [*plain[2], *plain[2][:4]]
    assert not np.allclose(filled[0][60:] - filled[1][60:], filled[0][:4] - filled[1][:4], atol=1e-3)
    endless = pairs.dataset(16, fill_remainder=True, repeat=True, **arguments)
    assert order(endless.take(8)) == filled[2].tolist() + order(dataset), "its second pass is the second epoch"
    with pytest.raises(ValueError, match="Expected drop_remainder or fill_remainder. Received both"):
        pairs.dataset(16, drop_remainder=True, fill_remainder=True)


def test_every_order_is_equally_likely():
    three = MemoryPairs(*(a[:3] for a in make_arrays()))
    orders = [labels for _, _, labels in three.dataset(3, labels=True, repeat=True).take(240).as_numpy_iterator()]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    # Binomial (240, 1/6): mean 40, standard deviation 5.8.
    assert abs(counts - 40).max() < 5 * 5.8


def test_pairs_stay_together(pairs):
    adversarial, clean, *_ = make_arrays()
    got = read(pairs.dataset(16, labels=True, flip=False))
    np.testing.assert_array_equal(got[0], adversarial[got[2]])
    np.testing.assert_array_equal(got[1], clean[got[2]])


def test_the_images_stay_off_a_gpu(pairs):
    """What device is asked for, as a graph notes it: none would be the first GPU."""
    with tf.Graph().as_default() as graph:
        pairs.read(["A"], shuffle=False, shuffle_buffer=1)
    held = [op for op in graph.get_operations() if op.type == "Const" and op.outputs[0].shape.rank]
    assert sum(op.outputs[0].shape.num_elements() for op in held) > 2 * pairs.clean.size
    assert {tf.DeviceSpec.from_string(op.device).device_type for op in held} == {"CPU"}


def test_other_range():
    adversarial, clean, *_ = make_arrays((-1.0, 2.0))
    pairs = MemoryPairs(adversarial, clean, clip_values=(-1, 2))
    assert pairs.clip_values == (-1.0, 2.0)
    got, _ = read(pairs.dataset(20, flip=False, shuffle=False, scale=(30.0, 30.0)))
    np.testing.assert_allclose(got, np.clip(clean + np.float32(30) * (adversarial - clean), -1, 2), atol=2e-5)


def test_properties(pairs):
    assert len(pairs) == 60
    assert pairs.attacks == ("A", "B")
    assert pairs.counts == {"A": 30, "B": 30}
    assert pairs.image_shape == SHAPE
    assert repr(pairs) == "MemoryPairs(pairs=60, attacks=['A', 'B'], image_shape=(6, 8, 3))"
    assert MemoryPairs(*make_arrays()[:2]).counts == {"attack": 60}


def test_arrays_are_left_as_they_are():
    arrays = make_arrays()
    pairs = MemoryPairs(*arrays, ("A", "B"))
    read(pairs.dataset(16, scale=(0.1, 0.2), labels=True))
    for got, want in zip(arrays, make_arrays(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32"), ("float16", "float16")])
def test_floats_of_any_precision(dtypes):
    """Held as float32, which is what is given."""
    adversarial, clean = (a.astype(dtype) for a, dtype in zip(make_arrays()[:2], dtypes, strict=True))
    got = read(MemoryPairs(adversarial, clean).dataset(20, flip=False, shuffle=False))
    for images, want in zip(got, (adversarial, clean), strict=True):
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, want.astype(np.float32))


def test_float32_is_not_copied():
    adversarial, clean, *_ = make_arrays()
    adversarial[0], clean[0] = 0.25, 0.5
    pairs = MemoryPairs(adversarial, clean)
    adversarial[0], clean[0] = 0.5, 0.75
    got = read(pairs.dataset(COUNT, flip=False, shuffle=False))
    assert [images[0].mean() for images in got] == [0.5, 0.75]


def test_checksum_of_the_clean_images():
    adversarial, clean, *_ = make_arrays()
    expected = hashlib.sha256(b"".join(struct.pack("<f", pixel) for pixel in clean.ravel())).hexdigest()
    assert MemoryPairs(adversarial, clean).clean_sha256 == expected
    assert MemoryPairs(clean, np.asfortranarray(clean)).clean_sha256 == expected
    assert MemoryPairs(adversarial, clean[::-1]).clean_sha256 != expected


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: {"adversarial": a[0][:5]}, "Expected arrays of one shape. Received (5, 6, 8, 3) and (60, 6, 8, 3)."),
        (lambda a: {"adversarial": a[0] + 1}, "Expected adversarial inside clip_values (0.0, 1.0)."),
        (
            lambda a: {"clean": a[1][0]},
            "Expected clean to be a batch of images (N, H, W, 3). Received shape (6",
        ),
        (lambda a: {"labels": a[2][:5]}, "Expected labels to be 60 integers. Received int64 (5,)."),
        (lambda a: {"labels": a[2] - 1}, "Expected labels of at least 0. Received -1."),
        (lambda a: {"indices": a[3] * 1.0}, "Expected indices to be 60 integers. Received float64 (60,)."),
        (lambda a: {"indices": a[3] + 1}, "Expected indices below 2, the number of attacks. Received 2."),
        (lambda a: {"images": a[2][:5]}, "Expected images to be 60 integers. Received int64 (5,)."),
        (lambda a: {"clip_values": (1, 0)}, "Expected clip_values to be two finite numbers"),
    ],
)
def test_arrays_that_do_not_belong_together(spoil, message):
    arrays = make_arrays()
    given = dict(zip(("adversarial", "clean", "labels", "indices"), arrays, strict=True), attacks=("A", "B"))
    with pytest.raises(ValueError, match=re.escape(message)):
        MemoryPairs(**{**given, **spoil(arrays)})


def test_labels_that_are_not_there():
    with pytest.raises(ValueError, match="Expected pairs with labels. Received pairs without."):
        MemoryPairs(*make_arrays()[:2]).dataset(2, labels=True)
