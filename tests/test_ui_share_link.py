"""The handlers behind a link: what the page makes of a link of any origin, and what it says about what is missing."""

from types import SimpleNamespace

import numpy as np
import pytest

from vcm.pipeline import Pipeline
from vcm.recipe import build_recipe
from vcm.recipe_link import pack_recipe
from vcm.request import GenerationRequest
from vcm.ui.app import build_app
from vcm.ui.canvas.slice_canvas import SliceCanvasData
from vcm.ui.palette import build_palette
from vcm.ui.views import view_drawing
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel

VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def pipeline(image_model: LoadedModel) -> Pipeline:
    return Pipeline(image_model)


@pytest.fixture
def open_link(pipeline, tmp_path, monkeypatch):
    """The handler of a link that the page was opened with: its text in, what it puts on the page by id out."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    blocks = build_app(pipeline, tmp_path / "no-examples")
    by_name = {function.fn.__name__: function.fn for function in blocks.fns.values() if callable(function.fn)}

    def opened(text: object, drawing: SliceCanvasData | None = None) -> dict:
        updates = by_name["open_link"](drawing, SimpleNamespace(text=text), VISITOR)
        return {component.elem_id or type(component).__name__: value for component, value in updates.items()}

    return opened


def link_to(pipeline: Pipeline, **arrays: np.ndarray) -> str:
    conditions = {name: Volume(array, pipeline.grid.affine) for name, array in arrays.items()}
    request = GenerationRequest(conditions, seed=31)
    return pack_recipe(build_recipe(request, pipeline.prepare(request), pipeline.environment)).text


def test_a_link_ticks_that_its_seed_is_kept(open_link, pipeline):
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[5:9, 8:14, 5:9] = 1
    page = open_link(link_to(pipeline, tumor=labels))
    assert (page["seed"], page["lock"]) == (31, True)
    assert "The link is restored" in page["status"]


def test_a_link_comes_over_the_brain_that_is_drawn_on(open_link, pipeline, tmp_path):
    anatomy = np.zeros(pipeline.grid.shape, np.uint8)
    anatomy[5:9, 8:14, 5:9] = 4
    brain = np.random.default_rng(1).random(pipeline.grid.shape).astype(np.float32)
    before = view_drawing(pipeline.grid, build_palette(pipeline, "tumor"), tmp_path, brain=brain)
    editor = open_link(link_to(pipeline, anatomy=anatomy), before)["editor"]
    assert editor.layers[0] == before.layers[0]
    assert [layer.name for layer in editor.layers] == ["Brain", "Anatomy"]


def test_a_scan_that_a_link_cannot_bring_is_named(open_link, pipeline):
    scan = np.random.default_rng(0).random(pipeline.grid.shape).astype(np.float32)
    assert "without the T2 scan" in open_link(link_to(pipeline, t2=scan))["status"]


@pytest.mark.parametrize("text", [None, 5, "", "abc", "<script>alert(1)</script>", "A" * 10_000])
def test_a_link_that_is_none_changes_nothing_but_the_status(open_link, text):
    page = open_link(text)
    assert set(page) == {"status"}
    assert 'role="alert"' in page["status"]
    assert "<script" not in page["status"]
