"""The paper's comparison defences as ART preprocessors, one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_versatile.baselines.identity import Identity
    from art_versatile.baselines.pixel_deflection import PixelDeflection, robust_class_activation_map
    from art_versatile.baselines.random_resizing import RandomResizing
    from art_versatile.baselines.super_resolution import SuperResolution
    from art_versatile.baselines.wavelet import WaveletDenoising, wavelet_denoise

__all__ = [
    "Identity",
    "PixelDeflection",
    "RandomResizing",
    "SuperResolution",
    "WaveletDenoising",
    "robust_class_activation_map",
    "wavelet_denoise",
]

_HOME = {
    "Identity": "identity",
    "PixelDeflection": "pixel_deflection",
    "RandomResizing": "random_resizing",
    "SuperResolution": "super_resolution",
    "WaveletDenoising": "wavelet",
    "robust_class_activation_map": "pixel_deflection",
    "wavelet_denoise": "wavelet",
}


def __getattr__(name: str) -> Any:
    # Importing TensorFlow and ART takes seconds; they wait until a name that needs them is used.
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
