"""The canvas component's Python half: what is published, what comes back, and what is refused."""

import gzip
import json
import re
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.data_classes import FileData
from pydantic import ValidationError

from vcm.ui.canvas.slice_canvas import (
    SliceCanvas,
    SliceCanvasData,
    canvas_value,
    image_layer,
    label_layer,
    publish_volume,
    read_mask,
)

SHAPE = (6, 7, 8)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
PALETTE = [(1, "Core", "#e5484d"), (2, "Edema", "#f2c14e"), (3, "Enhancing", "#4f9cf9")]


def labels_with_a_corner() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2, 5] = 2
    labels[5, 6, 7] = 3
    return labels


def value_with_file(path: Path, shape: tuple[int, int, int] = SHAPE) -> SliceCanvasData:
    return canvas_value([], AFFINE, shape, labels=PALETTE, mask=FileData(path=str(path)))


def value_with_bytes(folder: Path, content: bytes) -> SliceCanvasData:
    path = folder / "sent.u8.gz"
    path.write_bytes(content)
    return value_with_file(path)


def test_a_mask_comes_back_as_it_was_published(tmp_path: Path) -> None:
    labels = labels_with_a_corner()
    value = canvas_value([], AFFINE, SHAPE, labels=PALETTE, mask=labels, cache_dir=tmp_path)
    mask = read_mask(value, shape=SHAPE)
    assert mask is not None
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels)
    mask[0, 0, 0] = 1  # the caller may change it


def test_the_first_axis_runs_fastest_in_the_file(tmp_path: Path) -> None:
    labels = labels_with_a_corner()
    sent = gzip.decompress(Path(publish_volume(labels, tmp_path).path).read_bytes())
    assert [i for i, label in enumerate(sent) if label == 3] == [5 + 6 * 6 + 7 * 6 * 7]


def test_no_mask_is_none_and_a_cleared_one_is_all_zero(tmp_path: Path) -> None:
    assert read_mask(None) is None
    assert read_mask(canvas_value([], AFFINE, SHAPE)) is None
    cleared = canvas_value([], AFFINE, SHAPE, labels=PALETTE, mask=np.zeros(SHAPE), cache_dir=tmp_path)
    mask = read_mask(cleared)
    assert mask is not None
    assert not mask.any()


def test_the_same_voxels_are_published_once_and_other_voxels_beside_them(tmp_path: Path) -> None:
    labels = labels_with_a_corner()
    first = publish_volume(labels, tmp_path)
    second = publish_volume(np.asfortranarray(labels), tmp_path)
    other = publish_volume(labels[::-1], tmp_path)
    assert first.path == second.path != other.path
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_bytes_on_another_grid_get_another_name(tmp_path: Path) -> None:
    zeros = np.zeros(SHAPE, np.uint8)
    assert publish_volume(zeros, tmp_path).path != publish_volume(zeros.reshape(7, 6, 8), tmp_path).path


@pytest.mark.parametrize("array", [np.zeros(SHAPE), np.zeros((6, 7), np.uint8), np.zeros((1, *SHAPE), np.uint8)])
def test_only_three_dimensional_bytes_are_published(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="three-dimensional uint8"):
        publish_volume(array, tmp_path)


def packed(voxels: int) -> bytes:
    return gzip.compress(bytes(voxels), mtime=0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "damaged"),
        (b"not a gzip file", "damaged"),
        (packed(336)[:-5], "damaged"),
        (packed(336)[:-8] + bytes(8), "damaged"),
        (packed(336) + b"more", "damaged"),
        (packed(336) + packed(336), "damaged"),
        (packed(335), "smaller than the grid of 6 x 7 x 8"),
        (packed(337), "larger than the grid of 6 x 7 x 8"),
        (bytes(100_000), "larger than the grid of 6 x 7 x 8"),
        (gzip.compress(b"\x09" * 336, mtime=0), r"labels \[9\]"),
    ],
)
def test_a_drawing_that_is_not_one_is_refused_in_a_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(gr.Error, match=sentence):
        read_mask(value_with_bytes(tmp_path, content))


def test_a_small_file_that_inflates_without_end_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    bomb = value_with_bytes(tmp_path, gzip.compress(bytes(200_000_000)))
    bomb = bomb.model_copy(update={"shape": (80, 112, 80)})
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(gr.Error, match="larger than the grid"):
        read_mask(bomb)
    assert time.perf_counter() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_file_that_is_gone_is_said_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(gr.Error, match="no longer on the server") as caught:
        read_mask(value_with_file(tmp_path / "gone.u8.gz"))
    assert str(tmp_path) not in str(caught.value)


def test_a_drawing_on_another_grid_than_the_models_is_refused(tmp_path: Path) -> None:
    value = canvas_value([], AFFINE, SHAPE, labels=PALETTE, mask=np.zeros(SHAPE), cache_dir=tmp_path)
    with pytest.raises(gr.Error, match="grid of"):
        read_mask(value, shape=(8, 7, 6))


def test_the_allowed_labels_are_those_of_the_server_when_it_names_them(tmp_path: Path) -> None:
    value = canvas_value([], AFFINE, SHAPE, labels=PALETTE, mask=labels_with_a_corner(), cache_dir=tmp_path)
    with pytest.raises(gr.Error, match=r"labels \[3\]"):
        read_mask(value, labels=(1, 2))


def test_an_image_is_published_in_256_steps_of_its_range(tmp_path: Path) -> None:
    image = np.zeros(SHAPE, np.float32)
    image[:4, 0, 0] = [-2.0, 0.5, 1.0, 7.0]
    image[4, 0, 0] = np.nan
    layer = image_layer("T1", image, tmp_path, value_range=(0.0, 1.0))
    steps = np.frombuffer(gzip.decompress(Path(layer.file.path).read_bytes()), np.uint8)
    assert steps[:5].tolist() == [0, 128, 255, 255, 0]


def test_an_empty_value_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="value_range"):
        image_layer("T1", np.zeros(SHAPE), tmp_path, value_range=(1.0, 1.0))


@pytest.mark.parametrize("wrong", [-1, 256, 0.5])
def test_labels_that_are_no_bytes_are_refused(wrong: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 to 255"):
        label_layer("Anatomy", np.full(SHAPE, wrong), tmp_path)


def test_other_layers_keep_the_drawing_and_another_mask_replaces_it(tmp_path: Path) -> None:
    value = canvas_value([], AFFINE, SHAPE, labels=PALETTE, mask=np.zeros(SHAPE), cache_dir=tmp_path)
    relayered = value.with_layers([image_layer("T1", np.zeros(SHAPE), tmp_path)])
    assert (relayered.mask, relayered.mask_revision) == (value.mask, value.mask_revision)
    redrawn = value.with_mask(labels_with_a_corner(), tmp_path)
    assert redrawn.mask_revision != value.mask_revision
    np.testing.assert_array_equal(read_mask(redrawn), labels_with_a_corner())
    assert value.with_mask(None).mask is None


def test_a_mask_of_another_shape_or_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        canvas_value([], AFFINE, SHAPE, mask=np.zeros((3, 3, 3)), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="cache_dir"):
        canvas_value([], AFFINE, SHAPE, mask=np.zeros(SHAPE))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (0, 7, 8)},
        {"shape": (1024, 1024, 1024)},
        {"affine": np.zeros((4, 4)).tolist()},
        {"affine": np.full((4, 4), np.nan).tolist()},
        {"affine": np.eye(3).tolist()},
        {"labels": [{"id": 0, "name": "Background", "color": "#000000"}]},
        {"labels": [{"id": 1, "name": "Core", "color": "red; background: url(x)"}]},
        {"layers": [{"name": "T1", "file": {"path": "x"}}] * 17},
    ],
)
def test_a_value_that_the_canvas_cannot_show_is_refused(changes: dict) -> None:
    valid = {"shape": SHAPE, "affine": AFFINE.tolist(), "layers": [], "labels": []}
    SliceCanvasData(**valid)
    with pytest.raises(ValidationError):
        SliceCanvasData(**{**valid, **changes})


def test_a_pending_stroke_can_only_be_flushed_by_name() -> None:
    assert "flush('editor', values[2])" in SliceCanvas(elem_id="editor", render=False).flush_js(2)
    with pytest.raises(ValueError, match="elem_id"):
        SliceCanvas(render=False).flush_js()


def test_the_schema_of_a_value_is_made_once_however_many_canvases_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = SliceCanvas().api_info()
    monkeypatch.setattr(SliceCanvasData, "model_json_schema", lambda: pytest.fail("made again"))
    assert [SliceCanvas().api_info() for _ in range(2)] == [expected, expected]
    assert set(expected["properties"]) == set(SliceCanvasData.model_fields)
    assert expected["additional_description"]
    assert "description" not in expected


def test_the_component_brings_all_of_its_code_and_names_no_other_host() -> None:
    canvas = SliceCanvas(render=False)
    source = "".join([canvas.head or "", canvas.html_template, canvas.css_template])
    assert set(re.findall(r"https?://[\w.-]+", source)) <= {"http://www.w3.org"}
    assert (canvas.head or "").count("</script") == 1


def test_gradio_finds_nothing_to_expand_in_the_templates() -> None:
    canvas = SliceCanvas(render=False)
    for template in (canvas.html_template, canvas.css_template):
        assert not re.search(r"\$\{|\{\{|`|\\|@children", template)


@pytest.fixture(scope="module")
def reader_url() -> Iterator[str]:
    """A server with one public endpoint that reads the mask of a canvas."""

    def read(value: SliceCanvasData | None) -> int:
        mask = read_mask(value)
        return -1 if mask is None else int(mask.sum())

    with gr.Blocks(analytics_enabled=False) as blocks:
        canvas, total = SliceCanvas(editable=True), gr.Number()
        canvas.input(read, canvas, total, api_name="read")
    _, url, _ = blocks.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False, show_error=True
    )
    yield url
    blocks.close(verbose=False)


def call_read(url: str, mask_path: str) -> str:
    """Send a value as a browser would and return the server's last event."""
    value = {
        "shape": SHAPE,
        "affine": AFFINE.tolist(),
        "layers": [],
        "labels": [{"id": 2, "name": "Edema", "color": "#f2c14e"}, {"id": 3, "name": "Rim", "color": "#4f9cf9"}],
        "mask": {"path": mask_path, "meta": {"_type": "gradio.FileData"}},
    }
    event = httpx.post(f"{url}gradio_api/call/read", json={"data": [value]}).json()["event_id"]
    return httpx.get(f"{url}gradio_api/call/read/{event}").text


def test_an_uploaded_drawing_reaches_python(reader_url: str) -> None:
    content = gzip.compress(labels_with_a_corner().tobytes(order="F"))
    uploaded = httpx.post(f"{reader_url}gradio_api/upload", files={"files": ("drawing.u8.gz", content)}).json()[0]
    answer = call_read(reader_url, uploaded)
    assert answer.startswith("event: complete")
    assert json.loads(answer.split("data: ")[1]) == [7]


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "../../etc/passwd"])
def test_a_forged_path_is_not_read(path: str, reader_url: str) -> None:
    answer = call_read(reader_url, path)
    assert answer.startswith("event: error")
    assert "root:" not in answer


def test_a_url_in_place_of_a_file_is_refused_and_not_fetched(reader_url: str) -> None:
    answer = call_read(reader_url, f"{reader_url}config")
    assert answer.startswith("event: error")
    assert "must be uploaded, not linked" in answer
