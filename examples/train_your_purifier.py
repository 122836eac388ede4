"""Train a purifier for a classifier against two attacks, save it, load it, use it."""

from pathlib import Path

import typer
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

from art_versatile import VersatilePurifier, VersatileTrainer
from art_versatile.attacks.compiled import compile_classifier
from art_versatile.classifiers import efficientnet_lite0
from art_versatile.images import demo_images


def main(out: Path = Path("my_purifier"), images: int = 20, size: int = 192, epochs: int = 6) -> None:
    """Your own classifier, images and ART attacks go in place of these; a real run takes hours, not minutes."""
    x, y, _ = demo_images(images, size)
    classifier = compile_classifier(efficientnet_lite0(size))
    attacks = {
        "FGSM": FastGradientMethod(classifier, eps=8 / 255),
        "PGD": ProjectedGradientDescent(classifier, eps=8 / 255, eps_step=2 / 255, max_iter=10, verbose=False),
    }
    trainer = VersatileTrainer(classifier, attacks)
    history = trainer.fit(x, batch_size=4, nb_epochs=epochs)
    print("loss by epoch:", ", ".join(f"{loss:.3f}" for loss in history.history["loss"]))

    trainer.purifier.save(out)
    purifier = VersatilePurifier.from_pretrained(out)
    print(f"clean accuracy behind the purifier: {(trainer.predict(x).argmax(axis=1) == y).mean():.1%}")
    print(f"saved and loaded: {purifier}")


if __name__ == "__main__":
    typer.run(main)
