"""Small charts as SVG: drawn by the server, colored by the style sheet, readable without a script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

_WIDTH, _HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 38
_MOST_TICKS = 7


def draw_line(
    xs: Sequence[float],
    ys: Sequence[float | None],
    *,
    x_title: str,
    y_title: str,
    top: float | None = None,
    has_marker: bool = False,
) -> str:
    """Return a line through points, with a dot at each.

    Args:
        xs: rising.
        ys: 0 and more; a point without a value is left out.
        x_title, y_title: of the axes.
        top: of the y axis; a round number above the largest value when not given.
        has_marker: whether there is an upright line that a script moves: `<line data-marker>`, with the x of each
            point in `data-xs`.
    """
    known = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    top = top or _round_up(max((y for _, y in known), default=1.0))
    low, high = (xs[0], xs[-1]) if xs and xs[-1] > xs[0] else (0.0, 1.0)
    places = [(_across((x - low) / (high - low)), _up(y / top)) for x, y in known]
    parts = [
        *_draw_grid([(y, _up(y / top)) for y in _ticks(0.0, top)]),
        *_label_across([(x, _across((x - low) / (high - low))) for x in _thin(xs)]),
    ]
    if places:
        parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    if has_marker:
        at = ",".join(f"{_across((x - low) / (high - low)):.1f}" for x in xs)
        first = at.split(",")[0]
        parts.append(
            f'<line class="marker" data-marker="" data-xs="{at}" x1="{first}" x2="{first}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/>'
        )
    told = "; ".join(f"{x:g}: {y:.3g}" for x, y in known)
    return _frame(parts, x_title, y_title, f"{y_title} by {x_title}: {told}")


def draw_scatter(points: Sequence[tuple[float, float, bool]], *, x_title: str, y_title: str, told: str) -> str:
    """Return dots on two logarithmic axes of one range, with the line of equal values.

    Args:
        points: x, y, and whether the dot is full rather than hollow; what is below the range stands at its end.
        x_title, y_title: of the axes.
        told: what the chart says, for those who do not see it.
    """
    values = [value for x, y, _ in points for value in (x, y) if value > 0] or [1.0]
    first = math.floor(math.log10(min(values)))
    last = max(first + 1, math.ceil(math.log10(max(values))))

    def share(value: float) -> float:
        return (max(math.log10(value), first) - first) / (last - first) if value > 0 else 0.0

    decades = [10.0**power for power in range(first, last + 1)]
    parts = [
        *_draw_grid([(decade, _up(share(decade))) for decade in decades]),
        *_label_across([(decade, _across(share(decade))) for decade in decades]),
        f'<line class="even" x1="{_across(0):.1f}" y1="{_up(0):.1f}" x2="{_across(1):.1f}" y2="{_up(1):.1f}"/>',
    ]
    parts += [
        f'<circle class="{"dot" if is_full else "dot hollow"}" cx="{_across(share(x)):.1f}" cy="{_up(share(y)):.1f}" '
        'r="4"/>'
        for x, y, is_full in points
    ]
    return _frame(parts, x_title, y_title, told)


def _frame(parts: Sequence[str], x_title: str, y_title: str, told: str) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(told)}">{"".join(parts)}'
        f'<text class="title" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text class="title" transform="translate(11 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text></svg>'
    )


def _draw_grid(ticks: Sequence[tuple[float, float]]) -> Iterator[str]:
    for value, y in ticks:
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'


def _label_across(ticks: Sequence[tuple[float, float]]) -> Iterator[str]:
    for value, x in ticks:
        yield f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>'


def _across(share: float) -> float:
    return _LEFT + 6 + share * (_WIDTH - _LEFT - _RIGHT - 12)


def _up(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _thin(xs: Sequence[float]) -> Sequence[float]:
    return xs[:: max(1, math.ceil(len(xs) / _MOST_TICKS))]


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * part / 4 for part in range(5)]


def _round_up(value: float) -> float:
    """Return the next number of one digit that four ticks divide well: 1, 2, 4 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(factor * power for factor in (1, 2, 4, 8, 10, 20) if factor * power >= value))
