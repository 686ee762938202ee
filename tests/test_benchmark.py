"""The benchmark: calls counted, the published loop as it was, and ratios that follow from what was measured."""

import json
from itertools import islice

import pytest
import torch
from tiny import build_tiny_model

from vcm.benchmark import BenchmarkPlan, EncodeEveryStep, benchmark, count_calls, solid_conditions
from vcm.pipeline import Pipeline
from vcm.sampler import initial_noise, trajectory

PLAN = BenchmarkPlan(steps=2, published_steps=8, repeats=1, timed_published_steps=4)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(build_tiny_model())


def test_the_published_loop_encodes_at_every_step_and_gives_the_same_latents(pipeline):
    conditions = solid_conditions(pipeline)
    every_step = EncodeEveryStep(pipeline.adapter, conditions)
    features = pipeline.adapter.encode_condition(conditions)
    encoded = []
    every_step.condition_encoders["tumor"].register_forward_hook(lambda *_: encoded.append(1))
    arguments = (initial_noise(0, pipeline.config.latent_shape), torch.full((1, 1, 4), 0.5))
    options = {"num_inference_steps": 8, "sampler": "ddim"}
    once = trajectory(pipeline.backbone, pipeline.adapter, *arguments, features, **options)
    always = trajectory(pipeline.backbone, every_step, *arguments, torch.zeros_like(features), **options)
    for ours, published in islice(zip(once, always, strict=True), 3):
        torch.testing.assert_close(ours.latent, published.latent)
        assert ours.eps_shift is not None
    assert len(encoded) == 3


def test_a_condition_of_the_benchmark_has_every_label_once_a_voxel(pipeline):
    for name, tensor in solid_conditions(pipeline).items():
        assert tensor.shape == (1, pipeline.config.adapter.condition_channels[name], *pipeline.grid.shape)
        assert (tensor.sum((2, 3, 4)) > 0).all()
        assert tensor.sum(1).max() == 1


def test_calls_are_counted_as_the_loops_make_them(pipeline):
    counts = count_calls(pipeline, solid_conditions(pipeline), PLAN)
    assert counts["calls"]["published"] == {"prior": 16, "adapter": 8, "encode": 8, "decode": 2}
    assert counts["calls"]["ours"] == {"prior": 4, "adapter": 2, "encode": 1, "decode": 2}
    flops = counts["flops_a_call"]
    assert all(value > 0 for value in flops.values())
    assert counts["flops"]["ours"] == 4 * flops["prior"] + 2 * flops["adapter"] + flops["encode"] + 2 * flops["decode"]


def test_the_ratios_follow_from_the_stored_figures(pipeline, tmp_path):
    results = benchmark(pipeline, pipeline, tmp_path, PLAN)
    assert json.loads((tmp_path / "benchmark.json").read_text()) == results
    runs, ratios = results["runs"], results["ratios"]
    expected = runs["published"]["cpu_seconds"] / runs["ours"]["cpu_seconds"]
    assert ratios["published / ours, CPU time"] == pytest.approx(expected)
    assert all(ratio > 0 for ratio in ratios.values())
