"""The paper's own experiment, run: pairs, seven purifiers and variants of one, both tables, the figures."""

from __future__ import annotations

import csv
import dataclasses
import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._files import write_text_atomically
from art_versatile.evaluation.records import EvaluationRecord, load_records
from art_versatile.experiments.paper import OURS, further_baselines, reproduce
from art_versatile.experiments.paper_scale import Costs, Scale, Stage, file_name, plan_stages
from art_versatile.experiments.robustness import Plan, evaluate
from art_versatile.experiments.targets import right_images
from art_versatile.images import demo_images, list_images
from art_versatile.reports.paper import SEEN
from art_versatile.reports.pictures import Panel

__all__ = ["PaperStudy", "network_costs"]

#: Attacks under which variants are compared, at each budget.
VARIANT_ATTACKS = ("FGSM", "PGD", "MI-FGSM")


class PaperStudy:
    """
    The experiment at one scale, in one folder: :meth:`run` does what is not done yet, :meth:`stages` says what that is.

    The attacked classifier gives the pairs and measures; no part of it is in a purifier or in its loss. Nothing is
    chosen on the measured images: of every training the last weights are measured.

    Each stage has a folder below ``out`` and a file in ``out/stages``, which says what it was made with and whether it
    is done. A stage that was cut off goes on; one that was made with other settings is refused.

    :param scale: The sizes.
    :param out: The folder.
    :param classifier: ART classifier of logits, ``clip_values=(0, 1)``, channels last, any image size; its Keras model
        ends in a global pooling and one dense layer (R-CAM).
    :param photographs: Folders of training photographs, or files.
    :param x: Images to measure on, (N, H, W, 3) in [0, 1].
    :param y: Their classes, (N,).
    :param dataset: Name of the images.
    :param perceptual: The perceptual loss; of a network other than the classifier.
    :param class_names: Of the classes, for Figure 5.
    :param verbose: Show stages, bars and the time left.
    :raises FileNotFoundError: If there are no photographs.
    :raises ValueError: If there are too few, or the classifier has not the demonstration's 1,000 classes.
    """

    def __init__(
        self,
        scale: Scale,
        out: str | Path,
        *,
        classifier: Any,
        photographs: Sequence[str | Path],
        x: np.ndarray,
        y: np.ndarray,
        dataset: str,
        perceptual: Any,
        class_names: Sequence[str] | None = None,
        verbose: bool = True,
    ) -> None:
        from art_versatile.attacks.compiled import compile_classifier
        from art_versatile.classifiers import check_classifier_name

        self.scale, self.out, self.x, self.y, self.dataset = scale, Path(out), x, y, dataset
        self.perceptual, self.class_names, self.verbose = perceptual, class_names, verbose
        self.classifier = compile_classifier(classifier)
        self.classifier_name = check_classifier_name(scale.classifier)
        found = [file for source in photographs for file in list_images(source)]
        if len(found) < scale.photographs:
            raise ValueError(f"Expected {scale.photographs} photographs. Received {len(found)}.")
        if scale.per_class:
            classes = len({file.parent for file in found})
            if classes * scale.per_class != scale.photographs:
                raise ValueError(
                    f"Expected {scale.photographs} photographs of per_class={scale.per_class} in a folder for each "
                    f"class; per_class=0 draws them from all alike. Received {classes} folders."
                )
        else:
            rows = np.random.default_rng(scale.seed).permutation(len(found))[: scale.photographs]
            found = [found[row] for row in sorted(rows)]
        self.files = found
        if scale.demonstration and self.classifier.nb_classes != 1000:
            raise ValueError(
                "Expected a classifier of ImageNet's 1,000 classes with photographs of the demonstration; "
                f"demonstration=0 leaves them out. Received {self.classifier.nb_classes} classes."
            )
        digest = hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes() + np.asarray(y, "<i8").tobytes())
        data = {
            "photographs": hashlib.sha256("\n".join(file.name for file in found).encode()).hexdigest()[:16],
            "measured": [dataset, len(x), digest.hexdigest()[:16]],
            "perceptual": repr(perceptual),
        }
        self.costs = network_costs(scale, self.classifier.model, perceptual)
        self._stages = plan_stages(scale, self.costs, data)

    def stages(self) -> list[Stage]:
        """All stages, in their order."""
        return list(self._stages)

    def run(self) -> Path:
        """
        Do all stages that are not done, then write the results anew.

        :return: The folder of the results.
        :raises ValueError: If a stage was made with other settings, or what is given does not fit; nothing has been
            attacked then.
        """
        for stage in self._stages:
            self._check(stage)
        right = right_images(self.classifier, self.x, self.y, self.scale.attack_batch)
        # What can be wrong only later is made once before images are attacked for hours.
        further_baselines(self.classifier, self.scale.seed)
        self._training(None).prepare((self.scale.image_size, self.scale.image_size, 3))
        for number, stage in enumerate(self._stages, 1):
            if not self._known(stage).get("done"):
                self._say(f"[{number}/{len(self._stages)}] {stage.name}: {self._left(number - 1)}")
                self._do(stage, right)
        from art_versatile.experiments.paper_results import write_results

        return write_results(self, right)

    def records(self, name: str) -> list[EvaluationRecord]:
        """
        What a measuring stage found.

        :param name: "tables", "tables/strengths" or "variants"; empty where it was left out.
        """
        file = self.out / "measuring" / name / "records.json"
        return load_records(file) if file.is_file() else []

    def panels(self) -> list[Panel]:
        """Photographs of the demonstration, an attack each; none where they are left out."""
        return self._demonstrate(verbose=False) if self.scale.demonstration else []

    def history(self, name: str) -> list[dict[str, str]]:
        """
        The log of a training, a row an epoch.

        :param name: Of the training.
        """
        with (self.out / "training" / name / "log.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def seconds(self) -> dict[str, float]:
        """How long the stages took, those that have begun."""
        known = {stage.name: self._known(stage) for stage in self._stages}
        return {name: round(facts["seconds"], 1) for name, facts in known.items() if facts}

    # Stages

    def _file(self, stage: Stage) -> Path:
        return self.out / "stages" / f"{file_name(stage.name)}.json"

    def _known(self, stage: Stage) -> dict[str, Any]:
        """What the file of a stage says; nothing where the stage, or its folder, is not there."""
        file = self._file(stage)
        if not file.is_file() or not (self.out / stage.name).is_dir():
            return {}
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as err:
            raise ValueError(f"Expected {file} to be JSON; delete it to do the stage anew. Received {err}.") from err

    def _check(self, stage: Stage) -> None:
        known = self._known(stage)
        own = json.loads(json.dumps(stage.settings))
        if known and known["settings"] != own:
            names = sorted(name for name in own if known["settings"].get(name) != own[name])
            raise ValueError(
                f"Expected {self.out / stage.name} to be made with the same settings; another --out begins anew. "
                f"Received other {', '.join(names)}."
            )

    def _do(self, stage: Stage, right: Sequence[int]) -> None:
        before = self._known(stage).get("seconds", 0.0)
        (self.out / stage.name).mkdir(parents=True, exist_ok=True)
        started, done = time.perf_counter(), False

        def note() -> None:
            seconds = before + time.perf_counter() - started
            facts = {"settings": stage.settings, "done": done, "seconds": seconds}
            write_text_atomically(self._file(stage), json.dumps(facts, indent=1) + "\n")

        note()
        try:
            self._action(stage, right)()
            done = True
        finally:
            note()
            gc.collect()  # networks of a finished training hold each other

    def _action(self, stage: Stage, right: Sequence[int]) -> Callable[[], Any]:
        kind, _, name = stage.name.partition("/")
        if kind == "pairs":
            return lambda: self._make_pairs(stage)
        if kind == "training":
            return lambda: self._train(name)
        return {
            "tables": self._measure,
            "variants": lambda: self._compare(right),
            "demonstration": lambda: self._demonstrate(verbose=self.verbose),
        }[name]

    def _left(self, done: int) -> str:
        """How long the stages that are not done will take, by those that are."""
        spent = {stage.name: self._known(stage) for stage in self._stages[:done]}
        rates: dict[str, list[float]] = {}
        for stage in self._stages[:done]:
            if spent[stage.name].get("done"):
                rates.setdefault(stage.kind, []).append(spent[stage.name]["seconds"] / stage.flops)
        if not rates:
            return "time left not known yet"
        mean = {kind: sum(values) / len(values) for kind, values in rates.items()}
        every = sum(mean.values()) / len(mean)
        times = [stage.flops * mean.get(stage.kind, every) for stage in self._stages[done:]]
        return f"about {_minutes(times[0])}; all that is left about {_minutes(sum(times))}"

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)

    # Pairs and training

    def _make_pairs(self, stage: Stage) -> None:
        from art_versatile.attacks import paper_attacks
        from art_versatile.attacks.compiled import compile_attack
        from art_versatile.pairs import generate_pairs

        scale = self.scale
        attacks = paper_attacks(
            self.classifier,
            stage.settings["eps"],
            names=stage.settings["attacks"],
            max_iter=scale.iterations,
            effort=scale.effort,
            changes=scale.changes(),
            batch_size=scale.attack_batch,
        )
        generate_pairs(
            self.files,
            self.classifier,
            {name: compile_attack(attack) for name, attack in attacks.items()},
            self.out / stage.name,
            per_class=scale.per_class or None,
            image_size=scale.image_size,
            # A shard is what a killed run does anew: minutes, not hours.
            shard_size=scale.attack_batch,
            batch_size=scale.attack_batch,
            seed=scale.seed,
            classifier_name=self.classifier_name,
            verbose=self.verbose,
        )

    def _training(self, variant: str | None) -> Any:
        from art_versatile.experiments.schedules import schedules
        from art_versatile.training import Training

        scale = self.scale
        kinds = schedules(scale.epochs)
        changes: dict[str, dict[str, Any]] = {
            "fixed weights": {"schedule": kinds["fixed"]},
            "no discriminator": {"discriminator": None},
            "fewer filters": {"discriminator": max(1, scale.discriminator // 4)},
            "smoothed labels": {"real_label": 0.9},
            "R1": {"r1": 2.5},  # the usual 10 for pixels in [-1, 1]
        }
        unet = {"generator_options": {"filters": scale.filters}}
        compact = {"generator_options": {"widths": scale.widths, "blocks": (1,) * len(scale.widths), "noise": 0.0}}
        recipe: dict[str, Any] = {
            "architecture": scale.architecture,
            **(unet if scale.architecture == "unet256" else compact),
            "discriminator": scale.discriminator,
            "features": None,  # the loss is given
            "schedule": kinds["multi-step"],
            "batch_size": scale.batch_size,
            "crop": scale.crop or None,
            "crop_step": 32,
            "learning_rate": scale.learning_rate,
            **changes.get(variant or "", {}),
        }
        return Training.of(
            "paper",
            perceptual=self.perceptual,
            steps_per_epoch=scale.steps_per_epoch or None,
            precision=scale.precision,
            seed=scale.seed,
            verbose=self.verbose,
            **recipe,
        )

    def _train(self, name: str) -> None:
        from art_versatile.pairs import PairStore

        store, variant = self.scale.trainings()[name]
        pairs = PairStore(self.out / "pairs" / store)
        training = dataclasses.replace(self._training(variant), resume=True)
        facts = {"attacks": list(pairs.attacks), "success_rates": pairs.success_rates, "store": store}
        training.prepare(pairs.image_shape, self.out / "training" / name).run(pairs, card={"pairs": facts})

    def _purifier(self, name: str) -> Any:
        from art_versatile.purifier import VersatilePurifier

        return VersatilePurifier.from_pretrained(self.out / "training" / name / "last")

    # Measuring

    @property
    def _measured_name(self) -> str:
        return f"{self.classifier_name} at {self.scale.image_size}x{self.scale.image_size}"

    def _measure(self) -> None:
        scale = self.scale
        reproduce(
            self.classifier,
            self._purifier("versatile"),
            self.x,
            self.y,
            self.out / "measuring" / "tables",
            dataset=self.dataset,
            classifier_name=self._measured_name,
            specific={attack: self._purifier(file_name(attack)) for attack in scale.specific},
            eps=scale.eps,
            effort=scale.effort,
            further=further_baselines(self.classifier, scale.seed),
            iterations=scale.iterations,
            changes=scale.changes(measured=True),
            limit=scale.measured,
            strength_images=scale.strength_images,
            strengths=(scale.strength_eps, scale.strength_iterations),
            evaluations=scale.evaluations,
            batch_size=scale.attack_batch,
            seed=scale.seed,
            page=False,
            verbose=self.verbose,
        )

    def _compare(self, right: Sequence[int]) -> None:
        scale = self.scale
        rows = list(right[: scale.measured][: scale.variant_images])
        names = ["versatile", *(name for name, (_, variant) in scale.trainings().items() if variant)]
        evaluate(
            self.classifier,
            {OURS if name == "versatile" else name: self._purifier(name) for name in names},
            self.x[rows],
            self.y[rows],
            self.out / "measuring" / "variants",
            Plan(
                eps=scale.eps,
                other_eps=scale.weaker,
                effort=scale.effort,
                iterations=(scale.iterations,),
                attacks=VARIANT_ATTACKS,
                threats=("static",),
                batch_size=scale.attack_batch,
                seed=scale.seed,
            ),
            dataset=f"{self.dataset}, {len(rows)} of those classified right",
            classifier_name=self._measured_name,
            page=False,
            verbose=self.verbose,
        )

    def _demonstrate(self, *, verbose: bool) -> list[Panel]:
        scale = self.scale
        x, y, names = demo_images(scale.demonstration, scale.image_size)
        return evaluate(
            self.classifier,
            {OURS: self._purifier("versatile")},
            x,
            y,
            self.out / "measuring" / "demonstration",
            Plan(
                eps=scale.eps,
                effort=scale.effort,
                iterations=(scale.iterations,),
                changes=scale.changes(measured=True),
                attacks=SEEN,
                threats=("static",),
                batch_size=scale.attack_batch,
                seed=scale.seed,
            ),
            dataset="foolbox ImageNet samples",
            classifier_name=self._measured_name,
            names=names,
            class_names=self.class_names,
            verbose=verbose,
        ).panels


def network_costs(scale: Scale, model: Any, perceptual: Any) -> Costs:
    """
    Count what an image costs in each network; nothing is computed.

    :param scale: The sizes.
    :param model: The classifier's Keras model.
    :param perceptual: The perceptual loss.
    """
    from art_versatile.experiments.flops import forward_cost
    from art_versatile.pix2pix import CompactGenerator, UNet256Generator, patchgan
    from art_versatile.pix2pix.generators import padded_sides

    generator: Any
    if scale.architecture == "unet256":
        generator = UNet256Generator(filters=scale.filters)
    else:
        generator = CompactGenerator(widths=scale.widths, blocks=(1,) * len(scale.widths), noise=0.0)
    discriminator = patchgan(scale.discriminator)
    trained = (*padded_sides(generator, scale.side, scale.side), 3)
    counted = [
        forward_cost(lambda image: model(image, training=False), (scale.image_size, scale.image_size, 3)),
        forward_cost(lambda image: generator(image, training=True), trained),
        forward_cost(lambda image, made: discriminator([image, made], training=True), trained, trained),
        forward_cost(perceptual.features, trained),
    ]
    attacked, made, judged, compared = ((cost.flops, cost.activations) for cost in counted)
    return Costs(attacked, made, judged, compared, generator.count_params(), discriminator.count_params())


def _minutes(seconds: float) -> str:
    """A time, as "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
