"""Examples: what is written is read again, and a broken one takes nothing else with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vcm.modalities.adherence import Segmentation, measure_adherence
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest, GenerationResult
from vcm.ui.canvas.slice_canvas import read_mask
from vcm.ui.palette import build_palette
from vcm.ui.sections.content import show_example, show_nothing
from vcm.ui.sections.examples import load_examples, save_example
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel


@pytest.fixture
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model)


@pytest.fixture
def result(pipeline: Pipeline) -> GenerationResult:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    tumor = Volume(labels, pipeline.grid.affine)
    result = pipeline(GenerationRequest({"tumor": tumor}, num_inference_steps=2, seed=9, age=70))
    found = {"tumor": tumor, "anatomy": Volume(labels, pipeline.grid.affine)}
    measured = measure_adherence(result.conditions, {"controlled": Segmentation(labels, labels)})
    return replace(result, segmentation=found, adherence=measured)


@pytest.fixture
def folder(result: GenerationResult, tmp_path: Path) -> Path:
    save_example(tmp_path / "01-first", "First", "A sentence.", result)
    return tmp_path


def test_an_example_comes_back_as_it_was_saved_within_eight_bits(folder, result):
    (example,) = load_examples(folder)
    assert (example.slug, example.title, example.sentence) == ("01-first", "First", "A sentence.")
    assert (example.request.seed, example.request.age) == (9, 70.0)
    again = example.load_result()
    np.testing.assert_allclose(again.controlled.array, result.controlled.array, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(again.uncontrolled.array, result.uncontrolled.array, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(again.controlled.affine, result.controlled.affine)
    np.testing.assert_array_equal(again.conditions["tumor"].array, result.conditions["tumor"].array)
    assert set(again.segmentation) == {"tumor", "anatomy"}
    assert again.adherence == result.adherence


def test_examples_stand_in_the_order_of_their_slugs(folder, result):
    save_example(folder / "00-before", "Before", "", result)
    assert [example.slug for example in load_examples(folder)] == ["00-before", "01-first"]


def test_an_example_that_cannot_be_read_is_left_out(folder, result):
    save_example(folder / "02-broken", "Broken", "", result)
    (folder / "02-broken" / "recipe.json").write_text("{")
    save_example(folder / "03-untitled", "Untitled", "", result)
    (folder / "03-untitled" / "example.json").write_text(json.dumps({"sentence": ""}))
    assert [example.slug for example in load_examples(folder)] == ["01-first"]


def test_a_folder_without_examples_is_no_error(tmp_path):
    assert load_examples(tmp_path) == []


def test_an_example_is_finished_only_for_the_model_that_made_it(folder, pipeline, tiny_model):
    (example,) = load_examples(folder)
    palette = build_palette(pipeline, "tumor")
    own = show_example(example, pipeline, palette, folder / "served")
    assert own.result is not None
    assert own.files is not None
    assert "finished" in own.status
    stranger = Pipeline(replace(tiny_model, hashes={"vcm.safetensors": "0" * 64}))
    other = show_example(example, stranger, palette, folder / "served")
    assert other.result is None
    assert "press Generate" in other.status
    for content in (own, other):
        drawn = read_mask(content.drawing, shape=pipeline.grid.shape)
        np.testing.assert_array_equal(drawn, example.request.conditions["tumor"].array)


def test_a_page_without_examples_opens_on_an_empty_drawing(pipeline, tmp_path):
    content = show_nothing(pipeline, build_palette(pipeline, "tumor"), tmp_path)
    assert content.result is None
    assert not read_mask(content.drawing, shape=pipeline.grid.shape).any()
    assert content.wanted == {"tumor"}
