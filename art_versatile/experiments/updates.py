"""What an update costs and what it forgets: a purifier of one attack learns others, one after another."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_versatile._checks import check_choice, check_integer, check_number
from art_versatile._files import write_text_atomically
from art_versatile.reports.text import ABSENT, format_percent, markdown_table

if TYPE_CHECKING:
    import numpy as np

    from art_versatile.pairs import MemoryPairs, PairStore
    from art_versatile.purifier import VersatilePurifier

__all__ = [
    "MODES",
    "SCALES",
    "StepRecord",
    "StudyPlan",
    "forgetting",
    "seconds_to_equal",
    "study_tables",
    "update_study",
]

#: How an update is made: old pairs that are replayed, and the weight of the former answers on them.
MODES: dict[str, tuple[bool, float]] = {
    "replay and distillation": (True, 1.0),
    "replay": (True, 0.0),
    "neither": (False, 0.0),
}
BASE, ANEW = "base", "anew"


@dataclass(frozen=True)
class StudyPlan:
    """
    Sizes of a study.

    :param train: Images that each attack is trained on.
    :param held: Images on which an update stops and is judged.
    :param test: Images on which the tables are measured.
    :param base_epochs: Of the purifier of the first attack, over its ``train`` pairs.
    :param epochs: Of each update, at most.
    :param anew_epochs: Of the training from scratch on the pairs of all attacks; 0 leaves it out.
    :param memory: Old pairs that an update replays, at most.
    :param tolerance: Of :meth:`art_versatile.VersatileTrainer.update`; with 1 no drop is refused and forgetting seen.
    :param patience: Epochs of an update without a better one after which it stops.
    :param margin: What counts as equal quality, 0 to 1.
    :param batch_size: Pairs a step.
    :param learning_rate: Of the updates.
    :param modes: Out of :data:`MODES`.
    :param seed: Of all that is drawn.
    :raises ValueError: If one is not as expected.
    """

    train: int = 48
    held: int = 24
    test: int = 40
    base_epochs: int = 60
    epochs: int = 8
    anew_epochs: int = 20
    memory: int = 48
    tolerance: float = 1.0
    patience: int = 3
    margin: float = 0.02
    batch_size: int = 8
    learning_rate: float = 2e-4
    modes: Sequence[str] = tuple(MODES)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "held", "test", "base_epochs", "epochs", "memory", "patience", "batch_size"):
            check_integer(name, getattr(self, name))
        check_integer("anew_epochs", self.anew_epochs, least=0)
        for name in ("tolerance", "margin"):
            check_number(name, getattr(self, name), 0, 1)
        for mode in self.modes:
            check_choice("modes", mode, tuple(MODES))

    @property
    def images(self) -> int:
        """Images in all."""
        return self.train + self.held + self.test


#: Sizes by name; "small" is for two CPU cores.
SCALES: dict[str, StudyPlan] = {
    "smoke": StudyPlan(train=6, held=4, test=4, base_epochs=1, epochs=1, anew_epochs=2, memory=4, batch_size=4),
    "small": StudyPlan(),
    "full": StudyPlan(train=1000, held=200, test=300, base_epochs=40, epochs=10, anew_epochs=40, memory=1000),
}


@dataclass(frozen=True)
class StepRecord:
    """
    One step of one chain of purifiers.

    :param mode: Out of :data:`MODES`; "base" for the first purifier, "anew" for one trained on all attacks at once.
    :param step: 0 for the base, then the number of the attack that was added.
    :param attack: The attack that was added.
    :param accuracy: On the test pairs, 0 to 1: "clean", and every attack of the study, learnt or not.
    :param learnt: The attacks that were learnt by then.
    :param accepted: Whether the update was taken; where not, the purifier is the one before.
    :param pairs: New pairs that were trained on.
    :param replayed: Old pairs besides.
    :param attack_seconds: Time it took to make the new pairs, those for training alone.
    :param training_seconds: Time of the training, with the measurements after each epoch.
    :param epochs: Epochs of it.
    :param equal_seconds: Of "anew": seconds of training until it was as good on held pairs as the last update of the
        first mode, within the margin; None if never.
    :param weights_sha256: Of the purifier's weights file.
    :param settings: Of the study.
    """

    mode: str
    step: int
    attack: str
    accuracy: dict[str, float]
    learnt: list[str]
    accepted: bool
    pairs: int
    replayed: int
    attack_seconds: float
    training_seconds: float
    epochs: int
    weights_sha256: str
    equal_seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def update_study(
    classifier: Any,
    attacks: Mapping[str, Any],
    images: np.ndarray,
    out: str | Path,
    *,
    labels: np.ndarray | None = None,
    plan: StudyPlan | None = None,
    start: VersatilePurifier | None = None,
    known: int = 1,
    preset: Any = "compact",
    verbose: bool = True,
) -> list[StepRecord]:
    """
    Train a purifier of the first attack, add the others one after another in each mode, then train one anew on all.

    A few dozen pairs make no good purifier, and a bad one has nothing to forget: ``start`` begins with a trained one.

    Called again with the same arguments it goes on: pairs, runs and steps that are there are kept.

    :param classifier: ART classifier of images in (N, H, W, 3).
    :param attacks: Name -> attack on it, at least two, in their order.
    :param images: (N, H, W, 3) in its ``clip_values``: the first are trained on, the next are held, then tested.
    :param out: Folder: ``pairs/``, a folder for each run, ``records/``, ``records.json``, ``updates.md``.
    :param labels: Right classes, (N,); None takes the classifier's own clean predictions, so that an accuracy is the
        share of answers that are as without an attack.
    :param plan: Sizes; None takes "small".
    :param start: The first purifier, instead of one that is trained on pairs of the first attack.
    :param known: How many of the attacks, the first ones, ``start`` was trained on: they are replayed, not added.
    :param preset: Recipe, as in :class:`art_versatile.VersatileTrainer`.
    :param verbose: Show progress.
    :return: The records.
    :raises ValueError: If there are fewer images or attacks than needed, or the folder is of another study.
    """
    plan = SCALES["small"] if plan is None else plan
    if len(attacks) < 2:
        raise ValueError(f"Expected at least two attacks. Received {list(attacks)}.")
    if not 1 <= known < len(attacks):
        raise ValueError(f"Expected known from 1 to {len(attacks) - 1}, one less than attacks. Received {known}.")
    if known > 1 and start is None:
        raise ValueError(f"Expected start, the purifier that knows {known} attacks. Received None.")
    if len(images) < plan.images:
        raise ValueError(f"Expected at least {plan.images} images. Received {len(images)}.")
    return _Study(classifier, dict(attacks), images, labels, Path(out), plan, start, known, preset, verbose).run()


class _Study:
    """The stages of :func:`update_study`."""

    def __init__(
        self,
        classifier: Any,
        attacks: dict[str, Any],
        images: np.ndarray,
        labels: np.ndarray | None,
        out: Path,
        plan: StudyPlan,
        start: VersatilePurifier | None,
        known: int,
        preset: Any,
        verbose: bool,
    ) -> None:
        from art_versatile.attacks.description import attack_parameters

        self.classifier, self.attacks, self.out, self.plan = classifier, attacks, out, plan
        self.start, self.known = start, list(attacks)[:known]
        self.preset, self.verbose = preset, verbose
        self.parts = {}
        first = 0
        for name in ("train", "held", "test"):
            rows = slice(first, first + getattr(plan, name))
            self.parts[name] = (images[rows], None if labels is None else labels[rows])
            first = rows.stop
        self.settings = json.loads(
            json.dumps(
                {
                    **dataclasses.asdict(plan),
                    "image_shape": images.shape[1:],
                    "attacks": {name: attack_parameters(attack) for name, attack in attacks.items()},
                    "labels": "predicted" if labels is None else "given",
                    "start": None if start is None else start.fingerprint,
                    "known": known,
                }
            )
        )
        file = out / "study.json"
        if file.is_file() and json.loads(file.read_text()) != self.settings:
            raise ValueError(
                f"Expected the settings of the study in {out}. Received others; another folder takes them."
            )
        write_text_atomically(file, json.dumps(self.settings, indent=1) + "\n")

    def run(self) -> list[StepRecord]:
        stores = {name: self._stores(name) for name in self.attacks}
        self.train = {name: found["train"] for name, found in stores.items()}
        self.held = {name: found["held"].arrays() for name, found in stores.items()}
        self.test = {name: found["test"].arrays() for name, found in stores.items()}
        others = list(self.attacks)[len(self.known) :]
        records = [self._once(BASE, 0, self._base)]
        for mode in self.plan.modes:
            parent = self.out / "base" / "purifier"
            for step, name in enumerate(others, 1):
                records.append(self._once(mode, step, functools.partial(self._update, mode, step, name, parent)))
                parent = self._folder(mode, step) / "purifier"
        if self.plan.anew_epochs:
            last = len(others)
            records.append(
                self._once(
                    ANEW, last, lambda: self._from_scratch(ANEW, list(self.attacks), self.plan.anew_epochs, parent=last)
                )
            )
        write_text_atomically(
            self.out / "records.json", json.dumps([dataclasses.asdict(record) for record in records], indent=1) + "\n"
        )
        write_text_atomically(self.out / "updates.md", study_tables(records))
        return records

    def _folder(self, mode: str, step: int) -> Path:
        return self.out / "base" if mode == BASE else self.out / mode.replace(" ", "-") / f"{step:02d}"

    def _once(self, mode: str, step: int, make: Any) -> StepRecord:
        """The record of a step, made where it is not there."""
        path = self.out / "records" / f"{mode.replace(' ', '-')}-{step:02d}.json"
        if path.is_file():
            return StepRecord(**json.loads(path.read_text()))
        record = make()
        write_text_atomically(path, json.dumps(dataclasses.asdict(record), indent=1) + "\n")
        return record

    def _stores(self, name: str) -> dict[str, PairStore]:
        """The pairs of an attack, and how long those for training took."""
        from art_versatile.pairs import generate_pairs

        folder = self.out / "pairs" / str(list(self.attacks).index(name))
        found = {}
        for part, (x, y) in self.parts.items():
            start = time.perf_counter()
            found[part] = generate_pairs(
                x, self.classifier, {name: self.attacks[name]}, folder / part, labels=y, seed=self.plan.seed,
                verbose=self.verbose, n_jobs=1,
            )  # fmt: skip
            cost = folder / f"{part}.seconds.json"
            if not cost.is_file():
                write_text_atomically(cost, json.dumps(time.perf_counter() - start) + "\n")
        return found

    def _seconds(self, name: str) -> float:
        number = list(self.attacks).index(name)
        return json.loads((self.out / "pairs" / str(number) / "train.seconds.json").read_text())

    def _trainer(self, names: Sequence[str], purifier: VersatilePurifier | None) -> Any:
        from art_versatile.trainer import VersatileTrainer

        return VersatileTrainer(
            self.classifier,
            {name: self.attacks[name] for name in names},
            purifier,
            preset=self.preset,
            seed=self.plan.seed,
            verbose=self.verbose,
        )

    def _base(self) -> StepRecord:
        """The purifier that the updates begin with."""
        if self.start is None:
            return self._from_scratch(BASE, self.known, self.plan.base_epochs)
        folder = self._folder(BASE, 0)
        self.start.save(folder / "purifier")
        return self._record(BASE, 0, self.known[-1], self.known, folder, [], pairs=0)

    def _from_scratch(self, mode: str, names: list[str], epochs: int, parent: int = 0) -> StepRecord:
        """A new purifier, trained on the pairs of all these attacks."""
        from art_versatile.pairs import JoinedPairs
        from art_versatile.training.updating import EpochClock

        trainer, folder = self._trainer(names, None), self._folder(mode, parent)
        trainer.fit(
            JoinedPairs([self.train[name] for name in names]),
            batch_size=self.plan.batch_size,
            nb_epochs=epochs,
            validation_data=self._joined(self.held, names) if mode == ANEW else None,
            callbacks=[EpochClock()],
            out=folder / "run",
            resume=True,
        )
        history = _history(folder / "run")
        trainer.purifier.save(folder / "purifier")
        equal = None
        if mode == ANEW:
            equal = seconds_to_equal(history, self._held_accuracy(self.plan.modes[0], parent), names, self.plan.margin)
        pairs = sum(len(self.train[name]) for name in names)
        return self._record(mode, parent, names[-1], names, folder, history, pairs=pairs, equal_seconds=equal)

    def _update(self, mode: str, step: int, name: str, parent: Path) -> StepRecord:
        """One attack more."""
        from art_versatile.pairs import JoinedPairs
        from art_versatile.purifier import VersatilePurifier

        replayed, distillation = MODES[mode]
        folder, learnt = self._folder(mode, step), list(self.attacks)[: len(self.known) + step - 1]
        trainer = self._trainer([*learnt, name], VersatilePurifier.from_pretrained(parent))
        found = trainer.update(
            self.train[name],
            old=JoinedPairs([self.train[known] for known in learnt]) if replayed else None,
            memory=self.plan.memory if replayed else 0,
            distillation=distillation,
            tolerance=self.plan.tolerance,
            validation_data=self._joined(self.held, [name, *learnt]),
            patience=self.plan.patience,
            batch_size=self.plan.batch_size,
            nb_epochs=self.plan.epochs,
            learning_rate=self.plan.learning_rate,
            out=folder / "run",
            resume=True,
        )
        trainer.purifier.save(folder / "purifier")
        cost = found.lineage["cost"]
        return self._record(
            mode, step, name, [*learnt, name], folder, found.history, accepted=found.accepted, pairs=cost["new_pairs"],
            replayed=cost["replayed_pairs"],
        )  # fmt: skip

    def _record(
        self,
        mode: str,
        step: int,
        attack: str,
        learnt: list[str],
        folder: Path,
        history: list[dict[str, float]],
        *,
        accepted: bool = True,
        pairs: int,
        replayed: int = 0,
        equal_seconds: float | None = None,
    ) -> StepRecord:
        made = learnt if mode == ANEW else [attack]
        return StepRecord(
            mode=mode,
            step=step,
            attack=attack,
            accuracy=self._measured(folder / "purifier", self._joined(self.test, list(self.attacks))),
            learnt=learnt,
            accepted=accepted,
            pairs=pairs,
            replayed=replayed,
            attack_seconds=sum(self._seconds(name) for name in made) if pairs else 0.0,
            training_seconds=sum(row["seconds"] for row in history),
            epochs=len(history),
            weights_sha256=json.loads((folder / "purifier" / "card.json").read_text())["weights"]["sha256"],
            equal_seconds=equal_seconds,
            settings=self.settings,
        )

    def _held_accuracy(self, mode: str, step: int) -> dict[str, float]:
        return self._measured(self._folder(mode, step) / "purifier", self._joined(self.held, list(self.attacks)))

    def _measured(self, purifier: Path, pairs: MemoryPairs) -> dict[str, float]:
        """Accuracy by attack behind a purifier."""
        from art_versatile.purifier import VersatilePurifier
        from art_versatile.training.monitor import RecoveredAccuracy, purifying
        from art_versatile.training.updating import accuracies

        low, high = pairs.clip_values

        def classify(images: np.ndarray) -> np.ndarray:
            return self.classifier.predict((images * (high - low) + low).astype("float32"))

        generator = VersatilePurifier.from_pretrained(purifier).generator
        return accuracies(RecoveredAccuracy(pairs, classify)(purifying(generator)))

    @staticmethod
    def _joined(parts: Mapping[str, MemoryPairs], names: Sequence[str]) -> MemoryPairs:
        from art_versatile.pairs.replay import joined

        return joined([parts[name] for name in names])


def _history(run: Path) -> list[dict[str, float]]:
    """The log of a run."""
    with (run / "log.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def seconds_to_equal(
    history: Sequence[Mapping[str, float]], target: Mapping[str, float], names: Sequence[str], margin: float
) -> float | None:
    """
    How long a training took until it was as good as another purifier.

    :param history: One dictionary an epoch, with ``seconds`` and ``val_accuracy/<attack>``.
    :param target: The other's accuracy by attack, 0 to 1.
    :param names: Attacks, of which the last is the new one.
    :param margin: What counts as equal: the mean over the old attacks, and the new one, no lower than so much.
    :return: Seconds up to the end of the first such epoch; None if there is none.
    """
    passed = 0.0
    for row in history:
        passed += row["seconds"]
        found = {name: row[f"val_accuracy/{name}"] for name in names}
        groups = [group for group in (names[:-1], names[-1:]) if group]
        if all(
            sum(found[name] for name in group) >= sum(target[name] - margin for name in group) - 1e-9
            for group in groups
        ):
            return passed
    return None


def forgetting(chain: Sequence[StepRecord]) -> float | None:
    """
    Mean over the attacks that were learnt before the last step of what is lost: the best accuracy since the attack was
    learnt, less that of the last step (Chaudhry et al., arXiv 1801.10112, section 3). Negative where it became better.

    :param chain: Records of one chain, the base first.
    :return: -1 to 1; None with one record.
    """
    *before, last = sorted(chain, key=lambda record: record.step)
    lost = [
        max(record.accuracy[name] for record in before if name in record.learnt) - last.accuracy[name]
        for name in (before[-1].learnt if before else [])
    ]
    return sum(lost) / len(lost) if lost else None


def study_tables(records: Sequence[StepRecord]) -> str:
    """
    The study in Markdown: accuracy by step and attack for each mode, what was forgotten, what it cost.

    :param records: From :func:`update_study`.
    """
    base = [record for record in records if record.mode == BASE]
    first = ", ".join(base[0].learnt)
    anew = [record for record in records if record.mode == ANEW]
    modes = [mode for mode in MODES if any(record.mode == mode for record in records)]
    chains = {mode: [*base, *(record for record in records if record.mode == mode)] for mode in modes}
    names = list(base[0].accuracy)
    settings = base[0].settings
    tests = f"{settings['test']} test images under each attack" if "test" in settings else "test images"
    parts = []
    for mode, chain in chains.items():
        rows = []
        for record in [*chain, *anew]:
            title = {BASE: first, ANEW: "all anew"}.get(record.mode, f"+ {record.attack}")
            cells = [
                format_percent(record.accuracy[name]) + "*" * (name != "clean" and name not in record.learnt)
                for name in names
            ]
            rows.append([title + " (refused)" * (not record.accepted), *cells])
        note = f"Accuracy in percent on {tests}. *: not learnt yet."
        parts.append(markdown_table(f"Updates with {mode}", ["step", *names], rows, note))
    rows = []
    for mode, chain in chains.items():
        lost, last = forgetting(chain), max(chain, key=lambda record: record.step)
        mean = sum(last.accuracy[name] for name in last.learnt) / len(last.learnt)
        forgotten = ABSENT if lost is None else f"{100 * lost:+.1f}"
        rows.append([mode, forgotten, format_percent(last.accuracy["clean"]), format_percent(mean)])
    parts.append(
        markdown_table(
            "Forgetting",
            ["mode", "forgotten, points", "clean at the end", "mean of the attacks"],
            rows,
            "Forgotten: mean over the old attacks of the best accuracy since they were learnt less the last one.",
        )
    )
    parts.append(_cost_table(chains, anew))
    return "\n".join(parts)


def _cost_table(chains: Mapping[str, Sequence[StepRecord]], anew: Sequence[StepRecord]) -> str:
    rows = []
    every = [record for chain in chains.values() for record in chain if record.mode != BASE]
    for record in [*next(iter(chains.values()))[:1], *every, *anew]:
        equal = ABSENT
        if record.mode == ANEW:
            equal = "never" if record.equal_seconds is None else f"{record.equal_seconds:.0f}"
        rows.append([
            record.mode if record.mode in (BASE, ANEW) else f"{record.mode}: + {record.attack}",
            str(record.pairs), str(record.replayed), f"{record.attack_seconds:.0f}", f"{record.training_seconds:.0f}",
            str(record.epochs), equal,
        ])  # fmt: skip
    header = ["step", "new pairs", "replayed", "attacking, s", "training, s", "epochs", "equal after, s"]
    note = (
        "Equal after: seconds of the training anew until its held accuracy, of the old attacks and of the new one, was "
        "that of the last update of the first mode within the margin."
    )
    return markdown_table("Cost", header, rows, note)
