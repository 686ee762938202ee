"""The history of a visit: its finished runs, each of which can be shown again, and any two compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components import Component
from gradio.events import Dependency
from numpy.typing import NDArray

from vcm.ui import words
from vcm.ui.canvas.slice_canvas import Layer, canvas_value
from vcm.ui.canvas.volume_files import VolumeFileError, read_volume_file
from vcm.ui.server.session_files import KEPT_RUNS, session_folder
from vcm.ui.views import ResultView, Shown, view_difference

if TYPE_CHECKING:
    from vcm.ui.actions import Actions
    from vcm.ui.layout import Page

Updates = dict[Component, Any]  # known at run time, too: by their annotations Gradio finds what to pass to handlers

_HERE = Path(__file__).parent
_A, _B = "A", "B"


class GoneError(Exception):
    """The files of a run are no longer kept; the message is one sentence for the visitor."""


@dataclass(frozen=True)
class PastRun:
    """A finished run of this visit: its number, counted from 1, and what the page showed of it."""

    number: int
    shown: Shown


Runs = tuple[PastRun, ...]
"""The finished runs of a visit, newest first; at most `KEPT_RUNS`, since no more files of a session are kept."""


class RunList(gr.HTML):
    """The runs as a list of buttons, with two columns to choose A and B in.

    Value: what `list_runs` returns. "select" brings `run`, the number of the run to show again; "submit" brings `a` and
    `b`, the numbers of the runs to compare. The prop `current` is the key of the run that the page shows.
    """

    def __init__(self, value: list[dict[str, Any]] | None = None, *, current: str = "", **layout: Any) -> None:
        super().__init__(
            value=value,
            html_template=(_HERE / "history.html").read_text(encoding="utf-8"),
            css_template=(_HERE / "history.css").read_text(encoding="utf-8"),
            js_on_load=(_HERE / "history.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            current=current,
            **layout,
        )


@dataclass(frozen=True)
class History:
    """The components: the runs of this visit, and their list. No other session can read them."""

    list: RunList
    runs: gr.State = field(default_factory=lambda: gr.State(()))


def build_history() -> History:
    """Build them in the current layout, empty."""
    return History(RunList(elem_id="history"))


def wire_history(page: Page, actions: Actions, running: Dependency, outputs: list[Component]) -> None:
    """Make the history do what it says, inside the `gr.Blocks` of the page.

    Args:
        page: the components.
        actions: show a run.
        running: the full run, which joins the history at its end.
        outputs: what showing a run may change.
    """
    history = page.history
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    running.success(_rememberer(history), [page.shown, history.runs], [history.runs, history.list], **quiet)
    inputs = [history.runs, page.status]
    history.list.select(_recaller(page, actions), inputs, outputs, **quiet)
    history.list.submit(_comparer(page, actions), inputs, outputs, **quiet)


def remember(runs: Runs, shown: Shown | None) -> Runs:
    """Return the history with the run that is shown; a run of a known recipe keeps its number and comes first again."""
    if shown is None or shown.facts is None:
        return runs
    known = next((run for run in runs if run.shown.facts and run.shown.facts.key == shown.facts.key), None)
    if known is not None and known.shown.facts == shown.facts:
        return runs
    number = known.number if known else max((run.number for run in runs), default=0) + 1
    return (PastRun(number, shown), *(run for run in runs if run is not known))[:KEPT_RUNS]


def list_runs(runs: Runs) -> list[dict[str, Any]]:
    """Return the runs as the list shows them."""
    listed = []
    for run in runs:
        facts = run.shown.facts
        assert facts is not None, "only runs of this visit are remembered"
        listed.append(
            {
                "number": run.number,
                "key": facts.key,
                "time": datetime.fromtimestamp(facts.finished_at, UTC).isoformat(),
                "text": words.run_facts(facts),
                "picture": facts.picture,
            }
        )
    return listed


def compare_runs(first: PastRun, second: PastRun, folder: Path) -> ResultView:
    """Return A beside B: their controlled volumes and the difference of both, A less B, under one crosshair.

    The drawing is outlined where both runs have the same.

    Args:
        first: A.
        second: B.
        folder: of the session.

    Raises:
        GoneError: the files of a run are no longer kept.
    """
    views = [run.shown.result.viewer for run in (first, second)]
    titles = (f"{_A}: run {first.number}", f"{_B}: run {second.number}")
    layers = [view.layers[0].model_copy(update={"name": title}) for view, title in zip(views, titles, strict=True)]
    arrays = [_read_intensities(run, layer) for run, layer in zip((first, second), layers, strict=True)]
    difference = arrays[0] - arrays[1]
    affine, shape = views[0].affine, views[0].shape
    drawings = [view.mask and Path(view.mask.path).name for view in views]
    is_same_drawing = drawings[0] == drawings[1]
    mask = views[0].mask if is_same_drawing else None
    assert first.shown.facts is not None
    assert second.shown.facts is not None
    return ResultView(
        viewer=canvas_value(
            [*layers, view_difference(difference, (_A, _B), folder)],
            affine,
            shape,
            labels=views[0].labels if mask else (),
            mask=mask,
        ),
        controlled=canvas_value(layers[:1], affine, shape),
        uncontrolled=canvas_value(layers[1:], affine, shape),
        adherence=words.comparison(
            titles,
            (first.shown.facts, second.shown.facts),
            float(np.abs(difference).mean()),
            is_same_drawing=is_same_drawing,
        ),
        titles=titles,
    )


def check_files(run: PastRun) -> None:
    """Make sure that all files of a run are there, and keep them for another while.

    Raises:
        GoneError: one is not.
    """
    try:
        for path in _files_of(run.shown):
            os.utime(path)
    except OSError:
        raise _gone(run) from None


def _files_of(shown: Shown) -> Iterator[str]:
    views = (shown.result.viewer, shown.result.controlled, shown.result.uncontrolled)
    for view in (view for view in views if view is not None):
        yield from (layer.file.path for layer in view.layers)
        yield from () if view.mask is None else (view.mask.path,)
    yield from map(str, shown.files.files.values())
    yield shown.files.scene.figure.path


def _read_intensities(run: PastRun, layer: Layer) -> NDArray[np.float32]:
    low, high = layer.value_range
    try:
        steps = read_volume_file(layer.file.path, run.shown.result.viewer.shape)
    except VolumeFileError:
        raise _gone(run) from None
    return (low + (high - low) / 255 * steps).astype(np.float32)


def _gone(run: PastRun) -> GoneError:
    return GoneError(f"The files of run {run.number} are gone, since they are kept for an hour: generate it again.")


def _find(runs: Runs, number: Any) -> PastRun:
    for run in runs:
        if run.number == number:
            return run
    raise GoneError("This run is no longer in the history: choose another one.")


def _rememberer(history: History) -> Any:
    def remember_run(shown: Shown | None, runs: Runs) -> Updates:
        """Put a run that has just finished into the history, and keep the files of those that are there."""
        kept = remember(runs, shown)
        for run in kept:
            with suppress(GoneError):
                check_files(run)
        return {history.runs: kept, history.list: gr.update(value=list_runs(kept))}

    return remember_run


def _recaller(page: Page, actions: Actions) -> Any:
    def recall_run(runs: Runs, status: str, event: gr.EventData, request: gr.Request) -> Updates:
        """Show a run again; the drawing and the settings stay as they are."""
        session_folder(request)  # whoever asks is there
        try:
            run = _find(runs, getattr(event, "run", None))
            check_files(run)
        except GoneError as error:
            return {page.status: words.status(str(error), kind="error")}
        told = words.status(f"Run {run.number} is shown again, beside the drawing and settings of now.", kind="done")
        return actions.show_again(run.shown) | _say(page, status, told)

    return recall_run


def _comparer(page: Page, actions: Actions) -> Any:
    def compare_two_runs(runs: Runs, status: str, event: gr.EventData, request: gr.Request) -> Updates:
        """Show two runs against each other, with the files of A beside them."""
        try:
            first, second = (_find(runs, getattr(event, name, None)) for name in ("a", "b"))
            if first is second:
                raise GoneError("A and B are the same run: choose two different ones.")
            check_files(first)
            check_files(second)
            view = compare_runs(first, second, session_folder(request))
        except GoneError as error:
            return {page.status: words.status(str(error), kind="error")}
        note = f"The files and the 3D view are those of {view.titles[0]}."
        shown = replace(first.shown, result=view, note=note, facts=None)
        told = words.status(f"{view.titles[0]} against {view.titles[1]}: swipe, blink, or look at the difference.")
        return actions.show_again(shown) | _say(page, status, told)

    return compare_two_runs


def _say(page: Page, status: str | None, told: str) -> Updates:
    """Return the sentence, unless a run is under way, which says itself how far it is."""
    return {} if words.RUNNING in (status or "") else {page.status: told}
