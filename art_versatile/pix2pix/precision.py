"""Mixed precision of a finished network: Keras's policies, layer by layer."""

from __future__ import annotations

import keras

from art_versatile._checks import check_choice

__all__ = ["POLICIES", "set_precision"]

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
