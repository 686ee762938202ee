"""Which stroke is the newest, and what a run of an older one does."""

from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from vcm.pipeline import Pipeline
from vcm.ui.app import build_app
from vcm.ui.sections.live import LIVE_STEPS, Strokes


def test_a_new_stroke_outdates_those_of_its_own_visitor_only():
    strokes = Strokes()
    first, other = strokes.begin("a"), strokes.begin("b")
    assert strokes.is_newest("a", first)
    second = strokes.begin("a")
    assert not strokes.is_newest("a", first)
    assert strokes.is_newest("a", second)
    assert strokes.is_newest("b", other)
    assert not strokes.is_newest("c", 1)


def test_visitors_who_went_are_forgotten():
    strokes = Strokes(most_visitors=2)
    numbers = {name: strokes.begin(name) for name in "abc"}
    assert not strokes.is_newest("a", numbers["a"])
    assert all(strokes.is_newest(name, numbers[name]) for name in "bc")


@pytest.fixture
def follow(tiny_model, tmp_path):
    """The handlers behind a stroke, of an app on the tiny model: (begin, follow, what the page is set to)."""
    blocks = build_app(Pipeline(tiny_model), tmp_path)
    by_name = {function.fn.__name__: function for function in blocks.fns.values() if callable(function.fn)}
    begin, quick = by_name["begin_stroke"], by_name["follow_stroke"]
    values = [None, *(getattr(component, "value", None) for component in quick.inputs[2:])]  # nothing is drawn
    return begin.fn, quick.fn, values


def test_a_stroke_is_followed_and_one_that_came_before_another_is_not(follow):
    begin, quick, values = follow
    request = SimpleNamespace(session_hash="visitor")
    number_of = lambda updates: next(value for value in updates.values() if isinstance(value, int))  # noqa: E731
    first = number_of(begin("", None, request))
    second = number_of(begin("", None, request))
    # A handler that ends without a word empties what it might have changed: it says that nothing changes.
    (unchanged,) = quick(request, first, *values)
    assert list(unchanged.values()) == [gr.skip()]
    unchanged, estimate, final = quick(request, second, *values)
    assert list(unchanged.values()) == [gr.skip()]
    assert any(f"Live: {LIVE_STEPS} steps" in str(value) for value in final.values())
    for shown in (estimate, final):  # the numbers and files of the run before are not its own
        assert any("A quick volume is not measured" in str(value) for value in shown.values())
        assert any("Of the run before" in str(value) for value in shown.values())
    running = quick(request, second, *values)
    next(running)
    next(running)
    begin("", None, request)
    assert list(running) == []
    assert np.isfinite(first)
