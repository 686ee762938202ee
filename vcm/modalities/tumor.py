"""The tumor: a label map with the parts that BraTS has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.modalities.base import Given, Subject
from vcm.modalities.labels import LabelModality, measure_ml
from vcm.modalities.names import EDEMA, ENHANCING, NECROTIC_CORE, OLD_ENHANCING, TUMOR
from vcm.volume import Volume

_ONE_PART = (
    "It holds label 1 alone, which is necrotic core: a mask of a whole tumor has to be divided into its parts, "
    "1 necrotic core, 2 edema and 3 enhancing tumor."
)
_WORTH_SAYING = 0.001  # a share below this is the rounding of a border


@dataclass(frozen=True)
class TumorModality(LabelModality):
    """A tumor's necrotic core, edema and enhancing part."""

    def load(self, path: str | Path) -> Volume:
        """See `Modality.load`; the notes say where a tumor's parts seem to be missing."""
        volume = super().load(path)
        if np.array_equal(np.unique(volume.array), [0, 1]):
            return replace(volume, notes=(*volume.notes, _ONE_PART))
        return volume

    def translate(self, labels: NDArray[np.uint8], count: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Read label 4 as 3 where there is no 3, as older BraTS data have it."""
        wrong = labels[labels > count]
        if wrong.size and (wrong == OLD_ENHANCING).all() and not (labels == ENHANCING).any():
            told = "Label 4 was read as 3, enhancing tumor, as older BraTS data have it."
            return np.where(labels == OLD_ENHANCING, np.uint8(ENHANCING), labels), (told,)
        return labels, ()

    def say_what_is_outside(self, placed: Volume, given: Given) -> tuple[str, ...]:
        """Say how much of the tumor lies outside the brain."""
        inside = placed.array > 0
        if given.brain is None or not inside.any():
            return ()
        stray = inside & ~given.brain
        share = np.count_nonzero(stray) / np.count_nonzero(inside)
        if share <= _WORTH_SAYING:
            return ()
        return (f"{share:.1%} of the tumor ({measure_ml(stray, placed):.1f} ml) lies outside the brain.",)

    def find_labels(self, subject: Subject) -> NDArray[np.uint8]:
        """Return the subject's own tumor."""
        return subject.tumor


MODALITY = TumorModality(
    name=TUMOR,
    title="Tumor",
    help="A label map: 1 necrotic core, 2 edema, 3 enhancing tumor; an empty one asks for no tumor.",
    channels=3,
    label_names=("necrotic core", "edema", "enhancing tumor"),
    # Read over gray slices: saturated, far from gray, and apart in lightness as well as in hue, so that they stay apart
    # for color-blind eyes.
    colors=("#ef476f", "#ffd166", "#4cc9f0"),
    asks_when_empty="it asks for a brain without a tumor",
    drawing_hint="The core is dead tissue, the enhancing rim around it lights up with contrast, edema is the swelling "
    "outside; whole tumor draws all three.",
    # What a first stroke should be, as a model follows a whole lesion best.
    layered_brush=("Whole tumor", ((EDEMA, 1.0), (ENHANCING, 0.8), (NECROTIC_CORE, 0.5))),
)
