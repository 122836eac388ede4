"""The paper's experiment as a plan: its sizes at three scales, its stages, and what each costs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from art_versatile._checks import check_batch_size, check_choice, check_integer, check_number
from art_versatile.reports.paper import SEEN, TextTable
from art_versatile.reports.text import format_eps

__all__ = ["KINDS", "SCALES", "VARIANTS", "Costs", "Scale", "Stage", "file_name", "plan_stages", "plan_table"]

#: What a stage does; of each kind the time left is foretold from those that are done.
KINDS = ("pairs", "training", "measuring")
#: Runs beside the seven purifiers, on the versatile pairs, by what is different in them.
VARIANTS = {
    "fixed weights": "weights 100 and 1 throughout, in place of the schedule (paper, 3.2)",
    "weaker attacks": "pairs of smaller budgets (paper, 3.1.4)",
    "no discriminator": "no adversarial loss",
    "fewer filters": "a quarter of the discriminator's filters",
    "smoothed labels": "real patches are called 0.9 (arXiv 1606.03498)",
    "R1": "the gradient of the discriminator at real images costs (arXiv 1801.04406)",
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """
    All sizes of the experiment; the defaults are the paper's, and what it does not state is marked with a star.

    :param classifier: The attacked one: a name of this package, or a ``.keras`` file.
    :param image_size: Height and width in pixels.
    :param photographs: Training photographs; each store of pairs has as many pairs.
    :param per_class: Photographs of each class, where they lie in a folder a class; 0 draws them from all alike.
    :param eps: Budget of the attacks that are trained on and of the tables, a share of the pixel range.
    :param weaker: Budgets of the variant "weaker attacks".
    :param iterations: Of BIM, PGD and MI-FGSM, of steps of 0.01.
    :param effort: "quick" or "paper": of what is not stated here, which is DeepFool's.
    :param cw_searches: * C&W's binary searches, in the pairs.
    :param cw_iterations: * Iterations of each.
    :param measured_cw_searches: * C&W's binary searches, where it is measured.
    :param measured_cw_iterations: * Iterations of each.
    :param apgd_iterations: * Of AutoAttack's two APGD.
    :param apgd_restarts: * Of each.
    :param square_iterations: * Of AutoAttack's Square.
    :param square_restarts: * Of it.
    :param attack_batch: * Images attacked at once.
    :param architecture: "unet256", or "compact" (without an encoder and without noise).
    :param filters: * Of the U-Net's first layer.
    :param widths: Of the compact generator's levels.
    :param discriminator: * Filters of the discriminator's first layer.
    :param vgg_stages: * The first so many of the five layers of VGG16; VGG19 has all five.
    :param epochs: Of each training; the paper's schedule is stretched to them.
    :param steps_per_epoch: Steps of an epoch; 0 is one pass over the pairs.
    :param batch_size: * Pairs a step.
    :param crop: Side of random crops on the classifier's grid; 0 takes whole images.
    :param learning_rate: * Adam's.
    :param precision: "float32" or "mixed_bfloat16", of the two trained networks.
    :param specific: Attacks that get a purifier of their own.
    :param variants: Which of :data:`VARIANTS` are run.
    :param measured: Images of the tables at most, of those that the classifier gets right.
    :param variant_images: Images on which the variants are compared, of these.
    :param strength_images: Images of Figure 4, of these.
    :param strength_eps: Its budgets.
    :param strength_iterations: Its numbers of iterations.
    :param evaluations: Of each random defence.
    :param demonstration: Photographs of the demonstration for Figure 5, 1 to 20; 0 leaves it out.
    :param seed: Of everything that is drawn.
    :raises ValueError: If a size is not as expected.
    """

    classifier: str = "inception_v3"
    image_size: int = 256
    photographs: int = 18_000
    per_class: int = 18
    eps: float = 16 / 255
    weaker: tuple[float, ...] = (4 / 255, 8 / 255)
    iterations: int = 40
    effort: str = "paper"
    cw_searches: int = 10
    cw_iterations: int = 10
    measured_cw_searches: int = 10
    measured_cw_iterations: int = 50
    apgd_iterations: int = 100
    apgd_restarts: int = 5
    square_iterations: int = 5000
    square_restarts: int = 5
    attack_batch: int = 32
    architecture: str = "unet256"
    filters: int = 64
    widths: tuple[int, ...] = (64, 128, 256)
    discriminator: int = 64
    vgg_stages: int = 5
    epochs: int = 100
    steps_per_epoch: int = 0
    batch_size: int = 1
    crop: int = 0
    learning_rate: float = 2e-4
    precision: str = "float32"
    specific: tuple[str, ...] = SEEN
    variants: tuple[str, ...] = tuple(VARIANTS)
    measured: int = 5000
    variant_images: int = 1000
    strength_images: int = 1000
    strength_eps: tuple[float, ...] = (2 / 255, 5 / 255, 10 / 255)
    strength_iterations: tuple[int, ...] = tuple(range(10, 101, 10))
    evaluations: int = 10
    demonstration: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("effort", self.effort, ("quick", "paper"))
        check_choice("architecture", self.architecture, ("unet256", "compact"))
        check_choice("precision", self.precision, ("float32", "mixed_bfloat16"))
        for name in self.variants:
            check_choice("variants", name, tuple(VARIANTS))
        for name in self.specific:
            check_choice("specific", name, SEEN)
        for eps in (self.eps, *self.weaker, *self.strength_eps):
            if not check_number("eps", eps, 0, 1) > 0:
                raise ValueError(f"Expected eps above 0. Received {eps!r}.")
        check_batch_size(self.batch_size)
        check_batch_size(self.attack_batch)
        least = {"image_size": 32, "photographs": len(SEEN), "epochs": 3}  # an attack, a stage of the schedule
        zero = ("per_class", "steps_per_epoch", "crop", "strength_images", "demonstration", "seed")
        most = {"demonstration": 20, "vgg_stages": 5}
        for item in dataclasses.fields(self):
            if item.type == "int":
                value = getattr(self, item.name)
                check_integer(
                    item.name, value, 0 if item.name in zero else least.get(item.name, 1), most.get(item.name)
                )
        for steps in (*self.strength_iterations, *self.widths):
            check_integer("strength_iterations and widths", steps)

    def changed(self, texts: Mapping[str, str]) -> Scale:
        """
        With some sizes as they are written.

        :param texts: Name -> text; of several values with commas between them, budgets as "8/255".
        :raises ValueError: If there is no such size, or its text is none of a size.
        """
        readers: dict[str, Callable[[str], Any]] = {"int": int, "float": _fraction, "str": str}
        types = {item.name: str(item.type) for item in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for name, text in texts.items():
            kind = types[check_choice("a size", name, tuple(types))]
            several = kind.startswith("tuple")
            read = readers[kind.removeprefix("tuple[").removesuffix(", ...]")]
            try:
                parts = [read(part.strip()) for part in ([text] if kind == "str" else text.split(",")) if part.strip()]
            except (ValueError, ZeroDivisionError) as err:
                raise ValueError(f"Expected {name} as {getattr(self, name)!r} is. Received {text!r}.") from err
            if not several and len(parts) != 1:
                raise ValueError(f"Expected one value of {name}. Received {text!r}.")
            values[name] = tuple(parts) if several else parts[0]
        return dataclasses.replace(self, **values)

    def changes(self, *, measured: bool = False) -> dict[str, dict[str, Any]]:
        """
        Settings of the attacks, for :func:`art_versatile.attacks.paper_attacks`.

        :param measured: Those of the tables, in place of those of the pairs.
        """
        prefix = "measured_" if measured else ""
        return {
            "C&W": {
                "binary_search_steps": getattr(self, f"{prefix}cw_searches"),
                "max_iter": getattr(self, f"{prefix}cw_iterations"),
            },
            "APGD": {"max_iter": self.apgd_iterations, "nb_random_init": self.apgd_restarts},
            "Square": {"max_iter": self.square_iterations, "nb_restarts": self.square_restarts},
        }

    @property
    def steps(self) -> int:
        """Of each training."""
        return self.epochs * (self.steps_per_epoch or -(-self.photographs // self.batch_size))

    @property
    def side(self) -> int:
        """Height and width of what is trained on."""
        return self.crop or self.image_size

    def budgets(self) -> dict[str, float]:
        """Stores of the versatile split by name -> budget, that of the seven purifiers first."""
        weaker = self.weaker if "weaker attacks" in self.variants else ()
        return {"versatile": self.eps, **{f"versatile-{file_name(format_eps(eps))}": eps for eps in weaker}}

    def trainings(self) -> dict[str, tuple[str, str | None]]:
        """Names of all trainings -> their store, their variant."""
        runs: dict[str, tuple[str, str | None]] = {"versatile": ("versatile", None)}
        runs |= {file_name(attack): (file_name(attack), None) for attack in self.specific}
        for variant in self.variants:
            if variant == "weaker attacks":
                runs |= {store: (store, variant) for store in list(self.budgets())[1:]}
            else:
                runs[file_name(variant)] = ("versatile", variant)
        return runs


#: "mini" is what two cores can do in days, "smoke" what a test can.
SCALES = {
    "paper": Scale(),
    "mini": Scale(
        classifier="efficientnet_lite0",
        photographs=1200,
        per_class=0,
        cw_searches=3,
        measured_cw_searches=5,
        apgd_iterations=40,
        apgd_restarts=1,
        square_iterations=200,
        square_restarts=1,
        attack_batch=16,
        filters=32,
        discriminator=16,
        vgg_stages=3,
        epochs=20,
        steps_per_epoch=150,
        batch_size=2,
        measured=200,
        variant_images=100,
        strength_images=50,
        strength_iterations=(10, 40, 100),
        evaluations=3,
    ),
    "smoke": Scale(
        image_size=32,
        photographs=6,
        per_class=0,
        weaker=(4 / 255,),
        iterations=2,
        effort="quick",
        cw_searches=1,
        cw_iterations=2,
        measured_cw_searches=1,
        measured_cw_iterations=2,
        apgd_iterations=2,
        apgd_restarts=1,
        square_iterations=2,
        square_restarts=1,
        architecture="compact",
        widths=(4,),
        discriminator=1,
        vgg_stages=1,
        epochs=3,
        steps_per_epoch=1,
        batch_size=2,
        specific=("PGD",),
        variants=("fixed weights", "weaker attacks"),
        measured=3,
        variant_images=2,
        strength_images=2,
        strength_eps=(5 / 255,),
        strength_iterations=(1, 2),
        evaluations=2,
        demonstration=1,
    ),
}


@dataclass(frozen=True)
class Costs:
    """
    Of one image through each network, forward: operations, and values that a gradient holds.

    :param classifier: Of the attacked classifier at ``image_size``: operations, values.
    :param generator: Of the generator at the side of what is trained on.
    :param discriminator: Of the discriminator.
    :param perceptual: Of the perceptual network.
    :param generator_parameters: Its weights.
    :param discriminator_parameters: Its weights.
    """

    classifier: tuple[float, int]
    generator: tuple[float, int]
    discriminator: tuple[float, int]
    perceptual: tuple[float, int]
    generator_parameters: int
    discriminator_parameters: int


@dataclass(frozen=True)
class Stage:
    """
    A part of the experiment, in a folder of its own.

    :param name: Of the folder.
    :param kind: Out of :data:`KINDS`.
    :param settings: What it depends on, JSON-able; of the stages before it their :attr:`digest`.
    :param images: Images that it attacks.
    :param pairs: Pairs that it makes or is trained on.
    :param steps: Of training.
    :param flops: Operations.
    :param disk: Bytes that it leaves.
    :param memory: Bytes that it holds at most, on the device.
    """

    name: str
    kind: str
    settings: dict[str, Any] = field(repr=False)
    images: int = 0
    pairs: int = 0
    steps: int = 0
    flops: float = 0.0
    disk: float = 0.0
    memory: float = 0.0

    @property
    def digest(self) -> str:
        """Of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


def plan_stages(scale: Scale, costs: Costs, data: Mapping[str, Any] | None = None) -> list[Stage]:
    """
    The stages, in their order.

    Operations are counted of the networks alone. A gradient with respect to an image costs two passes, a training step
    three of the generator, seven of the discriminator and three of the perceptual network. Attacks: FGSM 3 passes an
    image; BIM, PGD, MI-FGSM 2 an iteration; C&W 8 an iteration (its line search); AutoAttack 3 for each iteration of
    the first restart of its first member, after which hardly an image is left; DeepFool 5 iterations.

    :param scale: The sizes.
    :param costs: Of the networks.
    :param data: What the photographs and the measured images are, JSON-able, under "photographs" and "measured";
        what the perceptual network is, under "perceptual".
    """
    data = dict(data or {})
    attacked = {name: getattr(scale, name) for name in ("classifier", "image_size", "effort", "iterations", "seed")}
    stages = _pair_stages(scale, costs, attacked, data.get("photographs"))
    made = {stage.name: stage for stage in stages}
    stages += _training_stages(scale, costs, made, data.get("perceptual"))
    trained = {stage.name: stage.digest for stage in stages if stage.kind == "training"}
    return stages + _measuring_stages(scale, costs, {**attacked, "measured on": data.get("measured")}, trained)


def _pair_stages(scale: Scale, costs: Costs, attacked: dict[str, Any], photographs: Any) -> list[Stage]:
    forward, values = costs.classifier
    stores: dict[str, tuple[float, tuple[str, ...]]] = {name: (eps, SEEN) for name, eps in scale.budgets().items()}
    stores |= {file_name(attack): (scale.eps, (attack,)) for attack in scale.specific}
    passes = {attack: _passes(scale, attack) for attack in SEEN}
    own = {"photographs": scale.photographs, "per_class": scale.per_class, "changes": scale.changes()}
    return [
        Stage(
            f"pairs/{name}",
            "pairs",
            {**attacked, **own, "eps": eps, "attacks": list(attacks), "files": photographs},
            images=scale.photographs,
            pairs=scale.photographs,
            flops=scale.photographs * forward * sum(passes[attack] for attack in attacks) / len(attacks),
            disk=scale.photographs * 2 * 3 * scale.image_size**2 * 2,  # float16
            memory=4 * scale.attack_batch * values,
        )
        for name, (eps, attacks) in stores.items()
    ]


def _training_stages(scale: Scale, costs: Costs, made: Mapping[str, Stage], perceptual: Any) -> list[Stage]:
    names = ("architecture", "discriminator", "vgg_stages", "epochs", "steps_per_epoch", "batch_size", "crop")
    recipe = {name: getattr(scale, name) for name in (*names, "learning_rate", "precision", "seed")}
    recipe["perceptual"] = perceptual
    recipe["size"] = scale.filters if scale.architecture == "unet256" else list(scale.widths)
    weights = 4 * (costs.generator_parameters + costs.discriminator_parameters)
    held = costs.generator[1] + 2 * costs.discriminator[1] + 2 * costs.perceptual[1]
    flops = 3 * costs.generator[0] + 7 * costs.discriminator[0] + 3 * costs.perceptual[0]
    return [
        Stage(
            f"training/{name}",
            "training",
            {**recipe, "variant": variant, "pairs": made[f"pairs/{store}"].digest},
            pairs=scale.photographs,
            steps=scale.steps,
            flops=scale.steps * scale.batch_size * flops,
            disk=2 * 3 * weights + 4 * costs.generator_parameters,  # two checkpoints with Adam's averages, and weights
            memory=4 * weights + 4 * scale.batch_size * held,
        )
        for name, (store, variant) in scale.trainings().items()
    ]


def _measuring_stages(scale: Scale, costs: Costs, attacked: dict[str, Any], trained: Mapping[str, str]) -> list[Stage]:
    changes, every = scale.changes(measured=True), (*SEEN, "DeepFool")
    forward, memory = costs.classifier[0], 4 * scale.attack_batch * costs.classifier[1]
    behind = costs.generator[0] * (scale.image_size / scale.side) ** 2 + forward  # a purified image, classified
    seven = {name: digest for name, digest in trained.items() if _is_of_tables(name)}
    common = {**attacked, "changes": changes, "eps": scale.eps}
    # Random resizing, pixel deflection twice, noise, blur, and super-resolution at twice the sides.
    others = forward * (3 * scale.evaluations + 2 + 4)
    tables = sum(_passes(scale, attack, measured=True) for attack in every) * forward
    tables += (len(every) + 1) * (len(seven) * behind + others) + len(every) * behind
    strengths = [2 * steps * forward + behind for steps in scale.strength_iterations] * 2 * len(scale.strength_eps)
    variants = (2 * 2 * scale.iterations + 3) * forward + 3 * behind * (len(trained) - len(scale.specific))
    stages = [
        Stage(
            "measuring/tables",
            "measuring",
            {
                **common,
                **{name: getattr(scale, name) for name in ("measured", "evaluations", "strength_images")},
                "strength_eps": list(scale.strength_eps),
                "strength_iterations": list(scale.strength_iterations),
                "after": seven,
            },
            images=scale.measured,
            flops=scale.measured * tables + scale.strength_images * sum(strengths),
            memory=memory,
        )
    ]
    if len(trained) > len(seven):
        stages.append(
            Stage(
                "measuring/variants",
                "measuring",
                {**common, "images": scale.variant_images, "weaker": list(scale.weaker), "after": dict(trained)},
                images=scale.variant_images,
                flops=scale.variant_images * variants * (1 + len(scale.weaker)),
                memory=memory,
            )
        )
    if scale.demonstration:
        passes = sum(_passes(scale, attack, measured=True) for attack in SEEN)
        stages.append(
            Stage(
                "measuring/demonstration",
                "measuring",
                {
                    **common,
                    "images": scale.demonstration,
                    "after": {"training/versatile": trained["training/versatile"]},
                },
                images=scale.demonstration,
                flops=scale.demonstration * (passes * forward + len(SEEN) * behind),
                memory=memory,
            )
        )
    return stages


def _is_of_tables(name: str) -> bool:
    return name.removeprefix("training/") in {"versatile", *map(file_name, SEEN)}


def _passes(scale: Scale, attack: str, *, measured: bool = False) -> float:
    """Passes of the classifier for each image."""
    carlini = scale.changes(measured=measured)["C&W"]
    return {
        "FGSM": 3,
        "C&W": 8 * carlini["binary_search_steps"] * carlini["max_iter"],
        "AutoAttack": 3 * scale.apgd_iterations,
        "DeepFool": 5 * 2 * {"quick": 3, "paper": 10}[scale.effort],
    }.get(attack, 2 * scale.iterations)


def plan_table(stages: Iterable[Stage], scale: Scale, costs: Costs, *, peak: float, share: float) -> TextTable:
    """
    The stages with what each costs.

    :param stages: The stages.
    :param scale: Their sizes.
    :param costs: Of the networks.
    :param peak: Of one GPU, operations a second.
    :param share: The share of it that is reached, above 0 and at most 1; assumed, not measured.
    """
    check_number("peak", peak, 1, 1e18)
    if not check_number("share", share, 0, 1) > 0:
        raise ValueError(f"Expected share above 0. Received {share!r}.")
    stages = list(stages)

    def row(name: str, counts: tuple[int, int, int], flops: float, disk: float, memory: float) -> tuple[str, ...]:
        hours = flops / peak / share / 3600
        said = [f"{count:,}" if count else "" for count in counts]
        return (name, *said, f"{flops / 1e12:,.4g}", f"{disk / 1e9:.3g}", f"{memory / 1e9:.3g}", f"{hours:.3g}")

    rows = [row(s.name, (s.images, s.pairs, s.steps), s.flops, s.disk, s.memory) for s in stages]
    flops, disk = (sum(getattr(stage, name) for stage in stages) for name in ("flops", "disk"))
    rows.append(row("all", (0, 0, 0), flops, disk, max(stage.memory for stage in stages)))
    networks = [
        ("classifier", costs.classifier),
        ("generator", costs.generator),
        ("discriminator", costs.discriminator),
        ("perceptual network", costs.perceptual),
    ]
    counted = ", ".join(f"{name} {flops / 1e9:.4g}" for name, (flops, _) in networks)
    note = (
        f"Counted on the networks' graphs, 10^9 operations an image, forward: {counted}; a multiplication and an "
        f"addition are two. A gradient of an image is two passes; a step 3, 7 and 3 of the last three. Hours: one GPU "
        f"with a peak of {peak / 1e12:g} x 10^12 operations a second, of which {share:.0%} are assumed to be reached; "
        "what is no network (pixel deflection, wavelets, files) is not counted. C&W is counted as 8 passes an "
        "iteration, AutoAttack as one restart of its first member, DeepFool as 5 iterations. Attacks at "
        f"{scale.image_size}x{scale.image_size}, eps {format_eps(scale.eps)}, {scale.iterations} iterations."
    )
    header = ("Stage", "images", "pairs", "steps", "10^12 operations", "disk, GB", "memory, GB", "hours")
    return TextTable("The plan", header, tuple(rows), note)


def file_name(text: str) -> str:
    """A name as part of a path: "C&W" is "CW", "fixed weights" "fixed-weights", "4/255" "4-255"."""
    return text.replace("&", "").replace(" ", "-").replace("/", "-")


def _fraction(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return float(numerator) / float(denominator or 1)
