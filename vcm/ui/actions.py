"""What happens when a visitor does something: values of components in, updates of components out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from numpy.typing import NDArray

from vcm.modalities.lesion import build_lesion
from vcm.modalities.names import EDEMA, TUMOR
from vcm.modalities.registry import MODALITIES, load_condition
from vcm.recipe import build_recipe, load_recipe
from vcm.request import GenerationRequest
from vcm.ui import words
from vcm.ui.canvas.label_maps import UploadedMaps, pack_labels, unpack_labels
from vcm.ui.canvas.slice_canvas import SliceCanvasData, read_mask
from vcm.ui.layout import Page, half_heading
from vcm.ui.palette import Palette
from vcm.ui.sections.content import ROUNDED_NOTE, Content, show_example, show_recipe
from vcm.ui.sections.controls import draw_seed
from vcm.ui.sections.examples import Example
from vcm.ui.sections.lesion_builder import LesionBuilder
from vcm.ui.sections.live import LIVE_STEPS, Strokes
from vcm.ui.sections.run_facts import describe_run
from vcm.ui.sections.scan_uploads import add_new_layers, move_with_scans
from vcm.ui.server.failures import FORESEEN, explain
from vcm.ui.server.pace import Workload
from vcm.ui.server.session_files import keep_in_use, one_at_a_time, session_folder, upload_time
from vcm.ui.server.studio import Finished, Studio
from vcm.ui.server.worker import Progress
from vcm.ui.views import (
    ResultView,
    Shown,
    show_on_grid,
    view_background,
    view_drawing,
    view_files,
    view_label_background,
    view_preview,
    view_quick,
    view_result,
)
from vcm.volume import Volume

Updates = dict[Component, Any]

_log = logging.getLogger(__name__)


class Actions:
    """The handlers of one page.

    Args:
        studio: runs the requests.
        page: whose components are read and updated.
        palette: of the modality that is drawn.
        examples: that the strip offers.
    """

    def __init__(self, studio: Studio, page: Page, palette: Palette, examples: Sequence[Example]) -> None:
        self._studio = studio
        self._page = page
        self._palette = palette
        self._examples = {example.slug: example for example in examples}
        self._grid = studio.pipeline.grid
        self._strokes = Strokes()

    @property
    def draws_tumor(self) -> bool:
        """Whether it is a tumor that is drawn on this page."""
        return self._palette.modality == TUMOR

    # ---- A run -------------------------------------------------------------------------------------------------------

    def start(self, request: gr.Request) -> Updates:
        """Show at once that the click was received; the run itself may have to wait in the queue."""
        page = self._page
        self._strokes.begin(request.session_hash)  # a quick run that is under way makes room
        return {
            page.status: words.status("Waiting for a free place\u2026", kind="running"),
            page.generate: gr.update(visible=False),
            page.cancel: gr.update(visible=True),
        }

    def stop(self, adherence: str, shown: Shown | None) -> Updates:
        """Bring the Generate button back, and what stood there before a run that came to no end.

        Args:
            adherence: what is said on it at the moment.
            shown: the newest finished result of this visitor.
        """
        page = self._page
        updates: Updates = {page.generate: gr.update(visible=True), page.cancel: gr.update(visible=False)}
        if adherence == words.not_measured_yet():
            updates |= self.show_again(shown) if shown else {page.adherence: words.nothing_finished()}
        return updates

    def cancelled(self, adherence: str, shown: Shown | None) -> Updates:
        """Say that a run was stopped on the visitor's wish; takes what `stop` takes."""
        what = "the volume of before is shown again" if shown else "the viewer shows how far it came"
        return self.stop(adherence, shown) | {self._page.status: words.cancelled(what)}

    def generate(
        self, request: gr.Request, drawing: SliceCanvasData | None, uploaded: UploadedMaps | None, *values: Any
    ) -> Generator[Updates, None, None]:
        """Run what the page is set to, with previews on the way; whatever goes wrong becomes one sentence.

        Args:
            request: of the visitor.
            drawing: of the editor.
            uploaded: maps that were uploaded beside the drawing.
            values: of the modality checkboxes, the seed's lock and the controls, in the order of `inputs`.
        """
        page, folder = self._page, session_folder(request)
        try:
            run = self.read_request(folder, drawing, uploaded, *values)
            yield {page.controls.settings["seed"]: run.seed}
            yield from self._follow(run, drawing, folder)
        except FORESEEN as error:
            yield {page.status: words.status(explain(error), kind="error")}

    def begin_stroke(self, adherence: str, shown: Shown | None, request: gr.Request) -> Updates:
        """Number a stroke and show that it was received; takes the arguments of `stop`."""
        page, number = self._page, self._strokes.begin(request.session_hash)
        return self.stop(adherence, shown) | {page.live.stroke: number, page.status: words.live(LIVE_STEPS)}

    def follow_stroke(self, request: gr.Request, number: int, *values: Any) -> Generator[Updates, None, None]:
        """Run a few steps on a stroke and show the controlled volume alone, unless another stroke came after it.

        The last step's estimate comes first, since decoding takes as long as some steps do.

        Args:
            request: of the visitor.
            number: of the stroke.
            values: what `generate` takes.
        """
        page, folder, started = self._page, session_folder(request), time.monotonic()
        said: Updates = {page.adherence: words.not_measured_quick(), page.download_note: words.files_of_before()}
        yield {page.status: gr.skip()}  # one that ended without a word would empty the status and the viewer
        if not self._strokes.is_newest(request.session_hash, number):
            return
        try:
            run = self.read_request(folder, *values)
            run = replace(run, num_inference_steps=LIVE_STEPS, compare=False)
            with closing(self._studio.run(run, is_quick=True)) as events:
                for event in events:
                    if not self._strokes.is_newest(request.session_hash, number):
                        return
                    if isinstance(event, Finished):
                        yield {
                            page.viewer: view_quick(event.result, self._palette, folder),
                            page.status: words.live(LIVE_STEPS, time.monotonic() - started),
                            **said,
                        }
                    elif event.step == LIVE_STEPS:
                        yield {page.viewer: self._view_progress(event, run, folder), **said}
        except FORESEEN as error:
            yield {page.status: words.status(explain(error), kind="error")}

    def read_request(
        self, folder: Path, drawing: SliceCanvasData | None, uploaded: UploadedMaps | None, *values: Any
    ) -> GenerationRequest:
        """Return what the page is set to; takes the session's folder and what `generate` takes.

        Raises:
            VolumeError, ValueError: a condition or a setting is missing or wrong.
        """
        wanted, settings = self._read(values)
        scans, fill, placement = self._page.scans.read(wanted, folder)
        labels = {name: is_wanted for name, is_wanted in wanted.items() if name not in self._page.scans.uses}
        conditions = self._read_conditions(drawing, uploaded, labels) | scans
        return GenerationRequest(conditions, fill=fill, placement=placement, **settings)

    def describe(
        self, folder: Path, drawing: SliceCanvasData | None, uploaded: UploadedMaps | None, *values: Any
    ) -> dict[str, Any]:
        """Return the recipe of what the page is set to, with the seed that it shows; takes what `read_request` takes.

        Raises:
            VolumeError, ValueError: a condition or a setting is missing or wrong.
        """
        is_locked = len(self._page.uses)  # its place among the values
        run = self.read_request(folder, drawing, uploaded, *values[:is_locked], True, *values[is_locked + 1 :])
        pipeline = self._studio.pipeline
        return build_recipe(run, pipeline.prepare(run), pipeline.environment)

    def inputs(self) -> list[Any]:
        """The components whose values `generate` takes, in its order."""
        page = self._page
        return [page.editor, page.uploaded, *page.uses.values(), page.controls.lock, *page.controls.inputs]

    def estimate(self, *values: Any) -> Updates:
        """Say how long a run would take; takes the values of `inputs` behind the first two."""
        try:
            wanted, settings = self._read(values)
            request = GenerationRequest(**settings)
        except ValueError as error:
            return {self._page.estimate: words.note(str(error))}
        is_controlled = any(wanted.values()) and request.guidance_scale != 0
        seconds = self._studio.estimate_seconds(
            request,
            is_controlled=is_controlled,
            has_slices=any(wanted.get(name) for name, each in MODALITIES.items() if each.follows),
        )
        return {self._page.estimate: words.note(words.estimate(seconds))}

    # ---- What is put on the page -------------------------------------------------------------------------------------

    def select_example(self, event: gr.EventData, request: gr.Request) -> Updates:
        """Put an example that was clicked on the page."""
        page, example = self._page, self._examples.get(str(getattr(event, "slug", "")))
        if example is None:
            return {page.status: words.status("There is no such example.", kind="error")}
        try:
            content = show_example(example, self._studio.pipeline, self._palette, session_folder(request))
        except (OSError, ValueError) as error:
            _log.warning("The example %s cannot be shown: %s", example.slug, error)
            return {page.status: words.status("This example cannot be shown.", kind="error")}
        return self._put(content)

    def take_recipe(self, path: str | None, drawing: SliceCanvasData | None, request: gr.Request) -> Updates:
        """Put what a dropped recipe holds on the page: its drawing, its maps and its settings."""
        page = self._page
        if path is None:
            return {}
        try:
            return self.restore(load_recipe(path), drawing, request) | {page.recipe: None}
        except FORESEEN as error:
            return {page.recipe: None, page.status: words.status(explain(error), kind="error")}
        finally:
            Path(path).unlink(missing_ok=True)

    def restore(self, recipe: Mapping[str, Any], drawing: SliceCanvasData | None, request: gr.Request) -> Updates:
        """Put what a recipe holds on the page, over the brain that is drawn on there, and keep its seed.

        Raises:
            VolumeError, ValueError: the recipe is damaged, or its conditions are not for this model.
        """
        folder = session_folder(request)
        with one_at_a_time(folder):  # a scan that it follows may be being read
            content = show_recipe(recipe, self._studio.pipeline, self._palette, folder)
        if drawing is not None:
            # A recipe holds no brain: until it is generated, its tumor would float in the dark.
            content = replace(content, drawing=content.drawing.with_background(drawing.layers[0]))
        return self._put(content) | {self._page.controls.lock: True}

    def uploader(self, modality: str) -> Callable[..., Any]:
        """Return the handler of one modality's drop zone: path, drawing and uploaded maps in, updates out."""
        page = self._page
        if modality in page.scans.uploads:
            return page.scans.taker(modality, self._grid, page.status, page.editor)

        def take(
            path: str | None, drawing: SliceCanvasData | None, uploaded: UploadedMaps | None, request: gr.Request
        ) -> Updates:
            return self.take_upload(modality, path, drawing, uploaded, request)

        return take

    def take_upload(
        self,
        modality: str,
        path: str | None,
        drawing: SliceCanvasData | None,
        uploaded: UploadedMaps | None,
        request: gr.Request,
    ) -> Updates:
        """Take a dropped label map: that of the drawn modality goes into the editor, others are kept beside it."""
        page, folder = self._page, session_folder(request)
        if path is None:
            return {}
        dropped = upload_time(path)  # the drawing is of then, however long this had to wait
        try:
            with one_at_a_time(folder):  # the scan on whose grid it lies may be being read
                run = GenerationRequest({modality: move_with_scans(load_condition(modality, path), folder)})
            prepared = self._studio.pipeline.prepare(run)[modality]
        except FORESEEN as error:
            return {page.uploads[modality]: None, page.status: words.status(explain(error), kind="error")}
        finally:
            Path(path).unlink(missing_ok=True)  # its name may be a patient's
        labels, title = prepared.volume.array, MODALITIES[modality].title
        updates: Updates = {
            page.uploads[modality]: None,
            page.uses[modality]: gr.update(value=True, interactive=True),
            page.status: words.status(f"{title} map taken.", prepared.notes, kind="done"),
        }
        shown = add_new_layers(drawing or view_drawing(self._grid, self._palette, folder), folder, dropped)
        if modality == self._palette.modality:
            updates[page.editor] = shown.with_mask(labels, folder)
        else:
            updates[page.uploaded] = (uploaded or {}) | {modality: pack_labels(labels)}
            kept = [layer for layer in shown.layers if layer.name != title]
            updates[page.editor] = shown.with_layers([*kept, view_label_background(modality, labels, folder)])
        return updates

    def lesion_adder(self, builder: LesionBuilder) -> Callable[..., Updates]:
        """Return the handler of the lesion builder's button: drawing and settings in, updates out."""

        def add(drawing: SliceCanvasData | None, request: gr.Request, *values: Any) -> Updates:
            return self.add_lesion(builder, drawing, request, *values)

        return add

    def add_lesion(
        self, builder: LesionBuilder, drawing: SliceCanvasData | None, request: gr.Request, *values: Any
    ) -> Updates:
        """Put a lesion of the builder's into the drawing, over what is there."""
        page, folder = self._page, session_folder(request)
        try:
            plan = builder.read(values)
        except ValueError as error:
            return {page.status: words.status(str(error), kind="error")}
        built = build_lesion(plan, self._grid, self._studio.pipeline.brain)
        drawn = self._read_drawing(drawing)
        # The edema of a new lesion goes around a solid tumor that is there already, not over it.
        is_new = (built > 0) & ((built != EDEMA) | (drawn == 0))
        shown = drawing or view_drawing(self._grid, self._palette, folder)
        return {
            page.editor: shown.with_mask(np.where(is_new, built, drawn), folder),
            page.status: words.status(f"A {plan.place} lesion of {plan.diameter_mm:g} mm is in the drawing."),
        }

    # ---- Parts -------------------------------------------------------------------------------------------------------

    def _read(self, values: Sequence[Any]) -> tuple[dict[str, bool], dict[str, Any]]:
        """Return which modalities are wanted, and the settings; a seed that is not locked is drawn anew."""
        uses = self._page.uses
        flags, is_locked, settings = values[: len(uses)], values[len(uses)], values[len(uses) + 1 :]
        read = self._page.controls.read(settings)
        if not is_locked:
            read["seed"] = draw_seed()
        return dict(zip(uses, map(bool, flags), strict=True)), read

    def _read_drawing(self, drawing: SliceCanvasData | None) -> NDArray[np.uint8]:
        """Return the drawn labels, (X, Y, Z); all 0 where nothing is drawn."""
        mask = read_mask(drawing, shape=self._grid.shape, labels=range(1, len(self._palette.names) + 1))
        return np.zeros(self._grid.shape, np.uint8) if mask is None else mask

    def _read_conditions(
        self, drawing: SliceCanvasData | None, uploaded: UploadedMaps | None, wanted: dict[str, bool]
    ) -> dict[str, Volume]:
        """Return the wanted conditions on the model grid; an empty drawing is one: it asks for no lesion."""
        conditions = {}
        for name in (name for name, is_wanted in wanted.items() if is_wanted):
            if name == self._palette.modality:
                array = self._read_drawing(drawing)
            elif name in (uploaded or {}):
                array = unpack_labels((uploaded or {})[name], self._grid.shape)
            else:
                title = MODALITIES[name].title
                raise ValueError(f"{title} is ticked, but there is no map for it: drop one or untick it.")
            conditions[name] = Volume(array, self._grid.affine)
        return conditions

    def _follow(
        self, run: GenerationRequest, drawing: SliceCanvasData | None, folder: Path
    ) -> Generator[Updates, None, None]:
        """Show a run from its first step to its files."""
        page, started = self._page, time.monotonic()
        if drawing is not None:
            keep_in_use(layer.file.path for layer in drawing.layers)
            keep_in_use([drawing.mask.path] if drawing.mask is not None else ())
        yield {
            page.status: words.status("Reading the conditions\u2026", kind="running"),
            # What stood there was of another volume.
            page.adherence: words.not_measured_yet(),
            page.download_note: "",
            **{button: gr.update(interactive=False) for button in page.downloads.values()},
        }
        first: tuple[int, float] | None = None  # a step and when it ended
        with closing(self._studio.run(run)) as events:
            for event in events:
                if isinstance(event, Finished):
                    view = view_result(event.result, self._palette, folder)
                    shown = self._show_finished(event, view, drawing, folder, time.monotonic() - started)
                    yield shown
                    files = view_files(event.result, self._palette, folder)
                    facts = describe_run(event.result, self._palette)
                    # What has come is said again: Gradio's client changes the objects of earlier messages in place, so
                    # that a browser which is slow to read them finds the volumes gone that the last one leaves alone.
                    # The drawing may have gone on meanwhile.
                    again = {part: value for part, value in shown.items() if part is not page.editor}
                    yield again | self._offer(Shown(view, files, facts=facts))
                else:
                    now = time.monotonic()
                    first = first or (event.step, now)
                    done = event.step - first[0]
                    yield self._show_progress(event, run, folder, (now - first[1]) / done if done else None)

    def _show_progress(
        self, event: Progress, run: GenerationRequest, folder: Path, seconds_a_step: float | None
    ) -> Updates:
        work = Workload.of(run, is_controlled=bool(run.conditions))
        rest = self._studio.pace.estimate_rest(work, event.step, event.num_inference_steps, seconds_a_step)
        updates: Updates = {self._page.status: words.progress(event.step, event.num_inference_steps, rest)}
        if event.preview is not None:
            updates[self._page.viewer] = self._view_progress(event, run, folder)
            # An example or a run of before may have come meanwhile: the numbers beside it are not of this volume.
            updates[self._page.adherence] = words.not_measured_yet()
        return updates

    def _view_progress(self, event: Progress, run: GenerationRequest, folder: Path) -> SliceCanvasData:
        assert event.preview is not None, "the last step of a run comes with a volume"
        drawn = run.conditions.get(self._palette.modality)
        return view_preview(event.preview, None if drawn is None else drawn.array, self._grid, self._palette, folder)

    def _show_finished(
        self, event: Finished, view: ResultView, drawing: SliceCanvasData | None, folder: Path, seconds: float
    ) -> Updates:
        text = words.finished(None if event.is_remembered else seconds, is_remembered=event.is_remembered)
        told = words.verdict(event.result.adherence) if event.result.conditions else ""
        updates = self._show(view)
        updates[self._page.status] = words.status(f"{text} {told}".strip(), event.notes, kind="done")
        if event.result.uncontrolled is not None and drawing is not None:
            # The next stroke is drawn on the very brain that the next run starts from. The other layers stay: the page
            # has them, and may have newer ones than the run began with.
            brain = view_background(show_on_grid(event.result, event.result.uncontrolled).array, folder)
            updates[self._page.editor] = drawing.with_layers([brain])
        return updates

    def _put(self, content: Content) -> Updates:
        page = self._page
        updates: Updates = {
            **page.controls.show(content.request),
            page.editor: content.drawing,
            page.uploaded: {name: pack_labels(labels) for name, labels in content.others.items()},
            page.status: words.status(content.status),
        }
        for name, use in page.uses.items():
            is_wanted = name in content.wanted
            is_free = is_wanted or name == self._palette.modality or name in page.scans.uses
            updates[use] = gr.update(value=is_wanted, interactive=is_free)
        if content.result is not None and content.files is not None:
            updates |= self.show_again(Shown(content.result, content.files, ROUNDED_NOTE))
        else:
            updates[page.adherence] = words.not_of_this_drawing()
        return updates

    def show_again(self, shown: Shown) -> Updates:
        """Put a finished run on the page again: its volumes, its 3-D view, its adherence and its files."""
        return self._show(shown.result) | self._offer(shown)

    def _show(self, view: ResultView) -> Updates:
        page = self._page
        controlled, uncontrolled = page.pair
        return {
            page.viewer: view.viewer,
            controlled: view.controlled,
            uncontrolled: view.uncontrolled,
            page.adherence: view.adherence,
            **{heading: half_heading(title) for heading, title in zip(page.pair_headings, view.titles, strict=True)},
        }

    def _offer(self, shown: Shown) -> Updates:
        """Offer the files there are, by their names, and hide the buttons of those there are not."""
        page, files = self._page, shown.files.files
        updates: Updates = {
            button: gr.update(
                value=str(files[name]) if name in files else None, visible=name in files, interactive=True
            )
            for name, button in page.downloads.items()
        }
        return updates | {
            page.download_note: words.note(shown.note),
            page.scene: shown.files.scene,
            page.shown: shown,
            page.history.list: gr.update(current=shown.facts.key if shown.facts else ""),
        }
