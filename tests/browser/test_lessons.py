"""The lessons and the tour in Chromium: ready at once, run live and cancelled, reached by keyboard alone."""

import re

import pytest
from at_the_page import DESK, PHONE, RUN_MS, PageAt, Serve, Studio, draw_blob, launch, open_page, overflow, set_steps
from playwright.sync_api import Page, expect

from vcm.pipeline import Pipeline
from vcm.ui.learn.lesson_kinds import KINDS, TABS
from vcm.ui.learn.tour import STEPS

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def studio(serve: Serve) -> Studio:
    return launch(Pipeline.from_pretrained("mini", device="cpu"), serve)


def open_lessons(page_at: PageAt, studio: Studio, size: tuple[int, int] = DESK) -> Page:
    page = open_page(page_at, studio, size)
    expect(page.locator("#lesson-pair .shot").first).to_be_attached()
    return page


def sheet(page: Page, kind: str) -> str:
    return page.locator(f"#lesson-{kind} .lesson-figure").evaluate("e => e.style.getPropertyValue('--sheet')")


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_every_tab_opens_on_its_pictures(studio: Studio, page_at: PageAt, size: tuple[int, int]) -> None:
    page = open_lessons(page_at, studio, size)
    for tab in TABS:
        page.locator(f"#tab-{tab.name}").click()
        for kind in KINDS:
            card = page.locator(f"#lesson-{kind.name}")
            if kind.tab == tab.name:
                expect(card).to_be_visible()
                expect(card.locator(".lesson-figure")).to_be_visible()
            else:
                expect(card).to_be_hidden()
        assert overflow(page) <= 0
    expect(page.locator("#lesson-steps .shot i").first).to_be_visible()
    page.locator("#tab-sweep").click()
    expect(page.locator("#lesson-calibration .chart")).to_be_visible()


def test_an_example_brings_its_own_pictures_and_the_slider_moves_them(studio: Studio, page_at: PageAt) -> None:
    page = open_lessons(page_at, studio)
    before = sheet(page, "pair")
    page.locator("#lesson-case label").nth(1).click()
    page.wait_for_function(
        "old => document.querySelector('#lesson-pair .lesson-figure')?.style.getPropertyValue('--sheet') !== old",
        arg=before,
    )
    page.locator("#tab-hood").click()
    slider = page.locator("#lesson-steps .scrubber input")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lesson-steps output")).to_have_text("3")
    at = page.locator("#lesson-steps .shot i").evaluate_all("all => all.map((i) => i.style.getPropertyValue('--x'))")
    assert at == ["2", "2", "2"]
    marker = page.locator("#lesson-steps [data-marker]").first
    assert marker.get_attribute("x1") == marker.get_attribute("data-xs").split(",")[2]


def test_a_lesson_runs_on_the_drawing_and_is_cancelled(studio: Studio, page_at: PageAt) -> None:
    page = open_lessons(page_at, studio)
    before = sheet(page, "guidance")
    draw_blob(page, right=0.35, up=0.5)
    page.locator("#tab-sweep").click()
    page.locator("#lesson-guidance-run").click()
    state = page.locator("#lesson-guidance-status")
    expect(state).to_contain_text(re.compile(r"\d+ % done"), timeout=RUN_MS)
    expect(page.locator("#lesson-guidance-run")).to_be_hidden()
    page.locator("#lesson-guidance-cancel").click()
    expect(state).to_contain_text("Cancelled: it shows how far it came")
    expect(page.locator("#lesson-guidance-run")).to_be_visible()

    set_steps(page, 4)
    page.locator("#lesson-guidance-run").click()
    expect(state).to_contain_text(re.compile(r"On your drawing, with seed \d+ and 4 steps"), timeout=RUN_MS)
    expect(page.locator("#lesson-guidance-run")).to_be_visible()
    assert sheet(page, "guidance") != before
    assert page.locator("#lesson-guidance .shot").count() == 7


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_tour_is_taken_by_keyboard_and_ends_with_escape(
    studio: Studio, page_at: PageAt, size: tuple[int, int]
) -> None:
    page = open_lessons(page_at, studio, size)
    page.locator("[data-tour]").focus()
    page.keyboard.press("Enter")
    tour = page.locator("#tour dialog")
    for number, (target, title, text) in enumerate(STEPS, start=1):
        expect(tour.locator("[data-part=title]")).to_have_text(title)
        expect(tour.locator("[data-part=text]")).to_have_text(text)
        expect(tour.locator("[data-part=count]")).to_have_text(f"{number} of 5")
        expect(tour.locator("[data-turn=next]")).to_be_focused()
        page.wait_for_timeout(300)  # the ring is on its way
        card, ring = tour.locator(".tour-card").bounding_box(), tour.locator(".tour-ring").bounding_box()
        part = page.locator(target).bounding_box()
        assert card["x"] >= 0
        assert card["y"] >= 0
        assert card["x"] + card["width"] <= size[0]
        assert card["y"] + card["height"] <= size[1]
        assert ring["y"] < part["y"] + part["height"]
        assert ring["y"] + ring["height"] > part["y"]
        page.keyboard.press("ArrowRight")
    expect(tour.locator("[data-part=count]")).to_have_text("5 of 5")
    page.keyboard.press("ArrowLeft")
    expect(tour.locator("[data-part=count]")).to_have_text("4 of 5")
    page.keyboard.press("Escape")
    expect(tour).to_be_hidden()
    expect(page.locator("[data-tour]")).to_be_focused()
