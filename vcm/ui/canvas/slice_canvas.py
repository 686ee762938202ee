"""The three-plane canvas: one Gradio component that edits a label map or shows results, all of it client side.

Python and the browser exchange a small `SliceCanvasData`; voxels travel as gzipped files by URL, never in props.
The browser's half is `slice_canvas.html`, `slice_canvas.css` and the `slice_canvas*.js` beside this file.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import gradio as gr
import numpy as np
from gradio.data_classes import FileData, GradioModel
from gradio.events import Events
from gradio_client.utils import is_http_url_like  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator

from vcm.ui.canvas.volume_files import VolumeFileError, publish_volume, read_volume_file
from vcm.ui.server.value_schema import describe_value

__all__ = [
    "Label",
    "Layer",
    "SliceCanvas",
    "SliceCanvasData",
    "canvas_value",
    "image_layer",
    "label_layer",
    "publish_volume",
    "read_mask",
]

_HERE = Path(__file__).parent
# One script, in this order: each part may use the names of the parts before it.
_SCRIPT_PARTS = (
    "slice_canvas_geometry.js",
    "slice_canvas_volumes.js",
    "slice_canvas_images.js",
    "slice_canvas_keeper.js",
    "slice_canvas_regions.js",
    "slice_canvas_drawing.js",
    "slice_canvas_layout.js",
    "slice_canvas_planes.js",
    "slice_canvas_gestures.js",
    "slice_canvas_controls.js",
    "slice_canvas.js",
)
_MOUNT = "window.vcmSliceCanvas.mount({ element, trigger, props, upload, watch });"
_MOST_VOXELS = 2**26  # a 1 mm whole head is 10 million; this bounds what a forged shape can make the server inflate

Convention = Literal["radiological", "neurological"]
Planes = Literal["auto", "row", "quad", "focus"]
_Extent = Annotated[int, Field(ge=1, le=1024)]
_Row = Annotated[list[float], Field(min_length=4, max_length=4)]


class Label(GradioModel):
    """One entry of the label palette: voxel value `id` (1 to 255), shown name, `#rrggbb` color."""

    id: int = Field(ge=1, le=255)
    name: str = Field(max_length=60)
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")


class Layer(GradioModel):
    """One volume that can be shown: an entry of the viewer's segmented control.

    `file` holds uint8 voxels (see `publish_volume`). For an image they are intensities: 0 stands for
    `value_range[0]` and 255 for `value_range[1]`, in the units that the status line shows. `colormap` "diverging"
    is for signed maps; its range must be symmetric around 0. For `kind` "labels" they are ids of the palette. `hint`
    says what the name means, and over a layer with `is_outlined` labels show their outlines alone.
    """

    name: str = Field(max_length=60)
    file: FileData
    kind: Literal["image", "labels"] = "image"
    colormap: Literal["gray", "diverging"] = "gray"
    value_range: tuple[float, float] = (0.0, 1.0)
    hint: str = Field(default="", max_length=200)
    is_outlined: bool = False


class SliceCanvasData(GradioModel):
    """What the canvas shows and what it sends back.

    `mask` is a label map on the same grid: the drawing in an editor, an overlay in a viewer. An editor replaces what
    the user has drawn only when `mask_revision` changes, so that a handler which returns a value that has become
    stale in the meantime never takes strokes away: `with_layers` keeps the drawing, `with_mask` replaces it.
    """

    shape: tuple[_Extent, _Extent, _Extent]
    affine: Annotated[list[_Row], Field(min_length=4, max_length=4)]
    layers: list[Layer] = Field(default_factory=list, max_length=16)
    labels: list[Label] = Field(default_factory=list, max_length=64)
    mask: FileData | None = None
    mask_revision: str = Field(default_factory=lambda: secrets.token_hex(8), max_length=64)

    @field_validator("shape")
    @classmethod
    def _must_fit_a_browser(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if prod(shape) > _MOST_VOXELS:
            raise ValueError(f"The canvas shows at most {_MOST_VOXELS} voxels.")
        return shape

    @field_validator("affine")
    @classmethod
    def _must_be_invertible(cls, affine: list[list[float]]) -> list[list[float]]:
        matrix = np.asarray(affine, dtype=np.float64)
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
            raise ValueError("The affine must be finite and invertible.")
        return affine

    def with_layers(self, layers: Sequence[Layer]) -> SliceCanvasData:
        """The same value with other images; an editor keeps its drawing and its undo history."""
        return self.model_copy(update={"layers": list(layers)})

    def with_background(self, layer: Layer) -> SliceCanvasData:
        """The same value with another image in the first place, as `with_layers`."""
        return self.with_layers([layer, *self.layers[1:]])

    def with_mask(
        self, mask: NDArray[np.uint8] | FileData | None, cache_dir: str | Path | None = None
    ) -> SliceCanvasData:
        """The same value with another label map (an array needs a `cache_dir`); an editor starts a new history."""
        return self.model_copy(update={"mask": _published_mask(mask, cache_dir), "mask_revision": secrets.token_hex(8)})


class SliceCanvas(gr.HTML):
    """Three linked orthogonal planes that show volumes and, when `editable`, let the user draw labels on them.

    Value: a `SliceCanvasData`, in and out (see `canvas_value`, `read_mask`). In an editor every stroke is uploaded
    about a quarter of a second after it ends and `input` fires; listen with `trigger_mode="always_last"`, since the
    default drops a stroke that ends while the handler of the one before is still running. A button that uses the
    drawing passes `js=editor.flush_js(position)`, and then never misses a stroke that is still on its way.

    Args:
        value: What to show first, or None for an empty stage.
        editable: An editor (brush, eraser, undo) rather than a viewer.
        link_group: Canvases of one page with the same name share crosshair (by millimetres) and convention.
        convention: Which side of the screen the patient's left is shown on; display only, switchable by the user.
        planes: Three planes side by side ("row"), coronal and sagittal over axial and the panel ("quad"), or one large
            plane and two thumbnails ("focus"); "auto" takes the widest that the component has room for.
        layered_brush: A brush of an editor that draws several labels one inside the other, chosen at the start: its
            name, and (label, share of the radius) from the outside in.
        hint: What the labels mean, beside them.
        warn_below: (millilitres, sentence): while an editor's drawing holds less, the sentence takes the hint's place.
        kept_as: The name under which the visitor's browser keeps the drawing of an editor for a day, and brings it back
            when the page is opened anew; None keeps nothing.
        empty_text: The sentence on the stage while there is no volume.
        label: The name of the canvas for screen readers.
        **layout: `elem_id`, `elem_classes`, `visible`, `scale`, `min_width`, `render`, `key` as in `gr.HTML`.
    """

    EVENTS = [Events.input, Events.change]  # noqa: RUF012 (Gradio declares it as an instance attribute)
    data_model = SliceCanvasData

    def __init__(
        self,
        value: SliceCanvasData | None = None,
        *,
        editable: bool = False,
        link_group: str | None = None,
        convention: Convention = "radiological",
        planes: Planes = "auto",
        layered_brush: tuple[str, Sequence[tuple[int, float]]] | None = None,
        hint: str = "",
        warn_below: tuple[float, str] | None = None,
        kept_as: str | None = None,
        empty_text: str = "Nothing to show yet.",
        label: str | None = None,
        **layout: Any,
    ) -> None:
        self.editable = editable
        self.link_group = link_group
        self.convention = convention
        self.planes = planes
        self.layered_brush = layered_brush
        self.hint = hint
        self.warn_below = warn_below
        self.kept_as = kept_as
        self.empty_text = empty_text
        super().__init__(
            value=value,
            label=label,
            html_template=_asset("slice_canvas.html"),
            css_template=_asset("slice_canvas.css"),
            head=f"<script>{_script()}</script>",
            js_on_load=_MOUNT,
            apply_default_css=False,
            editable=editable,
            link_group=link_group,
            convention=convention,
            planes=planes,
            layered_brush=layered_brush and {"name": layered_brush[0], "parts": [list(x) for x in layered_brush[1]]},
            hint=hint,
            warn_below=warn_below and {"ml": warn_below[0], "text": warn_below[1]},
            kept_as=kept_as,
            empty_text=empty_text,
            **layout,
        )

    def flush_js(self, position: int = 0) -> str:
        """JavaScript for an event's `js=`: sends a stroke that is still pending and passes on the newest value.

        Args:
            position: Where this canvas stands among the `inputs` of that event.

        Raises:
            ValueError: The canvas has no `elem_id`, by which the script finds it.
        """
        if not self.elem_id or not re.fullmatch(r"[\w-]+", self.elem_id):
            raise ValueError("flush_js needs a SliceCanvas with an elem_id of letters, digits, '-' and '_'.")
        return (
            "async (...values) => { "
            f"values[{position}] = await window.vcmSliceCanvas.flush('{self.elem_id}', values[{position}]); "
            "return values; }"
        )

    def preprocess(self, payload: SliceCanvasData | None) -> SliceCanvasData | None:  # type: ignore[override]
        """Pass on the value as the browser sent it; its files are uploads or published volumes, checked by Gradio."""
        return payload

    def postprocess(self, value: SliceCanvasData | None) -> SliceCanvasData | None:  # type: ignore[override]
        """Pass on the value; Gradio turns its files into URLs."""
        return value

    def api_info(self) -> dict[str, Any]:
        """The JSON schema of `SliceCanvasData`."""
        return describe_value(SliceCanvasData)

    def example_payload(self) -> None:
        """No example: a value needs published files."""

    def example_value(self) -> None:
        """No example: a value needs published files."""

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuse URLs, also in an app without `vcm.ui.server.guard`: no request leaves because of a forged file."""
        _refuse_url(url_or_file_path)
        return super().move_resource_to_block_cache(url_or_file_path)

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuse URLs, also in an app without `vcm.ui.server.guard`: no request leaves because of a forged file."""
        _refuse_url(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def image_layer(
    name: str,
    array: ArrayLike,
    cache_dir: str | Path,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    colormap: Literal["gray", "diverging"] = "gray",
    hint: str = "",
    is_outlined: bool = False,
) -> Layer:
    """Publish an intensity volume as a layer, in 256 steps from `value_range[0]` to `value_range[1]`.

    Args:
        name: The word on the segmented control, such as "Controlled".
        array: (X, Y, Z), any real type; values outside the range are clipped, NaN becomes the lower end.
        cache_dir: See `publish_volume`.
        value_range: The intensities of the first and the last step; symmetric around 0 for a difference.
        colormap: "gray", or "diverging" (blue, black, orange) for a difference.
        hint: What the name means.
        is_outlined: Whether labels over it show their outlines alone.

    Raises:
        ValueError: The range is empty, or the array is not three-dimensional.
    """
    low, high = (float(v) for v in value_range)
    if not low < high:
        raise ValueError(f"value_range must grow, not go from {low} to {high}.")
    scaled = (np.asarray(array, dtype=np.float32) - low) * (255.0 / (high - low))
    steps = np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)).astype(np.uint8)
    return Layer(
        name=name,
        file=publish_volume(steps, cache_dir),
        colormap=colormap,
        value_range=(low, high),
        hint=hint,
        is_outlined=is_outlined,
    )


def label_layer(name: str, labels: ArrayLike, cache_dir: str | Path) -> Layer:
    """Publish a label map (X, Y, Z), integers 0 to 255, as a layer of its own (an overlay is the value's `mask`)."""
    return Layer(name=name, file=publish_volume(_as_labels(labels), cache_dir), kind="labels")


def canvas_value(
    layers: Sequence[Layer],
    affine: ArrayLike,
    shape: Sequence[int],
    *,
    labels: Sequence[Label | tuple[int, str, str]] = (),
    mask: ArrayLike | FileData | None = None,
    cache_dir: str | Path | None = None,
) -> SliceCanvasData:
    """Put together what a canvas shows.

    Args:
        layers: The volumes, all of one shape; the first is shown.
        affine: (4, 4) voxel to RAS+ mm.
        shape: (X, Y, Z).
        labels: The palette of the mask and of label layers: `Label` or (id, name, "#rrggbb").
        mask: Label map on the same grid (integers, or a published file): the drawing, or the overlay.
        cache_dir: Where an array is published; see `publish_volume`.

    Raises:
        ValueError: The shape, the affine, a label, or the shape of the mask is not valid.
    """
    if isinstance(mask, FileData) or mask is None:
        file = mask
    else:
        if np.shape(mask) != tuple(shape):
            raise ValueError(f"The mask has the shape {np.shape(mask)}, not {tuple(shape)}.")
        file = _published_mask(_as_labels(mask), cache_dir)
    palette = [x if isinstance(x, Label) else Label(id=x[0], name=x[1], color=x[2]) for x in labels]
    x, y, z = (int(n) for n in shape)
    matrix = np.asarray(affine, dtype=np.float64).tolist()
    return SliceCanvasData(shape=(x, y, z), affine=matrix, layers=list(layers), labels=palette, mask=file)


def read_mask(
    value: SliceCanvasData | None,
    *,
    shape: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
) -> NDArray[np.uint8] | None:
    """Read the label map that the canvas sent, bounded in size and checked.

    Args:
        value: What the event handler received.
        shape: The (X, Y, Z) that the server expects: pass the model grid's, since `value.shape` came from a browser.
        labels: The label ids that are allowed beside 0; the palette's when not given.

    Returns:
        (X, Y, Z) uint8 (all 0 after "clear"), or None when there is no mask at all.

    Raises:
        gradio.Error: The file is damaged, of another size, or holds labels that are not allowed.
    """
    if value is None or value.mask is None:
        return None
    grid = tuple(shape) if shape is not None else value.shape
    if tuple(value.shape) != grid:
        raise _refusal(f"The drawing is on a grid of {tuple(value.shape)} voxels, but the model's is {grid}.")
    try:
        mask = read_volume_file(value.mask.path, grid)
    except VolumeFileError as error:
        raise _refusal(str(error)) from error
    allowed = {0, *(labels if labels is not None else (label.id for label in value.labels))}
    unknown = sorted(set(np.unique(mask).tolist()) - allowed)
    if unknown:
        raise _refusal(f"The drawing holds the labels {unknown}, but only {sorted(allowed)} are allowed.")
    return mask


def _as_labels(labels: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(labels)
    if array.size and (array.min() < 0 or array.max() > 255 or not np.array_equal(array, np.rint(array))):
        raise ValueError("Labels must be integers from 0 to 255.")
    return array.astype(np.uint8)


def _published_mask(mask: NDArray[np.uint8] | FileData | None, cache_dir: str | Path | None) -> FileData | None:
    if mask is None or isinstance(mask, FileData):
        return mask
    if cache_dir is None:
        raise ValueError("A mask given as an array needs a cache_dir to be published in.")
    return publish_volume(mask, cache_dir)


def _refuse_url(path: str | Path | None) -> None:
    if path is not None and is_http_url_like(str(path)):
        raise _refusal("A drawing must be uploaded, not linked.")


def _refusal(sentence: str) -> gr.Error:
    """Return an error for the user that leaves no traceback in the log: its paths hold names of uploads."""
    return gr.Error(sentence, print_exception=False)


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _script() -> str:
    body = "\n".join(_asset(part) for part in _SCRIPT_PARTS)
    return f'"use strict";\n(() => {{\nif (window.vcmSliceCanvas) return;\n{body}\n}})();'
