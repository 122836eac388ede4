"""The paper's comparison defences as ART preprocessors, one file each."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from art_versatile.baselines.gaussian import GaussianBlur as GaussianBlur
    from art_versatile.baselines.gaussian import GaussianNoise as GaussianNoise
    from art_versatile.baselines.identity import Identity as Identity
    from art_versatile.baselines.pixel_deflection import PixelDeflection as PixelDeflection
    from art_versatile.baselines.pixel_deflection import robust_class_activation_map as robust_class_activation_map
    from art_versatile.baselines.random_resizing import RandomResizing as RandomResizing
    from art_versatile.baselines.super_resolution import SuperResolution as SuperResolution
    from art_versatile.baselines.wavelet import WaveletDenoising as WaveletDenoising
    from art_versatile.baselines.wavelet import wavelet_denoise as wavelet_denoise

# Importing TensorFlow and ART takes seconds; they wait until a name that needs them is used.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "gaussian": ["GaussianBlur", "GaussianNoise"],
        "identity": ["Identity"],
        "pixel_deflection": ["PixelDeflection", "robust_class_activation_map"],
        "random_resizing": ["RandomResizing"],
        "super_resolution": ["SuperResolution"],
        "wavelet": ["WaveletDenoising", "wavelet_denoise"],
    },
)
