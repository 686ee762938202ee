"""From an exploration to what a lesson shows of it: one sheet of small pictures, and the numbers beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vcm.explore import Counterfactual, GuidanceSweep, Pair, SeedEnsemble, Shot, Trace, View, WindowMap
from vcm.modalities.names import TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.render.slices import extract_plane, render_slice
from vcm.volume import Volume

Picture = NDArray[np.uint8]
"""(rows, columns, 3)."""

_HEIGHT = 224  # of a picture: two pixels a voxel of the embedded model
_QUALITY = 80
_DIGITS = 4
# As a viewer of scans would window them: noise in the air goes black.
_BLACK, _WHITE = 0.05, 0.95
_BRIGHTEST = 99.5  # percentile; a few voxels more may saturate
_STRONG = ((0.0, "#000000"), (0.5, "#1fa9b8"), (1.0, "#f2fdff"))
# The map of differences in the viewer above: light on the outside, black where nothing changed.
_SIGNED = ((-1.0, "#bee8ff"), (-0.45, "#2a7ade"), (0.0, "#000000"), (0.45, "#e05c16"), (1.0, "#ffe2aa"))

Stops = tuple[tuple[float, str], ...]


@dataclass(frozen=True, eq=False)
class Figure:
    """What a lesson shows of one exploration.

    Attributes:
        facts: the numbers, as JSON types; "kind" names the exploration.
        sheet: pictures of one size in rows, as a WebP file; empty where there are none.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    sheet: bytes = b""


@singledispatch
def draw_figure(exploration: object) -> Figure:
    """Draw an exploration of `vcm.explore`, whole or as far as it has come.

    Every picture is the axial slice through the lesson's voxel, in radiological orientation.
    """
    raise TypeError(f"{type(exploration).__name__} is no exploration.")


@draw_figure.register
def _draw_pair(pair: Pair) -> Figure:
    change, most = _draw_difference(pair.controlled.volume, pair.uncontrolled.volume, pair.view)
    pictures = [_draw(pair.uncontrolled, pair.view, is_outlined=True), _draw(pair.controlled, pair.view), change]
    facts = {"dice": [_round(pair.uncontrolled.dice), _round(pair.controlled.dice)], "brightest": _round(most)}
    return _lay_out("pair", facts, [pictures])


@draw_figure.register
def _draw_sweep(sweep: GuidanceSweep) -> Figure:
    pictures = [_draw(shot, sweep.view, is_outlined=not index) for index, shot in enumerate(sweep.shots)]
    facts = {"scales": list(sweep.scales), **_measure(sweep.shots)}
    return _lay_out("guidance", facts, [pictures])


@draw_figure.register
def _draw_window(window: WindowMap) -> Figure:
    cells = [[start, end, _round(shot.dice), _round(shot.distance)] for (start, end), shot in window.cells.items()]
    facts = {"edges": list(window.edges), "steps": window.num_inference_steps, "cells": cells}
    return Figure({"kind": "window", **facts})


@draw_figure.register
def _draw_seeds(ensemble: SeedEnsemble) -> Figure:
    varied, most = _draw_strength(ensemble.deviation, ensemble.view)
    mean = _draw(Shot(ensemble.mean, None), ensemble.view)
    pictures = [mean, varied, *(_draw(shot, ensemble.view) for shot in ensemble.shots)]
    facts = {"seeds": list(ensemble.seeds), **_measure(ensemble.shots), "brightest": _round(most)}
    return _lay_out("seeds", facts, [pictures])


@draw_figure.register
def _draw_counterfactual(moved: Counterfactual) -> Figure:
    rows, covariates = [], []
    for name, ends in moved.moved.items():
        shots = [shot for _, shot in ends]
        row = [_draw(shots[0], moved.view), _draw(moved.asked, moved.view)]
        most = 0.0
        if len(shots) > 1:
            change, most = _draw_difference(shots[1].volume, shots[0].volume, moved.view)
            row += [_draw(shots[1], moved.view), change]
        else:
            row += [np.zeros_like(row[0])] * 2
        rows.append(row)
        values = [value for value, _ in ends]
        covariates.append({"name": name, "values": values, **_measure(shots), "brightest": _round(most)})
    facts = {"covariates": covariates, "asked": _measure([moved.asked])}
    return _lay_out("covariates", facts, rows)


@draw_figure.register
def _draw_trace(trace: Trace) -> Figure:
    estimates = [_draw(Shot(step.estimate, None), trace.view) for step in trace.steps]
    like = trace.steps[0].estimate
    rows, brightest, means = [estimates], [], []
    for name in ("eps_scale", "eps_shift"):
        fields = [_spread(getattr(step, name), like) for step in trace.steps]
        cuts = [extract_plane(each, "axial", trace.view.voxel) for each in fields]
        most = float(np.percentile(np.stack(cuts), _BRIGHTEST))
        rows.append([_color(each, trace.view, _STRONG, most) for each in fields])
        brightest.append(_round(most))
        means.append([_round(float(each.array.mean())) for each in fields])
    facts = {"means": means, "brightest": brightest, "dice": [_round(trace.dice)]}
    return _lay_out("steps", facts, rows)


def _measure(shots: Sequence[Shot]) -> dict[str, Any]:
    """Return the numbers of shots, each as a list; those that no shot has are left out."""
    columns = {name: [_round(getattr(shot, name)) for shot in shots] for name in ("dice", "distance", "ventricles_ml")}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DIGITS)


def _lay_out(kind: str, facts: dict[str, Any], rows: Sequence[Sequence[Picture]]) -> Figure:
    """Put pictures of one size on one sheet."""
    facts = {"kind": kind, **facts}
    if not rows:
        return Figure(facts)
    height, width = rows[0][0].shape[:2]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=_QUALITY, method=6)
    return Figure({**facts, "columns": len(rows[0]), "rows": len(rows), "size": [width, height]}, buffer.getvalue())


def _draw(shot: Shot, view: View, *, is_outlined: bool = False) -> Picture:
    windowed = ((shot.volume.array - _BLACK) / (_WHITE - _BLACK)).clip(0, 1).astype(np.float32)
    labels = view.tumor if is_outlined else None
    return render_slice(
        Volume(windowed, shot.volume.affine),
        labels=labels,
        colors=MODALITIES[TUMOR].colors,
        voxel=view.voxel,
        height=_HEIGHT,
        fill_opacity=0.0,
    )


def _draw_difference(volume: Volume, before: Volume, view: View) -> tuple[Picture, float]:
    """Draw how much brighter or darker a volume is than another, and return the difference at full color."""
    change = Volume(volume.array - before.array, volume.affine)
    most = _find_brightest(np.abs(extract_plane(change, "axial", view.voxel)))
    return _color(change, view, _SIGNED, most), most


def _draw_strength(volume: Volume, view: View) -> tuple[Picture, float]:
    most = _find_brightest(extract_plane(volume, "axial", view.voxel))
    return _color(volume, view, _STRONG, most), most


def _find_brightest(values: NDArray) -> float:
    return float(np.percentile(values, _BRIGHTEST))


def _color(volume: Volume, view: View, stops: Stops, most: float) -> Picture:
    """Draw a slice in the colors of `stops`, whose last one is at the value `most`."""
    low = stops[0][0]
    share = (volume.array / max(most, 1e-6)).clip(low, 1.0)
    scaled = Volume(((share - low) / (1.0 - low)).astype(np.float32), volume.affine)
    gray = render_slice(scaled, voxel=view.voxel, height=_HEIGHT)[..., 0]
    return _build_table(stops)[gray]


def _build_table(stops: Stops) -> Picture:
    """Return the colors of the levels 0 to 255, (256, 3)."""
    levels = np.linspace(stops[0][0], 1.0, 256)
    at = [place for place, _ in stops]
    channels = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for _, color in stops])
    return np.rint(np.stack([np.interp(levels, at, channel) for channel in channels.T], axis=1)).astype(np.uint8)


def _spread(field: NDArray[np.float32] | None, like: Volume) -> Volume:
    """Return what the VCM did on the latent grid as a volume on the model grid, each cell a block; 0 without one."""
    if field is None:
        return Volume(np.zeros(like.array.shape, np.float32), like.affine)
    array = field
    for axis, (size, cells) in enumerate(zip(like.array.shape, field.shape, strict=True)):
        array = array.take(np.arange(size) * cells // size, axis=axis)
    return Volume(array, like.affine)
