"""The driver, :func:`evaluate`, and what calls it: the demonstration, the paper's tables, the schedules."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "demo": ["run_demo"],
        "paper": ["reproduce"],
        "robustness": ["Plan", "Robustness", "evaluate"],
        "schedules": ["compare_schedules"],
    },
)
