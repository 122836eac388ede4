"""Put the purifier in front of a classifier and see what a static and an adaptive attack leave of it."""

import numpy as np
import typer
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import TensorFlowV2Classifier
from tensorflow import keras

from art_versatile import VersatilePurifier
from art_versatile.classifiers import efficientnet_lite_model
from art_versatile.images import demo_images


def accuracy(classifier: TensorFlowV2Classifier, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images that are classified right."""
    return float(np.mean(classifier.predict(x).argmax(axis=1) == y))


def main(images: int = 20, size: int = 224, iterations: int = 10, eps: float = 8 / 255) -> None:
    """Your own model goes in place of ``model``: any Keras network from pixels to logits."""
    x, y, _ = demo_images(images, size)
    model = efficientnet_lite_model(0)
    settings = {
        "model": model,
        "nb_classes": 1000,
        "input_shape": (size, size, 3),
        "loss_object": keras.losses.CategoricalCrossentropy(from_logits=True),
        "clip_values": (0.0, 1.0),
    }
    undefended = TensorFlowV2Classifier(**settings)
    defended = TensorFlowV2Classifier(**settings, preprocessing_defences=[VersatilePurifier()])

    pgd = {"eps": eps, "eps_step": eps / 4, "max_iter": iterations, "verbose": False}
    static = ProjectedGradientDescent(undefended, **pgd).generate(x, y)
    adaptive = ProjectedGradientDescent(defended, **pgd).generate(x, y)
    print(f"n = {images}, PGD-{iterations}, eps = {eps * 255:.0f}/255")
    for threat, attacked in {"clean": x, "static": static, "adaptive": adaptive}.items():
        shares = [accuracy(classifier, attacked, y) for classifier in (undefended, defended)]
        print("{:>10}: undefended {:6.1%}, defended {:6.1%}".format(threat, *shares))


if __name__ == "__main__":
    typer.run(main)
