"""Make training pairs with the processes of a Ray cluster: here two on this machine, elsewhere yours."""

from pathlib import Path
from typing import Any

import joblib
import ray
import typer
from ray.util.joblib import register_ray

from art_versatile.pairs import generate_pairs


def target() -> tuple[Any, dict[str, Any]]:
    """Each worker makes its own classifier and attacks, once: ART classifiers do not travel between processes."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

    from art_versatile.attacks.compiled import compile_classifier
    from art_versatile.classifiers import efficientnet_lite0

    classifier = compile_classifier(efficientnet_lite0())
    budget = {"eps": 16 / 255, "eps_step": 0.01, "max_iter": 10, "verbose": False}
    return classifier, {
        "FGSM": FastGradientMethod(classifier, eps=16 / 255),
        "PGD": ProjectedGradientDescent(classifier, num_random_init=1, **budget),
    }


def main(out: Path, images: int = 20, size: int = 224, workers: int = 2, address: str = "") -> None:
    """Your own folder of images goes in place of ``x``, and then the workers read it themselves."""
    from art_versatile.images import demo_images

    x, _, _ = demo_images(images, size)
    # With machines of your own: the address of their cluster, and a path that all of them can write to.
    if address:
        ray.init(address=address)
    else:
        ray.init(num_cpus=workers, include_dashboard=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=workers):
        store = generate_pairs(x, None, target, out.absolute(), shard_size=max(1, images // 4), seed=0)
    ray.shutdown()
    print(store)
    print({name: f"{rate:.0%}" for name, rate in store.success_rates.items() if rate is not None})


if __name__ == "__main__":
    typer.run(main)
