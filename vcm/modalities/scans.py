"""From a user's scan to an image condition: what is refused, what is measured, and what is made up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.image_conditions import (
    HOLE_MARGIN_MM,
    encode_image,
    encode_partial,
    grow,
    measure_range,
    scale_intensities,
)
from vcm.volume import Volume
from vcm.volume.resample import fraction_outside
from vcm.volume.volume import as_labels, list_values

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.model.config import Grid
    from vcm.request import GenerationResult

TRAINED_SLICES_MM = (4.0, 8.0)
"""How thick the slices are that a VCM has learned from."""

MOST_TILT_DEGREES = 25.0
"""Of slices against the model grid. A slice's mean is taken along the model's columns instead of across the slice,
which for 8 mm is off by less than a voxel up to there."""

MOST_LABELS = 32
"""Distinct values of a map: a scan of 8 bits has far more, and whole numbers as few as this are names."""

_AS_THIN = 1.3  # voxels longer than this times the slice spacing, in the plane of the slices, are thick themselves
_WORTH_SAYING = 0.001
_DIRECTIONS = ("left to right", "back to front", "foot to head")


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan as it was given, to which a result goes back.

    Attributes:
        volume: on its own grid and in its own units, float32.
        limits: the intensities that became 0 and 1.
        hole: what is made up, uint8 of 0 and 1 on the scan's own grid; None where nothing is.
        is_hole_given: whether the hole is a user's region, rather than the surroundings of a tumor.
    """

    volume: Volume
    limits: tuple[float, float]
    hole: Volume | None = None
    is_hole_given: bool = False


class PlacedScan(NamedTuple):
    """A scan in [0, 1] on the model grid, its tensor (C, X, Y, Z), the scan as it was given, and notes on the way."""

    volume: Volume
    tensor: Tensor
    scan: Scan
    notes: tuple[str, ...]


def prepare_scan(
    name: str, volume: Volume, grid: Grid, fill: Volume | None = None, tumor: NDArray[np.uint8] | None = None
) -> PlacedScan:
    """Bring a scan to [0, 1] on the model grid.

    Its intensities are measured on its own grid, before anything is interpolated.

    Args:
        name: of the modality.
        volume: on any grid, in any units.
        grid: of the model.
        fill: for "partial", a mask on any grid of what is to be made up.
        tumor: for "partial" without `fill`, labels (X, Y, Z) on the model grid: they and their surroundings are.

    Raises:
        VolumeError: it is no scan, lies outside the field of view, has slices that are thick in another direction than
            the model knows, or there is nothing to be made up.
    """
    shown, own = place_scan(name, volume, grid)
    limits, notes, array = measure_range(own.array), shown.notes, shown.array
    if name != "partial":
        return PlacedScan(shown, encode_image(array), Scan(own, limits), notes)
    hole, own_hole, more = _find_hole(own, grid, fill, tumor)
    notes += more
    tensor = encode_partial(array, hole)
    shown = Volume(tensor[0].numpy().copy(), grid.affine, notes)
    return PlacedScan(shown, tensor, Scan(own, limits, own_hole, fill is not None), notes)


def place_scan(name: str, volume: Volume, grid: Grid) -> tuple[Volume, Volume]:
    """Return a scan in [0, 1] on the model grid, without any hole, and as it was given, in finite float32.

    Raises:
        VolumeError: as `prepare_scan` does, but for what is made up.
    """
    own, notes = read_values(name, volume)
    if name == "lowres":
        notes += _judge_slices(own) + _judge_tilt(own, grid)
    scaled = Volume(scale_intensities(own.array, measure_range(own.array)), own.affine, volume.notes + notes)
    placed = scaled.to_grid(grid.shape, grid.affine)
    if not placed.array.any():
        raise VolumeError(
            f"Nothing of the {name} scan lies in the model's field of view; it must be in the same (MNI) space, in mm."
        )
    outside = fraction_outside(scaled.array > 0, own.affine, grid.shape, grid.affine)
    notes = placed.notes
    if outside > _WORTH_SAYING:
        notes += (f"{outside:.1%} of the {name} scan lies outside the model's field of view, which does not see it.",)
    return Volume(np.ascontiguousarray(placed.array, dtype=np.float32), grid.affine, notes), own


def show_on_grid(result: GenerationResult, volume: Volume) -> Volume:
    """Return a volume of a result in [0, 1] on the model grid, where scans have taken it to their own grid or units."""
    name = next((name for name in ("partial", "lowres") if name in result.scans), None)
    if name is None:
        return volume
    like = result.conditions[name]
    low, high = result.recipe["conditions"][name]["intensities"]
    scaled = Volume(scale_intensities(volume.array, (low, high)), volume.affine)
    return scaled.to_grid(like.array.shape, like.affine)


def slice_axis(scan: Volume) -> int:
    """Return the array axis (0, 1 or 2) that runs along S, or closest to it."""
    directions = np.abs(scan.affine[2, :3]) / np.asarray(scan.spacing_mm)
    return int(np.argmax(directions))


def slice_normal(scan: Volume, up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit vector (3,) across a scan's slices, in RAS+, on the side of `up`."""
    first, second = (scan.affine[:3, axis] for axis in range(3) if axis != slice_axis(scan))
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    return normal if normal @ up >= 0 else -normal


def read_values(name: str, volume: Volume) -> tuple[Volume, tuple[str, ...]]:
    """Return a scan as finite float32, and what had to be said about that.

    Raises:
        VolumeError: every voxel holds the same value, or so few whole numbers that they must be names.
    """
    array, is_complete = clean_values(volume.array)
    notes = () if is_complete else ("Voxels that were not a number, or infinite, were read as 0.",)
    fault = find_no_scan(array)
    if fault:
        raise VolumeError(f"The {name} condition takes a scan; {fault}.")
    return Volume(array, volume.affine), notes


def find_no_scan(array: NDArray) -> str:
    """Return why a volume can be no scan, as half a sentence; empty where it may be one."""
    if array.min() == array.max():
        return "every voxel of this volume holds the same value"
    if holds_labels(array):
        return f"this volume holds only the values {list_values(array)}, as a label map does"
    return ""


def clean_values(array: NDArray) -> tuple[NDArray[np.float32], bool]:
    """Return an image as finite float32, what was no number as 0, and whether all of it was finite."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32) + np.float32(0)  # a file may turn -0 into 0
    finite = np.isfinite(values)
    if finite.all():
        return values, True
    return np.where(finite, values, np.float32(0)), False


def holds_labels(array: NDArray) -> bool:
    """Tell whether an image has so few values, all of them whole, that they must be names."""
    some = np.unique(array.ravel()[:: max(1, array.size // 4096)])  # a scan is known by a few thousand voxels
    if some.size > MOST_LABELS:
        return False
    values = np.unique(array)
    return values.size <= MOST_LABELS and bool((values == np.rint(values)).all())


def _judge_slices(scan: Volume) -> tuple[str, ...]:
    """Refuse slices that are thick in another direction than from foot to head, and say which are unusual."""
    along = slice_axis(scan)
    spacing = np.asarray(scan.spacing_mm)
    thickest = int(np.argmax(spacing))
    if spacing[thickest] > _AS_THIN * spacing[along]:
        direction = _DIRECTIONS[int(np.argmax(np.abs(scan.affine[:3, thickest])))]
        raise VolumeError(
            f"The lowres condition takes axial slices, thick from foot to head; this scan's voxels are "
            f"{spacing[thickest]:.3g} mm thick from {direction}: give the axial series of the same session."
        )
    thickness = float(spacing[along])
    if thickness <= _AS_THIN * float(np.delete(spacing, along).max()):
        return (f"The slices of the lowres scan are not thick: its voxels are {thickness:.3g} mm from foot to head.",)
    if not TRAINED_SLICES_MM[0] - 1.0 <= thickness <= TRAINED_SLICES_MM[1] + 1.0:
        return (
            f"The slices are {thickness:.3g} mm thick; the model has learned from "
            f"{TRAINED_SLICES_MM[0]:g} to {TRAINED_SLICES_MM[1]:g} mm.",
        )
    return ()


def _judge_tilt(scan: Volume, grid: Grid) -> tuple[str, ...]:
    """Say of slices that are too tilted for a result to agree with them."""
    up = grid.affine[:3, 2] / np.linalg.norm(grid.affine[:3, 2])
    degrees = float(np.degrees(np.arccos(np.clip(slice_normal(scan, up) @ up, -1.0, 1.0))))
    if degrees <= MOST_TILT_DEGREES:
        return ()
    return (
        f"The slices are tilted by {degrees:.0f}\u00b0 against the model's: the result follows them as the model reads "
        "them, but is not made to have their means.",
    )


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
        if outside > _WORTH_SAYING:
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
    if outside > _WORTH_SAYING:
        notes += (f"{outside:.1%} of the fill lies outside the model's field of view and stays as it is.",)
    return placed.array > 0, own_hole, notes


def _place_mask(mask: Volume, scan: Volume) -> Volume:
    try:
        return mask.to_grid(scan.array.shape, scan.affine, labels=True)
    except VolumeError:
        raise VolumeError("The region to be made up lies outside the scan: both must be in the same space.") from None
