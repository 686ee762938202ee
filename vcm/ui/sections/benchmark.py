"""The page's part of the benchmark: a recipe that is known already, and what the viewers are sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest, GenerationResult
from vcm.runtime.clock import Seconds, clocked, summarize_seconds
from vcm.ui.palette import build_palette, label_modalities
from vcm.ui.scene.scene import publish_scene
from vcm.ui.server.studio import Finished, Studio
from vcm.ui.views import view_preview, view_result


def measure_page(pipeline: Pipeline, request: GenerationRequest, rounds: int) -> dict[str, Any]:
    """Return what a known recipe takes, and each viewer's payload.

    Args:
        pipeline: the model.
        request: with a comparison; run once, and then asked for again.
        rounds: how often each is timed.

    Returns:
        "same_recipe", as `summarize_seconds` returns it, and "payloads": of "slices" (a result's volumes, their
        difference and the drawing), "scene" (the 3D view) and "preview" (one of them) the same, with the "bytes" that
        are sent. "result_bytes" are those of a result's volumes and drawing as they are computed.
    """
    studio = Studio(pipeline)
    result = _finish(studio, request).result
    again = [clocked(pipeline.device, lambda: _expect_remembered(studio, request)) for _ in range(rounds)]
    drawn = next(iter(result.conditions.values()), None)
    volumes = [result.controlled, *(volume for volume in (result.uncontrolled, drawn) if volume is not None)]
    payloads = _list_payloads(pipeline, result)
    return {
        "same_recipe": summarize_seconds(again),
        "payloads": {name: _measure_payload(pipeline, publish, rounds) for name, publish in payloads.items()},
        "result_bytes": sum(volume.array.nbytes for volume in volumes),
    }


def _list_payloads(pipeline: Pipeline, result: GenerationResult) -> dict[str, Callable[[Path], Any]]:
    palette = build_palette(pipeline, label_modalities(pipeline)[0])
    drawn = result.conditions[palette.modality].array
    preview = np.rint(result.controlled.array * 255).astype(np.uint8)
    return {
        "slices": lambda folder: view_result(result, palette, folder),
        "scene": lambda folder: publish_scene(result, palette, folder),
        "preview": lambda folder: view_preview(preview, drawn, pipeline.grid, palette, folder),
    }


def _measure_payload(pipeline: Pipeline, publish: Callable[[Path], Any], rounds: int) -> dict[str, Any]:
    """Return the time of publishing into an empty folder, since what lies there already is not written again."""
    seconds: list[Seconds] = []
    sent = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(clocked(pipeline.device, lambda folder=folder: publish(Path(folder))))  # type: ignore[misc]
            sent = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return summarize_seconds(seconds) | {"bytes": sent}


def _finish(studio: Studio, request: GenerationRequest) -> Finished:
    *_, finished = studio.run(request)
    assert isinstance(finished, Finished)
    return finished


def _expect_remembered(studio: Studio, request: GenerationRequest) -> None:
    assert _finish(studio, request).is_remembered
