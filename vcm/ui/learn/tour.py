"""The guided tour: five steps over the page, each lighting up one part; its JavaScript lies beside it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

TOUR_BUTTON = '<button type="button" class="tour-start" data-tour aria-label="Take the tour">Tour</button>'
"""Starts the tour, wherever it stands on the page."""

STEPS = (
    (
        "#editor",
        "Draw a tumor",
        "One stroke paints a whole tumor into all three planes. Erase and undo as you like, or drop a mask below.",
    ),
    (
        "#controls",
        "Choose the brain",
        "The seed is the noise that the brain grows from. Keep it, and only what you change will change.",
    ),
    (
        "#generate",
        "Generate",
        "A frozen model turns noise into a brain, and the small VCM pulls it towards your drawing. Cancel at any time.",
    ),
    (
        "#look",
        "Look and judge",
        "Swipe between the volumes with and without the drawing, or turn to 3D. Below are the files, "
        "and how well the drawing is followed.",
    ),
    (
        "#lessons",
        "Learn how it works",
        "Sweeps, many brains and every step of a run, ready at once or on your own drawing. Five tasks lead through.",
    ),
)
"""Selector of the part, title, text."""

_TEMPLATE = """
<dialog class="tour" aria-labelledby="tour-title" aria-describedby="tour-text">
  <div class="tour-ring" aria-hidden="true"></div>
  <div class="tour-card">
    <p class="tour-count" data-part="count"></p>
    <h2 id="tour-title" data-part="title"></h2>
    <p id="tour-text" data-part="text" aria-live="polite"></p>
    <div class="tour-buttons">
      <button type="button" data-turn="end">End</button>
      <button type="button" data-turn="back">Back</button>
      <button type="button" data-turn="next" class="tour-next">Next</button>
    </div>
  </div>
</dialog>
"""


def build_tour() -> gr.HTML:
    """Return the tour, closed until a `TOUR_BUTTON` is pressed."""
    return gr.HTML(
        html_template=_TEMPLATE,
        js_on_load=(Path(__file__).parent / "tour.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="tour",
        steps=[{"target": target, "title": title, "text": text} for target, title, text in STEPS],
    )
