"""Everything that an expert asks of a defence, in one run: static, transferred, query and adaptive attacks, checks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_batch_size, check_choice, check_classifier, check_integer
from art_versatile.evaluation.checks import control_checks, masking_checks, verdict, with_flags
from art_versatile.evaluation.records import NO_DEFENCE, UNBOUNDED, Check, EvaluationRecord
from art_versatile.reports.pictures import Panel

if TYPE_CHECKING:
    from art_versatile.evaluation.benchmark import Benchmark

__all__ = ["ADAPTIVE", "CONTROLS", "STATIC", "THREATS", "Plan", "Robustness", "evaluate", "png_round_trip"]

#: What can be run, in this order.
THREATS = ("static", "transfer", "query", "adaptive")
#: Defences that must fall, and one that does nothing: they measure the attacks, not the defence.
CONTROLS = ("control: identity", "control: RandomResizing", "control: PixelDeflection")
#: Attacks on the undefended classifier: the paper's six and the one it never trains on.
STATIC = ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool")
#: Attacks through the defence.
ADAPTIVE = ("FGSM", "PGD", "PGD, BPDA", "APGD-CE", "APGD-DLR")
# Static attacks at further budgets, and at further numbers of iterations.
_OTHER_BUDGETS = ("FGSM", "PGD", "MI-FGSM")
_ITERATIVE = ("BIM", "PGD", "MI-FGSM")
_TRANSFERRED = ("PGD", "MI-FGSM")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    What is attacked, how, and how hard. Checked when it is made, before TensorFlow is loaded.

    :param eps: The main budget, a share of the pixel range.
    :param other_eps: Further budgets, of static FGSM, PGD and MI-FGSM and of adaptive PGD.
    :param effort: "quick", or "paper" (the paper's iterations; 100 and five restarts through the defence).
    :param iterations: Of static BIM, PGD and MI-FGSM: the first for all attacks, further ones for these three again.
        Empty takes the effort's.
    :param changes: Other settings of the static attacks than the effort's, see
        :func:`art_versatile.attacks.paper_attacks`.
    :param attacks: The static attacks, out of :data:`STATIC`; None runs all.
    :param threats: Out of :data:`THREATS`.
    :param adaptive: The attacks through the defence, out of :data:`ADAPTIVE`; None runs all.
    :param probes: Adaptive PGD also with three times the iterations and at half of the pixel range, which the checks
        "steps", "budget" and "unbounded" need.
    :param controls: Attack the :data:`CONTROLS` too, on the first so many images; 0 leaves them out.
    :param eot_samples: Draws of a random defence that each gradient is the mean of.
    :param evaluations: Of a random defence.
    :param png: Measure the images of static and transferred attacks also as they come back from 8-bit PNG files.
    :param png_defences: Behind these defences alone, and without one; None takes all.
    :param batch_size: Images attacked at once.
    :param seed: Of the attacks and the draws.
    :raises ValueError: If a value is out of its range or no choice.
    """

    eps: float = 8 / 255
    other_eps: Sequence[float] = ()
    effort: str = "quick"
    iterations: Sequence[int] = ()
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attacks: Sequence[str] | None = None
    threats: Sequence[str] = THREATS
    adaptive: Sequence[str] | None = None
    probes: bool = True
    controls: int = 0
    eot_samples: int = 20
    evaluations: int = 10
    png: bool = False
    png_defences: Sequence[str] | None = None
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for budget in (self.eps, *self.other_eps):
            number = isinstance(budget, int | float | np.integer | np.floating) and not isinstance(budget, bool)
            if not number or not 0 < budget <= 1:
                raise ValueError(
                    f"Expected eps to be shares of the pixel range, above 0 and at most 1. Received {budget!r}."
                )
        check_choice("effort", self.effort, ("quick", "paper"))
        for name, chosen, choices in (
            ("attacks", self.attacks, STATIC),
            ("threats", self.threats, THREATS),
            ("adaptive", self.adaptive, ADAPTIVE),
        ):
            for choice in chosen or ():
                check_choice(name, choice, choices)
        for steps in self.iterations:
            check_integer("iterations", steps)
        for name in ("eot_samples", "evaluations"):
            check_integer(name, getattr(self, name))
        for name in ("controls", "seed"):
            check_integer(name, getattr(self, name), 0)
        check_batch_size(self.batch_size)


@dataclass(frozen=True)
class Robustness:
    """
    What :func:`evaluate` found.

    :param records: One a cell, with the flags of failed checks.
    :param checks: Of the labels, of each defence, then of the controls.
    :param verdicts: One sentence a defence.
    :param panels: One image an attack, behind the first defence; empty without a page.
    """

    records: list[EvaluationRecord]
    checks: list[Check]
    verdicts: list[str]
    panels: list[Panel] = field(default_factory=list)


def evaluate(
    classifier: Any,
    defences: Mapping[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    out: str | Path,
    plan: Plan | None = None,
    *,
    dataset: str,
    classifier_name: str,
    surrogate: Any = None,
    surrogate_name: str = "surrogate",
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    page: bool = True,
    verbose: bool = True,
) -> Robustness:
    """
    Attack a classifier without and behind defences in every way that this package has.

    - static: the paper's six attacks and DeepFool on the undefended classifier;
    - transfer: PGD and MI-FGSM on another classifier, ``surrogate``;
    - query: Square on the scores of the defended classifier;
    - adaptive: FGSM, PGD, PGD with BPDA, APGD-CE and APGD-DLR through each defence. Random defences under EOT.

    Writes ``records.json`` (and ``controls.json``) after every cell, one image an attack into ``pictures``, and at the
    end ``report.html``. Called again with the same folder it goes on where it stopped, and of a finished folder writes
    the same page.

    :param classifier: An undefended ART classifier of logits, of any ``clip_values`` (two numbers) and layout.
    :param defences: Name -> ART preprocessor of the classifier's range and layout.
    :param x: Images (N, H, W, 3), or (N, 3, H, W) with channels first, in ``clip_values``.
    :param y: True class indices (N,).
    :param out: Folder for the files.
    :param plan: What is attacked and how hard; the defaults of :class:`Plan` where it is None.
    :param dataset: Name of the images.
    :param classifier_name: Name of the classifier.
    :param surrogate: The classifier of the transferred attacks; None leaves them out.
    :param surrogate_name: Its name, for the records.
    :param names: Of the images, for the page.
    :param class_names: Of the classes, for the page.
    :param page: Keep pictures and write the page.
    :param verbose: Print a line for each attack.
    :return: Records, checks, verdicts and pictures.
    :raises ValueError: If images, labels or names do not fit the classifier, its outputs are probabilities, or it has
        too few classes for AutoAttack.
    :raises TypeError: If the classifier is none, as an object detector, or not of TensorFlow.
    """
    plan = Plan() if plan is None else plan
    check_classifier(classifier)
    if classifier.nb_classes < 3 and (plan.attacks is None or "AutoAttack" in plan.attacks):
        raise ValueError("Expected attacks without AutoAttack for a classifier of two classes. Received it.")
    reserved = sorted(set(defences) & {*CONTROLS, NO_DEFENCE})
    if reserved or not defences:
        raise ValueError(f"Expected defences by other names than {[NO_DEFENCE, *CONTROLS]}. Received {list(defences)}.")
    started, folder = time.perf_counter(), Path(out)
    main = _Session.of(
        classifier,
        plan,
        verbose,
        x=x,
        y=y,
        defences=defences,
        dataset=dataset,
        classifier_name=classifier_name,
        file=folder / "records.json",
        pictures=page,
    )
    _check_logits(main.benchmark)
    folder.mkdir(parents=True, exist_ok=True)
    main.say(main.benchmark.clean())
    if "static" in plan.threats:
        main.static()
    if "transfer" in plan.threats and surrogate is not None:
        main.transfer(surrogate, surrogate_name)
    for name in defences:
        main.through(name)
    records = with_flags(main.benchmark.records)
    main.benchmark.revise(records)
    checks = masking_checks(records)
    if plan.controls:
        checks += _controls(main, plan, folder / "controls.json")
    verdicts = [verdict(records, name) for name in defences]
    panels: list[Panel] = []
    if page:
        from art_versatile.experiments.panels import make_panels
        from art_versatile.reports.html import write_report

        panels = make_panels(main.benchmark, next(iter(defences)), names=names, class_names=class_names)
        write_report(
            folder / "report.html",
            records,
            panels,
            title=f"{' and '.join(defences)}, attacked",
            summary=" ".join(verdicts),
            settings={"Time of this run": f"{time.perf_counter() - started:.0f} s"},
            checks=checks,
        )
    return Robustness(records, checks, verdicts, panels)


def _check_logits(benchmark: Benchmark) -> None:
    from art.utils import is_probability

    outputs = benchmark.predict(benchmark.x[:2])
    if all(is_probability(row) for row in outputs):
        raise ValueError(
            "Expected a classifier of logits, which AutoAttack and APGD-DLR need. Received one whose outputs are "
            "probabilities: leave its softmax out."
        )


class _Session:
    """A benchmark, the attacks that a plan asks for, and a line of text about each."""

    def __init__(self, benchmark: Benchmark, plan: Plan, verbose: bool) -> None:
        self.benchmark, self.plan, self.verbose = benchmark, plan, verbose

    @classmethod
    def of(cls, classifier: Any, plan: Plan, verbose: bool, **facts: Any) -> _Session:
        from art_versatile.attacks.compiled import compile_classifier
        from art_versatile.evaluation.benchmark import Benchmark

        target = compile_classifier(classifier)
        options: dict[str, Any] = {"seed": plan.seed, "batch_size": plan.batch_size, "evaluations": plan.evaluations}
        if plan.png:
            options["file_formats"] = {
                "PNG": lambda images: png_round_trip(
                    images, target.clip_values, channels_first=bool(getattr(target, "channels_first", False))
                )
            }
            options["filed_defences"] = plan.png_defences
        return cls(Benchmark(classifier=target, effort=plan.effort, **options, **facts), plan, verbose)

    def say(self, records: Sequence[EvaluationRecord]) -> None:
        from art_versatile.experiments.panels import progress_line

        if self.verbose:
            print(f"  {progress_line(records)}", flush=True)

    def run(self, *attack: Any, **facts: Any) -> None:
        self.say(self.benchmark.run(*attack, **facts))

    def static(self) -> None:
        chosen = STATIC if self.plan.attacks is None else self.plan.attacks
        steps: list[int | None] = [*self.plan.iterations] or [None]
        for eps in (self.plan.eps, *self.plan.other_eps):
            for count in steps:
                names = [name for name in chosen if eps == self.plan.eps or name in _OTHER_BUDGETS]
                if count != steps[0]:
                    names = [name for name in names if name in _ITERATIVE]
                for name, attack in self._suite(self.benchmark.classifier, eps, count, names).items():
                    self.run(name, attack)

    def transfer(self, surrogate: Any, name: str) -> None:
        from art_versatile.attacks.compiled import compile_classifier

        steps = self.plan.iterations[0] if self.plan.iterations else None
        suite = self._suite(compile_classifier(surrogate), self.plan.eps, steps, _TRANSFERRED)
        for attack_of, attack in suite.items():
            self.run(attack_of, attack, "transfer", surrogate=name)

    def through(self, defence: str) -> None:
        from art_versatile.attacks.adaptive import ADAPTIVE_EFFORTS, adaptive_attacks, adaptive_pgd, query_attacks

        plan, target, preprocessor = self.plan, self.benchmark.classifier, self.benchmark.defences[defence]
        options: dict[str, Any] = {"effort": {"paper": "full"}.get(plan.effort, plan.effort)}
        longer = 3 * ADAPTIVE_EFFORTS[options["effort"]]["PGD"]["max_iter"]
        options["batch_size"] = plan.batch_size
        if "query" in plan.threats:
            for name, attack in query_attacks(target, preprocessor, plan.eps, **options).items():
                self.run(name, attack, "query", defence)
        if "adaptive" not in plan.threats:
            return
        draws = plan.eot_samples if self.benchmark.is_random(defence) else 1
        attacks = adaptive_attacks(target, preprocessor, plan.eps, eot_samples=draws, seed=plan.seed, **options)
        for name, attack in attacks.items():
            if plan.adaptive is None or name in plan.adaptive:
                self.run(name.removesuffix(", BPDA"), attack, "adaptive", defence)  # the gradient is a field
        defended = attacks["PGD"].estimator
        if plan.probes:
            attack = adaptive_pgd(defended, plan.eps, max_iter=longer, **options)
            self.run("PGD", attack, "adaptive", defence)
        for eps in (*plan.other_eps, *([UNBOUNDED] if plan.probes else [])):
            self.run("PGD", adaptive_pgd(defended, eps, **options), "adaptive", defence)

    def _suite(self, classifier: Any, eps: float, steps: int | None, names: Sequence[str]) -> dict[str, Any]:
        """Static attacks by name, compiled, in the order of ``names``."""
        from art_versatile.attacks.compiled import compile_attack
        from art_versatile.attacks.suite import paper_attacks

        made = paper_attacks(
            classifier,
            eps,
            names=names,
            max_iter=steps,
            effort=self.plan.effort,
            changes=self.plan.changes,
            batch_size=self.plan.batch_size,
        )
        return {name: compile_attack(attack) for name, attack in made.items()}


def _controls(main: _Session, plan: Plan, file: Path) -> list[Check]:
    """Fewer images: records of their own, in a file of their own."""
    from art_versatile.attacks.adaptive import adaptive_attacks
    from art_versatile.baselines import Identity, PixelDeflection, RandomResizing

    own = main.benchmark
    pixels: dict[str, Any] = {"clip_values": own.clip_values, "channels_first": own.channels_first}
    made = (
        Identity(**pixels),
        RandomResizing(output_size="input", seed=plan.seed, **pixels),
        PixelDeflection.code(seed=plan.seed, **pixels),
    )
    quick = Plan(
        eps=plan.eps,
        attacks=["PGD"],
        batch_size=plan.batch_size,
        seed=plan.seed,
        evaluations=plan.evaluations,
    )
    few = _Session.of(
        own.classifier,
        quick,
        main.verbose,
        x=own.x[: plan.controls],
        y=own.y[: plan.controls],
        defences=dict(zip(CONTROLS, made, strict=True)),
        dataset=own.dataset,
        classifier_name=own.classifier_name,
        file=file,
    )
    few.say(few.benchmark.clean())
    few.static()
    for name, defence in few.benchmark.defences.items():
        draws = plan.eot_samples if few.benchmark.is_random(name) else 1
        # The gradient of pixel deflection and of the wavelets is the identity as it is: BPDA inside the defence.
        options: dict[str, Any] = {"eot_samples": draws, "bpda": False, "seed": plan.seed}
        attacks = adaptive_attacks(few.benchmark.classifier, defence, plan.eps, batch_size=plan.batch_size, **options)
        few.run("PGD", attacks["PGD"], "adaptive", name)
    return control_checks(few.benchmark.records, *CONTROLS)


def png_round_trip(
    images: np.ndarray, clip_values: tuple[float, float] = (0.0, 1.0), *, channels_first: bool = False
) -> np.ndarray:
    """
    Images as they come back from PNG files of 8 bits.

    :param images: (N, H, W, 3) in ``clip_values``.
    :param clip_values: Range of the pixels.
    :param channels_first: Images are (N, 3, H, W).
    :return: The same shape, float32: 256 levels.
    """
    from art_versatile.images import load_image, save_png

    low, high = clip_values
    back = []
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(np.moveaxis(images, 1, -1) if channels_first else images):
            path = Path(folder) / f"{number}.png"
            save_png((image - low) / (high - low), path)
            back.append(load_image(path) * (high - low) + low)
    stacked = np.stack(back).astype(np.float32)
    return np.moveaxis(stacked, -1, 1) if channels_first else stacked
