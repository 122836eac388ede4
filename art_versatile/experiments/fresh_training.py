"""Training on what is made while training: fresh pairs of several networks, or attacks and noise inside the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_versatile._checks import check_choice
from art_versatile.images import list_images

if TYPE_CHECKING:
    import keras

    from art_versatile.pairs.fresh import RandomViews, Recipe
    from art_versatile.pix2pix.perceptual import RandomPerceptualLoss
    from art_versatile.training import TrainingResult
    from art_versatile.training.inner import GaussianNoise, InnerAttack

__all__ = ["INNER", "NETWORKS", "feature_network", "fresh_training", "inner_source", "perceptual_loss_of_several"]

#: Names of what is made inside the training step.
INNER = ("fgsm", "pgd", "free", "gaussian")
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


def inner_source(
    name: str,
    classifiers: Sequence[keras.Model],
    *,
    eps: float = 4 / 255,
    steps: int = 2,
    replay: int = 4,
    sigma: float = 0.25,
) -> InnerAttack | GaussianNoise:
    """
    What makes the adversarial half of a batch inside the training step.

    :param name: Out of :data:`INNER`: one step of FGSM, PGD, replay of the gradients that there are anyway ("free"),
        or Gaussian noise.
    :param classifiers: The attacked Keras models, from pixels in [0, 1] to logits.
    :param eps: Budget of the attacks, pixels in [0, 1].
    :param steps: Of PGD.
    :param replay: Steps on each batch, of "free"; at least 2.
    :param sigma: Largest standard deviation of the noise, pixels in [0, 1].
    :raises ValueError: If the name is none of these or a number is out of its range.
    """
    from art_versatile.training.inner import GaussianNoise, InnerAttack

    check_choice("inner", name, INNER)
    if name == "gaussian":
        return GaussianNoise(sigma)
    if name == "free":
        if replay < 2:
            raise ValueError(f"Expected replay to be at least 2. Received {replay}.")
        return InnerAttack(classifiers, eps=eps, replay=replay)
    return InnerAttack(classifiers, eps=eps, steps=steps if name == "pgd" else 1)


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
    :param inner: What makes the adversarial images inside the step (:func:`inner_source`), from clean parts of the
        photographs; None attacks in front of it (:class:`~art_versatile.pairs.fresh.FreshPairs`).
    :param recipe: What is drawn; with ``inner`` its ``sides`` and ``zoom`` alone count.
    :param epoch_pairs: Pairs in an epoch.
    :param preset: "paper", "compact" or a :class:`~art_versatile.training.Preset`; pairs are as they are drawn, so that
        its crops, flips, factors and share of clean pairs do not count. Without features it trains without a perceptual
        loss, else with :func:`perceptual_loss_of_several`.
    :param seed: Of networks, pairs and losses.
    :param card: Further facts for the cards; JSON-able.
    :param settings: Passed to :meth:`art_versatile.training.Training.of`.
    :return: The generator with its history.
    :raises FileNotFoundError: If there is no image.
    :raises ValueError: If a setting is not as expected, or a classifier does not take the sizes that are drawn.
    """
    from art_versatile.pairs.fresh import FreshPairs, RandomViews, Recipe
    from art_versatile.training import Training
    from art_versatile.training.presets import find_preset

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
    return prepared.run(pairs, card={"pairs": {**facts, "drawn": repr(pairs)}, **(card or {})})
