"""Make training pairs with the processes of a Dask cluster: here two on this machine, elsewhere yours."""

from pathlib import Path
from typing import Any

import joblib
import typer
from distributed import Client, LocalCluster

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


def main(out: Path, images: int = 20, size: int = 224, scheduler: str = "") -> None:
    """Your own folder of images goes in place of ``x``, and then the workers read it themselves."""
    from art_versatile.images import demo_images

    x, _, _ = demo_images(images, size)
    # With machines of your own: the address of their scheduler, and a path that all of them can write to.
    cluster = scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with Client(cluster), joblib.parallel_config(backend="dask"):
        store = generate_pairs(x, None, target, out, shard_size=max(1, images // 4), seed=0)
    if isinstance(cluster, LocalCluster):
        cluster.close()
    print(store)
    print({name: f"{rate:.0%}" for name, rate in store.success_rates.items() if rate is not None})


if __name__ == "__main__":
    typer.run(main)
