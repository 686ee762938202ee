"""The public endpoints: what they give, what they refuse, and that nothing else is offered."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from visitor import PATIENT

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui.app import build_app, launch_options
from vcm.ui.sections.examples import save_example
from vcm.volume import Volume

FIELDS = [
    "tumor",
    "anatomy",
    "partial",
    "fill",
    "lowres",
    "t2",
    "flair",
    "semantic",
    "guidance_scale",
    "num_inference_steps",
    "seed",
    "sampler",
    "control_start",
    "control_end",
    "sex",
    "age",
    "ventricular_volume",
    "brain_volume",
    "compare",
]


@pytest.fixture(scope="module")
def pipeline(tiny_model) -> Pipeline:
    return Pipeline(tiny_model)


@pytest.fixture(scope="module")
def tumor(pipeline: Pipeline) -> Volume:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    return Volume(labels, pipeline.grid.affine)


@pytest.fixture(scope="module")
def app(pipeline: Pipeline, tumor: Volume, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    examples = tmp_path_factory.mktemp("examples")
    result = pipeline(GenerationRequest({"tumor": tumor}, num_inference_steps=2, seed=4))
    save_example(examples / "01-first", "First", "A sentence.", result)
    blocks = build_app(pipeline, examples)
    blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    yield blocks
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def client(app: gr.Blocks, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(
        app.local_url, verbose=False, httpx_kwargs=PATIENT, download_files=str(tmp_path_factory.mktemp("downloads"))
    )


@pytest.fixture
def mask(tumor: Volume, tmp_path: Path) -> Path:
    path = tmp_path / "patient-name.nii.gz"
    tumor.save(path)
    return path


def test_the_app_opens_where_its_page_is_slow_to_answer(pipeline, monkeypatch):
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)  # it did not answer within three seconds
    blocks = build_app(pipeline)
    blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    assert httpx.get(f"{blocks.local_url}config", timeout=60).is_success
    blocks.close(verbose=False)


def test_generate_gives_the_files_and_the_recipe_of_the_run(client, mask, pipeline, tumor):
    files, recipe = client.predict(tumor=handle_file(mask), num_inference_steps=3, seed=7, api_name="/generate")
    volumes = {Path(file).name: file for file in files}
    assert set(volumes) == {"controlled.nii.gz", "uncontrolled.nii.gz", "condition_tumor.nii.gz", "recipe.json"}
    here = Pipeline.__call__(pipeline, GenerationRequest({"tumor": tumor}, num_inference_steps=3, seed=7))
    np.testing.assert_array_equal(Volume.load(volumes["controlled.nii.gz"]).array, here.controlled.array)
    np.testing.assert_array_equal(Volume.load(volumes["condition_tumor.nii.gz"], labels=True).array, tumor.array)
    assert recipe["request"]["seed"] == 7
    assert json.loads(Path(volumes["recipe.json"]).read_text()) == recipe
    assert "patient" not in json.dumps(recipe)


def test_generate_without_a_map_gives_the_uncontrolled_volume(client, pipeline):
    files, recipe = client.predict(num_inference_steps=2, seed=1, compare=False, api_name="/generate")
    assert [Path(file).name for file in files] == ["controlled.nii.gz", "recipe.json"]
    here = pipeline(GenerationRequest(num_inference_steps=2, seed=1, compare=False))
    np.testing.assert_array_equal(Volume.load(files[0]).array, here.controlled.array)
    assert recipe["conditions"] == {}


def test_examples_are_listed_with_their_recipes(client):
    (example,) = client.predict(api_name="/examples")
    assert (example["name"], example["title"]) == ("01-first", "First")
    assert set(example["recipe"]["conditions"]) == {"tumor"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be a whole number from 1 to 1000"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
        ({"guidance_scale": 1e9}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"age": 300}, "age is 300; it must be a number from 44 to 82 years"),
        ({"sampler": "euler"}, "sampler"),
        ({"control_start": 0.8, "control_end": 0.2}, "control_start"),
        ({"sex": "x"}, "sex"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence(client, arguments, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(**({"num_inference_steps": 1} | arguments), api_name="/generate")


def test_a_file_that_is_no_volume_is_refused_in_one_sentence(client, tmp_path):
    wrong = tmp_path / "<b>patient.nii.gz"
    wrong.write_text("hello")
    with pytest.raises(AppError) as caught:
        client.predict(tumor=handle_file(wrong), num_inference_steps=1, api_name="/generate")
    assert "not a NIfTI file" in str(caught.value)
    assert "patient" not in str(caught.value)


def test_a_modality_that_the_model_does_not_take_is_refused(client, mask):
    with pytest.raises(AppError, match="not available in this model"):
        client.predict(semantic=handle_file(mask), num_inference_steps=1, api_name="/generate")


def call(app: gr.Blocks, file: dict) -> str:
    """Call `generate` as a stranger would, with any file object, and return the text of the answer."""
    data = [file, *[None] * 2, 1.0, 1, 0, "unipc", 0.0, 1.0, "female", 63.0, 0.5, 0.5, False]
    url = f"{app.local_url}gradio_api/call/generate"
    answer = httpx.post(url, json={"data": data}, timeout=60)
    answer.raise_for_status()
    return httpx.get(f"{url}/{answer.json()['event_id']}", timeout=120).text


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", "", "/dev/zero"])
def test_a_forged_path_opens_nothing(app, path):
    text = call(app, {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert "event: error" in text
    assert "root:" not in text


def test_a_forged_path_to_a_volume_elsewhere_is_refused(app, mask):
    text = call(app, {"path": str(mask), "meta": {"_type": "gradio.FileData"}})
    assert "event: error" in text


def test_no_request_leaves_the_server_for_a_linked_file(app):
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(3)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mask.nii.gz"

        def listen() -> None:
            with contextlib.suppress(TimeoutError):
                calls.append(listener.accept())

        thread = threading.Thread(target=listen)
        thread.start()
        for file in ({"path": url}, {"path": "mask.nii.gz", "url": url}):
            assert "event: error" in call(app, {**file, "meta": {"_type": "gradio.FileData"}})
        thread.join()
    assert not calls


def test_only_two_endpoints_are_offered_and_both_are_documented(client):
    offered = client.view_api(return_format="dict")
    assert set(offered["named_endpoints"]) == {"/generate", "/examples"}
    assert offered["unnamed_endpoints"] == {}
    generate = offered["named_endpoints"]["/generate"]
    assert [parameter["parameter_name"] for parameter in generate["parameters"]] == FIELDS
    assert generate["description"].startswith("Generate a 3D brain MRI")


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=app.py",
        "gradio_api/file=../../../../etc/passwd",
        "gradio_api/file=.env",
        "monitoring",
        "gradio_api/runs",
        "gradio_api/file=http://127.0.0.1:1/x",
        "gradio_api/file=https://example.com/x",
        "gradio_api/proxy=https://example.com/x",
        "gradio_api/deep_link?session_hash=x",
        "gradio_api/process_recording",
        "gradio_api/dev/reload",
    ],
)
def test_nothing_but_the_page_and_its_files_is_served(app, path):
    assert httpx.get(f"{app.local_url}{path}", timeout=30).status_code in {401, 403, 404}


def test_an_upload_that_is_too_large_is_refused(app):
    def endless() -> Iterator[bytes]:
        boundary = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
        yield boundary
        for _ in range(140):
            yield bytes(2**20)
        yield b"\r\n--x--\r\n"

    answer = httpx.post(
        f"{app.local_url}gradio_api/upload",
        content=endless(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        timeout=120,
    )
    assert answer.status_code == 413


def test_what_was_uploaded_is_never_shown_as_a_page(app):
    uploaded = httpx.post(
        f"{app.local_url}gradio_api/upload", files={"files": ("x.html", b"<script>alert(1)</script>")}
    )
    answer = httpx.get(f"{app.local_url}gradio_api/file={uploaded.json()[0]}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_caller_who_cancels_stops_the_run_and_the_next_run_works(client, tiny_model):
    calls = []
    handle = tiny_model.backbone.diffusion.register_forward_hook(lambda *_: calls.append(1))
    try:
        job = client.submit(num_inference_steps=1000, compare=False, seed=3, api_name="/generate")
        while len(calls) < 5:
            time.sleep(0.02)
        job.cancel()
        time.sleep(1)
        stopped_at = len(calls)
        time.sleep(1)
    finally:
        handle.remove()
    assert len(calls) == stopped_at < 1000
    files, _ = client.predict(num_inference_steps=1, compare=False, seed=3, api_name="/generate")
    assert files
