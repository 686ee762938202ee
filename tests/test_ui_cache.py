"""The results that the page remembers: by recipe, within bounds."""

import numpy as np

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui.server.cache import ResultCache
from vcm.weights.checkpoint import LoadedModel


def test_a_result_is_found_by_its_recipe_and_by_no_other(tiny_model: LoadedModel):
    pipeline, cache = Pipeline(tiny_model), ResultCache()
    request = GenerationRequest(num_inference_steps=2, seed=1)
    result = pipeline(request)
    cache.put(result)
    assert cache.get(pipeline.plan(request).recipe) is result
    assert cache.get(pipeline.plan(GenerationRequest(num_inference_steps=2, seed=2)).recipe) is None


def test_the_cache_stays_within_its_bytes_and_forgets_the_oldest(tiny_model: LoadedModel):
    pipeline = Pipeline(tiny_model)
    results = [pipeline(GenerationRequest(num_inference_steps=1, seed=seed)) for seed in range(4)]
    one = 2 * int(np.prod(pipeline.grid.shape)) * 4
    cache = ResultCache(max_bytes=2 * one)
    for result in results:
        cache.put(result)
        assert cache.num_bytes <= 2 * one
    assert [cache.get(result.recipe) is result for result in results] == [False, False, True, True]
