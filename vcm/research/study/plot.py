"""The study as a picture: adherence beside the number of subjects, and beside the number of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcm.modalities.names import TUMOR
from vcm.research.report.figures import FAINT_TEXT, TEXT
from vcm.research.study.methods import BUILDERS, TITLES
from vcm.research.study.plan import find_main

_COLORS = dict(zip(BUILDERS, ("#f0b429", "#c792ea", "#58a6ff", "#3fb68b", "#9a9a9a"), strict=True))
_MARKERS = dict(zip(BUILDERS, "osD^v", strict=True))
_PANEL_WIDTH, _HEIGHT, _DPI = 9.2, 7.0, 100
_LARGE, _SMALL = 18, 15
_GRID = "#333333"
_BETWEEN_SIZES = 0.45  # of the width
_CLOSE = 0.08  # in Dice: a line of text is as high


def draw_study(results: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the tumor Dice of every method against subjects and, at one size, against trainable parameters.

    Args:
        results: what `vcm.research.study.conduct.conduct` returned.
        path: of the PNG file.

    Raises:
        ValueError: no training has ended yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not results["runs"]:
        raise ValueError("The study holds no finished training yet: run vcm study.")
    layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.15, wspace=0.04)
    figure = Figure(figsize=(2 * _PANEL_WIDTH, _HEIGHT), dpi=_DPI, facecolor="black", layout=layout)
    FigureCanvasAgg(figure)
    by_samples, by_parameters = (figure.add_subplot(1, 2, number, facecolor="black") for number in (1, 2))
    _draw_samples(by_samples, results)
    _draw_parameters(by_parameters, results)
    handles, labels = by_samples.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), fontsize=_LARGE, frameon=False
    )
    for text in legend.get_texts():
        text.set_color(TEXT)
    figure.savefig(path, facecolor="black")
    return Path(path)


def _draw_samples(axes: Any, results: Mapping[str, Any]) -> None:
    """A line a method through its sizes at the first seed; further seeds are small marks beside it."""
    for method in BUILDERS:
        style = {"color": _COLORS[method], "marker": _MARKERS[method]}
        line = []
        for samples in results["plan"]["sizes"]:
            for seed in range(3):
                found = find_main(results["runs"], method, TUMOR, samples, seed)
                if found is None:
                    continue
                point = (samples, found["figures"]["dice"]["value"])
                if seed == 0:
                    line.append(point)
                else:
                    axes.plot(*point, markersize=6, alpha=0.6, linewidth=0, **style)
        if line:
            axes.plot(*zip(*line, strict=True), markersize=11, linewidth=2.5, label=TITLES[method], **style)
    _draw_limits(axes, results["limits"].get("limits", {}))
    axes.set_xscale("log")
    axes.set_xticks(results["plan"]["sizes"], [str(size) for size in results["plan"]["sizes"]], minor=False)
    axes.minorticks_off()
    _style(axes, "whole-tumor Dice by the number of subjects", "subjects learned from")


def _draw_limits(axes: Any, limits: Mapping[str, Any]) -> None:
    """A dashed line for each, named between two sizes, above it unless another line is close above."""
    values = sorted((figures["dice"]["value"], name) for name, figures in limits.items())
    for (value, name), (above, _) in zip(values, [*values[1:], (np.inf, "")], strict=True):
        axes.axhline(value, color=FAINT_TEXT, linewidth=1.5, linestyle=(0, (4, 4)))
        offset, side = (4, "bottom") if above - value > _CLOSE else (-4, "top")
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": side}
        axes.annotate(name, (_BETWEEN_SIZES, value), (0, offset), color=FAINT_TEXT, size=_SMALL, **where)


def _draw_parameters(axes: Any, results: Mapping[str, Any]) -> None:
    """A point a method at the tuning size, and our VCM's widths as a line."""
    runs, samples = results["runs"], results["plan"]["sizes"][1]
    ours = []
    for method in BUILDERS:
        found = find_main(runs, method, TUMOR, samples)
        if found is None:
            continue
        point = (found["parameters"] / 1e6, found["figures"]["dice"]["value"])
        axes.plot(*point, markersize=11, linewidth=0, color=_COLORS[method], marker=_MARKERS[method])
        if method == "vcm":
            ours.append(point)
    ours += [
        (run["parameters"] / 1e6, run["figures"]["dice"]["value"])
        for run in runs.values()
        if run["variant"] in ("narrow", "wide")
    ]
    if ours:
        axes.plot(*zip(*sorted(ours), strict=True), markersize=7, linewidth=2.5, color=_COLORS["vcm"], marker="o")
    _style(axes, f"the same on {samples} subjects, by parameters", "trainable parameters, millions")


def _style(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, color=TEXT, size=_LARGE, loc="left", pad=14)
    axes.set_xlabel(label, color=FAINT_TEXT, size=_SMALL)
    axes.set_ylim(bottom=-0.02)
    axes.grid(which="major", color=_GRID, linewidth=1)
    axes.tick_params(which="both", colors=FAINT_TEXT, labelsize=_SMALL, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.margins(x=0.08, y=0.12)
