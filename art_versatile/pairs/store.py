"""A store of (adversarial, clean) image pairs: TFRecord shards of float tensors, and a manifest.

Pixels are stored as float16 or float32, never as 8-bit pictures: rounding to PNG undoes part of an attack (paper,
section 3.4.1). Every path goes through ``tf.io.gfile``. TensorFlow checks a CRC of every record that it reads; the
manifest holds a SHA-256 of every shard besides.

Layout::

    manifest.json
    shards/00-fgsm-00000.tfrecord     attack number and name, shard number

A record is a ``tf.train.Example`` of five features: ``clean`` and ``adversarial`` (little-endian bytes of an (H, W, C)
tensor), ``label``, ``attack`` and ``image`` (64-bit integers; the last two number the manifest's lists).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_choice, check_clip_values, check_integer, check_number
from art_versatile.pairs.batches import Pairs, Reader, check_attacks, quotas
from art_versatile.pairs.memory import MemoryPairs

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "FORMAT_VERSION",
    "PairStore",
    "encode_pair",
    "file_sha256",
    "read_json",
    "write_json",
    "write_shard",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SHARDS = "shards"
# "<f2": the bytes are the same on every machine.
DTYPES: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
COMPRESSIONS = ("", "GZIP")
_OPEN_SHARDS = 16


def file_sha256(path: str) -> str:
    """
    SHA-256 of a file.

    :param path: Any ``tf.io.gfile`` path.
    :return: 64 hexadecimal digits.
    """
    import tensorflow as tf

    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str) -> Any:
    """
    Read a JSON file.

    :param path: Any ``tf.io.gfile`` path.
    :return: Its content.
    :raises ValueError: If it is no JSON.
    """
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"Expected {path} to be a JSON file. Received {content[:40]!r}.") from err


@contextlib.contextmanager
def _atomic_path(path: str) -> Iterator[str]:
    """
    A temporary name beside ``path``; what is written there takes its place when the block ends without an error.

    A run that is killed leaves the temporary file; the next one removes it.

    :param path: Any ``tf.io.gfile`` path.
    """
    import tensorflow as tf

    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
    except Exception:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(temporary)
        raise
    tf.io.gfile.rename(temporary, path, overwrite=True)


def write_json(path: str, content: Any) -> None:
    """
    Write a JSON file, complete or not at all.

    :param path: Any ``tf.io.gfile`` path.
    :param content: What JSON can hold; infinities and NaN it cannot.
    """
    import tensorflow as tf

    text = json.dumps(content, indent=1, allow_nan=False)
    with _atomic_path(path) as temporary, tf.io.gfile.GFile(temporary, "wb") as file:
        file.write(text.encode() + b"\n")


def encode_pair(
    clean: np.ndarray, adversarial: np.ndarray, *, label: int, attack: int, image: int, dtype: str
) -> bytes:
    """
    One record.

    :param clean: (H, W, C) in ``clip_values``.
    :param adversarial: Alike.
    :param label: Label that the attack was to change.
    :param attack: Index of the attack.
    :param image: Index of the image.
    :param dtype: "float16" or "float32".
    :return: A serialised ``tf.train.Example``; the same bytes for the same pair.
    """
    import tensorflow as tf

    def tensor(value: np.ndarray) -> tf.train.Feature:
        content = np.ascontiguousarray(value, DTYPES[dtype]).tobytes()
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

    def number(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))

    features = {
        "clean": tensor(clean),
        "adversarial": tensor(adversarial),
        "label": number(label),
        "attack": number(attack),
        "image": number(image),
    }
    # A map's order on the wire is free unless asked otherwise.
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def write_shard(path: str, records: Iterable[bytes], *, compression: str = "") -> str:
    """
    Write a shard, complete or not at all.

    :param path: Any ``tf.io.gfile`` path.
    :param records: From :func:`encode_pair`.
    :param compression: "" or "GZIP".
    :return: SHA-256 of the file.
    """
    import tensorflow as tf

    with _atomic_path(path) as temporary:
        with tf.io.TFRecordWriter(temporary, tf.io.TFRecordOptions(compression_type=compression)) as writer:
            for record in records:
                writer.write(record)
        return file_sha256(temporary)


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise an error where what a store is read by is missing or of another kind."""
    parameters, shape = manifest["parameters"], manifest["image_shape"]
    if len(shape) != 3:
        raise ValueError(f"image_shape {shape!r}")
    for side in shape:
        check_integer("image_shape", side)
    check_clip_values(parameters["clip_values"])
    check_choice("dtype", parameters["dtype"], tuple(DTYPES))
    check_choice("compression", parameters["compression"], COMPRESSIONS)
    names = [attack["name"] for attack in parameters["attacks"]]
    check_attacks(names, names)
    for name in names:
        total = manifest["attacks"][name]
        for key in ("count", "skipped"):
            check_integer(key, total[key], 0)
        if total["success_rate"] is not None:
            check_number("success_rate", total["success_rate"], 0, 1)
    for shard in manifest["shards"]:
        check_choice("attack", shard["attack"], tuple(names))
        check_integer("count", shard["count"], 0)
        if not all(isinstance(shard[key], str) for key in ("file", "sha256")) or ".." in shard["file"].split("/"):
            raise ValueError(f"shard {shard!r}")


class PairStore(Pairs):
    """A finished store of (adversarial, clean) pairs, made by :func:`~art_versatile.pairs.generate_pairs`."""

    def __init__(self, path: str | Path) -> None:
        """
        Open a store. Only the manifest is read.

        :param path: Directory of the store: any ``tf.io.gfile`` path.
        :raises FileNotFoundError: If there is no manifest.
        :raises ValueError: If the manifest is of no store, of another format, or of an unfinished store.
        """
        import tensorflow as tf

        self.path = str(path).rstrip("/")
        manifest_path = f"{self.path}/{MANIFEST}"
        if not tf.io.gfile.exists(manifest_path):
            raise FileNotFoundError(f"Expected a store of pairs at {self.path!r}. Received no {MANIFEST} there.")
        manifest = read_json(manifest_path)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
            found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
            raise ValueError(f"Expected {manifest_path} of format {FORMAT_VERSION}. Received {found!r}.")
        if manifest.get("complete") is not True:
            raise ValueError(
                f"Expected a finished store at {self.path!r}. Received one that was interrupted: call generate_pairs "
                "again with the same arguments and it goes on."
            )
        try:
            _check_manifest(manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise ValueError(
                f"Expected {manifest_path} to describe a store. Received {type(err).__name__}: {err}"
            ) from err
        self.manifest: dict[str, Any] = manifest

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order of their indices."""
        return tuple(attack["name"] for attack in self.manifest["parameters"]["attacks"])

    @property
    def success_rates(self) -> dict[str, float | None]:
        """
        Share of the images that the classifier gets right clean and wrong attacked, for each attack, 0 to 1.

        It is measured on the tensors as stored. None where the classifier gets no clean image right.
        """
        return {name: self.manifest["attacks"][name]["success_rate"] for name in self.attacks}

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs of each attack."""
        return {name: self.manifest["attacks"][name]["count"] for name in self.attacks}

    @property
    def skipped(self) -> int:
        """Number of pairs left out because the classifier gets the clean image wrong."""
        return sum(self.manifest["attacks"][name]["skipped"] for name in self.attacks)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.manifest["image_shape"]
        return height, width, channels

    @property
    def clip_values(self) -> tuple[float, float]:
        """Range of the pixels."""
        low, high = self.manifest["parameters"]["clip_values"]
        return low, high

    @property
    def dtype(self) -> str:
        """Type of the stored pixels: "float16" or "float32"."""
        return self.manifest["parameters"]["dtype"]

    @property
    def sha256(self) -> str:
        """Of the shards' checksums, in their order."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.manifest["shards"]).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """The checksum."""
        return {"pairs_sha256": self.sha256}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.path!r}, pairs={len(self)}, attacks={list(self.attacks)}, "
            f"image_shape={self.image_shape}, dtype={self.dtype!r})"
        )

    def verify(self) -> list[str]:
        """
        Read every shard and compare it with its checksum in the manifest.

        :return: Names of the shards that are corrupted, truncated or missing: empty if all is well. Calling
            ``generate_pairs`` again with the same arguments remakes them.
        """
        import tensorflow as tf

        return [
            shard["file"]
            for shard in self.manifest["shards"]
            if not tf.io.gfile.exists(f"{self.path}/{shard['file']}")
            or file_sha256(f"{self.path}/{shard['file']}") != shard["sha256"]
        ]

    def arrays(self, limit: int | None = None, *, attacks: Sequence[str] | None = None) -> MemoryPairs:
        """
        Read pairs into memory, as stored.

        :param limit: At most so many, spread evenly over the attacks; None reads all.
        :param attacks: Names of the attacks to read; None reads all.
        :return: The pairs, attack by attack; their ``images`` are indices into the manifest's images.
        :raises ValueError: If ``limit`` is below 1, an attack is unknown, or there is no pair.
        :raises tensorflow.errors.DataLossError: If a record is corrupted.
        """
        import tensorflow as tf

        names = check_attacks(self.attacks if attacks is None else attacks, self.attacks)
        wanted = quotas({name: self.counts[name] for name in names}, limit)
        total = sum(wanted.values())
        images = {key: np.empty((total, *self.image_shape), np.float32) for key in ("adversarial", "clean")}
        numbers = {key: np.empty(total, np.int64) for key in ("label", "attack", "image")}
        row = 0
        for name in names:
            dataset = tf.data.TFRecordDataset(self._files([name]), self.manifest["parameters"]["compression"])
            for record in dataset.take(wanted[name]).as_numpy_iterator():
                features = tf.train.Example.FromString(record).features.feature
                for key, array in images.items():
                    content = features[key].bytes_list.value[0]
                    array[row] = np.frombuffer(content, DTYPES[self.dtype]).reshape(self.image_shape)
                for key, vector in numbers.items():
                    vector[row] = features[key].int64_list.value[0]
                row += 1
        return MemoryPairs(
            images["adversarial"],
            images["clean"],
            numbers["label"],
            numbers["attack"],
            self.attacks,
            images=numbers["image"],
            clip_values=self.clip_values,
        )

    def read(self, names: Sequence[str], *, shuffle: bool, shuffle_buffer: int) -> Reader:
        """
        How the pairs of some attacks are read.

        :param names: Attacks.
        :param shuffle: Shuffle the shards, and their records within a buffer; each epoch anew.
        :param shuffle_buffer: Bytes that the buffer may hold in memory.
        """
        import tensorflow as tf

        files = self._files(names)
        compression = self.manifest["parameters"]["compression"]
        record_bytes = 2 * int(np.prod(self.image_shape)) * DTYPES[self.dtype].itemsize
        buffered = max(1, shuffle_buffer // record_bytes)
        stateless = tf.random.experimental

        def records(of_shards: tf.Tensor, of_records: tf.Tensor) -> tf.data.Dataset:
            if not shuffle:
                return tf.data.TFRecordDataset(tf.constant(files), compression)
            paths = stateless.stateless_shuffle(tf.constant(files), seed=of_shards)
            shards = tf.data.Dataset.from_tensor_slices(paths).interleave(
                lambda path: tf.data.TFRecordDataset(path, compression),
                cycle_length=min(_OPEN_SHARDS, len(files)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            if not tf.executing_eagerly():  # as it is, but in tf.data's debug mode
                # Of this function's graph alone: shuffle() mixes it in, in place of the global seed.
                tf.random.set_seed(1)
            number = tf.random.stateless_uniform([], of_records, maxval=2**31 - 1, dtype=tf.int64)
            return shards.shuffle(buffered, seed=number, reshuffle_each_iteration=False)

        return Reader(records, self._decode, sum(self.counts[name] for name in names))

    def _decode(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """
        A record's pair (2, H, W, C), adversarial first; its label; its attack, an index into :attr:`attacks`.

        :param record: A scalar string.
        """
        import tensorflow as tf

        features = {key: tf.io.FixedLenFeature([], tf.string) for key in ("adversarial", "clean")}
        features |= {key: tf.io.FixedLenFeature([], tf.int64) for key in ("label", "attack")}
        pixel_type = tf.float16 if self.dtype == "float16" else tf.float32
        parsed = tf.io.parse_single_example(record, features)
        images = [
            tf.reshape(tf.io.decode_raw(parsed[name], pixel_type, little_endian=True), self.image_shape)
            for name in ("adversarial", "clean")
        ]
        return tf.stack(images), parsed["label"], parsed["attack"]

    def _files(self, names: Sequence[str]) -> list[str]:
        """Paths of the shards of the given attacks that hold any pair."""
        shards = self.manifest["shards"]
        return [f"{self.path}/{shard['file']}" for shard in shards if shard["attack"] in names and shard["count"]]
