"""What somebody new to the page meets in Chromium: all in sight, nothing left over of what was there before."""

import json
import re

import numpy as np
import pytest
from at_the_page import (
    DESK,
    PHONE,
    RUN_MS,
    PageAt,
    Studio,
    downloads,
    draw_blob,
    generate,
    open_page,
    set_seed,
    set_steps,
    status,
)
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def box(page: Page, selector: str) -> dict[str, float]:
    found = page.locator(selector).first.bounding_box()
    assert found is not None, selector
    return dict(found)


def test_drawing_result_and_what_to_do_with_them_fit_a_small_laptop(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio, DESK)
    bar = box(page, "#action-bar")["y"]
    for canvas in ("editor", "viewer"):
        assert box(page, f"#{canvas} .sc")["y"] + box(page, f"#{canvas} .sc")["height"] <= bar
    downloads_row = box(page, "#downloads")
    assert downloads_row["y"] + downloads_row["height"] <= bar
    expect(status(page)).to_contain_text("follows the drawing")
    stages = [box(page, f"#{canvas} .sc-stage") for canvas in ("editor", "viewer")]
    assert stages[0]["y"] == stages[1]["y"]
    page.set_viewport_size({"width": 1280, "height": 720})
    page.wait_for_function("h => document.querySelector('#editor .sc').offsetHeight < h", arg=stages[0]["height"])


@pytest.mark.parametrize("size", [DESK, PHONE, (360, 740)])
def test_no_label_runs_out_of_its_button(studio: Studio, page_at: PageAt, size: tuple[int, int]) -> None:
    page = open_page(page_at, studio, size)
    for canvas in ("editor", "viewer"):
        inside = page.locator(f"#{canvas} [data-part=labels] > *").evaluate_all(
            "chips => chips.every((chip) => chip.scrollWidth <= chip.clientWidth + 1)"
        )
        assert inside


def test_the_first_stroke_is_a_whole_lesion(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    chosen = page.locator("#editor [data-part=labels] [aria-checked=true]")
    expect(chosen).to_contain_text("Whole tumor")
    draw_blob(page, right=0.35, up=0.5)
    voxels = page.evaluate("Array.from(vcmSliceCanvas.find('editor').drawing.voxels)")
    counts = np.bincount(voxels, minlength=4)
    assert (counts[1:] > 20).all()
    expect(page.locator("#editor [data-part=hint]")).to_contain_text("lights up with contrast")


def test_an_edit_and_an_empty_drawing_are_named(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    expect(status(page)).to_contain_text("a finished example")
    page.locator("#editor [data-action=clear]").click()
    expect(status(page)).to_contain_text("The drawing is empty: Generate makes a brain without a tumor.")
    page.locator("#editor [data-action=undo]").click()
    expect(status(page)).to_contain_text("a finished example")  # it is the very drawing of it again
    draw_blob(page, right=0.35, up=0.5)
    expect(status(page)).to_contain_text("The drawing has changed")


def test_an_example_takes_no_drawing_away(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    draw_blob(page, right=0.35, up=0.5)
    labels = page.locator("#editor [data-part=labels]")
    drawn = labels.inner_text()
    page.locator("#examples [data-slug]").nth(1).click()
    expect(status(page)).to_contain_text("a finished example")
    expect(labels).not_to_have_text(drawn, use_inner_text=True)
    page.locator("#editor [data-action=undo]").click()
    expect(labels).to_have_text(drawn, use_inner_text=True)
    expect(status(page)).to_contain_text("The drawing has changed")


def test_undo_and_redo_lead_back_to_what_was_said_of_the_run(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    draw_blob(page, right=0.35, up=0.5)
    set_seed(page, 5)
    generate(page)
    told = status(page).inner_text()
    page.locator("#editor [data-action=undo]").click()
    expect(status(page)).not_to_have_text(told, use_inner_text=True)
    page.locator("#editor [data-action=redo]").click()
    expect(status(page)).to_have_text(told, use_inner_text=True)


def test_a_cancelled_run_leaves_what_was_there_before(studio: Studio, page_at: PageAt, tmp_path) -> None:
    page = open_page(page_at, studio)
    draw_blob(page, right=0.35, up=0.5)
    set_seed(page, 5)
    generate(page)
    adherence = page.locator("#adherence").inner_text()
    seen = page.evaluate("vcmSliceCanvas.find('viewer').layers.map(({ url }) => url)")
    set_seed(page, 6)
    set_steps(page, 100)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text(re.compile(r"Step \d+ of 100"), timeout=RUN_MS)
    expect(page.locator("#adherence")).to_contain_text("Measured as soon as")
    page.locator("#cancel").click()
    expect(status(page)).to_contain_text("Cancelled: the volume of before is shown again")
    expect(page.locator("#adherence")).to_have_text(adherence, use_inner_text=True)
    page.wait_for_function(
        "seen => vcmSliceCanvas.find('viewer').layers.map(({ url }) => url).join() === seen", arg=",".join(seen)
    )
    assert downloads(page, tmp_path)[3]["request"]["seed"] == 5


def test_what_was_measured_is_said_to_be_of_the_drawing_before(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)

    def heading() -> str:
        return page.evaluate(
            "getComputedStyle(document.querySelector('#adherence .adherence'), '::before').getPropertyValue('content')"
        )

    assert heading() == "none"
    draw_blob(page, 0.4, 0.6)
    assert "the drawing has changed since" in heading()
    for _ in range(2):  # cleared, and drawn
        page.locator("#editor [data-action=undo]").click()
    assert heading() == "none"


def test_another_example_begins_at_its_volume(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    layers = page.locator("#viewer [data-part=layers]")
    layers.get_by_text("Difference").click()
    expect(layers.get_by_text("Difference")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#viewer [data-part=hint]")).to_contain_text("Orange: the controlled volume is brighter")
    page.locator("#examples [data-slug]").nth(1).click()
    expect(layers.get_by_text("Controlled", exact=True)).to_have_attribute("aria-checked", "true")


def test_the_end_of_a_run_is_announced_in_words(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(document.body.textContent.match(/common[.]\\w+/)?.[0]))"
        ".observe(document.body, { subtree: true, childList: true, characterData: true })"
    )
    set_seed(page, 8)
    generate(page)
    page.wait_for_timeout(6_000)  # Gradio announces at most every five seconds
    assert json.loads(page.evaluate("JSON.stringify(said.filter(Boolean))")) == []
