"""The fault table: every wrong or odd file through every door, with its one sentence, and its neighbours that pass.

The doors are Python, the command line, the page (spoken to as the browser does) and HTTP.
docs/reliability.md names the tests row by row.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from bad_files import ACCEPTED, CHANGED, REFUSED, SECRET, Given, tumor
from visitor import Visitor, text_of

from vcm.cli import main
from vcm.pipeline import Pipeline
from vcm.recipe import parse_recipe, request_from_recipe
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel

DOORS = ["python", "command line", "page", "http"]


@pytest.fixture(scope="module")
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model)


class Doors:
    """Gives a tumor map to the tiny model by one of the four ways.

    Each returns the map as the model took it, or None where it was refused, and all that a user is told.
    """

    def __init__(self, app: gr.Blocks, pipeline: Pipeline, model: Path, folder: Path, capsys) -> None:
        self._app, self._pipeline, self._model, self._folder, self._capsys = app, pipeline, model, folder, capsys

    def give(self, door: str, given: Given) -> tuple[np.ndarray | None, str]:
        ways: dict[str, Callable[[Given], tuple[np.ndarray | None, str]]] = {
            "python": self._python,
            "command line": self._command_line,
            "page": self._page,
            "http": self._http,
        }
        return ways[door](given)

    def _file(self, given: Given) -> Path:
        path = self._folder / given.name
        path.write_bytes(given.content)
        return path

    def _python(self, given: Given) -> tuple[np.ndarray | None, str]:
        try:
            request = GenerationRequest({"tumor": Volume.load(self._file(given), labels=True)})
            prepared = self._pipeline.prepare(request)["tumor"]
        except ValueError as error:
            return None, str(error)
        return prepared.volume.array, " ".join(prepared.notes)

    def _command_line(self, given: Given) -> tuple[np.ndarray | None, str]:
        out = self._folder / "out"
        arguments = ["generate", "--condition", f"tumor={self._file(given)}", "--model", self._model, "--steps", 1]
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in [*arguments, "--no-compare", "--out", out]])
        told = self._capsys.readouterr()
        if ended.value.code != 0:
            assert ended.value.code == 2
            assert len(told.err.splitlines()) == 1
            assert not out.exists()
            return None, told.err.removeprefix("vcm: ").strip()
        return Volume.load(out / "condition_tumor.nii.gz", labels=True).array, told.out

    def _page(self, given: Given) -> tuple[np.ndarray | None, str]:
        visitor = Visitor(self._app.local_url)
        answer = visitor.call("upload-tumor", "upload", {"upload-tumor": visitor.upload(given.name, given.content)})
        told = text_of(answer["status"])
        if 'data-kind="error"' in answer["status"]:
            assert "editor" not in answer  # the drawing stays as it was
            return None, told
        published = visitor.fetch(answer["editor"]["mask"]["path"]).content
        return np.frombuffer(gzip.decompress(published), np.uint8).reshape(self._pipeline.grid.shape, order="F"), told

    def _http(self, given: Given) -> tuple[np.ndarray | None, str]:
        visitor = Visitor(self._app.local_url)
        event, data = call(self._app.local_url, visitor.upload(given.name, given.content))
        if event == "error":
            return None, data["error"]
        recipe = parse_recipe(json.dumps(data[1]))
        return request_from_recipe(recipe).conditions["tumor"].array, ""  # its notes are for people


def call(url: str, *arguments: object) -> tuple[str, dict | list]:
    """Call the endpoint `generate` with its first arguments as any program would; returns event and data."""
    defaults = [*[None] * 8, 1.0, 1, 0, "unipc", 0.0, 1.0, "female", 63.0, 0.5, 0.5, False]
    joined = httpx.post(
        f"{url}gradio_api/call/generate", json={"data": [*arguments, *defaults[len(arguments) :]]}, timeout=60
    )
    joined.raise_for_status()
    text = httpx.get(f"{url}gradio_api/call/generate/{joined.json()['event_id']}", timeout=120).text
    *_, last = (part for part in text.split("\n\n") if part.strip() and "heartbeat" not in part)
    event, data = (line.partition(": ")[2] for line in last.strip().split("\n"))
    return event, json.loads(data)


@pytest.fixture
def doors(app: gr.Blocks, pipeline: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> Doors:
    return Doors(app, pipeline, tiny_folder, tmp_path, capsys)


def expect_one_sentence(told: str, given: Given, folder: Path) -> None:
    assert given.said in told
    assert told.endswith(".")
    assert "\n" not in told
    assert len(told) < 260
    for kept in (str(folder), given.name, "/", "Traceback", SECRET.decode()):
        assert kept not in told.replace(".nii or .nii.gz", "")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_wrong_file_is_refused_in_one_sentence(doors: Doors, door: str, kind: str, tmp_path: Path) -> None:
    given = REFUSED[kind]
    taken, told = doors.give(door, given)
    assert taken is None
    expect_one_sentence(told, given, tmp_path)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ACCEPTED)
def test_an_odd_but_sound_file_gives_the_identical_condition(doors: Doors, door: str, kind: str) -> None:
    given = ACCEPTED[kind]
    taken, told = doors.give(door, given)
    np.testing.assert_array_equal(taken, tumor())
    assert door == "http" or given.said in told
    assert "Jane" not in told
    assert "<img" not in told


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", CHANGED)
def test_what_became_of_a_file_is_said(doors: Doors, door: str, kind: str) -> None:
    given = CHANGED[kind]
    taken, told = doors.give(door, given)
    assert taken is not None
    assert door == "http" or given.said in told
    assert taken.any() != (kind == "an empty mask")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "num_inference_steps is 0; it must be a whole number from 1 to 1000"),
        ({"steps": 2.5}, "num_inference_steps is 2.5"),
        ({"steps": "abc"}, "num_inference_steps is 'abc'"),
        ({"guidance": 1e9}, "guidance_scale is 1000000000.0; it must be a number from 0 to 10"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 4294967295"),
        ({"seed": None}, "Seed is empty: give it a value."),
        ({"age": 300}, "age is 300; it must be a number from 44 to 82 years"),
        ({"sampler": "euler"}, "sampler is 'euler'; it must be one of unipc, ddim, dpmpp"),
        ({"steps": 1, "guidance": 10, "seed": 2**32 - 1, "age": 82}, "Done in"),
    ],
)
def test_the_page_refuses_a_setting_by_its_field_and_range(app: gr.Blocks, settings: dict, said: str) -> None:
    visitor = Visitor(app.local_url)
    run = visitor.after(visitor.find("generate", "click"))
    *_, last = visitor.follow(run, visitor.join(run, settings))
    assert said in text_of(last["status"])
