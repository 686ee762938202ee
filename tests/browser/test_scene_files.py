"""The files of the 3-D view: a picture, and a page of its own that turns without a network."""

from pathlib import Path

import numpy as np
import pytest
from at_the_page import PageAt, Serve, Studio, generate, launch, open_page
from PIL import Image
from playwright.sync_api import Page, expect
from tiny import build_tiny_model

from vcm.pipeline import Pipeline

pytestmark = pytest.mark.browser

CAMERA = "id => document.querySelector(id)._fullLayout.scene._scene.getCamera().eye"


@pytest.fixture(scope="module")
def small_studio(serve: Serve) -> Studio:
    """The app on random weights, whose volumes have a surface, too."""
    return launch(Pipeline(build_tiny_model()), serve)


@pytest.fixture
def scene_page(small_studio: Studio, page_at: PageAt) -> Page:
    page = open_page(page_at, small_studio)
    generate(page, steps=4)
    page.locator("#tab-scene").click()
    expect(page.locator("#scene [data-part=root]")).to_have_attribute("data-shown", "true", timeout=60_000)
    return page


def save(page: Page, name: str, folder: Path) -> Path:
    with page.expect_download(timeout=60_000) as waiting:
        page.locator("#scene").get_by_role("button", name=name).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_the_view_is_saved_as_a_picture(scene_page: Page, tmp_path: Path) -> None:
    path = save(scene_page, "Picture", tmp_path)
    assert path.suffix == ".png"
    box = scene_page.locator("#scene [data-part=plot]").bounding_box()
    assert box is not None
    with Image.open(path) as picture:
        assert picture.width == pytest.approx(2 * box["width"], abs=4)
        assert np.asarray(picture.convert("L")).std() > 3  # something is in it


def test_the_view_is_saved_as_a_page_that_needs_no_network(scene_page: Page, page_at: PageAt, tmp_path: Path) -> None:
    turn = "eye => Plotly.relayout(document.querySelector('#scene [data-part=plot]'), 'scene.camera.eye', eye)"
    scene_page.evaluate(turn, {"x": 0.2, "y": -1.7, "z": 0.9})
    path = save(scene_page, "HTML file", tmp_path)
    assert path.suffix == ".html"
    asked: list[str] = []
    alone = page_at(600, 500, offline=True)
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(path.as_uri())
    expect(alone.locator("#plot .gl-container canvas, #plot canvas").first).to_be_visible(timeout=60_000)
    alone.wait_for_function("document.querySelector('#plot')._fullLayout?.scene?._scene", timeout=60_000)
    eye = alone.evaluate(CAMERA, "#plot")
    assert [eye[axis] for axis in "xyz"] == pytest.approx([0.2, -1.7, 0.9], abs=0.05)  # seen as it was left
    expect(alone.locator("#plot .legend")).to_contain_text("Brain")
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
