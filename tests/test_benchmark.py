"""The benchmark: calls counted as the loops make them, and a file that holds what was measured."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import build_tiny_model

from vcm.model.backbone import Backbone
from vcm.model.vcm import VCM
from vcm.pipeline import Pipeline
from vcm.research.benchmark import quality as benchmark_quality
from vcm.research.benchmark.benchmark import benchmark, count_calls, list_loops
from vcm.research.benchmark.loops import solid_conditions
from vcm.research.benchmark.plan import BenchmarkPlan
from vcm.weights.checkpoint import LoadedModel
from vcm.weights.presets import brainldm_config

PLAN = BenchmarkPlan(
    steps=2,
    published_steps=8,
    solvers=(("unipc", (2, 3)), ("ddim", (4, 8))),
    repeats=1,
    rounds=2,
    timed_steps=4,
    noises=1,
    masks=1,
    reference_steps=16,
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(build_tiny_model())


def test_calls_are_counted_as_the_loops_make_them(pipeline):
    counts = count_calls(pipeline, solid_conditions(pipeline), PLAN)
    assert counts["calls"]["published"] == {"prior": 16, "adapter": 8, "encode": 8, "decode": 2}
    assert counts["calls"]["ours"] == {"prior": 4, "adapter": 2, "encode": 1, "decode": 2}
    flops = counts["flops_a_call"]
    assert all(value > 0 for value in flops.values())
    assert counts["flops"]["ours"] == 4 * flops["prior"] + 2 * flops["adapter"] + flops["encode"] + 2 * flops["decode"]


def test_at_full_size_ours_takes_less_than_a_seventh_of_the_operations():
    config = brainldm_config()
    with torch.device("meta"):  # shapes alone: nothing is computed
        backbone, adapter = Backbone(config.backbone, config.latent_shape).to("meta"), VCM(config.adapter).eval()
    full_size = Pipeline(LoadedModel(config, backbone, adapter, hashes={}))
    flops = count_calls(full_size, solid_conditions(full_size), BenchmarkPlan())["flops"]
    assert 7e14 < flops["published"] < 8e14
    assert flops["published"] / flops["ours"] > 7


def test_the_published_loop_alone_encodes_every_step_and_our_own_setting_is_timed_once(pipeline):
    loops = list_loops(pipeline, pipeline, PLAN)
    assert [name for name, loop in loops.items() if loop.encodes_every_step] == ["published"]
    assert [name for name, loop in loops.items() if not loop.compare] == ["ours, uncontrolled volume cached"]
    assert list(loops)[4:] == ["unipc 3", "ddim 4", "ddim 8"]  # unipc 2 is "ours"


def test_the_ratios_follow_from_the_stored_figures(pipeline, tmp_path):
    asked = []

    def measure_page(page_pipeline, request, rounds):
        asked.append((page_pipeline, request.num_inference_steps, request.compare, rounds))
        return {"page": "measured"}

    results = benchmark(
        pipeline, pipeline, tmp_path, PLAN, measure_session=lambda: {"session": 1}, measure_page=measure_page
    )
    assert json.loads((tmp_path / "benchmark.json").read_text()) == results
    runs, ratios = results["runs"], results["ratios"]
    expected = runs["published"]["cpu_seconds"] / runs["ours"]["cpu_seconds"]
    assert ratios["published / ours, CPU time"] == pytest.approx(expected)
    assert all(ratio > 0 for ratio in ratios.values())
    assert not any("torch's own" in name for name in ratios)
    assert asked == [(pipeline, PLAN.steps, True, PLAN.rounds)]
    assert (results["page"], results["session"]) == ({"page": "measured"}, {"session": 1})
    assert results["loops"].keys() == runs.keys()
    assert results["loops"]["published"]["precision"] == "float32"


def test_what_tuning_is_worth_is_measured_where_there_is_a_pipeline_without(pipeline, tmp_path):
    plain = Pipeline(build_tiny_model(), is_tuned=False)
    results = benchmark(pipeline, pipeline, tmp_path, PLAN, plain=plain)
    for part, name in (("prior", "prior"), ("adapter", "VCM"), ("decode", "decoding")):
        taken = results["parts"][part]
        ratio = taken["plain"]["cpu_seconds"] / taken["float32"]["cpu_seconds"]
        told = f"{name} in float32 with torch's own convolutions / with ours"
        assert results["ratios"][told] == pytest.approx(ratio)


def test_what_was_measured_is_kept_when_a_later_section_fails(pipeline, tmp_path):
    def fail():
        raise RuntimeError("no second process")

    with pytest.raises(RuntimeError, match="no second process"):
        benchmark(pipeline, pipeline, tmp_path, PLAN, measure_session=fail)
    kept = json.loads((tmp_path / "benchmark.json").read_text())
    assert kept["previews"]["on"]["cpu_seconds"] > 0
    assert "session" not in kept

    resumed = benchmark(pipeline, pipeline, tmp_path, PLAN, measure_session=lambda: {"session": 1}, resume=True)
    for part in ("parts", "runs", "previews"):
        assert resumed[part] == kept[part]
    assert resumed["session"] == {"session": 1}
    assert not (tmp_path / "work").exists()
    other = benchmark(pipeline, pipeline, tmp_path, replace(PLAN, masks=0), resume=True)
    assert other["runs"] != kept["runs"]


def test_a_quality_that_was_stopped_goes_on_with_the_loops_that_are_missing(pipeline, tmp_path, monkeypatch):
    whole = benchmark(pipeline, pipeline, tmp_path / "whole", PLAN)
    sampled: list[str] = []
    real = benchmark_quality.sample_latent

    def sample_some(loop, request):
        if len(sampled) == 3:
            raise KeyboardInterrupt
        sampled.append(loop.sampler)
        return real(loop, request)

    monkeypatch.setattr(benchmark_quality, "sample_latent", sample_some)
    with pytest.raises(KeyboardInterrupt):
        benchmark(pipeline, pipeline, tmp_path, PLAN)
    sampled.clear()
    monkeypatch.setattr(benchmark_quality, "sample_latent", lambda *asked: sampled.append("") or real(*asked))
    resumed = benchmark(pipeline, pipeline, tmp_path, PLAN, resume=True)
    assert len(sampled) == len(whole["quality"]["loops"]) - 2  # the exact one and two loops were there
    assert resumed["quality"] == whole["quality"]
    sampled.clear()
    assert benchmark(pipeline, pipeline, tmp_path, PLAN, resume=True)["quality"] == whole["quality"]
    assert not sampled


def test_adherence_is_left_out_where_there_is_nothing_to_judge_with_and_the_distance_is_not(pipeline, tmp_path, caplog):
    results = benchmark(pipeline, pipeline, tmp_path, PLAN)
    quality = results["quality"]
    assert (quality["masks"], quality["noises"], quality["reference_steps"]) == (0, 1, 16)
    assert "Adherence is left out" in caplog.text
    found = {name: row["distance"]["value"] for name, row in quality["loops"].items()}
    assert found["ddim 8"] == found["published"]  # the same loop, in the same precision here
    assert found["ddim 4"] > found["ddim 8"] > 0
    assert all(row["dice"]["count"] == 0 for row in quality["loops"].values())
