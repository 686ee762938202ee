"""Bringing an array from one voxel grid to another by their affines."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from vcm.errors import VolumeError
from vcm.volume.affines import SAME_GRID_TOLERANCE, Affine, Shape

_AFFINE_DECIMALS = 6  # so that a grid stored in another axis order gives the same bits
_FRACTION_DECIMALS = 4


class Resampled(NamedTuple):
    """An array on its new grid, and whether values were interpolated to bring it there."""

    array: NDArray
    interpolated: bool


def resample(array: NDArray, affine: Affine, shape: Shape, target_affine: Affine, labels: bool) -> Resampled:
    """Bring `array` to the grid (`shape`, `target_affine`); what it does not cover becomes 0.

    Grids that differ only by the order and direction of their axes, or by whole voxels of margin, are
    matched by moving voxels, never by interpolation. Otherwise images are interpolated trilinearly and
    averaged over each target voxel, which is what keeps a finer image from aliasing; labels become
    per-label fractions of each target voxel, see `_decide_labels`.

    Args:
        array: (X, Y, Z), any real type; labels are uint8.
        affine: (4, 4), voxel to RAS+ mm, of `array`.
        shape: of the target grid.
        target_affine: (4, 4), voxel to RAS+ mm, of the target grid.
        labels: whether values are names rather than amounts.

    Returns:
        The array (`shape`); of the same type where no voxel was interpolated, else uint8 or float32.

    Raises:
        VolumeError: the two grids have no point in common.
    """
    to_source = np.linalg.inv(affine) @ target_affine
    array, to_source = _align_axes(array, to_source)
    shift = _whole_voxel_shift(to_source, shape)
    if shift is not None:
        return Resampled(_shift(array, shift, shape), interpolated=False)
    to_source = to_source.round(_AFFINE_DECIMALS)
    _check_overlap(array.shape, shape, to_source)
    if labels:
        return Resampled(_resample_labels(array, to_source, shape), interpolated=True)
    return Resampled(_average(array.astype(np.float32, copy=False), to_source, shape), interpolated=True)


def fraction_outside(mask: NDArray[np.bool_], affine: Affine, shape: Shape, target_affine: Affine) -> float:
    """Return the share of a mask's voxels (0 to 1; 0 for an empty mask) whose centres lie off a target grid.

    Args:
        mask: (X, Y, Z).
        affine: (4, 4), voxel to RAS+ mm, of `mask`.
        shape: of the target grid.
        target_affine: (4, 4), voxel to RAS+ mm, of the target grid.
    """
    to_target = np.linalg.inv(target_affine) @ affine
    upper = np.asarray(shape) - 0.5 + SAME_GRID_TOLERANCE
    total = outside = 0
    for x, plane in enumerate(mask):  # plane by plane: the coordinates of a whole volume would be 24 times its size
        y, z = np.nonzero(plane)
        points = np.stack([np.full(y.size, x), y, z], axis=1) @ to_target[:3, :3].T + to_target[:3, 3]
        total += y.size
        outside += int(((points < -0.5 - SAME_GRID_TOLERANCE) | (points > upper)).any(axis=1).sum())
    return outside / total if total else 0.0


def _align_axes(array: NDArray, to_source: Affine) -> tuple[NDArray, Affine]:
    """Reorder and flip the source axes to run along the target's; `to_source` follows."""
    direction = to_source[:3, :3] / np.linalg.norm(to_source[:3, :3], axis=1, keepdims=True)
    _, source_axis = optimize.linear_sum_assignment(-np.abs(direction.T))  # target axis -> source axis
    array = array.transpose(source_axis)
    to_source = to_source[[*source_axis, 3]]
    for axis in range(3):
        if to_source[axis, axis] < 0:
            array = np.flip(array, axis)
            to_source[axis] = -to_source[axis]
            to_source[axis, 3] += array.shape[axis] - 1
    return array, to_source


def _whole_voxel_shift(to_source: Affine, shape: Shape) -> tuple[int, ...] | None:
    """Return the source index of the target's first voxel if the two grids share their voxels, else None."""
    shift = np.round(to_source[:3, 3])
    whole = np.eye(4)
    whole[:3, 3] = shift
    corners = np.array([*itertools.product(*((0, size - 1) for size in shape))])
    error = corners @ (to_source - whole)[:3, :3].T + (to_source - whole)[:3, 3]
    return tuple(int(start) for start in shift) if np.abs(error).max() <= SAME_GRID_TOLERANCE else None


def _shift(array: NDArray, shift: tuple[int, ...], shape: Shape) -> NDArray:
    """Crop and pad `array` so that its voxel `shift` becomes the first of `shape`."""
    source, target = [], []
    for start, size, length in zip(shift, array.shape, shape, strict=True):
        first, last = max(start, 0), min(start + length, size)
        if first >= last:
            raise VolumeError(_NO_OVERLAP)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    if array.shape == shape and not any(shift):
        return np.ascontiguousarray(array)
    moved = np.zeros(shape, dtype=array.dtype)
    moved[tuple(target)] = array[tuple(source)]
    return moved


_NO_OVERLAP = "The volume lies outside the model's field of view; it must be in the same (MNI) space, in mm."


def _check_overlap(source_shape: tuple[int, ...], shape: Shape, to_source: Affine) -> None:
    """Refuse grids whose boxes share no point, looked at on a lattice over each of them."""
    for inner, outer, transform in (
        (shape, source_shape, to_source),
        (source_shape, shape, np.linalg.inv(to_source)),
    ):
        lattice = np.stack(
            np.meshgrid(*(np.linspace(-0.5, size - 0.5, 33) for size in inner), indexing="ij"), axis=-1
        ).reshape(-1, 3)
        points = lattice @ transform[:3, :3].T + transform[:3, 3]
        if ((points > -0.5) & (points < np.asarray(outer) - 0.5)).all(axis=1).any():
            return
    raise VolumeError(_NO_OVERLAP)


def _average(array: NDArray[np.float32], to_source: Affine, shape: Shape) -> NDArray[np.float32]:
    """Average the trilinear interpolation of `array` over each target voxel.

    As many points are taken along each target axis as it spans source voxels, so that where the grids
    nest (1 mm in 2 mm) this is exactly the mean of the voxels inside, and where the target is finer it
    is plain trilinear interpolation.
    """
    averaged = np.zeros(shape, dtype=np.float32)
    window = _reach(array.shape, to_source, shape)
    window_shape = tuple(part.stop - part.start for part in window)
    if 0 in window_shape:
        return averaged
    counts = np.ceil(np.abs(to_source[:3, :3]).max(axis=0) - 1e-3).astype(int).clip(min=1)
    origin = np.array([part.start for part in window])
    offsets = [(np.arange(count) + 0.5) / count - 0.5 for count in counts]
    for offset in itertools.product(*offsets):
        start = to_source[:3, :3] @ (origin + offset) + to_source[:3, 3]
        sampled = ndimage.affine_transform(
            array, to_source[:3, :3], start, window_shape, output=np.float32, order=1, mode="nearest"
        )
        for coordinate, size in zip(_coordinates(to_source, start, window_shape), array.shape, strict=True):
            beyond = (np.abs(coordinate - (size - 1) / 2) - size / 2).round(_FRACTION_DECIMALS)
            sampled *= (0.5 - 0.5 * np.sign(beyond)).astype(np.float32)  # a point on the very edge counts half
        averaged[window] += sampled
    return averaged / np.float32(counts.prod())


def _reach(source_shape: tuple[int, ...], to_source: Affine, shape: Shape) -> tuple[slice, ...]:
    """Return the window of the target grid that the source's box can reach."""
    to_target = np.linalg.inv(to_source)
    corners = np.array([*itertools.product(*((-0.5, size - 0.5) for size in source_shape))])
    points = corners @ to_target[:3, :3].T + to_target[:3, 3]
    first = np.floor(points.min(axis=0)).clip(0, shape).astype(int)
    last = (np.ceil(points.max(axis=0)) + 1).clip(first, shape).astype(int)
    return tuple(slice(start, stop) for start, stop in zip(first, last, strict=True))


def _coordinates(to_source: Affine, start: NDArray, shape: tuple[int, ...]) -> Iterator[NDArray]:
    """Yield each source coordinate of every voxel of a target window, `shape` each."""
    i, j, k = np.ogrid[tuple(slice(size) for size in shape)]
    for row, first in zip(to_source[:3, :3], start, strict=True):
        yield row[0] * i + row[1] * j + row[2] * k + first


def _resample_labels(array: NDArray[np.uint8], to_source: Affine, shape: Shape) -> NDArray[np.uint8]:
    """Resample a label map through the fraction of each target voxel that each label fills."""
    total = np.zeros(shape, dtype=np.float32)
    largest = np.zeros(shape, dtype=np.float32)
    winner = np.zeros(shape, dtype=np.uint8)
    for label, box in enumerate(ndimage.find_objects(array), start=1):
        if box is None:
            continue
        # One voxel of margin, so that the label still fades out at its own border.
        box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
        part_to_source = to_source.copy()
        part_to_source[:3, 3] -= [part.start for part in box]
        fraction = _average((array[box] == label).astype(np.float32), part_to_source, shape)
        fraction = fraction.round(_FRACTION_DECIMALS)
        total += fraction
        wins = fraction > largest
        winner[wins] = label
        largest[wins] = fraction[wins]
    return np.where(_decide_labels(total), winner, np.uint8(0))


def _decide_labels(total: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Choose the labelled voxels so that the labelled volume stays what it was.

    A fixed threshold of one half makes small lesions shrink and thin ones vanish. So voxels are taken in
    the order of their labelled fraction until their volume equals the sum of the fractions; between
    equal fractions the one with more labelled neighbourhood goes first, then the one in the lower slice.
    Whatever was labelled keeps at least one voxel.
    """
    chosen = np.zeros(total.shape, dtype=bool)
    candidates = np.flatnonzero(total)
    if candidates.size == 0:
        return chosen
    count = max(1, round(float(total.sum(dtype=np.float64))))
    neighbourhood = ndimage.gaussian_filter(total, sigma=1.0).round(_FRACTION_DECIMALS)
    fractions = total.round(_FRACTION_DECIMALS).ravel()[candidates]
    order = np.lexsort((candidates % total.shape[2], -neighbourhood.ravel()[candidates], -fractions))
    chosen.ravel()[candidates[order[:count]]] = True
    return chosen
