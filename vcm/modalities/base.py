"""What a modality is: one kind of condition, which owns all that is particular about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vcm.volume import Volume

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vcm.modalities.scans import Scan
    from vcm.model.config import Grid

Reconstruct = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""The autoencoder's round trip of an image (X, Y, Z) in [0, 1]."""


@dataclass(frozen=True, eq=False)
class PreparedCondition:
    """A condition as a model takes it.

    Attributes:
        name: of its modality.
        volume: on the model grid; uint8 labels, or a scan as float32 in [0, 1], 0 in the hole of a partial one.
        tensor: (C, X, Y, Z) float32 on the CPU; for labels one channel each, 0 or 1, without background; for a scan its
            intensities, and for a partial one then the hole, 0 or 1.
        notes: sentences for the user on what was read, resampled, lost or empty.
        scan: of an image condition, as it was given.
    """

    name: str
    volume: Volume
    tensor: Tensor
    notes: tuple[str, ...] = ()
    scan: Scan | None = None


@dataclass(frozen=True, eq=False)
class Given:
    """What is given of a run beside the volume of a condition.

    Attributes:
        num_labels: of a modality whose number of labels the model sets.
        brain: (X, Y, Z) on the model grid, where the brain is; given, a tumor outside of it is said.
        fill: a mask on any grid of what is to be made up of a scan.
        tumor: labels (X, Y, Z) on the model grid, around which a scan without `fill` is made up.
    """

    num_labels: int | None = None
    brain: NDArray[np.bool_] | None = None
    fill: Volume | None = None
    tumor: NDArray[np.uint8] | None = None


class Subject(Protocol):
    """A subject of whom everything is known, as `Modality.show` reads it: labels, and images by contrast."""

    @property
    def affine(self) -> NDArray:
        """(4, 4), of the grid of all volumes, voxel to RAS+ mm."""

    @property
    def tumor(self) -> NDArray[np.uint8]:
        """Tumor labels, (X, Y, Z)."""

    @property
    def anatomy(self) -> NDArray[np.uint8]:
        """Anatomy labels, (X, Y, Z), 0 inside the tumor."""

    def image(self, contrast: str) -> NDArray[np.float32]:
        """Return the image of a contrast, (X, Y, Z) in [0, 1]."""


class SubjectView(Subject, Protocol):
    """A window of a training subject, as `Modality.degrade` reads it: labels and images are what lies inside."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the subject's whole volumes, (X, Y, Z)."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxels along each axis."""

    @property
    def window(self) -> tuple[slice, ...]:
        """What of the whole volumes is seen."""

    @property
    def anatomy_before(self) -> NDArray[np.uint8]:
        """Anatomy labels before the tumor grew."""

    def coordinates(self) -> list[NDArray[np.float32]]:
        """Return where the window's voxels lie, from -1 to 1 over the whole volume: three arrays that broadcast."""

    def whole(self) -> SubjectView:
        """Return the view of the whole subject."""

    def coarse(self) -> SubjectView:
        """Return the view of every second voxel of the whole subject along each axis."""


@dataclass(frozen=True)
class Modality:
    """One kind of condition. Everything that lists or handles conditions asks the registry for these.

    Attributes:
        name: the key in `GenerationRequest.conditions`, in configurations and on the command line.
        title: what a page calls it.
        help: one sentence on what to give.
        channels: of the tensor; None where the model's configuration sets the number of labels.
        label_names: of the labels 1, 2, ...; empty for images and where the model sets them.
        colors: CSS colors of the labels 1, 2, ...; where there are fewer colors than labels they repeat.
        kind: "labels" for names that become one-hot channels, "image" for intensities.
        can_be_trained: whether training subjects show it, see `degrade`.
        precedence: of a scan that says in which units, and on which grid, a result is wanted; the highest has the last
            word, and 0 has none.
        follows: whether its scan has a say while a volume is made, see `follow`.
        stripped_note: what is said of a scan without a skull.
    """

    name: str
    title: str
    help: str
    channels: int | None
    label_names: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()

    kind: ClassVar[Literal["labels", "image"]] = "image"
    can_be_trained: ClassVar[bool] = True
    precedence: ClassVar[int] = 0
    follows: ClassVar[bool] = False
    stripped_note: ClassVar[str] = "It is skull-stripped; a head is made up around it."

    def load(self, path: str | Path) -> Volume:
        """Read a user's file of this condition.

        Raises:
            VolumeError: it is no usable volume.
        """
        return Volume.load(path, labels=self.kind == "labels")

    def prepare(self, volume: Volume, grid: Grid, given: Given) -> PreparedCondition:
        """Bring a user's volume to the model grid and turn it into a condition tensor.

        Returns:
            The condition; its notes begin with those of `volume`.

        Raises:
            VolumeError: the volume is none of this kind, or lies outside the grid.
        """
        raise NotImplementedError

    def reconcile(self, prepared: PreparedCondition, others: Mapping[str, PreparedCondition]) -> PreparedCondition:
        """Return the condition as it is beside the others of a run; most stand by themselves."""
        return prepared

    def show(self, subject: Subject) -> Volume | None:
        """Return what a user who has the best data of a subject gives, on any grid; None where no subject shows it."""
        return None

    def degrade(self, view: SubjectView, random: torch.Generator) -> Tensor:
        """Return the condition of a training subject as a user's volume would become, (C, x, y, z) float32."""
        raise NotImplementedError

    def follow(self, scan: Scan, sample: Volume, reconstruct: Reconstruct) -> NDArray[np.float32]:
        """Return a sample (X, Y, Z) in [0, 1], on the model grid, nearer to the scan; most leave it as it is."""
        return sample.array

    def finish(self, scan: Scan, volume: Volume, *, is_controlled: bool) -> Volume:
        """Bring a volume back to the units and the grid of the scan that it was made from; most leave it as it is.

        Args:
            volume: float32 in [0, 1] on the model grid.
            is_controlled: whether the conditions shaped it.
        """
        return volume
