"""The paper's attacks as ART attack objects: one place for every attack parameter (paper, section 3.1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from tqdm.auto import tqdm

from art_versatile._checks import check_batch_size, check_choice

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = [
    "PRESETS",
    "DeepFoolByImage",
    "MomentumIterativeMethodNumpy",
    "paper_attacks",
    "unseen_attacks",
]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
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


class MomentumIterativeMethodNumpy(MomentumIterativeMethod):
    """
    ART's MI-FGSM (arXiv 1710.06081) on ART's framework-independent loop.

    ``MomentumIterativeMethod`` hands TensorFlow classifiers to a loop that does not implement the momentum and raises
    ``NotImplementedError`` (ART 1.20.1); ``ProjectedGradientDescentNumpy`` does implement it, for every framework.

    :param estimator: An ART classifier with loss gradients.
    :param decay: Decay factor of the accumulated gradient.
    :param kwargs: The other parameters of ``MomentumIterativeMethod``.
    """

    def __init__(self, estimator: Any, *, decay: float = 1.0, **kwargs: Any) -> None:
        super().__init__(estimator, decay=decay, **kwargs)
        self.decay = decay
        self._attack = ProjectedGradientDescentNumpy(
            estimator=estimator,
            norm=self.norm,
            eps=self.eps,
            eps_step=self.eps_step,
            decay=self.decay,
            max_iter=self.max_iter,
            targeted=self.targeted,
            num_random_init=self.num_random_init,
            batch_size=self.batch_size,
            verbose=self.verbose,
        )


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


def _budget(preset: str, eps: float, eps_step: float, batch_size: int) -> dict[str, dict[str, Any]]:
    check_choice("preset", preset, tuple(PRESETS))
    check_batch_size(batch_size)
    for name, value in (("eps", eps), ("eps_step", eps_step)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise ValueError(f"Expected {name} to be a positive number, in units of the pixels. Received {value!r}.")
    return PRESETS[preset]


def paper_attacks(
    classifier: Any,
    eps: float = 16 / 255,
    *,
    eps_step: float = 0.01,
    max_iter: int | None = None,
    preset: str = "paper",
    batch_size: int = 32,
    verbose: bool = False,
) -> dict[str, EvasionAttack]:
    """
    The six attacks that the paper trains on: FGSM, BIM, PGD, C&W, MI-FGSM, AutoAttack.

    All but C&W (L2, unbounded) are bounded in L-infinity by ``eps``. AutoAttack is ART's ensemble (APGD-CE, APGD-DLR,
    Square), without the DeepFool that ART puts into it, so that DeepFool stays unseen; it is not the standard ensemble
    of Croce and Hein. Attacks remember the classifier as it is: build them again after changing its defences.

    :param classifier: An ART ``TensorFlowV2Classifier`` or ``PyTorchClassifier`` with logits, as ART's APGD takes no
        other. :func:`~art_versatile.attacks.compile_classifier` makes the first of a ``KerasClassifier``.
    :param eps: Largest change of a pixel, in units of the pixels; the default is for pixels in [0, 1].
    :param eps_step: Step size of BIM, PGD and MI-FGSM, in the same units (APGD: 2 eps at first, then its own).
    :param max_iter: Iterations of BIM, PGD and MI-FGSM; by default the preset's (paper: 40, quick: 10).
    :param preset: "paper", or "quick" (few iterations, see ``PRESETS``).
    :param batch_size: Images attacked at once.
    :param verbose: Show ART's progress bars.
    :return: Name -> attack, in the paper's order.
    :raises ValueError: If a parameter is not as expected, or from ART for another classifier.
    """
    budget = _budget(preset, eps, eps_step, batch_size)
    iterative = {**budget["iterative"], **({} if max_iter is None else {"max_iter": max_iter})}
    common = {"norm": np.inf, "eps": float(eps), "eps_step": float(eps_step), "batch_size": batch_size}
    apgd = {**common, "eps_step": 2.0 * float(eps), **budget["APGD"], "verbose": verbose}
    members = [
        AutoProjectedGradientDescent(classifier, loss_type="cross_entropy", **apgd),
        AutoProjectedGradientDescent(classifier, loss_type="difference_logits_ratio", **apgd),
        SquareAttack(
            classifier,
            norm=np.inf,
            eps=float(eps),
            p_init=0.8,
            batch_size=batch_size,
            verbose=verbose,
            **budget["Square"],
        ),
    ]
    return {
        "FGSM": FastGradientMethod(classifier, norm=np.inf, eps=float(eps), batch_size=batch_size),
        "BIM": BasicIterativeMethod(
            classifier,
            eps=float(eps),
            eps_step=float(eps_step),
            batch_size=batch_size,
            verbose=verbose,
            **iterative,
        ),
        "PGD": ProjectedGradientDescent(classifier, num_random_init=1, verbose=verbose, **common, **iterative),
        "C&W": CarliniL2Method(classifier, batch_size=batch_size, verbose=verbose, **budget["C&W"]),
        "MI-FGSM": MomentumIterativeMethodNumpy(classifier, decay=1.0, verbose=verbose, **common, **iterative),
        "AutoAttack": AutoAttack(
            classifier, norm=np.inf, eps=float(eps), eps_step=2.0 * float(eps), attacks=members, batch_size=batch_size
        ),
    }


def unseen_attacks(classifier: Any, *, preset: str = "paper", verbose: bool = False) -> dict[str, EvasionAttack]:
    """
    The attack that the paper keeps out of training: DeepFool (L2, unbounded).

    With ``nb_grads`` below the number of classes it takes ART 1.20.1's step, whose length is not the paper's:
    :class:`~art_versatile.attacks.CompiledDeepFool` says how they differ. The tables of this package are of ART's,
    as that class is with ``as_art=True``.

    :param classifier: An ART classifier with class gradients and logits, ``clip_values=(0, 1)``.
    :param preset: "paper" or "quick".
    :param verbose: Show ART's progress bar.
    :return: Name -> attack.
    """
    budget = _budget(preset, 1.0, 1.0, 1)
    return {"DeepFool": DeepFoolByImage(classifier, batch_size=1, verbose=verbose, **budget["DeepFool"])}
