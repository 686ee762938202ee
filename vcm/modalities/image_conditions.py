"""Scans as conditions: intensities brought to [0, 1], and a scan with a hole as two channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

LOW_PERCENTILE, HIGH_PERCENTILE = 0.0, 99.5
"""Of the non-zero voxels: what becomes 0 and 1. The least, because a background that was cut away is 0 already."""

CONTRASTS = ("t2", "flair")
"""Conditions that are scans of their own."""

HOLE_MARGIN_MM = 6.0
"""How far around a tumor a scan is made up, where no region is given: the tissue beside a tumor is changed by it."""


def list_contrasts(modalities: Iterable[str]) -> list[str]:
    """Return which of some modalities are scans of other contrasts than T1, in a fixed order."""
    given = set(modalities)
    return [name for name in CONTRASTS if name in given]


def measure_range(image: NDArray) -> tuple[float, float]:
    """Return the intensities that become 0 and 1, of an image (X, Y, Z); 0 and 1 where it is constant."""
    values = image[image != 0]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(each) for each in np.percentile(values.astype(np.float32), (LOW_PERCENTILE, HIGH_PERCENTILE)))
    return (low, high) if high > low else (low, low + 1.0)


def scale_intensities(image: NDArray, limits: tuple[float, float]) -> NDArray[np.float32]:
    """Return the image, float32 from 0 to 1, with the background, where it was exactly 0, at 0."""
    low, high = limits
    scaled = np.clip((image.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    scaled[image == 0] = 0.0
    return scaled


def restore_intensities(image: NDArray, limits: tuple[float, float]) -> NDArray[np.float32]:
    """Undo `scale_intensities`, but for what it clipped."""
    low, high = limits
    return image.astype(np.float32) * np.float32(high - low) + np.float32(low)


def encode_image(scaled: NDArray[np.float32]) -> Tensor:
    """Return one channel, (1, X, Y, Z) float32, of an image in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))[None]


def encode_partial(scaled: NDArray[np.float32], fill: NDArray[np.bool_]) -> Tensor:
    """Return the scan with a hole, then the hole, (2, X, Y, Z) float32.

    Args:
        scaled: (X, Y, Z) in [0, 1]; what it holds inside the hole does not matter.
        fill: (X, Y, Z), True where the scan is to be made up.
    """
    import torch

    return torch.from_numpy(np.stack([np.where(fill, np.float32(0), scaled), fill.astype(np.float32)]))


def grow(mask: NDArray[np.bool_], distance_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Return the mask (X, Y, Z) and all voxels whose centers lie within that distance of one of its own."""
    from scipy import ndimage

    if not mask.any():
        return mask.copy()
    window = find_window(mask, distance_mm, spacing_mm)
    grown = mask.copy()
    grown[window] = ndimage.distance_transform_edt(~mask[window], sampling=spacing_mm) <= distance_mm
    return grown


def find_window(mask: NDArray[np.bool_], margin_mm: float, spacing_mm: tuple[float, float, float]) -> tuple[slice, ...]:
    """Return the box (X, Y, Z) of a mask that is not empty, with a margin of at least `margin_mm` inside the grid."""
    window = []
    for axis, step in enumerate(spacing_mm):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(margin_mm / step)) + 1
        window.append(slice(max(int(held[0]) - margin, 0), min(int(held[-1]) + margin + 1, mask.shape[axis])))
    return tuple(window)
