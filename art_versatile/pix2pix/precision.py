"""Mixed precision of a finished network: Keras's policies, layer by layer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from art_versatile._checks import check_choice

__all__ = [
    "POLICIES",
    "built_in_float32",
    "computed_in",
    "faster_policy",
    "follow_global_policy",
    "followed_policy",
    "gpu_is_used",
    "seeing_pixels",
    "set_precision",
]

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def gpu_is_used() -> bool:
    """Whether TensorFlow computes on a GPU in this process. Asking does not start one."""
    return bool(tf.config.get_visible_devices("GPU"))


def followed_policy(network: keras.Model) -> str:
    """
    The policy that frozen networks beside a network follow: its mixed one on a GPU; "float32" on a CPU, where their
    depthwise convolutions are slower in bfloat16 (tests/benchmarks/README.md).

    :param network: The network.
    """
    mixed = {layer.dtype_policy.name for layer in network.layers} & set(POLICIES[1:])
    return mixed.pop() if mixed and gpu_is_used() else "float32"


def set_precision(network: keras.Model, policy: str, *, from_pixels: bool = False) -> None:
    """
    Compute a network in another precision. Its weights stay float32.

    Layers that a network names in ``full_precision`` stay in float32: where pixels pass, as eight bits of mantissa
    cannot hold them, and where the answer is made. So do those in ``full_precision_on_cpu`` without a GPU. Pays on a
    GPU with tensor cores, and on a CPU with bfloat16 instructions (AVX512_BF16, AMX); on others it is many times
    slower.

    :param network: A network of this package, or any Keras model.
    :param policy: "float32", "mixed_bfloat16", or "mixed_float16" (for GPUs; needs loss scaling, which
        :meth:`Pix2Pix.compile` adds).
    :param from_pixels: Its layers up to the first with weights stay in float32, that one too.
    :raises ValueError: If the policy is another.
    """
    check_choice("policy", policy, POLICIES)
    kept = getattr(network, "full_precision", ())
    if not gpu_is_used():
        kept = (*kept, *getattr(network, "full_precision_on_cpu", ()))
    for layer in network.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        wanted = "float32" if layer.name in kept else policy
        if isinstance(layer, keras.Model):
            set_precision(layer, wanted)
        layer.dtype_policy = wanted
    if from_pixels:
        for layer in seeing_pixels(network):
            layer.dtype_policy = "float32"


def seeing_pixels(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a network, and of networks inside, up to the first with weights, that included."""
    for layer in _leaves(network):
        yield layer
        if layer.weights:
            return


def _leaves(network: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def follow_global_policy(network: keras.Model) -> None:
    """
    What a constructor ends with: under a mixed global policy of Keras, ``full_precision`` layers stay in float32.

    :param network: The network, built under that policy. Under a policy not in :data:`POLICIES` it stays as it is.
    """
    policy = keras.config.dtype_policy().name
    if policy in POLICIES:
        set_precision(network, policy)


@contextlib.contextmanager
def built_in_float32() -> Iterator[None]:
    """Networks built inside are in float32, whatever Keras's global policy (of this thread) is."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


@contextlib.contextmanager
def computed_in(network: keras.Model, policy: str, *, from_pixels: bool = False) -> Iterator[None]:
    """
    A network computes in another precision inside, as by :func:`set_precision`, and as before afterwards. What a
    ``tf.function`` traces inside keeps to it.

    :param network: The network.
    :param policy: One of :data:`POLICIES`.
    :param from_pixels: As for :func:`set_precision`.
    """
    before = [(layer, layer.dtype_policy) for layer in network._flatten_layers(include_self=False)]
    set_precision(network, policy, from_pixels=from_pixels)
    try:
        yield
    finally:
        for layer, former in before:
            layer.dtype_policy = former


_FASTER: dict[tuple[str, int], str] = {}


def faster_policy(network: keras.Model, apply: Callable[[tf.Tensor], tf.Tensor], *, least: float = 1.2) -> str:
    """
    Which of "float32" and "mixed_bfloat16" a network is faster in on this machine: timed once in a process.

    :param network: The network.
    :param apply: (1, 128, 128, 3) float32 -> what the network is timed on, which calls the network.
    :param least: "mixed_bfloat16" has to be so many times as fast.
    """
    key = (network.name, network.count_params())
    if key not in _FASTER:
        with tf.init_scope():  # outside of whatever is being traced
            probe = tf.fill((1, 128, 128, 3), 0.5)
            limit = _seconds(network, "float32", apply, probe) / least
            faster = _seconds(network, "mixed_bfloat16", apply, probe, limit) <= limit
        _FASTER[key] = "mixed_bfloat16" if faster else "float32"
    return _FASTER[key]


def _seconds(
    network: keras.Model,
    policy: str,
    apply: Callable[[tf.Tensor], tf.Tensor],
    probe: tf.Tensor,
    limit: float = math.inf,
) -> float:
    """The shortest of three passes; of one where that takes far longer than the limit."""

    @tf.function
    def run(images: tf.Tensor) -> tf.Tensor:
        with computed_in(network, policy):
            return apply(images)

    run(probe)  # traced and warm
    times: list[float] = []
    while len(times) < 3 and (not times or times[0] < 3 * limit):
        start = time.perf_counter()
        run(probe).numpy()
        times.append(time.perf_counter() - start)
    return min(times)
