"""Volumes moved to template space for a run, as their scan was, and what came of it moved back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vcm.affines import same_place
from vcm.request import Placement
from vcm.volume import Volume

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


def move_along(mask: Volume, scan: Volume, placement: Placement | None) -> Volume:
    """Return a mask moved with a scan, given as it lies after its move, if both lay on one grid; else as it lies."""
    before = move_back(scan, placement)
    shape = mask.array.shape
    is_its_own = shape == before.array.shape and same_place(mask.affine, before.affine, shape)
    return move(mask, placement) if is_its_own else mask


def move_along_any(mask: Volume, scans: Iterable[tuple[Volume, Placement | None]]) -> Volume:
    """Return a mask moved with the first of some scans on whose grid it lay, see `move_along`; else as it lies."""
    tries = (move_along(mask, scan, placement) for scan, placement in scans)
    return next((tried for tried in tries if tried is not mask), mask)
