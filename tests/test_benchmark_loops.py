"""The loops of the benchmark: the published one as it was, and parts, previews and scaling that are told apart."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from tiny import ALL_CHANNELS, build_tiny_model, drafting, randomize

import vcm.research.benchmark.loops as loops
from vcm.model.vcm import VCM
from vcm.pipeline import Pipeline
from vcm.request import Preview
from vcm.research.benchmark.loops import (
    EncodeEveryStep,
    Loop,
    WithoutPreviews,
    list_parts,
    solid_conditions,
    solid_request,
    time_loop,
)
from vcm.runtime.clock import Seconds
from vcm.sampler import initial_noise, trajectory


@pytest.fixture(scope="module", params=["without a draft", "with a draft"])
def pipeline(request) -> Pipeline:
    model = build_tiny_model()
    if request.param == "without a draft":
        return Pipeline(model)
    config = drafting(model.config.adapter)
    adapter = VCM(config)
    randomize(adapter, 2)
    adapter.look_through(model.backbone)
    return Pipeline(replace(model, config=replace(model.config, adapter=config), adapter=adapter.eval()))


def test_the_published_loop_encodes_at_every_step_and_gives_the_same_latents(pipeline):
    conditions = solid_conditions(pipeline)
    every_step = EncodeEveryStep(pipeline.adapter, conditions)
    features = pipeline.adapter.encode_condition(conditions)
    only_draft = features.clone()
    only_draft[:, : pipeline.adapter.gather_features(pipeline.adapter.read_conditions(conditions)).shape[1]] = 0
    encoded = []
    every_step.condition_encoders["tumor"].register_forward_hook(lambda *_: encoded.append(1))
    arguments = (initial_noise(0, pipeline.config.latent_shape), torch.full((1, 1, 4), 0.5))
    options = {"num_inference_steps": 8, "sampler": "ddim"}
    once = trajectory(pipeline.backbone, pipeline.adapter, *arguments, features, **options)
    always = trajectory(pipeline.backbone, every_step, *arguments, only_draft, **options)
    for ours, published in islice(zip(once, always, strict=True), 3):
        torch.testing.assert_close(ours.latent, published.latent)
        assert ours.eps_shift is not None
    assert len(encoded) == 3


def test_a_condition_of_the_benchmark_has_every_label_once_a_voxel(pipeline):
    for name, tensor in solid_conditions(pipeline).items():
        assert tensor.shape == (1, pipeline.config.adapter.condition_channels[name], *pipeline.grid.shape)
        assert (tensor.sum((2, 3, 4)) > 0).all()
        assert tensor.sum(1).max() == 1


def test_scans_are_no_condition_of_the_benchmark():
    pipeline = Pipeline(build_tiny_model(channels=ALL_CHANNELS))
    assert list(solid_conditions(pipeline)) == ["tumor", "anatomy"]
    pipeline.adapter.encode_condition(solid_conditions(pipeline))
    only_scans = Pipeline(build_tiny_model(channels={"t2": 1}))
    with pytest.raises(ValueError, match="this model takes none"):
        solid_conditions(only_scans)


def test_a_smaller_share_is_another_and_smaller_drawing(pipeline):
    large, small = (solid_request(pipeline, 2, share=share).conditions["tumor"].array for share in (0.25, 0.2))
    assert 0 < np.count_nonzero(small) < np.count_nonzero(large)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        # 4 of 8 steps of both chains really run; the encoder does at each of the controlled chain's, and once untimed.
        ({"encodes_every_step": True}, {"prior": 8, "adapter": 4, "encode": 5, "decode": 2}),
        ({}, {"prior": 8, "adapter": 4, "encode": 1, "decode": 2}),
        ({"compare": False}, {"prior": 4, "adapter": 4, "encode": 1, "decode": 1}),
    ],
)
def test_a_timed_loop_makes_the_calls_that_are_counted(pipeline, monkeypatch, options, calls):
    made = dict.fromkeys(calls, 0)

    def count(name, method):
        def counted(*arguments, **keywords):
            made[name] += 1
            return method(*arguments, **keywords)

        return counted

    monkeypatch.setattr(loops.VCM, "gather_features", count("encode", loops.VCM.gather_features))
    monkeypatch.setattr(loops.VCM, "forward", count("adapter", loops.VCM.forward))
    monkeypatch.setattr(pipeline.backbone, "predict_epsilon", count("prior", pipeline.backbone.predict_epsilon))
    monkeypatch.setattr(pipeline.backbone, "decode", count("decode", pipeline.backbone.decode))
    time_loop(Loop(pipeline, "ddim", 8, **options), solid_conditions(pipeline), most_steps=4)
    assert made == calls


def test_the_time_of_steps_that_did_not_run_is_added_but_not_that_of_decoding(pipeline, monkeypatch):
    def clocked(device, call):
        call()
        return {"encode": Seconds(0.5, 0.5), "sample": Seconds(3.0, 4.0), "decode": Seconds(0.25, 0.25)}[call.__name__]

    monkeypatch.setattr(loops, "clocked", clocked)
    conditions = solid_conditions(pipeline)
    assert time_loop(Loop(pipeline, "ddim", 8), conditions, most_steps=2) == (12.75, 16.75)
    assert time_loop(Loop(pipeline, "ddim", 8), conditions, most_steps=20) == (3.75, 4.75)


def test_without_previews_the_same_volumes_come_and_nothing_is_shown(pipeline):
    request = solid_request(pipeline, 3)
    *shown, result = pipeline.stream(request)
    *hidden, same = WithoutPreviews(pipeline).stream(request)
    assert all(isinstance(event, Preview) and not event.estimate.array.any() for event in hidden)
    assert any(event.estimate.array.any() for event in shown)
    np.testing.assert_array_equal(result.controlled.array, same.controlled.array)
    np.testing.assert_array_equal(result.uncontrolled.array, same.uncontrolled.array)


def test_every_part_gives_what_a_run_needs(pipeline):
    made = {name: call() for name, call in list_parts(pipeline, solid_conditions(pipeline)).items()}
    assert made["prior"].shape[1:] == pipeline.config.latent_shape
    assert made["adapter"][0].shape == made["prior"].shape
    assert made["decode"].shape[2:] == pipeline.grid.shape
    assert made["encode"].shape[2:] == made["prior"].shape[2:]
