"""Which models there are: the one that is loaded, and how to get the other."""

from __future__ import annotations

import os
from html import escape

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.weights.cost import say_cost
from vcm.weights.pretrained import HOW_TO_GET_PUBLISHED, PUBLISHED, WEIGHTS_VARIABLE

_HOW_TO_START = f"Start the app with --model {PUBLISHED} to use the published model instead."


def render_models(pipeline: Pipeline, problem: str | None = None) -> str:
    """Return the models as HTML: the loaded one, and the published one grayed out where its weights are missing.

    Args:
        pipeline: the loaded model.
        problem: the sentence on why the published model was asked for and could not be loaded.
    """
    loaded = pipeline.config.name
    is_missing = loaded != PUBLISHED and (problem is not None or not os.environ.get(WEIGHTS_VARIABLE))
    names = dict.fromkeys((loaded, PUBLISHED))
    chips = "".join(f"<li{_mark(name, loaded, is_missing)}>{escape(name)}</li>" for name in names)
    request = GenerationRequest()
    if loaded == PUBLISHED:
        steps = request.num_inference_steps
        text = say_cost(pipeline.config, pipeline.device.type, steps, compare=request.compare) or ""
    else:
        text = problem or (HOW_TO_GET_PUBLISHED if is_missing else _HOW_TO_START)
    told = f"<p>{escape(text)}</p>" if text else ""
    if told and not problem and loaded != PUBLISHED:  # a visitor cannot do anything about it
        told = f"<details><summary>Another model</summary>{told}</details>"
    return f'<div class="absent models"><ul>{chips}</ul>{told}</div>'


def _mark(name: str, loaded: str, is_missing: bool) -> str:
    if name == loaded:
        return ' aria-current="true"'
    return ' aria-disabled="true"' if is_missing else ""
