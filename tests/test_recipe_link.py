"""Recipes in links: the way there and back, what stays behind, and what is refused."""

import base64
import json
import zlib

import numpy as np
import pytest

from vcm.pipeline import Pipeline
from vcm.recipe import MAX_RECIPE_BYTES, RecipeError, build_recipe, request_from_recipe
from vcm.recipe_link import MAX_LINK_CHARS, left_out, pack_recipe, unpack_recipe
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel


@pytest.fixture(scope="module")
def pipeline(image_model: LoadedModel) -> Pipeline:
    return Pipeline(image_model)


def recipe_of(pipeline: Pipeline, *, seed: int = 7, **arrays: np.ndarray) -> dict:
    conditions = {name: Volume(array, pipeline.grid.affine) for name, array in arrays.items()}
    request = GenerationRequest(conditions, seed=seed, age=71.0)
    return build_recipe(request, pipeline.prepare(request), pipeline.environment)


def block(pipeline: Pipeline) -> np.ndarray:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[5:9, 8:14, 5:9] = 2
    return labels


def scattered(pipeline: Pipeline, count: int, seed: int = 0) -> np.ndarray:
    """Labels without any order, which nothing makes small."""
    return np.random.default_rng(seed).integers(0, count + 1, pipeline.grid.shape).astype(np.uint8)


def pack(content: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("=")


def test_settings_and_drawing_come_back_from_a_link(pipeline):
    recipe = recipe_of(pipeline, tumor=block(pipeline))
    packed = pack_recipe(recipe)
    assert unpack_recipe(packed.text) == recipe
    request = request_from_recipe(unpack_recipe(packed.text))
    assert (request.seed, request.age) == (7, 71.0)
    np.testing.assert_array_equal(request.conditions["tumor"].array, block(pipeline))


def test_a_link_needs_no_escaping_and_has_a_bounded_length(pipeline):
    text = pack_recipe(recipe_of(pipeline, tumor=block(pipeline))).text
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert len(text) <= MAX_LINK_CHARS


def test_of_maps_that_are_too_large_the_largest_stays_behind_and_is_named(pipeline, monkeypatch):
    monkeypatch.setattr("vcm.recipe_link.MAX_LINK_CHARS", 2_000)
    packed = pack_recipe(recipe_of(pipeline, tumor=block(pipeline), anatomy=scattered(pipeline, 4)))
    assert packed.too_large == ("anatomy",)
    recipe = unpack_recipe(packed.text)
    assert left_out(recipe) == ("anatomy",)
    assert set(request_from_recipe(recipe).conditions) == {"tumor"}


def test_the_settings_fit_where_no_map_does(pipeline, monkeypatch):
    monkeypatch.setattr("vcm.recipe_link.MAX_LINK_CHARS", 1_100)
    packed = pack_recipe(recipe_of(pipeline, tumor=scattered(pipeline, 3), anatomy=scattered(pipeline, 4)))
    assert set(packed.too_large) == {"tumor", "anatomy"}
    request = request_from_recipe(unpack_recipe(packed.text))
    assert (request.seed, request.age, request.conditions) == (7, 71.0, {})


def test_a_scan_stays_behind_since_a_recipe_has_its_checksum_only(pipeline):
    scan = np.linspace(0, 1, pipeline.grid.shape[0] * 24 * 16, dtype=np.float32).reshape(pipeline.grid.shape)
    packed = pack_recipe(recipe_of(pipeline, tumor=block(pipeline), t2=scan))
    assert (packed.scans, packed.too_large) == (("t2",), ())
    assert left_out(unpack_recipe(packed.text)) == ("t2",)


@pytest.mark.parametrize(
    "text", ["", "%%%", "abc", "<script>", "\u00e9\u00e9", "A" * 41, pack(b"{}")[:-3], pack(b"{}") + "AAAA"]
)
def test_a_damaged_link_is_refused_in_one_sentence(text):
    with pytest.raises(RecipeError, match=r"^The link is damaged[^.]*\.$"):
        unpack_recipe(text)


def test_a_link_cut_short_anywhere_is_refused(pipeline):
    text = pack_recipe(recipe_of(pipeline, tumor=block(pipeline))).text
    for length in range(0, len(text) - 1, 7):
        with pytest.raises(RecipeError):
            unpack_recipe(text[:length])


def test_a_link_that_is_too_long_is_refused_unread():
    with pytest.raises(RecipeError, match="too long"):
        unpack_recipe("A" * (MAX_LINK_CHARS + 1))


def test_a_link_that_inflates_to_megabytes_is_refused():
    text = pack(bytes(MAX_RECIPE_BYTES // 4))  # as much as a link of this length can hold
    assert MAX_LINK_CHARS // 2 < len(text) <= MAX_LINK_CHARS
    with pytest.raises(RecipeError, match="not a recipe"):
        unpack_recipe(text)
    with pytest.raises(RecipeError, match="too long"):
        unpack_recipe(pack(bytes(MAX_RECIPE_BYTES)))


@pytest.mark.parametrize("content", [b"null", b"[]", b"{}", b'{"schema": "vcm-recipe/1"', b'{"schema": 1}', b"NaN"])
def test_a_link_to_something_else_is_no_recipe(content):
    with pytest.raises(RecipeError, match="not a recipe"):
        unpack_recipe(pack(content))


@pytest.mark.parametrize("names", ["tumor", {"tumor": 1}, None, 3, ["<b>", 5, None, [1]]])
def test_names_that_are_none_are_not_believed(names):
    assert left_out({"left_out": names}) == ()


def test_a_changed_drawing_in_a_link_fails_its_checksum(pipeline):
    recipe = recipe_of(pipeline, tumor=block(pipeline))
    recipe["conditions"]["tumor"]["sha256"] = "0" * 64
    with pytest.raises(RecipeError, match="checksum"):
        request_from_recipe(unpack_recipe(pack(json.dumps(recipe).encode())))
