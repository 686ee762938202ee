"""What the history says about a finished run: its settings, how well it follows its drawing, and a small picture."""

from __future__ import annotations

import io
import time
from base64 import b64encode
from dataclasses import dataclass

from PIL import Image

from vcm.modalities.names import TUMOR
from vcm.modalities.registry import MODALITIES, show_on_grid
from vcm.recipe import recipe_key
from vcm.render.slices import render_slice
from vcm.request import GenerationResult
from vcm.ui.palette import Palette

_PICTURE_HEIGHT = 96
_PICTURE_QUALITY = 70


@dataclass(frozen=True)
class RunFacts:
    """A finished run in a few words.

    Attributes:
        key: of its recipe; the same for two runs of the same recipe.
        finished_at: seconds since the epoch.
        seed, guidance_scale, num_inference_steps: of its request.
        conditions: titles of what it follows.
        dice: of the whole tumor, 0 to 1; None where there is nothing to measure.
        picture: one slice through the lesion, as a data URL of some kilobytes.
    """

    key: str
    finished_at: float
    seed: int
    guidance_scale: float
    num_inference_steps: int
    conditions: tuple[str, ...]
    dice: float | None
    picture: str


def describe_run(result: GenerationResult, palette: Palette) -> RunFacts:
    """Return the facts of a result that has just come in."""
    settings = result.recipe["request"]
    measured = (result.adherence or {}).get(TUMOR, {}) if result.conditions else {}
    return RunFacts(
        key=recipe_key(result.recipe),
        finished_at=time.time(),
        seed=settings["seed"],
        guidance_scale=settings["guidance_scale"],
        num_inference_steps=settings["num_inference_steps"],
        conditions=tuple(MODALITIES[name].title for name in result.recipe["conditions"]),
        dice=measured.get("controlled", {}).get("dice", {}).get("whole"),
        picture=_picture(result, palette),
    )


def _picture(result: GenerationResult, palette: Palette) -> str:
    drawn = result.conditions.get(palette.modality)
    picture = render_slice(
        show_on_grid(result, result.controlled),
        labels=drawn,
        colors=palette.colors,
        height=_PICTURE_HEIGHT,
        fill_opacity=0.0,
    )
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=_PICTURE_QUALITY)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode('ascii')}"
