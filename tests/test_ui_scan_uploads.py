"""Scans on the page and over HTTP: taken, shown as the model sees them, and followed to the downloads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from own_subjects import MOVED
from scipy import ndimage
from visitor import PATIENT, Visitor, text_of

from vcm.data import simulate
from vcm.pipeline import Pipeline
from vcm.recipe import build_recipe
from vcm.registration.placement import as_placement, move_back
from vcm.request import GenerationRequest
from vcm.ui.canvas.slice_canvas import SliceCanvas, canvas_value, image_layer
from vcm.ui.palette import Palette
from vcm.ui.sections.content import show_recipe
from vcm.ui.sections.scan_uploads import build_scan_uploads, find_placement, find_scan, find_scans, keep_scan
from vcm.ui.server.session_files import one_at_a_time, session_folder
from vcm.ui.views import show_on_grid
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel


@pytest.fixture(scope="module")
def pipeline(image_model: LoadedModel) -> Pipeline:
    return Pipeline(image_model)


@pytest.fixture(scope="module")
def scan() -> Volume:
    affine = np.array([[1.5, 0, 0, -17.3], [0, 1.5, 0, -23.1], [0, 0, 3, -16.2], [0, 0, 0, 1]])
    values = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=(22, 31, 11)), 1.5)
    return Volume((100 + 3000 * (values - values.min())).astype(np.float32), affine)


@pytest.fixture(scope="module")
def fill(scan: Volume) -> Volume:
    mask = np.zeros(scan.array.shape, np.uint8)
    mask[8:14, 10:18, 3:7] = 1
    return Volume(mask, scan.affine)


@pytest.fixture
def files(scan: Volume, fill: Volume, tmp_path: Path) -> dict[str, Path]:
    paths = {"scan": tmp_path / "patientname.nii.gz", "fill": tmp_path / "region.nii.gz"}
    scan.save(paths["scan"])
    fill.save(paths["fill"])
    return paths


def drop(visitor: Visitor, name: str, file: Path) -> dict:
    return visitor.call(f"upload-{name}", "upload", {f"upload-{name}": visitor.upload(file.name, file.read_bytes())})


def test_a_dropped_scan_is_taken_and_shown_as_the_model_sees_it(app, files):
    shown = drop(Visitor(app.local_url), "t2", files["scan"])
    assert shown["use-t2"] is True
    assert "T2 taken." in text_of(shown["status"])
    assert "Resampled from 22 x 31 x 11 voxels" in text_of(shown["status"])
    assert "data:image/png;base64," in shown["seen-t2"]
    assert any(layer["name"] == "T2" for layer in shown["editor"]["layers"])
    assert "patientname" not in str(shown)


@pytest.fixture
def begin(pipeline, scan, tmp_path, monkeypatch):
    """Let a handler of a drop zone begin, up to where it says so; gives its answers to come, and its editor."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    with gr.Blocks():
        uploads, status, editor = build_scan_uploads(["t2", "flair"]), gr.HTML(), SliceCanvas()
    blank = image_layer("T1", np.zeros(pipeline.grid.shape, np.float32), tmp_path)
    drawing = canvas_value([blank], pipeline.grid.affine, pipeline.grid.shape)

    def begin(name: str) -> Iterator[list[str]]:
        scan.save(tmp_path / f"{name}.nii.gz")
        taking = uploads.taker(name, pipeline.grid, status, editor)(str(tmp_path / f"{name}.nii.gz"), drawing, {}, None)
        next(taking)
        return ([layer.name for layer in answer[editor].layers] for answer in taking)

    return begin


def test_of_two_scans_that_are_read_at_once_the_later_answer_shows_both(begin):
    first, second = begin("t2"), begin("flair")
    assert next(second) == ["T1", "FLAIR"]
    assert next(first) == ["T1", "FLAIR", "T2"]


def test_a_drop_waits_for_the_one_before_it(begin):
    answers = begin("t2")
    with ThreadPoolExecutor(1) as thread:
        with one_at_a_time(session_folder(None)):
            answer = thread.submit(next, answers)
            with pytest.raises(TimeoutError):
                answer.result(timeout=1)
        assert answer.result(timeout=60) == ["T1", "T2"]


def test_a_run_of_the_page_puts_what_it_made_into_the_dropped_scan(app, files, scan, fill):
    visitor = Visitor(app.local_url)
    assert drop(visitor, "partial", files["scan"])["use-partial"] is True
    assert drop(visitor, "fill", files["fill"])["use-fill"] is True
    started = visitor.find("generate", "click")
    ticked = {"use-tumor": False, "use-partial": True, "use-fill": True, "steps": 2}
    run = visitor.after(started)
    *_, last = visitor.follow(run, visitor.join(run, ticked))
    assert "taken" not in text_of(last["status"])
    made = visitor.fetch(last["download-controlled"]["path"])
    target = files["scan"].parent / "made.nii.gz"
    target.write_bytes(made.content)
    volume = Volume.load(target)
    outside = fill.array == 0
    np.testing.assert_array_equal(volume.array[outside], scan.array[outside])
    assert (volume.array[~outside] != scan.array[~outside]).all()


@pytest.mark.parametrize("region_first", [False, True])
def test_a_head_that_lies_elsewhere_is_moved_with_its_region_and_its_files_go_back(app, tmp_path, region_first):
    subject = simulate.simulate_subject(200_005, ("t1",))
    affine = np.float32(MOVED @ simulate.AFFINE).astype(np.float64)
    center = np.argwhere(subject.anatomy > 0).mean(0).astype(int)
    region = np.zeros(simulate.SHAPE, np.uint8)
    region[tuple(slice(middle - 4, middle + 4) for middle in center)] = 1
    files = {"partial": subject.images["t1"], "fill": region}
    visitor = Visitor(app.local_url)
    shown = {}
    for name in sorted(files, reverse=not region_first):
        Volume(files[name], affine).save(tmp_path / f"{name}.nii.gz")
        shown[name] = drop(visitor, name, tmp_path / f"{name}.nii.gz")
    assert "mm off template space and was moved there" in text_of(shown["partial"]["status"])
    assert "outlined, the template&#x27;s brain" in shown["partial"]["seen-partial"]
    started = visitor.find("generate", "click")
    run = visitor.after(started)
    ticked = {"use-tumor": False, "use-partial": True, "use-fill": True, "steps": 2}
    *_, last = visitor.follow(run, visitor.join(run, ticked))
    (tmp_path / "made.nii.gz").write_bytes(visitor.fetch(last["download-controlled"]["path"]).content)
    made = Volume.load(tmp_path / "made.nii.gz")
    np.testing.assert_array_equal(made.affine, affine)
    changed = made.array != subject.images["t1"]
    assert changed[region > 0].mean() > 0.3  # the small model sees the right half of it
    assert not changed[region == 0].any()


def test_what_is_no_scan_is_refused_in_one_sentence_and_not_kept(app, files):
    visitor = Visitor(app.local_url)
    shown = drop(visitor, "flair", files["fill"])
    assert "takes a scan; this volume holds only the values 0, 1" in text_of(shown["status"])
    run = visitor.after(visitor.find("generate", "click"))
    *_, last = visitor.follow(run, visitor.join(run, {"use-flair": True, "use-tumor": False}))
    assert "The FLAIR is ticked, but there is no file for it" in text_of(last["status"])


def test_a_region_may_come_before_its_scan(app, files):
    visitor = Visitor(app.local_url)
    assert "Drop the scan that it belongs to" in text_of(drop(visitor, "fill", files["fill"])["status"])
    assert "data:image/png" in drop(visitor, "partial", files["scan"])["seen-partial"]


def test_the_endpoint_takes_scans_and_a_region(app, files, scan, fill, tmp_path):
    client = Client(app.local_url, verbose=False, httpx_kwargs=PATIENT, download_files=str(tmp_path))
    given = {"partial": handle_file(files["scan"]), "fill": handle_file(files["fill"])}
    written, recipe = client.predict(**given, num_inference_steps=2, compare=False, api_name="/generate")
    volumes = {Path(file).name: file for file in written}
    assert set(volumes) == {"controlled.nii.gz", "condition_partial.nii.gz", "fill.nii.gz", "recipe.json"}
    made = Volume.load(volumes["controlled.nii.gz"])
    np.testing.assert_array_equal(made.array[fill.array == 0], scan.array[fill.array == 0])
    assert len(recipe["conditions"]["partial"]["intensities"]) == 2
    with pytest.raises(AppError, match="The partial condition needs a fill"):
        client.predict(partial=handle_file(files["scan"]), api_name="/generate")


def test_a_recipe_finds_the_scans_that_were_dropped_before(app, files, tmp_path):
    client = Client(app.local_url, verbose=False, httpx_kwargs=PATIENT, download_files=str(tmp_path))
    given = {"partial": handle_file(files["scan"]), "fill": handle_file(files["fill"])}
    written, _ = client.predict(**given, num_inference_steps=2, compare=False, api_name="/generate")
    recipe = next(Path(file) for file in written if Path(file).name == "recipe.json")
    visitor = Visitor(app.local_url)
    told = drop(visitor, "recipe", recipe)
    assert "give that volume, too" in text_of(told["status"])
    drop(visitor, "partial", files["scan"])
    shown = drop(visitor, "recipe", recipe)
    assert "The recipe is restored" in text_of(shown["status"])
    assert (shown["use-partial"], shown["use-fill"], shown["use-tumor"]) == (True, True, False)


def test_each_scan_of_a_recipe_keeps_the_way_that_it_came_itself(pipeline, scan, tmp_path):
    placement = as_placement(MOVED)
    native = move_back(scan, placement)
    keep_scan(tmp_path, "t2", scan)
    keep_scan(tmp_path, "flair", native)  # as if it had just been dropped, before the other one
    run = GenerationRequest({"t2": scan, "flair": scan}, num_inference_steps=2, placement=placement)
    recipe = build_recipe(run, pipeline.prepare(run), pipeline.environment)
    show_recipe(recipe, pipeline, Palette("tumor", ("core",), ("#ef476f",)), tmp_path)
    assert find_placement(tmp_path, "t2") is None
    assert find_placement(tmp_path, "flair") == placement
    for name in ("t2", "flair"):
        np.testing.assert_array_equal(find_scan(tmp_path, name).affine, scan.affine)


def test_a_kept_scan_comes_back_to_the_last_digit(tmp_path, scan):
    keep_scan(tmp_path, "t2", scan)
    again = find_scan(tmp_path, "t2")
    np.testing.assert_array_equal(again.array, scan.array)
    np.testing.assert_array_equal(again.affine, scan.affine)
    assert list(find_scans(tmp_path)) == ["t2"]
    assert find_scan(tmp_path, "flair") is None


def test_a_result_in_a_scan_s_own_units_is_shown_between_0_and_1_on_the_model_grid(pipeline, scan, fill):
    result = pipeline(GenerationRequest({"partial": scan}, num_inference_steps=1, fill=fill))
    shown = show_on_grid(result, result.controlled)
    assert shown.array.shape == pipeline.grid.shape
    assert 0 <= shown.array.min() < shown.array.max() <= 1
    plain = pipeline(GenerationRequest({"t2": scan}, num_inference_steps=1))
    assert show_on_grid(plain, plain.controlled) is plain.controlled
