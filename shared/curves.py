"""Training curves as inline SVG: the mean over stretches of steps, with their range as a band behind it."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["curve_svg", "series"]

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 30
STRETCHES = 160  # a curve of more points is drawn as the mean, minimum and maximum of this many stretches


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Collect (step, value) of one logged name, without missing and non-finite values, ordered by step."""
    pairs = [(row["step"], row.get(name)) for row in rows]
    kept = [(s, float(v)) for s, v in pairs if isinstance(v, int | float) and math.isfinite(v)]
    return sorted(kept)


def curve_svg(points: Sequence[tuple[float, float]], name: str) -> str:
    """Draw (step, value) points as an SVG that takes its colours from the page's CSS variables.

    The vertical axis is logarithmic if the values are positive and span more than a factor of 50.
    """
    if not points:
        return f'<p class="note">{html.escape(name)}: nothing was logged.</p>'
    stretches = _summarise(points)
    low, high = min(s[2] for s in stretches), max(s[3] for s in stretches)
    log = low > 0 and high / low > 50
    if log:
        ticks = _log_ticks(low, high)
        bottom, top = math.log10(low), math.log10(high)
    else:
        ticks = _linear_ticks(low, high)
        bottom, top = min(low, ticks[0]), max(high, ticks[-1])
    first, last = points[0][0], points[-1][0]

    def x_at(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y_at(value: float) -> float:
        level = math.log10(value) if log else value
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (level - bottom) / (top - bottom)

    parts = [*_grid(ticks, y_at, first, last, x_at), *_line(stretches, x_at, y_at)]
    scale = ", log scale" if log else ""
    label = f"{name} over {last:g} steps{scale}: from {points[0][1]:.4g} to {points[-1][1]:.4g}"
    head = f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
    return "\n".join([head, *parts, "</svg>"])


def _summarise(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Turn points into (step, mean, minimum, maximum) of at most `STRETCHES` stretches."""
    count = min(len(points), STRETCHES)
    stretches = []
    for i in range(count):
        part = points[i * len(points) // count : (i + 1) * len(points) // count]
        values = [value for _, value in part]
        step = sum(step for step, _ in part) / len(part)
        stretches.append((step, sum(values) / len(values), min(values), max(values)))
    return stretches


def _grid(ticks: Sequence[float], y_at: Any, first: float, last: float, x_at: Any) -> list[str]:
    parts = []
    for tick in ticks:
        y = y_at(tick)
        if TOP - 1 <= y <= HEIGHT - BOTTOM + 1:
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            text = f"{tick:.6g}"
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    steps = [tick for tick in _linear_ticks(first, last) if first <= tick <= last] or [first]
    for tick in steps:
        unit = " steps" if tick == steps[-1] else ""
        anchor = "end" if x_at(tick) > WIDTH - 50 else "middle"
        parts.append(
            f'<text x="{x_at(tick):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick:,.6g}{unit}</text>'
        )
    return parts


def _line(stretches: Sequence[tuple[float, float, float, float]], x_at: Any, y_at: Any) -> list[str]:
    parts = []
    if any(high > low for _, _, low, high in stretches):
        upper = [f"{x_at(step):.1f},{y_at(high):.1f}" for step, _, _, high in stretches]
        lower = [f"{x_at(step):.1f},{y_at(low):.1f}" for step, _, low, _ in reversed(stretches)]
        parts.append(f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>')
    middle = [(x_at(step), y_at(mean)) for step, mean, _, _ in stretches]
    parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in middle)}"/>')
    if len(middle) <= 40:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in middle]
    return parts


def _linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, about four of them, around [low, high]."""
    scale = max(abs(low), abs(high)) or 1.0
    span = high - low if high - low > 1e-9 * scale else scale  # constant up to rounding
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if start == stop:
        start, stop = start - 1, stop + 1
    return [i * step for i in range(start, stop + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, len(decades) // 5)
    return [10.0**d for d in decades if d % stride == 0]
