"""The 3-D view as a Gradio component: a figure that arrives by URL, and a camera that survives every update."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioModel
from gradio.events import Events

from vcm.modalities.names import ANATOMY, TUMOR
from vcm.render.surface import (
    Part,
    brain_from_anatomy,
    find_brain,
    found_part,
    label_parts,
    plotly_script,
    render_scene,
    scene_json,
    tumor_parts,
)
from vcm.request import GenerationResult
from vcm.ui.palette import Palette
from vcm.ui.server.value_schema import describe_value

_HERE = Path(__file__).parent
_GZIP_LEVEL = 5


class SceneData(GradioModel):
    """What the view shows: `figure` is a gzipped Plotly figure as JSON; `script` is plotly.js."""

    figure: FileData
    script: FileData


class Scene(gr.HTML):
    """A rotatable Plotly figure that nothing is fetched for until it is looked at.

    Value: a `SceneData` of `publish_scene`, or None for an empty stage.
    """

    EVENTS = [Events.change]  # noqa: RUF012 (Gradio declares it as an instance attribute)
    data_model = SceneData

    def __init__(self, value: SceneData | None = None, **layout: Any) -> None:
        gr.set_static_paths([plotly_script()])  # served where it lies, not copied for every figure
        super().__init__(
            value=value,
            html_template=(_HERE / "scene.html").read_text(encoding="utf-8"),
            css_template=(_HERE / "scene.css").read_text(encoding="utf-8"),
            js_on_load=(_HERE / "scene.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **layout,
        )

    def preprocess(self, payload: SceneData | None) -> None:  # type: ignore[override]
        """Take nothing from the browser."""

    def postprocess(self, value: SceneData | None) -> SceneData | None:  # type: ignore[override]
        """Pass on the value; Gradio turns its files into URLs."""
        return value

    def api_info(self) -> dict[str, Any]:
        """The JSON schema of `SceneData`."""
        return describe_value(SceneData)

    def example_payload(self) -> None:
        """No example: a value needs published files."""

    def example_value(self) -> None:
        """No example: a value needs published files."""


def publish_scene(result: GenerationResult, palette: Palette, folder: Path) -> SceneData:
    """Write the 3-D view of a result where the page can fetch it.

    The brain's surface is that of the anatomy which the segmenter found, or of the volume itself where the model has
    no segmenter.

    Args:
        result: what to show.
        palette: of the condition that is drawn on the page.
        folder: inside Gradio's cache.
    """
    found = result.segmentation or {}
    brain = brain_from_anatomy(found[ANATOMY], found.get(TUMOR)) if ANATOMY in found else None
    if brain is None or not brain.any():
        brain = find_brain(result.controlled)
    parts: list[Part] = []
    drawn = result.conditions.get(palette.modality)
    if drawn is not None:
        parts = (
            tumor_parts(drawn.array)
            if palette.modality == TUMOR
            else label_parts(drawn.array, palette.names, palette.colors)
        )
    if TUMOR in found:
        parts.append(found_part(found[TUMOR].array))
    text = scene_json(render_scene(brain, parts, result.controlled.affine)).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scene-{hashlib.sha256(text).hexdigest()[:24]}.json.gz"
    path.write_bytes(gzip.compress(text, _GZIP_LEVEL, mtime=0))
    return SceneData(figure=FileData(path=str(path)), script=FileData(path=str(plotly_script())))
