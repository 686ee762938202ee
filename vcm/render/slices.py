"""Single slices as pictures: oriented for a reader of scans, with labels outlined over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.volume import Volume

Plane = Literal["axial", "coronal", "sagittal"]

# Through which of the body's axes (0 right, 1 front, 2 up) a plane cuts, and which axes run across and up.
_THROUGH_ACROSS_UP: dict[Plane, tuple[int, int, int]] = {
    "axial": (2, 0, 1),
    "coronal": (1, 0, 2),
    "sagittal": (0, 1, 2),
}
_POSITIVE_ENDS = "RAS"
_NEGATIVE_ENDS = "LPI"


def find_focus(labels: NDArray) -> tuple[int, int, int]:
    """Return the voxel that a reader should see first: inside the largest lesion, in its fullest slices.

    Args:
        labels: (X, Y, Z), 0 for background.

    Returns:
        The labelled voxel nearest to the middle of the largest connected piece; the middle of the grid where nothing
        is labelled.
    """
    pieces, count = ndimage.label(labels > 0)
    if not count:
        x, y, z = (size // 2 for size in labels.shape)
        return x, y, z
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    voxels = np.argwhere(pieces == largest)
    x, y, z = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))].tolist()
    return x, y, z


def extract_plane(volume: Volume, plane: Plane, voxel: Sequence[int]) -> NDArray:
    """Cut the slice of a volume that goes through a voxel, oriented as radiologists hang it.

    Up on the picture is the front of the head (axial) or its top. The patient's left is on the right of the picture,
    and the front on the left of a sagittal one.

    Args:
        volume: in any orientation; an oblique one is cut along the array axes nearest to the body's.
        plane: which way to cut.
        voxel: (3,) index into `volume.array`.

    Returns:
        (rows, columns), of the array's type.
    """
    through, across, up = (_array_axis(volume, axis) for axis in _THROUGH_ACROSS_UP[plane])
    cut = np.take(volume.array, int(voxel[through[0]]), axis=through[0])
    rows, columns = (axis - (axis > through[0]) for axis in (up[0], across[0]))
    picture = cut.transpose(rows, columns)
    # Rows run downwards and columns run to the patient's left or to the back, so rising axes are turned round.
    return picture[:: -1 if up[1] else 1, :: -1 if across[1] else 1]


def render_slice(
    volume: Volume,
    plane: Plane = "axial",
    *,
    labels: Volume | None = None,
    colors: Sequence[str] = (),
    voxel: Sequence[int] | None = None,
    height: int = 192,
    fill_opacity: float = 0.25,
) -> NDArray[np.uint8]:
    """Draw one slice of an intensity volume as a picture, with labels tinted and outlined.

    Args:
        volume: float in [0, 1].
        plane: which way to cut.
        labels: on the same grid, or None.
        colors: "#rrggbb" of the labels 1, 2, ...
        voxel: where to cut; through the largest lesion when not given.
        height: of the picture in pixels; the width follows from the voxel sizes.
        fill_opacity: of the tint inside the outlines, 0 to 1.

    Returns:
        (height, width, 3).

    Raises:
        ValueError: the labels lie on another grid.
    """
    if labels is not None and labels.array.shape != volume.array.shape:
        raise ValueError(f"The labels have the shape {labels.array.shape}, not {volume.array.shape}.")
    if voxel is None:
        voxel = [size // 2 for size in volume.array.shape] if labels is None else find_focus(labels.array)
    gray = extract_plane(volume, plane, voxel).astype(np.float32)
    _, across, up = (_array_axis(volume, axis)[0] for axis in _THROUGH_ACROSS_UP[plane])
    mm_across, mm_up = volume.spacing_mm[across], volume.spacing_mm[up]
    zoom = (height / gray.shape[0], height / gray.shape[0] * mm_across / mm_up)
    enlarged = ndimage.zoom(gray, zoom, order=1, grid_mode=True, mode="nearest").clip(0.0, 1.0)
    picture = np.repeat(enlarged[..., None], 3, axis=-1)
    if labels is not None:
        cut = extract_plane(labels, plane, voxel)
        for label, color in enumerate(colors, start=1):
            _tint(picture, _enlarge_mask(cut == label, zoom), color, fill_opacity)
    return np.rint(picture * 255).astype(np.uint8)


def _array_axis(volume: Volume, body_axis: int) -> tuple[int, bool]:
    """Return which array axis runs along a body axis, and whether it rises with it."""
    positive, negative = _POSITIVE_ENDS[body_axis], _NEGATIVE_ENDS[body_axis]
    codes = volume.axcodes
    return next((i, code == positive) for i, code in enumerate(codes) if code in (positive, negative))


def _enlarge_mask(mask: NDArray[np.bool_], zoom: tuple[float, float]) -> NDArray[np.bool_]:
    """Return the mask at the picture's size, with smooth borders in place of stairs."""
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), 0.6)
    enlarged: NDArray[np.bool_] = ndimage.zoom(smooth, zoom, order=1, grid_mode=True, mode="nearest") > 0.5
    return enlarged


def _tint(picture: NDArray[np.float32], mask: NDArray[np.bool_], color: str, opacity: float) -> None:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    outline = mask & ~ndimage.binary_erosion(mask, iterations=1)
    picture[mask] = (1 - opacity) * picture[mask] + opacity * rgb
    picture[outline] = rgb
