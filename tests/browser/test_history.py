"""The history in Chromium: runs come back, any two are compared under one crosshair, and nobody sees another's."""

import json
import re

import pytest
from at_the_page import (
    DESK,
    FINISHED,
    PHONE,
    RUN_MS,
    PageAt,
    Serve,
    Studio,
    brightness,
    download,
    draw_blob,
    launch,
    open_page,
    overflow,
    set_seed,
    set_steps,
    status,
)
from playwright.sync_api import Locator, Page, expect
from tiny import build_tiny_model

from vcm.pipeline import Pipeline

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def small_studio(serve: Serve) -> Studio:
    """The app on random weights: what is shown again does not depend on what was learned, and a run takes a moment."""
    return launch(Pipeline(build_tiny_model()), serve)


def runs(page: Page) -> Locator:
    return page.locator("#history [data-run]")


def run_with_seed(page: Page, seed: int) -> None:
    count = runs(page).count()
    set_seed(page, seed)
    set_steps(page, 4)
    page.locator("#generate").click()
    expect(runs(page)).to_have_count(count + 1, timeout=RUN_MS)
    expect(status(page)).to_contain_text(FINISHED)


def pick(page: Page, side: str, number: int) -> None:
    page.get_by_role("radio", name=f"{side}: run {number}").check()


def shown_files(page: Page) -> list[str]:
    """The names of the volumes that the viewer shows, which are made of their content."""
    page.wait_for_function("vcmSliceCanvas.find('viewer').layers.length")  # a result comes before it is loaded
    expect(page.locator("#viewer .sc")).to_have_attribute("aria-busy", "false")
    return page.evaluate("vcmSliceCanvas.find('viewer').layers.map(({ url }) => url.split('/').at(-1))")


def coordinates(page: Page, name: str) -> str:
    return page.locator(f"#{name} [data-part=coordinates]").inner_text()


def test_a_run_comes_back_with_its_volumes_its_files_and_nothing_is_sampled(small_studio, page_at: PageAt, tmp_path):
    page = open_page(page_at, small_studio)
    expect(page.locator("#history")).to_contain_text("Your finished runs will be listed here")
    page.locator("#editor [data-setting=brushMm]").fill("10")
    draw_blob(page, 0.6, 0.5)
    run_with_seed(page, 5)
    first = shown_files(page)
    run_with_seed(page, 6)
    assert shown_files(page)[0] != first[0]
    calls: list[int] = []
    hook = small_studio.pipeline.backbone.diffusion.register_forward_hook(lambda *_: calls.append(1))
    draw_blob(page, 0.4, 0.5)
    drawn = page.locator("#editor [data-part=labels]").inner_text()
    page.evaluate("vcmSliceCanvas.find('editor').setCrosshair([-70, 60, -60])")  # where nothing is drawn
    expect(page.locator("#viewer [data-part=labelName]")).to_have_text("")
    runs(page).last.click()
    expect(status(page)).to_contain_text("Run 1 is shown again, beside the drawing and settings of now.")
    expect(runs(page).last).to_have_attribute("aria-current", "true")
    expect(runs(page).first).not_to_have_attribute("aria-current", "true")
    assert shown_files(page) == first
    expect(page.locator("#viewer [data-part=labelName]")).not_to_have_text("")  # the planes go to its tumor
    recipe = json.loads(download(page, "recipe", tmp_path).read_text())
    hook.remove()
    assert recipe["request"]["seed"] == 5
    assert page.locator("#seed input").input_value() == "6"  # the settings stay, and so does the drawing
    assert page.locator("#editor [data-part=labels]").inner_text() == drawn
    assert not calls


def test_any_two_runs_are_compared_under_one_crosshair(small_studio, page_at: PageAt, tmp_path):
    page = open_page(page_at, small_studio)
    firsts = []
    for seed in (5, 6, 7):
        run_with_seed(page, seed)
        firsts.append(shown_files(page)[0])
    page.locator("#tab-scene").click()
    pick(page, "A", 3)
    pick(page, "B", 1)
    page.locator("#history").get_by_role("button", name="Compare A with B").click()
    expect(status(page)).to_contain_text("A: run 3 against B: run 1")
    layers = page.locator("#viewer [data-part=layers] button")
    expect(layers).to_have_text(["A: run 3", "B: run 1", "Difference"])
    expect(page.locator("#viewer")).to_be_visible()  # the 3D view compares nothing
    assert shown_files(page)[:2] == [firsts[2], firsts[0]]
    expect(page.locator("#adherence [data-differs]")).to_have_text(["7", "5"])
    for action in ("swipe", "blink"):
        page.locator(f"#viewer [data-action={action}]").click()
        expect(page.locator(f"#viewer [data-action={action}]")).to_have_attribute("aria-pressed", "true")
    page.locator("#viewer [data-action=blink]").click()
    layers.nth(2).click()
    expect(layers.nth(2)).to_have_attribute("aria-checked", "true")
    assert brightness(page, "#viewer [data-plane=axial] canvas") > 0  # two seeds are two brains
    page.locator("#tab-pair").click()
    expect(page.locator("#pair .half")).to_have_text(["A: run 3", "B: run 1"])
    before = coordinates(page, "pair-controlled")
    page.locator("#pair-controlled [data-plane=axial] canvas").click(position={"x": 60, "y": 60})
    expect(page.locator("#pair-controlled [data-part=coordinates]")).not_to_have_text(before)
    expect(page.locator("#pair-uncontrolled [data-part=coordinates]")).to_have_text(
        coordinates(page, "pair-controlled")
    )
    expect(page.locator("#download-note")).to_contain_text("those of A: run 3")
    assert json.loads(download(page, "recipe", tmp_path).read_text())["request"]["seed"] == 7
    run_with_seed(page, 8)
    expect(page.locator("#pair .half")).to_have_text(["Controlled", "Uncontrolled"])


def test_the_same_run_twice_is_no_comparison_and_one_sentence_says_so(small_studio, page_at: PageAt):
    page = open_page(page_at, small_studio)
    run_with_seed(page, 5)
    expect(page.locator("#history [data-part=go]")).to_be_hidden()
    run_with_seed(page, 6)
    before = shown_files(page)
    pick(page, "A", 2)
    pick(page, "B", 2)
    page.locator("#history [data-part=go]").click()
    expect(page.locator("#history [data-part=say]")).to_have_text(
        "A and B are the same run: choose two different ones."
    )
    assert shown_files(page) == before


def test_the_same_recipe_again_keeps_its_number(small_studio, page_at: PageAt):
    page = open_page(page_at, small_studio)
    run_with_seed(page, 5)
    run_with_seed(page, 6)
    set_seed(page, 5)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("Shown at once")
    expect(runs(page).first).to_contain_text("Run 1")
    expect(runs(page)).to_have_count(2)


def test_two_visitors_never_see_each_others_history(small_studio, page_at: PageAt):
    one, two = (open_page(page_at, small_studio) for _ in range(2))
    run_with_seed(one, 5)
    run_with_seed(one, 6)
    run_with_seed(two, 9)
    expect(runs(two)).to_have_text([re.compile("Run 1.*Seed 9")])
    two.reload()
    expect(two.locator("#history")).to_contain_text("Your finished runs will be listed here")
    expect(runs(one)).to_have_count(2)


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_history_is_used_by_keyboard_alone_and_fits(small_studio, page_at: PageAt, size):
    page = open_page(page_at, small_studio, size)
    run_with_seed(page, 5)
    run_with_seed(page, 6)
    runs(page).last.focus()
    page.keyboard.press("Enter")
    expect(status(page)).to_contain_text("Run 1 is shown again")
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="A: run 1")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("radio", name="A: run 2")).to_be_checked()
    assert overflow(page) == 0
    for choice in page.locator(".history-choice").all():
        box = choice.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 24
