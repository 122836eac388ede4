"""What the commands that train share: texts to settings, checks without Keras, the two ways to train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_versatile.cli import common

if TYPE_CHECKING:
    from art.estimators.classification import TensorFlowV2Classifier

    from art_versatile.pairs import PairStore
    from art_versatile.training import Preset, Validation

__all__ = [
    "Run",
    "builder",
    "check_choices",
    "check_source",
    "check_watch",
    "chosen_classifiers",
    "chosen_preset",
    "chosen_sides",
    "default_eps",
    "short_name",
    "stages",
    "validation_on",
]


def short_name(classifier: str) -> str:
    """A classifier is one of this package, or a file that is there: what it is called."""
    from art_versatile.classifiers import check_classifier_name

    return check_classifier_name(classifier)


def builder(classifier: str, image_size: int, attacks: str, eps: str, effort: str, **others: Any) -> Any:
    """What makes classifier and attacks, in each worker process."""
    import functools

    from art_versatile.experiments.targets import attacked_classifier

    common.check_effort(effort)
    short_name(classifier)
    chosen: dict[str, Any] = {"names": common.listed(attacks) or None, "budgets": common.shares(eps), "effort": effort}
    return functools.partial(attacked_classifier, classifier, image_size, **chosen, **others)


class Run:
    """What both ways to train share: where they write, what measures them, the strategy, the weights to begin with."""

    def __init__(
        self,
        out: Path,
        classifiers: Sequence[str],
        settings: dict[str, Any],
        validation: Path | None,
        limit: int | None,
        every: int,
        mirrored: bool,
    ) -> None:
        import tensorflow as tf

        from art_versatile.pairs import PairStore

        self.out, self.classifiers, self.settings = out, classifiers, settings
        self.held = None if validation is None else PairStore(validation)
        self.limit, self.every = limit, every
        self.strategy = tf.distribute.MirroredStrategy() if mirrored else tf.distribute.get_strategy()
        self.settings["strategy"] = self.strategy
        self.card: dict[str, Any] = {}

    def begin(self, weights: str | None, noise: float | None) -> None:
        """Load the weights that are trained further."""
        from art_versatile import weights as stored

        if weights is not None:
            generator, origin = stored.load(weights, **({} if noise is None else {"noise": noise}))
            self.settings["generator"] = generator
            self.card["initial_weights"] = {"name": Path(weights).name, "sha256": origin["weights"]["sha256"]}

    def measure(self, target: TensorFlowV2Classifier | None) -> None:
        """What measures."""
        if self.held is not None and target is not None:
            self.settings["validation"] = validation_on(self.held, target, self.limit, self.every)

    def watch(self, folder: Path, count: int, size: int, eps: float, every: int) -> None:
        """Attack held images through the purifier while it is trained."""
        from art_versatile.classifiers import load_classifier
        from art_versatile.images import list_images, load_images
        from art_versatile.training import Watch

        with self.strategy.scope():
            target = load_classifier(self.classifiers[0], size)
        images = load_images(list_images(folder)[:count], int(target.input_shape[0]))
        self.settings["watch"] = Watch(images, target.model, eps, every, seed=self.settings["seed"])

    def on_stored(
        self,
        pairs: Sequence[Path] | None,
        images: Sequence[Path] | None,
        only: list[str],
        build: Any,
        image_size: int,
        *,
        weights: str | None,
        noise: float | None,
    ) -> Any:
        """Train on stores, or on images that are attacked first."""
        from art_versatile.classifiers import load_classifier
        from art_versatile.pairs import JoinedPairs, PairStore
        from art_versatile.training import Training, perceptual_loss

        stores, preset = [PairStore(path) for path in pairs or ()], self.settings["preset"]
        shape = JoinedPairs(stores).image_shape if stores else (image_size, image_size, 3)
        with self.strategy.scope():
            target = None
            if preset.features == "classifier" or self.held is not None:
                height = (shape if self.held is None else self.held.image_shape)[0]
                target = load_classifier(self.classifiers[0], height)
            self.begin(weights, noise)
            self.settings["perceptual"] = perceptual_loss(preset, None if target is None else target.model)
        self.measure(target)
        # All that can be wrong is looked at before images are attacked.
        prepared = Training(**self.settings).prepare(shape, self.out)
        if images:
            stores = [_make_pairs(images, self.out / "pairs", build, image_size, self.settings["seed"])]
        facts = [{"images": len(store.manifest["images"]), **store.manifest["parameters"]} for store in stores]
        chosen: Any = stores[0] if len(stores) == 1 else JoinedPairs(stores)
        if only:
            self.card["only"] = only
            chosen = chosen.only(only)
        return prepared.run(chosen, card={**self.card, "pairs": facts if len(facts) > 1 else facts[0]})

    def on_drawn(
        self,
        images: Sequence[Path],
        networks: Sequence[str],
        *,
        sides: tuple[int, ...],
        recipe: dict[str, Any],
        inner: tuple[str, dict[str, Any]] | None,
        epoch_pairs: int,
        pixel_start: int,
        weights: str | None,
        noise: float | None,
    ) -> Any:
        """Train on what is made while training."""
        from art_versatile.classifiers import load_classifier
        from art_versatile.experiments import fresh_training as fresh
        from art_versatile.pairs.fresh import Recipe
        from art_versatile.training.inner import inner_source

        drawn = Recipe(**(recipe | ({"sides": sides} if sides else {})))
        with self.strategy.scope():
            models = {short_name(name): load_classifier(name, max(drawn.sides)).model for name in self.classifiers}
            target = None
            if self.held is not None:
                target = load_classifier(self.classifiers[0], self.held.image_shape[0])
            files = dict(common.named(text, "NAME=FILE") for text in networks)
            features = {name: fresh.feature_network(name, path) for name, path in files.items()}
            self.begin(weights, noise)
        self.measure(target)
        source = None if inner is None else inner_source(inner[0], list(models.values()), **inner[1])
        return fresh.fresh_training(
            images,
            models,
            self.out,
            networks=features,
            inner=source,
            recipe=drawn,
            epoch_pairs=epoch_pairs,
            pixel_start=pixel_start,
            card=self.card,
            **self.settings,
        )


def chosen_classifiers(given: list[str] | None, *, fresh: bool, inner: str | None) -> list[str]:
    """One, or several where a run takes several, of different names."""
    chosen = given or ["efficientnet_lite0"]
    names = [short_name(name) for name in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected classifiers of different names. Received {names}.")
    if len(chosen) > 1 and not fresh and inner is None:
        raise ValueError(f"Expected one --classifier; --fresh and --inner take several. Received {names}.")
    return chosen


def check_source(
    pairs: list[Path] | None,
    images: list[Path] | None,
    only: str,
    classifiers: list[str],
    networks: list[str] | None,
    *,
    fresh: bool,
    inner: str | None,
) -> None:
    """Where the pairs come from."""
    from art_versatile._checks import check_choice
    from art_versatile.experiments.fresh_training import NETWORKS
    from art_versatile.images import list_images
    from art_versatile.pairs.fresh import INNER

    if bool(pairs) == bool(images):
        raise ValueError("Expected either --pairs or --images. Received both or neither.")
    if only and images:
        raise ValueError("Expected --only with --pairs; with --images, --attacks says which. Received both.")
    if fresh and inner is not None:
        raise ValueError("Expected either --fresh or --inner. Received both.")
    if (fresh or inner is not None) and not images:
        raise ValueError("Expected --images with --fresh or --inner. Received none.")
    if networks and not fresh and inner is None:
        raise ValueError("Expected --feature-network with --fresh or --inner. Received neither.")
    if inner is not None:
        check_choice("inner", inner, INNER)
    for text in networks or ():
        name, path = common.named(text, "alexnet=FILE or vgg16=FILE")
        check_choice("feature-network", name, NETWORKS)
        if not Path(path).is_file():
            raise FileNotFoundError(f"Expected a file of the weights of {name}. Received {path!r}: there is none.")
    for source in images or ():
        list_images(source)


def check_watch(watch: Path | None, images: list[Path] | None, raise_at: float | None, *, inner: str | None) -> None:
    """Held images are there and are not trained on."""
    from art_versatile.images import list_images

    if raise_at is not None and (watch is None or inner in (None, "gaussian")):
        raise ValueError("Expected --raise-at with --watch and an attack of --inner. Received it without.")
    if watch is None:
        return
    trained = {file.resolve() for source in images or () for file in list_images(source)}
    if both := [file for file in list_images(watch) if file.resolve() in trained]:
        raise ValueError(f"Expected --watch to hold other images than --images. Received {both[0]} in both.")


def check_choices(
    preset: str, features: str | None, precision: str, schedule: str | None, weights: str | None, vgg19: str
) -> None:
    """What can be refused without Keras."""
    from art_versatile._checks import check_choice

    check_choice("--preset", preset, ("paper", "compact"))
    check_choice("precision", precision, ("float32", "mixed_bfloat16", "mixed_float16"))
    if features is not None:
        check_choice("features", features, ("vgg19", "classifier", common.NONE))
    if schedule is not None:
        _triples(schedule)
    if weights is not None:
        common.check_weights(weights)
    if vgg19 != "imagenet" and not Path(vgg19).is_file():
        raise FileNotFoundError(f"Expected --vgg19-weights to be imagenet or a file. Received {vgg19!r}.")


def chosen_sides(text: str) -> tuple[int, ...]:
    """Sides with commas between them; empty for those of the recipe."""
    from art_versatile._checks import check_integer

    return tuple(check_integer("sides", int(side) if side.isdecimal() else side, 32) for side in common.listed(text))


def default_eps(fresh: bool, inner: str | None) -> str:
    """Budgets where none is given."""
    return "4/255" if inner is not None else "2/255,16/255" if fresh else "16/255"


def chosen_preset(
    name: str,
    *,
    epochs: int | None = None,
    features: str | None = None,
    vgg19_weights: str = "imagenet",
    adversarial: bool = True,
    noise: float | None = None,
    **fields: Any,
) -> Preset:
    """A preset with what the command line changes; None changes nothing."""
    from art_versatile.training.presets import find_preset

    base = find_preset(name)
    changes = {key: value for key, value in fields.items() if value is not None}
    if features is not None:
        changes["features"] = None if features == common.NONE else features
    wanted = changes.get("features", base.features)
    if wanted != base.features:
        changes["features_options"] = {}  # those of other features
    if wanted == "vgg19":
        options = changes.get("features_options", base.features_options)
        changes["features_options"] = {**options, "weights": vgg19_weights}
    if not adversarial:
        changes["discriminator"] = None
    if noise is not None:
        changes["generator_options"] = {**base.generator_options, "noise": noise}
    if epochs is not None:
        changes["schedule"] = changes.get("schedule", base.schedule).scaled_to(epochs)
    return find_preset(base, **changes)


def validation_on(held: PairStore, target: TensorFlowV2Classifier, limit: int | None, every: int) -> Validation:
    """What measures a run on a store of held pairs."""
    from art_versatile.training import Validation

    return Validation(held.arrays(limit), target.predict, every)


def _make_pairs(images: Sequence[Path], out: Path, build: Any, image_size: int, seed: int) -> PairStore:
    """The pairs of ``train --images``; finished ones are checked and kept."""
    from art_versatile.images import list_images
    from art_versatile.pairs import generate_pairs

    files: Any = images[0] if len(images) == 1 else [file for folder in images for file in list_images(folder)]
    name = short_name(build.args[0])
    return generate_pairs(files, None, build, out, image_size=image_size, seed=seed, classifier_name=name)


def _triples(text: str) -> list[tuple[int, float, float]]:
    """Stages, as "40:100:100,30:100:50"."""
    try:
        triples = [stage.split(":") for stage in text.split(",")]
        return [(int(count), float(pixel), float(weight)) for count, pixel, weight in triples]
    except ValueError as err:
        raise ValueError(
            f"Expected stages epochs:pixel:perceptual, as 40:100:100,60:100:1. Received {text!r}: {err}"
        ) from err


def stages(text: str) -> Any:
    """A schedule."""
    from art_versatile.pix2pix.schedule import LossSchedule

    return LossSchedule(_triples(text))
