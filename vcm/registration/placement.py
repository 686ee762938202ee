"""Volumes moved to template space for a run, as their scan was, and what came of it moved back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vcm.request import Placement
from vcm.volume import Volume
from vcm.volume.affines import same_place

_ROUNDING = 1e-9  # of an affine in mm; what is smaller came of moving there and back


def as_placement(transform: NDArray[np.float64]) -> Placement:
    """Return a transform of the world, (4, 4), as a request and a recipe hold it."""
    return tuple(tuple(float(value) for value in row) for row in transform)


def move(volume: Volume, placement: Placement | None) -> Volume:
    """Return a volume, voxel by voxel the same, in the place to which it is moved."""
    return volume if placement is None else Volume(volume.array, np.array(placement) @ volume.affine, volume.notes)


def move_back(volume: Volume, placement: Placement | None) -> Volume:
    """Undo `move`; exact for an affine of single precision, as NIfTI files hold it."""
    if placement is None:
        return volume
    affine = (np.linalg.inv(np.array(placement)) @ volume.affine).astype(np.float32).astype(np.float64)
    return Volume(volume.array, np.where(np.abs(affine) < _ROUNDING, 0.0, affine), volume.notes)


def find_placement_between(native: Volume, moved: Volume, likely: Placement | None) -> Placement | None:
    """Return what brought a volume from one place to another; None where both are the same.

    Args:
        native: before the move.
        moved: the same voxels after it.
        likely: a move that is taken to the last digit if it is the one.
    """
    shape = native.array.shape
    if same_place(native.affine, moved.affine, shape):
        return None
    if likely is not None and same_place(move(native, likely).affine, moved.affine, shape):
        return likely
    return as_placement(moved.affine @ np.linalg.inv(native.affine))


def move_along(mask: Volume, scans: Iterable[tuple[Volume, Placement | None]]) -> Volume:
    """Return a mask moved with the first of some scans on whose grid it lay; else, or if that one stayed, as it lies.

    Args:
        mask: before any move.
        scans: each as it lies after its move, and that move.
    """
    return next((move(mask, placement) for scan, placement in scans if lay_on(mask, scan, placement)), mask)


def lay_on(mask: Volume, scan: Volume, placement: Placement | None) -> bool:
    """Tell whether a mask has the grid that a scan had before it was moved."""
    native, shape = move_back(scan, placement), mask.array.shape
    return shape == native.array.shape and same_place(mask.affine, native.affine, shape)
