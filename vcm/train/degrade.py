"""How training makes the conditions of a subject, each as a user's volume would become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.modalities.conditions import encode_one_hot
from vcm.modalities.image_conditions import HOLE_MARGIN_MM, encode_image, encode_partial, grow
from vcm.train.shifts import shift_scan
from vcm.train.views import View

SLICE_FACTORS = (2, 3, 4)
"""Voxels of 2 mm in a thick slice: 4, 6 and 8 mm."""

_BALL_RADII_MM = (12.0, 40.0)
_SLAB_MM = (20.0, 70.0)
_BRAIN_MARGIN_MM = 4.0


def make_condition(name: str, view: View, random: torch.Generator) -> Tensor:
    """Return one condition of a view, (C, x, y, z) float32."""
    return _MAKERS[name](view, random)


def _make_tumor(view: View, random: torch.Generator) -> Tensor:
    return encode_one_hot(view.tumor, 3)


def _make_anatomy(view: View, random: torch.Generator) -> Tensor:
    # A person draws on healthy anatomy, but a tumor has pushed tissue away: show both.
    before = bool(torch.rand(1, generator=random) < 0.5)
    anatomy = view.read(view.cohort.anatomy_before) if before else view.anatomy
    return encode_one_hot(np.where(view.tumor > 0, np.uint8(0), anatomy), 4)


def _make_contrast(contrast: str, view: View, random: torch.Generator) -> Tensor:
    return encode_image(shift_scan(view, contrast, random))


def _make_thick_slices(view: View, random: torch.Generator) -> Tensor:
    factor = SLICE_FACTORS[int(torch.randint(len(SLICE_FACTORS), (1,), generator=random))]
    offset = int(torch.randint(factor, (1,), generator=random))
    return encode_image(shift_scan(view, "t1", random, thicken=(factor, offset)))


def _make_partial(view: View, random: torch.Generator) -> Tensor:
    scan = shift_scan(view, "t1", random)
    whole = view.whole()
    return encode_partial(scan, draw_hole(whole.tumor, whole.anatomy, view.spacing_mm, random)[view.window])


_MAKERS: Mapping[str, Callable[[View, torch.Generator], Tensor]] = {
    "tumor": _make_tumor,
    "anatomy": _make_anatomy,
    "partial": _make_partial,
    "lowres": _make_thick_slices,
    "t2": partial(_make_contrast, "t2"),
    "flair": partial(_make_contrast, "flair"),
}


def draw_hole(
    tumor: NDArray[np.uint8],
    anatomy: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    random: torch.Generator,
) -> NDArray[np.bool_]:
    """Return where a scan is to be made up, (X, Y, Z).

    Two in five times the tumor and its surroundings, where there is one; else a ball in the head, a slab of axial
    slices, or all of the brain, which leaves only skull and scalp.

    Args:
        tumor, anatomy: labels (X, Y, Z) of the subject.
    """

    uniform = partial(draw_uniform, random)
    kind = uniform(0.0, 1.0)
    brain = (anatomy > 0) | (tumor > 0)
    if kind < 0.4 and tumor.any():
        return grow(tumor > 0, HOLE_MARGIN_MM, spacing_mm)
    if kind < 0.6:
        return grow(brain, _BRAIN_MARGIN_MM, spacing_mm)
    if kind < 0.75:
        thickness = uniform(*_SLAB_MM) / spacing_mm[2]
        start = uniform(0.0, tumor.shape[2] - thickness)
        heights = np.arange(tumor.shape[2])
        return np.broadcast_to((heights >= start) & (heights < start + thickness), tumor.shape).copy()
    inside = np.flatnonzero(brain) if brain.any() else np.arange(brain.size)
    chosen = inside[int(torch.randint(len(inside), (1,), generator=random))]
    center = np.unravel_index(chosen, brain.shape)
    radius = uniform(*_BALL_RADII_MM)
    squares = [((np.arange(n) - c) * step) ** 2 for n, c, step in zip(brain.shape, center, spacing_mm, strict=True)]
    distances: NDArray = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    return distances <= radius**2


def draw_uniform(random: torch.Generator, low: float, high: float) -> float:
    """Return a number between the two."""
    return low + (high - low) * float(torch.rand(1, generator=random))
