"""Names and focus for those who use a keyboard or a screen reader; the JavaScript lies beside it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr


def build_assist() -> gr.HTML:
    """Return the script, an element that is never seen."""
    return gr.HTML(
        html_template="",
        js_on_load=(Path(__file__).parent / "assist.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="assist",
    )
