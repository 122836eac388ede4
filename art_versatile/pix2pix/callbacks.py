"""What a training run does besides its steps: measure, log, draw, keep the best, keep a checkpoint, stop."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm.auto import tqdm

from art_versatile._files import atomic_path
from art_versatile.pix2pix.generators import purified

__all__ = [
    "Checkpoint",
    "ImagePanel",
    "KeepBest",
    "KeepWeights",
    "Progress",
    "RecoveredAccuracy",
    "StopOnNaN",
    "StopTogether",
    "TensorBoard",
    "TrainingLog",
    "patience_is_over",
]

logger = logging.getLogger(__name__)


class RecoveredAccuracy(keras.callbacks.Callback):
    """
    Accuracy of a classifier on held pairs behind the generator's running average, in the epoch's logs.

    ``val_clean_accuracy`` on the purified clean images, ``val_recovered_accuracy`` on all purified adversarial ones,
    ``val_accuracy/<attack>`` on those of each attack, ``val_psnr`` in dB of all purified adversarial images together.

    :param classify: Images (N, H, W, 3) in [0, 1] -> class scores (N, K).
    :param adversarial: (N, H, W, 3) in [0, 1].
    :param clean: The same shape.
    :param labels: Right classes, (N,).
    :param attacks: Name -> rows of the arrays; an attack without rows is left out.
    :param every: Epochs between two measurements; the last epoch is always measured.
    :param batch_size: Images at a time.
    """

    def __init__(
        self,
        classify: Callable[[np.ndarray], np.ndarray],
        adversarial: np.ndarray,
        clean: np.ndarray,
        labels: np.ndarray,
        attacks: Mapping[str, np.ndarray],
        *,
        every: int = 1,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self._classify, self._labels = classify, labels
        self._attacks = {name: rows for name, rows in attacks.items() if len(rows)}
        self._adversarial, self._clean = adversarial, clean
        self._every, self._batch_size = every, batch_size
        self._purify: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """Keys that it adds to the logs."""
        return (
            "val_clean_accuracy",
            "val_recovered_accuracy",
            "val_psnr",
            *(f"val_accuracy/{name}" for name in self._attacks),
        )

    def measure(self) -> dict[str, float]:
        """Measure now."""
        if self._purify is None:
            self._purify = purifying(self.model.generator)
        with self.model.averaged():
            right, error = self._right(self._purify, self._adversarial)
            clean, _ = self._right(self._purify, self._clean)
        psnr = -10 * np.log10(max(error.mean(), 1e-12))
        by_attack = [right[rows].mean() for rows in self._attacks.values()]
        values = [clean.mean(), right.mean(), psnr, *by_attack]
        return {name: float(value) for name, value in zip(self.measures, values, strict=True)}

    def _right(self, purify: Callable, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each purified image is classified rightly, and its mean squared distance from the clean one."""
        right, error = [], []
        for start in range(0, len(images), self._batch_size):
            part = slice(start, start + self._batch_size)
            purified = purify(images[part])
            right.append(np.argmax(self._classify(purified), axis=1) == self._labels[part])
            error.append(np.mean(np.square(purified - self._clean[part]), axis=(1, 2, 3)))
        return np.concatenate(right), np.concatenate(error)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        if logs is not None and ((epoch + 1) % self._every == 0 or epoch + 1 == self.params["epochs"]):
            logs.update(self.measure())


def purifying(generator: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """
    A generator as a compiled function of images of any size: mirrored at the far edges up to the multiples that it
    takes, then cut.

    :param generator: (N, H, W, 3) in [0, 1] -> the same shape; its weights may change between the calls.
    """
    compiled = tf.function(lambda images: purified(generator, images), reduce_retracing=True)
    return lambda images: compiled(tf.constant(images)).numpy()


class StopOnNaN(keras.callbacks.Callback):
    """
    Stops training at the first loss or weight that is not finite, before anything of it is written.

    First among callbacks.

    :raises FloatingPointError: Out of ``fit``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look at the losses: running means, which a NaN does not leave."""
        for name, value in (logs or {}).items():
            if not np.isfinite(float(value)):
                self._stop(f"{float(value)} as {name} in epoch {self._epoch}, step {batch}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the weights, which the last step may have spoilt."""
        for variable in self.model.trainable_variables:
            if not np.isfinite(variable.numpy()).all():
                self._stop(f"NaN or infinity in {variable.path} after epoch {epoch}")

    @staticmethod
    def _stop(received: str) -> None:
        raise FloatingPointError(
            f"Expected finite losses and weights. Received {received}. The last checkpoint before it, if any, is kept."
        )


class TrainingLog(keras.callbacks.Callback):
    """
    The history; as ``log.csv`` and as curves in ``curves.png`` too, written anew after each epoch.

    :param folder: Where; None writes nothing.
    :param history: A list of one dictionary an epoch, which this callback extends; that of a resumed run comes filled.
    """

    def __init__(self, folder: Path | None, history: list[dict[str, float]]) -> None:
        super().__init__()
        self._folder, self._history = folder, history

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write."""
        del self._history[epoch:]
        values = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        self._history.append({"epoch": epoch, **values, "learning_rate": rate})
        if self._folder is not None:
            write_log(self._folder / "log.csv", self._history)
            draw_curves(self._folder / "curves.png", self._history)


def write_log(path: Path, history: list[dict[str, float]]) -> None:
    """
    Write a history as CSV.

    :param path: The file.
    :param history: One dictionary an epoch; the keys may differ.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def draw_curves(path: Path, history: list[dict[str, float]]) -> None:
    """
    Draw a history: losses on the left (each relative to its first value), accuracies on the right.

    :param path: A PNG file.
    :param history: One dictionary an epoch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(key for row in history for key in row):
        points = [(row["epoch"] + 1, row[name]) for row in history if name in row]
        if name in ("epoch", "learning_rate", "val_psnr") or not points:
            continue
        epochs, values = (np.array(part, float) for part in zip(*points, strict=True))
        if name.startswith("val_"):
            label = name.removeprefix("val_").removeprefix("accuracy/").replace("_", " ")
            wide = 2.0 if name in ("val_clean_accuracy", "val_recovered_accuracy") else 0.8
            right.plot(epochs, 100 * values, marker=".", linewidth=wide, label=label)
        else:
            left.plot(epochs, values / (values[0] or 1.0), label=f"{name} (first: {values[0]:.3g})")
    left.set(xlabel="epoch", ylabel="loss, relative to the first epoch")
    right.set(xlabel="epoch", ylabel="accuracy behind the purifier (%)", ylim=(0, 100))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


class ImagePanel(keras.callbacks.Callback):
    """
    A fixed panel of images as ``panel.png`` after each epoch: adversarial, purified, clean, and what was removed.

    :param folder: Where.
    :param adversarial: (N, H, W, 3) in [0, 1], a few.
    :param clean: The same shape.
    :param every: Epochs between two panels.
    """

    def __init__(self, folder: Path, adversarial: np.ndarray, clean: np.ndarray, *, every: int = 1) -> None:
        super().__init__()
        self._folder, self._adversarial, self._clean, self._every = folder, adversarial, clean, every
        self._purify: Callable[[np.ndarray], np.ndarray] | None = None

    def draw(self) -> np.ndarray:
        """The panel, one column an image, (4 H, N W, 3) in [0, 1]; what was removed is four times as strong on grey."""
        if self._purify is None:
            self._purify = purifying(self.model.generator)
        with self.model.averaged():
            purified = np.clip(self._purify(self._adversarial), 0, 1)
        removed = np.clip(0.5 + 4 * (self._adversarial - purified), 0, 1)
        rows = [self._adversarial, purified, self._clean, removed]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Draw."""
        if (epoch + 1) % self._every == 0 or epoch + 1 == self.params["epochs"]:
            with atomic_path(self._folder / "panel.png") as temporary:
                Image.fromarray((255 * self.draw()).round().astype(np.uint8)).save(temporary, format="PNG")


class TensorBoard(keras.callbacks.Callback):
    """
    Losses, accuracies and the panel for TensorBoard.

    :param folder: Where.
    :param panel: The panel to show too.
    :raises ModuleNotFoundError: If the package tensorboard is missing.
    """

    def __init__(self, folder: Path, panel: ImagePanel | None = None) -> None:
        super().__init__()
        try:
            import tensorboard  # noqa: F401 - tf.summary fails later, and less clearly, without it
        except ModuleNotFoundError as err:
            raise ModuleNotFoundError(
                "Expected the package tensorboard (pip install 'art-versatile[tensorboard]'). Received an environment "
                "without it."
            ) from err
        self._folder, self._panel = folder, panel
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write."""
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        with self._writer.as_default(step=epoch):
            for name, value in (logs or {}).items():
                tf.summary.scalar(name, float(value))
            if self._panel is not None:
                tf.summary.image("adversarial, purified, clean, removed x4", self._panel.draw()[None])
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Close."""
        if self._writer is not None:
            self._writer.close()


class KeepWeights(keras.callbacks.Callback):
    """
    Hands out the generator with its running average after each epoch.

    :param history: The history that :class:`TrainingLog` extends; that callback comes before this one.
    :param save: Called with (generator, row of the history).
    """

    def __init__(self, history: list[dict[str, float]], save: Callable[[keras.Model, dict[str, float]], Any]) -> None:
        super().__init__()
        self._history, self._save = history, save

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Hand it out."""
        with self.model.averaged() as generator:
            self._save(generator, self._history[-1])


class KeepBest(KeepWeights):
    """
    Hands out the generator where it is the best so far, and stops where it has not become better for long.

    What is best is read from the history alone, so that a resumed run goes on as an uninterrupted one.

    :param history: See :class:`KeepWeights`.
    :param save: See there.
    :param monitor: Key of the logs; the largest value is the best, the first of equals.
    :param patience: Stop after so many measurements without a better one; None never stops.
    """

    def __init__(
        self,
        history: list[dict[str, float]],
        save: Callable[[keras.Model, dict[str, float]], Any],
        monitor: str,
        patience: int | None = None,
    ) -> None:
        super().__init__(history, save)
        self._monitor, self._patience = monitor, patience

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Hand it out, or stop."""
        if self._monitor not in self._history[-1]:
            return
        if _since_best(self._history, self._monitor) == 0:
            super().on_epoch_end(epoch, logs)
        elif patience_is_over(self._history, self._monitor, self._patience):
            logger.info("%s has not risen for %d measurements: stopping.", self._monitor, self._patience)
            self.model.stop_training = True


def _since_best(history: Sequence[Mapping[str, float]], monitor: str) -> int:
    """Measurements since the best one, the first of equals."""
    measured = [row[monitor] for row in history if monitor in row]
    return len(measured) - 1 - int(np.argmax(measured)) if measured else 0


def patience_is_over(history: Sequence[Mapping[str, float]], monitor: str, patience: int | None) -> bool:
    """
    Whether a run has stopped early, or should.

    :param history: One dictionary an epoch.
    :param monitor: The key that counts.
    :param patience: Measurements without a better one; None is never over.
    """
    return patience is not None and _since_best(history, monitor) >= patience


class StopTogether(keras.callbacks.Callback):
    """Ends training on all workers of a cluster where one of them has asked for it. Last among callbacks."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Compile the question."""
        strategy = self.model.distribute_strategy
        self._count = tf.function(
            lambda asked: strategy.reduce("SUM", strategy.run(tf.identity, args=(asked,)), axis=None)
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Ask the others."""
        self.model.stop_training = bool(self._count(tf.constant(float(self.model.stop_training))) > 0)


class Checkpoint(keras.callbacks.Callback):
    """
    All that training needs to go on, after each epoch: networks, optimizers with their averages, seeds, history.

    TensorFlow's own checkpoints: two are kept, and a new one counts only when it is whole. An epoch that was stopped
    before its last step is not kept: who goes on does it anew. Last among callbacks.

    :param folder: Where.
    :param model: A compiled :class:`~art_versatile.pix2pix.Pix2Pix`.
    :param history: The history that :class:`TrainingLog` extends; :meth:`restore` fills it.
    :param identity: What a run that goes on has to share with the one that stopped; JSON-able.
    :param write: Whether to write, or only to restore (the other workers of a cluster).
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        history: list[dict[str, float]],
        identity: dict[str, Any],
        *,
        write: bool = True,
    ) -> None:
        super().__init__()
        self._history, self._identity, self._write = history, json.loads(json.dumps(identity)), write
        self._steps: int | None = None
        networks = [model.generator, model.discriminator, model.optimizer, model.discriminator_optimizer]
        # Keras's own variables, seeds among them, in the order of the architecture.
        variables = [variable.value for part in networks if part is not None for variable in part.variables]
        variables += [variable.value for variable in getattr(model.perceptual, "variables", [])]
        self._state = tf.Variable("{}", dtype=tf.string, trainable=False)
        checkpoint = tf.train.Checkpoint(variables=variables, state=self._state)
        self._folder, self._checkpoint, self._listed = Path(folder), checkpoint, _listed(folder)
        if write:
            _mend_list(Path(folder), self._listed)
            self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)

    def restore(self) -> int:
        """
        Bring the newest checkpoint back, or the one before it where that cannot be read.

        :return: The epoch to go on with.
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
            other = [key for key, value in self._identity.items() if not _agrees(known, key, value)]
            if other:
                detail = "; ".join(f"{key}: {known.get(key)!r} there, {self._identity[key]!r} now" for key in other)
                raise ValueError(f"Expected the settings of the run that is to go on. Received others: {detail}.")
            self._checkpoint.restore(path).assert_consumed()
            self._history[:] = history
            return len(history)
        if not self._listed and len(found) < 2:
            return 0  # nothing, or a first one that a killed run was writing
        raise ValueError(
            f"Expected a checkpoint of this package. Received {found[0]}: {first_error!r}"
        ) from first_error

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the epoch's steps."""
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count them."""
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write."""
        steps = (self.params or {}).get("steps")
        if steps is not None and self._steps is not None and self._steps < steps:
            logger.warning("Epoch %d was stopped after %d of %d steps: no checkpoint.", epoch, self._steps, steps)
        elif self._write:
            self._state.assign(json.dumps({"identity": self._identity, "history": self._history}))
            self._manager.save(checkpoint_number=epoch + 1)


def checkpoints_in(folder: str | Path) -> list[str]:
    """The checkpoints whose files are in a run's folder, without the ending."""
    return [str(file.with_suffix("")) for file in Path(folder).glob("ckpt-*.index") if file.stem[5:].isdecimal()]


def holds_run(folder: str | Path) -> bool:
    """Whether a run's folder holds more than a first checkpoint that was never finished."""
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


def _agrees(known: Mapping[str, Any], key: str, now: Any) -> bool:
    """
    Whether a setting is what it was; one that an earlier version did not write, only where it is now off or empty.

    :param known: The settings that were written.
    :param key: Which one.
    :param now: Its value now.
    """
    if key not in known:
        return not now
    then = known[key]
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() <= now.keys() and all(_agrees(then, inner, value) for inner, value in now.items())
    return then == now


class Progress(keras.callbacks.Callback):
    """
    One bar over all steps of a run, with the losses and the time left. As a context, it closes the bar in any case.

    :param steps_per_epoch: Steps.
    :param shown: Whether to show it.
    """

    def __init__(self, steps_per_epoch: int, *, shown: bool = True) -> None:
        super().__init__()
        self._steps, self._shown, self._epoch = steps_per_epoch, shown, 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Open the bar."""
        self._epoch = epoch
        if self._bar is None:
            done, total = epoch * self._steps, self.params["epochs"] * self._steps
            self._bar = tqdm(total=total, initial=done, desc="train", unit="step", disable=not self._shown)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move it."""
        if self._shown:
            self._bar.update()
            losses = {key: f"{float(value):.3g}" for key, value in (logs or {}).items()}
            self._bar.set_postfix({"epoch": self._epoch, **losses}, refresh=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print what was measured."""
        measured = {key: value for key, value in (logs or {}).items() if key.startswith("val_")}
        if self._shown and measured:
            line = ", ".join(f"{key} {value:.3g}" for key, value in measured.items())
            self._bar.write(f"epoch {epoch}: {line}", file=sys.stderr)  # where the bar is
