"""The app: the page, what its parts do, and how it is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from gradio.utils import get_upload_folder

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui import words
from vcm.ui.actions import Actions
from vcm.ui.api import build_api
from vcm.ui.layout import Page, build_layout
from vcm.ui.learn.lesson_section import LESSONS_STYLE, load_teaching, wire_lessons
from vcm.ui.palette import build_palette, label_modalities
from vcm.ui.sections.content import show_example, show_nothing
from vcm.ui.sections.examples import Example, load_examples
from vcm.ui.sections.history import wire_history
from vcm.ui.sections.live import REST_JS, STOP_JS, STROKE_JS, TURN_JS
from vcm.ui.sections.models import render_models
from vcm.ui.sections.scan_uploads import image_modalities
from vcm.ui.sections.share_link import wire_share_link
from vcm.ui.server.guard import build_guard, follow_no_links
from vcm.ui.server.pace import Workload, convert_timings
from vcm.ui.server.session_files import KEEP_SECONDS, leave_session, remove_old_sessions
from vcm.ui.server.studio import Studio
from vcm.ui.theme import STYLE_SHEET, build_theme
from vcm.weights.cost import guess_timings

ASSETS = Path(__file__).parents[2] / "assets"
EXAMPLES, LESSONS = ASSETS / "examples", ASSETS / "lessons"

_GPU = "gpu"  # all runs, of the page and of the API, take turns in one queue
_CHECKS = "checks"  # what is dropped on the page is read and resampled beside the runs, never behind them
_CHECKS_AT_ONCE = 2  # each may hold a volume of 512 MiB
_MOST_WAITING = 64
_OTHER_HANDLERS = 8
_CLEAN_EVERY_SECONDS = 600
_MOST_SESSIONS = 200
_LARGEST_UPLOAD = "128mb"

_MISSING_WORDS = {"common.complete": "Complete"}  # Gradio announces the end of a run by a word that it does not have

# A cancelled run counts as failed, too, and its last step may come in after the answer to Cancel: so it is the page
# that knows what was asked for. What stands in the status by then is kept, unless it still speaks of running.
_ASK_FOR_A_RUN = "() => { window.vcmIsCancelled = false; window.vcmSliceCanvas.find('editor')?.mark(); }"
_ASK_FOR_AN_END = "() => { window.vcmIsCancelled = true; }"
_SAY_THAT_IT_FAILED = (
    f"(status) => !status.includes({words.RUNNING!r}) ? status : "
    f"window.vcmIsCancelled ? {json.dumps(words.cancelled())} : {json.dumps(words.not_started())}"
)
_SAY_THAT_IT_WAS_NOT_STARTED = (
    f"(status) => status.includes({words.RUNNING!r}) ? {json.dumps(words.not_started())} : status"
)


# In one column the result is far below the button: go and watch it form.
_SHOW_THE_RESULT = (
    "() => { if (!window.vcmLive?.hasPressed && !matchMedia('(min-width: 1100px)').matches) "
    "document.getElementById('look').scrollIntoView({ behavior: 'smooth' }); }"
)


def _guess_pace(studio: Studio, example: Example) -> None:
    """Let a studio expect of its first run what an example took on the machine that made it, as fast as this one is."""
    timings = example.details.get("timings") or {}
    if timings and studio.pipeline.device.type == "cpu":  # on a Space the GPU is there during calls alone
        work = Workload.of(example.request, is_controlled=bool(example.request.conditions))
        timings = convert_timings(work, timings, studio.pipeline.time_step())
    studio.learn_pace(example.request, timings)


def build_app(pipeline: Pipeline, examples: Path = EXAMPLES, problem: str | None = None) -> gr.Blocks:
    """Build the app around a loaded model; `launch_options` says how to launch it.

    Args:
        pipeline: the model; all visitors share it.
        examples: folder of the finished examples, the first of which the page opens on.
        problem: the sentence on why the published model was asked for and this one is loaded instead.
    """
    modalities = label_modalities(pipeline)
    palette = build_palette(pipeline, modalities[0])
    offered = [each for each in load_examples(examples) if set(each.request.conditions) <= set(modalities)]
    studio = Studio(pipeline)
    guess = guess_timings(pipeline.config, pipeline.device.type)
    if guess is not None:
        studio.learn_pace(GenerationRequest(compare=False), guess, is_controlled=True)
    follow_no_links()
    remove_old_sessions()  # of a server that was killed
    opening = Path(get_upload_folder()) / "vcm" / "opening"
    if offered:
        content = show_example(offered[0], pipeline, palette, opening)
        _guess_pace(studio, offered[0])
    else:
        content = show_nothing(pipeline, palette, opening)
    teaching = load_teaching(LESSONS, pipeline)
    with gr.Blocks(
        title="VCM Studio",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(_CLEAN_EVERY_SECONDS, KEEP_SECONDS),
    ) as blocks:
        page = build_layout(
            model_name=pipeline.config.name,
            device=pipeline.device.type,
            models=render_models(pipeline, problem),
            covariates=pipeline.config.covariates,
            modalities=modalities,
            images=image_modalities(pipeline),
            palette=palette,
            examples=offered,
            content=content,
            estimate=studio.estimate_seconds(content.request, is_controlled=bool(content.wanted)),
            teaching=teaching,
        )
        build_api(studio, offered, _GPU)
        actions = Actions(studio, page, palette, offered)
        _wire(page, actions)
        wire_lessons(page.lessons, teaching, studio, actions, flush_js=page.editor.flush_js(0), concurrency_id=_GPU)
        blocks.unload(leave_session)
    return blocks.queue(max_size=_MOST_WAITING, default_concurrency_limit=_OTHER_HANDLERS)


def launch_options(*, mcp: bool = False) -> dict[str, Any]:
    """Return the keyword arguments of `launch()` that belong to the app, beside host, port and share."""
    return {
        "theme": build_theme(),
        "css_paths": [STYLE_SHEET, LESSONS_STYLE],
        "i18n": gr.I18n(en=_MISSING_WORDS),
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["api"],
        "max_file_size": _LARGEST_UPLOAD,
        "state_session_capacity": _MOST_SESSIONS,
        "mcp_server": mcp,
        "app_kwargs": {"middleware": [build_guard()]},
        # Else Gradio asks for the page itself and ends the app where that takes more than three seconds, as on a busy
        # machine, or with a browser that waits for a restart.
        "_frontend": False,
    }


def _wire(page: Page, actions: Actions) -> None:
    private: dict[str, Any] = {"api_visibility": "private"}
    quiet: dict[str, Any] = {**private, "show_progress": "hidden"}
    checked: dict[str, Any] = {**quiet, "concurrency_id": _CHECKS, "concurrency_limit": _CHECKS_AT_ONCE}
    inputs = actions.inputs()

    page.generate.click(None, js=_ASK_FOR_A_RUN, **quiet)
    page.cancel.click(None, js=_ASK_FOR_AN_END, **quiet)
    started = page.generate.click(
        actions.start, None, [page.status, page.generate, page.cancel], queue=False, trigger_mode="once", **quiet
    )
    running = started.then(
        actions.generate,
        inputs,
        _outputs(page),
        js=page.editor.flush_js(0),
        concurrency_limit=1,
        concurrency_id=_GPU,
        # After Cancel the run before may still be stopping: "once", the default, would drop the next click unheard.
        trigger_mode="multiple",
        show_progress="minimal",
        show_progress_on=page.status,
        **private,
    )
    before = [page.adherence, page.shown]
    running.success(actions.stop, before, _results(page), queue=False, **quiet)
    running.success(actions.estimate, inputs[2:], page.estimate, queue=False, **quiet)
    running.failure(actions.stop, before, _results(page), queue=False, **quiet)
    running.failure(None, page.status, page.status, js=_SAY_THAT_IT_FAILED, **quiet)
    page.generate.click(None, js=_SHOW_THE_RESULT, **quiet)
    page.cancel.click(
        actions.cancelled,
        before,
        _results(page),
        cancels=[running],
        queue=False,
        **quiet,
    )
    page.editor.input(None, page.status, page.status, js=_answer_a_stroke(actions.draws_tumor), **quiet)
    _wire_live(page, actions, running, before)
    # The last click counts, and the last file: "once", the default, would drop what comes while one is read.
    page.examples.select(
        actions.select_example, None, _outputs(page), trigger_mode="multiple", concurrency_limit=1, **quiet
    )
    if page.lesion is not None:
        page.lesion.add.click(
            actions.lesion_adder(page.lesion),
            [page.editor, *page.lesion.inputs],
            [page.editor, page.status],
            js=page.editor.flush_js(0),
            **quiet,
        )
    restored = [*_outputs(page), page.controls.lock]
    page.recipe.upload(
        actions.take_recipe,
        [page.recipe, page.editor],
        [*restored, page.recipe],
        trigger_mode="multiple",
        **checked,
    )
    wire_share_link(page, actions, restored, **checked)
    wire_history(page, actions, running, _outputs(page))
    for modality, upload in page.uploads.items():
        upload.upload(
            actions.uploader(modality),
            [upload, page.editor, page.uploaded],
            _outputs(page),
            js=page.editor.flush_js(1),
            trigger_mode="multiple",
            **checked,
        )
    gr.on(
        [component.change for component in inputs[2:] if hasattr(component, "change")],
        actions.estimate,
        inputs[2:],
        page.estimate,
        queue=False,
        trigger_mode="always_last",
        **quiet,
    )


def _wire_live(page: Page, actions: Actions, running: Dependency, before: list[Component]) -> None:
    """A stroke stops the full run, if there is one, and starts a quick one, for which the one before it makes room."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    live = page.live
    live.switch.change(None, live.switch, None, js=TURN_JS, **quiet)
    numbered = live.go.click(
        actions.begin_stroke, before, [*_results(page), live.stroke], cancels=[running], queue=False, **quiet
    )
    quick = numbered.then(
        actions.follow_stroke,
        [live.stroke, *actions.inputs()],
        [page.viewer, page.adherence, page.download_note, page.status],
        js=page.editor.flush_js(1),
        concurrency_limit=1,
        concurrency_id=_GPU,
        trigger_mode="multiple",
        **quiet,
    )
    quick.success(None, js=REST_JS, **quiet)
    quick.failure(None, page.status, page.status, js=_SAY_THAT_IT_WAS_NOT_STARTED, **quiet)
    for button in (page.generate, page.cancel):
        button.click(None, js=STOP_JS, **quiet)


def _answer_a_stroke(draws_tumor: bool) -> str:
    """Return JavaScript that starts a live run or names the edit in the status, but never in that of a run."""
    full, empty = (json.dumps(words.edited(is_empty=each, draws_tumor=draws_tumor)) for each in (False, True))
    return f"""(status) => {{
        if ({STROKE_JS} || status.includes({words.RUNNING!r})) return status;
        const canvas = window.vcmSliceCanvas.find("editor");
        if (window.vcmOpenedLink && canvas?.isRestored) return status;
        // Undo and redo may lead back to what the page last spoke of: then what it said holds again.
        if (![{full}, {empty}].includes(status)) window.vcmToldBefore = status;
        if (canvas?.isAsMarked && window.vcmToldBefore) return window.vcmToldBefore;
        return canvas?.drawing?.isEmpty ? {empty} : {full};
    }}"""


def _results(page: Page) -> list[Component]:
    return [*_outputs(page), page.generate, page.cancel]


def _outputs(page: Page) -> list[Component]:
    return [
        page.editor,
        *page.uses.values(),
        *page.uploads.values(),
        page.uploaded,
        *page.scans.seen.values(),
        *page.controls.inputs,
        page.viewer,
        *page.pair,
        *page.pair_headings,
        page.scene,
        page.adherence,
        *page.downloads.values(),
        page.download_note,
        page.shown,
        page.history.list,
        page.status,
    ]
