"""The pages' templates, rendered with every value escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

__all__ = ["render"]


def render(name: str, context: Mapping[str, Any]) -> str:
    """
    A page.

    :param name: File name of a template of this package.
    :param context: Its values, all of them.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    source = resources.files("art_versatile.reports").joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A long name may break before its bracket.
    environment.filters["breakable"] = lambda text: escape(text).replace("(", Markup("<wbr>("))
    return environment.from_string(source).render(context) + "\n"
