"""What a network costs, counted on its own graph: floating-point operations and activations of one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

__all__ = ["Cost", "forward_cost"]

# What holds no values of its own in a pass.
_FREE = ("Const", "Identity", "NoOp", "Pack", "Placeholder", "ReadVariableOp", "Reshape", "Shape", "StridedSlice")


@dataclass(frozen=True)
class Cost:
    """
    Of one image through a network, forward.

    :param flops: Multiplications and additions of its convolutions and dense layers.
    :param activations: Values that a pass with a gradient holds at most: outputs of all operations.
    """

    flops: float = 0.0
    activations: int = 0


def forward_cost(network: Callable[..., Any], *shapes: Sequence[int]) -> Cost:
    """
    Count, without running it.

    A multiplication and an addition are two operations. Convolutions, transposed and depthwise ones, and dense layers
    count; all else is small beside them. A pass back to the images costs about as much again, one to the weights too.

    :param network: Images (1, H, W, 3), one argument a shape, -> anything.
    :param shapes: (H, W, 3) of each argument.
    """
    given = [tf.TensorSpec((1, *shape), tf.float32) for shape in shapes]
    operations = tf.function(network).get_concrete_function(*given).graph.get_operations()
    values = 0
    for operation in operations:
        if operation.type not in _FREE:
            values += sum(_size(out.shape) for out in operation.outputs if out.dtype.is_floating)
    return Cost(float(sum(map(_flops, operations))), values)


def _size(shape: tf.TensorShape) -> int:
    """Values of a tensor; a side that the graph leaves open is the one image."""
    return 0 if shape.rank is None else math.prod(side or 1 for side in shape)


def _flops(operation: tf.Operation) -> int:
    if operation.type not in ("Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MatMul"):
        return 0
    out, (first, second, *rest) = operation.outputs[0].shape, [tensor.shape for tensor in operation.inputs]
    if operation.type == "MatMul":
        return 2 * _size(out) * first[0 if operation.get_attr("transpose_a") else 1]
    height, width, channels, _ = second
    if operation.type == "Conv2DBackpropInput":  # a transposed convolution: every value of its input meets the kernel
        return 2 * _size(rest[0]) * height * width * channels
    return 2 * _size(out) * height * width * (1 if operation.type == "DepthwiseConv2dNative" else channels)
