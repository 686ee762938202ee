"""Scans that a visitor drops: their upload, their checkbox, and a picture of what the model sees of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from vcm.modalities.names import FILL, PARTIAL
from vcm.modalities.registry import MODALITIES, get_scan_modality, prepare_condition
from vcm.modalities.scans import read_values
from vcm.model.config import Grid
from vcm.registration.placement import as_placement, move_along
from vcm.registration.register import place_head, template_brain
from vcm.render.slices import render_slice
from vcm.request import Placement
from vcm.ui import words
from vcm.ui.canvas.slice_canvas import Layer, SliceCanvasData, image_layer
from vcm.ui.server.failures import FORESEEN, explain
from vcm.ui.server.session_files import one_at_a_time, session_folder, upload_time
from vcm.volume import Volume
from vcm.volume.volume import as_labels
from vcm.whole_files import write_whole

if TYPE_CHECKING:
    from vcm.pipeline import Pipeline


_FOLDER = "scans"
_PICTURE_PIXELS = 96
_BRAIN_COLORS = ("#ffb000",)
_SEEN = "What the model sees"
_WHOLE = "The scan as the model would see it; what is made up, the drawn tumor and 6 mm around it, is cut out of it"
_MOVED = "What the model sees, moved to template space; outlined, the template's brain"
_LEFT = "the patient's left is on the right"
_DROP_MASKS_AFTER = "Masks on its grid are moved with it if they are dropped after it."
_OLD_REGION = "The region that was dropped before is made up in it."
_OWN_CASE = (
    "Scans of your own, alone or with what is drawn. How well a real mask is followed, the command "
    "<code>vcm case</code> measures: it writes a page."
)

Updates = dict[Component, Any]


@dataclass(frozen=True)
class ScanUploads:
    """The components of the image conditions, by modality name, `FILL` among them where there is a partial scan.

    `uses` tell whether a scan is followed, `uploads` are where it is dropped, `seen` shows what the model sees of it.
    """

    uses: dict[str, gr.Checkbox] = field(default_factory=dict)
    uploads: dict[str, gr.File] = field(default_factory=dict)
    seen: dict[str, gr.HTML] = field(default_factory=dict)

    def read(
        self, wanted: Mapping[str, bool], folder: Path
    ) -> tuple[dict[str, Volume], Volume | None, Placement | None]:
        """Return the scans that are ticked, the region of the partial one where that is, and how they were moved.

        Raises:
            ValueError: one is ticked that was not dropped, or whose file is gone.
        """
        kept = {}
        for name in self.uses:
            if not wanted.get(name) or (name == FILL and not wanted.get(PARTIAL)):
                continue
            volume = find_scan(folder, name)
            if volume is None:
                raise ValueError(
                    f"The {_name_scan(name)} is ticked, but there is no file for it: drop it or untick it."
                )
            kept[name] = volume
        fill = kept.pop(FILL, None)
        placements = [find_placement(folder, name) for name in kept]
        return kept, fill, placements[0] if placements else None

    def taker(
        self, name: str, grid: Grid, status: gr.HTML, editor: Component
    ) -> Callable[..., Generator[Updates, None, None]]:
        """Return the handler of one drop zone: path, drawing and uploaded maps in, updates out."""

        def take(
            path: str | None, drawing: SliceCanvasData | None, uploaded: object, request: gr.Request
        ) -> Generator[Updates, None, None]:
            if path is None:
                return
            title, folder = _name_scan(name), session_folder(request)
            dropped = upload_time(path)  # the drawing is of then
            try:
                yield {status: words.status(f"Reading the {title} and finding its place\u2026", kind="running")}
                with one_at_a_time(folder):  # scans of a session stay together, so each has to know those before it
                    shown, notes = _take(name, Volume.load(path, labels=name == FILL), grid, folder)
                    updates = self._show(name, shown, notes, folder)
                    if drawing is not None:
                        updates[editor] = add_new_layers(drawing, folder, dropped)
                updates[status] = words.status(f"{title[0].upper()}{title[1:]} taken.", notes, kind="done")
            except FORESEEN as error:
                updates = {self.uploads[name]: None, status: words.status(explain(error), kind="error")}
            finally:
                Path(path).unlink(missing_ok=True)  # its name may be a patient's
            yield updates

        return take

    def _show(self, name: str, shown: Volume | None, notes: Sequence[str], folder: Path) -> Updates:
        """Tick what was taken, show what the model sees of it, if anything, and keep that as a layer of the editor."""
        updates: Updates = {self.uploads[name]: None, self.uses[name]: True}
        if shown is None:
            return updates
        target = PARTIAL if name == FILL else name
        is_moved = find_placement(folder, target) is not None
        caption = _MOVED if is_moved else _SEEN
        if target == PARTIAL and not is_moved and not _is_kept(folder, FILL):
            caption = _WHOLE
        updates[self.seen[target]] = picture(shown, caption, notes, with_brain=is_moved)
        _keep_layer(folder, target, image_layer(MODALITIES[target].title, shown.array, folder))
        return updates


def build_scan_uploads(names: Sequence[str], wanted: frozenset[str] = frozenset()) -> ScanUploads:
    """Build a drop zone for each image modality in the current layout."""
    built = ScanUploads()
    if not names:
        return built
    is_open = bool(wanted & set(names))
    with gr.Accordion("Bring your own case: scans to follow", open=is_open, elem_id="scans"):
        gr.HTML(f'<p class="fine">{_OWN_CASE}</p>')
        with gr.Row(elem_id="scan-modalities"):
            for name in names:
                with gr.Column(elem_classes=["modality", "scan"], min_width=0):
                    _build_one(built, name, f"Follow the {_name_scan(name)}", MODALITIES[name].help)
                    if name == PARTIAL:
                        info = "A mask of what is made up; without it, the drawn tumor and 6 mm around it."
                        _build_one(built, FILL, "Make up this region", info)
                    built.seen[name] = gr.HTML("", elem_id=f"seen-{name}")
    return built


def image_modalities(pipeline: Pipeline) -> list[str]:
    """Return the modalities of the model that are scans."""
    return [name for name in pipeline.modalities if MODALITIES[name].kind == "image"]


def keep_scan(folder: Path, name: str, volume: Volume, placement: Placement | None = None) -> None:
    """Keep a scan for the rest of a session, with every digit of its place, and without its file's name or header.

    Args:
        volume: in template space.
        placement: how it came there, where it lay elsewhere.
    """
    target = folder / _FOLDER / f"{name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(target) as file:
        np.savez(file, array=volume.array, affine=volume.affine, placement=np.array(placement or (), np.float64))


def find_scan(folder: Path, name: str) -> Volume | None:
    """Return a scan that `keep_scan` kept in this session; None where there is none."""
    path = folder / _FOLDER / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return Volume(kept["array"], kept["affine"])


def find_placement(folder: Path, name: str) -> Placement | None:
    """Return how a scan that `keep_scan` kept came to template space; None where it lay there, or there is none."""
    path = folder / _FOLDER / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return as_placement(kept["placement"]) or None


def move_with_scans(mask: Volume, folder: Path) -> Volume:
    """Return a mask moved along with the scan of the session on whose grid it lay; else as it lies."""
    return move_along(mask, ((scan, find_placement(folder, name)) for name, scan in find_scans(folder).items()))


def find_scans(folder: Path) -> dict[str, Volume]:
    """Return all scans of a session by modality name."""
    found = {name: find_scan(folder, name) for name, modality in MODALITIES.items() if modality.kind == "image"}
    return {name: volume for name, volume in found.items() if volume is not None}


def _keep_layer(folder: Path, name: str, layer: Layer) -> None:
    with write_whole(folder / _FOLDER / f"{name}.json") as file:
        file.write(layer.model_dump_json().encode())


def _is_kept(folder: Path, name: str) -> bool:
    """Whether a scan or a region is kept, without reading it."""
    return (folder / _FOLDER / f"{name}.npz").is_file()


def add_new_layers(drawing: SliceCanvasData, folder: Path, since: float) -> SliceCanvasData:
    """Return a drawing with the scans that were taken since it was read, which it may lack or hold older ones of.

    Args:
        drawing: as the handler got it.
        folder: of the session.
        since: when the drawing was read, in seconds since the epoch.
    """
    margin = 0.1  # clocks of file systems are coarse
    paths = sorted((folder / _FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime)
    new = [Layer.model_validate_json(path.read_bytes()) for path in paths if path.stat().st_mtime > since - margin]
    names = {layer.name for layer in new}
    return drawing.with_layers([*(layer for layer in drawing.layers if layer.name not in names), *new])


def picture(shown: Volume, caption: str = _SEEN, notes: Sequence[str] = (), *, with_brain: bool = False) -> str:
    """Return what the model sees, float32 in [0, 1] on its grid, as a small picture of the three planes.

    Args:
        notes: what had to be said of the scan, listed beneath.
        with_brain: outline the brain of the template, to show how well a scan that was moved fits it.
    """
    brain = Volume(template_brain(Grid(shown.array.shape, shown.affine)), shown.affine) if with_brain else None
    planes = [
        render_slice(shown, plane, labels=brain, colors=_BRAIN_COLORS, height=_PICTURE_PIXELS, fill_opacity=0.0)
        for plane in ("axial", "coronal", "sagittal")
    ]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(planes, axis=1)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    listed = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return (
        f'<figure class="seen"><img alt="Axial, coronal and sagittal slice" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}; {_LEFT}.{f'<ul>{listed}</ul>' if listed else ''}</figcaption></figure>"
    )


def _build_one(built: ScanUploads, name: str, label: str, info: str) -> None:
    built.uses[name] = gr.Checkbox(False, label=label, info=info, elem_id=f"use-{name}")
    built.uploads[name] = gr.File(
        label=_name_scan(name).capitalize(), file_types=[".nii", ".gz"], elem_id=f"upload-{name}"
    )


def _take(name: str, volume: Volume, grid: Grid, folder: Path) -> tuple[Volume | None, tuple[str, ...]]:
    """Judge, place and keep a scan or a region; return what the model sees of it, where it sees anything, and notes."""
    if name == FILL:
        return _take_fill(move_with_scans(volume, folder), grid, folder)
    others = [each for each in MODALITIES if each != name and _is_kept(folder, each)]
    known = [find_placement(folder, each) for each in others]
    own, notes = read_values(name, volume)
    placed = place_head(name, own, known)
    shown, _ = get_scan_modality(name).place(placed.volume, grid)
    notes = (*volume.notes, *notes, *shown.notes, *placed.notes)
    if placed.placement is not None:
        notes += (_DROP_MASKS_AFTER,)
    fill = find_scan(folder, FILL) if name == PARTIAL else None
    if fill is not None:
        fill = move_along(fill, [(placed.volume, placed.placement)])
        seen = prepare_condition(name, placed.volume, grid, fill=fill)  # refused before anything is kept
        keep_scan(folder, FILL, fill)
        shown, notes = seen.volume, (*notes, *(note for note in seen.notes if note not in shown.notes), _OLD_REGION)
    keep_scan(folder, name, placed.volume, placed.placement)
    return shown, notes


def _take_fill(fill: Volume, grid: Grid, folder: Path) -> tuple[Volume | None, tuple[str, ...]]:
    scan = find_scan(folder, PARTIAL)
    if scan is None:
        if not as_labels(fill.array).any():
            raise ValueError("The fill is empty: mark the region that is to be made up.")
        keep_scan(folder, FILL, fill)
        return None, (*fill.notes, "Drop the scan that it belongs to as well.")
    seen = prepare_condition(PARTIAL, scan, grid, fill=fill)
    keep_scan(folder, FILL, fill)
    return seen.volume, seen.notes


def _name_scan(name: str) -> str:
    """Return what a sentence calls a scan, or the region that is made up."""
    if name == FILL:
        return "region"
    title = MODALITIES[name].title
    return title if title.isupper() else title.lower()
