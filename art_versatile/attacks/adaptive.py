"""
Attacks by someone who knows the defence: through it, around its gradient (BPDA), over its draws (EOT), by queries.

Athalye et al., "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), and Carlini et al., "On
Evaluating Adversarial Robustness" (arXiv 1902.06705), say why each of them is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.defences.preprocessor import Preprocessor
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier
from art.utils import is_probability

from art_versatile._checks import check_choice, check_integer, pixel_range
from art_versatile.attacks.compiled import compile_attack
from art_versatile.attacks.suite import in_pixels
from art_versatile.defended import BackwardPassIdentity, through

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = [
    "ADAPTIVE_EFFORTS",
    "BackwardPassIdentity",
    "adaptive_attacks",
    "adaptive_pgd",
    "query_attacks",
    "through",
]

#: How hard they try: "quick" for minutes on a CPU, "full" for a figure to publish.
ADAPTIVE_EFFORTS: dict[str, dict[str, dict[str, int]]] = {
    "quick": {
        "PGD": {"max_iter": 10, "num_random_init": 1},
        "APGD": {"max_iter": 10, "nb_random_init": 1},
        "Square": {"max_iter": 100, "nb_restarts": 1},
    },
    "full": {
        "PGD": {"max_iter": 100, "num_random_init": 5},
        "APGD": {"max_iter": 100, "nb_random_init": 5},
        "Square": {"max_iter": 5000, "nb_restarts": 1},
    },
}


def adaptive_attacks(
    classifier: Any,
    defence: Preprocessor,
    eps: float = 8 / 255,
    *,
    effort: str = "quick",
    max_iter: int | None = None,
    eot_samples: int = 1,
    bpda: bool = True,
    batch_size: int = 32,
    seed: int | None = None,
    verbose: bool = False,
) -> dict[str, EvasionAttack]:
    """
    White-box attacks in L-infinity through one defence.

    "FGSM" (one step, for comparison), "PGD" (cross-entropy, steps of 2.5 eps / iterations), "APGD-CE" and "APGD-DLR"
    (arXiv 2003.01690; DLR of logits of at least three classes) take the defence's own gradient; "PGD, BPDA" takes the
    identity in its place. None is proof; a figure is as good as its strongest attack.

    With ``eot_samples`` above 1 there is no APGD: ART's decides by single draws what is best, and gives back its random
    start for an image that it holds for unbroken; against random defences it is the weaker attack.

    :param classifier: An undefended ART classifier with loss gradients and ``clip_values``.
    :param defence: An ART preprocessor.
    :param eps: Budget, a share of the range of the pixels.
    :param effort: "quick" or "full", a key of ``ADAPTIVE_EFFORTS``.
    :param max_iter: Iterations of PGD and APGD; the effort's by default.
    :param eot_samples: Draws a gradient is the mean of; at least 20 where the defence is random.
    :param bpda: Include "PGD, BPDA".
    :param batch_size: Images attacked at once.
    :param seed: Of the draws.
    :param verbose: Show ART's progress bars.
    :return: Name -> attack.
    :raises ValueError: If a budget, an effort or a count is not as said, or the defence is for other pixels than the
        classifier.
    """
    steps = _spent("APGD", effort, max_iter)
    bound = in_pixels("eps", eps, classifier)
    options: dict[str, Any] = {"eot_samples": eot_samples, "seed": seed}
    shared: dict[str, Any] = {"batch_size": batch_size, "verbose": verbose}
    exact = through(classifier, defence, **options)
    attacks: dict[str, EvasionAttack] = {
        "FGSM": FastGradientMethod(exact, norm=np.inf, eps=bound, batch_size=batch_size),
        "PGD": adaptive_pgd(exact, eps, effort=effort, max_iter=max_iter, **shared),
    }
    if bpda:
        around = through(classifier, defence, gradient="bpda", **options)
        attacks["PGD, BPDA"] = adaptive_pgd(around, eps, effort=effort, max_iter=max_iter, **shared)
    # ART's APGD knows TensorFlowV2Classifier and PyTorchClassifier; ``exact`` is the first, of a KerasClassifier too.
    if eot_samples == 1 and not isinstance(exact, KerasClassifier):
        apgd: dict[str, Any] = {**steps, **shared, "norm": np.inf, "eps": bound, "eps_step": 2 * bound}
        attacks["APGD-CE"] = AutoProjectedGradientDescent(exact, loss_type="cross_entropy", **apgd)
        blank = np.full((1, *exact.input_shape), sum(pixel_range(exact)) / 2, np.float32)
        if exact.nb_classes >= 3 and not is_probability(exact.predict(blank)[0]):
            attacks["APGD-DLR"] = AutoProjectedGradientDescent(exact, loss_type="difference_logits_ratio", **apgd)
    if isinstance(exact, TensorFlowV2Classifier):
        attacks = {name: compile_attack(attack, **options) for name, attack in attacks.items()}
    return attacks


def adaptive_pgd(
    defended: Any,
    eps: float = 8 / 255,
    *,
    effort: str = "quick",
    max_iter: int | None = None,
    batch_size: int = 32,
    verbose: bool = False,
) -> ProjectedGradientDescent:
    """
    PGD in L-infinity on a defended classifier: steps of 2.5 eps / iterations (Madry et al., arXiv 1706.06083).

    :param defended: What :func:`through` gives, or the ``estimator`` of one of :func:`adaptive_attacks`: built once, it
        is compiled once for several budgets.
    :param eps: Budget, a share of the range of the pixels.
    :param effort: "quick" or "full", a key of ``ADAPTIVE_EFFORTS``.
    :param max_iter: Iterations; the effort's by default.
    :param batch_size: Images attacked at once.
    :param verbose: Show ART's progress bar.
    :return: The attack.
    :raises ValueError: If a budget, an effort or a count is not as said.
    """
    steps = _spent("PGD", effort, max_iter)
    bound = in_pixels("eps", eps, defended)
    attack = ProjectedGradientDescent(
        defended,
        norm=np.inf,
        eps=bound,
        eps_step=2.5 * bound / steps["max_iter"],
        batch_size=batch_size,
        verbose=verbose,
        **steps,
    )
    return compile_attack(attack) if isinstance(defended, TensorFlowV2Classifier) else attack


def query_attacks(
    classifier: Any,
    defence: Preprocessor,
    eps: float = 8 / 255,
    *,
    effort: str = "quick",
    max_iter: int | None = None,
    batch_size: int = 32,
    verbose: bool = False,
) -> dict[str, EvasionAttack]:
    """
    Black-box attacks on the scores of a defended classifier, in L-infinity: "Square" (arXiv 1912.00049).

    :param classifier: An undefended ART classifier with ``clip_values``.
    :param defence: An ART preprocessor.
    :param eps: Budget, a share of the range of the pixels.
    :param effort: "quick" or "full", a key of ``ADAPTIVE_EFFORTS``.
    :param max_iter: Iterations, in each of which ART's asks for up to three predictions; the effort's by default.
    :param batch_size: Images attacked at once.
    :param verbose: Show ART's progress bars.
    :return: Name -> attack.
    :raises ValueError: If a budget, an effort or a count is not as said, or the defence is for other pixels than the
        classifier.
    """
    steps = _spent("Square", effort, max_iter)
    bound = in_pixels("eps", eps, classifier)
    defended = through(classifier, defence)
    shared: dict[str, Any] = {"batch_size": batch_size, "verbose": verbose}
    return {"Square": SquareAttack(defended, norm=np.inf, eps=bound, p_init=0.8, **shared, **steps)}


def _spent(attack: str, effort: str, max_iter: int | None) -> dict[str, int]:
    """Iterations and restarts."""
    spent = ADAPTIVE_EFFORTS[check_choice("effort", effort, tuple(ADAPTIVE_EFFORTS))][attack]
    return spent if max_iter is None else {**spent, "max_iter": check_integer("max_iter", max_iter)}
