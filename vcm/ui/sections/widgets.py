"""Two small components without a value: the strip of examples, and the switch between the views of a result."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

import gradio as gr

from vcm.ui.sections.examples import Example

_EXAMPLES_TEMPLATE = """
<nav class="examples" aria-label="Examples">
  {{#each examples}}
  <button type="button" data-slug="{{slug}}">
    <img src="{{picture}}" alt="" width="42" height="56">
    <span><b>{{title}}</b><small title="{{sentence}}">{{sentence}}</small></span>
  </button>
  {{/each}}
</nav>
"""
_EXAMPLES_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-slug]");
  if (button) trigger("select", { slug: button.dataset.slug });
});
"""

_SWITCH_TEMPLATE = """
<div class="switch" role="tablist" aria-label="Views">
  {{#each views}}
  <button type="button" role="tab" id="tab-{{name}}" data-view="{{name}}"
    aria-selected="{{selected}}">{{title}}</button>
  {{/each}}
</div>
"""
# Every view stays mounted and CSS shows one: what stands in an inactive gr.Tab would miss its updates.
_SWITCH_SCRIPT = """
const tabs = [...element.querySelectorAll("[role=tab]")];
const choose = (chosen) => {
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
  }
  document.getElementById(props.target).dataset.view = chosen.dataset.view;
};
element.addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (tab) choose(tab);
});
element.addEventListener("keydown", (event) => {
  const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const index = tabs.indexOf(event.target);
  if (!turn || index < 0) return;
  const next = tabs[(index + turn + tabs.length) % tabs.length];
  choose(next);
  next.focus();
});
"""


def build_example_strip(examples: Sequence[Example]) -> gr.HTML:
    """Return a row of buttons, one an example; "select" brings the slug of the one that was clicked."""
    shown = [
        {"slug": each.slug, "title": each.title, "sentence": each.sentence, "picture": _inline(each)}
        for each in examples
    ]
    return gr.HTML(
        html_template=_EXAMPLES_TEMPLATE,
        js_on_load=_EXAMPLES_SCRIPT,
        apply_default_css=False,
        elem_id="examples",
        visible=bool(shown),
        examples=shown,
    )


def build_view_switch(views: Mapping[str, str], target: str, elem_id: str = "views") -> gr.HTML:
    """Return tabs that set `data-view` on an element, by which the style sheet shows one view; the first is shown.

    Args:
        views: titles by name.
        target: id of the element.
        elem_id: of the tabs.
    """
    shown = [{"name": name, "title": title, "selected": "false"} for name, title in views.items()]
    shown[0]["selected"] = "true"
    return gr.HTML(
        html_template=_SWITCH_TEMPLATE,
        js_on_load=_SWITCH_SCRIPT,
        apply_default_css=False,
        elem_id=elem_id,
        views=shown,
        target=target,
    )


def _inline(example: Example) -> str:
    if not example.thumbnail.exists():
        return "data:,"
    return f"data:image/webp;base64,{b64encode(example.thumbnail.read_bytes()).decode('ascii')}"
