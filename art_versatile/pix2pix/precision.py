"""Mixed precision of a finished network: Keras's policies, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from art_versatile._checks import check_choice

__all__ = ["POLICIES", "built_in_float32", "follow_global_policy", "set_precision"]

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def set_precision(network: keras.Model, policy: str) -> None:
    """
    Compute a network in another precision. Its weights stay float32.

    Layers that a network names in ``full_precision`` stay in float32: where pixels pass, as eight bits of mantissa
    cannot hold them, and where the answer is made. Pays on a GPU with tensor cores, and on a CPU with bfloat16
    instructions (AVX512_BF16, AMX); on others it is many times slower.

    :param network: A network of this package, or any Keras model.
    :param policy: "float32", "mixed_bfloat16", or "mixed_float16" (for GPUs; needs loss scaling, which
        :meth:`Pix2Pix.compile` adds).
    :raises ValueError: If the policy is another.
    """
    check_choice("policy", policy, POLICIES)
    kept = getattr(network, "full_precision", ())
    for layer in network.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        wanted = "float32" if layer.name in kept else policy
        if isinstance(layer, keras.Model):
            set_precision(layer, wanted)
        layer.dtype_policy = wanted


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
