"""Defences against attacks, measured: each figure is a record. Never imports a concrete defence."""

from __future__ import annotations

import lazy_loader

# Lazy: Benchmark needs TensorFlow, records and reports do not.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "benchmark": ["Benchmark"],
        "checks": ["CHECKS", "control_checks", "masking_checks", "verdict", "with_flags"],
        "metrics": ["accuracy", "hits", "mae", "psnr", "ssim", "wilson_interval"],
        "records": ["Check", "EvaluationRecord", "load_records", "record_key", "save_records"],
    },
)
