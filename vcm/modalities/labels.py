"""Label maps as conditions: one channel a label, and what is said of labels that are wrong or lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.base import Given, Modality, PreparedCondition, Subject, SubjectView
from vcm.modalities.scans import MOST_LABELS
from vcm.volume import Volume
from vcm.volume.resample import fraction_outside
from vcm.volume.volume import as_labels, list_values

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vcm.model.config import Grid

_WORTH_SAYING = 0.001  # a lost share below this is the rounding of a border


@dataclass(frozen=True)
class LabelModality(Modality):
    """A map of labels, each of which becomes a channel of 0 and 1.

    Attributes:
        asks_when_empty: what a map without any label means, as a clause.
        drawing_hint: one sentence on what the labels mean to who draws them, where their names do not say it.
        layered_brush: name and, from the outside in, label and share of the radius of a brush that draws all labels at
            once; None where they do not lie one inside the other.
    """

    kind: ClassVar[Literal["labels", "image"]] = "labels"
    asks_when_empty: str = "it asks for nothing"
    drawing_hint: str = ""
    layered_brush: tuple[str, tuple[tuple[int, float], ...]] | None = None

    def prepare(self, volume: Volume, grid: Grid, given: Given) -> PreparedCondition:
        """See `Modality.prepare`. An empty map is a condition like any other."""
        count = self.channels or given.num_labels
        if count is None:
            raise ValueError(f"The condition {self.name!r} needs the number of labels that the model knows.")
        labels, notes = self.read_labels(volume.array, count)
        own = Volume(labels, volume.affine, volume.notes + notes)
        placed = own.to_grid(grid.shape, grid.affine, labels=True)
        notes = placed.notes + self._say_what_is_lost(own, placed) + self.say_what_is_outside(placed, given)
        return PreparedCondition(self.name, replace(placed, notes=notes), encode_one_hot(placed.array, count), notes)

    def find_labels(self, subject: Subject) -> NDArray[np.uint8] | None:
        """Return the map of a subject, (X, Y, Z); None where no subject shows it."""
        return None

    def show(self, subject: Subject) -> Volume | None:
        """See `Modality.show`."""
        labels = self.find_labels(subject)
        return None if labels is None else Volume(labels, subject.affine)

    def degrade(self, view: SubjectView, random: torch.Generator) -> Tensor:
        """See `Modality.degrade`: the map itself, from which nothing is taken."""
        labels = self.find_labels(view)
        if labels is None:
            raise NotImplementedError(f"The condition {self.name!r} is shown by no subject.")
        return encode_one_hot(labels, self.channels or 0)

    def read_labels(self, array: NDArray, count: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Return a map of labels 0 to `count`, and what had to be said about it.

        Raises:
            VolumeError: the values are not labels of this modality.
        """
        try:
            labels = as_labels(array)
        except VolumeError:
            raise self._refuse(np.setdiff1d(array, np.arange(count + 1)), count) from None
        labels, notes = self.translate(labels, count)
        wrong = labels[labels > count]
        if wrong.size:
            raise self._refuse(wrong, count)
        if not labels.any():
            notes += (f"The {self.name} map is empty: {self.asks_when_empty}.",)
        return labels, notes

    def translate(self, labels: NDArray[np.uint8], count: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Return labels of other conventions as those of this modality, and what is said about it."""
        return labels, ()

    def say_what_is_outside(self, placed: Volume, given: Given) -> tuple[str, ...]:
        """Return sentences on labels that lie on the grid, but where the model can show nothing."""
        return ()

    def _refuse(self, wrong: NDArray, count: int) -> VolumeError:
        """Return the error that lists the values found and those allowed."""
        found = np.unique(wrong)
        values = f"the value{'s' if found.size > 1 else ''} {list_values(found)}"
        if found.size > MOST_LABELS:
            values += ", as a scan does"
        named = [f"{label} {name}" for label, name in enumerate(self.label_names, start=1)]
        allowed = f"{', '.join(named[:-1])} and {named[-1]}" if named else f"and 1 to {count}"
        return VolumeError(f"The {self.name} map holds {values}; its labels are 0 for background, {allowed}.")

    def _say_what_is_lost(self, own: Volume, placed: Volume) -> tuple[str, ...]:
        """Return a sentence on the labels that lie off the model's grid."""
        labelled = own.array > 0
        outside = fraction_outside(labelled, own.affine, placed.array.shape, placed.affine)
        if outside <= _WORTH_SAYING:
            return ()
        lost = outside * measure_ml(labelled, own)
        return (
            f"{outside:.1%} of the {self.name} map ({lost:.1f} ml) lies outside the model's field of view and is lost.",
        )


def encode_one_hot(labels: NDArray[np.uint8], num_labels: int) -> Tensor:
    """Return one channel a label, (N, X, Y, Z) float32 of 0 and 1; the background, label 0, has none.

    Args:
        labels: (X, Y, Z), 0 to N.
        num_labels: N.
    """
    import torch  # here, because the registry above serves pages and commands that should not wait for it

    names = np.arange(1, num_labels + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return torch.from_numpy((labels[None] == names).astype(np.float32))


def measure_ml(mask: NDArray[np.bool_], volume: Volume) -> float:
    """Return the size of a mask on a volume's grid, in millilitres."""
    return float(np.count_nonzero(mask) * abs(np.linalg.det(volume.affine[:3, :3])) / 1000)
