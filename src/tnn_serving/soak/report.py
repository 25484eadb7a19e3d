"""The report of a soak test as a self-contained page or plot, without scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from tnn_serving.errors import ConfigError
from tnn_serving.soak.run import Soak

_WIDTH, _HEIGHT = 800, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 20, 45
_TICKS = 6
_STEPS = (1, 2, 5, 10)
"""Distances between ticks, as multiples of a power of ten."""

_STYLE = "font-family:sans-serif;font-size:12px"


def write_report(soak: Soak, path: Path) -> None:
    """Writes an .html page with table and plot, or an .svg with the plot.

    Raises:
        ConfigError: another suffix, or the file cannot be written.
    """
    makers = {".html": soak_page, ".svg": memory_plot}
    if path.suffix not in makers:
        raise ConfigError("unknown format of a report", expected=", ".join(makers), found=path.name)
    try:
        path.write_text(makers[path.suffix](soak), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def verdict_sentence(soak: Soak) -> str:
    """The verdict as a sentence."""
    line = soak.growth
    if line is None or soak.verdict is None:
        return "The run was too short for a verdict on memory."
    return (
        f"Memory: {soak.verdict.value}. {line.slope_mb_per_hour:+.1f} MB per hour, 95 % confidence interval "
        f"{line.low_mb_per_hour:+.1f} to {line.high_mb_per_hour:+.1f}, allowed {soak.allowed_mb_per_hour:g}; "
        f"{line.windows} windows from {line.from_s:.0f} s, lag-1 correlation {line.correlation:.2f}."
    )


def summary_rows(soak: Soak) -> list[tuple[str, str]]:
    """Labels and values of the summary."""
    memory = soak.memory_mb
    return [
        ("seconds", f"{soak.seconds:.0f}"),
        ("requests", f"{soak.requests:,}"),
        ("answered", f"{soak.answered:,}, {soak.shared:,} of them from shared memory"),
        ("refused as expected", f"{soak.refused:,}"),
        ("cancelled", f"{soak.cancelled:,}"),
        ("model reloads", f"{soak.reloads:,}"),
        ("shapes", f"{sum(soak.shapes.values()):,} of {len(soak.shapes)} models"),
        ("failures", f"{sum(soak.failures.values()):,}"),
        ("memory (PSS)", f"{memory[0]:.0f} MB at the start, {max(memory):.0f} at most, {memory[-1]:.0f} at the end"),
    ]


def soak_page(soak: Soak) -> str:
    """The report as HTML."""
    facts = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>" for label, value in summary_rows(soak)
    )
    failures = "".join(f"<li>{count} times: {html.escape(text)}</li>" for text, count in soak.failures.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Soak test</title>'
        f"<style>body{{{_STYLE};margin:2em;max-width:60em}}th{{text-align:left;padding-right:2em}}</style>"
        f"<h1>Soak test</h1><p>{html.escape(verdict_sentence(soak))}</p>{memory_plot(soak)}<table>{facts}</table>"
        f"<ul>{failures}</ul></html>\n"
    )


def memory_plot(soak: Soak) -> str:
    """Memory over time as SVG, all of it and without files; the warm-up shaded, and the line through the rest."""
    times, memory = soak.times_s, soak.memory_mb
    right, low, high = max(times[-1], 1.0), 0.0, max(memory) * 1.1

    def x(seconds: float) -> float:
        return _LEFT + seconds / right * (_WIDTH - _LEFT - _RIGHT)

    def y(mb: float) -> float:
        return _HEIGHT - _BOTTOM - (mb - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" style="{_STYLE}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    line = soak.growth
    if line is not None:
        parts.append(
            f'<rect x="{_LEFT}" y="{_TOP}" width="{x(line.from_s) - _LEFT:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}" '
            'fill="#eee"/>'
        )
        parts.append(f'<text x="{_LEFT + 5}" y="{_TOP + 15}" fill="#777">warm-up</text>')
    for mb in _ticks(low, high):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(mb):.1f}" y2="{y(mb):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(mb) + 4:.1f}" text-anchor="end">{mb:g}</text>')
    for seconds in _ticks(0, right):
        parts.append(f'<text x="{x(seconds):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{seconds:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">seconds</text>')
    parts.append(f'<text x="6" y="{_TOP + 4}">MB (PSS)</text>')
    for values, colour in ((memory, "#bbb"), (soak.anonymous_mb, "#1f77b4")):
        points = " ".join(f"{x(t):.1f},{y(mb):.1f}" for t, mb in zip(times, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    if line is not None:
        end = line.start_mb + line.slope_mb_per_hour * (line.to_s - line.from_s) / 3600
        parts.append(
            f'<line x1="{x(line.from_s):.1f}" y1="{y(line.start_mb):.1f}" x2="{x(line.to_s):.1f}" y2="{y(end):.1f}" '
            'stroke="#d62728" stroke-width="2"/>'
        )
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round numbers in a range."""
    rough = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]
