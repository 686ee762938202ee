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

from vcm.conditions import MODALITIES
from vcm.config import Grid
from vcm.scans import place_scan, prepare_scan
from vcm.slices import render_slice
from vcm.ui import words
from vcm.ui.failures import FORESEEN, explain
from vcm.ui.session_files import session_folder
from vcm.ui.slice_canvas import SliceCanvasData, image_layer
from vcm.volume import Volume, as_labels
from vcm.whole_files import write_whole

if TYPE_CHECKING:
    from vcm.pipeline import Pipeline

FILL = "fill"
"""The region that is made up of a partial scan: dropped and ticked like a scan, but part of one."""

_FOLDER = "scans"
_PICTURE_PIXELS = 96
_SCAN_TITLES = {"partial": "partial scan", "lowres": "thick slices", "t2": "T2", "flair": "FLAIR", FILL: "region"}

Updates = dict[Component, Any]


@dataclass(frozen=True)
class ScanUploads:
    """The components of the image conditions, by modality name, `FILL` among them where there is a partial scan.

    `uses` tell whether a scan is followed, `uploads` are where it is dropped, `seen` shows what the model sees of it.
    """

    uses: dict[str, gr.Checkbox] = field(default_factory=dict)
    uploads: dict[str, gr.File] = field(default_factory=dict)
    seen: dict[str, gr.HTML] = field(default_factory=dict)

    def read(self, wanted: Mapping[str, bool], folder: Path) -> tuple[dict[str, Volume], Volume | None]:
        """Return the scans that are ticked, and the region of the partial one where that is ticked, too.

        Raises:
            ValueError: one is ticked that was not dropped, or whose file is gone.
        """
        kept = {}
        for name in self.uses:
            if not wanted.get(name) or (name == FILL and not wanted.get("partial")):
                continue
            volume = find_scan(folder, name)
            if volume is None:
                raise ValueError(
                    f"The {_SCAN_TITLES[name]} is ticked, but there is no file for it: drop it or untick it."
                )
            kept[name] = volume
        fill = kept.pop(FILL, None)
        return kept, fill

    def taker(
        self, name: str, grid: Grid, status: gr.HTML, editor: Component
    ) -> Callable[..., Generator[Updates, None, None]]:
        """Return the handler of one drop zone: path, drawing and uploaded maps in, updates out."""

        def take(
            path: str | None, drawing: SliceCanvasData | None, uploaded: object, request: gr.Request
        ) -> Generator[Updates, None, None]:
            if path is None:
                return
            title, folder = _SCAN_TITLES[name], session_folder(request)
            yield {status: words.status(f"Reading the {title}\u2026", kind="running")}
            try:
                volume = Volume.load(path, labels=name == FILL)
                shown, notes = _take(name, volume, grid, folder)
            except FORESEEN as error:
                yield {self.uploads[name]: None, status: words.status(explain(error), kind="error")}
                return
            finally:
                Path(path).unlink(missing_ok=True)  # its name may be a patient's
            updates: Updates = {
                self.uploads[name]: None,
                self.uses[name]: True,
                status: words.status(f"{title[0].upper()}{title[1:]} taken.", notes, kind="done"),
            }
            target = "partial" if name == FILL else name
            if shown is not None:
                updates[self.seen[target]] = picture(shown)
                if drawing is not None:
                    layer = image_layer(MODALITIES[target].title, shown.array, folder)
                    others = [each for each in drawing.layers if each.name != layer.name]
                    updates[editor] = drawing.with_layers([*others, layer])
            yield updates

        return take


def build_scan_uploads(names: Sequence[str], wanted: frozenset[str] = frozenset()) -> ScanUploads:
    """Build a drop zone for each image modality in the current layout."""
    built = ScanUploads()
    if not names:
        return built
    is_open = bool(wanted & set(names))
    with gr.Accordion("Scans to follow", open=is_open, elem_id="scans"), gr.Row(elem_id="scan-modalities"):
        for name in names:
            with gr.Column(elem_classes=["modality", "scan"], min_width=0):
                _build_one(built, name, f"Follow the {_SCAN_TITLES[name]}", MODALITIES[name].help)
                if name == "partial":
                    info = "A mask of what is made up; without it, the drawn tumor and 6 mm around it."
                    _build_one(built, FILL, "Make up this region", info)
                built.seen[name] = gr.HTML("", elem_id=f"seen-{name}")
    return built


def image_modalities(pipeline: Pipeline) -> list[str]:
    """Return the modalities of the model that are scans."""
    return [name for name in pipeline.modalities if MODALITIES[name].kind == "image"]


def keep_scan(folder: Path, name: str, volume: Volume) -> None:
    """Keep a scan for the rest of a session, with every digit of its place, and without its file's name or header."""
    target = folder / _FOLDER / f"{name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(target) as file:
        np.savez(file, array=volume.array, affine=volume.affine)


def find_scan(folder: Path, name: str) -> Volume | None:
    """Return a scan that `keep_scan` kept in this session; None where there is none."""
    path = folder / _FOLDER / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return Volume(kept["array"], kept["affine"])


def find_scans(folder: Path) -> dict[str, Volume]:
    """Return all scans of a session by modality name."""
    found = {name: find_scan(folder, name) for name, modality in MODALITIES.items() if modality.kind == "image"}
    return {name: volume for name, volume in found.items() if volume is not None}


def picture(shown: Volume) -> str:
    """Return what the model sees, float32 in [0, 1] on its grid, as a small picture of the three planes."""
    planes = [render_slice(shown, plane, height=_PICTURE_PIXELS) for plane in ("axial", "coronal", "sagittal")]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(planes, axis=1)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<figure class="seen"><img alt="Axial, coronal and sagittal slice" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape('What the model sees')}</figcaption></figure>"
    )


def _build_one(built: ScanUploads, name: str, label: str, info: str) -> None:
    built.uses[name] = gr.Checkbox(False, label=label, info=info, elem_id=f"use-{name}")
    built.uploads[name] = gr.File(
        label=_SCAN_TITLES[name].capitalize(), file_types=[".nii", ".gz"], elem_id=f"upload-{name}"
    )


def _take(name: str, volume: Volume, grid: Grid, folder: Path) -> tuple[Volume | None, tuple[str, ...]]:
    """Judge and keep a scan or a region; return what the model sees of it, where it sees anything, and notes."""
    if name not in (FILL, "partial"):
        shown, own = place_scan(name, volume, grid)
        keep_scan(folder, name, own)
        return shown, shown.notes
    fill = volume if name == FILL else find_scan(folder, FILL)
    scan = find_scan(folder, "partial") if name == FILL else volume
    if scan is None:
        if not as_labels(volume.array).any():
            raise ValueError("The fill is empty: mark the region that is to be made up.")
        keep_scan(folder, FILL, volume)
        return None, (*volume.notes, "Drop the scan that it belongs to as well.")
    if name == "partial":
        shown, own = place_scan(name, scan, grid)
        keep_scan(folder, name, own)
        if fill is None:
            return shown, shown.notes
    placed = prepare_scan("partial", scan, grid, fill)
    if name == FILL:
        keep_scan(folder, FILL, volume)
    return placed.volume, placed.notes
