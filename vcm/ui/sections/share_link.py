"""A link to what the page is set to: all of it in the fragment, which no browser puts into a request."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from vcm.modalities.registry import MODALITIES
from vcm.recipe import save_recipe
from vcm.recipe_link import PackedRecipe, left_out, pack_recipe, unpack_recipe
from vcm.ui import words
from vcm.ui.canvas.label_maps import UploadedMaps
from vcm.ui.canvas.slice_canvas import SliceCanvasData
from vcm.ui.server.failures import FORESEEN, explain
from vcm.ui.server.session_files import session_folder

if TYPE_CHECKING:
    from vcm.ui.actions import Actions
    from vcm.ui.layout import Page

Updates = dict[Component, Any]  # known at run time, too: by their annotations Gradio finds what to pass to handlers

_HERE = Path(__file__).parent
_FOLDER = "share"


class LinkField(gr.HTML):
    """Shows a link and copies it; opens the one that the page was opened with.

    Value: `text` of a `PackedRecipe`, `note` on what it holds, and `id`, since the same link may be asked for twice;
    None before the first. "submit" brings the `text` of the link that the page was opened with.
    """

    def __init__(self, **layout: Any) -> None:
        super().__init__(
            html_template=(_HERE / "share_link.html").read_text(encoding="utf-8"),
            css_template=(_HERE / "share_link.css").read_text(encoding="utf-8"),
            js_on_load=(_HERE / "share_link.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **layout,
        )


@dataclass(frozen=True)
class ShareLink:
    """The button that makes a link, the field that shows it, and the file for a drawing that fits into none."""

    make: gr.Button
    field: LinkField
    recipe: gr.DownloadButton


def build_share_link() -> ShareLink:
    """Build them in the current layout."""
    make = gr.Button("Copy a link to this drawing and its settings", size="sm", elem_id="share", min_width=0)
    field = LinkField(elem_id="share-link")
    recipe = gr.DownloadButton(
        "Recipe with drawing and settings", size="sm", visible=False, elem_id="share-recipe", min_width=0
    )
    return ShareLink(make, field, recipe)


def wire_share_link(page: Page, actions: Actions, outputs: Sequence[Component], **event: Any) -> None:
    """Make the link do what it says, inside the `gr.Blocks` of the page.

    Args:
        page: the components.
        actions: read and restore what the page is set to.
        outputs: what a restored recipe may change.
        event: how its handlers run.
    """
    share = page.share
    share.make.click(
        _maker(page, actions),
        actions.inputs(),
        [share.field, share.recipe, page.status],
        js=page.editor.flush_js(0),
        **event,
    )
    share.field.submit(_opener(page, actions), page.editor, list(outputs), **event)


def _maker(page: Page, actions: Actions) -> Any:
    def make_link(
        request: gr.Request, drawing: SliceCanvasData | None, uploaded: UploadedMaps | None, *values: Any
    ) -> Updates:
        """Put what the page is set to into a link, with the seed that it shows, and say what did not fit."""
        share, folder = page.share, session_folder(request)
        try:
            recipe = actions.describe(folder, drawing, uploaded, *values)
            packed = pack_recipe(recipe)
            updates: Updates = {share.recipe: gr.update(value=None, visible=False)}
            if packed.too_large:
                path = folder / _FOLDER / "recipe.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_recipe(recipe, path)
                updates[share.recipe] = gr.update(value=str(path), visible=True)
        except FORESEEN as error:
            return {page.status: words.status(explain(error), kind="error")}
        return updates | {share.field: {"text": packed.text, "note": _say(packed), "id": secrets.token_hex(4)}}

    return make_link


def _opener(page: Page, actions: Actions) -> Any:
    def open_link(drawing: SliceCanvasData | None, event: gr.EventData, request: gr.Request) -> Updates:
        """Put what the link of the page holds on the page, checked as a dropped recipe is."""
        try:
            recipe = unpack_recipe(str(getattr(event, "text", "")))
            updates = actions.restore(recipe, drawing, request)
        except FORESEEN as error:
            return {page.status: words.status(explain(error), kind="error")}
        missing = _name(left_out(recipe))
        told = f" It came without {missing}: draw or drop that here." if missing else ""
        return updates | {page.status: words.status(f"The link is restored: press Generate.{told}")}

    return open_link


def _say(packed: PackedRecipe) -> str:
    if packed.too_large:
        what = _name(packed.too_large)
        return f"It holds the settings without {what}, too large for a link: send the recipe file below instead."
    if packed.scans:
        return f"It holds drawing and settings, but no scan: {_name(packed.scans)} has to be dropped again."
    return "It holds the drawing and all settings."


def _name(names: Sequence[str]) -> str:
    return " and ".join(f"the {_title(name)}" for name in names)


def _title(name: str) -> str:
    """Return a modality's title as a thing that can be dropped: "Tumor map", "T2 scan", "Thick slices"."""
    title, thing = MODALITIES[name].title, "map" if MODALITIES[name].kind == "labels" else "scan"
    return title if title.endswith((thing, "slices")) else f"{title} {thing}"
