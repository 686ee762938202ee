"""Recipes hold all of a run, come back to the same request, and refuse every damage in one sentence."""

import base64
import copy
import hashlib
import json
import tracemalloc
import zlib

import numpy as np
import pytest

from vcm.modalities.image_conditions import measure_range
from vcm.modalities.registry import prepare_condition
from vcm.model.config import Grid
from vcm.recipe import (
    MAX_RECIPE_BYTES,
    Environment,
    RecipeError,
    build_recipe,
    check_environment,
    image_names,
    load_recipe,
    model_name,
    parse_recipe,
    recipe_key,
    request_from_recipe,
    save_recipe,
)
from vcm.request import GenerationRequest
from vcm.volume import Volume

GRID = Grid((8, 12, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
ENVIRONMENT = Environment("mini", {"vcm.safetensors": "ab" * 32}, "cpu", "float32", 2)


@pytest.fixture
def request_with_tumor() -> GenerationRequest:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2:5, 3:9, 2:6] = 2
    labels[3, 5:7, 3:5] = 1
    conditions = {"tumor": Volume(labels, GRID.affine)}
    return GenerationRequest(conditions, guidance_scale=1.5, seed=2**32 - 1, sampler="ddim", age=71.3, compare=False)


@pytest.fixture
def recipe(request_with_tumor):
    tumor = prepare_condition("tumor", request_with_tumor.conditions["tumor"], GRID)
    return json.loads(json.dumps(build_recipe(request_with_tumor, {"tumor": tumor}, ENVIRONMENT)))


def test_a_recipe_gives_back_the_request_that_made_it(recipe, request_with_tumor):
    again = request_from_recipe(recipe)
    assert again.conditions.keys() == {"tumor"}
    drawn = request_with_tumor.conditions["tumor"]
    np.testing.assert_array_equal(again.conditions["tumor"].array, drawn.array)
    np.testing.assert_array_equal(again.conditions["tumor"].affine, drawn.affine)
    settings = {key: value for key, value in vars(request_with_tumor).items() if key != "conditions"}
    assert {key: value for key, value in vars(again).items() if key != "conditions"} == settings


def test_the_embedded_labels_give_the_same_condition_tensor_again(recipe, request_with_tumor):
    first = prepare_condition("tumor", request_with_tumor.conditions["tumor"], GRID)
    second = prepare_condition("tumor", request_from_recipe(recipe).conditions["tumor"], GRID)
    assert first.tensor.equal(second.tensor)
    assert second.notes == ()


def test_a_saved_recipe_loads_as_it_was(recipe, tmp_path):
    save_recipe(recipe, tmp_path / "recipe.json")
    assert load_recipe(tmp_path / "recipe.json") == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_a_recipe_that_cannot_be_written_leaves_the_old_one(recipe, tmp_path):
    folder = tmp_path / "recipe.json"
    folder.mkdir()
    with pytest.raises(RecipeError, match="could not be saved"):
        save_recipe(recipe, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def scan_recipe(conditions, **settings):
    request = GenerationRequest(conditions, **settings)
    prepared = {name: prepare_condition(name, volume, GRID, fill=request.fill) for name, volume in conditions.items()}
    return json.loads(json.dumps(build_recipe(request, prepared, ENVIRONMENT)))


def test_an_image_condition_is_named_by_its_hash_and_must_be_given_again():
    scan = Volume(np.random.default_rng(0).random(GRID.shape, np.float32) * 900, GRID.affine + 1e-9)
    recipe = scan_recipe({"t2": scan})
    assert image_names(recipe) == ("t2",)
    entry = recipe["conditions"]["t2"]
    assert entry["sha256"] == hashlib.sha256(scan.array.tobytes()).hexdigest()
    assert entry["intensities"] == list(measure_range(scan.array))
    assert "data" not in entry
    with pytest.raises(RecipeError, match="give that volume, too"):
        request_from_recipe(recipe)
    with pytest.raises(RecipeError, match="not the one that the recipe was made with"):
        request_from_recipe(recipe, {"t2": Volume(scan.array * 0.5, GRID.affine)})
    again = request_from_recipe(recipe, {"t2": Volume(scan.array, GRID.affine)}).conditions["t2"]
    np.testing.assert_array_equal(again.array, scan.array)
    np.testing.assert_array_equal(again.affine, scan.affine)  # to the last digit, which a file would not keep


def test_a_scan_with_voxels_that_are_no_number_is_found_again():
    values = np.random.default_rng(0).random(GRID.shape, np.float32)
    values[0, 0, 0] = np.nan
    scan = Volume(values, GRID.affine)
    again = request_from_recipe(scan_recipe({"t2": scan}), {"t2": scan}).conditions["t2"]
    assert again.array[0, 0, 0] == 0


def test_the_region_that_is_made_up_travels_in_the_recipe():
    scan = Volume(np.random.default_rng(0).random(GRID.shape, np.float32), GRID.affine)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:5, 3:6, 2:5] = 1
    recipe = scan_recipe({"partial": scan}, fill=Volume(mask, GRID.affine))
    again = request_from_recipe(recipe, {"partial": scan})
    np.testing.assert_array_equal(again.fill.array, mask)
    recipe["conditions"]["partial"]["fill"]["sha256"] = "0" * 64
    with pytest.raises(RecipeError, match="condition fill fails its checksum"):
        request_from_recipe(recipe, {"partial": scan})


def test_equal_runs_share_a_key_and_other_runs_do_not(recipe):
    keys = {recipe_key(recipe), recipe_key(copy.deepcopy(recipe))}
    assert len(keys) == 1
    for part, name, value in [
        ("request", "seed", 1),
        ("model", "weights", {}),
        ("environment", "device", "cuda"),
    ]:
        other = copy.deepcopy(recipe)
        other[part][name] = value
        keys.add(recipe_key(other))
    other = copy.deepcopy(recipe)
    other["conditions"]["tumor"]["sha256"] = "0" * 64
    keys.add(recipe_key(other))
    assert len(keys) == 5


def test_other_weights_are_refused_and_other_versions_are_said(recipe):
    assert check_environment(recipe, ENVIRONMENT) == ()
    with pytest.raises(RecipeError, match="other weights"):
        check_environment(recipe, Environment("mini", {"vcm.safetensors": "cd" * 32}, "cpu", "float32", 2))
    recipe["environment"]["versions"]["torch"] = "1.0"
    (note,) = check_environment(recipe, Environment("mini", ENVIRONMENT.weights, "cuda", "float32", 2))
    assert "another device, torch version" in note


def test_a_recipe_names_its_model(recipe):
    assert model_name(recipe) == "mini"
    recipe["model"]["name"] = "line\nbreak"
    with pytest.raises(RecipeError, match="does not name its model"):
        model_name(recipe)


def _set(path, value):
    def damage(recipe):
        *parents, last = path
        for key in parents:
            recipe = recipe[key]
        recipe[last] = value

    return damage


def _drop(*path):
    def damage(recipe):
        *parents, last = path
        for key in parents:
            recipe = recipe[key]
        del recipe[last]

    return damage


def _bomb(recipe):
    recipe["conditions"]["tumor"]["data"] = base64.b64encode(zlib.compress(bytes(2**28))).decode()


def _short(recipe):
    recipe["conditions"]["tumor"]["data"] = base64.b64encode(zlib.compress(bytes(10))).decode()


def _one_voxel(recipe):
    labels = zlib.decompress(base64.b64decode(recipe["conditions"]["tumor"]["data"]))
    recipe["conditions"]["tumor"]["data"] = base64.b64encode(zlib.compress(b"\x01" + labels[1:])).decode()


TUMOR = ("conditions", "tumor")
DAMAGES = {
    "no schema": (_drop("schema"), "not a recipe"),
    "a schema that is no text": (_set(("schema",), 1), "not a recipe"),
    "a later schema": (_set(("schema",), "vcm-recipe/2"), "another version"),
    "no request": (_drop("request"), "lacks its part request"),
    "a request that is a list": (_set(("request",), []), "lacks its part request"),
    "a setting too few": (_drop("request", "seed"), "lacks the settings seed"),
    "a setting too many": (_set(("request", "<b>"), 1), "does not know"),
    "a setting out of range": (_set(("request", "num_inference_steps"), 0), "num_inference_steps is 0"),
    "a setting of the wrong type": (_set(("request", "age"), "old"), "age is 'old'"),
    "no conditions": (_drop("conditions"), "lacks its part conditions"),
    "an unknown condition": (_set(("conditions", "<b>"), {}), "does not know"),
    "a condition that is a number": (_set(TUMOR, 3), "must be an object"),
    "a shape of two": (_set((*TUMOR, "shape"), [8, 96]), "three positive numbers"),
    "a shape of zero": (_set((*TUMOR, "shape"), [0, 12, 8]), "three positive numbers"),
    "a shape of fractions": (_set((*TUMOR, "shape"), [8.0, 12.0, 8.0]), "three positive numbers"),
    "a shape beyond all memory": (_set((*TUMOR, "shape"), [2**20, 2**20, 2**20]), "larger than any"),
    "another shape": (_set((*TUMOR, "shape"), [8, 12, 9]), "not as large as it says"),
    "no affine": (_drop(*TUMOR, "affine"), "4 x 4"),
    "an affine of words": (_set((*TUMOR, "affine"), [["a"] * 4] * 4), "4 x 4"),
    "a ragged affine": (_set((*TUMOR, "affine"), [[1, 2], [3]]), "4 x 4"),
    "a singular affine": (_set((*TUMOR, "affine"), [[0] * 4] * 4), "impossible place"),
    "an unknown encoding": (_set((*TUMOR, "encoding"), "pickle"), "stored in a way"),
    "no data": (_drop(*TUMOR, "data"), "stored in a way"),
    "data that are not base64": (_set((*TUMOR, "data"), "!!"), "cannot be unpacked"),
    "data that are not zlib": (_set((*TUMOR, "data"), base64.b64encode(b"junk").decode()), "cannot be unpacked"),
    "data that inflate without end": (_bomb, "not as large as it says"),
    "data that end early": (_short, "not as large as it says"),
    "one changed voxel": (_one_voxel, "fails its checksum"),
    "no checksum": (_drop(*TUMOR, "sha256"), "fails its checksum"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_malformed_recipe_gives_one_sentence(recipe, damage, sentence):
    damage(recipe)
    with pytest.raises(ValueError, match=sentence) as caught:
        request_from_recipe(recipe)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "<b>" not in message


def test_a_recipe_that_inflates_without_end_costs_no_memory(recipe):
    _bomb(recipe)
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match="not as large as it says"):
            request_from_recipe(recipe)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**23  # of 2^28 that it holds


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": NaN}', "[" * 100_000, b"\xff\xfe", "1" * 5000, '{"a": 1}'],
)
def test_what_is_no_recipe_is_refused_as_such(text):
    with pytest.raises(RecipeError, match="not a recipe"):
        parse_recipe(text)


def test_an_oversized_recipe_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "large.json"
    path.write_bytes(b" " * (MAX_RECIPE_BYTES + 1))
    with pytest.raises(RecipeError, match="too large"):
        load_recipe(path)


def test_a_missing_recipe_gives_one_sentence_without_its_path(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe file") as caught:
        load_recipe(tmp_path / "secret-name.json")
    assert "secret" not in str(caught.value)
