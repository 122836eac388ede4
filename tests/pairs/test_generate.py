from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import (
    AutoAttack,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import TensorFlowV2Classifier
from PIL import Image

from art_versatile.attacks import compile_attack, compile_classifier
from art_versatile.attacks.compiled import MomentumIterativeMethodNumpy
from art_versatile.pairs import PairStore, attack_in_memory, attacking, generate_pairs
from art_versatile.pairs import _units as units_module

SIZE = 16
CLASSES = 4
generate_module = sys.modules["art_versatile.pairs.generate"]  # in the package its name is the function's


def make_target():
    """The factory, as a function without a module of its own: workers get it by value, with its imports."""

    def target(eps=0.1, clip_values=(0.0, 1.0), **changes):
        """A small classifier with fixed weights, and two attacks."""
        import keras
        import numpy as np
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
        from art.estimators.classification import TensorFlowV2Classifier

        model = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Flatten(),
                keras.layers.Dense(4),
            ]
        )
        rng = np.random.default_rng(7)
        model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
        classifier = TensorFlowV2Classifier(
            model,
            nb_classes=4,
            input_shape=(16, 16, 3),
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
            clip_values=clip_values,
            **changes,
        )
        attacks = {
            "FGSM": FastGradientMethod(classifier, eps=eps),
            "PGD 3": ProjectedGradientDescent(classifier, eps=eps, eps_step=0.05, max_iter=3, num_random_init=1),
        }
        return classifier, attacks

    return target


target = make_target()


@pytest.fixture(scope="module")
def made():
    return target()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((14, SIZE, SIZE, 3), np.float32)


def predict(classifier, x):
    return np.argmax(classifier.predict(x), axis=1)


def generate(images, made, path, **changes):
    arguments = {"shard_size": 4, "batch_size": 8, "verbose": False, **changes}
    return generate_pairs(images, *made, str(path), **arguments)


def content(path):
    """Every file of a store."""
    return {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, images, made):
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("reference") / "store"
    generate(images, made, path)
    return path


def assert_same_pairs(got, want):
    for name in ("adversarial", "clean", "labels", "indices", "images"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    assert (got.attacks, got.clip_values) == (want.attacks, want.clip_values)


# What is made


@pytest.mark.parametrize("split", ["one_per_image", "every", 2])
@pytest.mark.parametrize("given", [True, False])
def test_in_memory_and_on_disk_are_the_same_pairs(tmp_path, images, made, split, given):
    """To the bit: labels, deal, seeds, random starts."""
    labels = np.arange(14) % CLASSES if given else None
    options = {"labels": labels, "split": split, "seed": 3, "shard_size": 4, "batch_size": 8}
    store = generate(images, made, tmp_path, dtype="float32", **options)
    assert_same_pairs(attack_in_memory(images, *made, verbose=False, **options), store.arrays())


def test_a_classifier_with_channels_first(tmp_path, images):
    """Its pairs are those of the same classifier with channels last."""
    import keras

    classifier, attacks = target()
    image = keras.Input((3, SIZE, SIZE))
    first = TensorFlowV2Classifier(
        keras.Model(image, classifier.model(keras.ops.transpose(image, (0, 2, 3, 1)))),
        CLASSES,
        (3, SIZE, SIZE),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
        channels_first=True,
    )
    fgsm = FastGradientMethod(first, eps=0.1)
    want = attack_in_memory(images, classifier, {"FGSM": attacks["FGSM"]}, verbose=False)
    got = attack_in_memory(images, first, {"FGSM": fgsm}, verbose=False)
    np.testing.assert_allclose(got.adversarial, want.adversarial, atol=1e-6)
    store = generate(images, (first, {"FGSM": fgsm}), tmp_path, dtype="float32", shard_size=64, batch_size=32)
    assert_same_pairs(store.arrays(), got)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "half"}, "Expected split to be one of"),
        ({"split": 3}, "Expected split of at most 2, the number of attacks. Received 3"),
        ({"seed": -1}, "Expected seed"),
        ({"shard_size": 0}, "Expected shard_size"),
        ({"batch_size": 0}, "Expected batch_size"),
        ({"verbose": 1}, "Expected verbose"),
        ({"labels": [0]}, "Expected labels"),
    ],
)
def test_argument_errors_in_memory(images, made, arguments, message):
    with pytest.raises(ValueError, match=message):
        attack_in_memory(images, *made, **arguments)


def test_pairs_are_what_the_attack_gives(tmp_path, images, made):
    classifier, attacks = made
    store = generate(images, made, tmp_path, dtype="float32", split="every", shard_size=5)
    got = store.arrays()
    labels = predict(classifier, images)
    np.testing.assert_array_equal(got.clean, images[got.images])
    np.testing.assert_array_equal(got.labels, labels[got.images])
    fgsm = got.indices == 0
    assert sorted(got.images[fgsm]) == sorted(got.images[~fgsm]) == list(range(14))
    # FGSM draws nothing: the same in one call, with the same labels.
    expected = attacks["FGSM"].generate(images, np.eye(CLASSES, dtype=np.float32)[labels])
    np.testing.assert_allclose(got.adversarial[fgsm], expected[got.images[fgsm]], atol=1e-6)
    change = np.abs(got.adversarial - got.clean)
    assert change.max() <= 0.1 + 1e-6
    assert change[~fgsm].max() > 0.09
    fooled = predict(classifier, got.adversarial) != got.labels
    assert store.success_rates == {"FGSM": fooled[fgsm].mean(), "PGD 3": fooled[~fgsm].mean()}
    assert 0 < store.success_rates["FGSM"] <= store.success_rates["PGD 3"]
    assert [shard["count"] for shard in store.manifest["shards"]] == [5, 5, 4] * 2
    assert store.verify() == []


def test_float16_is_measured_and_attacked_as_stored(tmp_path, images, made):
    classifier, attacks = made
    store = generate(images, made, tmp_path)
    got = store.arrays()
    rounded = images.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got.clean, rounded[got.images])
    fgsm = got.indices == 0
    one_hot = np.eye(CLASSES, dtype=np.float32)[got.labels[fgsm]]
    expected = attacks["FGSM"].generate(got.clean[fgsm], one_hot).astype(np.float16)
    np.testing.assert_allclose(got.adversarial[fgsm], expected, atol=5e-4)
    assert np.mean(got.adversarial[fgsm] == expected) > 0.999
    fooled = predict(classifier, got.adversarial) != got.labels
    assert store.success_rates["FGSM"] == fooled[fgsm].mean()


@pytest.mark.parametrize("clip_values", [(0.1, 0.9), (-0.3, 1.7), (-1.0, 1.0)])
def test_float16_stays_inside_clip_values(tmp_path, clip_values):
    low, high = clip_values
    images = np.full((4, SIZE, SIZE, 3), low, np.float32)
    images[2:] = high
    store = generate(images, target(clip_values=clip_values), tmp_path)
    got = store.arrays()
    assert min(got.clean.min(), got.adversarial.min()) >= np.float32(low)
    assert max(got.clean.max(), got.adversarial.max()) <= np.float32(high)
    np.testing.assert_allclose(np.unique(got.clean), clip_values, atol=1e-3)
    np.testing.assert_allclose(store.clip_values, clip_values, rtol=1e-7)


def test_manifest(reference, images, made):
    """What was attacked by what, and checksums by which it can be told again."""
    manifest = json.loads((reference / "manifest.json").read_text())
    assert manifest["images"][3]["sha256"] == hashlib.sha256(images[3].tobytes()).hexdigest()
    weights = b"".join(weight.tobytes() for weight in made[0].model.get_weights())
    assert manifest["parameters"]["classifier"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    fgsm, pgd = manifest["parameters"]["attacks"]
    assert (fgsm["class"], fgsm["parameters"]["eps"], pgd["parameters"]["max_iter"]) == ("FastGradientMethod", 0.1, 3)
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert sorted(content(reference)) == ["manifest.json", *(shard["file"] for shard in manifest["shards"])]


def test_given_labels_and_misclassified_images(tmp_path, images, made):
    classifier, attacks = made
    made = classifier, {"FGSM": attacks["FGSM"]}
    predicted = predict(classifier, images.astype(np.float16).astype(np.float32))
    labels = predicted.copy()
    labels[[1, 5, 6]] = (labels[[1, 5, 6]] + 1) % CLASSES
    kept = generate(images, made, tmp_path / "kept", labels=labels)
    got = kept.arrays()
    np.testing.assert_array_equal(got.labels, labels[got.images])
    fooled = predict(classifier, got.adversarial) != got.labels
    right = ~np.isin(got.images, [1, 5, 6])
    total = kept.manifest["attacks"]["FGSM"]
    assert (total["count"], total["skipped"], total["misclassified"]) == (14, 0, 3)
    # Images that were wrong before the attack are no success of it.
    assert total["success_rate"] == fooled[right].mean()
    assert kept.manifest["images"][5]["label"] == labels[5]
    dropped = generate(images, made, tmp_path / "dropped", labels=labels, drop_misclassified=True)
    assert (len(dropped), dropped.skipped, dropped.manifest["attacks"]["FGSM"]["skipped"]) == (11, 3, 3)
    assert sorted(dropped.arrays().images) == [0, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13]
    one_hot = generate(images, made, tmp_path / "hot", labels=np.eye(CLASSES)[labels])
    assert content(one_hot.path) == content(kept.path)
    nothing = generate(images, made, tmp_path / "no", labels=(predicted + 1) % CLASSES, drop_misclassified=True)
    assert (len(nothing), nothing.skipped) == (0, 14)
    assert nothing.success_rates == {"FGSM": None}
    assert nothing.verify() == []


def write_tree(root, sizes, sides=(20, 16)):
    """One folder of noise for each class."""
    rng = np.random.default_rng(3)
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            pixels = rng.integers(0, 256, (*sides, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")


def test_per_class_from_a_tree(tmp_path, made):
    """As in the paper: so many of each class, split evenly over the attacks."""
    write_tree(tmp_path / "tree", {"bee": 7, "ant": 6, "cat": 9})
    store = generate(tmp_path / "tree", made, tmp_path / "store", per_class=6, labels="folders", dtype="float32")
    got = store.arrays()
    names = [image["name"] for image in store.manifest["images"]]
    assert len(names) == len(set(names)) == len(store) == 18
    assert sorted({name.split("/")[0] for name in names}) == ["ant", "bee", "cat"]
    table = np.zeros((3, 2), int)
    for label, attack, image in zip(got.labels, got.indices, got.images, strict=True):
        assert names[image].startswith(("ant", "bee", "cat")[label])
        table[label, attack] += 1
    np.testing.assert_array_equal(table, 3)
    # Pixels: the centre of the file, in clip_values.
    with Image.open(tmp_path / "tree" / names[got.images[0]]) as file:
        np.testing.assert_allclose(got.clean[0], np.asarray(file, np.float32)[2:18] / 255, atol=1e-6)
    other = generate(tmp_path / "tree", made, tmp_path / "other", per_class=6, labels="folders", seed=1)
    assert [image["name"] for image in other.manifest["images"]] != names
    mapped = generate(
        [str(file) for file in sorted((tmp_path / "tree").rglob("*.png"))],
        made,
        tmp_path / "mapped",
        per_class=6,
        labels={"ant": 0, "bee": 1, "cat": 2},
        dtype="float32",
    )
    assert content(mapped.path) == content(store.path)


def test_flips_and_parts_come_before_the_attack(tmp_path, made):
    """Each attack gets its own view of an image, however the work is cut; what is stored is an attack on the view."""
    classifier, attacks = made
    write_tree(tmp_path, {"flat": 9}, sides=(40, 48))
    options = {"flip": True, "zoom": 1.5, "split": "every", "dtype": "float32"}
    store = generate(tmp_path / "flat", made, tmp_path / "store", **options)
    got = store.arrays()
    fgsm = got.indices == 0
    one_hot = np.eye(CLASSES, dtype=np.float32)[predict(classifier, got.clean[fgsm])]
    expected = attacks["FGSM"].generate(got.clean[fgsm], one_hot)
    np.testing.assert_allclose(got.adversarial[fgsm], expected, atol=1e-6)
    plain = generate(tmp_path / "flat", made, tmp_path / "plain", split="every", dtype="float32").arrays()
    for image in range(9):
        one, other = got.clean[got.images == image]
        whole = plain.clean[plain.images == image][0]
        assert min(np.abs(a - b).max() for a, b in ((one, other), (one, whole), (other, whole))) > 0.1
    again = generate(tmp_path / "flat", made, tmp_path / "again", **options, shard_size=7).arrays()
    np.testing.assert_array_equal(again.clean[again.indices == 0], got.clean[fgsm])
    assert {key: store.manifest["parameters"][key] for key in ("flip", "zoom")} == {"flip": True, "zoom": 1.5}


def test_flips_of_an_array(tmp_path, images):
    """Without a zoom an array's images are themselves or their mirror images, in any range of the pixels."""
    made = target(clip_values=(-1.0, 1.0))
    images = images * 2 - 1
    got = generate(images, made, tmp_path, flip=True, split="every", dtype="float32")
    got = got.arrays()
    assert len(got.clean) == 28
    mirrored = 0
    for pixels, image in zip(got.clean, got.images, strict=True):
        same, flipped = (np.abs(pixels - other).max() for other in (images[image], images[image][:, ::-1]))
        assert min(same, flipped) < 1e-6 < max(same, flipped)
        mirrored += flipped < same
    assert 5 < mirrored < 23


def test_flat_folder_and_labels_by_file(tmp_path):
    write_tree(tmp_path, {"flat": 4})
    made = target(clip_values=(-1.0, 1.0))
    labels = {f"{number:02d}.png": 3 - number for number in range(4)}
    store = generate(tmp_path / "flat", made, tmp_path / "store", labels=labels, image_size=16, dtype="float32")
    got = store.arrays()
    np.testing.assert_array_equal(got.labels, 3 - got.images)
    with Image.open(tmp_path / "flat" / f"{got.images[0]:02d}.png") as file:
        np.testing.assert_allclose(got.clean[0], np.asarray(file, np.float32)[2:18] / 127.5 - 1, atol=1e-6)
    single = generate(tmp_path / "flat/00.png", made, tmp_path / "one", split="every")
    assert [image["name"] for image in single.manifest["images"]] == ["00.png"]


def test_classifier_name_and_gzip(tmp_path, images, made, reference):
    store = generate(images, made, tmp_path, classifier_name="tiny", compression="GZIP")
    assert store.manifest["parameters"]["classifier"]["name"] == "tiny"
    assert_same_pairs(store.arrays(), PairStore(reference).arrays())
    assert all(data[:2] == b"\x1f\x8b" for file, data in content(tmp_path).items() if file.endswith("record"))


def test_any_gfile_path(images, made, reference):
    store = generate(images, made, "ram://generated")
    assert store.verify() == []
    with tf.io.gfile.GFile("ram://generated/manifest.json", "rb") as file:
        assert file.read() == (reference / "manifest.json").read_bytes()
    damage("ram://generated/shards/00-FGSM-00001.tfrecord")
    assert store.verify() == ["shards/00-FGSM-00001.tfrecord"]
    assert generate(images, made, "ram://generated").verify() == []


# What stays as it was


def test_callers_objects_and_global_generators_are_left_alone(tmp_path, images):
    classifier, attacks = target()
    attacks["auto"] = AutoAttack(
        classifier,
        eps=0.1,
        attacks=[
            SquareAttack(classifier, eps=0.1, max_iter=2, nb_restarts=1),
            ProjectedGradientDescent(classifier, eps=0.1, max_iter=2, random_eps=True, num_random_init=1),
        ],
    )
    parts = [part for attack in attacks.values() for part in attacking._parts(attack)]
    assert len(parts) == 1 + 2 + 4  # FGSM; PGD and its implementation; AutoAttack, Square, PGD and its implementation
    before = [dict(vars(part)) for part in parts]
    weights = [weight.copy() for weight in classifier.model.get_weights()]
    pixels, labels = images.copy(), np.arange(14) % CLASSES
    given = labels.copy()

    def draw():
        return np.random.random(), random.random(), float(tf.random.uniform([]))  # noqa: NPY002, S311

    def seed():
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        tf.random.set_seed(5)

    seed()
    expected = [draw(), draw()]
    seed()
    assert draw() == expected[0]
    generate(images, (classifier, attacks), tmp_path, labels=labels)
    assert draw() == expected[1]
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, given)
    for part, state in zip(parts, before, strict=True):
        assert vars(part).keys() == state.keys()
        assert all(vars(part)[key] is value for key, value in state.items())
    for weight, old in zip(classifier.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_read_only_array(tmp_path, images, made, reference):
    frozen = images.copy()
    frozen.flags.writeable = False
    generate(frozen, made, tmp_path)
    assert content(tmp_path) == content(reference)


def test_result_depends_on_seed_only(tmp_path, images, made, reference):
    np.random.seed(99)  # noqa: NPY002
    generate(images, target(), tmp_path / "again")
    assert content(tmp_path / "again") == content(reference)
    other = generate(images, made, tmp_path / "other", seed=1, split="every", shard_size=14).arrays()
    one = generate(images, made, tmp_path / "one", seed=0, split="every", shard_size=14).arrays()
    pgd = [
        {image: pair for image, attack, pair in zip(got.images, got.indices, got.adversarial, strict=True) if attack}
        for got in (one, other)
    ]
    assert not np.array_equal(pgd[0][0], pgd[1][0])


def test_units_draw_different_numbers(tmp_path, made):
    """Equal images in two shards get different random starts."""
    images = np.full((8, SIZE, SIZE, 3), 0.5, np.float32)
    classifier, attacks = made
    got = generate(images, (classifier, {"PGD": attacks["PGD 3"]}), tmp_path, split="every").arrays()
    assert len(np.unique(got.adversarial.reshape(8, -1), axis=0)) == 8


# Resuming


def damage(path, position=-20):
    """Flip one bit."""
    with tf.io.gfile.GFile(path, "rb") as file:
        data = bytearray(file.read())
    data[position] ^= 1
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(bytes(data))


def test_finished_store_is_not_made_again(tmp_path, images, made, reference, monkeypatch):
    generate(images, made, tmp_path)
    times = {file: os.stat(tmp_path / file).st_mtime_ns for file in content(tmp_path)}
    monkeypatch.setattr(attacking, "_predict", None)
    generate(images, made, tmp_path)
    assert {file: os.stat(tmp_path / file).st_mtime_ns for file in content(tmp_path)} == times


class CrashError(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture(scope="module")
def few(tmp_path_factory, images, made):
    """Two shards of one pair each, uninterrupted."""
    path = tmp_path_factory.mktemp("few") / "store"
    classifier, attacks = made
    generate(images[:2], (classifier, {"FGSM": attacks["FGSM"]}), path, shard_size=1)
    return path


@pytest.mark.parametrize("operation", range(15))
def test_stopped_at_any_file_operation(tmp_path, images, made, few, monkeypatch, operation):
    """
    The states of the file system in which a kill can leave a store.

    There are 14 operations: the manifest is written and renamed; a pair is written and its shard renamed, the shard's
    record written and renamed, twice; the manifest again; two records are removed. The run stops before the given
    one (0: at none), with half of what it writes written.
    """
    classifier, attacks = made

    def run():
        generate(images[:2], (classifier, {"FGSM": attacks["FGSM"]}), tmp_path, shard_size=1)

    steps = 0

    def step():
        nonlocal steps
        steps += 1
        if steps == operation:
            raise CrashError

    rename, writer, gfile, remove = tf.io.gfile.rename, tf.io.TFRecordWriter, tf.io.gfile.GFile, tf.io.gfile.remove

    def crashing_rename(*args, **kwargs):
        step()
        rename(*args, **kwargs)

    def crashing_remove(*args, **kwargs):
        step()
        remove(*args, **kwargs)

    class CrashingWriter(writer):
        def write(self, record):
            if steps + 1 == operation:
                super().write(record[: len(record) // 2])
                self.flush()
            step()
            super().write(record)

    class CrashingFile(gfile):
        def write(self, file_content):
            if steps + 1 == operation:
                super().write(file_content[: len(file_content) // 2])
            step()
            super().write(file_content)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", crashing_rename)
        patch.setattr(tf.io.gfile, "remove", crashing_remove)
        patch.setattr(tf.io, "TFRecordWriter", CrashingWriter)
        patch.setattr(tf.io.gfile, "GFile", CrashingFile)
        if operation:
            with pytest.raises(CrashError):
                run()
        else:
            run()
            assert steps == 14
    run()
    assert content(tmp_path) == content(few)


def test_interrupted_store_cannot_be_opened(tmp_path, images, made):
    class Failing(FastGradientMethod):
        def generate(self, x, y=None, **kwargs):
            raise CrashError

    classifier, attacks = made
    with pytest.raises(CrashError):
        generate(images, (classifier, {**attacks, "last": Failing(classifier)}), tmp_path)
    with pytest.raises(ValueError, match="Expected a finished store"):
        PairStore(tmp_path)


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_shard_is_named_and_made_again(tmp_path, images, made, reference, caplog, monkeypatch, harm, finished):
    if finished:
        generate(images, made, tmp_path)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(attacking, "_parts", crash_after(3, attacking._parts))
            with pytest.raises(CrashError):
                generate(images, made, tmp_path)
    shard = tmp_path / "shards/00-FGSM-00001.tfrecord"
    if harm == "flip":
        damage(str(shard))
    elif harm == "truncate":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        shard.unlink()
    made_again = []
    predict_classes = attacking._predict

    def spy(classifier, batch, *options):
        made_again.append(len(batch))
        return predict_classes(classifier, batch, *options)

    monkeypatch.setattr(attacking, "_predict", spy)
    with caplog.at_level(logging.WARNING, logger="art_versatile"):
        store = generate(images, made, tmp_path)
    [message] = [record.getMessage() for record in caplog.records]
    assert message == f"Shard {shard} is {'missing' if harm == 'remove' else 'corrupted'} and is made again."
    # Clean and adversarial, of the damaged shard of three; of the one that was never made, too.
    assert made_again == ([3, 3] if finished else [3, 3, 3, 3])
    assert store.verify() == []
    assert content(tmp_path) == content(reference)


def crash_after(calls, function):
    """Call a function so many times, then crash."""
    count = 0

    def crashing(*args):
        nonlocal count
        count += 1
        if count > calls:
            raise CrashError
        return function(*args)

    return crashing


SCRIPT = """
import os, signal, sys
sys.path[:0] = {paths}
import numpy as np
import test_generate
from art.attacks.evasion import ProjectedGradientDescent
from art_versatile.pairs import generate_pairs

kill_at = 0

class Deadly(ProjectedGradientDescent):
    calls = 0

    def generate(self, x, y=None, **kwargs):
        Deadly.calls += 1
        if Deadly.calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(x, y, **kwargs)

images = np.random.default_rng(0).random((14, 16, 16, 3), np.float32)
# A process for each run; forked, to import TensorFlow but once.
for path, kill_at in (("whole", 0), ("killed", 1), ("killed", 3), ("killed", 0)):
    child = os.fork()
    if not child:
        classifier, attacks = test_generate.target()
        attacks["deadly"] = Deadly(classifier, eps=0.1, eps_step=0.05, max_iter=3, num_random_init=1)
        generate_pairs(images, classifier, attacks, path, shard_size=1, batch_size=8)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(os.listdir(path + "/shards")), flush=True)
"""


@pytest.mark.slow
def test_kill_9_and_resume(tmp_path):
    """Killed in the middle of a unit, twice, and gone on with."""
    script = SCRIPT.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    # 14 shards; killed in the 11th unit and, two units later, in the 13th; a record beside each shard until the end.
    assert done.stdout.split() == ["0", "14", "-9", "20", "-9", "24", "0", "14"], done.stderr
    assert "100%" in done.stderr, "a progress bar"
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_temporary_files_of_a_killed_run_are_removed(tmp_path, images, made, reference):
    generate(images, made, tmp_path)
    (tmp_path / f"manifest.json.{32 * '0'}.tmp").write_bytes(b"{")
    (tmp_path / f"shards/00-FGSM-00000.tfrecord.{32 * 'a'}.tmp").write_bytes(b"half")
    (tmp_path / f"shards/00-FGSM-00000.tfrecord.json.{32 * 'f'}.tmp").write_bytes(b"{")
    generate(images, made, tmp_path)
    assert content(tmp_path) == content(reference)


# In parallel


@pytest.mark.parametrize("jobs", [None, 1])
def test_factory_in_this_process(tmp_path, images, reference, jobs):
    calls = []

    def factory():
        calls.append(1)
        return target()

    generate(images, (None, factory), tmp_path, n_jobs=jobs)
    assert content(tmp_path) == content(reference)
    assert len(calls) == 1
    assert not units_module._TARGETS


def test_a_worker_shares_a_gpu_unless_the_user_has_said_otherwise(monkeypatch):
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    assert units_module.in_worker(os.getenv, "TF_FORCE_GPU_ALLOW_GROWTH") == "false"
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH")
    assert units_module.in_worker(os.getenv, "TF_FORCE_GPU_ALLOW_GROWTH") == "true"


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tmp_path, images, reference, capsys):
    made = target  # by value, as `target` is: workers cannot import this file

    def target_where_several_share_a_gpu():
        import os

        assert os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH") == "true"
        return made()

    generate(images, (None, target_where_several_share_a_gpu), tmp_path, n_jobs=2, verbose=True)
    assert "TF_FORCE_GPU_ALLOW_GROWTH" not in os.environ, "this process's GPU memory is the user's matter"
    assert content(tmp_path) == content(reference)
    assert "14/14" in capsys.readouterr().err


@pytest.mark.slow
def test_dask_backend(tmp_path, images, reference):
    pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        with pytest.raises(ValueError, match="Received a mapping and 2 jobs"):
            generate(images, target(), tmp_path)
        generate(images, (None, target), tmp_path)
        workers = client.run(lambda: len(sys.modules["art_versatile.pairs._units"]._TARGETS))
    assert list(workers.values()) == [1, 1], "each of the two workers made the classifier once"
    assert content(tmp_path) == content(reference)


@pytest.mark.slow
def test_ray_backend(tmp_path, images, reference, capsys):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False)
    try:
        register_ray()
        with joblib.parallel_config(backend="ray", n_jobs=2):
            generate(images, (None, target), tmp_path, verbose=True)
    finally:
        ray.shutdown()
    assert content(tmp_path) == content(reference)
    assert "14/14" in capsys.readouterr().err


def test_backend_without_generators(tmp_path, images, reference, capsys):
    """Some backends answer at the end only. The bar moves all the same."""
    with joblib.parallel_config(backend=OneAnswer()):
        generate(images, (None, target), tmp_path, verbose=True)
    assert content(tmp_path) == content(reference)
    assert "14/14" in capsys.readouterr().err


class OneAnswer(joblib.parallel.ThreadingBackend):
    """Threads that share this process, and its one classifier."""

    supports_return_generator = False
    default_n_jobs = 2


@pytest.mark.slow
@pytest.mark.parametrize("package", ["dask", "ray"])
def test_example(tmp_path, package, capsys):
    pytest.importorskip("ray" if package == "ray" else "distributed")
    example = (
        Path(__file__).parents[2] / "examples" / {"dask": "pairs_with_dask.py", "ray": "pairs_with_ray.py"}[package]
    )
    runpy.run_path(str(example))["main"](out=tmp_path / "store", images=4, size=64)
    assert "pairs=4, attacks=['FGSM', 'PGD']" in capsys.readouterr().out
    assert PairStore(tmp_path / "store").verify() == []


# One unit after another, in this process


class Watching(FastGradientMethod):
    """It looks, when it attacks, at what has been read."""

    look = staticmethod(lambda: None)

    def generate(self, x, y=None, **kwargs):
        self.look()
        return super().generate(x, y, **kwargs)


def test_the_next_images_are_read_while_these_are_attacked(tmp_path, images, made, monkeypatch):
    """Those of one unit, and no more: memory does not grow with the store."""
    read, seen, second = [], [], threading.Event()
    read_images = units_module.read_images

    def reading(*arguments):
        read.append(threading.current_thread())
        if len(read) == 2:
            second.set()
        return read_images(*arguments)

    def look():
        assert second.wait(timeout=30)
        seen.append(len(read))

    monkeypatch.setattr(generate_module, "read_images", reading)
    monkeypatch.setattr(Watching, "look", staticmethod(look))
    generate(images, (made[0], {"FGSM": Watching(made[0], eps=0.1)}), tmp_path, shard_size=2)
    assert len(read) == len(seen) == 7
    assert all(count <= unit + 2 for unit, count in enumerate(seen))
    assert threading.current_thread() not in read


def test_an_unreadable_image_is_an_error_of_its_own_unit(tmp_path, made):
    write_tree(tmp_path, {"flat": 4})
    fgsm = {"FGSM": made[1]["FGSM"]}
    whole = generate(tmp_path / "flat", (made[0], fgsm), tmp_path / "whole", shard_size=1).arrays()
    third = tmp_path / "flat" / f"{whole.images[2]:02d}.png"
    third.write_bytes(b"\x89PNG no more")
    with pytest.raises(ValueError, match=rf"Expected a readable image. Received .*{third.name}"):
        generate(tmp_path / "flat", (made[0], fgsm), tmp_path / "store", shard_size=1)
    assert sorted(os.listdir(tmp_path / "store/shards")) == sorted(
        f"00-FGSM-0000{unit}.tfrecord{end}" for unit in (0, 1) for end in ("", ".json")
    )


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_one_local_job_needs_no_joblib(tmp_path, images, reference, monkeypatch, backend):
    monkeypatch.setattr(joblib, "Parallel", None)
    with joblib.parallel_config(backend=backend, n_jobs=1):
        generate(images, (None, target), tmp_path)
    assert content(tmp_path) == content(reference)


def test_a_compiled_attack_makes_the_store_that_arts_makes(tmp_path, images, made):
    """The bytes and the description of the attacks are the same: either can go on where the other stopped."""
    classifier = compile_classifier(made[0])

    def attacks():
        budget = {"eps": 0.1, "eps_step": 0.03, "max_iter": 3, "verbose": False}
        return {
            "PGD": ProjectedGradientDescent(classifier, num_random_init=1, **budget),
            "MI-FGSM": MomentumIterativeMethodNumpy(classifier, decay=1.0, **budget),
        }

    generate(images, (classifier, attacks()), tmp_path / "art")
    generate(images, (classifier, {name: compile_attack(a) for name, a in attacks().items()}), tmp_path / "compiled")
    assert content(tmp_path / "compiled") == content(tmp_path / "art")


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "half"}, ValueError, r"Expected split to be one of \['one_per_image', 'every'\]. Received 'half'"),
        ({"split": 0}, ValueError, r"Expected split to be an integer of at least 1. Received 0"),
        ({"split": 3}, ValueError, r"Expected split of at most 2, the number of attacks. Received 3"),
        ({"dtype": "uint8"}, ValueError, r"Expected dtype to be one of \['float16', 'float32'\]. Received 'uint8'"),
        ({"compression": "ZLIB"}, ValueError, r"Expected compression to be one of \['', 'GZIP'\]. Received 'ZLIB'"),
        ({"batch_size": 0}, ValueError, r"Expected batch_size to be an integer of at least 1. Received 0"),
        ({"shard_size": 0}, ValueError, r"Expected shard_size to be an integer of at least 1. Received 0"),
        ({"per_class": 1.5}, ValueError, r"Expected per_class to be an integer of at least 1. Received 1.5"),
        ({"flip": 1}, ValueError, r"Expected flip to be True or False. Received 1"),
        ({"zoom": 0.9}, ValueError, r"Expected zoom to be a number from 1 to 100. Received 0.9"),
        ({"zoom": "2"}, ValueError, r"Expected zoom to be a number from 1 to 100. Received '2'"),
        ({"seed": -1}, ValueError, r"Expected seed to be an integer of at least 0. Received -1"),
        ({"image_size": 0}, ValueError, r"Expected image_size to be an integer of at least 1. Received 0"),
        ({"drop_misclassified": 1}, ValueError, r"Expected drop_misclassified to be True or False. Received 1"),
        ({"verbose": None}, ValueError, r"Expected verbose to be True or False. Received None"),
        ({"resume": "yes"}, ValueError, r"Expected resume to be True or False. Received 'yes'"),
        ({"drop_misclassified": True}, ValueError, r"Expected labels with drop_misclassified=True. Received None"),
        ({"n_jobs": 0}, ValueError, r"Expected n_jobs to be None or an integer other than 0. Received 0"),
        ({"n_jobs": 2.0}, ValueError, r"Expected n_jobs to be None or an integer other than 0. Received 2.0"),
        ({"n_jobs": 2}, ValueError, r"Expected attacks to be a callable .* Received a mapping and 2 jobs"),
        ({"classifier_name": 3}, ValueError, r"Expected classifier_name to be None or a string. Received 3"),
        ({"image_size": 20}, ValueError, r"Expected an array of images 20 x 20: .* Received 16 x 16"),
        ({"labels": "names"}, ValueError, r"Expected labels to be None, an array, .* Received 'names'"),
        ({"labels": "folders"}, ValueError, r"Expected one folder for each class, with labels='folders'"),
        (
            {"labels": {"array[0]": 1}},
            ValueError,
            r"Expected a label for .* Received none for 13: \['array\[1\]'",
        ),
        (
            {"labels": [0, 1]},
            ValueError,
            r"Expected labels to be integers \(14,\) or one-hot \(14, 4\)",
        ),
        ({"labels": np.zeros(14)}, ValueError, r"Expected labels to be integers .* Received float64 of shape \(14,\)"),
        ({"labels": np.arange(14)}, ValueError, r"Expected labels from 0 to 3. Received 0 to 13"),
        ({"labels": np.arange(14) % 4 - 1}, ValueError, r"Expected labels from 0 to 3. Received -1 to 2"),
        ({"per_class": 2}, ValueError, r"Expected one folder for each class, or labels, with per_class"),
        (
            {"per_class": 4, "labels": np.arange(14) % 4},
            ValueError,
            r"Expected at least 4 images of each class. Received 3 of '2'",
        ),
    ],
)
def test_argument_errors(tmp_path, images, made, arguments, error, message):
    with pytest.raises(error, match=message):
        generate(images, made, tmp_path / "store", **arguments)
    assert not (tmp_path / "store").exists(), "nothing is begun"


def test_image_errors(tmp_path, images, made):
    with pytest.raises(TypeError, match=r"Expected images to be an array \(N, H, W, 3\), .* Received int"):
        generate(3, made, tmp_path)
    with pytest.raises(TypeError, match=r"Expected images to be an array .* Received list"):
        generate([], made, tmp_path)
    with pytest.raises(ValueError, match=r"Expected images to be a batch of images \(N, H, W, 3\)"):
        generate(images[0], made, tmp_path)
    with pytest.raises(ValueError, match=r"Expected images inside clip_values \(0.0, 1.0\). Received values from 0"):
        generate(images * 255, made, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Expected image files"):
        generate(tmp_path, made, tmp_path / "store")
    with pytest.raises(ValueError, match=r"Expected at least one image for each of 2 attacks. Received 1"):
        generate(images[:1], made, tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    classifier = TensorFlowV2Classifier(made[0].model, 4, (None, None, 3), clip_values=(0, 1))
    with pytest.raises(ValueError, match=r"Expected image_size, as .* \(None, None, 3\) is not square. Received None"):
        generate(tmp_path, (classifier, made[1]), tmp_path / "store")


def test_target_errors(tmp_path, images, made):
    classifier, attacks = made
    with pytest.raises(ValueError, match=r"Expected an ART classifier. Received None, which goes with a callable"):
        generate(images, (None, attacks), tmp_path)
    with pytest.raises(TypeError, match=r"Expected attacks to be a mapping from name to ART attack, .* Received list"):
        generate(images, (classifier, [attacks["FGSM"]]), tmp_path)
    with pytest.raises(ValueError, match=r"Expected classifier to be None where attacks is a callable"):
        generate(images, (classifier, target), tmp_path)
    with pytest.raises(TypeError, match=r"Expected attacks\(\) to return \(classifier, .*\). Received 3"):
        generate(images, (None, lambda: 3), tmp_path)
    with pytest.raises(TypeError, match=r"Expected classifier to be an ART classifier. Received str"):
        generate(images, ("inception", attacks), tmp_path)
    with pytest.raises(ValueError, match=r"Expected at least one attack. Received none"):
        generate(images, (classifier, {}), tmp_path)
    with pytest.raises(TypeError, match=r"Expected the names of the attacks to be strings. Received 1"):
        generate(images, (classifier, {1: attacks["FGSM"]}), tmp_path)
    with pytest.raises(TypeError, match=r"Expected the attack 'FGSM' to be an ART attack. Received str"):
        generate(images, (classifier, {"FGSM": "fgsm"}), tmp_path)
    with pytest.raises(ValueError, match=r"Expected untargeted attacks, .* Received 'FGSM' with targeted=True"):
        generate(images, (classifier, {"FGSM": FastGradientMethod(classifier, targeted=True)}), tmp_path)
    model = classifier.model
    with pytest.raises(ValueError, match=r"Expected an ART classifier with clip_values"):
        generate(images, (TensorFlowV2Classifier(model, 4, (16, 16, 3)), attacks), tmp_path)


def test_attack_that_returns_no_images(tmp_path, images, made):
    class Odd(FastGradientMethod):
        answer = np.full((7, 16, 16, 3), np.nan)

        def generate(self, x, y=None, **kwargs):
            return self.answer

    classifier, attacks = made
    odd = {"FGSM": attacks["FGSM"], "odd": Odd(classifier)}
    with pytest.raises(ValueError, match=r"Expected the attack 'odd' to return finite images .* with NaN or infinity"):
        generate(images, (classifier, odd), tmp_path / "nan", shard_size=8)
    Odd.answer = np.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match=r"Expected the attack 'odd' .* \(7, 16, 16, 3\). Received \(1, 16, 16, 3\)\."):
        generate(images, (classifier, odd), tmp_path / "shape", shard_size=8)


def test_place_errors(tmp_path, images, made, reference):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.tmp").write_text("mine")
    with pytest.raises(FileExistsError, match=r"Expected .* to be new, empty, or a store .* Received .*notes.tmp"):
        generate(images, made, tmp_path / "other")
    assert (tmp_path / "other/notes.tmp").read_text() == "mine"
    with pytest.raises(FileExistsError, match=r"Expected a new path with resume=False. Received a store of pairs"):
        generate(images, made, reference, resume=False)
    store = generate(images, made, tmp_path / "new", resume=False)
    assert content(store.path) == content(reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"parameters.seed 1 \(stored: 0\)"),
        ({"dtype": "float32"}, r"parameters.dtype 'float32' \(stored: 'float16'\)\."),
        ({"shard_size": 5}, r"parameters.shard_size 5 \(stored: 4\)"),
        ({"batch_size": 9}, r"parameters.batch_size 9 \(stored: 8\)"),
        ({"split": "every"}, r"parameters.split 'every' \(stored: 'one_per_image'\)"),
        ({"labels": np.zeros(14, int)}, r"parameters.labels 'given' .*; images\[0\].label 0 .*; and 10 more\."),
        ({"zoom": 1.2}, r"parameters.zoom 1.2 \(stored: 1.0\)"),
        ({"compression": "GZIP"}, r"parameters.compression 'GZIP' \(stored: ''\)"),
        ({"classifier_name": "other"}, r"parameters.classifier.name 'other' \(stored: 'Sequential'\)"),
    ],
)
def test_other_arguments_on_a_store(images, made, reference, changes, message):
    before = content(reference)
    with pytest.raises(ValueError, match=r"Expected the arguments with which the store at .* Received " + message):
        generate(images, made, reference, **changes)
    assert content(reference) == before


def test_other_objects_on_a_store(images, made, reference):
    classifier, attacks = made
    with pytest.raises(ValueError, match=r"parameters.attacks\[0\].parameters.eps 0.2 \(stored: 0.1\)"):
        generate(images, target(eps=0.2), reference)
    with pytest.raises(ValueError, match=r"parameters.attacks with 1 entries \(stored: 2\)"):
        generate(images, (classifier, {"FGSM": attacks["FGSM"]}), reference)
    with pytest.raises(ValueError, match=r"images\[0\].sha256 '[0-9a-f]{64}' \(stored: '[0-9a-f]{64}'\)"):
        generate(np.roll(images, 1, axis=0), made, reference)
    with pytest.raises(ValueError, match=r"images with 13 entries \(stored: 14\)"):
        generate(images[:13], made, reference)
    other, other_attacks = target()
    other.model.set_weights([weight + 1 for weight in other.model.get_weights()])
    with pytest.raises(ValueError, match=r"parameters.classifier.weights_sha256"):
        generate(images, (other, other_attacks), reference)
    quiet = {**attacks, "FGSM": FastGradientMethod(classifier, eps=0.1, summary_writer=False)}
    generate(images, (classifier, quiet), reference)


def test_other_versions(tmp_path, images, made, monkeypatch):
    """They are no matter in a finished store; an unfinished one would be of two versions."""
    generate(images, made, tmp_path)
    monkeypatch.setattr(units_module, "__version__", "99.0")
    assert generate(images, made, tmp_path).manifest["versions"]["art-versatile"] != "99.0"
    damage(str(tmp_path / "shards/00-FGSM-00001.tfrecord"))
    with pytest.raises(ValueError, match=r"Expected the versions .* 1 shards .*art-versatile '99.0' \(stored:"):
        generate(images, made, tmp_path)


def test_corrupted_record_of_a_shard(tmp_path, images, made, reference, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(attacking, "_parts", crash_after(3, attacking._parts))
        with pytest.raises(CrashError):
            generate(images, made, tmp_path)
    (tmp_path / "shards/00-FGSM-00001.tfrecord.json").write_bytes(b"{")
    with caplog.at_level(logging.WARNING, logger="art_versatile"):
        generate(images, made, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"The record of shard {tmp_path}/shards/00-FGSM-00001.tfrecord is corrupted."
    ]
    assert content(tmp_path) == content(reference)
