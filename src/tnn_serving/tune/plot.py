"""Latency against throughput as a self-contained SVG.

The colours are those of Okabe and Ito, which are distinguishable with any colour vision; marks and labels repeat them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from tnn_serving.engines import ENGINES
from tnn_serving.tune.goal import Point
from tnn_serving.tune.report import CandidateResult, Report

ENGINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Colours of the engines, in their order."""

OTHER_COLOUR = "#666666"
"""Colour of candidates that do not set the engine."""

ENGINE_MARKS = (
    '<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"/>',
    '<path d="M{x} {y}m0 -5.5l5.2 9.2h-10.4z" fill="{colour}"/>',
    '<path d="M{x} {y}m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z" fill="{colour}"/>',
    '<path d="M{x} {y}m0 5.5l5.2 -9.2h-10.4z" fill="{colour}"/>',
)
"""Marks of the engines, in their order, repeated if there are more engines."""

OTHER_MARK = '<rect x="{left}" y="{top}" width="8" height="8" fill="{colour}"/>'

_WIDTH, _HEIGHT = 460, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 48
_GAP = 20

LOGARITHMIC_FROM = 12
"""An axis is logarithmic if the ratio of its largest to its smallest value exceeds this."""


@dataclass(frozen=True, slots=True)
class PlotAxis:
    """Maps values to pixels.

    Args:
        low, high: values at the ends.
        first, last: pixels of the ends.
    """

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], first: float, last: float) -> PlotAxis:
        """An axis for these values: from zero, or logarithmic if they differ much."""
        low, high = min(values), max(values)
        if low > 0 and high / low > LOGARITHMIC_FROM:
            return cls(low / 1.3, high * 1.3, first, last, True)
        return cls(0.0, high * 1.12 or 1.0, first, last, False)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> list[float]:
        """Round numbers on the axis: 1, 2 or 5 times a power of ten."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [tick for power in powers for k in (1, 2, 5) if self.low <= (tick := k * 10.0**power) <= self.high]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
        return [k * step for k in range(math.floor(self.high / step) + 1)]


def latency_plot(report: Report) -> str:
    """An SVG with two panels, p50 and p99 against inferences per second; default and chosen candidate are marked."""
    drawn = [result for result in reversed(report.candidates) if result.points]
    panels = [
        _panel(report, drawn, 0, "p50", lambda point: point.p50_ms, None),
        _panel(report, drawn, _WIDTH + _GAP, "p99", lambda point: point.p99_ms, report.p99_ms),
    ]
    width, height = 2 * _WIDTH + _GAP, _HEIGHT + 28
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" font-family="system-ui, sans-serif" font-size="12" fill="#222">',
            f"<title>{escape(report.model)}: latency against throughput of {len(drawn)} candidates</title>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *panels,
            _legend(report, _HEIGHT + 14),
            "</svg>",
        ]
    )


def _panel(
    report: Report,
    drawn: Sequence[CandidateResult],
    x0: float,
    title: str,
    of: Callable[[Point], float],
    bound: float | None,
) -> str:
    points = [point for result in drawn for point in result.points]
    if not points:
        return ""
    across = PlotAxis.of([point.inferences_per_s for point in points], x0 + _LEFT, x0 + _WIDTH - _RIGHT)
    up = PlotAxis.of([*(of(point) for point in points), *([bound] if bound else [])], _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text x="{x0 + _LEFT}" y="20" font-weight="bold">{title} latency, ms</text>']
    for tick in up.ticks():
        y = up(tick)
        parts.append(f'<line x1="{across.first}" x2="{across.last}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{across.first - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in across.ticks():
        x = across(tick)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{up.first}" y2="{up.first + 5}" stroke="#222"/>')
        parts.append(f'<text x="{x}" y="{up.first + 19}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path d="M{across.first} {up.last}V{up.first}H{across.last}" fill="none" stroke="#222"/>')
    middle = (across.first + across.last) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">inferences per second</text>')
    if bound:
        y = up(bound)
        parts.append(
            f'<line x1="{across.first}" x2="{across.last}" y1="{y}" y2="{y}" stroke="#222" stroke-dasharray="6 4"/>'
            f'<text x="{across.first + 4}" y="{y - 5}">limit {bound:g} ms</text>'
        )
    for result in drawn:
        parts.append(_curve(result, across, up, of, strong=result in (report.default, report.chosen)))
    marked = [(report.default, "default")]
    marked = [(report.chosen, "chosen"), *marked] if report.changed else [(report.default, "default, chosen")]
    places: list[tuple[float, float]] = []
    for result, word in marked:
        point = report.aim.point(result.points)
        if point is not None:
            parts.append(_ring(across(point.inferences_per_s), up(of(point)), word, across.last, places))
    return "\n".join(parts)


def _curve(
    result: CandidateResult, across: PlotAxis, up: PlotAxis, of: Callable[[Point], float], *, strong: bool
) -> str:
    engine = result.parameters.get("engine")
    colour = _colour(engine)
    places = [(across(point.inferences_per_s), up(of(point))) for point in result.points]
    path = "L".join(f"{x} {y}" for x, y in places)
    opacity, width = (0.9, 1.6) if strong else (0.25, 1)
    parts = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-opacity="{opacity}" stroke-width="{width}"/>']
    for point, (x, y) in zip(result.points, places, strict=True):
        label = (
            f"{result.label}; concurrency {point.concurrency}: {point.inferences_per_s:.1f}/s, "
            f"p50 {point.p50_ms:.2f} ms, p99 {point.p99_ms:.2f} ms"
        )
        parts.append(f"<g><title>{escape(label)}</title>{_engine_mark(engine, x, y)}</g>")
    return "\n".join(parts)


def _colour(engine: str | None) -> str:
    place = _place(engine)
    return OTHER_COLOUR if place is None else ENGINE_COLOURS[place % len(ENGINE_COLOURS)]


def _engine_mark(engine: str | None, x: float, y: float) -> str:
    """The mark of an engine; ``None`` for candidates that do not set it."""
    place = _place(engine)
    shape = OTHER_MARK if place is None else ENGINE_MARKS[place % len(ENGINE_MARKS)]
    return shape.format(x=x, y=y, left=x - 4, top=y - 4, colour=_colour(engine))


def _place(engine: str | None) -> int | None:
    return next((k for k, name in enumerate(ENGINES) if name == engine), None)


def _ring(x: float, y: float, word: str, right: float, places: list[tuple[float, float]]) -> str:
    """A ring around a point and a word beside it; the word moves down if it overlaps another one."""
    before = x > right - 110
    at = y - 10
    while any(abs(at - other) < 14 and abs(x - where) < 90 for where, other in places):
        at += 28 if at < y else 14
    places.append((x, at))
    anchor, shift = ("end", -11) if before else ("start", 11)
    return (
        f'<g data-mark="{word}"><circle cx="{x}" cy="{y}" r="10" fill="none" stroke="#222" stroke-width="2.2"'
        f"{'' if 'chosen' in word else ' stroke-dasharray=' + chr(34) + '3 2.5' + chr(34)}/>"
        f'<text x="{x + shift}" y="{at + 4}" text-anchor="{anchor}" font-weight="bold" '
        f'paint-order="stroke" stroke="#fff" stroke-width="3">{word}</text></g>'
    )


def _legend(report: Report, y: float) -> str:
    used = {result.parameters.get("engine") for result in report.candidates}
    entries = [(name, ENGINES[name].title) for name in ENGINES if name in used]
    parts, x = [], float(_LEFT)
    for engine, title in (*entries, (None, "as configured")):
        parts.append(_engine_mark(engine, x, y - 4))
        parts.append(f'<text x="{x + 10}" y="{y}">{escape(title)}</text>')
        x += 120
    parts.append(f'<text x="{x}" y="{y}">lines join one candidate\'s levels of load</text>')
    return "\n".join(parts)
