"""The page's part of the benchmark: a known recipe is not computed again, and payloads are counted in bytes."""

import numpy as np
import pytest
from tiny import build_tiny_model

from vcm.pipeline import Pipeline
from vcm.research.benchmark.loops import solid_request
from vcm.ui.sections.benchmark import measure_page


def test_the_page_computes_once_and_every_payload_is_written_in_every_round(monkeypatch):
    pipeline = Pipeline(build_tiny_model())
    runs = []
    monkeypatch.setattr(pipeline, "run", lambda job, run=pipeline.run: runs.append(job) or run(job))
    page = measure_page(pipeline, solid_request(pipeline, 2), rounds=3)
    assert len(runs) == 1
    assert len(page["same_recipe"]["cpu_rounds"]) == 3
    assert list(page["payloads"]) == ["slices", "scene", "preview"]
    sizes = {name: payload["bytes"] for name, payload in page["payloads"].items()}
    assert sizes["slices"] > sizes["preview"] > 0
    assert sizes["scene"] > 0
    voxels = np.prod(pipeline.grid.shape)
    assert page["result_bytes"] == voxels * (4 + 4 + 1)  # two volumes in float32, and labels


def test_a_recipe_that_is_computed_again_is_no_measurement(monkeypatch):
    pipeline = Pipeline(build_tiny_model())
    monkeypatch.setattr("vcm.ui.server.cache.ResultCache.get", lambda *_: None)
    with pytest.raises(AssertionError):
        measure_page(pipeline, solid_request(pipeline, 2), rounds=1)
