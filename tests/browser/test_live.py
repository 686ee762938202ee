"""Live mode in Chromium: a stroke is followed at once, many strokes never queue up, and rest brings the full run."""

import re
import time

import numpy as np
import pytest
from at_the_page import PageAt, Studio, downloads, draw_blob, open_page, set_steps, status
from playwright.sync_api import Page, expect

from vcm.pipeline import Pipeline
from vcm.ui.sections.live import LIVE_STEPS

pytestmark = pytest.mark.browser

QUICK_MS = 60_000
STROKES = 20


@pytest.fixture
def decoded(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a volume was decoded."""
    times: list[float] = []
    decode = Pipeline._decode

    def watch(pipeline: Pipeline, latent):
        times.append(time.monotonic())
        return decode(pipeline, latent)

    monkeypatch.setattr(Pipeline, "_decode", watch)
    return times


LISTEN = """() => {
  window.told = [];
  const status = document.querySelector("#status");
  const listen = () => window.told.push(status.textContent);
  new MutationObserver(listen).observe(status, { subtree: true, childList: true, characterData: true });
}"""


def turn_live_on(page: Page) -> None:
    page.locator("#live input").check()


def test_a_stroke_is_followed_at_once_and_rest_brings_the_full_run(
    studio: Studio, page_at: PageAt, decoded: list[float], tmp_path
) -> None:
    page = open_page(page_at, studio)
    set_steps(page, 4)
    draw_blob(page, 0.4, 0.5)
    expect(status(page)).to_contain_text("press Generate")
    turn_live_on(page)
    page.evaluate(LISTEN)
    draw_blob(page, 0.6, 0.5)
    layers = page.locator("#viewer [data-part=layers] button")
    expect(status(page)).to_contain_text("Done in", timeout=QUICK_MS)
    expect(layers).to_have_count(3)
    # On a slow machine the drawing has rested long enough by the time that the quick run ends.
    assert any(re.search(rf"Live: {LIVE_STEPS} steps in \d", told) for told in page.evaluate("window.told"))
    # The controlled volume alone after the clearing and after the stroke, and both volumes of the full run.
    assert len(decoded) <= 4
    _, _, drawn, recipe = downloads(page, tmp_path)
    assert recipe["request"]["num_inference_steps"] == 4
    left = np.argwhere(drawn.array > 0).mean(0) @ drawn.affine[:3, :3].T + drawn.affine[:3, 3]
    assert left[0] < 0  # the right of a radiological screen is the patient's left


def test_many_quick_strokes_leave_no_queue(studio: Studio, page_at: PageAt, decoded: list[float]) -> None:
    page = open_page(page_at, studio)
    set_steps(page, 4)
    turn_live_on(page)
    for number in range(STROKES):
        draw_blob(page, 0.35 + 0.3 * number / STROKES, 0.5)
        page.wait_for_timeout(150)
    last = time.monotonic()
    expect(status(page)).to_contain_text("Done in", timeout=QUICK_MS)
    waited = [when - last for when in decoded if when > last]
    assert len(waited) <= 4  # at most one run that was being decoded, the last stroke's, and the two of the full run
    assert len(decoded) < STROKES


def test_without_it_a_stroke_only_says_that_it_changed(studio: Studio, page_at: PageAt, decoded: list[float]) -> None:
    page = open_page(page_at, studio)
    turn_live_on(page)
    page.locator("#live input").uncheck()
    draw_blob(page, 0.4, 0.5)
    expect(status(page)).to_contain_text("press Generate")
    page.wait_for_timeout(1500)
    assert not decoded
