"""
ART's own attack objects, made fast on TensorFlow: the same classifier with compiled gradients.

ART's ``TensorFlowV2Classifier`` predicts through ``tf.function`` but computes every gradient eagerly, one operation
at a time, and the gradient of the class scores once for each class. :class:`CompiledTensorFlowV2Classifier` traces
each of them once, defences included, and gives the same numbers. An attack built on it is compiled without more ado,
but for three: ``AutoProjectedGradientDescent`` makes itself a classifier of the stock kind, ``DeepFool`` asks for
one class at a time and for gradients that it never uses, ``MomentumIterativeMethod`` refuses TensorFlow.
:func:`compile_attack` sees to these.

Limits: a defence whose ``forward`` draws from NumPy or from Python's ``random``, or that cannot be traced, runs on
ART's own path (a RuntimeWarning says so). State that ``forward`` keeps in Python (a call counter, say) is seen at
tracing only.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import AutoProjectedGradientDescent, DeepFool, ProjectedGradientDescent
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_tensorflow_v2 import (
    ProjectedGradientDescentTensorFlowV2,
)
from art.config import ART_NUMPY_DTYPE
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.utils import check_and_transform_label_format, is_probability
from tqdm.auto import trange

from art_versatile._checks import check_batch_size, check_bool

__all__ = [
    "CompiledDeepFool",
    "CompiledTensorFlowV2Classifier",
    "DifferenceLogitsRatio",
    "compile_attack",
    "compile_classifier",
]

# A chunk of class gradients is held three times over (the loop, its stack, the answer).
_LABELS_AT_ONCE = 64


class _UntraceableError(Exception):
    """The function cannot be traced; the caller takes ART's path."""


class _NotDifferentiableError(ValueError):
    """No gradient reaches x: a user's error, never a reason to take another path."""


class _Same:
    """An object as part of a dictionary's key: equal to itself alone, and kept alive so that its id stays its own."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


def _key(value: Any) -> Any:
    """A hashable stand-in of a parameter: equal where a trace made with one value serves for the other."""
    if isinstance(value, bool | int | float | str | None):
        return type(value), value
    if isinstance(value, np.ndarray | np.generic) and value.size <= 4096 and value.dtype != object:
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, list | tuple):
        return type(value), tuple(_key(item) for item in value)
    return _Same(value)


class _PythonRandomness:
    """The state of every random source outside TensorFlow that a defence could draw from while it is traced."""

    def __init__(self, operations: Sequence[Any]) -> None:
        held = [value for operation in operations for value in vars(operation).values()]
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


def _differentiable(gradient: Any) -> Any:
    if gradient is None:
        raise _NotDifferentiableError(
            "Expected x of floats, and a model and defences that are differentiable in it. Received no gradient: x of "
            "integers, or an operation such as tf.round in a defence's forward (wrap it in tf.custom_gradient)."
        )
    return gradient


def _check_compilation(jit_compile: Any, eot_samples: Any, seed: Any) -> None:
    check_bool("jit_compile", jit_compile)
    if isinstance(eot_samples, bool) or not isinstance(eot_samples, int | np.integer) or eot_samples < 1:
        raise ValueError(f"Expected eot_samples to be an integer of at least 1. Received {eot_samples!r}.")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer)):
        raise ValueError(f"Expected seed to be an integer or None. Received {seed!r}.")


class CompiledTensorFlowV2Classifier(TensorFlowV2Classifier):
    """
    ART's ``TensorFlowV2Classifier`` with compiled ``predict``, ``compute_loss``, ``loss_gradient``, ``class_gradient``.

    The numbers are ART's, with three exceptions, each a repair. ``class_gradient(x, label=None)`` is the derivative
    with respect to ``x``; ART's is with respect to the output of the defences, so that ``DeepFool`` with
    ``nb_grads >= nb_classes`` bypasses them. ``predict`` keeps to ``batch_size``; ART's hands the whole array to the
    defences. ``loss_gradient`` takes class indices (N,) where the loss is a Keras cross-entropy.

    Traces hold for any batch size. They are made anew after ``set_params`` and whenever a parameter that a defence
    lists in its ``params``, the loss's ``reduction``, the dtype or the shape of one image changes. ART's own path
    serves where a NumPy defence is mixed in or the images are an object array of varying shapes.

    :param model: See ART's class, also for the parameters down to ``preprocessing``.
    :param nb_classes: Number of classes.
    :param input_shape: Shape of one image.
    :param loss_object: The loss, for ``loss_gradient`` and ``compute_loss``.
    :param optimizer: For ``fit``.
    :param train_step: For ``fit``.
    :param channels_first: Layout of the images.
    :param clip_values: Range of the pixels.
    :param preprocessing_defences: Defences in front of the model.
    :param postprocessing_defences: Defences behind it.
    :param preprocessing: (subtrahend, divisor).
    :param jit_compile: Compile with XLA. On a CPU it is slower, and it changes the sign of some near-zero gradients.
    :param eot_samples: Expectation over transformation (Athalye et al., arXiv 1707.07397): every gradient is the mean
        over this many draws of a random defence. Predictions and losses stay single draws.
    :param seed: Seed of the ``tf.random`` operations inside the compiled functions (without ``jit_compile``). Defences
        that own a generator keep to it. None leaves TensorFlow's own seeding.
    """

    estimator_params = [*TensorFlowV2Classifier.estimator_params, "jit_compile", "eot_samples", "seed"]  # noqa: RUF012 - as ART's

    def __init__(
        self,
        model: Callable,
        nb_classes: int,
        input_shape: tuple[int, ...],
        loss_object: Any = None,
        optimizer: Any = None,
        train_step: Callable | None = None,
        channels_first: bool = False,
        clip_values: Any = None,
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        preprocessing: Any = (0.0, 1.0),
        *,
        jit_compile: bool = False,
        eot_samples: int = 1,
        seed: int | None = None,
    ) -> None:
        self._traces: dict[Any, Any] = {}
        self._jit_compile = jit_compile
        self._eot_samples = eot_samples
        self._seed = seed
        _check_compilation(jit_compile, eot_samples, seed)
        super().__init__(
            model=model,
            nb_classes=nb_classes,
            input_shape=input_shape,
            loss_object=loss_object,
            optimizer=optimizer,
            train_step=train_step,
            channels_first=channels_first,
            clip_values=clip_values,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
            preprocessing=preprocessing,
        )

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles the functions."""
        return self._jit_compile

    @property
    def eot_samples(self) -> int:
        """Number of draws of a random defence that a gradient is the mean of."""
        return self._eot_samples

    @property
    def seed(self) -> int | None:
        """Seed of the ``tf.random`` operations in the compiled functions."""
        return self._seed

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters, as ART's does; what was compiled is dropped.

        :param kwargs: Names and values; also ``jit_compile``, ``eot_samples`` and ``seed``.
        """
        _check_compilation(
            kwargs.get("jit_compile", self._jit_compile),
            kwargs.get("eot_samples", self._eot_samples),
            kwargs.get("seed", self._seed),
        )
        super().set_params(**kwargs)
        self._traces = {}  # a new one: a copy may share the old

    def _compilable(self, x: Any) -> bool:
        varying = isinstance(x, np.ndarray) and x.dtype.hasobject
        return self.all_framework_preprocessing and not varying and tf.executing_eagerly()

    def _run(self, name: str, body: Callable, tensors: Sequence[Any], *static: Any, free: Sequence[int] = ()) -> Any:
        """
        Call a function, compiled at its first call.

        :param name: Name of the function.
        :param body: The function, of tensors.
        :param tensors: Its arguments; the first axis of each is left open in the trace.
        :param static: What else the trace depends on.
        :param free: Arguments whose second axis is left open too.
        :return: Its result.
        :raises _UntraceableError: If it cannot be traced.
        """
        specs = []
        for index, tensor in enumerate(tensors):
            opened = 2 if index in free else 1
            specs.append(tf.TensorSpec([None] * opened + list(tensor.shape[opened:]), tensor.dtype))
        defences = tuple(
            (_Same(defence), defence.apply_predict, *(_key(getattr(defence, name, None)) for name in defence.params))
            for defence in self.preprocessing_operations
        )
        shapes = tuple((tuple(spec.shape.as_list()), spec.dtype) for spec in specs)
        key = (name, static, shapes, _Same(self._model), _Same(self._loss_object), self._reduce_labels, defences)
        if key not in self._traces:
            self._traces[key] = self._trace(name, body, specs)
        compiled = self._traces[key]
        if compiled is None:
            raise _UntraceableError
        return compiled(*tensors)

    def _trace(self, name: str, body: Callable, specs: Sequence[Any]) -> Any:
        def seeded(*tensors: Any) -> Any:
            if self._seed is not None:
                tf.random.set_seed(int(self._seed))  # inside a trace: the seed of this graph, not the global one
            return body(*tensors)

        reason: Any = None
        # AutoGraph is slow to trace and seldom needed; the second round also tells a first draw (Keras seeding its
        # global generator) from a defence that draws every time.
        for autograph in (False, True):
            randomness = _PythonRandomness(self.preprocessing_operations)
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
        warnings.warn(f"{name} runs on ART's eager path: {kind}{detail}", RuntimeWarning, stacklevel=5)
        return None

    def _scores(self, x: Any, training_mode: bool) -> Any:
        return self._model(self._apply_preprocessing(x, None, fit=False)[0], training=training_mode)

    def _mean(self, draw: Callable, *arguments: Any, **options: Any) -> Any:
        total = draw(*arguments, **options)
        for _ in range(self._eot_samples - 1):
            total = total + draw(*arguments, **options)
        return total if self._eot_samples == 1 else total / self._eot_samples

    def predict(self, x: np.ndarray, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> np.ndarray:
        """
        Class scores.

        :param x: Images (N, ...).
        :param batch_size: Images that pass the defences and the model at a time. In training mode all pass at once, as
            in ART: the statistics of a batch depend on it.
        :param training_mode: Run the model in training mode.
        :param kwargs: Ignored, as in ART.
        :return: (N, nb_classes).
        """
        batch_size = check_batch_size(batch_size)
        if not self._compilable(x):
            return TensorFlowV2Classifier.predict(self, x, batch_size=batch_size, training_mode=training_mode)
        step = max(len(x), 1) if training_mode else batch_size
        parts = []
        for start in range(0, max(len(x), 1), step):
            batch = x[start : start + step]
            try:
                scores = self._run(
                    "predict",
                    lambda images: self._scores(images, training_mode),
                    [tf.convert_to_tensor(batch)],
                    bool(training_mode),
                )
            except _UntraceableError:
                inputs, _ = self._apply_preprocessing(batch, None, fit=False)
                scores = self._forward_pass(self._model, inputs, training=training_mode)
            parts.append(scores.numpy())
        return self._apply_postprocessing(preds=np.concatenate(parts), fit=False)

    def _loss(self, x: Any, y: Any, training_mode: bool) -> Any:
        inputs, labels = self._apply_preprocessing(x, y, fit=False)
        scores = self._model(inputs, training=training_mode)
        if self._reduce_labels and labels.shape.rank > 1:
            labels = tf.argmax(labels, axis=1)
        return self._loss_object(labels, scores)

    def compute_loss(
        self, x: Any, y: Any, reduction: str = "none", training_mode: bool = False, **kwargs: Any
    ) -> np.ndarray:
        """
        The loss.

        :param x: Images (N, ...).
        :param y: Labels, one-hot (N, nb_classes) or indices (N,).
        :param reduction: "none", "mean" or "sum".
        :param training_mode: Run the model in training mode.
        :param kwargs: Ignored, as in ART.
        :return: (N,), or one number.
        """
        loss = self._loss_object
        before = getattr(loss, "reduction", None)
        try:
            if before is None or not self._compilable(x):
                return TensorFlowV2Classifier.compute_loss(self, x, y, reduction=reduction, training_mode=training_mode)
            names = {"none": "none", "mean": "sum_over_batch_size", "sum": "sum"}
            loss.reduction = names.get(reduction, before)
            labels = check_and_transform_label_format(y, self.nb_classes)
            try:
                return self._run(
                    "compute_loss",
                    lambda images, classes: self._loss(images, classes, training_mode),
                    [tf.convert_to_tensor(x), tf.convert_to_tensor(labels)],
                    bool(training_mode),
                    str(loss.reduction),
                ).numpy()
            except _UntraceableError:
                return TensorFlowV2Classifier.compute_loss(self, x, y, reduction=reduction, training_mode=training_mode)
        finally:
            if before is not None:
                loss.reduction = before

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """
        Gradient of the loss with respect to ``x``, the mean over ``eot_samples`` draws.

        :param x: Images (N, ...), array or tensor.
        :param y: Labels, one-hot (N, nb_classes); for a Keras cross-entropy also indices (N,).
        :param training_mode: Run the model in training mode.
        :param kwargs: Ignored, as in ART.
        :return: The shape, dtype and kind (array or tensor) of ``x``.
        :raises ValueError: If no gradient reaches ``x``.
        """

        def stock() -> Any:
            return TensorFlowV2Classifier.loss_gradient(self, x, y, training_mode=training_mode)

        if self._loss_object is None or y is None or not self._compilable(x):
            return self._mean(stock)
        images, labels = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        if labels.shape.rank == 1 and isinstance(self._loss_object, tf.keras.losses.CategoricalCrossentropy):
            labels = tf.one_hot(tf.cast(labels, tf.int32), self.nb_classes)

        def gradient(images: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = self._loss(images, labels, training_mode)
            return _differentiable(tape.gradient(loss, images))

        def draw() -> Any:
            try:
                reduction = str(getattr(self._loss_object, "reduction", None))
                return self._run("loss_gradient", gradient, [images, labels], bool(training_mode), reduction)
            except _UntraceableError:
                return tf.convert_to_tensor(stock())

        gradients = self._mean(draw)
        return gradients.numpy() if isinstance(x, np.ndarray) else gradients

    def class_gradient(
        self,
        x: np.ndarray,
        label: int | list[int] | np.ndarray | None = None,
        training_mode: bool = False,
        **kwargs: Any,
    ) -> np.ndarray:
        """
        Gradients of the class scores with respect to ``x``, the mean over ``eot_samples`` draws.

        :param x: Images (N, ...).
        :param label: A class; N classes, one for each image; or None for all classes.
        :param training_mode: Run the model in training mode.
        :param kwargs: Ignored, as in ART.
        :return: (N, 1, ...) for one class each, (N, nb_classes, ...) for None.
        :raises ValueError: If ``label`` is anything else, or if no gradient reaches ``x``.
        """
        if label is None:
            if self._compilable(x):
                return self._jacobian(x, None, training_mode)
            return self._mean(TensorFlowV2Classifier.class_gradient, self, x, training_mode=training_mode)
        classes = np.asarray(label)
        count = len(x)
        if (
            classes.shape not in ((), (count,))
            or not np.issubdtype(classes.dtype, np.integer)
            or (classes < -self.nb_classes).any()
            or (classes >= self.nb_classes).any()
        ):
            raise ValueError(
                f"Expected label to be None, a class below {self.nb_classes}, or {count} of them, one for each image. "
                f"Received {label!r}."
            )
        plain = int(classes) if classes.ndim == 0 else classes

        def stock() -> Any:
            return TensorFlowV2Classifier.class_gradient(self, x, label=plain, training_mode=training_mode)

        if not self._compilable(x):
            return self._mean(stock)
        classes = classes % self.nb_classes
        if training_mode and classes.ndim:
            # In training mode images of a batch mix; ART differentiates the sum over the batch for each class.
            unique, position = np.unique(classes, return_inverse=True)
            return self._jacobian(x, unique, True)[np.arange(count), position][:, np.newaxis]
        images = tf.convert_to_tensor(x)
        labels = tf.constant(np.broadcast_to(classes, (count,)), tf.int32)

        def gradient(images: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(images)
                chosen = tf.gather(self._scores(images, training_mode), labels, axis=1, batch_dims=1)
            return _differentiable(tape.gradient(chosen, images))

        def draw() -> Any:
            try:
                return self._run("class_gradient", gradient, [images, labels], bool(training_mode)).numpy()[:, None]
            except _UntraceableError:
                return stock()

        return self._mean(draw)

    def class_jacobian(self, x: np.ndarray, labels: Any, training_mode: bool = False) -> np.ndarray:
        """
        Gradients of chosen class scores: one forward pass and a backward pass for each class, in place of both.

        :param x: Images (N, ...).
        :param labels: K classes, the same for every image.
        :param training_mode: Run the model in training mode.
        :return: (N, K, ...), as ``class_gradient(x, label)`` for each label, side by side.
        :raises ValueError: If no gradient reaches ``x``.
        """
        classes = np.asarray(labels)
        if (
            classes.ndim != 1
            or not classes.size
            or not np.issubdtype(classes.dtype, np.integer)
            or (classes < 0).any()
            or (classes >= self.nb_classes).any()
        ):
            raise ValueError(f"Expected labels to be classes in [0, {self.nb_classes}). Received {labels!r}.")
        if self._compilable(x):
            return self._jacobian(x, classes, training_mode)
        stock = TensorFlowV2Classifier.class_gradient
        columns = [self._mean(stock, self, x, label=int(c), training_mode=training_mode) for c in classes]
        return np.concatenate(columns, axis=1)

    def _jacobian(self, x: Any, classes: np.ndarray | None, training_mode: bool) -> np.ndarray:
        images = tf.convert_to_tensor(x)

        def gradients(images: Any, labels: Any = None) -> Any:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(images)
                scores = self._scores(images, training_mode)
            depth = scores.shape[1]
            if labels is None:
                labels = tf.range(min(self.nb_classes, depth))

            def gradient(label: Any) -> Any:
                chosen = tf.ones_like(scores) * tf.one_hot(label, depth, dtype=scores.dtype)
                return _differentiable(tape.gradient(scores, images, output_gradients=chosen))

            # A loop in the graph: one trace for any number of classes, and one backward pass's memory at a time.
            return tf.map_fn(gradient, labels, fn_output_signature=images.dtype, parallel_iterations=1)

        def once(*tensors: Any) -> np.ndarray:
            try:
                return self._run("class_jacobian", gradients, tensors, bool(training_mode)).numpy()
            except _UntraceableError:
                return gradients(*tensors).numpy()

        if classes is None and self.nb_classes <= _LABELS_AT_ONCE:
            stacked = self._mean(once, images)
        else:
            classes = np.arange(self.nb_classes) if classes is None else classes
            stacked = np.empty((len(classes), *images.shape), images.dtype.as_numpy_dtype)
            for start in range(0, len(classes), _LABELS_AT_ONCE):
                part = tf.constant(classes[start : start + _LABELS_AT_ONCE], tf.int32)
                stacked[start : start + _LABELS_AT_ONCE] = self._mean(once, images, part)
        return np.swapaxes(stacked, 0, 1)

    def _deepfool_step(self, x: np.ndarray, f_diff: np.ndarray, current: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """
        The smallest step of each image to a linearised boundary (Moosavi-Dezfooli et al., arXiv 1511.04599, Algorithm
        2, with the constants of ART).

        :param x: Images (n, ...).
        :param f_diff: (n, K): score of each of the K classes less the score of the image's class.
        :param current: (n,): class of each image, one of ``labels``.
        :param labels: (K,): the classes looked at, ascending.
        :return: (n, ...), in units of ``x``.
        """
        tolerance = 10e-8

        def nearest(images: Any, f_diff: Any, current: Any, labels: Any) -> Any:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(images)
                scores = self._scores(images, False)
                own = tf.gather(scores, current, axis=1, batch_dims=1)
            base = _differentiable(tape.gradient(own, images))
            column = tf.concat([tf.shape(f_diff)[:1], tf.ones([images.shape.rank - 1], tf.int32)], axis=0)

            def look(index: Any, best: Any, step: Any) -> Any:
                chosen = tf.ones_like(scores) * tf.one_hot(labels[index], scores.shape[1], dtype=scores.dtype)
                w = tape.gradient(scores, images, output_gradients=chosen) - base
                norm = tf.norm(tf.reshape(w, [tf.shape(w)[0], -1]), axis=1)
                f = tf.abs(f_diff[:, index])
                distance = tf.where(labels[index] == current, np.inf, f / (norm + tolerance))
                nearer = distance < best
                scale = tf.reshape(f / (tf.square(norm) + tolerance), column)
                step = tf.where(tf.reshape(nearer, column), scale * w, step)
                return index + 1, tf.where(nearer, distance, best), step

            start = (
                tf.constant(0),
                tf.fill(tf.shape(current), tf.constant(np.inf, images.dtype)),
                tf.zeros_like(images),
            )
            return tf.while_loop(lambda index, *_: index < tf.size(labels), look, start, parallel_iterations=1)[2]

        if self._compilable(x) and self._eot_samples == 1:
            tensors = [
                tf.convert_to_tensor(x),
                tf.constant(f_diff, x.dtype),
                tf.constant(current, tf.int32),
                tf.constant(labels, tf.int32),
            ]
            try:
                return self._run("deepfool_step", nearest, tensors, free=(1,)).numpy()
            except _UntraceableError:
                pass  # the arrays below serve
        w = self.class_jacobian(x, labels)
        rows, own = np.arange(len(x)), np.searchsorted(labels, current)
        w = w - w[rows, own][:, np.newaxis]
        distance = np.abs(f_diff) / (np.linalg.norm(w.reshape(*w.shape[:2], -1), axis=2) + tolerance)
        distance[rows, own] = np.inf
        chosen = np.argmin(distance, axis=1)
        w = w[rows, chosen]
        norm = np.linalg.norm(w.reshape(len(w), -1), axis=1)
        scale = np.abs(f_diff[rows, chosen]) / (norm**2 + tolerance)
        return scale.reshape((-1,) + (1,) * (w.ndim - 1)) * w

    def __repr__(self) -> str:
        options = f"jit_compile={self._jit_compile}, eot_samples={self._eot_samples}, seed={self._seed}"
        return f"{super().__repr__()[:-1]}, {options})"


class CompiledDeepFool(DeepFool):
    """
    ART's ``DeepFool``, step for step, without the gradients that it computes and never uses.

    ART asks for one class at a time (a forward pass each), keeps every gradient, and computes them for images already
    misclassified and once more after the last step. Here a step is one compiled function over the images still to be
    changed: one forward pass, a backward pass for each class, the nearest boundary kept. As in ART, ``nb_grads``
    below ``nb_classes`` means the union of the top classes over all of ``x``: give it one batch at a time.

    ART 1.20.1 slips where ``nb_grads`` is below ``nb_classes``: it looks up the score of an image's own class by its
    place among the classes looked at, not by the class, so it measures the distance to the boundary from some other
    class's score. ``as_art`` keeps that, so that the images are ART's; without it the step is the paper's, and smaller.

    With a random defence one draw serves all classes of a step; ART draws anew for each.

    :param classifier: A :class:`CompiledTensorFlowV2Classifier`.
    :param max_iter: Most steps.
    :param epsilon: Overshoot.
    :param nb_grads: Number of top classes looked at.
    :param batch_size: Images at a time.
    :param verbose: Show the progress bar.
    :param as_art: Keep ART's slip.
    """

    attack_params = [*DeepFool.attack_params, "as_art"]  # noqa: RUF012 - as ART's
    as_art = True  # of an attack that compile_attack has made into one of this class

    def __init__(self, classifier: Any, *args: Any, as_art: bool = True, **kwargs: Any) -> None:
        self.as_art = as_art
        super().__init__(classifier, *args, **kwargs)

    def _check_params(self) -> None:
        super()._check_params()
        check_bool("as_art", self.as_art)

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """
        Adversarial images.

        :param x: Images (N, ...).
        :param y: Ignored, as in ART.
        :param kwargs: Ignored, as in ART.
        :return: The shape of ``x``, float32.
        :raises TypeError: If the classifier is not a compiled one.
        """
        estimator = self.estimator
        if not isinstance(estimator, CompiledTensorFlowV2Classifier):
            raise TypeError(f"Expected a CompiledTensorFlowV2Classifier. Received {type(estimator).__name__}.")
        images = x.astype(ART_NUMPY_DTYPE)
        scores = estimator.predict(x, batch_size=self.batch_size)
        if scores.shape[1] == 1:
            raise ValueError("Expected a classifier with a score for each class. Received one score.")
        if is_probability(scores[0]):
            warnings.warn("DeepFool expects logits; the classifier seems to give probabilities.", stacklevel=3)
        if self.nb_grads < estimator.nb_classes:
            labels = np.unique(np.argsort(-scores, axis=1)[:, : self.nb_grads])
        else:
            labels = np.arange(estimator.nb_classes)
        clip, scale = estimator.clip_values, 1.0
        if clip is not None:
            scale = clip[1] - clip[0]

        for batch_id in trange(-(-len(images) // self.batch_size), desc="DeepFool", disable=not self.verbose):
            start = batch_id * self.batch_size
            clean = images[start : start + self.batch_size]
            batch, f = clean.copy(), scores[start : start + self.batch_size]
            first = np.argmax(f, axis=1)
            own = np.searchsorted(labels, first) if self.as_art else first
            active = np.arange(len(batch))
            for _ in range(self.max_iter):
                if not active.size:
                    break
                f_diff = f[active][:, labels] - f[active, own[active]][:, np.newaxis]
                step = estimator._deepfool_step(batch[active], f_diff, first[active], labels)
                batch[active] = batch[active] + step * scale
                if clip is not None:
                    batch[active] = np.clip(batch[active], clip[0], clip[1])
                f = estimator.predict(batch)
                active = np.where(np.argmax(f, axis=1) == first)[0]
            clean += (1 + self.epsilon) * (batch - clean)
            if clip is not None:
                np.clip(clean, clip[0], clip[1], out=clean)
        return images


class DifferenceLogitsRatio:
    """
    The loss of APGD-DLR (Croce and Hein, arXiv 2003.01690, Eq. 6), vectorised so that it can be traced.

    Equal, value and gradient, to the loss inside ART's ``AutoProjectedGradientDescent``, which loops over the images in
    Python. ``reduction`` is "none", "sum", "mean" or Keras's "sum_over_batch_size".
    """

    def __init__(self) -> None:
        self.reduction = "mean"

    def __call__(self, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        """
        The loss.

        :param y_true: Labels, one-hot (N, C), C >= 3.
        :param y_pred: Logits (N, C).
        :param args: Ignored, as in ART.
        :param kwargs: Ignored, as in ART.
        :return: (N,), or one number.
        """
        if y_pred.shape[1] < 3:
            raise ValueError(f"Expected at least 3 classes. Received {y_pred.shape[1]}.")
        true = tf.argmax(tf.cast(y_true, tf.int32), axis=1, output_type=tf.int32)
        order = tf.argsort(y_pred, axis=1)
        other = tf.where(order[:, -1] == true, order[:, -2], order[:, -1])
        z_1, z_3, z_i, z_y = (
            tf.gather(y_pred, index, axis=1, batch_dims=1) for index in (order[:, -1], order[:, -3], other, true)
        )
        loss = -(z_y - z_i) / (z_1 - z_3)
        if self.reduction == "none":
            return loss
        if self.reduction == "sum":
            return tf.reduce_sum(loss)
        if self.reduction in ("mean", "sum_over_batch_size"):
            return tf.reduce_mean(loss)
        raise ValueError(
            f"Expected reduction to be none, sum, mean or sum_over_batch_size. Received {self.reduction!r}."
        )

    def __repr__(self) -> str:
        return f"DifferenceLogitsRatio(reduction={self.reduction!r})"


_OWN_METHODS = ("predict", "compute_loss", "loss_gradient", "class_gradient", "_apply_preprocessing")


def compile_classifier(
    classifier: Any, *, jit_compile: bool = False, eot_samples: int = 1, seed: int | None = None
) -> CompiledTensorFlowV2Classifier:
    """
    A compiled classifier that shares the model, loss and defences of the given one, which is left as it was.

    :param classifier: An ART ``TensorFlowV2Classifier``, or a ``KerasClassifier`` with one input, one output and a
        (sparse) categorical cross-entropy. ART's ``KerasClassifier`` differentiates the sum of the losses over a batch;
        so does what is made of it.
    :param jit_compile: See :class:`CompiledTensorFlowV2Classifier`.
    :param eot_samples: See there.
    :param seed: See there.
    :return: The compiled classifier.
    :raises TypeError: If it is of another kind, or a subclass with predictions or gradients of its own.
    """
    kinds = (TensorFlowV2Classifier, CompiledTensorFlowV2Classifier)
    own = isinstance(classifier, TensorFlowV2Classifier) and all(
        any(getattr(type(classifier), name) is getattr(kind, name) for kind in kinds) for name in _OWN_METHODS
    )
    if isinstance(classifier, KerasClassifier):
        loss, preprocessing = _keras_loss(classifier), classifier.preprocessing
        if isinstance(preprocessing, StandardisationMeanStd):
            preprocessing = (preprocessing.mean, preprocessing.std)
        optimizer, train_step = getattr(classifier.model, "optimizer", None), None
    elif own:
        loss, preprocessing = classifier.loss_object, classifier.preprocessing
        optimizer, train_step = classifier.optimizer, classifier.train_step
    else:
        raise TypeError(
            "Expected an ART TensorFlowV2Classifier with its own predictions and gradients, or a KerasClassifier. "
            f"Received {type(classifier).__name__}."
        )
    defences, post = classifier.preprocessing_defences, classifier.postprocessing_defences
    compiled = CompiledTensorFlowV2Classifier(
        model=classifier.model,
        nb_classes=classifier.nb_classes,
        input_shape=classifier.input_shape,
        loss_object=loss,
        optimizer=optimizer,
        train_step=train_step,
        channels_first=classifier.channels_first,
        clip_values=classifier.clip_values,
        preprocessing_defences=None if defences is None else list(defences),
        postprocessing_defences=None if post is None else list(post),
        preprocessing=preprocessing,
        jit_compile=jit_compile,
        eot_samples=eot_samples,
        seed=seed,
    )
    if own:
        compiled._reduce_labels = classifier._reduce_labels
    return compiled


def _keras_loss(classifier: KerasClassifier) -> Any:
    model, loss = classifier.model, getattr(classifier.model, "loss", None)
    losses = tf.keras.losses
    kinds = (losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy)
    named = {"categorical_crossentropy": kinds[0], "sparse_categorical_crossentropy": kinds[1]}
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TypeError(
            "Expected a KerasClassifier whose model has one input and one output. "
            f"Received {len(model.inputs)} and {len(model.outputs)}."
        )
    if isinstance(loss, str) and loss in named:
        loss = named[loss]()
    if not isinstance(loss, kinds):
        raise TypeError(f"Expected a KerasClassifier compiled with one of the losses {list(named)}. Received {loss!r}.")
    return type(loss).from_config({**loss.get_config(), "reduction": "sum"})


def compile_attack(
    attack: Any, *, jit_compile: bool | None = None, eot_samples: int | None = None, seed: int | None = None
) -> Any:
    """
    Make an ART attack on a TensorFlow classifier compute on a compiled one. The attack itself is changed.

    Its classifier, and those of the attacks inside it (``ProjectedGradientDescent``, ``AutoAttack``), become compiled
    ones; the classifier that the caller holds is left as it was. An ``AutoProjectedGradientDescent`` with a
    ``loss_type`` keeps its loss, the difference-of-logits-ratio in a form that can be traced. A ``DeepFool`` becomes a
    :class:`CompiledDeepFool`. Attacks with momentum, which ART refuses on TensorFlow, get ART's NumPy loop.

    :param attack: An ART evasion attack on a ``TensorFlowV2Classifier``.
    :param jit_compile: See :class:`CompiledTensorFlowV2Classifier`. None takes it from the attack's classifier where
        that is a compiled one, else False. (An ``AutoProjectedGradientDescent`` with a ``loss_type`` has dropped the
        compiled classifier that it was built on: state the options.)
    :param eot_samples: The same; else 1.
    :param seed: The same; else None.
    :return: The attack.
    :raises TypeError: If it is not such an attack.
    """
    if not isinstance(attack, EvasionAttack):
        raise TypeError(f"Expected an ART evasion attack. Received {type(attack).__name__}.")
    given = {"jit_compile": jit_compile, "eot_samples": eot_samples, "seed": seed}
    options: dict[str, Any] = {"jit_compile": False, "eot_samples": 1, "seed": None}
    for name in options:
        if given[name] is not None:
            options[name] = given[name]
        elif isinstance(attack.estimator, CompiledTensorFlowV2Classifier):
            options[name] = getattr(attack.estimator, name)
    done: dict[_Same, Any] = {}

    def compiled(estimator: Any) -> Any:
        if isinstance(estimator, CompiledTensorFlowV2Classifier) and all(
            getattr(estimator, name) == value for name, value in options.items()
        ):
            return estimator
        if _Same(estimator) not in done:
            done[_Same(estimator)] = compile_classifier(estimator, **options)
        return done[_Same(estimator)]

    _compile(attack, compiled)
    return attack


def _compile(attack: Any, compiled: Callable[[Any], Any]) -> None:
    estimator = compiled(attack.estimator)
    if isinstance(attack, AutoProjectedGradientDescent) and attack.loss_type == "difference_logits_ratio":
        estimator.set_params(loss_object=DifferenceLogitsRatio())
    attack._estimator = estimator
    if hasattr(attack, "estimator_orig"):
        attack.estimator_orig = compiled(attack.estimator_orig)
    if type(attack) is DeepFool:
        attack.__class__ = CompiledDeepFool
    if isinstance(attack, ProjectedGradientDescent):
        inner = attack._attack
        if isinstance(inner, ProjectedGradientDescentTensorFlowV2) and inner.decay is not None:
            names = set(inner.attack_params) - {"minimal", "summary_writer"}
            attack._attack = ProjectedGradientDescentNumpy(
                estimator=estimator,
                summary_writer=inner.summary_writer or False,
                **{name: getattr(inner, name) for name in names},
            )
        else:
            _compile(inner, compiled)
    for member in getattr(attack, "attacks", ()):
        _compile(member, compiled)
