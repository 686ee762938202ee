"""The semantic map of a released model, which says how many labels it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vcm.modalities.labels import LabelModality
from vcm.modalities.names import SEMANTIC


@dataclass(frozen=True)
class SemanticModality(LabelModality):
    """Labels 1 to N; no simulated subject shows them."""

    can_be_trained: ClassVar[bool] = False


MODALITY = SemanticModality(
    name=SEMANTIC,
    title="Semantic map",
    help="A label map with the labels 1 to N of a released model.",
    channels=None,
    colors=("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#c7c7c7"),
)
