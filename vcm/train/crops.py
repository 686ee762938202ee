"""Crops of heads around lesions, each lesion as often as any other, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vcm.data.cohort import Cohort

SMALLEST_LESION = 12
"""Voxels of 2 mm, about 0.1 ml: what is smaller is noise of the labels."""


@dataclass(frozen=True)
class Lesion:
    """One connected lesion of a cohort: whose it is, its middle in voxels, and its size in voxels."""

    subject: int
    middle: tuple[int, int, int]
    size: int


def find_lesions(cohort: Cohort) -> list[Lesion]:
    """Return every connected lesion of a cohort, subject by subject."""
    found = []
    for subject, tumor in enumerate(cohort.tumor):
        parts, _ = ndimage.label(np.asarray(tumor) > 0, structure=np.ones((3, 3, 3)))
        for index, window in enumerate(ndimage.find_objects(parts), start=1):
            size = int(np.count_nonzero(parts[window] == index))
            if size >= SMALLEST_LESION:
                first, second, third = ((axis.start + axis.stop) // 2 for axis in window)
                found.append(Lesion(subject, (first, second, third), size))
    return found


def draw_window(
    middle: Sequence[int], edge: int, shape: Sequence[int], random: torch.Generator, *, jitter: int, step: int
) -> tuple[slice, slice, slice]:
    """Return a cube of `edge` voxels or cells an axis around a place, inside a volume of `shape`.

    Where the volume is shorter than `edge`, the window is as long as the volume.

    Args:
        jitter: how far at most the middle of the cube is from the place, before the cube is moved inside.
        step: the cube starts at whole multiples of it.
    """
    sides = []
    for place, extent in zip(middle, shape, strict=True):
        size = min(edge, extent)
        shift = int(torch.randint(-jitter, jitter + 1, (1,), generator=random))
        start = min(max(place - size // 2 + shift, 0), extent - size) // step * step
        sides.append(slice(start, start + size))
    x, y, z = sides
    return x, y, z


def draw_place(shape: Sequence[int], random: torch.Generator) -> tuple[int, ...]:
    """Return any place of a volume of `shape`."""
    return tuple(int(torch.randint(extent, (1,), generator=random)) for extent in shape)


def weigh_inside(window: tuple[slice, ...], shape: Sequence[int], border: int) -> np.ndarray:
    """Return 1 where a network sees all around it, float32 of the window's shape, and 0 near a cut through a volume.

    The window's faces that are the volume's own count in full: there a network sees no less than in a whole volume.
    """
    weight = np.ones([axis.stop - axis.start for axis in window], np.float32)
    for axis, (side, extent) in enumerate(zip(window, shape, strict=True)):
        along = np.moveaxis(weight, axis, 0)
        if side.start > 0:
            along[:border] = 0
        if side.stop < extent:
            along[-border:] = 0
    return weight
