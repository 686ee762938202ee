"""A generated volume put into the hole of a scan, without a visible seam, and nothing else of the scan touched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.errors import VolumeError
from vcm.modalities.image_conditions import find_window, restore_intensities
from vcm.modalities.scans import Scan
from vcm.volume import Volume

RING_MM = 8.0
"""How far around the hole the levels of both volumes are compared."""

BLEND_MM = 4.0
"""Blend width: how far into the hole the scan's border affects the result."""

_GAIN_RANGE = (0.5, 2.0)  # what a scanner's settings change; beyond it the two show different things
_FEWEST_VOXELS = 20
_SMOOTH_MM = 2.0


def fill_hole(scan: Scan, generated: Volume) -> Volume:
    """Return the scan, float32 on its own grid and in its own units, with the generated volume in its hole.

    Outside the hole every voxel is the scan's own, bit for bit. Inside, the generated volume gets the gain and offset
    that bring its mean and spread in a ring around the hole to the scan's. What still differs at the border is carried
    into the hole and fades out over `BLEND_MM`. What the scan holds inside the hole is never looked at, and where the
    hole leaves the model's field of view, nothing was generated and the scan stays.

    Args:
        scan: with its hole.
        generated: float32 in [0, 1], on the model grid.
    """
    if scan.hole is None:
        raise ValueError("The scan has no hole.")
    own, spacing = scan.volume, scan.volume.spacing_mm
    filled = own.array.astype(np.float32)
    inside = scan.hole.array > 0
    if not inside.any():
        return Volume(filled, own.affine)
    window = find_window(inside, RING_MM, spacing)
    hole, known = inside[window], own.array[window].astype(np.float32)
    affine = own.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in window]
    made, seen = _bring(generated, known.shape, affine)
    made = restore_intensities(made, scan.limits)
    if not (hole & seen).any():
        return Volume(filled, own.affine)

    depth = ndimage.distance_transform_edt(hole, sampling=spacing)  # mm into the hole
    ring = ~hole & seen & (ndimage.distance_transform_edt(~hole, sampling=spacing) <= RING_MM)
    where = ring & (known != 0)  # a background that was cut away has no level
    gain, offset = match_levels(made[where], known[where])
    made = gain * made + offset
    weight = np.clip(1.0 - depth / BLEND_MM, 0.0, 1.0)
    weight = weight * weight * (3.0 - 2.0 * weight)
    made += (weight * _spread(known - made, ring, spacing)).astype(np.float32)
    made = np.maximum(made, np.float32(min(scan.limits[0], float(own.array.min()))))
    filled[window] = np.where(hole & seen, made, known)
    return Volume(filled, own.affine)


def _bring(
    generated: Volume, shape: tuple[int, ...], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the generated volume on a part of the scan's grid, and where it reaches."""
    try:
        made = generated.to_grid(shape, affine).array
    except VolumeError:  # no point in common
        return np.zeros(shape, np.float32), np.zeros(shape, bool)
    everywhere = Volume(np.ones(generated.array.shape, np.float32), generated.affine)
    seen = everywhere.to_grid(shape, affine).array > 0.999
    return made.astype(np.float32), seen


def match_levels(made: NDArray[np.float32], known: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Return the gain and the offset that give what was made (N,) the mean and the spread of what is known (N,).

    Not the line of least squares: where the two do not show the very same anatomy, it would take contrast away.
    """
    if made.size < _FEWEST_VOXELS:
        return np.float32(1), np.float32(0)
    ours, theirs = made.astype(np.float64), known.astype(np.float64)
    gain = float(np.clip(theirs.std() / ours.std(), *_GAIN_RANGE)) if ours.std() > 0 else 1.0
    return np.float32(gain), np.float32(theirs.mean() - gain * ours.mean())


def _spread(
    difference: NDArray[np.float32], ring: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Return the difference in the ring carried beyond it: its mean over the ring's voxels that are near."""
    sigma = [_SMOOTH_MM / step for step in spacing]
    known = ring.astype(np.float64)
    amount = ndimage.gaussian_filter(np.where(ring, difference, 0.0).astype(np.float64), sigma, mode="constant")
    share = ndimage.gaussian_filter(known, sigma, mode="constant")
    return np.divide(amount, share, out=np.zeros_like(amount), where=share > 1e-4)
