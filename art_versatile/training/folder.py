"""The folder of a training run: log, curves, panel, last and best weights, checkpoints, and the order they come in."""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from art_versatile import weights
from art_versatile._files import atomic_path
from art_versatile.training.checkpoint import Checkpoint, holds_run
from art_versatile.training.monitor import patience_is_over, purifying, since_best
from art_versatile.training.watch import overfitted

__all__ = ["CHECKPOINTS", "RunFolder", "draw_curves", "draw_panel", "write_log"]

CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"

logger = logging.getLogger(__name__)


class RunFolder:
    """
    What a training run leaves, of a purifier and of any other network alike.

    After each epoch, in this order: the history gets a row; ``log.csv`` and ``curves.png``; ``last/`` and, where the
    epoch is the best so far, ``best/`` (weights and card); ``panel.png``; ``tensorboard/``; and last ``checkpoints/``,
    from which a run goes on. So a run that is killed anywhere between does its last epoch anew. An epoch that was
    stopped before its last step has no checkpoint.

    :param path: The folder; None writes nothing and keeps the history.
    :param resume: Whether the run may go on with what is there.
    :param monitor: What the best weights are best in, a key of the logs; None keeps no best.
    :param patience: Stop after so many measurements without a better one; None never stops.
    :param drop: Stop at catastrophic overfitting, see :func:`~art_versatile.training.watch.overfitted`; None never
        stops.
    :param tensorboard: Also write for TensorBoard.
    :raises FileExistsError: If the folder holds a run and ``resume`` is False.
    :raises ModuleNotFoundError: If the package tensorboard is missing.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        resume: bool = False,
        monitor: str | None = None,
        patience: int | None = None,
        drop: float | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.monitor, self.patience, self.drop, self.tensorboard = monitor, patience, drop, tensorboard
        self.history: list[dict[str, float]] = []
        self._best: list[np.ndarray] | None = None
        if self.path is not None and not resume and holds_run(self.path / CHECKPOINTS):
            raise FileExistsError(f"Expected no run in {path}; resume=True goes on with it. Received one.")
        if tensorboard:
            try:
                import_module("tensorboard")  # tf.summary fails later, and less clearly, without it
            except ModuleNotFoundError as err:
                raise ModuleNotFoundError(
                    "Expected the package tensorboard (pip install 'art-versatile[tensorboard]'). Received an "
                    "environment without it."
                ) from err
        self.checkpoint: Checkpoint | None = None

    def restore(self, variables: Iterable[Any], identity: dict[str, Any], *, write: bool = True) -> int:
        """
        Bring back what the run was when it stopped.

        :param variables: Keras variables of all networks and optimizers, and seeds, in the order of the architecture.
        :param identity: What a run that goes on has to share with the one that stopped; JSON-able.
        :param write: Whether this process writes; of several workers the chief alone does.
        :return: Epochs that are done.
        :raises ValueError: If the run there is another one, or cannot be read; nothing has been changed then.
        """
        if self.path is not None:
            self.checkpoint = Checkpoint(self.path / CHECKPOINTS, variables, identity, write=write)
            self.history[:] = self.checkpoint.restore()
            if not write:
                self.path = None
        return len(self.history)

    @property
    def patience_is_over(self) -> bool:
        """Whether the run has stopped early, or should."""
        return patience_is_over(self.history, self.monitor, self.patience)

    @property
    def overfitted(self) -> bool:
        """Whether the run has stopped for catastrophic overfitting, or should."""
        return overfitted(self.history, self.drop)

    @property
    def is_best(self) -> bool:
        """Whether the last epoch was measured and is the best so far."""
        measured = bool(self.history) and self.monitor in self.history[-1]
        return measured and since_best(self.history, str(self.monitor)) == 0

    def keep_best(self, network: keras.Model) -> None:
        """
        Hold the weights of the best epoch in memory, where the run may go back to them.

        :param network: The network as it is now.
        """
        if self.drop is not None and self.is_best:
            self._best = network.get_weights()

    def best_weights(self) -> list[np.ndarray]:
        """
        The purifier's weights in its best epoch: of this process, or else of ``best/``.

        :raises ValueError: If none was kept.
        """
        if self._best is not None:
            return self._best
        if self.path is None:
            raise ValueError("Expected weights of a best epoch. Received a run that kept none.")
        return weights.load(self.path / "best")[0].get_weights()

    def callback(
        self,
        network: Callable[[], contextlib.AbstractContextManager[keras.Model]],
        save: Callable[[keras.Model, Path, dict[str, Any]], Any] = lambda network, path, card: weights.save(
            network, path, card=card
        ),
        *,
        card: dict[str, Any] | None = None,
        examples: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> keras.callbacks.Callback:
        """
        What drives all of it out of ``fit``: last among callbacks.

        :param network: A context in which the network is as it is to be kept.
        :param save: (network, folder, card) writes weights.
        :param card: Facts for the cards; JSON-able. The row of the history comes with them.
        :param examples: Adversarial and clean images (N, H, W, 3) in [0, 1], a few, for the panel.
        """
        return _Driver(self, network, save, card or {}, examples)

    def add(self, epoch: int, logs: dict[str, Any], learning_rate: float) -> None:
        """
        The row of an epoch, in place of one that is done again; log and curves.

        :param epoch: From 0.
        :param logs: Losses and measurements.
        :param learning_rate: At its end.
        """
        del self.history[epoch:]
        values = {key: float(value) for key, value in logs.items()}
        self.history.append({"epoch": epoch, **values, "learning_rate": learning_rate})
        if self.path is not None:
            write_log(self.path / "log.csv", self.history)
            draw_curves(self.path / "curves.png", self.history)


class _Driver(keras.callbacks.Callback):
    """What :meth:`RunFolder.callback` returns."""

    def __init__(
        self, folder: RunFolder, network: Any, save: Any, card: dict[str, Any], examples: tuple[Any, Any] | None
    ) -> None:
        super().__init__()
        self._folder, self._network, self._save = folder, network, save
        self._card, self._examples = card, examples
        self._steps = 0
        self._purify: Callable[[np.ndarray], np.ndarray] | None = None
        self._count: Any = None  # asks the other workers
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Compile the question that the workers of a cluster ask each other."""
        strategy = self.model.distribute_strategy
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            self._count = tf.function(
                lambda asked: strategy.reduce("SUM", strategy.run(tf.identity, args=(asked,)), axis=None)
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the epoch's steps."""
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count them."""
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write; stop where it is time to, all workers of a cluster together."""
        folder = self._folder
        folder.add(epoch, logs or {}, float(tf.convert_to_tensor(self.model.optimizer.learning_rate)))
        with self._network() as network:
            folder.keep_best(network)
        if folder.path is not None:
            with self._network() as network:
                self._keep(network, folder.path, folder.history[-1])
                panel = None if self._examples is None else self._panel(network, *self._examples)
            self._draw(panel, folder.path, folder.history[-1])
        if folder.monitor in folder.history[-1] and folder.patience_is_over:
            logger.info("%s has not risen for %d measurements: stopping.", folder.monitor, folder.patience)
            self.model.stop_training = True
        if folder.overfitted:
            logger.warning("Catastrophic overfitting in epoch %d: stopping, back to the best weights.", epoch)
            self.model.stop_training = True
        if folder.checkpoint is not None:
            steps = self.params["steps"]
            if steps is not None and self._steps < steps:
                logger.warning("Epoch %d was stopped after %d of %d steps: no checkpoint.", epoch, self._steps, steps)
            else:
                folder.checkpoint.save(folder.history)
        if self._count is not None:
            self.model.stop_training = bool(self._count(tf.constant(float(self.model.stop_training))) > 0)

    def _keep(self, network: keras.Model, path: Path, row: dict[str, float]) -> None:
        """Last and best weights."""
        folder = self._folder
        measured = [
            {key: value for key, value in past.items() if key == "epoch" or key.startswith("val_")}
            for past in folder.history
            if any(key.startswith("val_") for key in past)
        ]
        card = {**self._card, "epoch": row, **({"measured": measured} if measured else {})}
        self._save(network, path / "last", card)
        if folder.is_best:
            self._save(network, path / "best", card)

    def _draw(self, panel: np.ndarray | None, path: Path, row: dict[str, float]) -> None:
        """The panel, and what TensorBoard shows."""
        if panel is not None:
            with atomic_path(path / "panel.png") as temporary:
                Image.fromarray((255 * panel).round().astype(np.uint8)).save(temporary, format="PNG")
        if not self._folder.tensorboard:
            return
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(path / TENSORBOARD))
        with self._writer.as_default(step=int(row["epoch"])):
            for name in row.keys() - {"epoch"}:
                tf.summary.scalar(name, row[name])
            if panel is not None:
                tf.summary.image("adversarial, purified, clean, removed x4", panel[None])
        self._writer.flush()

    def _panel(self, network: keras.Model, adversarial: np.ndarray, clean: np.ndarray) -> np.ndarray:
        if self._purify is None:
            self._purify = purifying(network)
        return draw_panel(adversarial, self._purify(adversarial), clean)


def draw_panel(adversarial: np.ndarray, purified: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """
    A panel, one column an image: adversarial, purified, clean, and what was removed, four times as strong on grey.

    :param adversarial: (N, H, W, 3) in [0, 1].
    :param purified: The same shape; it is clipped.
    :param clean: The same shape.
    :return: (4 H, N W, 3) in [0, 1].
    """
    purified = np.clip(purified, 0, 1)
    removed = np.clip(0.5 + 4 * (adversarial - purified), 0, 1)
    rows = [adversarial, purified, clean, removed]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


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
    Draw a history: losses on the left (each relative to its first value), accuracies on the right; no other measures.

    :param path: A PNG file.
    :param history: One dictionary an epoch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(key for row in history for key in row):
        points = [(row["epoch"] + 1, row[name]) for row in history if name in row]
        measured = name.startswith("val_")
        if name in ("epoch", "learning_rate", "seconds") or (measured and "accuracy" not in name):
            continue
        epochs, values = (np.array(part, float) for part in zip(*points, strict=True))
        if measured:
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
