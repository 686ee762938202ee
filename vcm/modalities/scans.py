"""Scans as conditions: what is refused, what is measured, and the scan as it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.base import Given, Modality, PreparedCondition, Subject, SubjectView
from vcm.modalities.image_conditions import encode_image, measure_range, scale_intensities
from vcm.volume import Volume
from vcm.volume.resample import fraction_outside
from vcm.volume.volume import list_values

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vcm.model.config import Grid

MOST_LABELS = 32
"""Distinct values of a map: a scan of 8 bits has far more, and whole numbers as few as this are names."""

WORTH_SAYING = 0.001
"""A share below this is the rounding of a border."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan as it was given, to which a result goes back.

    Attributes:
        volume: on its own grid and in its own units, float32.
        limits: the intensities that became 0 and 1.
        hole: what is made up, uint8 of 0 and 1 on the scan's own grid; None where nothing is.
        is_hole_given: whether the hole is a user's region, rather than the surroundings of a tumor.
    """

    volume: Volume
    limits: tuple[float, float]
    hole: Volume | None = None
    is_hole_given: bool = False


@dataclass(frozen=True)
class ScanModality(Modality):
    """A scan of one contrast, scaled to [0, 1] from its own intensities.

    - `contrast`: of the simulated images, "t1", "t2" or "flair".
    """

    contrast: ClassVar[str] = "t1"

    def prepare(self, volume: Volume, grid: Grid, given: Given) -> PreparedCondition:
        """See `Modality.prepare`. Intensities are measured on the scan's own grid, before anything is interpolated."""
        shown, own = self.place(volume, grid)
        scan = Scan(own, measure_range(own.array))
        return PreparedCondition(self.name, shown, encode_image(shown.array), shown.notes, scan)

    def place(self, volume: Volume, grid: Grid) -> tuple[Volume, Volume]:
        """Return a scan in [0, 1] on the model grid, without any hole, and as it was given, in finite float32.

        Raises:
            VolumeError: as `prepare` does, but for what is made up.
        """
        own, notes = read_values(self.name, volume)
        notes += self.check(own, grid)
        scaled = Volume(scale_intensities(own.array, measure_range(own.array)), own.affine, volume.notes + notes)
        placed = scaled.to_grid(grid.shape, grid.affine)
        if not placed.array.any():
            raise VolumeError(
                f"Nothing of the {self.name} scan lies in the model's field of view; it must be in the same (MNI) "
                "space, in mm."
            )
        outside = fraction_outside(scaled.array > 0, own.affine, grid.shape, grid.affine)
        notes = placed.notes
        if outside > WORTH_SAYING:
            notes += (
                f"{outside:.1%} of the {self.name} scan lies outside the model's field of view, which does not see it.",
            )
        return Volume(np.ascontiguousarray(placed.array, dtype=np.float32), grid.affine, notes), own

    def check(self, own: Volume, grid: Grid) -> tuple[str, ...]:
        """Return what is unusual about a scan, as sentences.

        Raises:
            VolumeError: the model cannot read such a scan.
        """
        return ()

    def show(self, subject: Subject) -> Volume:
        """Return the subject's image of this contrast."""
        return Volume(subject.image(self.contrast), subject.affine)

    def degrade(self, view: SubjectView, random: torch.Generator) -> Tensor:
        """Return the subject's image, shifted and scaled as a user's scan would be."""
        from vcm.modalities.shifts import shift_scan  # it needs torch, which a request does not

        return encode_image(shift_scan(view, self.contrast, random))


def read_values(name: str, volume: Volume) -> tuple[Volume, tuple[str, ...]]:
    """Return a scan as finite float32, and what had to be said about that.

    Raises:
        VolumeError: every voxel holds the same value, or so few whole numbers that they must be names.
    """
    array, is_complete = clean_values(volume.array)
    notes = () if is_complete else ("Voxels that were not a number, or infinite, were read as 0.",)
    fault = find_no_scan(array)
    if fault:
        raise VolumeError(f"The {name} condition takes a scan; {fault}.")
    return Volume(array, volume.affine), notes


def find_no_scan(array: NDArray) -> str:
    """Return why a volume can be no scan, as half a sentence; empty where it may be one."""
    if array.min() == array.max():
        return "every voxel of this volume holds the same value"
    if holds_labels(array):
        return f"this volume holds only the values {list_values(array)}, as a label map does"
    return ""


def clean_values(array: NDArray) -> tuple[NDArray[np.float32], bool]:
    """Return an image as finite float32, what was no number as 0, and whether all of it was finite."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32) + np.float32(0)  # a file may turn -0 into 0
    finite = np.isfinite(values)
    if finite.all():
        return values, True
    return np.where(finite, values, np.float32(0)), False


def holds_labels(array: NDArray) -> bool:
    """Tell whether an image has so few values, all of them whole, that they must be names."""
    some = np.unique(array.ravel()[:: max(1, array.size // 4096)])  # a scan is known by a few thousand voxels
    if some.size > MOST_LABELS:
        return False
    values = np.unique(array)
    return values.size <= MOST_LABELS and bool((values == np.rint(values)).all())
