"""Affines, (4, 4) from voxel index to RAS+ mm: what is usable, what is unusual, and what is the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError

Shape = tuple[int, int, int]
Affine = NDArray[np.float64]

SAME_GRID_TOLERANCE = 0.05  # voxels; float32 headers and quaternions are off by less, and an eye sees no less

_FARTHEST_MM = 1e9  # beyond it a number is damage, and its square may be infinite
_SPACING_RANGE_MM = (0.1, 20.0)
_LARGEST_MM = 1000.0  # of a field of view: a few kilobytes may claim more, and what is made of them fills the memory
_FLATTEST = 1e-3  # volume of a voxel with edges of length 1: 1 for right angles, 0 for axes in one plane
_RIGHT_ANGLE_TOLERANCE = 1e-3  # largest cosine between two axes that counts as rounding


def check_affine(affine: NDArray) -> Affine:
    """Return an affine as a float64 copy.

    Raises:
        VolumeError: it is no finite (4, 4) affine, it is singular, or no scanner makes voxels of that size.
    """
    affine = np.array(affine, dtype=np.float64)
    finite = affine.shape == (4, 4) and bool((np.abs(affine) < _FARTHEST_MM).all())  # NaN compares with nothing
    if not finite or not np.allclose(affine[3], [0, 0, 0, 1]):
        raise VolumeError("The volume's affine, which places it in the world, is not a finite 4 x 4 transform.")
    spacing = spacing_mm(affine)
    if not spacing.all() or abs(np.linalg.det(_directions(affine))) < _FLATTEST:
        raise VolumeError("The volume's affine is singular: its axes do not span a volume; export the file again.")
    low, high = _SPACING_RANGE_MM
    if spacing.min() < low or spacing.max() > high:
        raise VolumeError(
            f"The voxel size is {format_sizes(spacing)} mm; sizes from {low} to {high:g} mm are expected."
        )
    return affine


def check_extent(affine: Affine, shape: Sequence[int]) -> None:
    """Refuse a field of view that no scanner has.

    Raises:
        VolumeError: an edge of the volume is too long.
    """
    extent = spacing_mm(affine) * shape
    if extent.max() > _LARGEST_MM:
        raise VolumeError(
            f"The volume spans {format_sizes(extent)} mm; at most {_LARGEST_MM:g} mm are expected: "
            "check its voxel size."
        )


def spacing_mm(affine: Affine) -> NDArray[np.float64]:
    """Return the voxel size along the three array axes, (3,), in mm."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def is_sheared(affine: Affine) -> bool:
    """Tell whether the array axes are not at right angles to each other."""
    axes = _directions(affine)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _RIGHT_ANGLE_TOLERANCE)


def is_oblique(affine: Affine) -> bool:
    """Tell whether an array axis runs along none of the world's axes."""
    return bool(np.abs(_directions(affine)).max(axis=0).min() < 1 - _RIGHT_ANGLE_TOLERANCE)


def distance_mm(first: Affine, second: Affine, shape: Sequence[int]) -> float:
    """Return how far apart two affines put the same corner of a volume at most, in mm."""
    corners = np.stack(np.meshgrid(*((0, size - 1) for size in shape), [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm((first - second) @ corners, axis=0).max())


def same_place(first: Affine, second: Affine, shape: Sequence[int]) -> bool:
    """Tell whether two affines put a volume of that shape in the same place, but for rounding."""
    return distance_mm(first, second, shape) <= SAME_GRID_TOLERANCE * float(spacing_mm(first).min())


def format_sizes(sizes: Sequence[float] | NDArray) -> str:
    """Return sizes as a user reads them, such as "80 x 112 x 80" or "0.938 x 0.938 x 5"."""
    return " x ".join(str(size) if isinstance(size, int) else f"{size:.3g}" for size in sizes)


def _directions(affine: Affine) -> NDArray[np.float64]:
    """Return the unit vectors of the array axes, as columns."""
    return affine[:3, :3] / spacing_mm(affine)
