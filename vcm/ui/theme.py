"""The page's colors and type: one quiet gray scale, one accent, the system's own fonts, light and dark."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color

STYLE_SHEET = Path(__file__).parent / "app.css"

_ACCENT = Color(
    name="accent",
    c50="#ecfafb",
    c100="#d0f2f5",
    c200="#a6ebf2",
    c300="#7ddde7",
    c400="#5fd0dc",
    c500="#1fa9b8",
    c600="#0e7f8c",
    c700="#0c6974",
    c800="#0f525b",
    c900="#123f46",
    c950="#08262b",
)
_GRAY = Color(
    name="gray",
    c50="#f6f8f9",
    c100="#edf1f3",
    c200="#dce3e8",
    c300="#c2ccd4",
    c400="#9fadba",
    c500="#71808e",
    c600="#51606d",
    c700="#37444f",
    c800="#1f2932",
    c900="#131a21",
    c950="#0a0e13",
)
_FONT = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Consolas", "monospace")


def build_theme() -> gr.themes.Base:
    """Return the theme; nothing of it is fetched from another host."""
    return gr.themes.Base(
        primary_hue=_ACCENT,
        secondary_hue=_ACCENT,
        neutral_hue=_GRAY,
        font=list(_FONT),
        font_mono=list(_MONO),
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_border_width="0px",
        block_title_text_weight="600",
        block_info_text_size="*text_sm",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="white",
        button_primary_text_color_dark="*primary_950",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
    )
