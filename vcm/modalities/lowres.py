"""A T1-weighted scan of thick axial slices: read, degraded in training, and agreed with in the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.base import Reconstruct, Subject, SubjectView
from vcm.modalities.image_conditions import encode_image
from vcm.modalities.names import LOWRES
from vcm.modalities.scans import Scan, ScanModality
from vcm.modalities.thick_slices import (
    MOST_TILT_DEGREES,
    agree_with_slices,
    follow_slices,
    restore_units,
    slice_axis,
    slice_normal,
)
from vcm.volume import Volume

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vcm.model.config import Grid

TRAINED_SLICES_MM = (4.0, 8.0)
"""How thick the slices are that a VCM has learned from."""

SLICE_FACTORS = (2, 3, 4)
"""Voxels of 2 mm in a thick slice of a training subject: 4, 6 and 8 mm."""

SHOWN_FACTOR = 3
"""Voxels of 2 mm in a thick slice of `show`: 6 mm."""

_AS_THIN = 1.3  # voxels longer than this times the slice spacing, in the plane of the slices, are thick themselves
_DIRECTIONS = ("left to right", "back to front", "foot to head")


@dataclass(frozen=True)
class ThickSlicesModality(ScanModality):
    """Axial slices, the mean over each of which a result keeps."""

    precedence: ClassVar[int] = 1
    follows: ClassVar[bool] = True
    stripped_note: ClassVar[str] = "It is skull-stripped, and so is the result."

    def check(self, own: Volume, grid: Grid) -> tuple[str, ...]:
        """See `ScanModality.check`: slices are thick from foot to head, and hardly tilted."""
        return _judge_slices(own) + _judge_tilt(own, grid)

    def show(self, subject: Subject) -> Volume:
        """Return the subject's T1 as thick slices, each the mean of `SHOWN_FACTOR` voxels along Z."""
        return average_slices(Volume(subject.image(self.contrast), subject.affine), SHOWN_FACTOR)

    def degrade(self, view: SubjectView, random: torch.Generator) -> Tensor:
        """Return the subject's T1 as linear interpolation of thick slices shows it."""
        import torch

        from vcm.modalities.shifts import shift_scan

        factor = SLICE_FACTORS[int(torch.randint(len(SLICE_FACTORS), (1,), generator=random))]
        offset = int(torch.randint(factor, (1,), generator=random))
        return encode_image(shift_scan(view, self.contrast, random, thicken=(factor, offset)))

    def follow(self, scan: Scan, sample: Volume, reconstruct: Reconstruct) -> NDArray[np.float32]:
        """See `Modality.follow`: alternating projections between the slices and what the autoencoder can make."""
        return follow_slices(scan, sample, reconstruct)

    def finish(self, scan: Scan, volume: Volume, *, is_controlled: bool) -> Volume:
        """Return the volume in the scan's units, with the mean of each slice if the scan shaped it."""
        restored = restore_units(scan, volume)
        return agree_with_slices(scan, restored) if is_controlled else restored


MODALITY = ThickSlicesModality(
    name=LOWRES,
    title="Thick slices",
    help="A T1-weighted scan of thick axial slices; the result is in its units.",
    channels=1,
)


def average_slices(scan: Volume, factor: int) -> Volume:
    """Return thick slices (X, Y, Z // factor), each the mean of `factor` slices of a scan (X, Y, Z), float32."""
    count = scan.array.shape[2] // factor
    means = scan.array[:, :, : count * factor].reshape(*scan.array.shape[:2], count, factor).mean(3)
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (factor - 1) / 2
    affine[:3, 2] *= factor
    return Volume(means.astype(np.float32), affine)


def _judge_slices(scan: Volume) -> tuple[str, ...]:
    """Refuse slices that are thick in another direction than from foot to head, and say which are unusual."""
    along = slice_axis(scan)
    spacing = np.asarray(scan.spacing_mm)
    thickest = int(np.argmax(spacing))
    if spacing[thickest] > _AS_THIN * spacing[along]:
        direction = _DIRECTIONS[int(np.argmax(np.abs(scan.affine[:3, thickest])))]
        raise VolumeError(
            f"The lowres condition takes axial slices, thick from foot to head; this scan's voxels are "
            f"{spacing[thickest]:.3g} mm thick from {direction}: give the axial series of the same session."
        )
    thickness = float(spacing[along])
    if thickness <= _AS_THIN * float(np.delete(spacing, along).max()):
        return (f"The slices of the lowres scan are not thick: its voxels are {thickness:.3g} mm from foot to head.",)
    if not TRAINED_SLICES_MM[0] - 1.0 <= thickness <= TRAINED_SLICES_MM[1] + 1.0:
        return (
            f"The slices are {thickness:.3g} mm thick; the model has learned from "
            f"{TRAINED_SLICES_MM[0]:g} to {TRAINED_SLICES_MM[1]:g} mm.",
        )
    return ()


def _judge_tilt(scan: Volume, grid: Grid) -> tuple[str, ...]:
    """Say of slices that are too tilted for a result to agree with them."""
    up = grid.affine[:3, 2] / np.linalg.norm(grid.affine[:3, 2])
    degrees = float(np.degrees(np.arccos(np.clip(slice_normal(scan, up) @ up, -1.0, 1.0))))
    if degrees <= MOST_TILT_DEGREES:
        return ()
    return (
        f"The slices are tilted by {degrees:.0f}\u00b0 against the model's: the result follows them as the model reads "
        "them, but is not made to have their means.",
    )
