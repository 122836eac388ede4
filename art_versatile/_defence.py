"""What every defence of this package does alike: checks, layout, parameters, chunks, gradients by stand-in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from art.defences.preprocessor.preprocessor import PreprocessorTensorFlowV2

from art_versatile._checks import check_bool, check_clip_values, check_images

__all__ = ["ImageDefence", "differentiated_as", "in_chunks", "straight_through"]

Images = Callable[[tf.Tensor], tf.Tensor]


class ImageDefence(PreprocessorTensorFlowV2):
    """
    An ART preprocessor of images: a subclass implements :meth:`_defend`.

    It lists its parameters in ``params``, each an attribute of that name, among them ``clip_values`` and
    ``channels_first``, and extends :meth:`_check_params`. Its attribute ``gradient`` says how it answers on the way
    back: "exact" differentiates what it computes, a step without a gradient taken for the identity; "bpda" takes the
    whole defence for the identity, or for what it says it takes in its place (backward pass differentiable
    approximation, arXiv 1802.00420).

    Shape and dtype are checked at every call. The pixels' values are looked at where they come as a NumPy array, and
    in the first batch of tensors outside ``tf.function``: what ART's classifiers hand over. To look at each would copy
    it to the host in every step of an attack.

    :param apply_fit: Apply the defence when the classifier is fitted.
    :param apply_predict: Apply it when the classifier predicts, and in its gradients.
    """

    clip_values: tuple[float, float]
    channels_first: bool
    gradient = "exact"
    _values_seen = False

    def __init__(self, *, apply_fit: bool, apply_predict: bool) -> None:
        super().__init__(is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)

    def _defend(self, images: tf.Tensor) -> tf.Tensor:
        """(N, H, W, 3) float32 in ``clip_values`` -> (N, H', W', 3) of the same kind."""
        raise NotImplementedError

    def forward(self, x: tf.Tensor, y: Any = None) -> tuple[tf.Tensor, Any]:
        """
        Defend.

        :param x: Floats in ``clip_values``, (N, H, W, 3) or with ``channels_first`` (N, 3, H, W), any H and W.
        :param y: Passed through.
        :return: The defended images, of the same dtype, layout and range, and ``y``.
        :raises ValueError: If the shape is another, or a value of the first batch (outside ``tf.function``) is NaN or
            out of range.
        :raises TypeError: If the dtype is not floating.
        """
        x = tf.convert_to_tensor(x)
        self._check_type(x)
        if not self._values_seen and hasattr(x, "numpy"):
            self._check_values(x.numpy())
        images = tf.cast(x, tf.float32)
        if self.channels_first:
            images = tf.transpose(images, (0, 2, 3, 1))
        images = self._defend(images)
        if self.channels_first:
            images = tf.transpose(images, (0, 3, 1, 2))
        return tf.cast(images, x.dtype), y

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        """
        Defend an array.

        :param x: Floats in ``clip_values``, (N, H, W, 3) or with ``channels_first`` (N, 3, H, W), any H and W.
        :param y: Passed through, whatever it is.
        :return: The defended images, of the same dtype, layout and range, and ``y``.
        :raises ValueError: If the shape is another, or a value is NaN or out of range.
        :raises TypeError: If the dtype is not floating.
        """
        return self.forward(self._check_values(x))[0].numpy(), y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """
        Vector-Jacobian product, of one new draw where the defence is random.

        ART's own takes every output of another size than the input for gradients by class.

        :param x: Images in ``clip_values``, (N, H, W, 3) or with ``channels_first`` (N, 3, H, W).
        :param grad: Gradients with respect to the output, (N, ...) or, by class, (N, K, ...): one draw for all classes.
        :return: Gradients with respect to ``x``: its shape, or (N, K, ...).
        """
        images, upstream = tf.convert_to_tensor(x, tf.float32), tf.convert_to_tensor(grad, tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            defended = self.estimate_forward(images)
        if upstream.shape.rank == images.shape.rank:
            return tape.gradient(defended, images, upstream).numpy()
        by_class = [tape.gradient(defended, images, upstream[:, k]).numpy() for k in range(upstream.shape[1])]
        return np.stack(by_class, axis=1)

    def set_params(self, **kwargs: Any) -> None:
        """
        Set parameters by name.

        :raises ValueError: If a name is unknown or a value out of its range; nothing is changed then.
        """
        unknown = sorted(set(kwargs) - set(self.params))
        if unknown:
            raise ValueError(f"Expected parameters among {self.params}. Received {unknown}.")
        self._values_seen = False
        before = {key: getattr(self, key) for key in kwargs}
        try:
            super().set_params(**kwargs)
        except Exception:
            for key, value in before.items():
                setattr(self, key, value)
            raise

    def _check_params(self) -> None:
        self.clip_values = check_clip_values(self.clip_values)
        self.channels_first = check_bool("channels_first", self.channels_first)
        check_bool("apply_fit", self.apply_fit)
        check_bool("apply_predict", self.apply_predict)

    def _check_values(self, x: Any) -> np.ndarray:
        x = check_images(x, self.clip_values, channels_first=self.channels_first)
        low, high = self.clip_values
        if high - low >= 100 and 0 <= x.min() < x.max() <= 1:
            warnings.warn(
                f"Expected x inside clip_values {self.clip_values}. Received values from {x.min():.6g} to "
                f"{x.max():.6g}, which are nearly black there: pixels in [0, 1] need clip_values=(0, 1).",
                UserWarning,
                stacklevel=3,
            )
        self._values_seen = True
        return x

    def _check_type(self, x: tf.Tensor) -> None:
        layout = "(N, 3, H, W)" if self.channels_first else "(N, H, W, 3)"
        if not x.dtype.is_floating:
            raise TypeError(f"Expected x to be an array of floats, {layout}. Received dtype {x.dtype.name}.")
        if x.shape.rank != 4:
            raise ValueError(f"Expected x to be a batch of images {layout}. Received shape {x.shape}.")
        if x.shape[1 if self.channels_first else 3] not in (3, None):
            raise ValueError(f"Expected x to have 3 channels, {layout}. Received shape {x.shape}.")
        if 0 in x.shape:
            raise ValueError(f"Expected x to hold at least one image and one pixel. Received shape {x.shape}.")

    def _described(self) -> list[str]:
        """The arguments that the representation shows."""
        shown = [f"{name}={_short(getattr(self, name))}" for name in self.params]
        return [*shown, f"apply_fit={self.apply_fit}", f"apply_predict={self.apply_predict}"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._described())})"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    return repr(value) if isinstance(value, bool | int | float | str | tuple | None) else f"<{type(value).__name__}>"


def straight_through(function: Callable[..., np.ndarray], images: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """
    Run a NumPy function; on the way back it is the identity in ``images`` (BPDA, Athalye et al., arXiv 1802.00420).

    Works in a ``tf.GradientTape`` and in a ``tf.function``, where it runs at every call; XLA cannot compile it.

    :param function: Arrays -> an array of the shape and dtype of the first.
    :param images: (N, H, W, C).
    :param others: Further arguments; no gradient reaches them.
    :return: The shape and dtype of ``images``.
    """

    @tf.custom_gradient
    def through(images: tf.Tensor) -> tuple[tf.Tensor, Images]:
        result = tf.numpy_function(function, [images, *others], images.dtype)
        return tf.ensure_shape(result, images.shape), lambda upstream: upstream

    return through(images)


def differentiated_as(function: Images, stand_in: Images) -> Images:
    """
    The function, with the gradient of another one, which is computed on the way back.

    With itself as ``stand_in`` it is computed anew there (it has to be deterministic): none of its activations is held
    until then. A weight gets a gradient where the stand-in uses it.

    :param function: Images -> images.
    :param stand_in: Images -> images of the same shape.
    """

    @tf.custom_gradient
    def wrapped(images: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(images)
                answer = stand_in(images)
            grads = tape.gradient(answer, [images, *(variables or [])], upstream)
            return (grads[0], grads[1:]) if variables is not None else grads[0]

        return function(images), gradient

    return wrapped


def in_chunks(function: Images, images: tf.Tensor, size: int, *, recompute: bool = True) -> tf.Tensor:
    """
    Apply a function to ``size`` images at a time.

    :param function: (n, H, W, C) -> (n, H', W', C').
    :param images: (N, H, W, C); N may be unknown inside a ``tf.function``.
    :param size: Images at once.
    :param recompute: Hold one chunk's activations at a time in a pass with a gradient, see :func:`differentiated_as`.
        Where N is unknown all are held: TensorFlow 2.21 cannot recompute in a ``tf.while_loop`` with a gradient.
    :return: (N, H', W', C'), of unknown static shape where N is unknown.
    """
    count = images.shape[0]
    if count is not None:
        if count <= size:
            return function(images)
        apply = differentiated_as(function, function) if recompute else function
        return tf.concat([apply(images[i : i + size]) for i in range(0, count, size)], axis=0)
    total = tf.shape(images)[0]

    def every_chunk() -> tf.Tensor:
        chunks = tf.TensorArray(tf.float32, tf.math.floordiv(total + size - 1, size), infer_shape=False)
        _, chunks = tf.while_loop(
            lambda i, _: i * size < total,
            lambda i, done: (i + 1, done.write(i, function(images[i * size : (i + 1) * size]))),
            (tf.constant(0), chunks),
            parallel_iterations=1,
        )
        return chunks.concat()

    return tf.cond(total <= size, lambda: function(images), every_chunk)
