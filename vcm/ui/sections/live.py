"""Live mode: a quick volume after each stroke, the full run once the drawing rests; its JavaScript lies beside it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import gradio as gr

LIVE_STEPS = 8
"""Denoising steps of a quick run."""


@dataclass(frozen=True)
class Live:
    """The switch, the button that the page's own script presses after a stroke, and that stroke's number."""

    switch: gr.Checkbox
    go: gr.Button
    stroke: gr.Number


class Strokes:
    """The newest stroke of each visitor, so that a run of an older stroke can be stopped.

    Cancelling by the browser would not do: what still waits in the queue is not cancelled.
    """

    def __init__(self, most_visitors: int = 1000) -> None:
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._most_visitors = most_visitors
        self._lock = Lock()

    def begin(self, visitor: str | None) -> int:
        """Return the number of a new stroke; all earlier ones of this visitor are out of date."""
        with self._lock:
            number = self._newest.pop(visitor or "", 0) + 1
            self._newest[visitor or ""] = number
            if len(self._newest) > self._most_visitors:
                self._newest.popitem(last=False)
            return number

    def is_newest(self, visitor: str | None, number: int) -> bool:
        """Tell whether nothing has come after a stroke."""
        with self._lock:
            return self._newest.get(visitor or "") == number


def build_live() -> Live:
    """Build them; button and number are on the page but never seen."""
    gr.HTML(
        html_template="",
        js_on_load=(Path(__file__).parent / "live.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="live-script",
    )
    switch = gr.Checkbox(False, label="Live", container=False, elem_id="live", min_width=0)
    go = gr.Button("Follow the stroke", visible="hidden", elem_id="live-go")
    return Live(switch, go, gr.Number(0, precision=0, visible="hidden", elem_id="live-stroke"))


TURN_JS = "(isOn) => { window.vcmLive.turn(isOn); return isOn; }"
"""For the switch."""

STROKE_JS = "window.vcmLive.stroke()"
"""After a stroke: true where a quick run follows it."""

REST_JS = "() => { window.vcmLive.rest(); }"
"""After a quick run."""

STOP_JS = "() => { window.vcmLive.stop(); }"
"""Where the visitor takes over."""
