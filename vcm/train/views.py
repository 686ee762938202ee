"""A part of a subject as training reads it: a window of its volumes, as they are or with left and right swapped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.data.cohort import Cohort
from vcm.volume import affines

Window = tuple[slice, ...]

_COARSE = 2  # every second voxel is enough for percentiles


@dataclass(frozen=True, eq=False)
class View:
    """A window of one subject of a cohort.

    - `mirrored`: whether left and right, the first axis, are swapped.
    - `window`: of the volumes after that, (X, Y, Z); empty slices for the whole.
    - `affine`: (4, 4), of the cohort's grid, voxel to RAS+ mm.
    """

    cohort: Cohort
    subject: int
    mirrored: bool
    affine: NDArray
    window: Window = (slice(None), slice(None), slice(None))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the subject's whole volumes, (X, Y, Z)."""
        return tuple(self.cohort.tumor.shape[1:])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxels along each axis."""
        x, y, z = affines.spacing_mm(self.affine).tolist()
        return x, y, z

    @property
    def tumor(self) -> NDArray[np.uint8]:
        """Tumor labels inside the window."""
        return self.read(self.cohort.tumor)

    @property
    def anatomy(self) -> NDArray[np.uint8]:
        """Anatomy labels inside the window."""
        return self.read(self.cohort.anatomy)

    @property
    def anatomy_before(self) -> NDArray[np.uint8]:
        """Anatomy labels before the tumor grew, inside the window."""
        return self.read(self.cohort.anatomy_before)

    def image(self, contrast: str) -> NDArray[np.float32]:
        """Return an image inside the window, float32 in [0, 1]."""
        return self.read(self.cohort.images[contrast]).astype(np.float32)

    def read(self, volumes: NDArray) -> NDArray[Any]:
        """Return what lies inside the window, of one array of the cohort, (N, X, Y, Z)."""
        whole = volumes[self.subject]
        return np.array((whole[::-1] if self.mirrored else whole)[self.window])

    def whole(self) -> View:
        """Return the view of the whole subject."""
        return replace(self, window=(slice(None), slice(None), slice(None)))

    def coarse(self) -> View:
        """Return the view of every second voxel of the whole subject along each axis."""
        return replace(self, window=(slice(None, None, _COARSE),) * 3)

    def coordinates(self) -> list[NDArray[np.float32]]:
        """Return where the window's voxels lie, from -1 to 1 over the whole volume: three arrays that broadcast."""
        axes = (np.linspace(-1.0, 1.0, n, dtype=np.float32)[s] for n, s in zip(self.shape, self.window, strict=True))
        return list(np.meshgrid(*axes, indexing="ij", sparse=True))
