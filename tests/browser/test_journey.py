"""The whole journey in Chromium with the embedded model: open, draw, upload, generate, cancel, look, download."""

import json
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
import spaces
import torch
from at_the_page import (
    DESK,
    PHONE,
    RUN_MS,
    STEPS,
    Serve,
    Studio,
    brightness,
    download,
    downloads,
    draw_blob,
    generate,
    launch,
    open_page,
    overflow,
    set_seed,
    set_steps,
    status,
)
from forked_gpu import ForkedGPU
from playwright.sync_api import expect
from scipy import ndimage

from vcm.pipeline import Pipeline
from vcm.recipe import request_from_recipe
from vcm.volume import Volume

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def forked_studio(serve: Serve) -> Iterator[Studio]:
    """The app as it runs on ZeroGPU: each run in a fork, all that crosses pickled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spaces, "GPU", ForkedGPU())
        yield launch(Pipeline.from_pretrained("mini", device="cpu"), serve)


def ball(pipeline: Pipeline, center_mm: tuple[float, float, float], radius_mm: float) -> Volume:
    """A solid enhancing lesion on the model grid."""
    shape, affine = pipeline.grid.shape, pipeline.grid.affine
    world = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    inside = np.linalg.norm(world - np.reshape(center_mm, (3, 1)), axis=0) <= radius_mm
    return Volume((inside.reshape(shape) * 3).astype(np.uint8), affine)


def stored_lps(volume: Volume) -> Volume:
    """The same volume with its first two axes stored the other way round."""
    affine = volume.affine.copy()
    for axis in (0, 1):
        affine[:3, 3] += affine[:3, axis] * (volume.array.shape[axis] - 1)
        affine[:3, axis] *= -1
    return Volume(volume.array[::-1, ::-1], affine)


def expect_the_solo_result(studio: Studio, controlled: Volume, uncontrolled: Volume, recipe: dict) -> None:
    alone = studio.pipeline(request_from_recipe(recipe))
    np.testing.assert_array_equal(controlled.array, alone.controlled.array)
    np.testing.assert_array_equal(uncontrolled.array, alone.uncontrolled.array)


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_on_a_finished_example_and_asks_no_one_else(studio, page_at, size, scheme):
    requested: list[str] = []
    page = page_at(*size, color_scheme=scheme)
    page.on("request", lambda request: requested.append(request.url))
    page.goto(studio.url)
    expect(status(page)).to_contain_text("a finished example")
    expect(page.locator("#adherence")).to_contain_text("Does it follow the drawing?")
    expect(page.locator("#viewer .sc")).to_have_attribute("aria-busy", "false", timeout=60_000)
    expect(page.locator("#limits")).to_be_in_viewport()
    expect(page.locator("#generate")).to_be_in_viewport()
    for name in ("editor", "viewer"):
        assert brightness(page, f"#{name} [data-plane=axial] canvas") > 20
    assert overflow(page) == 0
    assert all(url.startswith((studio.url, "data:", "blob:")) for url in requested)
    assert not [url for url in requested if "plotly" in url]  # not before the 3-D view is looked at


def test_a_visitor_draws_a_tumor_and_gets_it_where_it_was_drawn(studio, page_at, tmp_path):
    page = open_page(page_at, studio)
    fetched: list[str] = []
    draw_blob(page, right=0.32, up=0.55)
    page.on("request", lambda request: fetched.append(request.url) if request.url.endswith(".u8.gz") else None)
    generate(page, steps=10)
    previews = len(set(fetched)) - 3  # the last three are the volumes and their difference
    assert previews >= 5
    controlled, uncontrolled, drawn, recipe = downloads(page, tmp_path)
    world = drawn.affine[:3, :3] @ np.argwhere(drawn.array > 0).mean(0) + drawn.affine[:3, 3]
    assert world[0] > 10  # drawn on the left of a radiological screen: the patient's right
    changed = np.abs(controlled.array - uncontrolled.array)
    near = ndimage.binary_dilation(drawn.array > 0, iterations=5)
    assert changed[near].mean() > 3 * changed[~near].mean()
    np.testing.assert_array_equal(controlled.affine, studio.pipeline.grid.affine)
    expect_the_solo_result(studio, controlled, uncontrolled, recipe)
    expect(page.locator("#adherence tbody tr")).not_to_have_count(0)


def test_the_same_recipe_again_comes_at_once_and_a_new_seed_does_not(studio, page_at):
    page = open_page(page_at, studio)
    set_seed(page, 11)
    generate(page)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("Shown at once")
    page.locator("#lock input").uncheck()
    generate(page)
    assert page.locator("#seed input").input_value() != "11"


def test_cancel_stops_within_a_step_and_the_next_run_works(studio, page_at):
    page = open_page(page_at, studio)
    draw_blob(page, right=0.35, up=0.5)
    calls: list[float] = []
    hook = studio.pipeline.backbone.diffusion.register_forward_hook(lambda *_: calls.append(time.monotonic()))
    set_steps(page, 100)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text(re.compile(r"Step \d+ of 100"), timeout=RUN_MS)
    page.locator("#cancel").click()
    expect(status(page)).to_contain_text("Cancelled")
    settled = len(calls)
    page.wait_for_timeout(2_000)
    hook.remove()
    assert len(calls) <= settled + 2  # one step is one evaluation for each of the two volumes
    expect(status(page)).to_contain_text("Cancelled")
    generate(page)


def test_the_keyboard_alone_starts_and_stops_a_run(studio, page_at):
    page = open_page(page_at, studio)
    set_steps(page, 100)
    page.locator("#generate").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#generate")).to_be_focused()
    expect(status(page)).to_contain_text("Cancelled")


def test_a_mouse_leaves_the_focus_where_it_fell(studio, page_at):
    page = open_page(page_at, studio)
    set_steps(page, 100)
    page.locator("#generate").click()
    expect(page.locator("#cancel")).to_be_visible()
    page.wait_for_timeout(300)
    expect(page.locator("#cancel")).not_to_be_focused()
    page.locator("#cancel").click()
    expect(status(page)).to_contain_text("Cancelled")


def test_every_drop_zone_says_what_it_takes(studio, page_at):
    page = open_page(page_at, studio)
    page.get_by_role("button", name="Bring your own case").click()
    for name in ("Tumor map", "Anatomy map", "Partial scan", "Region", "Thick slices", "T2", "Flair", "Recipe"):
        expect(page.get_by_role("button", name=f"{name}: drop a file, or press to choose one")).to_be_visible()


def test_the_3d_view_shows_brain_and_tumor_and_keeps_its_camera(studio, page_at):
    page = open_page(page_at, studio)
    set_seed(page, 21)
    page.locator("#tab-scene").click()
    scene = page.locator("#scene [data-part=root]")
    expect(scene).to_have_attribute("data-shown", "true", timeout=60_000)
    expect(scene).to_contain_text("Brain")
    camera = "() => document.querySelector('#scene [data-part=plot]')._fullLayout.scene._scene.getCamera().eye"
    scene.evaluate("scene => scene.scrollIntoView({ block: 'center', behavior: 'instant' })")
    box = scene.bounding_box()
    before = page.evaluate(camera)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 120, box["y"] + box["height"] / 2 - 40, steps=6)
    page.mouse.up()
    page.wait_for_timeout(500)
    turned = page.evaluate(camera)
    assert max(abs(turned[axis] - before[axis]) for axis in "xyz") > 0.1
    with page.expect_response(lambda response: "scene-" in response.url, timeout=RUN_MS):
        generate(page)
        scene.evaluate("scene => scene.scrollIntoView({ block: 'center', behavior: 'instant' })")  # it waits to be seen
    page.wait_for_timeout(2_000)
    assert page.evaluate(camera) == pytest.approx(turned, abs=1e-6)


def test_both_volumes_stand_side_by_side_under_one_crosshair(studio, page_at):
    page = open_page(page_at, studio)
    page.locator("#tab-pair").click()
    for half in ("controlled", "uncontrolled"):
        expect(page.locator(f"#pair-{half} .sc")).to_have_attribute("aria-busy", "false")
        assert brightness(page, f"#pair-{half} [data-plane=axial] canvas") > 10
    where = page.locator("#pair-controlled [data-part=coordinates]")
    before = where.inner_text()
    page.locator("#pair-controlled [data-plane=axial] canvas").click(position={"x": 90, "y": 120})
    expect(where).not_to_have_text(before)  # drawn with the next frame, which a busy machine may delay
    expect(page.locator("#pair-uncontrolled [data-part=coordinates]")).to_have_text(where.inner_text())


def test_an_uploaded_mask_of_any_orientation_becomes_the_condition(studio, page_at, tmp_path):
    page = open_page(page_at, studio)
    mask = ball(studio.pipeline, (-30, -20, 20), 14)
    stored_lps(mask).save(tmp_path / "patient-name.nii.gz")
    page.locator("#upload-tumor input[type=file]").set_input_files(tmp_path / "patient-name.nii.gz")
    expect(status(page)).to_contain_text("Tumor map taken")
    assert "patient-name" not in page.content()
    set_seed(page, 31)
    generate(page)
    controlled, uncontrolled, drawn, recipe = downloads(page, tmp_path / "down")
    np.testing.assert_array_equal(drawn.array, mask.array)
    expect_the_solo_result(studio, controlled, uncontrolled, recipe)


def test_a_lesion_is_built_with_sliders_on_the_side_that_was_asked_for(studio, page_at, tmp_path):
    page = open_page(page_at, studio)
    page.locator("#editor [data-action=clear]").click()
    page.locator("#lesion-builder > button").click()
    page.locator("#lesion-side").get_by_text("Left").click()
    page.locator("#lesion-add").click()
    expect(status(page)).to_contain_text("A frontal lesion of 28 mm is in the drawing")
    set_seed(page, 25)
    generate(page)
    drawn = downloads(page, tmp_path)[2]
    assert set(np.unique(drawn.array)) == {0, 1, 2, 3}
    world = drawn.affine[:3, :3] @ np.argwhere(drawn.array > 0).mean(0) + drawn.affine[:3, 3]
    np.testing.assert_allclose(world, [-28, 32, 24], atol=5)


def test_a_dropped_recipe_restores_drawing_and_settings_and_gives_the_same_voxels(studio, page_at, tmp_path):
    page = open_page(page_at, studio)
    draw_blob(page, right=0.38, up=0.42)
    set_seed(page, 27)
    generate(page)
    controlled, _, drawn, _ = downloads(page, tmp_path / "first")
    other = open_page(page_at, studio)
    (recipe,) = (tmp_path / "first").glob("*.json")
    other.locator("#upload-recipe input[type=file]").set_input_files(recipe)
    expect(status(other)).to_contain_text("The recipe is restored")
    assert other.locator("#seed input").input_value() == "27"
    assert other.locator("#steps input[type=number]").input_value() == str(STEPS)
    other.locator("#generate").click()
    expect(status(other)).to_contain_text("Shown at once")
    again, _, drawn_again, _ = downloads(other, tmp_path / "again")
    np.testing.assert_array_equal(drawn_again.array, drawn.array)
    np.testing.assert_array_equal(again.array, controlled.array)


def test_an_uploaded_anatomy_joins_the_drawing(studio, page_at, tmp_path):
    page = open_page(page_at, studio)
    anatomy = Volume(
        (ball(studio.pipeline, (0, -18, 10), 50).array > 0).astype(np.uint8) * 3, studio.pipeline.grid.affine
    )
    anatomy.save(tmp_path / "anatomy.nii.gz")
    expect(page.locator("#use-anatomy input")).to_be_disabled()
    page.locator("#upload-anatomy input[type=file]").set_input_files(tmp_path / "anatomy.nii.gz")
    expect(status(page)).to_contain_text("Anatomy map taken")
    expect(page.locator("#use-anatomy input")).to_be_checked()
    set_seed(page, 41)
    generate(page)
    recipe = json.loads(download(page, "recipe", tmp_path).read_text())
    assert set(recipe["conditions"]) == {"tumor", "anatomy"}


def test_a_wrong_file_gets_one_sentence_and_the_drawing_survives(studio, page_at, tmp_path):
    page = open_page(page_at, studio)
    draw_blob(page, right=0.4, up=0.5)
    drawn = page.locator("#editor [data-part=labels]").inner_text()
    (tmp_path / "<img src=x>.nii.gz").write_text("not a volume")
    page.locator("#upload-tumor input[type=file]").set_input_files(tmp_path / "<img src=x>.nii.gz")
    alert = status(page).get_by_role("alert")
    expect(alert).to_contain_text("not a NIfTI file")
    assert str(tmp_path) not in alert.inner_text()
    assert page.locator("#editor [data-part=labels]").inner_text() == drawn
    generate(page)


def test_an_example_restores_its_drawing_its_settings_and_its_volumes(studio, page_at):
    page = open_page(page_at, studio)
    last = page.locator("#examples [data-slug]").last
    title = last.locator("b").inner_text()
    set_seed(page, 123)
    last.click()
    expect(status(page)).to_contain_text(f"{title}, a finished example")
    assert page.locator("#seed input").input_value() != "123"
    expect(page.locator("#download-recipe")).to_be_visible()


def test_two_visitors_at_once_get_what_each_gets_alone(studio, page_at, tmp_path):
    pages = [open_page(page_at, studio) for _ in range(2)]
    for number, page in enumerate(pages):
        ball(studio.pipeline, (35 - 70 * number, -20, 25), 12).save(tmp_path / f"{number}.nii.gz")
        page.locator("#upload-tumor input[type=file]").set_input_files(tmp_path / f"{number}.nii.gz")
        expect(status(page)).to_contain_text("Tumor map taken")
        set_seed(page, 50 + number)
        set_steps(page, 12)
    for page in pages:
        page.locator("#generate").click()
    expect(status(pages[1])).to_contain_text("queue:", timeout=RUN_MS)
    for page in pages:
        expect(status(page)).to_contain_text("Done in", timeout=2 * RUN_MS)
    for number, page in enumerate(pages):
        controlled, uncontrolled, drawn, recipe = downloads(page, tmp_path / str(number + 10))
        assert recipe["request"]["seed"] == 50 + number
        np.testing.assert_array_equal(drawn.array, Volume.load(tmp_path / f"{number}.nii.gz", labels=True).array)
        expect_the_solo_result(studio, controlled, uncontrolled, recipe)


def test_on_a_phone_a_finger_draws_and_the_result_comes_into_sight(studio, page_at):
    page = open_page(page_at, studio, PHONE, has_touch=True, is_mobile=True)
    set_seed(page, 61)
    set_steps(page, STEPS)
    page.locator("#generate").tap()
    expect(page.locator("#viewer [data-plane=axial] canvas")).to_be_in_viewport(ratio=0.3)
    expect(status(page)).to_contain_text("Done in", timeout=RUN_MS)
    assert overflow(page) == 0


def test_the_whole_app_runs_with_its_gpu_in_a_fork(forked_studio, page_at, tmp_path):
    page = open_page(page_at, forked_studio)
    draw_blob(page, right=0.36, up=0.5)
    set_steps(page, 100)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text(re.compile(r"Step \d+ of 100"), timeout=RUN_MS)
    page.locator("#cancel").click()
    expect(status(page)).to_contain_text("Cancelled")
    set_seed(page, 71)
    generate(page)
    controlled, uncontrolled, _, recipe = downloads(page, tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the fork has: the number of threads is part of what gives the same bits on a CPU
    try:
        expect_the_solo_result(forked_studio, controlled, uncontrolled, recipe)
    finally:
        torch.set_num_threads(threads)
