"""
Attacks by someone who knows the defence: through it, around its gradient (BPDA), over its draws (EOT), by queries.

Athalye et al., "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), and Carlini et al., "On
Evaluating Adversarial Robustness" (arXiv 1902.06705), say why each of them is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.defences.preprocessor import Preprocessor
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier
from art.estimators.classification.classifier import ClassGradientsMixin
from art.estimators.estimator import LossGradientsMixin
from art.utils import is_probability

from art_versatile._checks import check_bool, check_choice, check_integer, check_number
from art_versatile.attacks.compiled import compile_attack, compile_classifier

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = [
    "BUDGETS",
    "BackwardPassIdentity",
    "adaptive_attacks",
    "adaptive_pgd",
    "attacked_classifiers",
    "check_pixels",
    "defend",
    "goes_through",
    "one_range",
    "query_attacks",
    "takes_gradients",
    "through",
]

#: What is spent: "quick" for minutes on a CPU, "full" for a figure to publish.
BUDGETS: dict[str, dict[str, dict[str, int]]] = {
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


class BackwardPassIdentity(PreprocessorTensorFlowV2):
    """
    A defence with the identity on the way back: BPDA (Athalye et al., arXiv 1802.00420, section 4.1).

    An attack through it sees what the defence does but not its gradient, be that none, masked or exact. Where the
    defence changes the size of its images, the way back is that of a bilinear resize.

    :param defence: Any ART preprocessor. One that is not of TensorFlow runs as NumPy, and has to keep the shape.
    :param channels_first: Images are (N, C, H, W) instead of (N, H, W, C).
    :raises TypeError: If it is no ART preprocessor.
    """

    params = ["defence", "channels_first"]  # noqa: RUF012

    def __init__(self, defence: Preprocessor, *, channels_first: bool = False) -> None:
        if not isinstance(defence, Preprocessor):
            raise TypeError(f"Expected an ART preprocessor. Received {type(defence).__name__}.")
        super().__init__(is_fitted=True, apply_fit=defence.apply_fit, apply_predict=defence.apply_predict)
        self.defence = defence
        self.channels_first = check_bool("channels_first", channels_first)

    def forward(self, x: tf.Tensor, y: Any = None) -> tuple[tf.Tensor, Any]:
        """
        Defend.

        :param x: As the defence takes them.
        :param y: Passed through.
        :return: As the defence gives them, and ``y``.
        """

        @tf.custom_gradient
        def wrapped(images: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
                back = self._back(images, upstream)
                return back if variables is None else (back, [None] * len(variables))

            return self._defended(images), gradient

        return wrapped(tf.convert_to_tensor(x)), y

    def _defended(self, images: tf.Tensor) -> tf.Tensor:
        if isinstance(self.defence, PreprocessorTensorFlowV2):
            return self.defence.forward(images)[0]

        def apply(array: np.ndarray) -> np.ndarray:
            return np.asarray(self.defence(array)[0], array.dtype)

        return tf.ensure_shape(tf.numpy_function(apply, [images], images.dtype), images.shape)

    def _back(self, images: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        if images.shape.rank != 4 or (images.shape.is_fully_defined() and images.shape == upstream.shape):
            return upstream
        order = (0, 2, 3, 1) if self.channels_first else (0, 1, 2, 3)
        upstream = tf.transpose(upstream, order)
        with tf.GradientTape() as tape:
            tape.watch(images)
            resized = tf.image.resize(tf.transpose(images, order), tf.shape(upstream)[1:3])
        return tape.gradient(resized, images, tf.cast(upstream, resized.dtype))


def defend(classifier: Any, defence: Preprocessor) -> Any:
    """
    A copy of an ART classifier with a defence before its own; the two share the model.

    :param classifier: Any ART classifier that takes ``preprocessing_defences``; it stays as it was.
    :param defence: Any ART preprocessor, such as a purifier.
    :raises ValueError: If the two are not of one range of pixels or one layout, or the defence is not applied when the
        classifier predicts.
    """
    check_pixels(classifier, defence)
    if not defence.apply_predict:
        raise ValueError(f"Expected a defence with apply_predict=True. Received {type(defence).__name__} without.")
    # Not copy.copy: ART's PyTorchClassifier would write its weights to a file and read them back.
    defended = object.__new__(type(classifier))
    defended.__dict__.update(vars(classifier))
    # ART refills this list in place: the copy needs its own.
    defended.preprocessing_operations = []
    defended.set_params(preprocessing_defences=[defence, *(classifier.preprocessing_defences or [])])
    return defended


def check_pixels(classifier: Any, defence: Preprocessor) -> None:
    """
    Whether a classifier and a defence are of one range of pixels and one layout, where both say theirs.

    :param classifier: An ART classifier.
    :param defence: An ART preprocessor.
    :raises ValueError: If they are not.
    """
    ranges = [getattr(item, "clip_values", None) for item in (classifier, defence)]
    if ranges[0] is not None and ranges[1] is not None:
        expected = one_range(ranges[0])
        if not np.allclose(expected, one_range(ranges[1])):
            raise ValueError(f"Expected a defence with the classifier's clip_values {expected}. Received {ranges[1]}.")
    first = getattr(defence, "channels_first", None)
    if first is not None and bool(first) != bool(getattr(classifier, "channels_first", False)):
        raise ValueError(f"Expected a defence with the classifier's channels_first. Received {first}.")


def through(
    classifier: Any, defence: Preprocessor, *, gradient: str = "exact", eot_samples: int = 1, seed: int | None = None
) -> Any:
    """
    The defended classifier as an adaptive attacker sees it; compiled, where it is of TensorFlow.

    :param classifier: An undefended ART classifier; it stays as it was.
    :param defence: An ART preprocessor.
    :param gradient: "exact" goes through the defence's own gradient; "bpda" through the identity, see
        :class:`BackwardPassIdentity`.
    :param eot_samples: Draws of a random defence that each gradient is the mean of, see
        :class:`CompiledTensorFlowV2Classifier`.
    :param seed: Seed of its ``tf.random`` operations; None leaves TensorFlow's own.
    :return: An ART classifier to build attacks on.
    :raises ValueError: If a parameter is not as expected.
    :raises TypeError: If more than one draw is asked of a classifier that cannot be compiled.
    """
    check_choice("gradient", gradient, ("exact", "bpda"))
    check_integer("eot_samples", eot_samples)
    if gradient == "bpda":
        check_pixels(classifier, defence)
        defence = BackwardPassIdentity(defence, channels_first=bool(getattr(classifier, "channels_first", False)))
    defended = defend(classifier, defence)
    if isinstance(classifier, TensorFlowV2Classifier | KerasClassifier):
        return compile_classifier(defended, eot_samples=eot_samples, seed=seed)
    if eot_samples > 1:
        raise TypeError(f"Expected a TensorFlow classifier with eot_samples > 1. Received {type(classifier).__name__}.")
    return defended


def adaptive_attacks(
    classifier: Any,
    defence: Preprocessor,
    eps: float = 8 / 255,
    *,
    preset: str = "quick",
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

    :param classifier: An undefended ART classifier with loss gradients.
    :param defence: An ART preprocessor.
    :param eps: Budget, in units of the pixels.
    :param preset: A key of ``BUDGETS``.
    :param max_iter: Iterations of PGD and APGD; the preset's by default.
    :param eot_samples: Draws a gradient is the mean of; at least 20 where the defence is random.
    :param bpda: Include "PGD, BPDA".
    :param batch_size: Images attacked at once.
    :param seed: Of the draws.
    :param verbose: Show ART's progress bars.
    :return: Name -> attack.
    :raises ValueError: If a parameter is not as expected.
    """
    budget = BUDGETS[check_choice("preset", preset, tuple(BUDGETS))]
    eps = _checked_eps(eps, classifier)
    options: dict[str, Any] = {"eot_samples": eot_samples, "seed": seed}
    exact = through(classifier, defence, **options)
    iterations = {} if max_iter is None else {"max_iter": check_integer("max_iter", max_iter)}
    pgd: dict[str, Any] = {"preset": preset, "max_iter": max_iter, "batch_size": batch_size, "verbose": verbose}
    apgd: dict[str, Any] = {**budget["APGD"], **iterations, "norm": np.inf, "eps": eps, "eps_step": 2 * eps}
    apgd |= {"batch_size": batch_size, "verbose": verbose}

    attacks: dict[str, EvasionAttack] = {
        "FGSM": FastGradientMethod(exact, norm=np.inf, eps=eps, batch_size=batch_size),
        "PGD": adaptive_pgd(exact, eps, **pgd),
    }
    if bpda:
        attacks["PGD, BPDA"] = adaptive_pgd(through(classifier, defence, gradient="bpda", **options), eps, **pgd)
    # ART's APGD knows TensorFlowV2Classifier and PyTorchClassifier; ``exact`` is the first, of a KerasClassifier too.
    if eot_samples == 1 and not isinstance(exact, KerasClassifier):
        attacks["APGD-CE"] = AutoProjectedGradientDescent(exact, loss_type="cross_entropy", **apgd)
        blank = np.full((1, *exact.input_shape), sum(one_range(exact.clip_values)) / 2, np.float32)
        if exact.nb_classes >= 3 and not is_probability(exact.predict(blank)[0]):
            attacks["APGD-DLR"] = AutoProjectedGradientDescent(exact, loss_type="difference_logits_ratio", **apgd)
    if isinstance(exact, TensorFlowV2Classifier):
        attacks = {name: compile_attack(attack, **options) for name, attack in attacks.items()}
    return attacks


def adaptive_pgd(
    defended: Any,
    eps: float = 8 / 255,
    *,
    preset: str = "quick",
    max_iter: int | None = None,
    batch_size: int = 32,
    verbose: bool = False,
) -> ProjectedGradientDescent:
    """
    PGD in L-infinity on a defended classifier: steps of 2.5 eps / iterations (Madry et al., arXiv 1706.06083).

    :param defended: What :func:`through` gives, or the ``estimator`` of one of :func:`adaptive_attacks`: built once, it
        is compiled once for several budgets.
    :param eps: Budget, in units of the pixels.
    :param preset: A key of ``BUDGETS``.
    :param max_iter: Iterations; the preset's by default.
    :param batch_size: Images attacked at once.
    :param verbose: Show ART's progress bar.
    :return: The attack.
    :raises ValueError: If a parameter is not as expected.
    """
    budget = dict(BUDGETS[check_choice("preset", preset, tuple(BUDGETS))]["PGD"])
    if max_iter is not None:
        budget["max_iter"] = check_integer("max_iter", max_iter)
    eps = _checked_eps(eps, defended)
    attack = ProjectedGradientDescent(
        defended,
        norm=np.inf,
        eps=eps,
        eps_step=2.5 * eps / budget["max_iter"],
        batch_size=batch_size,
        verbose=verbose,
        **budget,
    )
    return compile_attack(attack) if isinstance(defended, TensorFlowV2Classifier) else attack


def query_attacks(
    classifier: Any,
    defence: Preprocessor,
    eps: float = 8 / 255,
    *,
    preset: str = "quick",
    max_iter: int | None = None,
    batch_size: int = 32,
    verbose: bool = False,
) -> dict[str, EvasionAttack]:
    """
    Black-box attacks on the scores of a defended classifier, in L-infinity: "Square" (arXiv 1912.00049).

    :param classifier: An undefended ART classifier.
    :param defence: An ART preprocessor.
    :param eps: Budget, in units of the pixels.
    :param preset: A key of ``BUDGETS``.
    :param max_iter: Iterations, in each of which ART's asks for up to three predictions; the preset's by default.
    :param batch_size: Images attacked at once.
    :param verbose: Show ART's progress bars.
    :return: Name -> attack.
    :raises ValueError: If a parameter is not as expected.
    """
    budget = dict(BUDGETS[check_choice("preset", preset, tuple(BUDGETS))]["Square"])
    if max_iter is not None:
        budget["max_iter"] = check_integer("max_iter", max_iter)
    eps = _checked_eps(eps, classifier)
    square = SquareAttack(
        through(classifier, defence), norm=np.inf, eps=eps, p_init=0.8, batch_size=batch_size, verbose=verbose, **budget
    )
    return {"Square": square}


def attacked_classifiers(attack: Any) -> list[Any]:
    """
    Every classifier that an attack computes on, its own and those of the attacks inside it.

    :param attack: An ART attack.
    :return: Each once.
    """
    found = [getattr(attack, name, None) for name in ("estimator", "estimator_orig")]
    for part in _parts(attack):
        found += attacked_classifiers(part)
    return list({id(item): item for item in found if item is not None}.values())


def goes_through(attack: Any, defence: Any) -> bool:
    """
    Whether every classifier that an attack computes on has the defence and no other, itself or with another way back.

    :param attack: An ART attack.
    :param defence: An ART preprocessor.
    """
    classifiers = attacked_classifiers(attack)
    for classifier in classifiers:
        defences = classifier.preprocessing_defences or []
        if len(defences) != 1 or not defences[0].apply_predict:
            return False
        if defence is not defences[0] and defence is not getattr(defences[0], "defence", None):
            return False
    return bool(classifiers)


def takes_gradients(attack: Any) -> bool:
    """
    Whether an attack asks its classifier for gradients, and not for predictions alone.

    :param attack: An ART attack.
    """
    needed = getattr(attack, "_estimator_requirements", ())
    if any(isinstance(kind, type) and issubclass(kind, LossGradientsMixin | ClassGradientsMixin) for kind in needed):
        return True
    return any(takes_gradients(part) for part in _parts(attack))


def _parts(attack: Any) -> list[Any]:
    """The attacks inside an attack: its implementation, the members of an ensemble."""
    inner = getattr(attack, "_attack", None)
    return [*([] if inner is None else [inner]), *(getattr(attack, "attacks", None) or [])]


def one_range(clip_values: Any) -> tuple[float, float]:
    """
    The range of all channels, as two floats.

    :param clip_values: ART's: two numbers, or two arrays.
    :raises ValueError: If they are several ranges.
    """
    bounds = [np.unique(bound) for bound in clip_values]
    if [len(bound) for bound in bounds] != [1, 1]:
        received = [np.asarray(bound).tolist() for bound in clip_values]
        raise ValueError(f"Expected clip_values of one range for all channels. Received {received}.")
    return float(bounds[0][0]), float(bounds[1][0])


def _checked_eps(eps: float, classifier: Any) -> float:
    low, high = (0.0, np.inf) if classifier.clip_values is None else one_range(classifier.clip_values)
    return check_number("eps", eps, np.nextafter(0, 1), high - low)
