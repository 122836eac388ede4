"""The app: attack a photograph, purify it, attack through the purifier. Nothing heavy is imported until it is used."""

from __future__ import annotations

from art_versatile.app.serve import launch, workbench

__all__ = ["launch", "workbench"]
