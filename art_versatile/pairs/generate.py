"""Clean images x ART attacks -> a :class:`~art_versatile.pairs.PairStore`, in parallel, resumable.

A unit of work is one shard of one attack. Its result depends on the arguments and on its own seed alone, and it appears
under its final name only when complete: a run that was killed goes on where it stopped, and ends in the same bytes as
one that was not.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from art_versatile._checks import check_batch_size, check_bool, check_choice, check_images, check_integer, check_number
from art_versatile.pairs._sources import Source, deal, find_classes, find_image_shape, find_labels
from art_versatile.pairs._units import Settings, Target, Unit, describe, forget, read_images, run_unit
from art_versatile.pairs.store import (
    COMPRESSIONS,
    DTYPES,
    FORMAT_VERSION,
    MANIFEST,
    SHARDS,
    PairStore,
    file_sha256,
    read_json,
    write_json,
)

__all__ = ["SPLITS", "generate_pairs"]

SPLITS = ("one_per_image", "every")

logger = logging.getLogger(__name__)

# Where joblib runs a single job in this process.
_LOCAL_BACKENDS = (
    joblib.parallel.LokyBackend,
    joblib.parallel.MultiprocessingBackend,
    joblib.parallel.SequentialBackend,
    joblib.parallel.ThreadingBackend,
)

# What a killed run leaves of a file that it was writing.
_TEMPORARY = re.compile(r"(manifest\.json|.+\.tfrecord|.+\.tfrecord\.json)\.[0-9a-f]{32}\.tmp")


def generate_pairs(
    images: np.ndarray | str | Path | Sequence[str | Path],
    classifier: Any,
    attacks: Mapping[str, Any] | Callable[[], Target],
    path: str | Path,
    *,
    labels: np.ndarray | Sequence[int] | Mapping[str, int] | str | None = None,
    split: str | int = "one_per_image",
    per_class: int | None = None,
    drop_misclassified: bool = False,
    image_size: int | None = None,
    shard_size: int = 64,
    batch_size: int = 32,
    dtype: str = "float16",
    compression: str = "",
    flip: bool = False,
    zoom: float = 1.0,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: bool = True,
    resume: bool = True,
    classifier_name: str | None = None,
) -> PairStore:
    """
    Attack images and store (adversarial, clean) pairs.

    Called again with the same arguments on a store that was interrupted, it goes on; on a finished one, it checks
    every shard against its checksum, names and remakes those that are corrupted, and returns. One run at a time may
    write to a store.

    The result is the same to the byte for the same arguments, machine and versions, as far as the attack draws from
    the global NumPy, Python or TensorFlow generators: these are seeded for each unit and restored after it. ART's
    HopSkipJump, Boundary and Brendel-Bethge attacks draw a part from the operating system and differ in each run. On
    a GPU, TensorFlow needs ``tf.config.experimental.enable_op_determinism()``.

    :param images: Array (N, H, W, 3) in the classifier's ``clip_values`` (a ``numpy.memmap`` is not loaded), a folder
        of images, a folder with one folder for each class, or a list of files. Files are read one shard at a time.
    :param classifier: ART classifier, channels last, with ``clip_values``. It gives the labels and decides what is a
        success. None where ``attacks`` is a callable.
    :param attacks: Name -> ART evasion attack, untargeted. Or a callable without arguments that returns
        (classifier, attacks): ART classifiers cannot be pickled, so with more than one job each worker process calls
        it, once. It must be picklable, and give the same at each call. It is also the place to limit the threads or the
        GPU memory that each worker takes.
    :param path: Directory of the store, new or empty or a store: any ``tf.io.gfile`` path.
    :param labels: None takes the classifier's own prediction on each clean image, so that no label leaks. Otherwise the
        right labels: integers (N,) or one-hot (N, K), in the order of ``images`` (of the sorted paths, for a
        folder); or a mapping from file (path in the folder, or name) or class folder to label; or "folders", which
        numbers the class folders in sorted order.
    :param split: "one_per_image" gives each image to one attack, equally many to each and evenly within each class
        (paper, section 3.1.3); "every" gives each image to every attack; a number, to so many different ones.
    :param per_class: Take so many images of each class, at random; 18 in the paper. Classes are the folders, or the
        labels given with an array. None takes all.
    :param drop_misclassified: Leave out images that the classifier gets wrong; the manifest says how many. Needs
        ``labels``.
    :param image_size: Height and width that files are resized to, the centre kept; None takes the classifier's
        ``input_shape``. The size of an array is its own.
    :param shard_size: Images in a unit of work, and pairs in its shard. A multiple of the attacks' batch size is
        fastest.
    :param batch_size: Images in one call of the classifier's ``predict``. Attacks have batch sizes of their own.
    :param dtype: "float16" or "float32", of the stored pixels. Images are rounded to it before they are attacked and
        the adversarial ones after, so in float16 a budget is kept to 2.5e-4 of a range of 1.
    :param compression: "" or "GZIP". Perturbations hardly compress.
    :param flip: Mirror half of the images before they are attacked. An adversarial image that is mirrored, resized or
        moved afterwards has lost most of its effect: what varies the images has to come before the attack.
    :param zoom: Above 1: attack a random part of each image, resized: the largest part of the stored images'
        proportions, its sides divided by a factor from 1 to ``zoom``, anywhere in the image. Another part with each
        attack.
    :param seed: Of the sampling, of flips and parts, and of the attacks.
    :param n_jobs: Number of processes, as in joblib; None is 1 unless ``joblib.parallel_config`` says otherwise.
        The backend chosen there (loky, Dask, Ray) runs the units.
    :param progress: Show a bar with the time left.
    :param resume: Go on with a store. Otherwise a store at ``path`` is an error.
    :param classifier_name: For the manifest; None takes the model's name.
    :return: The store.
    :raises ValueError: If a parameter is out of range, an attack is targeted or returns something other than images, or
        the store at ``path`` was made with other arguments.
    :raises TypeError: If ``images``, ``attacks`` or an attack is of the wrong type.
    :raises FileExistsError: If ``path`` holds something else, or a store and ``resume`` is False.
    """
    import tensorflow as tf

    if isinstance(split, str):
        check_choice("split", split, SPLITS)
    else:
        split = check_integer("split", split)
    check_choice("dtype", dtype, tuple(DTYPES))
    check_choice("compression", compression, COMPRESSIONS)
    batch_size = check_batch_size(batch_size)
    shard_size = check_integer("shard_size", shard_size)
    if per_class is not None:
        per_class = check_integer("per_class", per_class)
    seed = check_integer("seed", seed, least=0)
    flags = {"drop_misclassified": drop_misclassified, "flip": flip, "progress": progress, "resume": resume}
    for name, flag in flags.items():
        check_bool(name, flag)
    zoom = check_number("zoom", zoom, 1, 100)
    if drop_misclassified and labels is None:
        raise ValueError(
            "Expected labels with drop_misclassified=True. Received None: the classifier's own predictions are never "
            "wrong."
        )
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs == 0):
        raise ValueError(f"Expected n_jobs to be None or an integer other than 0. Received {n_jobs!r}.")
    if classifier_name is not None and not isinstance(classifier_name, str):
        raise ValueError(f"Expected classifier_name to be None or a string. Received {classifier_name!r}.")
    parallel = _check_jobs(classifier, attacks, n_jobs)
    factory = attacks if callable(attacks) else lambda: (classifier, attacks)

    source = Source(images)
    token = uuid.uuid4().hex
    try:
        if parallel:
            target = joblib.Parallel(n_jobs=n_jobs)([joblib.delayed(describe)(token, factory)])[0]
        else:
            target = describe(token, factory)
        if classifier_name is not None:
            target["classifier"]["name"] = classifier_name
        clip_values = target["clip_values"]
        if source.array is not None:
            check_images(source.array, clip_values, name="images")
        image_shape = find_image_shape(source, image_size, target["input_shape"])
        given = find_labels(labels, source, target["classifier"]["nb_classes"])
        names = [attack["name"] for attack in target["attacks"]]
        dealt = deal(find_classes(source, given, per_class), len(names), split=split, per_class=per_class, seed=seed)
        chosen = np.unique(np.concatenate(dealt))
        units = _units(names, dealt, chosen, shard_size)
        settings = Settings(
            path=str(path).rstrip("/") if "://" in str(path) else os.path.abspath(path),
            token=token,
            factory=factory,
            image_shape=image_shape,
            clip_values=clip_values,
            dtype=dtype,
            compression=compression,
            batch_size=batch_size,
            drop_misclassified=bool(drop_misclassified),
            flip=bool(flip),
            zoom=zoom,
            seed=seed,
        )
        manifest = {
            "format": FORMAT_VERSION,
            "complete": False,
            "parameters": {
                "classifier": target["classifier"],
                "attacks": target["attacks"],
                "labels": "predicted" if given is None else "given",
                "split": split,
                "per_class": per_class,
                "drop_misclassified": settings.drop_misclassified,
                "clip_values": clip_values,
                "shard_size": shard_size,
                "batch_size": batch_size,
                "dtype": dtype,
                "compression": compression,
                "flip": settings.flip,
                "zoom": zoom,
                "seed": seed,
            },
            "versions": target["versions"],
            "image_shape": image_shape,
            "images": [
                {
                    "name": source.names[row],
                    "sha256": source.sha256(row),
                    "label": None if given is None else int(given[row]),
                }
                for row in chosen
            ],
        }
        results = _open(settings, manifest, units, resume=resume)
        todo = [unit for unit in units if unit.file not in results]
        jobs = ((settings, unit, source.take(unit.rows), None if given is None else given[unit.rows]) for unit in todo)
        with tqdm(
            total=sum(len(unit.rows) for unit in units),
            initial=sum(len(unit.rows) for unit in units if unit.file in results),
            desc="pairs",
            unit="pair",
            disable=not progress,
        ) as bar:
            for result in _outcomes(jobs, bar, parallel, n_jobs):
                results[result["file"]] = result
    finally:
        forget(token)

    if todo or not _is_complete(settings.path):
        shards = [results[unit.file] for unit in units]
        manifest["complete"] = True
        manifest["attacks"] = {name: _total(shard for shard in shards if shard["attack"] == name) for name in names}
        manifest["shards"] = shards
        write_json(f"{settings.path}/{MANIFEST}", manifest)
    for unit in units:
        if tf.io.gfile.exists(record := f"{settings.path}/{unit.file}.json"):
            tf.io.gfile.remove(record)
    return PairStore(settings.path)


def _check_jobs(classifier: Any, attacks: Any, n_jobs: int | None) -> bool:
    """Whether the units go through joblib: not where the attacks are objects, or where one local job is asked for."""
    if isinstance(attacks, Mapping):
        if classifier is None:
            raise ValueError("Expected an ART classifier. Received None, which goes with a callable for attacks only.")
        jobs = joblib.effective_n_jobs(n_jobs)
        if jobs != 1:
            raise ValueError(
                "Expected attacks to be a callable that returns (classifier, attacks) with more than one job, because "
                f"ART classifiers cannot be pickled. Received a mapping and {jobs} jobs."
            )
        return False
    if not callable(attacks):
        raise TypeError(
            "Expected attacks to be a mapping from name to ART attack, or a callable that returns (classifier, "
            f"attacks). Received {type(attacks).__name__}."
        )
    if classifier is not None:
        raise ValueError(
            "Expected classifier to be None where attacks is a callable, which makes it. Received "
            f"{type(classifier).__name__}."
        )
    backend, _ = joblib.parallel.get_active_backend()
    return joblib.effective_n_jobs(n_jobs) != 1 or type(backend) not in _LOCAL_BACKENDS


def _units(names: list[str], dealt: list[np.ndarray], chosen: np.ndarray, shard_size: int) -> list[Unit]:
    """Cut what each attack is given into shards. ``chosen`` are the rows of the manifest's images."""
    return [
        Unit(
            file=f"{SHARDS}/{attack:02d}-{re.sub('[^A-Za-z0-9.]+', '_', name)}-{shard:05d}.tfrecord",
            attack_name=name,
            attack=attack,
            shard=shard,
            rows=rows[start : start + shard_size],
            numbers=np.searchsorted(chosen, rows[start : start + shard_size]),
        )
        for attack, (name, rows) in enumerate(zip(names, dealt, strict=True))
        for shard, start in enumerate(range(0, len(rows), shard_size))
    ]


def _open(
    settings: Settings, manifest: dict[str, Any], units: list[Unit], *, resume: bool
) -> dict[str, dict[str, Any]]:
    """
    Open the store, or start it.

    :return: Results of the units that are done, by shard.
    """
    import tensorflow as tf

    path = settings.path
    files = {}
    for folder in (path, f"{path}/{SHARDS}"):
        names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
        files.update({name.rstrip("/"): f"{folder}/{name}" for name in names})
    temporary = {place for name, place in files.items() if _TEMPORARY.fullmatch(name)}
    others = sorted(place for name, place in files.items() if name != SHARDS and place not in temporary)
    if MANIFEST not in files and others:
        raise FileExistsError(f"Expected {path!r} to be new, empty, or a store of pairs. Received {others[:5]}.")
    if MANIFEST in files and not resume:
        raise FileExistsError(f"Expected a new path with resume=False. Received a store of pairs at {path!r}.")
    for place in temporary:
        tf.io.gfile.remove(place)
    if MANIFEST not in files:
        tf.io.gfile.makedirs(f"{path}/{SHARDS}")
        write_json(f"{path}/{MANIFEST}", manifest)
        return {}
    stored = read_json(f"{path}/{MANIFEST}")
    asked = json.loads(json.dumps(manifest))
    # Earlier versions did not write these two.
    stored["parameters"] = {"flip": False, "zoom": 1.0, **stored.get("parameters", {})}
    keys = ("format", "parameters", "image_shape", "images")
    if changes := [change for key in keys for change in _changes(stored.get(key), asked[key], key)]:
        raise ValueError(
            f"Expected the arguments with which the store at {path!r} was started, or another path. Received "
            + "; ".join(changes[:5])
            + (f"; and {len(changes) - 5} more." if len(changes) > 5 else ".")
        )
    known = {shard["file"]: shard for shard in stored.get("shards", [])}
    results = {}
    for unit in units:
        place = f"{path}/{unit.file}"
        result = known.get(unit.file)
        if f"{Path(unit.file).name}.json" in files:
            try:
                result = read_json(f"{place}.json")
            except ValueError:
                logger.warning("The record of shard %s is corrupted.", place)
        if result is None:
            continue  # never made, or killed before it was recorded
        if not tf.io.gfile.exists(place):
            logger.warning("Shard %s is missing and is made again.", place)
        elif file_sha256(place) != result["sha256"]:
            logger.warning("Shard %s is corrupted and is made again.", place)
        else:
            results[unit.file] = result
    # Other versions may give other pixels, so a store is of one set of versions.
    changes = _changes(stored.get("versions"), asked["versions"], "versions")
    if changes and len(results) < len(units):
        raise ValueError(
            f"Expected the versions with which the store at {path!r} was started, as {len(units) - len(results)} "
            f"shards are to be made. Received {'; '.join(changes)}."
        )
    return results


def _changes(stored: Any, asked: Any, where: str) -> list[str]:
    """Name the places where two JSON values differ."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = [*stored, *(key for key in asked if key not in stored)]
        return [change for key in keys for change in _changes(stored.get(key), asked.get(key), f"{where}.{key}")]
    if isinstance(stored, list) and isinstance(asked, list):
        if len(stored) != len(asked):
            return [f"{where} with {len(asked)} entries (stored: {len(stored)})"]
        pairs = enumerate(zip(stored, asked, strict=True))
        return [change for index, (old, new) in pairs for change in _changes(old, new, f"{where}[{index}]")]
    return [] if stored == asked else [f"{where} {asked!r:.80} (stored: {stored!r:.80})"]


def _is_complete(path: str) -> bool:
    """Whether the manifest is the final one."""
    return bool(read_json(f"{path}/{MANIFEST}")["complete"])


def _outcomes(
    jobs: Iterator[tuple[Any, ...]], bar: tqdm, parallel: bool, n_jobs: int | None
) -> Iterator[dict[str, Any]]:
    """Run the units, here or through joblib in the user's backend, and move the bar."""
    if not parallel:
        for job in _read_ahead(jobs):
            yield run_unit(*job)
            bar.update(len(job[1].rows))
        return
    try:
        pool = joblib.Parallel(n_jobs=n_jobs, batch_size=1, return_as="generator_unordered")
    except ValueError:
        # Ray's backend and multiprocessing answer at the end only. A unit is handed out as another one ends.
        sizes: collections.deque[int] = collections.deque()
        workers = joblib.effective_n_jobs(n_jobs)

        def handed_out() -> Iterator[Any]:
            for job in jobs:
                yield joblib.delayed(run_unit)(*job)
                sizes.append(len(job[1].rows))
                if len(sizes) > workers:
                    bar.update(sizes.popleft())

        yield from joblib.Parallel(n_jobs=n_jobs, batch_size=1, pre_dispatch="n_jobs")(handed_out())
        bar.update(sum(sizes))
        return
    for result in pool(joblib.delayed(run_unit)(*job) for job in jobs):
        bar.update(result["count"] + result["skipped"])
        yield result


def _read_ahead(jobs: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Hand out jobs one by one, and read the images of the next one meanwhile."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pairs") as reader:
        waiting: collections.deque[tuple[Any, ...]] = collections.deque()
        for settings, unit, images, labels in jobs:
            waiting.append((settings, unit, reader.submit(read_images, images, settings, unit), labels))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


def _total(shards: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Sum the results of one attack's shards."""
    results = list(shards)
    total = {key: sum(result[key] for result in results) for key in ("count", "skipped", "misclassified", "fooled")}
    right = total["count"] - total["misclassified"]
    return {**total, "success_rate": total["fooled"] / right if right else None}
