"""Functions of an ART classifier, compiled by ``tf.function``: what a trace depends on, and when there can be none."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Same", "Traces", "UntraceableError", "differentiable"]


class UntraceableError(Exception):
    """The function cannot be traced; the caller takes ART's path."""


class _NotDifferentiableError(ValueError):
    """No gradient reaches x: a user's error, never a reason to take another path."""


def differentiable(gradient: Any) -> Any:
    """
    Check a gradient.

    :param gradient: Of a ``tf.GradientTape``.
    :return: It.
    :raises ValueError: If it is None.
    """
    if gradient is None:
        raise _NotDifferentiableError(
            "Expected x of floats, and a model and defences that are differentiable in it. Received no gradient: x of "
            "integers, or an operation such as tf.round in a defence's forward (wrap it in tf.custom_gradient)."
        )
    return gradient


class Same:
    """An object as part of a dictionary's key: equal to itself alone, and kept alive so that its id stays its own."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value


def _key(value: Any) -> Any:
    """A hashable stand-in of a parameter: equal where a trace made with one value serves for the other."""
    if isinstance(value, bool | int | float | str | None):
        return type(value), value
    if isinstance(value, np.ndarray | np.generic) and value.size <= 4096 and value.dtype != object:
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, list | tuple):
        return type(value), tuple(_key(item) for item in value)
    return Same(value)


class Traces:
    """
    The compiled functions of one classifier, each traced at its first call.

    :param jit_compile: Compile with XLA.
    :param seed: Seed of the ``tf.random`` operations inside, or None.
    """

    def __init__(self, *, jit_compile: bool, seed: int | None) -> None:
        self._jit_compile, self._seed = jit_compile, seed
        self._compiled: dict[Any, Any] = {}

    def call(
        self,
        name: str,
        body: Callable,
        tensors: Sequence[Any],
        *,
        depends: tuple[Any, ...],
        defences: Sequence[Any],
        free: Sequence[int] = (),
    ) -> Any:
        """
        Call a function, compiled at its first call.

        :param name: Name of the function.
        :param body: The function, of tensors.
        :param tensors: Its arguments; the first axis of each is left open in the trace.
        :param depends: What the trace depends on besides the arguments and the defences; hashable.
        :param defences: The ART preprocessors that the function runs.
        :param free: Arguments whose second axis is left open too.
        :return: Its result.
        :raises UntraceableError: If it cannot be traced.
        """
        specs = []
        for index, tensor in enumerate(tensors):
            opened = 2 if index in free else 1
            specs.append(tf.TensorSpec([None] * opened + list(tensor.shape[opened:]), tensor.dtype))
        parameters = tuple(
            (Same(defence), defence.apply_predict, *(_key(getattr(defence, name, None)) for name in defence.params))
            for defence in _with_inner(defences)
        )
        shapes = tuple((tuple(spec.shape.as_list()), spec.dtype) for spec in specs)
        key = (name, depends, shapes, parameters)
        if key not in self._compiled:
            self._compiled[key] = self._trace(name, body, specs, defences)
        compiled = self._compiled[key]
        if compiled is None:
            raise UntraceableError
        return compiled(*tensors)

    def _trace(self, name: str, body: Callable, specs: Sequence[Any], defences: Sequence[Any]) -> Any:
        def seeded(*tensors: Any) -> Any:
            if self._seed is not None:
                tf.random.set_seed(int(self._seed))  # inside a trace: the seed of this graph, not the global one
            return body(*tensors)

        reason: Any = None
        # AutoGraph is slow to trace and seldom needed; the second round also tells a first draw (Keras seeding its
        # global generator) from a defence that draws every time.
        for autograph in (False, True):
            randomness = _PythonRandomness(defences)
            try:
                compiled = tf.function(
                    seeded, input_signature=specs, autograph=autograph, jit_compile=self._jit_compile or None
                ).get_concrete_function()
            except _NotDifferentiableError:
                raise
            except Exception as err:
                reason = err
            else:
                if not randomness.drawn():
                    return compiled
                reason = "a defence draws random numbers outside TensorFlow, which a trace would freeze"
        kind = f"{type(reason).__name__}: " if isinstance(reason, Exception) else ""
        detail = (str(reason).strip() or "no message").splitlines()[0]
        warnings.warn(f"{name} runs on ART's eager path: {kind}{detail}", RuntimeWarning, stacklevel=6)
        return None


def _with_inner(defences: Sequence[Any]) -> list[Any]:
    """The defences, and those that they wrap (``BackwardPassIdentity``)."""
    inner = [getattr(defence, "defence", None) for defence in defences]
    return [*defences, *(defence for defence in inner if hasattr(defence, "params"))]


class _PythonRandomness:
    """The state of every random source outside TensorFlow that a defence could draw from while it is traced."""

    def __init__(self, operations: Sequence[Any]) -> None:
        held = [value for operation in _with_inner(operations) for value in vars(operation).values()]
        self._generators = [value for value in held if isinstance(value, np.random.Generator)]
        self._states = [value for value in held if isinstance(value, np.random.RandomState)]
        self._randoms = [value for value in held if isinstance(value, random.Random)]
        self._saved = self._read()

    def _read(self) -> list[Any]:
        return [
            np.random.get_state(),  # noqa: NPY002 - ART's own defences draw from the global state
            random.getstate(),
            *(generator.bit_generator.state for generator in self._generators),
            *(state.get_state() for state in self._states),
            *(source.getstate() for source in self._randoms),
        ]

    def drawn(self) -> bool:
        """Whether anything was drawn since; if so, the states are put back."""
        # repr() of the legacy state shortens its 624 words; their bytes do not.
        if repr(_bytes(self._read())) == repr(_bytes(self._saved)):
            return False
        saved = iter(self._saved)
        np.random.set_state(next(saved))  # noqa: NPY002
        random.setstate(next(saved))
        for generator in self._generators:
            generator.bit_generator.state = next(saved)
        for state in self._states:
            state.set_state(next(saved))
        for source in self._randoms:
            source.setstate(next(saved))
        return True


def _bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {key: _bytes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bytes(item) for item in value]
    return value
