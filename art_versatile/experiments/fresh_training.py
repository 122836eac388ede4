"""Training on what is made while training: fresh pairs of several networks, or attacks and noise inside the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_versatile._checks import check_choice, check_integer
from art_versatile.images import list_images

if TYPE_CHECKING:
    import keras

    from art_versatile.pairs.fresh import RandomViews, Recipe
    from art_versatile.pix2pix.perceptual import RandomPerceptualLoss
    from art_versatile.training import PreparedTraining, TrainingResult

__all__ = ["NETWORKS", "feature_network", "fresh_training", "perceptual_loss_of_several"]

#: Networks of features, read from files.
NETWORKS = ("alexnet", "vgg16")


def feature_network(name: str, path: str | Path) -> keras.Model:
    """
    The convolutions of a network, from a file.

    :param name: Out of :data:`NETWORKS`.
    :param path: See :mod:`art_versatile.pix2pix.convolutions`.
    :return: (N, H, W, 3) in [0, 1] -> features.
    :raises ValueError: If there is no network of that name, or the file holds another.
    :raises FileNotFoundError: If there is no such file.
    """
    check_choice("feature network", name, NETWORKS)
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a file of the weights of {name}. Received {str(path)!r}: there is none.")
    from art_versatile.pix2pix.convolutions import alexnet_features, vgg16_features

    return {"alexnet": alexnet_features, "vgg16": vgg16_features}[name](path)


def perceptual_loss_of_several(
    classifiers: Sequence[keras.Model], networks: Sequence[keras.Model] = (), *, seed: int = 0
) -> RandomPerceptualLoss:
    """
    The perceptual loss of one network, drawn anew at each call.

    :param classifiers: Keras models of logits: four layers from 0.3 of the depth on, and log(1 + KL) of the prediction.
    :param networks: Networks of features: all their layers "relu_0", "relu_1", ..., each with weight 0.6.
    :param seed: Of the draws.
    """
    from art_versatile.pix2pix.perceptual import PerceptualLoss, RandomPerceptualLoss

    losses = [
        PerceptualLoss.of_classifier(model, count=4, start=0.3, prediction_weight=1.0, prediction="log")
        for model in classifiers
    ]
    for network in networks:
        names = [layer.name for layer in network.layers if layer.name.startswith("relu_")]
        losses.append(PerceptualLoss(network, dict.fromkeys(names, 0.6)))
    return RandomPerceptualLoss(losses, seed=seed)


def fresh_training(
    images: Sequence[str | Path],
    classifiers: Mapping[str, keras.Model],
    out: str | Path | None = None,
    *,
    networks: Mapping[str, keras.Model] | None = None,
    inner: Any = None,
    recipe: Recipe | None = None,
    epoch_pairs: int = 2000,
    pixel_start: int = 0,
    preset: Any = "compact",
    seed: int = 0,
    card: dict[str, Any] | None = None,
    **settings: Any,
) -> TrainingResult:
    """
    Train a purifier on pairs that are made while it is trained.

    :param images: Folders of photographs, or files.
    :param classifiers: Name -> Keras model from pixels in [0, 1] to logits.
    :param out: Folder of the run; None writes nothing.
    :param networks: Name -> Keras model of features, attacked and compared besides.
    :param inner: What makes the adversarial images inside the step, from clean parts of the photographs
        (:func:`~art_versatile.training.inner.inner_source`); None attacks in front of it
        (:class:`~art_versatile.pairs.fresh.FreshPairs`).
    :param recipe: What is drawn; with ``inner`` its ``sides`` and ``zoom`` alone count.
    :param epoch_pairs: Pairs in an epoch.
    :param pixel_start: Epochs of the pixel loss alone before the run, one of their own in ``out/start``: the run begins
        with its weights and a fresh optimizer, as Adam's second moments of the small pixel gradients blow the next
        phase up. Where a callback ends these epochs early, the run does not begin; it is called again with ``resume``.
    :param preset: "paper", "compact" or a :class:`~art_versatile.training.Preset`; pairs are as they are drawn, so that
        its crops, flips, factors and share of clean pairs do not count. Without features it trains without a perceptual
        loss, else with :func:`perceptual_loss_of_several`.
    :param seed: Of networks, pairs and losses.
    :param card: Further facts for the cards; JSON-able.
    :param settings: Passed to :meth:`art_versatile.training.Training.of`.
    :return: The generator with its history; that of ``out/start`` where that was ended early.
    :raises FileNotFoundError: If there is no image.
    :raises ValueError: If a setting is not as expected, or a classifier does not take the sizes that are drawn.
    """
    from art_versatile.pairs.fresh import FreshPairs, RandomViews, Recipe
    from art_versatile.training import Training
    from art_versatile.training.presets import find_preset

    check_integer("pixel_start", pixel_start, least=0)
    recipe, networks = Recipe() if recipe is None else recipe, dict(networks or {})
    files = [file for source in images for file in list_images(source)]
    for name, model in classifiers.items():
        side = model.input_shape[1]
        if side is not None and set(recipe.sides) != {side}:
            raise ValueError(f"Expected sides ({side},), the one size that {name} takes. Received {recipe.sides}.")
    pairs: RandomViews
    if inner is None:
        pairs = FreshPairs(files, classifiers, networks, recipe, epoch_pairs=epoch_pairs)
    else:
        pairs = RandomViews(files, recipe.sides, zoom=recipe.zoom, epoch_pairs=epoch_pairs)
    as_drawn: dict[str, Any] = {"crop": None, "flip": False, "scale": (1.0, 1.0), "clean_share": 0.0}
    perceptual = None
    if find_preset(preset).features is not None:
        perceptual = perceptual_loss_of_several(list(classifiers.values()), list(networks.values()), seed=seed)
    training = Training.of(preset, perceptual=perceptual, inner=inner, seed=seed, **as_drawn, **settings)
    facts = {"photographs": len(files), "classifiers": list(classifiers), "networks": list(networks)}
    prepared = training.prepare(pairs.image_shape, out)
    known = {"pairs": {**facts, "drawn": repr(pairs)}, **(card or {})}
    if pixel_start:
        start = _pixel_start(prepared, pixel_start, None if out is None else Path(out) / "start")
        begun = start.run(pairs, card=known)
        if len(begun.history) < pixel_start:
            return begun
        known["pixel_start"] = pixel_start
    return prepared.run(pairs, card=known)


def _pixel_start(prepared: PreparedTraining, epochs: int, out: Path | None) -> PreparedTraining:
    """The run of the pixel loss alone that comes before another, on the same generator."""
    from art_versatile.pix2pix.schedule import LossSchedule
    from art_versatile.training.inner import InnerAttack

    training, recipe = prepared.settings, prepared.settings.recipe
    inner = training.inner
    if isinstance(inner, InnerAttack):
        inner = replace(inner, raise_at=None)  # nothing is held yet
    schedule = LossSchedule([(epochs, recipe.schedule(0)[0] or 1.0, 0.0)])
    plain = replace(recipe, schedule=schedule, discriminator=None, features=None, features_options={})
    alone: dict[str, Any] = dict.fromkeys(("perceptual", "optimizer", "validation", "watch", "monitor", "patience"))
    settings = replace(training, preset=plain, generator=prepared.generator, inner=inner, tensorboard=False, **alone)
    return settings.prepare(prepared.image_shape, out)
