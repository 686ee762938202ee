"""How training makes image conditions out of whole scans, at random: brains alone, holes, and thick slices."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vcm.modalities.image_conditions import HOLE_MARGIN_MM, grow

SLICE_FACTORS = (2, 3, 4)
"""Voxels of 2 mm in a thick slice: 4, 6 and 8 mm."""

STRIPPED_SHARE = 1 / 3
"""How often a scan is seen without its skull, as those of a lab often come."""

_BALL_RADII_MM = (12.0, 40.0)
_SLAB_MM = (20.0, 70.0)
_BRAIN_MARGIN_MM = 4.0


def strip_skull(
    image: NDArray[np.float32], anatomy: NDArray[np.uint8], tumor: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return an image (X, Y, Z) in which only the brain is left, by the labels; as it is where they show none."""
    brain = (anatomy > 0) | (tumor > 0)
    return np.where(brain, image, np.float32(0)) if anatomy.any() else image


def draw_hole(
    tumor: NDArray[np.uint8],
    anatomy: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    random: torch.Generator,
) -> NDArray[np.bool_]:
    """Return where a scan is to be made up, (X, Y, Z).

    Two in five times the tumor and its surroundings, where there is one; else a ball in the head, a slab of axial
    slices, or all of the brain, which leaves only skull and scalp.

    Args:
        tumor, anatomy: labels (X, Y, Z) of the subject.
    """

    uniform = partial(draw_uniform, random)
    kind = uniform(0.0, 1.0)
    brain = (anatomy > 0) | (tumor > 0)
    if kind < 0.4 and tumor.any():
        return grow(tumor > 0, HOLE_MARGIN_MM, spacing_mm)
    if kind < 0.6:
        return grow(brain, _BRAIN_MARGIN_MM, spacing_mm)
    if kind < 0.75:
        thickness = uniform(*_SLAB_MM) / spacing_mm[2]
        start = uniform(0.0, tumor.shape[2] - thickness)
        heights = np.arange(tumor.shape[2])
        return np.broadcast_to((heights >= start) & (heights < start + thickness), tumor.shape).copy()
    inside = np.flatnonzero(brain)
    chosen = inside[int(torch.randint(len(inside), (1,), generator=random))]
    center = np.unravel_index(chosen, brain.shape)
    radius = uniform(*_BALL_RADII_MM)
    squares = [((np.arange(n) - c) * step) ** 2 for n, c, step in zip(brain.shape, center, spacing_mm, strict=True)]
    distances: NDArray = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    return distances <= radius**2


def draw_uniform(random: torch.Generator, low: float, high: float) -> float:
    """Return a number between the two."""
    return low + (high - low) * float(torch.rand(1, generator=random))


def thicken_slices(image: Tensor, factor: int, offset: int = 0) -> Tensor:
    """Return what linear interpolation makes of thick axial slices of an image, (X, Y, Z).

    Each thick slice is the mean of `factor` slices; the first one begins `offset` slices below the image.
    """
    depth = image.shape[2]
    behind = -(depth + offset) % factor
    padded = functional.pad(image[None, None], (offset, behind, 0, 0, 0, 0), mode="replicate")  # (1, 1, X, Y, Z')
    thick = functional.avg_pool3d(padded, kernel_size=(1, 1, factor))
    smooth = functional.interpolate(thick, size=padded.shape[2:], mode="trilinear", align_corners=False)
    return smooth[0, 0, :, :, offset : offset + depth]
