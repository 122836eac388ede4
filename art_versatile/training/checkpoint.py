"""Checkpoints of a training run: TensorFlow's own, of which a new one counts only when it is whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

__all__ = ["Checkpoint", "checkpoints_in", "holds_run"]

logger = logging.getLogger(__name__)


class Checkpoint:
    """
    All that training needs to go on: variables, history, and what the run is known by. Two are kept.

    :param folder: Where.
    :param variables: Keras variables of all networks and optimizers, and seeds, in the order of the architecture.
    :param identity: What a run that goes on has to share with the one that stopped; JSON-able.
    :param write: Whether to write, or only to restore (all workers of a cluster but the chief).
    """

    def __init__(
        self, folder: str | Path, variables: Iterable[Any], identity: dict[str, Any], *, write: bool = True
    ) -> None:
        self._folder, self._identity = Path(folder), json.loads(json.dumps(identity))
        self._state = tf.Variable("{}", dtype=tf.string, trainable=False)
        self._checkpoint = tf.train.Checkpoint(variables=[variable.value for variable in variables], state=self._state)
        self._listed, self._manager = _listed(folder), None
        if write:
            _mend_list(self._folder, self._listed)
            self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=2)

    def restore(self) -> list[dict[str, float]]:
        """
        Bring the newest checkpoint back, or the one before it where that cannot be read.

        :return: The history, one dictionary an epoch; empty where there is no checkpoint.
        :raises ValueError: If it is of a run with other settings, or none can be read; nothing has been changed then.
        """
        found = sorted({*self._listed, *checkpoints_in(self._folder)}, key=_number, reverse=True)
        first_error: Exception | None = None
        for path in found:
            try:
                known, history = _read_checkpoint(path)
            except _UNREADABLE as err:
                logger.warning("The checkpoint %s cannot be read: %s", path, err)
                first_error = first_error or err
                continue
            keys = [*self._identity, *(key for key in known if key not in self._identity)]
            if other := [key for key in keys if known.get(key) != self._identity.get(key)]:
                detail = "; ".join(f"{k}: {known.get(k)!r} there, {self._identity.get(k)!r} now" for k in other)
                raise ValueError(f"Expected the settings of the run that is to go on. Received others: {detail}.")
            self._checkpoint.restore(path).assert_consumed()
            return history
        if not self._listed and len(found) < 2:
            return []  # nothing, or a first one that a killed run was writing
        raise ValueError(
            f"Expected a checkpoint of this package. Received {found[0]}: {first_error!r}"
        ) from first_error

    def save(self, history: list[dict[str, float]]) -> None:
        """
        Write, where this is what writes.

        :param history: One dictionary an epoch; its length numbers the checkpoint.
        """
        if self._manager is not None:
            self._state.assign(json.dumps({"identity": self._identity, "history": history}))
            self._manager.save(checkpoint_number=len(history))


def checkpoints_in(folder: str | Path) -> list[str]:
    """
    The checkpoints whose files are in a folder, without the ending.

    :param folder: The folder.
    """
    return [str(file.with_suffix("")) for file in Path(folder).glob("ckpt-*.index") if file.stem[5:].isdecimal()]


def holds_run(folder: str | Path) -> bool:
    """
    Whether a folder holds more than a first checkpoint that was never finished.

    :param folder: The folder.
    """
    found = checkpoints_in(folder)
    return bool(_listed(folder)) or len(found) > 1 or any(_is_readable(path) for path in found)


def _is_readable(checkpoint: str) -> bool:
    try:
        _read_checkpoint(checkpoint)
    except _UNREADABLE:
        return False
    return True


def _number(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def _listed(folder: str | Path) -> list[str]:
    """The checkpoints in TensorFlow's list of them, oldest first; none where it is missing or damaged."""
    try:
        state = tf.train.get_checkpoint_state(str(folder))
    except ValueError:  # it is empty
        return []
    paths = [] if state is None else [*state.all_model_checkpoint_paths, state.model_checkpoint_path]
    return [path for path in dict.fromkeys(paths) if path[-1:].isdecimal()]


def _mend_list(folder: Path, listed: list[str]) -> None:
    """Write TensorFlow's list anew where it lacks the newest checkpoint or cannot be read: the manager would stop."""
    found = sorted(checkpoints_in(folder), key=_number)
    if not found or found[-1] in listed:
        return
    logger.warning("The list of the checkpoints in %s is damaged and is made anew.", folder)
    times = [Path(f"{path}.index").stat().st_mtime for path in found]
    tf.compat.v1.train.update_checkpoint_state(
        str(folder), found[-1], found, all_model_checkpoint_timestamps=times, last_preserved_timestamp=0.0
    )


_UNREADABLE = (tf.errors.OpError, LookupError, RuntimeError, TypeError, ValueError)
"""What TensorFlow and json raise on a file that is cut off, damaged, missing or of something else."""


def _read_checkpoint(path: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """
    Identity and history of a checkpoint, all of which can be read.

    :param path: Of its files, without the ending.
    :raises Exception: One of ``_UNREADABLE``.
    """
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)  # verifies its checksum: a restore that fails midway has changed half the model
    state = json.loads(reader.get_tensor("state/.ATTRIBUTES/VARIABLE_VALUE"))
    return dict(state["identity"]), list(state["history"])
