"""The sampling controls: their components, and the way between them and a request."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from vcm.model.config import CovariateConfig
from vcm.request import AGE_RANGE, SEED_RANGE, SEXES, GenerationRequest
from vcm.sampler.solvers import SOLVERS

_MOST_STEPS = 100
_DICE_JS = f"() => Math.floor(Math.random() * {SEED_RANGE[1] + 1})"


# The values of these are passed on as they come: the request refuses one by field and range, Gradio would name neither.


class _Slider(gr.Slider):
    is_template = True  # in the browser it is what it derives from

    def preprocess(self, payload: Any) -> Any:
        return payload


class _Number(gr.Number):
    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return payload


class _Radio(gr.Radio):
    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return payload


@dataclass(frozen=True)
class Controls:
    """The components behind a `GenerationRequest`, by the names of its fields; `lock` keeps the seed."""

    settings: dict[str, Component]
    lock: gr.Checkbox
    dice: gr.Button

    @property
    def inputs(self) -> list[Component]:
        """The components whose values `read` takes, in its order."""
        return list(self.settings.values())

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the values of `inputs` as keyword arguments of a `GenerationRequest`, which judges them.

        Raises:
            ValueError: a field is empty.
        """
        read = dict(zip(self.settings, values, strict=True))
        empty = next((name for name, value in read.items() if value is None), None)
        if empty is not None:
            raise ValueError(f"{str(self.settings[empty].label).split(',')[0]} is empty: give it a value.")
        return read

    def show(self, request: GenerationRequest) -> dict[Component, Any]:
        """Return what puts the settings of a request into the components."""
        return {component: getattr(request, name) for name, component in self.settings.items()}


def build_controls(covariates: CovariateConfig, shown: GenerationRequest) -> Controls:
    """Build the controls in the current layout, set as in the request `shown`."""
    settings: dict[str, Component] = {}
    with gr.Row(elem_classes="fields"):
        settings["guidance_scale"] = _Slider(
            0.0,
            3.0,
            shown.guidance_scale,
            step=0.1,
            label="Guidance",
            info="0 ignores the drawing, 1 follows it.",
            elem_id="guidance",
        )
        settings["num_inference_steps"] = _Slider(
            4,
            _MOST_STEPS,
            shown.num_inference_steps,
            step=1,
            label="Steps",
            info="More take longer.",
            elem_id="steps",
        )
    with gr.Row(elem_id="seed-row"):
        settings["seed"] = _Number(
            shown.seed,
            precision=0,
            minimum=SEED_RANGE[0],
            maximum=SEED_RANGE[1],
            label="Seed",
            info="One seed is one brain: keep it to see what the drawing alone changes.",
            elem_id="seed",
        )
        dice = gr.Button("New seed", elem_id="dice", min_width=0)
        lock = gr.Checkbox(True, label="Keep this seed", container=False, elem_id="lock", min_width=0)
    settings["compare"] = gr.Checkbox(
        shown.compare,
        label="Also without control",
        info="The same noise without the drawing, side by side.",
        elem_id="compare",
    )
    with gr.Accordion("The person", open=False, elem_id="person"), gr.Row(elem_classes="fields"):
        settings["sex"] = _Radio([(sex.capitalize(), sex) for sex in SEXES], value=shown.sex, label="Sex")
        settings["age"] = _Slider(*AGE_RANGE, shown.age, step=1, label="Age, years", elem_id="age")
        settings["ventricular_volume"] = _Slider(
            0.0,
            1.0,
            shown.ventricular_volume,
            step=0.01,
            label="Ventricular volume",
            info=_say_range(covariates.ventricular_ml),
            elem_id="ventricular-volume",
        )
        settings["brain_volume"] = _Slider(
            0.0,
            1.0,
            shown.brain_volume,
            step=0.01,
            label="Brain volume",
            info=_say_range(covariates.brain_ml),
            elem_id="brain-volume",
        )
    with gr.Accordion("Solver and control window", open=False, elem_id="solver"), gr.Row(elem_classes="fields"):
        settings["sampler"] = _Radio(
            [(kind.title, kind.name) for kind in SOLVERS.values()],
            value=shown.sampler,
            label="Solver",
            elem_id="sampler",
        )
        settings["control_start"] = _Slider(
            0.0, 1.0, shown.control_start, step=0.05, label="Control from", info="0 is pure noise."
        )
        settings["control_end"] = _Slider(
            0.0, 1.0, shown.control_end, step=0.05, label="Control until", info="1 is the finished volume."
        )
    dice.click(None, None, settings["seed"], js=_DICE_JS, api_visibility="private")
    return Controls(settings, lock, dice)


def draw_seed() -> int:
    """Return a new random seed."""
    return secrets.randbelow(SEED_RANGE[1] + 1)


def _say_range(milliliters: tuple[float, float] | None) -> str:
    if milliliters is None:
        return "From the smallest to the largest that the model has seen."
    low, high = milliliters
    return f"0 is {low:.0f} ml, 1 is {high:.0f} ml."
