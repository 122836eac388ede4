"""What of a store of pairs is there already: it is the store that is asked for, and its shards are whole."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from art_versatile.pairs._units import Settings, Unit
from art_versatile.pairs.store import MANIFEST, SHARDS, file_sha256, read_json, write_json

__all__ = ["open_store"]

logger = logging.getLogger(__name__)

# What a killed run leaves of a file that it was writing.
_TEMPORARY = re.compile(r"(manifest\.json|.+\.tfrecord|.+\.tfrecord\.json)\.[0-9a-f]{32}\.tmp")


def open_store(
    settings: Settings, manifest: dict[str, Any], units: list[Unit], *, resume: bool
) -> dict[str, dict[str, Any]]:
    """
    Open the store, or start it.

    :param settings: Where it is.
    :param manifest: What it is to be: the manifest of an unfinished store.
    :param units: All work.
    :param resume: Go on with a store that is there.
    :return: Results of the units that are done, by shard.
    :raises FileExistsError: If something else is there, or a store and ``resume`` is False.
    :raises ValueError: If the store is another one.
    """
    import tensorflow as tf

    path = settings.path
    files = _claim(path, resume)
    if MANIFEST not in files:
        tf.io.gfile.makedirs(f"{path}/{SHARDS}")
        write_json(f"{path}/{MANIFEST}", manifest)
        return {}
    stored = read_json(f"{path}/{MANIFEST}")
    asked = json.loads(json.dumps(manifest))
    keys = ("format", "parameters", "image_shape", "images")
    if changes := [change for key in keys for change in _changes(stored.get(key), asked[key], key)]:
        raise ValueError(
            f"Expected the arguments with which the store at {path!r} was started, or another path. Received "
            + "; ".join(changes[:5])
            + (f"; and {len(changes) - 5} more." if len(changes) > 5 else ".")
        )
    results = _done(path, files, {shard["file"]: shard for shard in stored.get("shards", [])}, units)
    # Other versions may give other pixels, so a store is of one set of versions.
    changes = _changes(stored.get("versions"), asked["versions"], "versions")
    if changes and len(results) < len(units):
        raise ValueError(
            f"Expected the versions with which the store at {path!r} was started, as {len(units) - len(results)} "
            f"shards are to be made. Received {'; '.join(changes)}."
        )
    return results


def _claim(path: str, resume: bool) -> set[str]:
    """Names of what is at the path, which is empty or a store; what a killed run left half written is removed."""
    import tensorflow as tf

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
    return set(files)


def _done(path: str, files: set[str], known: dict[str, Any], units: list[Unit]) -> dict[str, dict[str, Any]]:
    """Results of the units whose shards are there and whole, by shard; ``known`` are those in the manifest."""
    import tensorflow as tf

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
