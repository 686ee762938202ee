"""A scan with a hole: a region of it is made up, and all else comes back untouched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.base import Given, PreparedCondition, SubjectView
from vcm.modalities.image_conditions import HOLE_MARGIN_MM, encode_partial, grow, measure_range
from vcm.modalities.inpaint import fill_hole
from vcm.modalities.names import PARTIAL
from vcm.modalities.scans import WORTH_SAYING, Scan, ScanModality, holds_labels
from vcm.volume import Volume
from vcm.volume.resample import fraction_outside
from vcm.volume.volume import as_labels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vcm.model.config import Grid

_BALL_RADII_MM = (12.0, 40.0)
_SLAB_MM = (20.0, 70.0)
_BRAIN_MARGIN_MM = 4.0


@dataclass(frozen=True)
class PartialModality(ScanModality):
    """A T1-weighted scan and what of it is made up: two channels."""

    precedence: ClassVar[int] = 2
    stripped_note: ClassVar[str] = "It is skull-stripped, and stays so outside of what is made up."

    def prepare(self, volume: Volume, grid: Grid, given: Given) -> PreparedCondition:
        """See `Modality.prepare`; without a fill, the surroundings of the tumor are made up."""
        shown, own = self.place(volume, grid)
        hole, own_hole, more = _find_hole(own, grid, given.fill, given.tumor)
        notes = shown.notes + more
        tensor = encode_partial(shown.array, hole)
        scan = Scan(own, measure_range(own.array), own_hole, given.fill is not None)
        return PreparedCondition(self.name, Volume(tensor[0].numpy().copy(), grid.affine, notes), tensor, notes, scan)

    def degrade(self, view: SubjectView, random: torch.Generator) -> Tensor:
        """Return the subject's T1 with a hole."""
        from vcm.modalities.shifts import shift_scan

        scan = shift_scan(view, self.contrast, random)
        whole = view.whole()
        return encode_partial(scan, draw_hole(whole.tumor, whole.anatomy, view.spacing_mm, random)[view.window])

    def finish(self, scan: Scan, volume: Volume, *, is_controlled: bool) -> Volume:
        """Return the scan on its own grid and in its own units, with the volume in its hole."""
        return fill_hole(scan, volume)


MODALITY = PartialModality(
    name=PARTIAL,
    title="Partial scan",
    help="A scan, a region of which is made up: that of a mask, or the tumor and its surroundings. Elsewhere it comes "
    "back untouched, on its own grid.",
    channels=2,
)


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

    import torch

    from vcm.modalities.shifts import draw_uniform

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


def _find_hole(
    own: Volume, grid: Grid, fill: Volume | None, tumor: NDArray[np.uint8] | None
) -> tuple[NDArray[np.bool_], Volume, tuple[str, ...]]:
    """Return what is made up, on the model grid (X, Y, Z) and on the scan's own, and what has to be said."""
    if fill is None:
        if tumor is None:
            raise VolumeError(
                "The partial condition needs a fill, the region that is to be made up, or a tumor, around which it is."
            )
        if not tumor.any():
            raise VolumeError("The tumor map is empty, so the partial condition needs a fill: what is to be made up.")
        spacing_mm = Volume(tumor, grid.affine).spacing_mm
        hole = grow(tumor > 0, HOLE_MARGIN_MM, spacing_mm)
        placed = _place_mask(Volume(hole.astype(np.uint8), grid.affine), own)
        if not placed.array.any():
            raise VolumeError("The tumor lies outside the partial scan: both must be in the same space, in mm.")
        notes: tuple[str, ...] = (f"The tumor and what lies within {HOLE_MARGIN_MM:g} mm of it is made up.",)
        outside = fraction_outside(hole, grid.affine, own.array.shape, own.affine)
        if outside > WORTH_SAYING:
            notes += (f"{outside:.1%} of that lies outside the scan, and so does that part of the result.",)
        return hole, Volume(placed.array, own.affine), notes
    try:
        labels = as_labels(fill.array)
    except VolumeError:
        labels = None
    if labels is None or not holds_labels(labels):
        raise VolumeError("The fill is a mask: 1 in the region that is to be made up, and 0 elsewhere.")
    if not labels.any():
        raise VolumeError("The fill is empty: mark the region that is to be made up.")
    mask = Volume((labels > 0).astype(np.uint8), fill.affine, fill.notes)
    on_scan = _place_mask(mask, own)
    if not on_scan.array.any():
        raise VolumeError("The fill lies outside the scan: both must be in the same space, in mm.")
    own_hole = Volume(on_scan.array, own.affine)
    # By way of the scan's own grid, where a recipe keeps it.
    placed = own_hole.to_grid(grid.shape, grid.affine, labels=True)
    if not placed.array.any():
        raise VolumeError("The fill lies outside the model's field of view, where nothing can be made up.")
    outside = fraction_outside(own_hole.array > 0, own.affine, grid.shape, grid.affine)
    notes = tuple(f"Fill: {note}" for note in on_scan.notes)
    if outside > WORTH_SAYING:
        notes += (f"{outside:.1%} of the fill lies outside the model's field of view and stays as it is.",)
    return placed.array > 0, own_hole, notes


def _place_mask(mask: Volume, scan: Volume) -> Volume:
    try:
        return mask.to_grid(scan.array.shape, scan.affine, labels=True)
    except VolumeError:
        raise VolumeError("The region to be made up lies outside the scan: both must be in the same space.") from None
