"""What stands on the page as a whole: what it opens on, and what a click on an example puts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.modalities.names import TUMOR
from vcm.pipeline import Pipeline
from vcm.recipe import RecipeError, check_environment, request_from_recipe
from vcm.registration.placement import find_placement_between, move_back
from vcm.request import GenerationRequest
from vcm.ui import words
from vcm.ui.canvas.slice_canvas import SliceCanvasData
from vcm.ui.palette import Palette
from vcm.ui.sections.examples import Example
from vcm.ui.sections.scan_uploads import FILL, find_placement, find_scans, keep_scan
from vcm.ui.views import FilesView, ResultView, view_drawing, view_files, view_result

ROUNDED_NOTE = "The files of an example hold 8 bits; press Generate for full precision."


@dataclass(frozen=True)
class Content:
    """A drawing with its settings, and the result of both where there is one.

    Attributes:
        request: the settings.
        drawing: of the editor.
        wanted: modalities that are followed.
        others: label maps beside the drawing, (X, Y, Z) on the model grid, by modality.
        status: the sentence that introduces it.
        result: in slices and words.
        files: to download, and the 3-D view.
    """

    request: GenerationRequest
    drawing: SliceCanvasData
    wanted: frozenset[str]
    status: str
    others: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    result: ResultView | None = None
    files: FilesView | None = None


def show_nothing(pipeline: Pipeline, palette: Palette, folder: Path) -> Content:
    """Return an empty drawing, for a model without an example."""
    thing = "a tumor" if palette.modality == TUMOR else "labels"
    return Content(
        request=GenerationRequest(),
        drawing=view_drawing(pipeline.grid, palette, folder),
        wanted=frozenset([palette.modality]),
        status=f"Ready: draw {thing}, or generate a brain first and draw on it.",
    )


def show_recipe(recipe: Mapping[str, Any], pipeline: Pipeline, palette: Palette, folder: Path) -> Content:
    """Return the drawing and the settings of a run that somebody made, ready to be generated again.

    Its scans must have been dropped in this session before, since a recipe holds them by a checksum only.

    Raises:
        VolumeError, ValueError: the recipe is damaged, or its conditions are not for this model.
    """
    scans = find_scans(folder)
    request = request_from_recipe(recipe, scans)
    prepared = pipeline.prepare(request)
    try:
        notes = check_environment(recipe, pipeline.environment)
    except RecipeError:
        notes = ("It was made with other weights, so its voxels will differ.",)
    for name in prepared.keys() & scans.keys():
        restored = request.conditions[name]  # in the exact place that the recipe gives
        native = move_back(scans[name], find_placement(folder, name))
        keep_scan(folder, name, restored, find_placement_between(native, restored, request.placement))
    if request.fill is not None:
        keep_scan(folder, FILL, request.fill)
    conditions = {name: each.volume.array for name, each in prepared.items() if each.scan is None}
    others = {name: labels for name, labels in conditions.items() if name != palette.modality}
    return Content(
        request=request,
        drawing=view_drawing(pipeline.grid, palette, folder, others=others, mask=conditions.get(palette.modality)),
        wanted=frozenset(prepared) | ({FILL} if request.fill is not None else set()),
        status=" ".join(("The recipe is restored: press Generate.", *notes)),
        others=others,
    )


def show_example(example: Example, pipeline: Pipeline, palette: Palette, folder: Path) -> Content:
    """Return an example: its drawing and settings, and its volumes where this very model made them.

    Raises:
        VolumeError, ValueError: a file is missing or damaged, or the conditions are not for this model.
    """
    conditions = {name: each.volume.array for name, each in pipeline.prepare(example.request).items()}
    others = {name: labels for name, labels in conditions.items() if name != palette.modality}
    result = example.load_result() if example.is_of(pipeline.environment) else None
    brain = None if result is None or result.uncontrolled is None else result.uncontrolled.array
    drawing = view_drawing(
        pipeline.grid, palette, folder, brain=brain, others=others, mask=conditions.get(palette.modality)
    )
    if result is None:
        status = f"{example.title}: press Generate to see it with this model."
    else:
        told = words.verdict(result.adherence) if result.conditions else ""
        status = " ".join(
            filter(None, (f"{example.title}, a finished example.", told, "Change something and generate."))
        )
    return Content(
        request=example.request,
        drawing=drawing,
        wanted=frozenset(conditions),
        status=status,
        others=others,
        result=None if result is None else view_result(result, palette, folder),
        # Beside the runs of the visit, whose files those of examples shall not push out.
        files=None if result is None else view_files(result, palette, folder / "example"),
    )
