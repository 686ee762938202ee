"""From volumes to what the page shows: values for its components, with files published in a visitor's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.modalities.registry import MODALITIES, show_on_grid
from vcm.model.config import Grid
from vcm.request import GenerationResult
from vcm.ui import words
from vcm.ui.canvas.slice_canvas import Layer, SliceCanvasData, canvas_value, image_layer, publish_volume
from vcm.ui.palette import Palette
from vcm.ui.scene.scene import SceneData, publish_scene
from vcm.ui.sections.run_facts import RunFacts
from vcm.ui.server.session_files import write_downloads

PAIR_TITLES = ("Controlled", "Uncontrolled")
PAIR_HINTS = ("Made with what was drawn.", "Made from the same noise, without what was drawn.")

_MOST_DIFFERENCE = 0.5  # of the intensity range; what differs more is a lesion and may saturate


@dataclass(frozen=True)
class ResultView:
    """A result in slices and in words; `uncontrolled` is None where there is nothing to compare with.

    Where two runs are compared they take the two places, and `titles` names them.
    """

    viewer: SliceCanvasData
    controlled: SliceCanvasData
    uncontrolled: SliceCanvasData | None
    adherence: str
    titles: tuple[str, str] = PAIR_TITLES


@dataclass(frozen=True)
class FilesView:
    """What may come a moment after the slices: the files to download, by name, and the 3-D view."""

    files: Mapping[str, Path]
    scene: SceneData


@dataclass(frozen=True)
class Shown:
    """What a page shows of a finished run, to show it again: the result, its files, and the note beside those.

    `facts` are those of a run of this visit, for its history; an example has none.
    """

    result: ResultView
    files: FilesView
    note: str = ""
    facts: RunFacts | None = None


def _show_all_on_grid(result: GenerationResult) -> GenerationResult:
    uncontrolled = None if result.uncontrolled is None else show_on_grid(result, result.uncontrolled)
    return replace(result, controlled=show_on_grid(result, result.controlled), uncontrolled=uncontrolled)


def view_result(result: GenerationResult, palette: Palette, folder: Path) -> ResultView:
    """Publish a result's volumes and their difference, with the drawn condition over them."""
    result = _show_all_on_grid(result)
    layers = [image_layer("Controlled", result.controlled.array, folder, hint=PAIR_HINTS[0])]
    if result.uncontrolled is not None:
        difference = result.controlled.array - result.uncontrolled.array
        layers += [
            image_layer("Uncontrolled", result.uncontrolled.array, folder, hint=PAIR_HINTS[1], is_outlined=True),
            view_difference(difference, ("the controlled volume", "the uncontrolled one"), folder),
        ]
    drawn = result.conditions.get(palette.modality)
    affine, shape = result.controlled.affine, result.controlled.array.shape
    mask = None if drawn is None else drawn.array
    return ResultView(
        viewer=canvas_value(layers, affine, shape, labels=palette.labels, mask=mask, cache_dir=folder),
        controlled=canvas_value(layers[:1], affine, shape),  # side by side, nothing stands before the images
        uncontrolled=None if result.uncontrolled is None else canvas_value(layers[1:2], affine, shape),
        adherence=words.adherence(result.adherence) if result.conditions else words.nothing_measured(),
    )


def view_files(result: GenerationResult, palette: Palette, folder: Path) -> FilesView:
    """Write a result's files and its 3-D view."""
    return FilesView(write_downloads(result, folder), publish_scene(_show_all_on_grid(result), palette, folder))


def view_preview(
    preview: NDArray[np.uint8], drawn: NDArray[np.uint8] | None, grid: Grid, palette: Palette, folder: Path
) -> SliceCanvasData:
    """Publish a volume in the making, (X, Y, Z), under the name of what it will become, with what was drawn over it."""
    layer = Layer(name="Controlled", file=publish_volume(preview, folder))
    return canvas_value([layer], grid.affine, grid.shape, labels=palette.labels, mask=drawn, cache_dir=folder)


def view_quick(result: GenerationResult, palette: Palette, folder: Path) -> SliceCanvasData:
    """Publish the controlled volume of a result and nothing else, with what was drawn over it."""
    volume = show_on_grid(result, result.controlled)
    drawn = result.conditions.get(palette.modality)
    layers, mask = [image_layer("Controlled", volume.array, folder)], None if drawn is None else drawn.array
    return canvas_value(layers, volume.affine, volume.array.shape, labels=palette.labels, mask=mask, cache_dir=folder)


def view_drawing(
    grid: Grid,
    palette: Palette,
    folder: Path,
    *,
    brain: NDArray[np.float32] | None = None,
    others: Mapping[str, NDArray[np.uint8]] | None = None,
    mask: NDArray[np.uint8] | None = None,
) -> SliceCanvasData:
    """Return what the editor shows: a healthy brain, other label maps to switch to, and the drawing over both.

    Args:
        grid: of the model.
        palette: of the drawn modality.
        folder: of the session.
        brain: (X, Y, Z) in [0, 1], or None while there is none.
        others: label maps that are conditions but not drawn on, by modality.
        mask: the drawing, or None for an empty one.
    """
    layers = [view_background(np.zeros(grid.shape, np.float32) if brain is None else brain, folder)]
    layers += [view_label_background(name, labels, folder) for name, labels in (others or {}).items()]
    drawn = np.zeros(grid.shape, np.uint8) if mask is None else mask
    return canvas_value(layers, grid.affine, grid.shape, labels=palette.labels, mask=drawn, cache_dir=folder)


def view_difference(difference: NDArray[np.float32], names: Sequence[str], folder: Path) -> Layer:
    """Return the first of two volumes less the second, (X, Y, Z) in -1 to 1, as a layer.

    Args:
        names: of the two, as a sentence names them.
    """
    first, second = names
    limits = (-_MOST_DIFFERENCE, _MOST_DIFFERENCE)
    hint = f"Orange: {first} is brighter. Blue: {second} is brighter."
    return image_layer("Difference", difference, folder, value_range=limits, colormap="diverging", hint=hint)


def view_background(brain: NDArray[np.float32], folder: Path) -> Layer:
    """Return the brain that is drawn on."""
    return image_layer("Brain", brain, folder)


def view_label_background(modality: str, labels: NDArray[np.uint8], folder: Path) -> Layer:
    """Return a label map as a gray picture under the drawing, since the palette is the drawing's."""
    return image_layer(MODALITIES[modality].title, labels, folder, value_range=(0.0, max(1.0, float(labels.max()))))
