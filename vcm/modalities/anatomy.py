"""The anatomy: a label map of tissues, which leaves the inside of a tumor to the tumor map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vcm.modalities.base import PreparedCondition, Subject, SubjectView
from vcm.modalities.labels import LabelModality, encode_one_hot
from vcm.modalities.names import ANATOMY, TUMOR
from vcm.volume import Volume

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class AnatomyModality(LabelModality):
    """CSF, gray matter, white matter and ventricles."""

    def reconcile(self, prepared: PreparedCondition, others: Mapping[str, PreparedCondition]) -> PreparedCondition:
        """Return the anatomy with 0 wherever the tumor is."""
        if TUMOR not in others:
            return prepared
        tumor = others[TUMOR].volume.array > 0
        if not (prepared.volume.array[tumor] > 0).any():
            return prepared
        labels = np.where(tumor, np.uint8(0), prepared.volume.array)
        notes = (*prepared.notes, "The anatomy inside the tumor was left out: the tumor map says what is there.")
        tensor = encode_one_hot(labels, len(prepared.tensor))
        return PreparedCondition(self.name, Volume(labels, prepared.volume.affine, notes), tensor, notes)

    def find_labels(self, subject: Subject) -> NDArray[np.uint8]:
        """Return the subject's own anatomy."""
        return subject.anatomy

    def degrade(self, view: SubjectView, random: torch.Generator) -> Tensor:
        """Return the anatomy with or before the tumor: people draw on healthy anatomy, scans show what it moved."""
        import torch

        before = bool(torch.rand(1, generator=random) < 0.5)
        anatomy = view.anatomy_before if before else view.anatomy
        return encode_one_hot(np.where(view.tumor > 0, np.uint8(0), anatomy), self.channels or 0)


MODALITY = AnatomyModality(
    name=ANATOMY,
    title="Anatomy",
    help="A label map: 1 CSF, 2 gray matter, 3 white matter, 4 ventricles; a tumor is left out of it.",
    channels=4,
    label_names=("CSF", "gray matter", "white matter", "ventricles"),
    colors=("#3a86ff", "#b07aa1", "#f4e9cd", "#1b9e77"),
)
