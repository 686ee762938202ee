"""A generated volume brought to agree with the thick slices that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.image_conditions import restore_intensities, scale_intensities
from vcm.modalities.inpaint import match_levels
from vcm.modalities.scans import Scan
from vcm.volume import Volume
from vcm.volume.affines import Affine, Shape
from vcm.volume.resample import resample

MOST_TILT_DEGREES = 25.0
"""Of slices against the model grid. A slice's mean is taken along the model's columns instead of across the slice,
which for 8 mm is off by less than a voxel up to there."""

ITERATIONS = 60
"""Each at least halves what is missing; those at the edge of the air, where nothing may become negative, less."""

ROUND_TRIPS = 2
"""What agrees with the slices need not be a brain, and what an autoencoder can make need not agree, so a volume is
brought to the one and to the other in turns. The first turn gains most, and after the fourth, volumes become dull."""

_LEAST_SHIFT = 0.05  # in voxels, from one end of the grid to the other: less is no tilt
_LEAST_THICKNESS = 1.25  # in voxels: thinner slices say nothing that a voxel could follow
_COVERED = 0.999
_FLAT = 1e-3  # of a slice: so thin a target is not averaged over


def restore_units(scan: Scan, generated: Volume) -> Volume:
    """Return a volume in [0, 1] in the scan's own units, on the grid that it has."""
    return Volume(restore_intensities(generated.array, scan.limits), generated.affine)


def follow_slices(
    scan: Scan, sample: Volume, reconstruct: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return a sample that is nearer to thick slices and still what the model can make (alternating projections).

    The sampler depends on the slices only through the VCM; here their voxels are enforced. The last projection
    is the model's, so `agree_with_slices` has to follow in the scan's own units.

    Args:
        scan: of thick axial slices; where `agree_with_slices` leaves a volume as it is, or the scan's intensities begin
            below 0, the sample stays as it is, too.
        sample: (X, Y, Z) in [0, 1] on the model grid.
        reconstruct: the autoencoder's round trip of an image (X, Y, Z) in [0, 1].
    """
    array = sample.array
    if scan.limits[0] < 0:  # the background, 0, lies amid the tissues: the autoencoder would be shown gray air
        return array
    for _ in range(ROUND_TRIPS):
        volume = restore_units(scan, Volume(array, sample.affine))
        agreed = agree_with_slices(scan, volume)
        if agreed is volume:
            break
        array = reconstruct(scale_intensities(agreed.array, scan.limits))
    return array


def agree_with_slices(scan: Scan, volume: Volume) -> Volume:
    """Return the volume with the mean over each thick slice equal to what the scan says there (back projection).

    First the volume gets the gain and offset that bring its slices to the level of the scan's. What is still missing in
    each slice is added to the voxels in it, interpolated between the slices so that no steps appear, again and again;
    where the scan is nowhere negative, no voxel becomes so. In the plane of the slices the scan is compared at the
    resolution of the model. Where a slice or a column is not whole in both, nothing is added; where slices are tilted
    by more than `MOST_TILT_DEGREES` or not thick, the volume stays as it is.

    Args:
        scan: of thick axial slices.
        volume: on the model grid, in the scan's units.
    """
    placed = _place_slices(scan.volume, volume)
    if placed is None:
        return volume
    least = np.float32(0 if scan.volume.array.min() >= 0 else -np.inf)
    array = volume.array.astype(np.float32)
    where = placed.covered & (placed.asked != 0)  # a background that was cut away has no level
    gain, offset = match_levels(placed.average(array)[where], placed.asked[where])
    array = gain * array + offset
    for _ in range(ITERATIONS):
        missing = np.where(placed.covered, placed.asked - placed.average(array), np.float32(0))
        array = np.maximum(array + placed.spread(missing), least)
    return Volume(array, volume.affine)


@dataclass(frozen=True, eq=False)
class _PlacedSlices:
    """Slices above the columns of a model grid (X, Y, Z), and the way between slices and voxels.

    - `asked`: what they say, (X, Y, N); `covered`: where they are whole, (X, Y, N).
    - `to_slices`, `to_voxels`: a matrix (N, Z) and one (Z, N) for all columns, or for tilted slices one for each:
      (X, Y, N, Z) and (X, Y, Z, N).
    """

    asked: NDArray[np.float32]
    covered: NDArray[np.bool_]
    to_slices: NDArray[np.float32]
    to_voxels: NDArray[np.float32]

    def average(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean over each slice (X, Y, N) of voxels (X, Y, Z)."""
        return _apply(self.to_slices, array)

    def spread(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return voxels (X, Y, Z) between slices (X, Y, N)."""
        return _apply(self.to_voxels, slices)


def _apply(matrices: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    if matrices.ndim == 2:
        return columns @ matrices.T
    return np.matmul(matrices, columns[..., None])[..., 0]


def _place_slices(scan: Volume, volume: Volume) -> _PlacedSlices | None:
    """Return where a scan's slices lie in a volume's columns; None where they are too tilted, thin, or elsewhere."""
    along = slice_axis(scan)
    shape, origin = volume.array.shape, volume.affine[:3, 3]
    height = volume.spacing_mm[2]
    up = volume.affine[:3, 2] / height
    normal = slice_normal(scan, up)
    cosine = float(normal @ up)
    gap = abs(float(scan.affine[:3, along] @ normal))
    if cosine < np.cos(np.radians(MOST_TILT_DEGREES)) or gap < _LEAST_THICKNESS * height:
        return None
    # Along a column of the model, what is thick across a slice is thicker by the tilt, and starts higher or lower.
    thickness = gap / cosine
    centers = scan.affine[:3, 3] - origin + np.arange(scan.array.shape[along])[:, None] * scan.affine[:3, along]
    positions = np.sort(centers @ normal) / cosine  # mm above the lowest voxel of the first column
    rise = -(volume.affine[:3, :2].T @ normal) / cosine  # mm from a column to the next, along X and along Y
    sheared = volume.affine.copy()
    sheared[:3, :2] += np.outer(up, rise)
    sheared[:3, 2] = up * thickness
    shifts = np.add.outer(np.arange(shape[0]) * rise[0], np.arange(shape[1]) * rise[1])
    is_tilted = np.ptp(shifts) > _LEAST_SHIFT * height
    above = shifts[..., None] + positions if is_tilted else positions  # (X, Y, N), or (N,)
    to_slices, is_whole = _average_matrices(above, thickness, height, shape[2])
    kept = np.flatnonzero(is_whole.reshape(-1, len(positions)).any(axis=0))
    if not len(kept):
        return None
    kept = np.arange(kept[0], kept[-1] + 1)
    sheared[:3, 3] += up * positions[kept[0]]
    try:
        asked, covered = (
            _sample(array, scan.affine, (shape[0], shape[1], len(kept)), sheared, is_tilted)
            for array in (scan.array.astype(np.float32), np.ones(scan.array.shape, np.float32))
        )
    except VolumeError:  # no point in common
        return None
    return _PlacedSlices(
        asked,
        (covered > _COVERED) & is_whole[..., kept],
        to_slices[..., kept, :],
        _interpolation_matrices(above[..., kept], thickness, height, shape[2]),
    )


def _sample(
    array: NDArray[np.float32], affine: Affine, shape: Shape, target: Affine, is_tilted: bool
) -> NDArray[np.float32]:
    """Return what slices say where columns cross them, averaged in their plane but never across tilted ones."""
    if not is_tilted:
        return resample(array, affine, shape, target, labels=False).array.astype(np.float32)
    sampled = np.zeros(shape, np.float32)
    for index in range(shape[2]):
        flat = target.copy()
        flat[:3, 3] += index * target[:3, 2]
        flat[:3, 2] *= _FLAT
        with suppress(VolumeError):  # no point of this slice lies there
            sampled[..., index] = resample(array, affine, (*shape[:2], 1), flat, labels=False).array[..., 0]
    return sampled


def _average_matrices(
    positions: NDArray[np.float64], thickness: float, height: float, depth: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the share of each voxel in each slice, (..., N, Z), and which slices (..., N) lie wholly on the grid."""
    middles = np.arange(depth, dtype=np.float32) * np.float32(height)
    centers = positions[..., None].astype(np.float32)
    upper = np.minimum(centers + np.float32(thickness / 2), middles + np.float32(height / 2))
    lower = np.maximum(centers - np.float32(thickness / 2), middles - np.float32(height / 2))
    shares = np.clip(upper - lower, 0.0, None) / np.float32(thickness)
    return shares, shares.sum(axis=-1) > _COVERED


def _interpolation_matrices(
    positions: NDArray[np.float64], thickness: float, height: float, depth: int
) -> NDArray[np.float32]:
    """Return what interpolates linearly from slices to voxels, (..., Z, N); beyond the outer slices there is nothing.

    Args:
        positions: (..., N), evenly spaced and rising.
    """
    count = positions.shape[-1]
    middles = np.arange(depth, dtype=np.float32) * np.float32(height)
    steps = (middles - positions[..., :1].astype(np.float32)) / np.float32(
        thickness
    )  # slices above the first, (..., Z)
    weights = np.abs(np.clip(steps, 0, count - 1)[..., None] - np.arange(count, dtype=np.float32))
    weights = np.clip(1 - weights, 0.0, None)
    weights *= ((steps > -0.5) & (steps < count - 0.5))[..., None]
    return weights


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
