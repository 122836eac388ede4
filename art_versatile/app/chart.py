"""Accuracy against eps: the lines of a chart from records, and the chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from art_versatile.evaluation.records import CLEAN, NO_DEFENCE, EvaluationRecord, load_records
from art_versatile.reports.tables import attack_name, format_eps, format_percent

__all__ = ["Line", "Point", "accuracy_lines", "chart_html", "load_lines"]

_MAX_BYTES = 20 * 2**20
_WIDTH, _HEIGHT = 620, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 40
# Okabe and Ito's colours, told apart by the colour-blind and on light and dark grounds.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")


@dataclass(frozen=True)
class Point:
    """
    One measurement.

    :param eps: Budget in L-infinity, pixels in [0, 1]; 0 for clean images.
    :param accuracy: 0 to 1.
    :param low: Lower end of Wilson's 95% interval.
    :param high: Its upper end.
    :param n: Number of images.
    """

    eps: float
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Line:
    """
    One attack against one defence.

    :param threat_model: As in the records.
    :param attack: Name of the attack.
    :param defence: Name of the defence; "none" without one.
    :param on: Classifier and images.
    :param points: By eps, ascending.
    """

    threat_model: str
    attack: str
    defence: str
    on: str
    points: tuple[Point, ...]


def accuracy_lines(records: Iterable[EvaluationRecord]) -> list[Line]:
    """
    A line for each attack in L-infinity against each defence, from the clean accuracy on.

    Of several records at one eps, as of several numbers of iterations, the lowest accuracy counts: the attacker
    chooses.

    :param records: Of one or several evaluations.
    :return: In the order of the records.
    :raises ValueError: If there is no attack with a budget in L-infinity.
    """
    clean: dict[tuple[str, ...], Point] = {}
    found: dict[tuple[str, ...], dict[float, Point]] = {}
    for record in records:
        on = record.dataset, record.images or "", record.classifier, record.defence
        point = Point(record.eps or 0.0, record.accuracy, *record.interval, record.n)
        if record.attack == CLEAN:
            clean[on] = point
        elif record.norm == "inf" and record.eps is not None:
            line = found.setdefault((*on, record.attack, record.threat_model), {})
            if record.eps not in line or point.accuracy < line[record.eps].accuracy:
                line[record.eps] = point
    if not found:
        raise ValueError("Expected records of attacks with a budget in L-infinity. Received none.")
    lines = []
    for (dataset, images, classifier, defence, attack, threat_model), line in found.items():
        start = clean.get((dataset, images, classifier, defence))
        points = sorted([*([start] if start else []), *line.values()], key=lambda point: point.eps)
        lines.append(Line(threat_model, attack, defence, f"{classifier}, {dataset}", tuple(points)))
    return lines


def load_lines(path: str | Path) -> list[Line]:
    """
    The lines of a records file that anybody may have sent.

    :param path: A ``records.json`` of this package. No message names it.
    :raises ValueError: If it is none, too large, or has no attack with a budget.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"Expected a file of at most {_MAX_BYTES >> 20} MB. Received a larger one.")
    try:
        records = load_records(path)
    except (ValueError, OSError, RecursionError) as err:
        raise ValueError("Expected a records.json of art-versatile. Received a file that is none.") from err
    return accuracy_lines(records)


def chart_html(lines: Sequence[Line]) -> str:
    """
    The chart: a panel for each threat model, a colour for each attack, dashes without a defence, a table below.

    :param lines: At least one.
    :return: HTML with inline SVG, in the colours of the page around it.
    """
    attacks = list(dict.fromkeys(line.attack for line in lines))
    colours = {attack: _COLOURS[i % len(_COLOURS)] for i, attack in enumerate(attacks)}
    panels = []
    for threat_model in dict.fromkeys(line.threat_model for line in lines):
        own = [line for line in lines if line.threat_model == threat_model]
        panels.append(
            f"<figure><h3>{escape(threat_model.capitalize())}</h3>{_svg(own, colours)}{_legend(own, colours)}</figure>"
        )
    on = " · ".join(dict.fromkeys(f"{line.on}, n = {line.points[-1].n}" for line in lines))
    caption = f"{escape(on)}. Whiskers: 95% intervals. At eps 0: clean images."
    return f'<div class="chart"><div class="panels">{"".join(panels)}</div><p>{caption}</p>{_table(lines)}</div>'


def _svg(lines: Sequence[Line], colours: dict[str, str]) -> str:
    most = max(point.eps for line in lines for point in line.points)

    def place(eps: float, share: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * eps / most
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = place(0, share)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f}%</text>')
    for eps in _ticks({point.eps for line in lines for point in line.points}, most):
        x = place(eps, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{255 * eps:.3g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">eps, 255ths of the pixel range</text>')
    for line in lines:
        dashes = ' stroke-dasharray="6 5"' if line.defence == NO_DEFENCE else ""
        spots = [place(point.eps, point.accuracy) for point in line.points]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<g stroke="{colours[line.attack]}" fill="{colours[line.attack]}">')
        parts.append(f'<polyline fill="none" stroke-width="2.2"{dashes} points="{drawn}"/>')
        for point, (x, y) in zip(line.points, spots, strict=True):
            bottom, top = place(point.eps, point.low)[1], place(point.eps, point.high)[1]
            said = f"{_called(line)}, eps {format_eps(point.eps)}: {format_percent(point.accuracy)}% of {point.n}"
            parts.append(f'<line opacity="0.45" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(said)}</title></circle>')
        parts.append("</g>")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Accuracy against eps">{"".join(parts)}</svg>'


def _ticks(budgets: set[float], most: float) -> list[float]:
    """Those of the budgets that leave room for their numbers."""
    kept: list[float] = []
    for eps in sorted({0.0, *budgets}):
        if not kept or eps - kept[-1] >= most / 14:
            kept.append(eps)
    return kept


def _called(line: Line) -> str:
    behind = "no defence" if line.defence == NO_DEFENCE else line.defence
    return f"{attack_name(line.attack)}, {behind}"


def _legend(lines: Sequence[Line], colours: dict[str, str]) -> str:
    items = []
    for line in lines:
        dashes = ' stroke-dasharray="5 4"' if line.defence == NO_DEFENCE else ""
        stroke = f'<line x1="0" x2="26" y1="6" y2="6" stroke="{colours[line.attack]}" stroke-width="2.5"{dashes}/>'
        mark = f'<svg class="mark" viewBox="0 0 26 12" aria-hidden="true">{stroke}</svg>'
        items.append(f"<li>{mark}{escape(_called(line))}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _table(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        for point in line.points:
            spread = f"{100 * point.low:.0f}–{100 * point.high:.0f}"
            cells = [line.threat_model, attack_name(line.attack), line.defence, f"{255 * point.eps:.3g}"]
            cells += [format_percent(point.accuracy), spread, str(point.n)]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    names = ("Threat model", "Attack", "Defence", "eps (255ths)", "Accuracy, %", "95% interval", "n")
    header = "".join(f"<th scope='col'>{name}</th>" for name in names)
    return (
        "<details><summary>The numbers</summary><div class='scroll'>"
        f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )
