"""What the app does with a photograph, without a page: classify, attack, purify, attack through the purifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_choice, check_images, check_integer, check_number, check_positive
from art_versatile.app.job import Job, watched
from art_versatile.evaluation.metrics import psnr

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

__all__ = [
    "ATTACKS",
    "ITERATIVE",
    "THROUGH",
    "UNBOUNDED_ATTACKS",
    "Answer",
    "Attacked",
    "Workbench",
]

ATTACKS = ("FGSM", "BIM", "PGD", "C&W", "MI-FGSM", "AutoAttack", "DeepFool")
#: Attacks that the number of iterations matters to.
ITERATIVE = tuple(name for name in ATTACKS if name != "FGSM")
#: Attacks in L2 without a budget; they take no eps.
UNBOUNDED_ATTACKS = ("C&W", "DeepFool")
#: Attacks through the purifier.
THROUGH = ("PGD", "APGD")
MAX_EPS = 32 / 255
MAX_ITERATIONS = 100
_TOP = 5
# Square asks for predictions alone: as many seconds as APGD takes for one gradient.
_QUERIES_AN_ITERATION = 5


@dataclass(frozen=True)
class Answer:
    """
    What a classifier says of one image.

    :param index: The likeliest class.
    :param top: Names of the five likeliest classes (fewer, where there are fewer) and their probabilities, 0 to 1.
    """

    index: int
    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """Name of the likeliest class."""
        return self.top[0][0]

    def __str__(self) -> str:
        return f"“{self.label}” ({100 * self.top[0][1]:.0f}%)"


@dataclass(frozen=True, eq=False)
class Attacked:
    """
    One photograph under one attack.

    :param attack: Name of the attack.
    :param eps: Its budget in L-infinity, pixels in [0, 1]; None for an attack without one.
    :param iterations: Its iterations; None for an attack of one step.
    :param clean: The photograph (H, W, 3), in [0, 1].
    :param image: The attacked photograph.
    :param clean_answer: What the bare classifier says of the photograph.
    :param answer: What it says of the attacked photograph.
    :param seconds: Time of the attack.
    """

    attack: str
    eps: float | None
    iterations: int | None
    clean: np.ndarray
    image: np.ndarray
    clean_answer: Answer
    answer: Answer
    seconds: float

    @property
    def fooled(self) -> bool:
        """Whether the bare classifier's answer has changed."""
        return self.answer.index != self.clean_answer.index

    @property
    def psnr(self) -> float:
        """Of the attacked photograph against the clean one, dB."""
        return psnr(self.image[None], self.clean[None])

    @property
    def largest_change(self) -> float:
        """Of a pixel, in 255ths."""
        return 255 * float(np.abs(self.image - self.clean).max())

    @property
    def name(self) -> str:
        """The attack with its budget, as "PGD at 8/255"."""
        return self.attack if self.eps is None else f"{self.attack} at {255 * self.eps:.3g}/255"


class Workbench:
    """
    Classifiers and purifiers by name, each loaded when it is first used, and what can be done with them.

    One computation at a time: ART's attacks draw from the process's random generators, which are seeded for each. A
    second caller waits.

    :param classifiers: Name -> a function that gives an ART classifier with gradients and logits, channels last,
        ``clip_values=(0, 1)``. The first is the default.
    :param purifiers: Name -> a function that gives an ART preprocessor for such images. The first is the default.
    :param class_names: Of the classes in the order of their indices; a classifier of another number of
        them has ImageNet's, where it has 1,000, or numbers.
    :param seed: Seed of the attacks.
    :raises ValueError: If there is no classifier or no purifier.
    """

    def __init__(
        self,
        classifiers: Mapping[str, Callable[[], Any]],
        purifiers: Mapping[str, Callable[[], Any]],
        *,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        for name, given in (("classifiers", classifiers), ("purifiers", purifiers)):
            if not given:
                raise ValueError(f"Expected {name} to name at least one. Received none.")
        self._makers = {"classifier": dict(classifiers), "purifier": dict(purifiers)}
        self._made: dict[tuple[str, ...], Any] = {}
        self._names = {} if class_names is None else {len(class_names): _distinct(list(class_names))}
        self._seed = check_integer("seed", seed, 0)
        self._lock = RLock()

    @property
    def classifiers(self) -> list[str]:
        """Names of the classifiers."""
        return list(self._makers["classifier"])

    @property
    def purifiers(self) -> list[str]:
        """Names of the purifiers."""
        return list(self._makers["purifier"])

    def image_size(self, classifier: str) -> int:
        """
        Height and width of the classifier's images, in pixels.

        :param classifier: Its name.
        """
        return int(self._classifier(classifier).input_shape[0])

    def classify(self, image: np.ndarray, classifier: str) -> Answer:
        """
        What the bare classifier says of a photograph.

        :param image: (H, W, 3) in [0, 1].
        :param classifier: Its name.
        :raises ValueError: If the name is unknown or the image is not one.
        """
        with self._lock:
            return self._answer(self._classifier(classifier), image)

    def purify(self, image: np.ndarray, purifier: str) -> np.ndarray:
        """
        A photograph behind a purifier.

        :param image: (H, W, 3) in [0, 1].
        :param purifier: Its name.
        :return: The same shape, float32.
        :raises ValueError: If the name is unknown or the image is not one.
        """
        check_images(image[None], (0.0, 1.0), name="image")
        with self._lock:
            purified = self._purifier(purifier)(image[None].astype(np.float32))[0]
        return np.clip(np.asarray(purified[0], np.float32), 0, 1)

    def attack(
        self,
        image: np.ndarray,
        classifier: str,
        attack: str,
        *,
        eps: float = 8 / 255,
        iterations: int = 10,
        job: Job | None = None,
    ) -> Attacked:
        """
        Attack the bare classifier (static: the attacker does not know of the purifier).

        What the attack tries to change is the classifier's own answer on the clean photograph.

        :param image: (H, W, 3) in [0, 1].
        :param classifier: Its name.
        :param attack: One of :data:`ATTACKS`.
        :param eps: Budget in L-infinity, pixels in [0, 1], at most 32/255; :data:`UNBOUNDED_ATTACKS` take none.
        :param iterations: 1 to 100; FGSM takes none.
        :param job: Told how far it is, and able to stop it.
        :raises ValueError: If a parameter is out of range.
        :raises StoppedError: If the job has been stopped.
        """
        check_choice("attack", attack, ATTACKS)
        _check_budget(eps, iterations)
        job = job or Job()
        with self._lock:
            job.step(0, "loading the classifier")
            bare = self._classifier(classifier)
            method = _static_attack(bare, attack, eps, iterations)
            spent = None if attack in UNBOUNDED_ATTACKS else eps
            steps = iterations if attack in ITERATIVE else None
            return self._run(bare, method, image, attack, spent, steps, job)

    def attack_through(
        self,
        image: np.ndarray,
        classifier: str,
        purifier: str,
        attack: str,
        *,
        eps: float = 8 / 255,
        iterations: int = 10,
        job: Job | None = None,
    ) -> Attacked:
        """
        Attack the classifier through the purifier (adaptive: the attacker knows both, and takes the gradient of both).

        :param image: (H, W, 3) in [0, 1].
        :param classifier: Its name.
        :param purifier: Its name.
        :param attack: One of :data:`THROUGH`.
        :param eps: Budget in L-infinity, pixels in [0, 1], at most 32/255.
        :param iterations: 1 to 100.
        :param job: Told how far it is, and able to stop it.
        :raises ValueError: If a parameter is out of range.
        :raises StoppedError: If the job has been stopped.
        """
        from art_versatile.attacks.adaptive import adaptive_attacks, adaptive_pgd, through

        check_choice("attack", attack, THROUGH)
        _check_budget(eps, iterations)
        job = job or Job()
        with self._lock:
            job.step(0, "loading the classifier and the purifier")
            bare, defence = self._classifier(classifier), self._purifier(purifier)
            if attack == "PGD":
                key = ("through", classifier, purifier)
                if key not in self._made:  # traced once for all budgets
                    self._made[key] = through(bare, defence)
                method: Any = adaptive_pgd(self._made[key], eps, max_iter=iterations)
            else:
                method = adaptive_attacks(bare, defence, eps, max_iter=iterations, bpda=False)["APGD-CE"]
            return self._run(bare, method, image, attack, eps, iterations, job)

    def _run(
        self,
        bare: Any,
        method: EvasionAttack,
        image: np.ndarray,
        attack: str,
        eps: float | None,
        iterations: int | None,
        job: Job,
    ) -> Attacked:
        from art_versatile.attacks.seeding import isolated_seed

        clean = check_images(image[None], (0.0, 1.0), name="image").astype(np.float32)
        clean_answer = self._answer(bare, clean[0])
        started = time.perf_counter()
        with isolated_seed(self._seed), watched(method, job, attack, iterations or 1):
            attacked = np.clip(np.asarray(method.generate(clean), np.float32), 0, 1)[0]
        seconds = time.perf_counter() - started
        answer = self._answer(bare, attacked)
        return Attacked(attack, eps, iterations, clean[0], attacked, clean_answer, answer, seconds)

    def _answer(self, classifier: Any, image: np.ndarray) -> Answer:
        from art.utils import is_probability
        from scipy.special import softmax

        check_images(image[None], (0.0, 1.0), name="image")
        scores = np.asarray(classifier.predict(image[None].astype(np.float32))[0], np.float64)
        shares = scores if is_probability(scores) else softmax(scores)
        names = self._called(len(shares))
        best = np.argsort(-shares, kind="stable")[:_TOP]
        return Answer(int(best[0]), tuple((names[i], float(shares[i])) for i in best))

    def _called(self, count: int) -> list[str]:
        from art_versatile.classifiers import class_names

        if count not in self._names:
            names = class_names() if count == 1000 else [f"class {index}" for index in range(count)]
            self._names[count] = _distinct(names)
        return self._names[count]

    def _classifier(self, name: str) -> Any:
        from art_versatile.attacks.compiled import compile_classifier

        def checked(classifier: Any) -> Any:
            clip = classifier.clip_values
            if clip is None or np.any(clip[0] != 0) or np.any(clip[1] != 1) or classifier.channels_first:
                raise ValueError(
                    f"Expected a classifier with clip_values=(0, 1) and channels last. Received {name}: "
                    f"clip_values={classifier.clip_values}, channels_first={classifier.channels_first}."
                )
            return compile_classifier(classifier)

        return self._once("classifier", name, checked)

    def _purifier(self, name: str) -> Any:
        return self._once("purifier", name, lambda purifier: purifier)

    def _once(self, kind: str, name: str, finish: Callable[[Any], Any]) -> Any:
        check_choice(kind, name, list(self._makers[kind]))
        with self._lock:
            if (kind, name) not in self._made:
                self._made[kind, name] = finish(self._makers[kind][name]())
            return self._made[kind, name]


def _check_budget(eps: float, iterations: int) -> None:
    check_positive("eps", eps, MAX_EPS)
    check_integer("iterations", iterations)
    check_number("iterations", iterations, 1, MAX_ITERATIONS)


def _static_attack(classifier: Any, name: str, eps: float, iterations: int) -> Any:
    """One of the seven, with the quick budget but for its iterations."""
    from art_versatile.attacks.compiled import compile_attack
    from art_versatile.attacks.suite import paper_attacks

    step = min(0.01, eps)  # the paper's, where the budget is no less
    options: dict[str, Any] = {"eps_step": step, "max_iter": iterations, "effort": "quick", "batch_size": 1}
    attack: Any = paper_attacks(classifier, eps, names=[name], **options)[name]
    if name in UNBOUNDED_ATTACKS:
        attack.set_params(max_iter=iterations)
    for member in getattr(attack, "attacks", ()):
        queries = _QUERIES_AN_ITERATION if hasattr(member, "p_init") else 1
        member.set_params(max_iter=queries * iterations)
    return compile_attack(attack)


def _distinct(names: Sequence[str]) -> list[str]:
    """ImageNet has two classes named "crane": those of one name get their number."""
    return [f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names)]
