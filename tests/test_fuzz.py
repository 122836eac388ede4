"""
What users throw at the package: a right answer or a clear error each, nothing written, memory bounded.

``ART_VERSATILE_FUZZ=10000`` tries so many cases in all instead of about 200.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from art_versatile import VersatilePurifier, weights
from art_versatile.evaluation import EvaluationRecord, load_records, save_records
from art_versatile.images import labelled_images, load_image, read_labels
from art_versatile.pairs.store import FORMAT_VERSION, MANIFEST, PairStore, encode_pair, write_json, write_shard
from art_versatile.pix2pix import CompactGenerator

CASES = int(os.environ.get("ART_VERSATILE_FUZZ", "200"))
CLEAR = (ValueError, TypeError, FileNotFoundError)


def fuzzed(share):
    """So large a share of the cases, the same at each run."""
    return settings(
        max_examples=max(1, int(CASES * share)),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Whatever came, this much more memory was never held at once; a giant of a card would take 14 GB."""
    unit = 1 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 3 * 2**30


def tried(function, *args, **kwargs):
    """What it answers, or None where it refuses in words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)
    except CLEAR as err:
        assert str(err)  # noqa: PT017
        return None


def tree(folder):
    """Every file under a folder and what it holds."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def purifier():
    generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), output_noise=0.02)
    rng = np.random.default_rng(0)
    generator.set_weights([w + rng.normal(0, 0.05, w.shape) for w in generator.get_weights()])
    return VersatilePurifier(generator, batch_size=2)


@st.composite
def arrays(draw):
    """Batches of images and what is nearly one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    usual = st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3, 3, 3, 4]))
    large = st.sampled_from([(1, 1, 3000, 3), (1, 2000, 1, 3), (1, 300, 500, 3)])
    if CASES >= 10_000 and draw(st.integers(0, 99)) == 0:
        large = st.just((1, 2000, 3000, 3))
    shape = draw(st.one_of(*[usual] * 9, *[st.lists(st.integers(0, 5), max_size=5).map(tuple)] * 5, large))
    x = np.asarray(rng.random(shape)) * draw(st.sampled_from([1, 1, 1, 2, 255, -1]))
    if x.size and draw(st.integers(0, 5)) == 0:
        x.flat[rng.integers(x.size)] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a type cannot hold is the test's own doing
        x = np.asarray(
            x.astype(draw(st.sampled_from(["<f4", "<f4", "<f8", "<f2", ">f4", "u1", "i8", "?", "c16", "O"])))
        )
    if x.ndim == 4:
        x = draw(st.sampled_from([lambda a: a, lambda a: a[:, ::-1], lambda a: a[:, :, ::2], np.asfortranarray]))(x)
    return x


@fuzzed(0.3)
@given(x=arrays(), first=st.booleans())
def test_arrays(purifier, x, first):
    before = x.copy()
    answer = tried(VersatilePurifier(purifier.generator, channels_first=first) if first else purifier, x)
    untouched = x.tobytes() == before.tobytes()  # bit by bit: NaN is not equal to itself
    assert untouched
    right = x.ndim == 4 and x.size and x.shape[1 if first else 3] == 3 and x.dtype.kind == "f"
    right = right and np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1
    assert (answer is not None) == bool(right)
    if right:
        purified = answer[0]
        assert (purified.shape, purified.dtype) == (x.shape, x.dtype.newbyteorder("="))
        assert purified.min() >= 0
        assert purified.max() <= 1
        one = purifier(np.ascontiguousarray(np.moveaxis(x, 1, -1) if first else x)[:1].astype(np.float32))[0]
        got = np.moveaxis(purified, 1, -1)[:1] if first else purified[:1]
        np.testing.assert_allclose(got, one, atol=2e-3 if x.dtype.itemsize == 2 else 1e-5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def saved(purifier, tmp_path_factory):
    folder = purifier.save(tmp_path_factory.mktemp("weights"))
    return json.loads((folder / "card.json").read_text()), next(folder.glob("*.safetensors")).read_bytes()


@st.composite
def changes(draw):
    """A place in a card and what to put there, or a place in a file and what to do to it."""
    keys = st.sampled_from(
        [(k,) for k in ("format", "architecture", "config", "parameters", "weights", "sha256")]
        + [("config", k) for k in ("widths", "blocks", "factor", "sigmas", "noise", "encoder", "seed")]
        + [("weights", k) for k in ("file", "sha256", "dtype", "bytes")]
    )
    giant = st.sampled_from([10**6, [10**6, 10**6], [4096] * 8, [64, 1], [0, 64.0] * 8, "../x", "/etc/passwd"])
    return draw(
        st.one_of(
            st.tuples(st.just("card"), keys, JSON | giant, st.booleans()),
            st.tuples(st.just("block"), st.integers(0, 400), st.integers(0, 255), st.booleans()),
            st.tuples(st.just("cut"), st.integers(0, 10**4), st.binary(max_size=20), st.booleans()),
            st.tuples(st.just("text"), st.binary(max_size=40), st.just(0), st.just(False)),
        )
    )


@fuzzed(0.15)
@given(change=changes())
def test_weights_folders(saved, tmp_path_factory, change):
    """Also with the checksums of a forger, whose giant network is refused before it is built."""
    card, block = json.loads(json.dumps(saved[0])), bytearray(saved[1])
    kind, where, value, forged = change
    if kind == "card":
        inner = card
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = value
    elif kind == "block":
        block[min(where, len(block) - 1)] = value
    elif kind == "cut":
        block = block[:where] + value
    folder = tmp_path_factory.mktemp("fuzz")
    if forged and isinstance(card["weights"], dict):
        import hashlib

        if kind != "card":
            card["weights"] |= {"sha256": hashlib.sha256(block).hexdigest(), "bytes": len(block)}
        card["sha256"] = weights._checksum(card)
    (folder / saved[0]["weights"]["file"]).write_bytes(block)
    (folder / "card.json").write_bytes(where if kind == "text" else json.dumps(card).encode())
    before = tree(folder)
    loaded = tried(weights.load, folder)
    assert tree(folder) == before
    if loaded is not None and kind != "card":
        for a in loaded[0].get_weights():
            assert np.isfinite(a).all()
    if loaded is not None and not forged:
        assert (card, bytes(block)) == (saved[0], saved[1])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of pairs, and its manifest."""
    folder = tmp_path_factory.mktemp("store")
    pairs = [encode_pair(*np.zeros((2, 4, 4, 3)), label=1, attack=0, image=i, dtype="float16") for i in range(2)]
    (folder / "shards").mkdir()
    shard = {"file": "shards/0.tfrecord", "attack": "A", "count": 2}
    shard["sha256"] = write_shard(f"{folder}/{shard['file']}", pairs)
    manifest = {
        "format": FORMAT_VERSION,
        "complete": True,
        "parameters": {"attacks": [{"name": "A"}], "clip_values": [0, 1], "dtype": "float16", "compression": ""},
        "image_shape": [4, 4, 3],
        "images": [{"name": "0"}, {"name": "1"}],
        "attacks": {"A": {"count": 2, "skipped": 0, "success_rate": 1.0}},
        "shards": [shard],
    }
    write_json(f"{folder}/{MANIFEST}", manifest)
    assert len(PairStore(folder)) == 2
    return folder, manifest


@fuzzed(0.1)
@given(data=st.data(), value=JSON, cut=st.none() | st.integers(0, 400))
def test_manifests(store, data, value, cut):
    folder, manifest = store[0], json.loads(json.dumps(store[1]))
    inner = manifest
    for _ in range(data.draw(st.integers(0, 2))):
        keys = [key for key, found in (inner.items() if isinstance(inner, dict) else enumerate(inner))
                if isinstance(found, dict | list)]  # fmt: skip
        inner = inner[data.draw(st.sampled_from(keys))] if keys else inner
    if inner:
        inner[data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))))] = value
    block = json.dumps(manifest).encode()[:cut]
    (folder / MANIFEST).write_bytes(block)
    before = tree(folder)
    found = tried(PairStore, folder)
    if found is not None:
        assert found.path in repr(found)
        assert (len(found.sha256), min(found.image_shape) > 0) == (64, True)
        assert set(found.success_rates) == set(found.attacks)
    assert tree(folder) == before


@st.composite
def image_files(draw):
    """Files that Pillow writes, whole and damaged, and their pixels where they are to be read."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sides = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    mode = draw(st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"]))
    picture = Image.fromarray(rng.integers(0, 256, (*sides, 3), dtype=np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 2**16, sides, dtype=np.uint16))
    elif mode == "LAB":
        picture = Image.fromarray(np.asarray(picture), "LAB")
    else:
        picture = picture.convert("L").convert(mode) if mode in ("I", "F") else picture.convert(mode)
    exif = Image.Exif()
    rotation = draw(st.sampled_from([1, 1, 3, 6, 8, 99]))
    exif[0x0112] = rotation
    stream, kind = io.BytesIO(), draw(st.sampled_from(["PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF"]))
    try:
        picture.save(stream, kind, exif=exif)
    except (OSError, ValueError, KeyError):
        picture = picture.convert("RGB")
        picture.save(stream, kind, exif=exif)
    block = bytearray(stream.getvalue())
    damage = draw(st.sampled_from(["none", "none", "cut", "bytes", "bytes"]))
    if damage == "cut":
        block = block[: draw(st.integers(0, len(block)))]
    for _ in range(draw(st.integers(1, 8)) if damage == "bytes" else 0):
        block[draw(st.integers(0, min(len(block), 200) - 1))] = draw(st.integers(0, 255))
    return bytes(block), damage == "none" and picture.mode == "RGB" and kind in ("PNG", "BMP"), picture, rotation


@fuzzed(0.2)
@given(file=image_files(), size=st.none() | st.integers(1, 20))
def test_image_files(tmp_path_factory, file, size):
    block, exact, picture, rotation = file
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    path.write_bytes(block)
    image = tried(load_image, path, size, max_pixels=10**5)
    assert path.read_bytes() == block
    if image is not None:
        assert image.ndim == 3
        assert (image.shape[2], image.dtype) == (3, np.float32)
        assert 0 <= image.min() <= image.max() <= 1
        assert size is None or image.shape[:2] == (size, size)
        assert image.shape[0] * image.shape[1] <= 10**5
    if exact and size is None and rotation in (1, 99):
        np.testing.assert_array_equal((image * 255).round(), np.asarray(picture))


NAMES = st.sampled_from(["a/x.png", "b/x.png", "x.png", "./y.png", "y.png", "a\\x.png", "none.png", "", "é.png", '"'])
CELLS = st.one_of(NAMES, st.integers(-5, 2000).map(str), st.text(max_size=6), st.sampled_from(["cat", "1e3", "9" * 40]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("a/x.png", "b/x.png", "y.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 3)).save(folder / name)
    return folder


@fuzzed(0.15)
@given(
    rows=st.lists(st.lists(CELLS, max_size=3) | st.tuples(NAMES, st.integers(0, 9).map(str)), max_size=5),
    header=st.sampled_from(["file,label", "file,label", "label,file", "file", "", "file;label", "\ufefffile\tlabel"]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)
def test_label_tables(folder, rows, header, encoding):
    delimiter = next((mark for mark in ";\t" if mark in header), ",")
    lines = [header, *(delimiter.join(row) for row in rows)]
    (folder / "table.csv").write_bytes("\n".join(lines).encode(encoding, "replace"))
    before = tree(folder)
    labels = tried(read_labels, folder / "table.csv")
    if labels is not None:
        assert all(isinstance(name, str) and name and type(label) is int for name, label in labels.items())
    answer = tried(labelled_images, folder, folder / "table.csv", 2)
    if answer is not None:
        x, y, names = answer
        assert len(x) == len(y) == len(names) > 0
        assert [labels[name] for name in names] == y.tolist()
        assert set(names) <= {"a/x.png", "b/x.png", "y.png", "./y.png", "a\\x.png"}
    assert tree(folder) == before


@pytest.fixture(scope="module")
def record_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "records.json"
    record = EvaluationRecord(dataset="d", n=2, classifier="c", attack="clean", threat_model="clean", correct=1)
    save_records([record], path)
    return path, json.loads(path.read_text())


@fuzzed(0.1)
@given(content=st.binary(max_size=40), data=st.data())
def test_records(record_file, content, data):
    path, document = record_file
    record = {**document["records"][0]}
    record[data.draw(st.sampled_from([*record, "other"]))] = data.draw(JSON)
    changed = {**document, data.draw(st.sampled_from([*document, "records", "records"])): data.draw(JSON)}
    whole = json.dumps(document).encode()
    blocks = [content, whole[: data.draw(st.integers(0, len(whole)))], b"[" * 10**5]
    blocks += [json.dumps(value).encode() for value in ({**document, "records": [record]}, changed)]
    for block in blocks:
        path.write_bytes(block)
        records = tried(load_records, path)
        assert records is None or all(isinstance(record, EvaluationRecord) for record in records)
        assert path.read_bytes() == block
