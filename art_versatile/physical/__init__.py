"""Adversarial pictures on paper: a printer and a camera as an ART preprocessor, sheets to print, what survives."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_versatile.physical.printing import PrintAndPhotograph
    from art_versatile.physical.sheet import make_sheet
    from art_versatile.physical.sheet_reading import ReadPicture, ReadSheet, read_sheet
    from art_versatile.physical.study import attack_printed, destruction_rate, printed_study

__all__ = [
    "PrintAndPhotograph",
    "ReadPicture",
    "ReadSheet",
    "attack_printed",
    "destruction_rate",
    "make_sheet",
    "printed_study",
    "read_sheet",
]

_HOME = {
    "PrintAndPhotograph": "printing",
    "ReadPicture": "sheet_reading",
    "ReadSheet": "sheet_reading",
    "attack_printed": "study",
    "destruction_rate": "study",
    "make_sheet": "sheet",
    "printed_study": "study",
    "read_sheet": "sheet_reading",
}


def __getattr__(name: str) -> Any:
    # Importing TensorFlow and ART takes seconds; they wait until a name that needs them is used.
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
