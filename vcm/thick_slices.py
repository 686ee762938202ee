"""A generated volume brought to agree with the thick slices that it was made from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.image_conditions import restore_intensities, scale_intensities
from vcm.inpaint import match_levels
from vcm.resample import resample
from vcm.scans import Scan, slice_axis
from vcm.volume import Volume

ITERATIONS = 60
"""Each at least halves what is missing; those at the edge of the air, where nothing may become negative, less."""

ROUND_TRIPS = 2
"""What agrees with the slices need not be a brain, and what an autoencoder can make need not agree, so a volume is
brought to the one and to the other in turns. The first turn gains most, and after the fourth, volumes become dull."""

_MOST_TILT = np.cos(np.radians(1.0))  # 2 mm from one end of a head to the other
_LEAST_THICKNESS = 1.25  # in voxels: thinner slices say nothing that a voxel could follow
_COVERED = 0.999


def restore_units(scan: Scan, generated: Volume) -> Volume:
    """Return a volume in [0, 1] in the scan's own units, on the grid that it has."""
    return Volume(restore_intensities(generated.array, scan.limits), generated.affine)


def follow_slices(
    scan: Scan, sample: Volume, reconstruct: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return a sample that is nearer to thick slices and still what the model can make (alternating projections).

    A sampler knows the slices as the VCM has learned to read them; here their voxels have a say. The last projection
    is the model's, so `agree_with_slices` has to follow in the scan's own units.

    Args:
        scan: of thick axial slices; where they are tilted against the model grid or not thick, the sample stays.
        sample: (X, Y, Z) in [0, 1] on the model grid.
        reconstruct: the autoencoder's round trip of an image (X, Y, Z) in [0, 1].
    """
    array = sample.array
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
    against the model grid or not thick, the volume stays as it is.

    Args:
        scan: of thick axial slices.
        volume: on the model grid, in the scan's units.
    """
    placed = _place_slices(scan.volume, volume)
    if placed is None:
        return volume
    asked, covered, average, spread = placed
    least = np.float32(0 if scan.volume.array.min() >= 0 else -np.inf)
    array = volume.array.astype(np.float32)
    where = covered & (asked != 0)  # a background that was cut away has no level
    gain, offset = match_levels((array @ average.T)[where], asked[where])
    array = gain * array + offset
    for _ in range(ITERATIONS):
        missing = np.where(covered, asked - array @ average.T, np.float32(0))
        array = np.maximum(array + missing @ spread.T, least)
    return Volume(array, volume.affine)


def _place_slices(
    scan: Volume, volume: Volume
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the slices above the model's columns, and the way between slices and voxels; None where there is none.

    Returns:
        The slices (X, Y, N), where they are whole (X, Y, N), what averages voxels (N, Z), what interpolates (Z, N).
    """
    step = volume.affine[:3, 2]
    height = float(np.linalg.norm(step))
    up = step / height
    along = slice_axis(scan)
    thickness = scan.spacing_mm[along]
    towards = scan.affine[:3, along] / thickness
    if abs(float(towards @ up)) < _MOST_TILT or thickness < _LEAST_THICKNESS * height:
        return None
    count = scan.array.shape[along]
    centers = scan.affine[:3, 3] - volume.affine[:3, 3] + np.arange(count)[:, None] * scan.affine[:3, along]
    positions = np.sort(centers @ up)  # mm above the model's lowest voxels
    average, is_whole = _average_matrix(positions, thickness, height, volume.array.shape[2])
    positions, average = positions[is_whole], average[is_whole]
    if not len(positions):
        return None
    affine = volume.affine.copy()
    affine[:3, 2] = up * thickness
    affine[:3, 3] += up * positions[0]
    shape = (volume.array.shape[0], volume.array.shape[1], len(positions))
    try:
        asked = resample(scan.array.astype(np.float32), scan.affine, shape, affine, labels=False).array
        covered = resample(np.ones(scan.array.shape, np.float32), scan.affine, shape, affine, labels=False).array
    except VolumeError:  # no point in common
        return None
    spread = _interpolation_matrix(positions, thickness, height, volume.array.shape[2])
    return asked.astype(np.float32), covered > _COVERED, average.astype(np.float32), spread.astype(np.float32)


def _average_matrix(
    positions: NDArray[np.float64], thickness: float, height: float, depth: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the share of each voxel in each slice, (N, Z), and which slices lie wholly on the grid."""
    middles = np.arange(depth) * height
    upper = np.minimum(positions[:, None] + thickness / 2, middles + height / 2)
    lower = np.maximum(positions[:, None] - thickness / 2, middles - height / 2)
    shares = np.clip(upper - lower, 0.0, None) / thickness
    return shares, shares.sum(axis=1) > _COVERED


def _interpolation_matrix(
    positions: NDArray[np.float64], thickness: float, height: float, depth: int
) -> NDArray[np.float64]:
    """Return what interpolates linearly from slices to voxels, (Z, N); beyond the last slice there is nothing."""
    middles = np.arange(depth) * height
    columns = [np.interp(middles, positions, unit) for unit in np.eye(len(positions))]
    within = (middles > positions[0] - thickness / 2) & (middles < positions[-1] + thickness / 2)
    return np.stack(columns, axis=1) * within[:, None]
