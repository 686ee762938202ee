"""The page: where everything stands; what it does is wired in `app`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from vcm.modalities.names import PARTIAL, TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.model.config import CovariateConfig
from vcm.ui import words
from vcm.ui.assist import build_assist
from vcm.ui.canvas.label_maps import pack_labels
from vcm.ui.canvas.slice_canvas import SliceCanvas, SliceCanvasData
from vcm.ui.learn.lesson_section import LessonSection, Teaching, build_lesson_section
from vcm.ui.learn.tour import TOUR_BUTTON
from vcm.ui.palette import Palette
from vcm.ui.scene.scene import Scene
from vcm.ui.sections.content import ROUNDED_NOTE, Content
from vcm.ui.sections.controls import Controls, build_controls
from vcm.ui.sections.examples import Example
from vcm.ui.sections.history import History, build_history
from vcm.ui.sections.lesion_builder import LesionBuilder, build_lesion_builder
from vcm.ui.sections.live import Live, build_live
from vcm.ui.sections.scan_uploads import ScanUploads, build_scan_uploads
from vcm.ui.sections.share_link import ShareLink, build_share_link
from vcm.ui.sections.widgets import build_example_strip, build_view_switch
from vcm.ui.views import PAIR_TITLES, FilesView, Shown

_LINK = "studio"  # editor and viewers share one crosshair


@dataclass(frozen=True)
class Page:
    """The components that handlers read and write.

    `uses` and `uploads` are by modality: whether a condition is followed, and where its file is dropped. `uploaded`
    keeps the maps that were uploaded but are not drawn on, `shown` the last finished result. `scans` are the components
    of the image conditions alone. `lesion` is None where no tumor is drawn; `live` is the
    quick run after each stroke. `downloads` are by file name. `history` are the finished
    runs of the visit, `share` is the link to what the page is set to.
    """

    examples: gr.HTML
    editor: SliceCanvas
    lesion: LesionBuilder | None
    uses: dict[str, gr.Checkbox]
    uploads: dict[str, gr.File]
    uploaded: gr.State
    scans: ScanUploads
    controls: Controls
    viewer: SliceCanvas
    pair: tuple[SliceCanvas, SliceCanvas]
    pair_headings: tuple[gr.HTML, gr.HTML]
    scene: Scene
    adherence: gr.HTML
    downloads: dict[str, gr.DownloadButton]
    download_note: gr.HTML
    history: History
    share: ShareLink
    recipe: gr.File
    shown: gr.State
    lessons: LessonSection
    live: Live
    status: gr.HTML
    estimate: gr.HTML
    generate: gr.Button
    cancel: gr.Button


def build_layout(
    *,
    model_name: str,
    device: str,
    models: str,
    covariates: CovariateConfig,
    modalities: Sequence[str],
    images: Sequence[str],
    palette: Palette,
    examples: Sequence[Example],
    content: Content,
    estimate: float | None,
    teaching: Teaching,
) -> Page:
    """Build the page inside the current `gr.Blocks`.

    Args:
        model_name: of the loaded model.
        device: the kind that it runs on.
        models: which models there are, as HTML.
        covariates: what 0 and 1 stand for.
        modalities: the label modalities of the model, the drawn one first.
        images: the modalities of the model that are scans.
        palette: of the drawn modality.
        examples: for the strip at the top.
        content: what the page opens on.
        estimate: about how many seconds a run of it takes.
        teaching: what the lessons below the studio open on.
    """
    result, files = content.result, content.files
    draws_tumor = modalities[0] == TUMOR
    with gr.Row(elem_id="head"):
        gr.HTML(_masthead(model_name, device, draws_tumor), elem_id="masthead")
        strip = build_example_strip(examples)
    with gr.Row(elem_id="workspace"):
        with gr.Column(elem_id="condition", min_width=0):
            drawing = (
                "Draw a tumor over the brain, or drop a mask." if draws_tumor else "Draw labels, or drop a label map."
            )
            gr.HTML(_heading(1, "Condition", drawing))
            editor = SliceCanvas(
                content.drawing,
                editable=True,
                link_group=_LINK,
                layered_brush=palette.layered_brush,
                hint=palette.hint,
                warn_below=words.too_small(teaching.calibration) if draws_tumor else None,
                kept_as=palette.modality,
                label="Drawing",
                elem_id="editor",
            )
            lesion = build_lesion_builder() if draws_tumor else None
            uses, uploads, uploaded = _build_conditions(modalities, content)
            scans = build_scan_uploads(images, content.wanted)
            _tell_absent((*modalities, *images))
        with gr.Column(elem_id="sample", min_width=0):
            gr.HTML(_heading(2, "Sample", "Who the brain belongs to, and how it is drawn from noise."))
            with gr.Column(elem_id="controls", min_width=0):
                controls = build_controls(covariates, content.request)
            gr.HTML(models, elem_id="models")
        with gr.Column(elem_id="look", min_width=0):
            gr.HTML(_heading(3, "Look", "Controlled: with the drawing. Uncontrolled: the same noise without it."))
            build_view_switch({"slices": "Slices", "pair": "Side by side", "scene": "3D"}, target="look")
            viewer = SliceCanvas(
                result.viewer if result else None,
                link_group=_LINK,
                label="Result",
                empty_text="Draw something and press Generate: the volume appears here while it forms.",
                elem_id="viewer",
            )
            with gr.Row(elem_id="pair"):
                shown = (result.controlled, result.uncontrolled) if result else (None, None)
                halves = [_build_half(title, value) for title, value in zip(PAIR_TITLES, shown, strict=True)]
            scene = Scene(files.scene if files else None, elem_id="scene")
            downloads, download_note = _build_downloads((*modalities, *images), files)
            adherence = gr.HTML(result.adherence if result else "", elem_id="adherence")
            gr.HTML(words.ceilings(teaching.calibration), elem_id="ceilings")
            history = build_history()
            with gr.Column(elem_classes=["modality", "restore"], min_width=0):
                share = build_share_link()
                recipe = gr.File(label="Recipe", file_types=[".json"], elem_id="upload-recipe")
    lessons = build_lesson_section(teaching)
    with gr.Column(elem_id="action-bar", min_width=0):
        with gr.Row(elem_id="actions"):
            status = gr.HTML(words.status(content.status), elem_id="status")
            estimated = gr.HTML(words.note(words.estimate(estimate)), elem_id="estimate")
            live = build_live()
            generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=0)
            cancel = gr.Button("Cancel", visible=False, elem_id="cancel", min_width=0)
        gr.HTML(f"<p>{escape(words.limits(model_name))}</p>", elem_id="limits")
    build_assist()
    return Page(
        examples=strip,
        editor=editor,
        lesion=lesion,
        uses=uses | scans.uses,
        uploads=uploads | scans.uploads,
        scans=scans,
        uploaded=uploaded,
        controls=controls,
        viewer=viewer,
        pair=(halves[0][1], halves[1][1]),
        pair_headings=(halves[0][0], halves[1][0]),
        scene=scene,
        adherence=adherence,
        downloads=downloads,
        download_note=download_note,
        history=history,
        share=share,
        recipe=recipe,
        shown=gr.State(Shown(result, files, ROUNDED_NOTE) if result and files else None),
        lessons=lessons,
        live=live,
        status=status,
        estimate=estimated,
        generate=generate,
        cancel=cancel,
    )


def _masthead(model_name: str, device: str, draws_tumor: bool) -> str:
    purpose = (
        "Draw a tumor and get a 3D brain MRI that has it there."
        if draws_tumor
        else "Draw a label map and get a 3D brain MRI that follows it."
    )
    kind = "GPU" if device == "cuda" else device.upper()
    return (
        '<header class="masthead"><h1>VCM Studio</h1>'
        f"<p>{purpose} {TOUR_BUTTON}</p>"
        f'<span class="badge" title="Model and device">{escape(model_name)} &middot; {escape(kind)}</span></header>'
    )


def _heading(number: int, title: str, text: str) -> str:
    return f'<header class="heading"><h2><span>{number}</span>{title}</h2><p>{text}</p></header>'


def half_heading(title: str) -> str:
    """Return the heading of one half of the pair."""
    return f'<h3 class="half">{escape(title)}</h3>'


def _build_half(title: str, value: SliceCanvasData | None) -> tuple[gr.HTML, SliceCanvas]:
    with gr.Column(min_width=0):
        heading = gr.HTML(half_heading(title))
        return heading, SliceCanvas(
            value,
            link_group=_LINK,
            label=title,
            empty_text="Generate with the comparison to see both.",
            elem_id=f"pair-{title.lower()}",
        )


def _build_conditions(
    modalities: Sequence[str], content: Content
) -> tuple[dict[str, gr.Checkbox], dict[str, gr.File], gr.State]:
    uses: dict[str, gr.Checkbox] = {}
    uploads: dict[str, gr.File] = {}
    with gr.Row(elem_id="modalities"):
        for index, name in enumerate(modalities):
            is_wanted = name in content.wanted
            with gr.Column(elem_classes="modality", min_width=0):
                uses[name] = gr.Checkbox(
                    value=is_wanted,
                    label=f"Follow the {MODALITIES[name].title.lower()} map",
                    info="As drawn above." if index == 0 else "From a file that you drop here.",
                    interactive=index == 0 or is_wanted,
                    elem_id=f"use-{name}",
                )
                uploads[name] = gr.File(
                    label=f"{MODALITIES[name].title} map", file_types=[".nii", ".gz"], elem_id=f"upload-{name}"
                )
    return uses, uploads, gr.State({name: pack_labels(labels) for name, labels in content.others.items()})


def _tell_absent(modalities: Sequence[str]) -> None:
    absent = [modality for name, modality in MODALITIES.items() if name not in modalities and modality.can_be_trained]
    if absent:
        chips = "".join(f'<li aria-disabled="true">{escape(modality.title)}</li>' for modality in absent)
        gr.HTML(
            f'<div class="absent"><ul>{chips}</ul><p>Not in the model that is loaded: it was trained without them.</p>'
            "</div>"
        )


def _build_downloads(
    modalities: Sequence[str], content: FilesView | None
) -> tuple[dict[str, gr.DownloadButton], gr.HTML]:
    titles: dict[str, str] = {"controlled.nii.gz": "Controlled MRI", "uncontrolled.nii.gz": "Uncontrolled MRI"}
    kinds = {name: " map" if MODALITIES[name].kind == "labels" else "" for name in modalities}
    titles |= {f"condition_{name}.nii.gz": f"{MODALITIES[name].title}{kind}" for name, kind in kinds.items()}
    titles |= {"fill.nii.gz": "Made-up region"} if PARTIAL in modalities else {}
    titles["recipe.json"] = "Recipe"
    files = content.files if content else {}
    with gr.Row(elem_id="downloads"):
        buttons = {
            file: gr.DownloadButton(
                title,
                value=str(files[file]) if file in files else None,
                size="sm",
                visible=file in files,
                elem_id=f"download-{file.split('.')[0].replace('_', '-')}",
                min_width=0,
            )
            for file, title in titles.items()
        }
    return buttons, gr.HTML(words.note(ROUNDED_NOTE) if files else "", elem_id="download-note")
