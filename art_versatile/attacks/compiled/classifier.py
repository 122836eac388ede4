"""ART's classifier for TensorFlow with compiled predictions, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from art.estimators.classification import TensorFlowV2Classifier
from art.utils import check_and_transform_label_format

from art_versatile._checks import check_batch_size, check_bool, check_integer
from art_versatile.attacks.compiled.tracing import Same, Traces, UntraceableError, differentiable

__all__ = ["CompiledTensorFlowV2Classifier", "check_compilation"]

# A chunk of class gradients is held three times over (the loop, its stack, the answer).
_LABELS_AT_ONCE = 64


def check_compilation(jit_compile: Any, eot_samples: Any, seed: Any) -> None:
    """
    Check how a classifier is to be compiled.

    :param jit_compile: True or False.
    :param eot_samples: An integer of at least 1.
    :param seed: An integer or None.
    :raises ValueError: If one is anything else.
    """
    check_bool("jit_compile", jit_compile)
    check_integer("eot_samples", eot_samples)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer)):
        raise ValueError(f"Expected seed to be an integer or None. Received {seed!r}.")


class CompiledTensorFlowV2Classifier(TensorFlowV2Classifier):
    """
    ART's ``TensorFlowV2Classifier`` with compiled ``predict``, ``compute_loss``, ``loss_gradient``, ``class_gradient``.

    The numbers are ART's, but for rounding (more of it with batch normalisation, which a graph fuses with the
    convolution before it), with three exceptions, each a repair. ``class_gradient(x, label=None)`` is the derivative
    with respect to ``x``; ART's is with respect to the output of the defences, so that ``DeepFool`` with
    ``nb_grads >= nb_classes`` bypasses them. ``predict`` keeps to ``batch_size``; ART's hands the whole array to the
    defences. ``loss_gradient`` takes class indices (N,) where the loss is a Keras cross-entropy.

    Traces hold for any batch size. They are made anew after ``set_params`` and whenever a parameter that a defence
    lists in its ``params``, the loss's ``reduction``, the dtype or the shape of one image changes. ART's own path
    serves where a NumPy defence is mixed in or the images are an object array of varying shapes.

    :param model: Images (N, ...) -> class scores (N, nb_classes).
    :param nb_classes: Number of classes.
    :param input_shape: Shape of one image.
    :param loss_object: The loss, for ``loss_gradient`` and ``compute_loss``.
    :param optimizer: Takes the steps of ART's ``fit``.
    :param train_step: One step of ART's ``fit``, in place of ART's own.
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
        check_compilation(jit_compile, eot_samples, seed)
        self._jit_compile = jit_compile
        self._eot_samples = eot_samples
        self._seed = seed
        self._traces = Traces(jit_compile=jit_compile, seed=seed)
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
        check_compilation(
            kwargs.get("jit_compile", self._jit_compile),
            kwargs.get("eot_samples", self._eot_samples),
            kwargs.get("seed", self._seed),
        )
        super().set_params(**kwargs)
        self._traces = Traces(jit_compile=self._jit_compile, seed=self._seed)  # a new one: a copy may share the old

    def _compilable(self, x: Any) -> bool:
        varying = isinstance(x, np.ndarray) and x.dtype.hasobject
        return self.all_framework_preprocessing and not varying and tf.executing_eagerly()

    def _run(self, name: str, body: Callable, tensors: Sequence[Any], *static: Any, free: Sequence[int] = ()) -> Any:
        """Call a function compiled; ``static`` is what else its trace depends on."""
        depends = (static, Same(self._model), Same(self._loss_object), self._reduce_labels)
        return self._traces.call(
            name, body, tensors, depends=depends, defences=self.preprocessing_operations, free=free
        )

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
            except UntraceableError:
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
            except UntraceableError:
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
            return differentiable(tape.gradient(loss, images))

        def draw() -> Any:
            try:
                reduction = str(getattr(self._loss_object, "reduction", None))
                return self._run("loss_gradient", gradient, [images, labels], bool(training_mode), reduction)
            except UntraceableError:
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
        classes, count = np.asarray(label), len(x)
        if classes.shape not in ((), (count,)) or not self._are_classes(classes, -self.nb_classes):
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
            return differentiable(tape.gradient(chosen, images))

        def draw() -> Any:
            try:
                return self._run("class_gradient", gradient, [images, labels], bool(training_mode)).numpy()[:, None]
            except UntraceableError:
                return stock()

        return self._mean(draw)

    def _are_classes(self, classes: np.ndarray, least: int) -> bool:
        whole = np.issubdtype(classes.dtype, np.integer)
        return whole and bool(((classes >= least) & (classes < self.nb_classes)).all())

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
        if classes.ndim != 1 or not classes.size or not self._are_classes(classes, 0):
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
                return differentiable(tape.gradient(scores, images, output_gradients=chosen))

            # A loop in the graph: one trace for any number of classes, and one backward pass's memory at a time.
            return tf.map_fn(gradient, labels, fn_output_signature=images.dtype, parallel_iterations=1)

        def once(*tensors: Any) -> np.ndarray:
            try:
                return self._run("class_jacobian", gradients, tensors, bool(training_mode)).numpy()
            except UntraceableError:
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

    def __repr__(self) -> str:
        options = f"jit_compile={self._jit_compile}, eot_samples={self._eot_samples}, seed={self._seed}"
        return f"{super().__repr__()[:-1]}, {options})"
