"""The benchmark as a picture: every loop's speed beside its quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from vcm.modalities.names import TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.research.report.figures import FAINT_TEXT, TEXT
from vcm.sampler.solvers import DEFAULT_SOLVER, SOLVERS

_COLORS = dict(zip(SOLVERS, cycle(reversed(MODALITIES[TUMOR].colors)), strict=False))
_PUBLISHED, _FLOAT32 = "published", "ours in float32"
_PANEL_WIDTH, _HEIGHT, _DPI = 9.2, 7.6, 100
_LARGE, _SMALL = 18, 14
_GRID = "#333333"


class _Panel(NamedTuple):
    """What one half of the picture shows of every loop."""

    figure: str
    title: str
    better: str
    is_logarithmic: bool


_PANELS = (
    _Panel("distance", "distance to the exact solution (latent RMSE)", "lower is better", True),
    _Panel("dice", "whole-tumor Dice, with its 95 % interval", "higher is better", False),
)


class _Point(NamedTuple):
    """One loop: its seconds with their spread, and its quality with its interval."""

    steps: int
    seconds: float
    spread: Sequence[float]
    value: float
    interval: Sequence[float] | None


def draw_benchmark(results: Mapping[str, Any], path: str | Path) -> Path:
    """Draw CPU seconds of both volumes against distance and adherence, for every loop that was measured.

    Each solver is a line through its step counts in the precision that is the default; the published loop and ours in
    float32 stand by themselves.

    Args:
        results: what `vcm.research.benchmark.benchmark.benchmark` returned.
        path: of the PNG file.

    Raises:
        ValueError: neither distance nor adherence was measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [panel for panel in _PANELS if any(True for _ in _list_points(results, panel))]
    if not panels:
        raise ValueError("The benchmark measured no quality to draw: run it with masks or noises.")
    layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.15, wspace=0.04)
    figure = Figure(figsize=(_PANEL_WIDTH * len(panels), _HEIGHT), dpi=_DPI, facecolor="black", layout=layout)
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(1, len(panels), number, facecolor="black"), results, panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=len(labels) if len(panels) > 1 else 3,
        fontsize=_LARGE,
        frameon=False,
        columnspacing=1.6,
    )
    for text in legend.get_texts():
        text.set_color(TEXT)
    figure.savefig(path, facecolor="black")
    return Path(path)


def _draw_panel(axes: Any, results: Mapping[str, Any], panel: _Panel) -> None:
    points = dict(_list_points(results, panel))
    # Where lines fall, there is room above their right side; where they rise, below it.
    right = (11, 7) if panel.is_logarithmic else (11, -17)
    for solver, kind in SOLVERS.items():
        names = [name for name in points if _is_ours(name) and results["loops"][name]["sampler"] == solver]
        line = sorted(points[name] for name in names)
        if line:
            _draw(axes, line, _COLORS[solver], f"ours, {kind.title}", (-11, 7) if solver == DEFAULT_SOLVER else right)
    if _FLOAT32 in points:
        hollow = {"markerfacecolor": "black", "linewidth": 0}
        _draw(
            axes,
            [points[_FLOAT32]],
            _COLORS[DEFAULT_SOLVER],
            f"ours, {SOLVERS[DEFAULT_SOLVER].title} in float32",
            right,
            **hollow,
        )
    if _PUBLISHED in points:
        diamond = {"marker": "D", "markersize": 13, "linewidth": 0}
        _draw(axes, [points[_PUBLISHED]], TEXT, "published loop", right, **diamond)
    axes.set_xscale("log")
    if panel.is_logarithmic:
        axes.set_yscale("log")
    _style(axes, panel)


def _draw(axes: Any, line: Sequence[_Point], color: str, label: str, offset: tuple[int, int], **style: Any) -> None:
    """Draw loops of one kind as a line, each with the number of its steps at an offset in typographic points."""
    x, y = [point.seconds for point in line], [point.value for point in line]
    shown = {"marker": "o", "markersize": 10, "markeredgewidth": 2, "linewidth": 2.5, **style}
    axes.plot(x, y, color=color, label=label, zorder=3, **shown)
    for point in line:
        axes.hlines(point.value, *point.spread, color=color, linewidth=2, alpha=0.6)
        if point.interval is not None:
            axes.vlines(point.seconds, *point.interval, color=color, linewidth=2, alpha=0.45)
        axes.annotate(
            str(point.steps),
            (point.seconds, point.value),
            offset,
            textcoords="offset points",
            ha="right" if offset[0] < 0 else "left",
            color=color,
            size=_SMALL,
        )


def _style(axes: Any, panel: _Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_title(f"{panel.title}: {panel.better}", color=TEXT, size=_LARGE, loc="left", pad=14)
    axes.set_xlabel("CPU seconds for both volumes; beside each point, its steps", color=FAINT_TEXT, size=_SMALL + 2)
    for axis in (axes.xaxis, axes.yaxis) if panel.is_logarithmic else (axes.xaxis,):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color=_GRID, linewidth=1)
    axes.tick_params(which="both", colors=FAINT_TEXT, labelsize=_SMALL + 2, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.margins(x=0.08, y=0.12)


def _list_points(results: Mapping[str, Any], panel: _Panel) -> Iterator[tuple[str, _Point]]:
    """Yield every loop whose quality was measured, by name."""
    for name, quality in results["quality"]["loops"].items():
        found, seconds = quality[panel.figure], results["runs"][name]
        if found["value"] is not None:
            spread = (seconds["cpu_p10"], seconds["cpu_p90"])
            interval = None if panel.is_logarithmic else found["interval"]
            steps = results["loops"][name]["steps"]
            yield name, _Point(steps, seconds["cpu_seconds"], spread, found["value"], interval)


def _is_ours(name: str) -> bool:
    return name not in (_PUBLISHED, _FLOAT32)
