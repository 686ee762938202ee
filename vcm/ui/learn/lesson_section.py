"""The lessons below the studio: what they open on, how they stand there, and what happens when one is run live."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components import Component

from vcm.explore import Advance
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest, Preview
from vcm.ui import words
from vcm.ui.learn.lesson_figures import draw_figure
from vcm.ui.learn.lesson_html import SCRUB_SCRIPT, render_calibration, render_figure
from vcm.ui.learn.lesson_kinds import KINDS, TABS, Kind
from vcm.ui.learn.lessons import Lesson, load_lessons
from vcm.ui.learn.tour import build_tour
from vcm.ui.sections.widgets import build_view_switch
from vcm.ui.server.failures import FORESEEN, explain
from vcm.ui.server.session_files import session_folder
from vcm.ui.server.studio import Finished, Studio
from vcm.volume import Volume
from vcm.weights.calibration import Calibration, load_calibration
from vcm.weights.checkpoint import CheckpointError
from vcm.weights.pretrained import EMBEDDED, find_model

if TYPE_CHECKING:
    from vcm.ui.actions import Actions

LESSONS_STYLE = Path(__file__).parent / "lessons.css"
LESSON_PAGE = Path(__file__).parents[3] / "docs" / "lesson.md"

_LONGEST_SECONDS = 300.0  # everybody else waits as long
_STALE = (
    "These pictures were computed with other weights than the loaded ones: run them on your drawing to see what this "
    "model does."
)

_CANCELLED = "Cancelled: it shows how far it came, and your drawing is kept."
_ENDED = "It ended before it was done; your drawing is kept, so please try again."

# A cancelled run counts as failed, too, and its last step may come in after the answer to Cancel: the page knows.
_NOTE_THE_RUN = "() => { window.vcmLessonIsCancelled = false; }"
_NOTE_THE_END = "() => { window.vcmLessonIsCancelled = true; }"
_SAY_THAT_IT_ENDED = (
    f"(status) => !status.includes({words.RUNNING!r}) ? status : window.vcmLessonIsCancelled ? "
    f"{json.dumps(words.status(_CANCELLED))} : {json.dumps(words.status(_ENDED, kind='error'))}"
)

Updates = dict[Component, Any]


@dataclass(frozen=True)
class Teaching:
    """What the lessons open on.

    Attributes:
        lessons: that were computed before.
        is_stale: whether another model than the loaded one made them.
        calibration: of the loaded weights, where they were measured.
        page: the lesson of five tasks, Markdown; empty where the file is not there.
    """

    lessons: Sequence[Lesson] = ()
    is_stale: bool = False
    calibration: Calibration | None = None
    page: str = ""


@dataclass(frozen=True)
class Card:
    """The components of one exploration."""

    kind: Kind
    figure: gr.HTML
    status: gr.HTML
    run: gr.Button
    cancel: gr.Button


@dataclass(frozen=True)
class LessonSection:
    """The components of the lessons; `cases` chooses among those computed before, None where there are none."""

    cases: gr.Radio | None
    cards: Sequence[Card] = field(default_factory=list)


def load_teaching(folder: Path, pipeline: Pipeline) -> Teaching:
    """Read the lessons of a folder, and what is known of the loaded model."""
    weights = pipeline.environment.weights
    lessons = load_lessons(folder)
    try:
        calibration = load_calibration(find_model(EMBEDDED), weights)
    except (CheckpointError, OSError, ValueError, KeyError):
        calibration = None
    page = LESSON_PAGE.read_text(encoding="utf-8") if LESSON_PAGE.is_file() else ""
    is_stale = not all(lesson.is_of(weights) for lesson in lessons)
    return Teaching(lessons, is_stale, calibration, page.partition("\n")[2].strip())


def build_lesson_section(teaching: Teaching) -> LessonSection:
    """Build the lessons in the current layout."""
    cases, cards = None, []
    with gr.Column(elem_id="lessons", min_width=0):
        gr.HTML('<header class="heading"><h2>Learn</h2><p>Ready at once; each also runs on your drawing.</p></header>')
        if teaching.lessons:
            choices = [(lesson.title, lesson.slug) for lesson in teaching.lessons]
            cases = gr.Radio(choices, value=choices[0][1], label="Example", elem_id="lesson-case")
        if teaching.is_stale:
            gr.HTML(f'<p class="stale">{_STALE}</p>', elem_id="lesson-stale")
        build_view_switch({tab.name: tab.title for tab in TABS}, target="lessons", elem_id="lesson-tabs")
        for tab in TABS:
            with gr.Column(elem_id=f"lesson-tab-{tab.name}", elem_classes="lesson-tab", min_width=0):
                gr.HTML(f'<p class="for-class">{tab.sentence}</p>')
                cards += [_build_card(kind) for kind in KINDS if kind.tab == tab.name]
                if tab.name == "sweep":
                    _build_calibration(teaching.calibration)
        if teaching.page:
            with gr.Accordion("A lesson of five tasks", open=False, elem_id="lesson-page"):
                gr.Markdown(teaching.page)
        build_tour()
    return LessonSection(cases, cards)


def wire_lessons(
    section: LessonSection,
    teaching: Teaching,
    studio: Studio,
    actions: Actions,
    *,
    flush_js: str,
    concurrency_id: str,
) -> None:
    """Make the lessons do what they say, inside the `gr.Blocks` of the page.

    Args:
        section: the components.
        teaching: what was computed before.
        studio: runs the requests.
        actions: read what the page is set to.
        flush_js: brings the newest strokes from the editor, the first of the inputs.
        concurrency_id: of the runs, which take turns with all others.
    """
    private: dict[str, Any] = {"api_visibility": "private"}
    quiet: dict[str, Any] = {**private, "show_progress": "hidden"}
    if section.cases is not None:
        shown = [component for card in section.cards for component in (card.figure, card.status)]
        show = _shower(section, teaching)
        # Without a trigger it runs once the page stands, which so many pictures would hold up, and at every change.
        gr.on(None, show, section.cases, shown, queue=False, trigger_mode="always_last", **quiet)
    for card in section.cards:
        buttons: list[Component] = [card.status, card.run, card.cancel]
        card.run.click(None, js=_NOTE_THE_RUN, **quiet)
        card.cancel.click(None, js=_NOTE_THE_END, **quiet)
        started = card.run.click(_starter(card), None, buttons, queue=False, trigger_mode="once", **quiet)
        running = started.then(
            _runner(card, studio, actions),
            actions.inputs(),
            [card.figure, card.status],
            js=flush_js,
            concurrency_limit=1,
            concurrency_id=concurrency_id,
            trigger_mode="multiple",
            show_progress="minimal",
            show_progress_on=card.status,
            **private,
        )
        running.success(_stopper(card), None, buttons[1:], queue=False, **quiet)
        running.failure(_stopper(card), None, buttons[1:], queue=False, **quiet)
        running.failure(None, card.status, card.status, js=_SAY_THAT_IT_ENDED, **quiet)
        card.cancel.click(_canceller(card), None, buttons, cancels=[running], queue=False, **quiet)


def _build_card(kind: Kind) -> Card:
    with gr.Column(elem_classes="lesson-card", elem_id=f"lesson-{kind.name}", min_width=0):
        with gr.Row(elem_classes="lesson-head"):
            gr.HTML(f"<h3>{kind.title}</h3><p>{kind.sentence}</p>")
            run = gr.Button("Run on my drawing", size="sm", elem_id=f"lesson-{kind.name}-run", min_width=0)
            cancel = gr.Button("Cancel", size="sm", visible=False, elem_id=f"lesson-{kind.name}-cancel", min_width=0)
        status = gr.HTML("", elem_id=f"lesson-{kind.name}-status", elem_classes="lesson-status")
        figure = gr.HTML(
            "", elem_id=f"lesson-{kind.name}-figure", js_on_load=SCRUB_SCRIPT if kind.name == "steps" else None
        )
    return Card(kind, figure, status, run, cancel)


def _build_calibration(calibration: Calibration | None) -> None:
    with gr.Column(elem_classes="lesson-card", elem_id="lesson-calibration", min_width=0):
        gr.HTML(
            '<div class="lesson-head"><div><h3>How small may a lesion be?</h3><p>Each dot is a test subject that '
            "nothing was trained on: what was drawn, and what a segmenter found in the volume.</p></div></div>"
        )
        gr.HTML(render_calibration(calibration))


def _shower(section: LessonSection, teaching: Teaching) -> Callable[[str], Updates]:
    lessons = {lesson.slug: lesson for lesson in teaching.lessons}

    def show(slug: str) -> Updates:
        """Show what was computed before for an example."""
        figures = lessons[slug].figures if slug in lessons else {}
        updates: Updates = {}
        for card in section.cards:
            name = card.kind.name
            updates[card.figure] = render_figure(figures[name]) if name in figures else ""
            updates[card.status] = ""
        return updates

    return show


def _starter(card: Card) -> Callable[[], Updates]:
    def start() -> Updates:
        return {
            card.status: words.status("Waiting for a free place\u2026", kind="running"),
            card.run: gr.update(visible=False),
            card.cancel: gr.update(visible=True),
        }

    return start


def _stopper(card: Card) -> Callable[[], Updates]:
    def stop() -> Updates:
        return {card.run: gr.update(visible=True), card.cancel: gr.update(visible=False)}

    return stop


def _canceller(card: Card) -> Callable[[], Updates]:
    def cancel() -> Updates:
        return {**_stopper(card)(), card.status: words.status(_CANCELLED)}

    return cancel


def _runner(card: Card, studio: Studio, actions: Actions) -> Callable[..., Generator[Updates, None, None]]:
    def run(request: gr.Request, *values: Any) -> Generator[Updates, None, None]:
        """Run an exploration on what the page is set to; takes what `Actions.generate` takes."""
        try:
            asked = card.kind.shorten(actions.read_request(session_folder(request), *values))
            _require_quick(card.kind, studio, asked)
            stream = _stream(studio, is_traced=card.kind.name == "steps")
            with closing(card.kind.explore(studio.pipeline, asked, run=stream)) as events:
                for event in events:
                    if isinstance(event, Advance):
                        yield {card.status: words.explored(event.done, event.total)}
                    else:
                        yield {card.figure: render_figure(draw_figure(event))}
            text = f"On your drawing, with seed {asked.seed} and {asked.num_inference_steps} steps."
            yield {card.status: words.status(text, kind="done")}
        except FORESEEN as error:
            yield {card.status: words.status(explain(error), kind="error")}

    return run


def _require_quick(kind: Kind, studio: Studio, request: GenerationRequest) -> None:
    """Refuse what would keep everybody else waiting for too long."""
    is_controlled = bool(request.conditions) and request.guidance_scale != 0
    one = studio.estimate_seconds(request, is_controlled=is_controlled)
    if one is not None and one * kind.runs > _LONGEST_SECONDS:
        takes, most = words.seconds(one * kind.runs), words.seconds(_LONGEST_SECONDS)
        raise ValueError(f"It would take about {takes} here, longer than the {most} that others can wait: lower Steps.")


def _stream(studio: Studio, *, is_traced: bool) -> Callable[[GenerationRequest], Generator[object, None, None]]:
    """Return what runs a request for `vcm.explore`, by way of the worker."""

    def stream(request: GenerationRequest) -> Generator[object, None, None]:
        with closing(studio.run(request, is_traced=is_traced)) as events:
            for event in events:
                if isinstance(event, Finished):
                    yield event.result
                elif event.preview is None or not is_traced:
                    yield event
                else:
                    array = event.preview.astype(np.float32) / 255
                    estimate = Volume(array, studio.pipeline.grid.affine)
                    yield Preview(event.step, event.num_inference_steps, estimate, event.eps_scale, event.eps_shift)

    return stream
