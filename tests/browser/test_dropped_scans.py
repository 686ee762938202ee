"""Scans that are dropped on the page, in Chromium: what is said of them, where they stay, what comes back."""

from pathlib import Path

import numpy as np
import pytest
from at_the_page import RUN_MS, PageAt, Studio, download, generate, open_page, set_seed, set_steps, status
from playwright.sync_api import Page, expect

from vcm.data import simulate
from vcm.data.simulate import Subject
from vcm.research.evaluate.modalities import thicken
from vcm.volume import Volume

pytestmark = pytest.mark.browser

READ_MS = 60_000


@pytest.fixture(scope="module")
def subject() -> Subject:
    return simulate.simulate_subject(simulate.VALIDATION_SEEDS.start)


def drop(page: Page, name: str, scan: Volume, folder: Path) -> None:
    path = folder / f"{name}.nii.gz"
    scan.save(path)
    page.locator(f"#upload-{name} input[type=file]").set_input_files(path)


def open_scans(page: Page) -> None:
    page.locator("#scans > button").click()
    expect(page.locator("#upload-t2")).to_be_visible()


def test_two_scans_dropped_in_quick_succession_both_stay_in_the_editor(
    studio: Studio, page_at: PageAt, subject: Subject, tmp_path: Path
) -> None:
    page = open_page(page_at, studio)
    open_scans(page)
    for name in ("t2", "flair"):
        drop(page, name, Volume(subject.images[name], simulate.AFFINE), tmp_path)
    for name in ("t2", "flair"):
        expect(page.locator(f"#seen-{name} img")).to_be_visible(timeout=READ_MS)
        expect(page.locator(f"#use-{name} input")).to_be_checked()
        expect(page.locator(f"#seen-{name}")).to_contain_text("the patient's left is on the right")
    layers = page.locator("#editor [data-part=layers] button")
    expect(layers.filter(has_text="T2")).to_have_count(1)
    expect(layers.filter(has_text="FLAIR")).to_have_count(1)
    expect(page.locator("#editor [data-part=layers] [aria-checked=true]")).not_to_have_text("Brain")  # to be drawn on


def test_thick_slices_come_back_fine_with_the_means_that_went_in(
    studio: Studio, page_at: PageAt, subject: Subject, tmp_path: Path
) -> None:
    page = open_page(page_at, studio)
    open_scans(page)
    slices = thicken(subject.images["t1"].astype(np.float32), 4)
    drop(page, "lowres", Volume(slices.array * 1000, slices.affine), tmp_path)
    expect(page.locator("#seen-lowres img")).to_be_visible(timeout=READ_MS)
    page.locator("#use-tumor input").uncheck()
    generate(page)
    expect(page.locator("#adherence")).to_contain_text("follows no drawing")
    fine = Volume.load(download(page, "controlled", tmp_path)).array
    means = fine.reshape(*fine.shape[:2], -1, 4).mean(3)
    assert np.abs(means - slices.array * 1000).max() < 5


def test_a_partial_scan_without_a_region_says_what_will_be_made_up(
    studio: Studio, page_at: PageAt, subject: Subject, tmp_path: Path
) -> None:
    page = open_page(page_at, studio)
    open_scans(page)
    drop(page, "partial", Volume(subject.images["t1"], simulate.AFFINE), tmp_path)
    expect(page.locator("#seen-partial")).to_contain_text("the drawn tumor and 6 mm around it", timeout=READ_MS)


def test_an_example_that_is_chosen_during_a_run_is_not_taken_back_at_its_end(studio: Studio, page_at: PageAt) -> None:
    page = open_page(page_at, studio)
    drawn = page.locator("#editor [data-part=labels]")
    expect(drawn).not_to_contain_text("0.0 ml")
    set_steps(page, 12)
    set_seed(page, 77)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("Step 2", timeout=RUN_MS)
    page.locator("#examples [data-slug]").last.click()  # its drawing is empty
    expect(drawn).to_contain_text("0.0 ml")
    expect(status(page)).to_contain_text("Done in", timeout=RUN_MS)
    page.wait_for_timeout(1000)
    expect(page.locator("#editor .sc")).to_have_attribute("aria-busy", "false")
    expect(drawn).to_contain_text("0.0 ml")
