"""Work under way: how far it is, and a way to stop it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Job", "StoppedError", "watched"]


class StoppedError(Exception):
    """The user has asked to stop."""


class Job:
    """
    One piece of work under way: it tells how far it is, and it can be stopped from another thread.

    :param report: Called with the share done, 0 to 1, and a line of text.
    """

    def __init__(self, report: Callable[[float, str], None] | None = None) -> None:
        self.report = report
        self.stopped = False

    def stop(self) -> None:
        """Ask it to stop; it does at its next step."""
        self.stopped = True

    def step(self, done: float, text: str) -> None:
        """
        Tell how far it is.

        :param done: Share done, 0 to 1.
        :param text: What is being done.
        :raises StoppedError: If it has been asked to stop.
        """
        if self.stopped:
            raise StoppedError
        if self.report is not None:
            self.report(min(done, 1.0), text)


@contextlib.contextmanager
def watched(attack: Any, job: Job, name: str, iterations: int) -> Iterator[None]:
    """
    Tell the job of every gradient and prediction that the attack asks for, and stop there if it says so.

    :param attack: An attack whose classifiers are compiled ones.
    :param job: What is told.
    :param name: Name of the attack.
    :param iterations: How many steps it takes, or nearly.
    """
    from art_versatile.attacks.description import attacked_classifiers

    # An ensemble, and the attacks that look for the nearest image, ask for several predictions a step.
    asked = {"AutoAttack": 10, "C&W": 5, "APGD": 3, "DeepFool": 1}.get(name)
    counted = ("loss_gradient",) if asked is None else ("loss_gradient", "class_gradient", "predict")
    expected, count = iterations * (asked or 1), 0
    classifiers = attacked_classifiers(attack)

    def watch(classifier: Any, method: str) -> None:
        own = getattr(classifier, method)

        def told(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            job.step(min(count / expected, 0.99), name)
            count += method in counted
            return own(*args, **kwargs)

        setattr(classifier, method, told)

    watched = ("predict", "loss_gradient", "class_gradient")
    try:
        for classifier in classifiers:
            for method in watched:
                watch(classifier, method)
        yield
    finally:
        for classifier in classifiers:
            for method in watched:
                vars(classifier).pop(method, None)
