"""The lesion builder: a tumor put into the drawing by a few sliders, for those who would rather not paint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from vcm.modalities.lesion import DIAMETER_RANGE_MM, EDEMA_RANGE_MM, PLACES, SIDES, LesionPlan
from vcm.ui.sections.controls import draw_seed

_SHOW_ALL_OF_IT = """() => {
    const box = document.querySelector("#lesion-builder");
    setTimeout(() => box.scrollIntoView({ block: "nearest", behavior: "smooth" }), 100);
}"""


@dataclass(frozen=True)
class LesionBuilder:
    """The components behind a `LesionPlan`, by the names of its fields, and the button that puts it in."""

    settings: dict[str, Component]
    add: gr.Button

    @property
    def inputs(self) -> list[Component]:
        """The components whose values `read` takes, in its order."""
        return list(self.settings.values())

    def read(self, values: Sequence[Any]) -> LesionPlan:
        """Return the plan that the components are set to, each time another of its kind.

        Raises:
            ValueError: a value is out of its range.
        """
        return LesionPlan(**dict(zip(self.settings, values, strict=True)), seed=draw_seed())


def build_lesion_builder() -> LesionBuilder:
    """Build the lesion builder in the current layout."""
    usual = LesionPlan()
    settings: dict[str, Component] = {}
    with gr.Accordion("Build a lesion with sliders", open=False, elem_id="lesion-builder") as folded:
        with gr.Row(elem_classes="fields"):
            settings["side"] = gr.Radio(
                [(side.capitalize(), side) for side in SIDES],
                value=usual.side,
                label="Side of the patient",
                elem_id="lesion-side",
            )
            settings["place"] = gr.Dropdown(
                [(place.capitalize(), place) for place in PLACES],
                value=usual.place,
                label="Place",
                filterable=False,
                elem_id="lesion-place",
            )
            settings["diameter_mm"] = gr.Slider(
                *DIAMETER_RANGE_MM, usual.diameter_mm, step=1, label="Diameter, mm", info="Core and enhancing rim."
            )
            settings["edema_mm"] = gr.Slider(
                *EDEMA_RANGE_MM, usual.edema_mm, step=1, label="Edema, mm", info="How far it reaches beyond."
            )
            settings["core_share"] = gr.Slider(
                0.0, 0.95, usual.core_share, step=0.05, label="Core", info="0 is all rim, 0.95 nearly all core."
            )
            settings["irregularity"] = gr.Slider(
                0.0, 1.0, usual.irregularity, step=0.05, label="Irregularity", info="0 is a ball; each click differs."
            )
        add = gr.Button("Put it into the drawing", size="sm", elem_id="lesion-add", min_width=0)
    # Where the window ends just below it, opening it would seem to do nothing.
    folded.expand(None, js=_SHOW_ALL_OF_IT, api_visibility="private", show_progress="hidden")
    return LesionBuilder(settings, add)
