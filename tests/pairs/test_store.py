from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from art_versatile.pairs import MemoryPairs, PairStore
from art_versatile.pairs.store import encode_pair, file_sha256, read_json, write_json, write_shard

SHAPE = (6, 8, 3)
COUNTS = {"FGSM": [3, 4], "C&W": [5]}  # pairs of each shard of each attack


def make_store(path, dtype="float32", compression="", clip_values=(0.0, 1.0), counts=None):
    """A store written by hand: record i holds random pixels, all different. Returns the pixels too."""
    counts = COUNTS if counts is None else counts
    rng = np.random.default_rng(0)
    shards, clean_images, adversarial_images, attacks = [], [], [], []
    image = 0
    low, high = clip_values
    tf.io.gfile.makedirs(f"{path}/shards")
    for attack, (name, sizes) in enumerate(counts.items()):
        for shard, size in enumerate(sizes):
            records = []
            for _ in range(size):
                clean = rng.uniform(low, high, SHAPE).astype(dtype)
                adversarial = np.clip(clean + 0.1 * rng.standard_normal(SHAPE), low, high).astype(dtype)
                records.append(
                    encode_pair(clean, adversarial, label=image % 4, attack=attack, image=image, dtype=dtype)
                )
                clean_images.append(clean)
                adversarial_images.append(adversarial)
                attacks.append(attack)
                image += 1
            file = f"shards/{attack:02d}-{shard:05d}.tfrecord"
            checksum = write_shard(f"{path}/{file}", records, compression=compression)
            shards.append({"file": file, "attack": name, "sha256": checksum, "count": size})
    manifest = {
        "format": 1,
        "complete": True,
        "parameters": {
            "attacks": [{"name": name} for name in counts],
            "clip_values": clip_values,
            "dtype": dtype,
            "compression": compression,
        },
        "image_shape": SHAPE,
        "attacks": {name: {"count": sum(sizes), "skipped": 2, "success_rate": 0.25} for name, sizes in counts.items()},
        "shards": shards,
    }
    write_json(f"{path}/manifest.json", manifest)
    clean = np.stack(clean_images).astype(np.float32)
    adversarial = np.stack(adversarial_images).astype(np.float32)
    numbers = np.arange(image)
    held = MemoryPairs(
        adversarial, clean, numbers % 4, np.array(attacks), list(counts), images=numbers, clip_values=clip_values
    )
    return PairStore(path), held


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(str(tmp_path_factory.mktemp("pairs")))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Four hundred pairs, for frequencies."""
    return make_store(str(tmp_path_factory.mktemp("many")), counts={"A": [100] * 2, "B": [100] * 2})


def read(dataset):
    """All batches, joined."""
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def order(dataset):
    """The labels in the order in which they come: here, one a pair."""
    return read(dataset)[2].tolist()


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A store whose labels are all different."""
    path = str(tmp_path_factory.mktemp("numbered"))
    tf.io.gfile.makedirs(f"{path}/shards")
    shards = []
    for shard in range(8):
        records = [
            encode_pair(np.zeros(SHAPE), np.zeros(SHAPE), label=10 * shard + i, attack=0, image=0, dtype="float16")
            for i in range(10)
        ]
        file = f"shards/{shard}.tfrecord"
        shards.append({"file": file, "attack": "A", "sha256": write_shard(f"{path}/{file}", records), "count": 10})
    manifest = {
        "format": 1,
        "complete": True,
        "parameters": {"attacks": [{"name": "A"}], "clip_values": (0, 1), "dtype": "float16", "compression": ""},
        "image_shape": SHAPE,
        "attacks": {"A": {"count": 80, "skipped": 0, "success_rate": None}},
        "shards": shards,
    }
    write_json(f"{path}/manifest.json", manifest)
    return PairStore(path)


# What is in a store


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_round_trip(tmp_path, dtype, compression):
    store, expected = make_store(str(tmp_path), dtype, compression)
    held = store.arrays()
    assert (held.attacks, held.clip_values) == (store.attacks, store.clip_values)
    for name in ("adversarial", "clean", "labels", "indices", "images"):
        got = getattr(held, name)
        np.testing.assert_array_equal(got, getattr(expected, name))
        assert got.dtype == (np.float32 if got.ndim == 4 else np.int64)
    adversarial, clean, labels = read(store.dataset(5, flip=False, shuffle=False, labels=True))
    np.testing.assert_array_equal(adversarial, expected.adversarial)
    np.testing.assert_array_equal(clean, expected.clean)
    np.testing.assert_array_equal(labels, expected.labels)
    assert (adversarial.dtype, clean.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
    assert store.verify() == []
    assert store.dtype == dtype


def test_any_gfile_path():
    store, expected = make_store("ram://pairs-store")
    assert store.verify() == []
    np.testing.assert_array_equal(store.arrays().clean, expected.clean)
    np.testing.assert_array_equal(read(store.dataset(4, flip=False, shuffle=False))[1], expected.clean)


def test_record_layout():
    clean = np.arange(144, dtype=np.float64).reshape(SHAPE) / 256
    record = encode_pair(clean, clean + 1, label=7, attack=1, image=2**40, dtype="float16")
    features = tf.train.Example.FromString(record).features.feature
    assert sorted(features) == ["adversarial", "attack", "clean", "image", "label"]
    assert features["clean"].bytes_list.value[0] == clean.astype("<f2").tobytes()
    assert features["adversarial"].bytes_list.value[0] == (clean + 1).astype("<f2").tobytes()
    assert [features[key].int64_list.value[0] for key in ("label", "attack", "image")] == [7, 1, 2**40]
    assert record == encode_pair(clean, clean + 1, label=7, attack=1, image=2**40, dtype="float16")


def test_properties(made):
    store, _ = made
    assert len(store) == 12
    assert store.attacks == ("FGSM", "C&W")
    assert store.success_rates == {"FGSM": 0.25, "C&W": 0.25}
    assert store.counts == {"FGSM": 7, "C&W": 5}
    assert store.skipped == 4
    assert store.image_shape == SHAPE
    assert store.clip_values == (0.0, 1.0)
    assert repr(store) == (
        f"PairStore({store.path!r}, pairs=12, attacks=['FGSM', 'C&W'], image_shape=(6, 8, 3), dtype='float32')"
    )


def test_arrays_limit_is_spread_over_attacks(made):
    store, expected = made
    for limit, counts in {1: (0, 1), 4: (2, 2), 5: (3, 2), 11: (6, 5), 12: (7, 5), 99: (7, 5)}.items():
        got = np.bincount(store.arrays(limit).indices, minlength=2)
        assert got.sum() == min(limit, 12)
        assert abs(got - np.array(counts)).max() <= 1 if limit < 10 else tuple(got) == counts
    few = store.arrays(3, attacks=["C&W"])
    np.testing.assert_array_equal(few.adversarial, expected.adversarial[7:10])
    np.testing.assert_array_equal(few.images, [7, 8, 9])


# Damage


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_verify_names_damaged_shard(tmp_path, damage):
    store, _ = make_store(str(tmp_path))
    file = tmp_path / "shards/00-00001.tfrecord"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-5])
    else:
        file.unlink()
    assert store.verify() == ["shards/00-00001.tfrecord"]
    # TensorFlow finds it as well, by the record's CRC.
    error = tf.errors.NotFoundError if damage == "remove" else tf.errors.DataLossError
    with pytest.raises(error):
        read(store.dataset(2))
    with pytest.raises(error):
        store.arrays()


def test_write_leaves_no_temporary_file(tmp_path):
    checksum = write_shard(f"{tmp_path}/a", [b"one", b"two"])
    write_json(f"{tmp_path}/b", {"c": 1.5})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]
    assert checksum == file_sha256(f"{tmp_path}/a")
    assert json.loads((tmp_path / "b").read_text()) == read_json(f"{tmp_path}/b") == {"c": 1.5}
    assert [record.numpy() for record in tf.data.TFRecordDataset(f"{tmp_path}/a")] == [b"one", b"two"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    def records():
        yield b"two"
        raise KeyError

    write_shard(f"{tmp_path}/a", [b"one"])
    write_json(f"{tmp_path}/b", 1)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(KeyError):
        write_shard(f"{tmp_path}/a", records())
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(f"{tmp_path}/b", np.nan)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_sha256_of_a_file_of_many_blocks(tmp_path):
    import hashlib

    content = np.random.default_rng(0).bytes(9 * 2**20)
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(str(tmp_path / "a")) == hashlib.sha256(content).hexdigest()


# Order


def test_batches(made):
    store, _ = made
    dataset = store.dataset(5)
    assert int(dataset.cardinality()) == 3
    assert [len(clean) for _, clean in dataset] == [5, 5, 2]
    dataset = store.dataset(5, drop_remainder=True)
    assert int(dataset.cardinality()) == 2
    assert dataset.element_spec[0].shape == (5, *SHAPE)
    assert [len(clean) for _, clean in dataset] == [5, 5]
    plain, filled = (order(store.dataset(5, fill_remainder=f, labels=True, shuffle=False)) for f in (False, True))
    assert filled == plain + plain[:3]
    assert order(store.dataset(5, attacks=["C&W"], labels=True, shuffle=False)) == [3, 0, 1, 2, 3]
    assert order(store.dataset(5, attacks=["C&W", "FGSM"], labels=True, shuffle=False))[:4] == [0, 1, 2, 3]


def test_shuffle(numbered):
    dataset = numbered.dataset(16, labels=True, seed=3)
    first, second = order(dataset), order(dataset)
    assert sorted(first) == sorted(second) == list(range(80))
    assert first != second, "each epoch has its own order"
    assert first != list(range(80))
    assert order(numbered.dataset(16, labels=True, seed=4)) != first
    again = numbered.dataset(16, labels=True, seed=3)
    assert [order(again), order(again)] == [first, second]
    assert order(numbered.dataset(16, labels=True, seed=3, first_epoch=1)) == second
    assert order(numbered.dataset(16, labels=True, seed=3, shuffle=False)) == list(range(80))


def test_small_buffer_still_shuffles_shards(numbered):
    got = order(numbered.dataset(16, labels=True, shuffle_buffer=1))
    assert sorted(got) == list(range(80))
    assert got != list(range(80))


def test_buffer_is_bounded_in_bytes(tmp_path):
    """With room for two records in one shard, no record comes two places early."""
    store, _ = make_store(str(tmp_path), counts={"A": [4]})
    pair_bytes = 2 * 6 * 8 * 3 * 4

    def earliest(room):
        dataset = store.dataset(4, labels=True, shuffle_buffer=room * pair_bytes, repeat=True)
        return np.max([np.array(labels) - np.arange(4) for _, _, labels in dataset.take(60)])

    assert earliest(2) == 1
    assert earliest(4) == 3


def test_shuffle_within_a_shard_is_uniform(tmp_path):
    """Every order of three records is equally likely, epoch after epoch."""
    store, _ = make_store(str(tmp_path), counts={"A": [3]})
    dataset = store.dataset(3, labels=True, repeat=True).take(240)
    orders = [labels for _, _, labels in dataset.as_numpy_iterator()]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    # Binomial (240, 1/6): mean 40, standard deviation 5.8.
    assert abs(counts - 40).max() < 5 * 5.8


def test_order_is_independent_of_global_seed(numbered, many):
    tf.random.set_seed(1)
    one = order(numbered.dataset(16, labels=True))
    augmented = read(many[0].dataset(50, crop=4, scale=(0.5, 1.0), clean_share=0.2).take(2))
    tf.random.set_seed(2)
    tf.random.uniform([1])
    following = float(tf.random.uniform([]))
    tf.random.set_seed(2)
    tf.random.uniform([1])
    assert order(numbered.dataset(16, labels=True)) == one
    for got, want in zip(
        read(many[0].dataset(50, crop=4, scale=(0.5, 1.0), clean_share=0.2).take(2)), augmented, strict=True
    ):
        np.testing.assert_array_equal(got, want)
    assert float(tf.random.uniform([])) == following, "reading a store leaves the global generator alone"


def test_repeat(numbered):
    once = numbered.dataset(32, labels=True, seed=5)
    epochs = [order(once) for _ in range(3)]
    endless = numbered.dataset(32, labels=True, seed=5, repeat=True)
    assert int(endless.cardinality()) == tf.data.INFINITE_CARDINALITY
    # 80 pairs are batches of 32, 32, 16: none spans two epochs.
    assert order(endless.take(9)) == [label for epoch in epochs for label in epoch]
    assert order(endless.take(3)) == epochs[0], "each pass starts again"
    late = numbered.dataset(32, labels=True, seed=5, repeat=True, first_epoch=2)
    assert order(late.take(3)) == epochs[2]


def test_fit_sees_a_new_order_in_each_epoch(numbered):
    import keras

    seen = []

    class Recorder(keras.Model):
        def __init__(self):
            super().__init__()
            self.bias = self.add_weight(shape=())

        def call(self, x):
            return x + self.bias

        def train_step(self, data):
            seen.extend(data[2].numpy().tolist())
            return {"seen": tf.constant(0.0)}

    model = Recorder()
    model.compile(run_eagerly=True)
    model.fit(numbered.dataset(40, labels=True, seed=9), epochs=2, shuffle=False, verbose=0)
    expected = numbered.dataset(40, labels=True, seed=9)
    assert seen == order(expected) + order(expected)


# Augmentation


def test_crop_and_flip_alike_on_both(many):
    store, expected = many
    adversarial, clean = read(store.dataset(64, crop=(4, 5), shuffle=False, seed=1))
    assert adversarial.shape == clean.shape == (400, 4, 5, 3)
    places = []
    for row in range(400):
        found = []
        for top in range(3):
            for left in range(4):
                window = np.s_[top : top + 4, left : left + 5]
                for mirror in (1, -1):
                    if np.array_equal(clean[row], expected.clean[row][window][:, ::mirror]):
                        found.append((top, left, mirror))
                        np.testing.assert_array_equal(adversarial[row], expected.adversarial[row][window][:, ::mirror])
        assert len(found) == 1
        places += found
    # 24 equally likely places; each count is binomial (400, 1/24): mean 16.7, standard deviation 4.
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert counts.max() < 16.7 + 5 * 4
    again = read(store.dataset(64, crop=(4, 5), shuffle=False, seed=1))
    np.testing.assert_array_equal(again[0], adversarial)
    assert not np.array_equal(read(store.dataset(64, crop=(4, 5), shuffle=False, seed=2))[0], adversarial)


def test_crops_on_a_grid(many):
    """Every place of the grid, and no other."""
    store = many[0]
    _, clean = read(store.dataset(400, crop=(3, 4), crop_step=2, flip=False, shuffle=False))
    whole = store.arrays().clean
    seen = set()
    for window, image in zip(clean, whole, strict=True):
        found = {(y, x) for y in range(4) for x in range(5) if np.array_equal(image[y : y + 3, x : x + 4], window)}
        assert found
        seen |= found
    assert seen == {(y, x) for y in (0, 2) for x in (0, 2, 4)}


def test_crop_without_flip(many):
    store, expected = many
    _, clean = read(store.dataset(400, crop=6, flip=False, shuffle=False))
    assert clean.shape == (400, 6, 6, 3)
    for row in range(400):
        assert any(np.array_equal(clean[row], expected.clean[row][:, left : left + 6]) for left in range(3))


def test_augmentation_differs_between_epochs_and_follows_first_epoch(many):
    store, _ = many
    dataset = store.dataset(100, crop=4, shuffle=False, seed=1)
    first, second = read(dataset), read(dataset)
    assert not np.array_equal(first[0], second[0])
    np.testing.assert_array_equal(read(store.dataset(100, crop=4, shuffle=False, seed=1, first_epoch=1))[0], second[0])


def test_scale(many):
    store, expected = many
    adversarial, clean = read(store.dataset(100, flip=False, shuffle=False, scale=(0.25, 0.75)))
    np.testing.assert_array_equal(clean, expected.clean)
    full = expected.adversarial - expected.clean
    moved = np.abs(full) > 0.05  # where rounding errors do not matter
    factors = [np.unique(np.round((adversarial - clean)[i][moved[i]] / full[i][moved[i]], 4)) for i in range(400)]
    assert all(np.ptp(factor) < 2e-4 for factor in factors), "one factor for a whole image"
    factors = np.array([factor[0] for factor in factors])
    assert factors.min() >= 0.2499
    assert factors.max() <= 0.7501
    # Mean and standard deviation of a uniform variable, within five standard errors.
    assert abs(factors.mean() - 0.5) < 5 * 0.1443 / 20
    assert abs(factors.std() - 0.5 / np.sqrt(12)) < 0.02


def test_whole_perturbations_are_not_scaled(many):
    store, expected = many
    arguments = {"flip": False, "shuffle": False, "scale": (0.25, 0.75)}
    scaled, _ = read(store.dataset(100, **arguments))
    adversarial, clean = read(store.dataset(100, **arguments, whole=["B"]))
    np.testing.assert_array_equal(clean, expected.clean)
    whole = expected.indices == store.attacks.index("B")
    assert 0 < whole.sum() < len(whole)
    np.testing.assert_allclose(adversarial[whole], expected.adversarial[whole], atol=1e-6)
    np.testing.assert_array_equal(adversarial[~whole], scaled[~whole])
    assert np.abs(scaled[whole] - expected.adversarial[whole]).max() > 0.05


def test_scale_beyond_one_is_clipped(tmp_path):
    store, expected = make_store(str(tmp_path), clip_values=(-1.0, 2.0))
    adversarial, clean = read(store.dataset(5, flip=False, shuffle=False, scale=(30.0, 30.0)))
    want = np.clip(expected.clean + np.float32(30) * (expected.adversarial - expected.clean), -1, 2)
    np.testing.assert_allclose(adversarial, want, atol=2e-5)
    assert (adversarial.min(), adversarial.max()) == (-1, 2)
    adversarial, clean = read(store.dataset(5, flip=False, shuffle=False, scale=(0, 0)))
    np.testing.assert_array_equal(adversarial, clean)


def test_clean_share(many):
    store, expected = many

    def share(value):
        adversarial, clean = read(store.dataset(100, flip=False, shuffle=False, clean_share=value))
        np.testing.assert_array_equal(clean, expected.clean)
        same = (adversarial == clean).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(adversarial[~same], expected.adversarial[~same])
        return same.mean()

    assert share(0) == 0
    assert share(1) == 1
    assert abs(share(0.3) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 400)


# Errors


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a store of pairs at .* Received no manifest.json there"):
        PairStore(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"Expected .*manifest.json to be a JSON file. Received b'\{'"),
        (b'{"format": 2}', "Expected .*manifest.json of format 1. Received 2"),
        (b"[]", "Expected .*manifest.json of format 1. Received 'list'"),
        (b'{"format": 1, "complete": false}', "Expected a finished store .* call generate_pairs again"),
    ],
)
def test_bad_manifest(tmp_path, content, message):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        PairStore(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "Expected batch_size to be an integer of at least 1. Received 0"),
        ({"crop": 7}, r"Expected crop to be one or two integers from 1 to \(6, 8\). Received 7"),
        ({"crop": (0, 4)}, r"Expected crop .* Received \(0, 4\)"),
        ({"crop": (4, 4, 3)}, r"Expected crop .* Received \(4, 4, 3\)"),
        ({"crop": 4.0}, r"Expected crop .* Received 4.0"),
        ({"crop_step": 0}, r"Expected crop_step to be an integer of at least 1. Received 0"),
        ({"crop": "4"}, r"Expected crop .* Received '4'"),
        ({"scale": 1.0}, r"Expected scale to be two finite numbers .* Received 1.0"),
        ({"scale": (1.0, 0.5)}, r"Expected scale .* Received \(1.0, 0.5\)"),
        ({"scale": (-1.0, 0.5)}, r"Expected scale .* Received \(-1.0, 0.5\)"),
        ({"scale": (0.0, np.inf)}, r"Expected scale .* Received \(0.0, inf\)"),
        ({"scale": (0.0, np.nan)}, r"Expected scale .* Received \(0.0, nan\)"),
        ({"whole": ["PGD"]}, r"Expected whole among \['FGSM', 'C&W'\]. Received \['PGD'\]"),
        ({"whole": "C&W"}, "Expected whole to be a list of different names. Received 'C&W'"),
        ({"clean_share": 1.5}, "Expected clean_share to be a number from 0 to 1. Received 1.5"),
        ({"clean_share": True}, "Expected clean_share .* Received True"),
        ({"clean_share": "0"}, "Expected clean_share .* Received '0'"),
        ({"flip": 1}, "Expected flip to be True or False. Received 1"),
        ({"shuffle": None}, "Expected shuffle to be True or False"),
        ({"labels": "yes"}, "Expected labels to be True or False"),
        ({"repeat": 2}, "Expected repeat to be True or False"),
        ({"drop_remainder": 0}, "Expected drop_remainder to be True or False"),
        ({"seed": -1}, "Expected seed to be an integer of at least 0. Received -1"),
        ({"seed": 0.5}, "Expected seed to be an integer of at least 0. Received 0.5"),
        ({"first_epoch": -1}, "Expected first_epoch to be an integer of at least 0"),
        ({"shuffle_buffer": 0}, "Expected shuffle_buffer to be an integer of at least 1"),
        ({"attacks": ["PGD"]}, r"Expected attacks among \['FGSM', 'C&W'\]. Received \['PGD'\]"),
        ({"attacks": "FGSM"}, "Expected attacks to be a list of different names. Received 'FGSM'"),
        ({"attacks": []}, "Expected attacks to be a list of different names"),
        ({"attacks": ["FGSM", "FGSM"]}, "Expected attacks to be a list of different names"),
        ({"batch_size": 13, "drop_remainder": True}, "Expected at least one batch of 13. Received 12 pairs"),
    ],
)
def test_dataset_errors(made, arguments, message):
    with pytest.raises(ValueError, match=message):
        made[0].dataset(**{"batch_size": 2, **arguments})


def test_arrays_errors(made):
    with pytest.raises(ValueError, match=r"Expected limit to be an integer of at least 1. Received 0"):
        made[0].arrays(0)
    with pytest.raises(ValueError, match="Expected attacks among"):
        made[0].arrays(attacks=["PGD"])
