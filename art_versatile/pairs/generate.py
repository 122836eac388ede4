"""Clean images x ART attacks -> a :class:`~art_versatile.pairs.PairStore`, in parallel, resumable.

A unit of work is one shard of one attack. Its result depends on the arguments and on its own seed alone, and it appears
under its final name only when complete: a run that was killed goes on where it stopped, and ends in the same bytes as
one that was not.
"""

from __future__ import annotations

import collections
import dataclasses
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

from art_versatile._checks import check_bool, check_images
from art_versatile.pairs._resuming import open_store
from art_versatile.pairs._sources import Source, deal, find_classes, find_image_shape, find_labels
from art_versatile.pairs._units import Options, Settings, Unit, describe, forget, in_worker, read_images, run_unit
from art_versatile.pairs.attacking import Target, cut
from art_versatile.pairs.store import FORMAT_VERSION, MANIFEST, SHARDS, PairStore, read_json, write_json

__all__ = ["generate_pairs"]

# Where joblib runs a single job in this process.
_LOCAL_BACKENDS = (
    joblib.parallel.LokyBackend,
    joblib.parallel.MultiprocessingBackend,
    joblib.parallel.SequentialBackend,
    joblib.parallel.ThreadingBackend,
)


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
    verbose: bool = True,
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
    :param classifier: ART classifier with ``clip_values``, channels first or last; pairs are channels last. It gives
        the labels and decides what is a success. None where ``attacks`` is a callable.
    :param attacks: Name -> ART evasion attack, untargeted. Or a callable without arguments that returns
        (classifier, attacks): ART classifiers cannot be pickled, so with more than one job each worker process calls
        it, once. It must be picklable, and give the same at each call. It is also the place to limit the threads that
        each worker takes, or its part of a GPU's memory: several workers on one GPU take what they need
        (``TF_FORCE_GPU_ALLOW_GROWTH``, unless it is set).
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
    :param verbose: Show a bar with the time left.
    :param resume: Go on with a store. Otherwise a store at ``path`` is an error.
    :param classifier_name: For the manifest; None takes the model's name.
    :return: The store.
    :raises ValueError: If a parameter is out of range, an attack is targeted or returns something other than images, or
        the store at ``path`` was made with other arguments.
    :raises TypeError: If ``images``, ``attacks`` or an attack is of the wrong type.
    :raises FileExistsError: If ``path`` holds something else, or a store and ``resume`` is False.
    """
    options = Options(
        split=split,
        per_class=per_class,
        drop_misclassified=drop_misclassified,
        shard_size=shard_size,
        batch_size=batch_size,
        dtype=dtype,
        compression=compression,
        flip=flip,
        zoom=zoom,
        seed=seed,
    )
    check_bool("verbose", verbose)
    check_bool("resume", resume)
    if drop_misclassified and labels is None:
        raise ValueError(
            "Expected labels with drop_misclassified=True. Received None: the classifier's own predictions are never "
            "wrong."
        )
    if classifier_name is not None and not isinstance(classifier_name, str):
        raise ValueError(f"Expected classifier_name to be None or a string. Received {classifier_name!r}.")
    parallel = _check_jobs(classifier, attacks, n_jobs)
    factory = attacks if callable(attacks) else lambda: (classifier, attacks)

    source = Source(images)
    token = uuid.uuid4().hex
    try:
        if parallel:
            target = joblib.Parallel(n_jobs=n_jobs)([joblib.delayed(in_worker)(describe, token, factory)])[0]
        else:
            target = describe(token, factory)
        if classifier_name is not None:
            target["classifier"]["name"] = classifier_name
        settings = Settings(
            path=str(path).rstrip("/") if "://" in str(path) else os.path.abspath(path),
            token=token,
            factory=factory,
            image_shape=find_image_shape(source, image_size, target["input_shape"]),
            clip_values=target["clip_values"],
            options=options,
        )
        given = find_labels(labels, source, target["classifier"]["nb_classes"])
        manifest, units = _plan(settings, target, source, given)
        results = open_store(settings, manifest, units, resume=resume)
        todo = [unit for unit in units if unit.file not in results]
        jobs = ((settings, unit, source.take(unit.rows), None if given is None else given[unit.rows]) for unit in todo)
        with tqdm(
            total=sum(len(unit.rows) for unit in units),
            initial=sum(len(unit.rows) for unit in units if unit.file in results),
            desc="pairs",
            unit="pair",
            disable=not verbose,
        ) as bar:
            for result in _outcomes(jobs, bar, parallel, n_jobs):
                results[result["file"]] = result
    finally:
        forget(token)
    _finish(settings.path, manifest, [results[unit.file] for unit in units], anew=bool(todo))
    return PairStore(settings.path)


def _check_jobs(classifier: Any, attacks: Any, n_jobs: int | None) -> bool:
    """Whether the units go through joblib: not where the attacks are objects, or where one local job is asked for."""
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs == 0):
        raise ValueError(f"Expected n_jobs to be None or an integer other than 0. Received {n_jobs!r}.")
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


def _plan(
    settings: Settings, target: dict[str, Any], source: Source, labels: np.ndarray | None
) -> tuple[dict[str, Any], list[Unit]]:
    """The manifest of the store as it begins, and all work."""
    options, names = settings.options, [attack["name"] for attack in target["attacks"]]
    if source.array is not None:
        check_images(source.array, settings.clip_values, name="images")
    classes = find_classes(source, labels, options.per_class)
    dealt = deal(classes, len(names), split=options.split, per_class=options.per_class, seed=options.seed)
    chosen = np.unique(np.concatenate(dealt))
    units = [
        Unit(
            file=f"{SHARDS}/{attack:02d}-{re.sub('[^A-Za-z0-9.]+', '_', names[attack])}-{shard:05d}.tfrecord",
            attack_name=names[attack],
            attack=attack,
            shard=shard,
            rows=rows,
            numbers=np.searchsorted(chosen, rows),
        )
        for attack, shard, rows in cut(dealt, options.shard_size)
    ]
    manifest = {
        "format": FORMAT_VERSION,
        "complete": False,
        "parameters": {
            "classifier": target["classifier"],
            "attacks": target["attacks"],
            "labels": "predicted" if labels is None else "given",
            "clip_values": settings.clip_values,
            **dataclasses.asdict(options),
        },
        "versions": target["versions"],
        "image_shape": settings.image_shape,
        "images": [
            {
                "name": source.names[row],
                "sha256": source.sha256(row),
                "label": None if labels is None else int(labels[row]),
            }
            for row in chosen
        ],
    }
    return manifest, units


def _finish(path: str, manifest: dict[str, Any], shards: list[dict[str, Any]], *, anew: bool) -> None:
    """Write the final manifest where it is not there or shards were made anew; remove the shards' own records."""
    import tensorflow as tf

    if anew or not read_json(f"{path}/{MANIFEST}")["complete"]:
        names = [attack["name"] for attack in manifest["parameters"]["attacks"]]
        totals = {name: _total(shard for shard in shards if shard["attack"] == name) for name in names}
        write_json(f"{path}/{MANIFEST}", {**manifest, "complete": True, "attacks": totals, "shards": shards})
    for shard in shards:
        if tf.io.gfile.exists(record := f"{path}/{shard['file']}.json"):
            tf.io.gfile.remove(record)


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
                yield joblib.delayed(in_worker)(run_unit, *job)
                sizes.append(len(job[1].rows))
                if len(sizes) > workers:
                    bar.update(sizes.popleft())

        yield from joblib.Parallel(n_jobs=n_jobs, batch_size=1, pre_dispatch="n_jobs")(handed_out())
        bar.update(sum(sizes))
        return
    for result in pool(joblib.delayed(in_worker)(run_unit, *job) for job in jobs):
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
