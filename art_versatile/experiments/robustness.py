"""Everything that an expert asks of a defence, in one run: static, transferred, query and adaptive attacks, checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_choice, check_integer, check_number
from art_versatile.evaluation.checks import control_checks, masking_checks, verdict, with_flags
from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, UNBOUNDED, Check, EvaluationRecord
from art_versatile.experiments.panels import in_turn, make_panels, progress_line

if TYPE_CHECKING:
    from art_versatile.evaluation.benchmark import Benchmark

__all__ = ["CONTROLS", "OTHER_BUDGETS", "STATIC", "THREATS", "Robustness", "evaluate"]

#: What can be run, in this order.
THREATS = ("static", "transfer", "query", "adaptive")
#: Defences that must fall, and one that does nothing: they measure the attacks, not the defence.
CONTROLS = ("control: identity", "control: RandomResizing", "control: PixelDeflection")
#: Attacks on the undefended classifier: the paper's six and the one it never trains on.
STATIC = ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool")
#: Those of them at further budgets.
OTHER_BUDGETS = ("FGSM", "PGD", "MI-FGSM")


@dataclass(frozen=True)
class Robustness:
    """
    What :func:`evaluate` found.

    :param records: One a cell, with the flags of failed checks.
    :param checks: Of each defence, then of the controls.
    :param verdicts: One sentence a defence.
    """

    records: list[EvaluationRecord]
    checks: list[Check]
    verdicts: list[str]


def evaluate(
    classifier: Any,
    defences: Mapping[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    out: str | Path,
    *,
    dataset: str,
    classifier_name: str,
    eps: float = 8 / 255,
    other_eps: Sequence[float] = (),
    preset: str = "quick",
    max_iter: int | None = None,
    attacks: Sequence[str] | None = None,
    threats: Sequence[str] = THREATS,
    surrogate: Any = None,
    surrogate_name: str = "surrogate",
    controls: int = 0,
    eot_samples: int = 20,
    evaluations: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> Robustness:
    """
    Attack a classifier without and behind defences in every way that this package has.

    - static: the paper's six attacks and DeepFool on the undefended classifier at ``eps``; FGSM, PGD and MI-FGSM at
      ``other_eps``;
    - transfer: PGD and MI-FGSM on another classifier, ``surrogate``;
    - query: Square on the scores of the defended classifier;
    - adaptive: :func:`art_versatile.attacks.adaptive_attacks` at ``eps``, PGD with three times the iterations, PGD at
      ``other_eps`` and at half of the pixel range. Random defences under EOT, evaluated ``evaluations`` times.

    Writes ``records.json`` (and ``controls.json``) after every cell, and called again goes on where it stopped; at the
    end ``report.html``, with pictures of the attacks of this call.

    :param classifier: An undefended ART classifier with ``clip_values=(0, 1)``, of logits.
    :param defences: Name -> ART preprocessor.
    :param x: Images (N, H, W, 3) in [0, 1].
    :param y: True class indices (N,).
    :param out: Folder for the files.
    :param dataset: Name of the images.
    :param classifier_name: Name of the classifier.
    :param eps: The main budget, pixels in [0, 1].
    :param other_eps: Further budgets.
    :param preset: "quick", or "paper" (the paper's budgets; the adaptive attacks' preset is then "full").
    :param max_iter: Iterations of BIM, PGD and MI-FGSM on the undefended classifier; the preset's by default.
    :param attacks: The static attacks, out of the paper's six and DeepFool; None runs all.
    :param threats: Out of :data:`THREATS`.
    :param surrogate: The classifier of the transferred attacks; None leaves them out.
    :param surrogate_name: Its name, for the records.
    :param controls: Attack the :data:`CONTROLS` too, on the first so many images; 0 leaves them out.
    :param eot_samples: Draws of a random defence that each gradient is the mean of.
    :param evaluations: Of a random defence.
    :param batch_size: Images attacked at once.
    :param seed: Of the attacks and the draws.
    :param names: Of the images, for the page.
    :param class_names: Of the classes, for the page.
    :param report: Called with one line of text after each attack.
    :return: Records, checks and verdicts.
    :raises ValueError: If a parameter is not as expected.
    """
    check_choice("preset", preset, ("quick", "paper"))
    for budget in (eps, *other_eps):
        check_number("eps", budget, np.nextafter(0, 1), 1)
    for threat in threats:
        check_choice("threats", threat, THREATS)
    check_integer("controls", controls, 0)
    for attack in attacks or ():
        check_choice("attacks", attack, STATIC)
    if tuple(classifier.clip_values) != (0, 1) or getattr(classifier, "channels_first", False):
        raise ValueError(
            "Expected a classifier with clip_values=(0, 1) and channels last. Received "
            f"{classifier.clip_values}, channels_first={classifier.channels_first}."
        )
    if classifier.nb_classes < 3 and (attacks is None or "AutoAttack" in attacks):
        raise ValueError("Expected attacks without AutoAttack for a classifier of two classes. Received it.")
    reserved = sorted(set(defences) & {*CONTROLS, NO_DEFENCE})
    if reserved or not defences:
        raise ValueError(f"Expected defences by other names than {[NO_DEFENCE, *CONTROLS]}. Received {list(defences)}.")

    from art_versatile.attacks.compiled import compile_attack, compile_classifier
    from art_versatile.attacks.suite import paper_attacks
    from art_versatile.evaluation.benchmark import Benchmark

    tell = report or (lambda line: None)
    started = time.perf_counter()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    target = compile_classifier(classifier)
    common: dict[str, Any] = {
        "classifier": target,
        "dataset": dataset,
        "classifier_name": classifier_name,
        "preset": preset,
        "seed": seed,
        "batch_size": batch_size,
        "evaluations": evaluations,
        "file": folder / "records.json",
    }
    settings: dict[str, Any] = {"effort": preset, "max_iter": max_iter, "batch_size": batch_size}
    benchmark = Benchmark(x=x, y=y, defences=defences, **common)
    runs = _Runs(benchmark, tell)
    runs.clean()
    if "static" in threats:
        chosen = STATIC if attacks is None else attacks
        for name, attack in paper_attacks(target, float(eps), names=chosen, **settings).items():
            runs.static(name, compile_attack(attack))
        for budget in other_eps:
            suite = paper_attacks(target, eps=float(budget), **settings)
            for name in OTHER_BUDGETS if attacks is None else [a for a in attacks if a in OTHER_BUDGETS]:
                runs.static(name, compile_attack(suite[name]))
    if "transfer" in threats and surrogate is not None:
        suite = paper_attacks(compile_classifier(surrogate), eps=float(eps), **settings)
        for name in ("PGD", "MI-FGSM"):
            runs.static(f"transferred {name}", compile_attack(suite[name]), "transfer", {"surrogate": surrogate_name})
    benchmark.preset = "quick" if preset == "quick" else "full"
    arguments: dict[str, Any] = {
        "eps": float(eps),
        "other_eps": [float(budget) for budget in other_eps],
        "preset": benchmark.preset,
        "eot_samples": eot_samples,
        "batch_size": batch_size,
        "seed": seed,
    }
    for name in defences:
        _attack_defence(runs, name, threats=threats, **arguments)
    checks = masking_checks(benchmark.records)
    if controls:
        # Fewer images: records of their own, in a file of their own.
        common |= {"preset": "quick", "file": folder / "controls.json"}
        few = Benchmark(x=x[:controls], y=y[:controls], defences=_controls(seed), **common)
        _attack_controls(_Runs(few, tell), float(eps), eot_samples, batch_size, seed)
        checks += control_checks(few.records, *CONTROLS)
    records = with_flags(benchmark.records)
    benchmark.revise(records)
    verdicts = [verdict(records, name) for name in defences]
    _write_page(folder, records, checks, verdicts, benchmark, names, class_names, runs.pictures, started)
    return Robustness(records, checks, verdicts)


class _Runs:
    """Attacks of a benchmark that are not there yet, and a line of text about each."""

    def __init__(self, benchmark: Benchmark, tell: Callable[[str], None]) -> None:
        self.benchmark, self.tell = benchmark, tell
        self.pictures: dict[str, tuple[int, np.ndarray]] = {}

    def clean(self) -> None:
        self.benchmark.clean()
        self._say(CLEAN, CLEAN)

    def static(
        self, name: str, attack: Any, threat_model: str = "static", extra: Mapping[str, Any] | None = None
    ) -> None:
        if not self.benchmark.done(name, attack, threat_model=threat_model, extra=extra):
            images = self.benchmark.static(name, attack, threat_model, extra=extra)
            in_turn(self.pictures, name, images)
        self._say(name, threat_model)

    def through(self, name: str, defence: str, attack: Any, threat_model: str = "adaptive") -> None:
        if not self.benchmark.done(name, attack, threat_model=threat_model, defence=defence):
            run = self.benchmark.query if threat_model == "query" else self.benchmark.adaptive
            images = run(name, defence, attack)
            if defence == next(iter(self.benchmark.defences)):  # the one whose pictures are shown
                in_turn(self.pictures, name, images)
        self._say(name, threat_model)

    def _say(self, name: str, threat_model: str) -> None:
        self.tell(progress_line(self.benchmark.records, name, threat_model))


def _attack_defence(
    runs: _Runs,
    name: str,
    *,
    threats: Sequence[str],
    eps: float,
    other_eps: Sequence[float],
    preset: str,
    eot_samples: int,
    batch_size: int,
    seed: int,
) -> None:
    from art_versatile.attacks.adaptive import ADAPTIVE_EFFORTS, adaptive_attacks, adaptive_pgd, query_attacks

    target, defence = runs.benchmark.classifier, runs.benchmark.defences[name]
    draws = eot_samples if runs.benchmark.is_random(name) else 1
    options: dict[str, Any] = {"effort": preset, "batch_size": batch_size}
    if "query" in threats:
        for attack_of, attack in query_attacks(target, defence, eps, **options).items():
            runs.through(attack_of, name, attack, "query")
    if "adaptive" not in threats:
        return
    attacks = adaptive_attacks(target, defence, eps, eot_samples=draws, seed=seed, **options)
    for attack_of, attack in attacks.items():
        runs.through(f"adaptive {attack_of}", name, attack)
    defended = attacks["PGD"].estimator
    longer = 3 * ADAPTIVE_EFFORTS[preset]["PGD"]["max_iter"]
    runs.through("adaptive PGD", name, adaptive_pgd(defended, eps, max_iter=longer, **options))
    for budget in [*other_eps, UNBOUNDED]:
        runs.through("adaptive PGD", name, adaptive_pgd(defended, budget, **options))


def _controls(seed: int) -> dict[str, Any]:
    from art_versatile.baselines import Identity, PixelDeflection, RandomResizing

    made = (Identity(), RandomResizing(output_size="input", seed=seed), PixelDeflection.code(seed=seed))
    return dict(zip(CONTROLS, made, strict=True))


def _attack_controls(runs: _Runs, eps: float, eot_samples: int, batch_size: int, seed: int) -> None:
    from art_versatile.attacks.adaptive import adaptive_attacks
    from art_versatile.attacks.compiled import compile_attack
    from art_versatile.attacks.suite import paper_attacks

    benchmark = runs.benchmark
    runs.clean()
    static = paper_attacks(benchmark.classifier, eps=eps, effort="quick", batch_size=batch_size)["PGD"]
    runs.static("PGD", compile_attack(static))
    for name, defence in benchmark.defences.items():
        draws = eot_samples if benchmark.is_random(name) else 1
        # The gradient of pixel deflection and of the wavelets is the identity as it is: BPDA inside the defence.
        attacks = adaptive_attacks(
            benchmark.classifier, defence, eps, eot_samples=draws, bpda=False, batch_size=batch_size, seed=seed
        )
        runs.through("adaptive PGD", name, attacks["PGD"])


def _write_page(
    folder: Path,
    records: Sequence[EvaluationRecord],
    checks: Sequence[Check],
    verdicts: Sequence[str],
    benchmark: Benchmark,
    names: Sequence[str] | None,
    class_names: Sequence[str] | None,
    pictures: Mapping[str, tuple[int, np.ndarray]],
    started: float,
) -> None:
    from art_versatile.reports.html import write_report

    first = next(iter(benchmark.defences))
    write_report(
        folder / "report.html",
        records,
        make_panels(benchmark, first, pictures, names=names, class_names=class_names),
        title=f"{' and '.join(benchmark.defences)}, attacked",
        summary=" ".join(verdicts),
        settings={"Time of this run": f"{time.perf_counter() - started:.0f} s"},
        checks=checks,
    )
