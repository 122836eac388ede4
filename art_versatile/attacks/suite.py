"""The paper's attacks as ART attack objects: one place for every attack parameter (paper, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from tqdm.auto import tqdm

from art_versatile._checks import check_batch_size, check_choice, check_integer, pixel_range
from art_versatile.attacks.compiled import MomentumIterativeMethodNumpy

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = ["EFFORTS", "PAPER_ATTACKS", "UNSEEN", "DeepFoolByImage", "in_pixels", "paper_attacks"]

#: The attacks that the paper trains on, in its order.
PAPER_ATTACKS = ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack")
#: The one that it keeps out of training.
UNSEEN = ("DeepFool",)
#: How hard they try.
EFFORTS: dict[str, dict[str, dict[str, Any]]] = {
    # The paper states eps, eps_step 0.01, 40 iterations and the norm; the rest are ART's defaults.
    "paper": {
        "iterative": {"max_iter": 40},
        "C&W": {"binary_search_steps": 10, "max_iter": 10, "learning_rate": 0.01, "initial_const": 0.01},
        "APGD": {"max_iter": 100, "nb_random_init": 5},
        "Square": {"max_iter": 5000, "nb_restarts": 5},
        "DeepFool": {"max_iter": 100, "nb_grads": 10, "epsilon": 1e-6},
    },
    # For a demonstration in minutes on a CPU; weaker wherever a budget runs out.
    "quick": {
        "iterative": {"max_iter": 10},
        "C&W": {
            "binary_search_steps": 1,
            "max_iter": 10,
            "learning_rate": 0.1,
            "initial_const": 1.0,
            "max_halving": 2,
            "max_doubling": 2,
        },
        "APGD": {"max_iter": 10, "nb_random_init": 1},
        "Square": {"max_iter": 50, "nb_restarts": 1},
        "DeepFool": {"max_iter": 10, "nb_grads": 3, "epsilon": 0.02},
    },
}


class DeepFoolByImage(DeepFool):
    """
    ART's DeepFool (arXiv 1511.04599), one image at a time.

    With ``nb_grads`` below the number of classes, ART 1.20.1 looks at the likeliest classes of all images together:
    its cost grows with the square of their number, and an image's result depends on the others. One at a time, each
    image is moved towards its own likeliest classes alone, as published; the step is ART's.
    """

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """
        Adversarial images.

        :param x: Images (N, ...).
        :param y: Ignored, as in ART.
        :param kwargs: Ignored, as in ART.
        :return: The shape of ``x``.
        """
        shown = bool(getattr(self, "verbose"))  # noqa: B009 - ART leaves it without a type
        self.set_params(verbose=False)
        try:
            images = tqdm(x, desc="DeepFool", disable=not shown)
            return np.concatenate([super(DeepFoolByImage, self).generate(image[None]) for image in images])
        finally:
            self.set_params(verbose=shown)


def in_pixels(name: str, share: float, classifier: Any) -> float:
    """
    A budget in units of a classifier's pixels.

    :param name: Its name, for the message.
    :param share: Share of the range of the pixels, above 0 and at most 1.
    :param classifier: An ART classifier with ``clip_values``.
    :return: The share times the width of the range.
    :raises ValueError: If the share is anything else, or the classifier has no range of pixels, or several.
    """
    number = isinstance(share, int | float | np.integer | np.floating) and not isinstance(share, bool)
    if not number or not 0 < share <= 1:
        raise ValueError(
            f"Expected {name} to be a share of the range of the pixels, above 0 and at most 1. Received {share!r}."
        )
    low, high = pixel_range(classifier)
    return float(share) * (high - low)


def paper_attacks(
    classifier: Any,
    eps: float = 16 / 255,
    *,
    names: Sequence[str] | None = None,
    eps_step: float = 0.01,
    max_iter: int | None = None,
    effort: str = "paper",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 32,
    verbose: bool = False,
) -> dict[str, EvasionAttack]:
    """
    The six attacks that the paper trains on (:data:`PAPER_ATTACKS`); by name also the one that it does not
    (:data:`UNSEEN`).

    All but C&W and DeepFool (L2, unbounded) are bounded in L-infinity by ``eps``. AutoAttack is ART's ensemble
    (APGD-CE, APGD-DLR, Square), without the DeepFool that ART puts into it, so that DeepFool stays unseen; it is not
    the standard ensemble of Croce and Hein. DeepFool takes ART 1.20.1's step with ``nb_grads`` below the number of
    classes, whose length is not the paper's (:class:`~art_versatile.attacks.CompiledDeepFool` says how they differ);
    ART multiplies it by the width of the pixels' range, so that it is right for a width of 1 alone.

    Attacks remember the classifier as it is: build them again after changing its defences.

    :param classifier: An ART ``TensorFlowV2Classifier`` or ``PyTorchClassifier`` with logits and ``clip_values``;
        AutoAttack takes no other. :func:`~art_versatile.attacks.compile_classifier` makes the first of a
        ``KerasClassifier``.
    :param eps: Largest change of a pixel, a share of the range of the pixels.
    :param names: Out of ``PAPER_ATTACKS`` and ``UNSEEN``; None is ``PAPER_ATTACKS``.
    :param eps_step: Step size of BIM, PGD and MI-FGSM, a share likewise (APGD: 2 eps at first, then its own).
    :param max_iter: Iterations of BIM, PGD and MI-FGSM; by default the effort's (paper: 40, quick: 10).
    :param effort: "paper", or "quick" (few iterations), a key of ``EFFORTS``.
    :param changes: Other settings than the effort's, as ``{"C&W": {"max_iter": 50}, "APGD": {"nb_random_init": 1}}``.
    :param batch_size: Images attacked at once; by DeepFool one.
    :param verbose: Show ART's progress bars.
    :return: Name -> attack, in the order of ``names``.
    :raises ValueError: If a name, an effort, a budget or a count is not as said, DeepFool is asked for pixels in a
        range of another width than 1, or ART refuses the classifier.
    """
    chosen = [
        check_choice("names", name, (*PAPER_ATTACKS, *UNSEEN)) for name in (PAPER_ATTACKS if names is None else names)
    ]
    spent = _spent(effort, changes or {})
    check_batch_size(batch_size)
    bound, step = in_pixels("eps", eps, classifier), in_pixels("eps_step", eps_step, classifier)
    iterative = spent["iterative"] if max_iter is None else {"max_iter": check_integer("max_iter", max_iter)}
    fgsm: dict[str, Any] = {"norm": np.inf, "eps": bound, "batch_size": batch_size}
    shown: dict[str, Any] = {"batch_size": batch_size, "verbose": verbose}
    steps: dict[str, Any] = {"eps": bound, "eps_step": step, **shown, **iterative}
    makers: dict[str, Callable[[], EvasionAttack]] = {
        "FGSM": lambda: FastGradientMethod(classifier, **fgsm),
        "BIM": lambda: BasicIterativeMethod(classifier, **steps),
        "PGD": lambda: ProjectedGradientDescent(classifier, norm=np.inf, num_random_init=1, **steps),
        "C&W": lambda: CarliniL2Method(classifier, **shown, **spent["C&W"]),
        "MI-FGSM": lambda: MomentumIterativeMethodNumpy(classifier, norm=np.inf, decay=1.0, **steps),
        "AutoAttack": lambda: _auto_attack(classifier, bound, spent, shown),
        "DeepFool": lambda: _deepfool(classifier, spent["DeepFool"], verbose),
    }
    return {name: makers[name]() for name in chosen}


def _spent(effort: str, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of an effort with some of them changed."""
    settings = EFFORTS[check_choice("effort", effort, tuple(EFFORTS))]
    for group, values in changes.items():
        check_choice("changes", group, tuple(settings))
        for name in values:
            check_choice(f"changes of {group}", name, tuple(settings[group]))
    return {group: {**values, **changes.get(group, {})} for group, values in settings.items()}


def _auto_attack(classifier: Any, eps: float, spent: dict[str, dict[str, Any]], shown: dict[str, Any]) -> AutoAttack:
    bounded: dict[str, Any] = {"norm": np.inf, "eps": eps, **shown}
    members = [
        AutoProjectedGradientDescent(classifier, loss_type=loss, eps_step=2.0 * eps, **bounded, **spent["APGD"])
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]
    members.append(SquareAttack(classifier, p_init=0.8, **bounded, **spent["Square"]))
    return AutoAttack(
        classifier, norm=np.inf, eps=eps, eps_step=2.0 * eps, attacks=members, batch_size=shown["batch_size"]
    )


def _deepfool(classifier: Any, spent: dict[str, Any], verbose: bool) -> DeepFoolByImage:
    low, high = pixel_range(classifier)
    if high - low != 1:
        raise ValueError(f"Expected clip_values of width 1, as (0, 1), for DeepFool. Received {(low, high)}.")
    return DeepFoolByImage(classifier, batch_size=1, verbose=verbose, **spent)
