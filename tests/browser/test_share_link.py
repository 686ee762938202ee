"""Links in Chromium: what is set and drawn comes back on another visit, and no server sees it in an address."""

import json

import numpy as np
import pytest
from at_the_page import (
    DESK,
    PHONE,
    PageAt,
    Serve,
    Studio,
    download,
    draw_blob,
    generate,
    launch,
    open_page,
    overflow,
    set_seed,
    set_steps,
    status,
)
from playwright.sync_api import Page, expect
from tiny import build_tiny_model

from vcm.pipeline import Pipeline
from vcm.recipe_link import MAX_LINK_CHARS
from vcm.volume import Volume

pytestmark = pytest.mark.browser

MAY_COPY = {"permissions": ["clipboard-read", "clipboard-write"]}


@pytest.fixture(scope="module")
def small_studio(serve: Serve) -> Studio:
    """The app on random weights: a link does not depend on what was learned, and a run takes a moment."""
    return launch(Pipeline(build_tiny_model()), serve)


def copied_link(page: Page) -> str:
    page.locator("#share").click()
    expect(page.locator("#share-link [role=status]")).to_contain_text("Link copied.")
    return page.evaluate("navigator.clipboard.readText()")


def open_link(page_at: PageAt, studio: Studio, link: str, size: tuple[int, int] = DESK) -> tuple[Page, list[str]]:
    """A new visitor at a link, and every address that their browser asked for."""
    asked: list[str] = []
    page = page_at(*size)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(link)
    return page, asked


def test_a_link_restores_drawing_and_settings_and_keeps_the_seed(small_studio, page_at: PageAt, tmp_path):
    page = open_page(page_at, small_studio, **MAY_COPY)
    draw_blob(page, 0.4, 0.6)
    set_seed(page, 4242)
    set_steps(page, 5)
    link = copied_link(page)
    assert link.startswith(f"{small_studio.url}#recipe=")
    assert page.locator("#share-link input").input_value() == link
    expect(page.locator("#share-recipe")).to_be_hidden()
    generate(page, steps=5)
    drawn = Volume.load(download(page, "condition-tumor", tmp_path), labels=True)
    assert drawn.array.any()

    other, asked = open_link(page_at, small_studio, link)
    expect(status(other)).to_contain_text("The link is restored: press Generate.")
    assert other.locator("#seed input").input_value() == "4242"
    assert other.locator("#steps input[type=number]").input_value() == "5"
    expect(other.locator("#lock input")).to_be_checked()
    assert "#" not in other.url  # a reload brings back what was drawn since
    secret = link.split("#")[1]
    assert all(secret not in url and url.startswith((small_studio.url, "data:", "blob:")) for url in asked)
    other.locator("#generate").click()
    expect(status(other)).to_contain_text("Shown at once")
    (tmp_path / "other").mkdir()
    again = Volume.load(download(other, "condition-tumor", tmp_path / "other"), labels=True)
    np.testing.assert_array_equal(again.array, drawn.array)


def test_a_link_holds_the_seed_that_the_page_shows_even_where_it_is_not_kept(small_studio, page_at: PageAt):
    page = open_page(page_at, small_studio, **MAY_COPY)
    set_seed(page, 99)
    page.locator("#lock input").uncheck()
    link = copied_link(page)
    page.goto("about:blank")
    page.goto(link)
    expect(status(page)).to_contain_text("The link is restored")
    assert page.locator("#seed input").input_value() == "99"
    expect(page.locator("#lock input")).to_be_checked()


def test_a_drawing_too_large_for_a_link_is_offered_as_a_recipe(small_studio, page_at: PageAt, tmp_path, monkeypatch):
    monkeypatch.setattr("vcm.recipe_link.MAX_LINK_CHARS", 900)
    page = open_page(page_at, small_studio, **MAY_COPY)
    grid = small_studio.pipeline.grid
    noise = np.random.default_rng(0).integers(0, 4, grid.shape).astype(np.uint8)
    Volume(noise, grid.affine).save(tmp_path / "noise.nii.gz")
    page.locator("#upload-tumor input[type=file]").set_input_files(tmp_path / "noise.nii.gz")
    expect(status(page)).to_contain_text("Tumor map taken")
    set_seed(page, 17)
    link = copied_link(page)
    expect(page.locator("#share-link")).to_contain_text("without the Tumor map, too large for a link: send the recipe")
    with page.expect_download() as waiting:
        page.locator("#share-recipe").click()
    recipe = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(recipe)
    assert recipe.name == "recipe.json"
    assert json.loads(recipe.read_text())["request"]["seed"] == 17

    other, _ = open_link(page_at, small_studio, link)
    expect(status(other)).to_contain_text("It came without the Tumor map")
    assert other.locator("#seed input").input_value() == "17"
    other.locator("#lock input").uncheck()
    other.locator("#upload-recipe input[type=file]").set_input_files(recipe)
    expect(status(other)).to_contain_text("The recipe is restored")
    expect(other.locator("#lock input")).to_be_checked()


@pytest.mark.parametrize(
    ("fragment", "sentence"),
    [("abc", "The link is damaged"), ("A" * (MAX_LINK_CHARS + 1), "The link is too long"), ("", "The link is damaged")],
)
def test_a_broken_link_is_told_in_one_sentence_and_the_drawing_stays(small_studio, page_at, fragment, sentence):
    page = open_page(page_at, small_studio)
    draw_blob(page, 0.4, 0.6)
    expect(status(page)).to_contain_text("The drawing has changed")  # the stroke was heard
    drawn = page.locator("#editor [data-part=labels]").inner_text()
    page.evaluate("hash => { location.hash = hash; }", f"#recipe={fragment}")
    expect(status(page).get_by_role("alert")).to_contain_text(sentence)
    assert page.locator("#editor [data-part=labels]").inner_text() == drawn
    assert "#" not in page.url


def test_what_is_said_of_a_link_is_not_lost_to_the_drawing_that_was_kept(small_studio, page_at: PageAt):
    page = open_page(page_at, small_studio)
    draw_blob(page, 0.4, 0.6)
    expect(page.locator("#editor [data-part=saved]")).to_contain_text("Drawing saved")
    page.goto("about:blank")
    page.goto(f"{small_studio.url}#recipe=abc")
    expect(page.locator("#editor [data-part=restored]")).to_be_visible()
    expect(status(page)).to_contain_text("The link is damaged")
    page.wait_for_timeout(1500)
    expect(status(page)).to_contain_text("The link is damaged")


def test_where_a_page_may_not_copy_the_link_can_be_copied_by_hand(small_studio, page_at: PageAt):
    page = page_at(*PHONE)
    page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined }); document.execCommand = () => false;"
    )
    page.goto(small_studio.url)
    expect(page.locator("#editor .sc")).to_have_attribute("aria-busy", "false")
    page.locator("#share").click()
    expect(page.locator("#share-link [role=status]")).to_contain_text("copy the link above")
    field = page.get_by_label("Link", exact=True)
    expect(field).to_be_focused()
    assert field.evaluate("e => e.selectionEnd - e.selectionStart") == len(field.input_value()) > 100
    assert overflow(page) == 0
