"""
Compiled attacks on a network with batch normalisation, against stock ART's: what is the same.

``python tests/benchmarks/bench_normalised.py FOLDER [--images 200]`` prints one Markdown table. EfficientNet-Lite0 at
224x224, a batch normalisation with statistics drawn at random behind every convolution, the function unchanged; the
first photographs of the folder (or the 20 of the package foolbox); labels are the classifier's own. "next to zero": the
largest gradient among the values that differ, over the mean size of a gradient.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

from art_versatile.attacks import compile_classifier
from art_versatile.classifiers import efficientnet_lite_model, wrap
from art_versatile.images import demo_images, list_images, load_image

sys.path.append(str(Path(__file__).parents[1] / "attacks" / "compiled"))

EPS, STEP, BATCH = 4 / 255, 1 / 255, 16


def main() -> None:
    """Attack and compare."""
    from compiled_cases import normalised

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    if options.folder is None:
        x = demo_images(min(options.images, 20), 224)[0]
    else:
        x = np.stack([load_image(file, 224) for file in list_images(options.folder)[: options.images]])
    stock = wrap(normalised(efficientnet_lite_model()), 224)
    parts = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    y = np.eye(1000, dtype=np.float32)[np.concatenate([stock.predict(part).argmax(1) for part in parts])]
    steps = {"eps": EPS, "eps_step": STEP, "max_iter": 10, "batch_size": BATCH, "verbose": False}
    attacks = {
        "FGSM": lambda classifier: FastGradientMethod(classifier, eps=EPS, batch_size=BATCH),
        "PGD-10": lambda classifier: ProjectedGradientDescent(classifier, **steps),
    }
    labels = [y[i : i + BATCH] for i in range(0, len(x), BATCH)]
    sizes = np.concatenate([np.abs(stock.loss_gradient(*batch)) for batch in zip(parts, labels, strict=True)])
    print(f"{len(x)} photographs.\n")
    print("| attack | values that differ | next to zero | success, ART | compiled | mean loss, ART | compiled |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, make in attacks.items():
        images, said = [], []
        for classifier in (stock, compile_classifier(stock)):
            images.append(make(classifier).generate(x, y))
            scores = np.concatenate([stock.predict(images[-1][i : i + BATCH]) for i in range(0, len(x), BATCH)])
            fooled = np.mean(scores.argmax(1) != y.argmax(1))
            said.append((fooled, float(np.mean(stock.loss_object(y, scores)))))
        differ = np.abs(images[0] - images[1]) > 1e-6
        zero = f"{sizes[differ].max(initial=0) / sizes.mean():.1e}" if name == "FGSM" else ""
        (fooled, loss), (other, other_loss) = said
        print(
            f"| {name} | {differ.mean():.1e} | {zero} | {fooled:.1%} | {other:.1%} | {loss:.3f} | {other_loss:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
