"""Accuracy against the budget, as lines with intervals: the data, and the drawing for a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, THREAT_MODELS, EvaluationRecord
from art_versatile.reports.text import format_eps, unique

__all__ = ["Curve", "accuracy_curves", "curves_svg", "legend"]

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 12, 40
_DASHES = {"static": "", "transfer": "2 4", "query": "8 4", "adaptive": "8 3 2 3"}


@dataclass(frozen=True)
class Curve:
    """
    One defence under one threat model.

    :param defence: Its name.
    :param threat_model: The threat model.
    :param points: Budget (0 for clean images) and the record with the least accuracy within it, budgets ascending.
    """

    defence: str
    threat_model: str
    points: tuple[tuple[float, EvaluationRecord], ...]

    @property
    def label(self) -> str:
        """What the legend says."""
        return f"{'no defence' if self.defence == NO_DEFENCE else self.defence}, {self.threat_model}"


def accuracy_curves(records: Iterable[EvaluationRecord]) -> list[Curve]:
    """
    What is left at each L-infinity budget: the least accuracy of the attacks within it, clean images at 0.

    :param records: Of one data set and one classifier. Attacks without a budget, in another norm, and at half the pixel
        range or more are left out.
    :return: A curve for each defence and threat model with such an attack, threat models in their order.
    """
    records = list(records)
    clean = {record.defence: record for record in records if record.attack == CLEAN}
    bounded = [r for r in records if r.norm == "inf" and r.eps is not None and not r.is_unbounded]
    curves = []
    for threat_model in THREAT_MODELS[1:]:
        for defence in unique(r.defence for r in bounded if r.threat_model == threat_model):
            own = [r for r in bounded if (r.defence, r.threat_model) == (defence, threat_model)]
            points = [(0.0, clean[defence])] if defence in clean else []
            for eps in sorted({record.eps or 0.0 for record in own}):
                within = [record for record in own if (record.eps or 0.0) <= eps]
                points.append((eps, min(within, key=lambda record: record.accuracy)))
            curves.append(Curve(defence, threat_model, tuple(points)))
    return curves


def curves_svg(curves: Iterable[Curve]) -> str:
    """
    Draw curves for a page: a colour a defence, a dash a threat model, an upright line each 95% interval.

    :param curves: At least one.
    :return: An SVG element. Its colours are the classes c0, c1, ... of the page's style.
    """
    curves = list(curves)
    budgets = sorted({eps for curve in curves for eps, _ in curve.points})
    colours = {name: index % 6 for index, name in enumerate(unique(curve.defence for curve in curves))}
    parts = [_axes(budgets)]
    for number, curve in enumerate(curves):
        # Side by side, so that intervals at one budget can be told apart.
        shift = 4 * (number - (len(curves) - 1) / 2)
        places = [(_across(eps, budgets[-1]) + shift, record) for eps, record in curve.points]
        drawn = [f'<polyline points="{" ".join(f"{x:.1f},{_up(r.accuracy):.1f}" for x, r in places)}"'
                 f' stroke-dasharray="{_DASHES[curve.threat_model]}"/>']  # fmt: skip
        for x, record in places:
            low, high = record.interval
            y = _up(record.accuracy)
            drawn.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{_up(low):.1f}" y2="{_up(high):.1f}"/>')
            said = f"{curve.label}: {record.attack}, {100 * record.accuracy:.1f}% ({100 * low:.0f}–{100 * high:.0f})"
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{escape(said)}</title></circle>')
        parts.append(f'<g class="c{colours[curve.defence]}">{"".join(drawn)}</g>')
    return (
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Accuracy against the budget">'
        f"{''.join(parts)}</svg>"
    )


def legend(curves: Iterable[Curve]) -> list[tuple[str, str, str]]:
    """
    What the lines of a drawing are.

    :param curves: As they were drawn.
    :return: Label, class of the colour, dash.
    """
    curves = list(curves)
    colours = {name: f"c{index % 6}" for index, name in enumerate(unique(curve.defence for curve in curves))}
    return [(curve.label, colours[curve.defence], _DASHES[curve.threat_model]) for curve in curves]


def _across(eps: float, largest: float) -> float:
    return _LEFT + 16 + (eps / largest if largest else 0.5) * (_WIDTH - _LEFT - _RIGHT - 32)


def _up(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(budgets: list[float]) -> str:
    parts = []
    for percent in (0, 25, 50, 75, 100):
        y = _up(percent / 100)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}%</text>')
    for eps in budgets:
        x, label = _across(eps, budgets[-1]), format_eps(eps) if eps else "clean"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{label}</text>')
    return "".join(parts)
