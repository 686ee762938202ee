"""The quality of the benchmark: distances that shrink with steps, overlaps as drawn, and the evaluation's subjects."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import build_tiny_model

import vcm.research.benchmark.quality as quality
from vcm.data import simulate
from vcm.model.config import Grid
from vcm.pipeline import Pipeline
from vcm.research.benchmark.loops import Loop, solid_request
from vcm.research.benchmark.quality import Case, list_cases, measure_quality, rmse, sample_latent, score


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(build_tiny_model())


def found_by(pipeline, labels):
    """The pipeline with a segmenter that always finds these tumor labels."""
    judged = Pipeline(build_tiny_model(pipeline.grid))
    judged.segmenter = SimpleNamespace(segment=lambda volume: (labels, np.zeros_like(labels)))
    return judged


def test_the_distance_of_two_latents_is_their_rmse():
    assert rmse(torch.zeros(1, 2, 2, 1, 1), torch.tensor([3.0, 4.0, 0.0, 0.0]).reshape(1, 2, 2, 1, 1)) == 2.5


def test_a_loop_samples_the_latent_of_the_volume_that_the_pipeline_makes(pipeline):
    request = solid_request(pipeline, 3, seed=5, compare=False)
    latent = sample_latent(Loop(pipeline, "unipc", 3), request)
    volume = pipeline.backbone.decode(latent)[0, 0].clamp(0, 1).numpy()
    np.testing.assert_allclose(volume, pipeline(request).controlled.array, atol=1e-6)


def test_more_steps_come_nearer_to_the_exact_solution(pipeline, tmp_path):
    loops = {"published": Loop(pipeline, "ddim", 50)}
    loops |= {f"ddim {steps}": Loop(pipeline, "ddim", steps) for steps in (5, 20)}
    cases = [Case(solid_request(pipeline, 1, seed=seed)) for seed in range(2)]
    rows = measure_quality(loops, cases, noises=2, masks=0, cache=tmp_path, reference_steps=100)["loops"]
    distances = [rows[name]["distance"]["value"] for name in ("ddim 5", "ddim 20", "published")]
    assert distances[0] > distances[1] > distances[2] > 0
    assert rows["ddim 5"]["distance"]["count"] == 2
    assert rows["ddim 5"]["dice"] == {"value": None, "interval": None, "count": 0}


def test_the_overlap_is_that_of_the_drawn_and_the_found_tumor(pipeline):
    latent = torch.zeros(1, *pipeline.config.latent_shape)
    drawn = np.zeros(pipeline.grid.shape, np.uint8)
    drawn[:4, :4, :4] = 2
    found = np.zeros_like(drawn)
    found[:2, :4, :4] = 1  # half of it, under another label
    assert score(found_by(pipeline, drawn), latent, drawn) == 1.0
    assert score(found_by(pipeline, found), latent, drawn) == pytest.approx(2 * 32 / (64 + 32))
    assert score(found_by(pipeline, 0 * drawn), latent, drawn) == 0.0


def test_each_loop_is_compared_with_the_published_one_mask_by_mask(pipeline, tmp_path, monkeypatch):
    overlaps = iter([0.8, 0.6, 0.7, 0.58])  # two masks of the published loop, then two of ours
    monkeypatch.setattr(quality, "score", lambda *_: next(overlaps))
    drawn = np.ones(pipeline.grid.shape, np.uint8)
    cases = [Case(solid_request(pipeline, 1, seed=seed), drawn) for seed in range(3)]
    loops = {"published": Loop(pipeline, "ddim", 2), "ours": Loop(pipeline, "unipc", 1)}
    rows = measure_quality(loops, cases, noises=3, masks=2, cache=tmp_path, reference_steps=2)["loops"]
    assert rows["ours"]["dices"] == [0.7, 0.58]
    assert rows["ours"]["dice_below_published"]["value"] == pytest.approx(0.06)
    assert rows["published"]["dice_below_published"]["value"] == 0.0
    assert rows["ours"]["distance"]["count"] == 3


def test_cases_are_the_evaluations_subjects_where_the_model_is_on_their_grid(monkeypatch):
    pipeline = Pipeline(build_tiny_model(Grid(simulate.SHAPE, simulate.AFFINE)))
    pipeline.segmenter = SimpleNamespace()
    cases = list_cases(pipeline, 1)
    request = cases[0].request
    assert request.seed >= simulate.FIRST_TEST_SEED
    assert list(request.conditions) == ["tumor"]
    np.testing.assert_array_equal(request.conditions["tumor"].array, cases[0].drawn)
    np.testing.assert_array_equal(cases[0].drawn, simulate.simulate_subject(request.seed, ()).tumor)
    assert list_cases(pipeline, 0) == []


def test_another_grid_gets_solid_shapes_on_different_noises(pipeline):
    cases = list_cases(pipeline, 2)
    assert [case.request.seed for case in cases] == [0, 1]
    assert all(case.drawn is None and case.request.conditions["tumor"].array.any() for case in cases)
