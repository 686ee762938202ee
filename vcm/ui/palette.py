"""What is drawn on the page: the names and colors of one modality's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from vcm.modalities.registry import MODALITIES, get_label_modality
from vcm.pipeline import Pipeline
from vcm.ui.canvas.slice_canvas import Label


@dataclass(frozen=True)
class Palette:
    """The labels 1, 2, ... of a modality: their names and "#rrggbb" colors, one each."""

    modality: str
    names: tuple[str, ...]
    colors: tuple[str, ...]

    @property
    def layered_brush(self) -> tuple[str, tuple[tuple[int, float], ...]] | None:
        """The brush of the canvas that draws all labels at once, where they lie one inside the other."""
        return get_label_modality(self.modality).layered_brush

    @property
    def hint(self) -> str:
        """One sentence on what the labels mean, where their names do not say it."""
        return get_label_modality(self.modality).drawing_hint

    @property
    def labels(self) -> list[Label]:
        """The palette as the canvas takes it."""
        return [
            Label(id=number, name=name.capitalize(), color=color)
            for number, (name, color) in enumerate(zip(self.names, self.colors, strict=True), start=1)
        ]


def label_modalities(pipeline: Pipeline) -> list[str]:
    """Return the modalities of the model that are label maps, in the registry's order: the first is drawn."""
    return [name for name, each in MODALITIES.items() if name in pipeline.modalities and each.kind == "labels"]


def build_palette(pipeline: Pipeline, modality: str) -> Palette:
    """Return the palette of a label modality; labels that have no name are numbered."""
    known = MODALITIES[modality]
    count = pipeline.config.adapter.condition_channels[modality]
    names: Sequence[str] = known.label_names or [f"label {number}" for number in range(1, count + 1)]
    return Palette(modality, tuple(names), tuple(islice(cycle(known.colors), count)))
