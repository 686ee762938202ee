"""Intensities by tissue: what a scan shows in the brain, mapped to what the model was trained on, and back.

The extremes of a scan depend on vessels, fat and rims; percentiles of the brain do not (Nyul and Udupa 1999). Where a
scan lies on the model's grid, the brain of the template tells which voxels these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.volume import Volume

PERCENTILES = (25.0, 50.0, 75.0)
"""Of the brain's voxels: the landmarks of a scan. Those further out depend on the size of ventricles and lesions."""

STANDARD: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"t1": (0.449, 0.545, 0.680), "t2": (0.417, 0.499, 0.578), "flair": (0.423, 0.465, 0.503)}
)
"""Landmarks of the simulated contrasts, the means over 120 subjects: those of every scan become these."""

_FEWEST_VOXELS = 200
_BRAIN_LEVEL = 0.05  # of the template's picture, which is 0 around the brain
_EROSION = 4  # voxels of 2 mm: of what is left, 99 % is brain in a simulated subject
_SMALLEST_STEP = 1e-3  # between two landmarks, as a share of them
_TEMPLATE_BRAIN = Path(__file__).parents[1] / "data" / "template" / "brain.nii.gz"


@dataclass(frozen=True)
class Landmarks:
    """The intensities of a scan that become those of the model: of its background, and of `PERCENTILES`.

    They rise strictly, so that the map between them has an inverse.
    """

    background: float
    percentiles: tuple[float, ...]

    def scale(self, image: NDArray, contrast: str) -> NDArray[np.float32]:
        """Return an image as the model reads it, float32 in [0, 1]; exact zeros stay zero."""
        scaled = _map_linearly(image, self._knots, _knots_of(contrast)).clip(0.0, 1.0)
        scaled[image == 0] = 0.0
        return scaled

    def restore(self, image: NDArray, contrast: str) -> NDArray[np.float32]:
        """Undo `scale`, but for what it clipped."""
        return _map_linearly(image, _knots_of(contrast), self._knots)

    @property
    def _knots(self) -> tuple[float, ...]:
        return (self.background, *self.percentiles)


def measure_landmarks(image: NDArray, region: NDArray[np.bool_]) -> Landmarks:
    """Return the landmarks of a scan; where it shows hardly any of the brain, those of all that it shows.

    Args:
        image: (X, Y, Z), in any units, exactly 0 where it was cut away.
        region: (X, Y, Z), where the brain is, usually of `find_interior`.
    """
    shown = image != 0
    values = image[region & shown]
    if values.size < _FEWEST_VOXELS:
        values = image[shown] if shown.any() else image.ravel()
    percentiles = np.percentile(values.astype(np.float32), PERCENTILES).astype(np.float64)
    step = _SMALLEST_STEP * max(float(percentiles[-1] - percentiles[0]), float(np.abs(percentiles).max()), 1e-12)
    rising = np.maximum.accumulate(percentiles) + step * np.arange(len(PERCENTILES))
    background = min(0.0, float(image.min()), float(rising[0]) - step)
    return Landmarks(background, tuple(float(each) for each in rising))


def find_interior(shape: tuple[int, ...], affine: NDArray) -> NDArray[np.bool_]:
    """Return where nearly every head in template space has brain, (X, Y, Z) on the grid of `shape` and `affine`."""
    return _find_interior(tuple(shape), np.asarray(affine, np.float64).tobytes())


@lru_cache(maxsize=4)
def _find_interior(shape: tuple[int, ...], affine: bytes) -> NDArray[np.bool_]:
    picture = Volume.load(_TEMPLATE_BRAIN)
    filled = ndimage.binary_fill_holes(picture.array > _BRAIN_LEVEL)
    eroded = ndimage.binary_erosion(filled, iterations=_EROSION)
    mask = Volume(eroded.astype(np.uint8), picture.affine)
    placed = mask.to_grid(shape, np.frombuffer(affine, np.float64).reshape(4, 4), labels=True)
    interior: NDArray[np.bool_] = placed.array > 0
    interior.flags.writeable = False
    return interior


def _knots_of(contrast: str) -> tuple[float, ...]:
    return (0.0, *STANDARD[contrast])


def _map_linearly(image: NDArray, source: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the piecewise linear map of an image that takes each of `source` to its `target`.

    Beyond the last one it goes on with the slope from the second to the last, over all tissues.
    """
    slope = (target[-1] - target[1]) / (source[-1] - source[1])
    inside = np.interp(image, source, target)
    above = np.maximum(image.astype(np.float64) - source[-1], 0.0) * slope
    below = np.minimum(image.astype(np.float64) - source[0], 0.0) * slope
    return (inside + above + below).astype(np.float32)
