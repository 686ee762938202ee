"""The worker: what crosses to the GPU and back, how it stops, and how it fails; here and in a fork."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import spaces
import torch
from forked_gpu import ForkedGPU

from vcm.job import Job, Outcome
from vcm.pipeline import GenerationError, Pipeline
from vcm.request import GenerationRequest
from vcm.runtime.memory import give_back_freed_memory
from vcm.ui.server import studio as studio_module
from vcm.ui.server.studio import Finished, Studio
from vcm.ui.server.worker import MOST_PREVIEWS, Progress, build_worker, estimate_gpu_seconds, shows_preview
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel


@pytest.fixture
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> ForkedGPU:
    """Puts the fork in the place of `spaces.GPU` for workers that are built afterwards."""
    gpu = ForkedGPU()
    monkeypatch.setattr(spaces, "GPU", gpu)
    return gpu


@pytest.fixture
def tumor(tiny_model: LoadedModel) -> Volume:
    labels = np.zeros(tiny_model.config.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    return Volume(labels, tiny_model.config.grid.affine)


@pytest.fixture
def request_(tumor: Volume) -> GenerationRequest:
    return GenerationRequest({"tumor": tumor}, num_inference_steps=6, seed=5)


def finish(studio: Studio, request: GenerationRequest) -> Finished:
    *_, last = studio.run(request)
    assert isinstance(last, Finished)
    return last


def fail_with(error: BaseException) -> Callable[[Job], None]:
    def run(_job: Job) -> None:
        raise error
        yield

    return run


@pytest.mark.parametrize("is_forked", [False, True])
def test_every_step_arrives_and_the_outcome_last(pipeline, request_, is_forked, request):
    if is_forked:
        request.getfixturevalue("forked")
    *steps, last = build_worker(pipeline)(pipeline.plan(request_))
    assert [(event.step, event.num_inference_steps) for event in steps] == [(n, 6) for n in range(1, 7)]
    assert isinstance(last, Outcome)
    assert last.controlled.array.dtype == np.float32


@pytest.mark.parametrize("is_forked", [False, True])
def test_a_traced_run_shows_every_step_and_what_the_vcm_did(pipeline, request_, is_forked, request):
    if is_forked:
        request.getfixturevalue("forked")
    studio = Studio(pipeline)
    asked = replace(request_, num_inference_steps=2 * MOST_PREVIEWS)
    known = finish(studio, asked)
    *steps, last = studio.run(asked, is_traced=True)
    assert len(steps) == 2 * MOST_PREVIEWS
    assert all(step.preview is not None and step.eps_scale.shape == step.eps_shift.shape for step in steps)
    assert not last.is_remembered
    np.testing.assert_array_equal(last.result.controlled.array, known.result.controlled.array)
    assert all(step.eps_scale is None for step in studio.run(replace(asked, seed=6)) if isinstance(step, Progress))


def test_a_quick_run_gives_the_same_voxels_and_leaves_nothing_behind(pipeline, request_, monkeypatch):
    measured = []
    monkeypatch.setattr(Pipeline, "_segment", lambda *_: measured.append(1))
    studio = Studio(pipeline)
    *_, quick = studio.run(request_, is_quick=True)
    assert not measured
    known = finish(studio, request_)
    assert not known.is_remembered
    assert len(measured) == 2
    np.testing.assert_array_equal(quick.result.controlled.array, known.result.controlled.array)
    *_, again = studio.run(request_, is_quick=True)
    assert again.is_remembered


def test_freed_memory_goes_back_after_a_run_that_ends_or_is_left_and_stays_for_the_next_quick_one(
    pipeline, request_, monkeypatch
):
    given_back = []
    monkeypatch.setattr(studio_module, "give_back_freed_memory", lambda: given_back.append(give_back_freed_memory()))
    studio = Studio(pipeline)
    list(studio.run(request_, is_quick=True))
    assert not given_back
    finish(studio, request_)
    assert len(given_back) == 1
    finish(studio, request_)  # it is remembered: nothing was computed
    assert len(given_back) == 1
    left = studio.run(replace(request_, seed=6))
    next(left)
    left.close()
    assert len(given_back) == 2


def test_what_comes_back_is_picklable_and_lives_on_the_cpu(pipeline, request_):
    for event in build_worker(pipeline)(pipeline.plan(request_)):
        again = pickle.loads(pickle.dumps(event))
        if isinstance(event, Progress):
            assert again.preview.dtype == np.uint8
            assert again.preview.shape == pipeline.grid.shape
        else:
            assert again.features.device.type == "cpu"
            np.testing.assert_array_equal(again.controlled.array, event.controlled.array)


def test_a_preview_is_the_estimate_in_a_quarter_of_its_bytes(pipeline, request_):
    estimates = [event.estimate.array for event in pipeline.stream(request_) if hasattr(event, "estimate")]
    shown = [event.preview for event in build_worker(pipeline)(pipeline.plan(request_)) if isinstance(event, Progress)]
    for estimate, preview in zip(estimates, shown, strict=True):
        np.testing.assert_allclose(preview / 255, estimate, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("steps", [1, 4, 5, 10, 20, 33, 100, 1000])
def test_a_run_shows_itself_at_least_five_times_and_its_last_step_always(steps):
    shown = [step for step in range(1, steps + 1) if shows_preview(step, steps)]
    assert min(steps, 5) <= len(shown) <= MOST_PREVIEWS
    assert shown[-1] == steps
    gaps = np.diff([0, *shown])
    assert gaps.max() - gaps.min() <= 1


def test_a_fork_gives_the_same_bits(pipeline, request_, tiny_model, forked):
    apart = finish(Studio(pipeline), request_).result
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the fork has: the number of threads is part of what gives the same bits on a CPU
    try:
        here = Pipeline(tiny_model)(request_)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(apart.controlled.array, here.controlled.array)
    np.testing.assert_array_equal(apart.uncontrolled.array, here.uncontrolled.array)


def test_the_parent_remembers_what_a_fork_forgets(pipeline, request_, tumor, forked):
    studio = Studio(pipeline)
    first = finish(studio, request_)
    assert not first.is_remembered
    job = pipeline.plan(replace(request_, guidance_scale=2.0))
    assert job.features is not None
    assert job.uncontrolled is not None
    np.testing.assert_array_equal(job.uncontrolled.array, first.result.uncontrolled.array)
    assert finish(studio, request_).is_remembered
    assert len(forked.durations) == 1


@pytest.mark.parametrize("is_forked", [False, True])
def test_closing_stops_within_one_step_and_the_next_run_works(pipeline, request_, is_forked, request, monkeypatch):
    if is_forked:
        request.getfixturevalue("forked")
    studio = Studio(pipeline)
    long = replace(request_, num_inference_steps=1000)
    seen = []
    run = studio.run(long)
    for event in run:
        seen.append(event.step)
        if event.step == 3:
            run.close()
    assert seen == [1, 2, 3]
    assert finish(studio, request_).result.controlled.array.shape == pipeline.grid.shape


def test_a_cancelled_run_computes_at_most_one_step_more(pipeline, request_, tiny_model):
    calls = []
    handle = tiny_model.backbone.diffusion.register_forward_hook(lambda *_: calls.append(1))
    try:
        run = Studio(pipeline).run(replace(request_, num_inference_steps=50, compare=False))
        next(run)
        before = len(calls)
        run.close()
    finally:
        handle.remove()
    assert len(calls) <= before + 1


@pytest.mark.parametrize("is_forked", [False, True])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GenerationError("The volume came out empty."), "The volume came out empty."),
        (torch.OutOfMemoryError("CUDA out of memory at 0x7f"), "not enough memory"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("/root/secret.py line 3"), "stopped unexpectedly"),
    ],
)
def test_a_failure_arrives_as_one_sentence_and_the_next_run_works(
    pipeline, request_, monkeypatch, error, words, is_forked, request
):
    if is_forked:
        request.getfixturevalue("forked")
    studio = Studio(pipeline)
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "run", fail_with(error))
        with pytest.raises(gr.Error, match=words) as caught:
            finish(studio, request_)
    assert "secret" not in caught.value.message
    assert "0x" not in caught.value.message
    assert finish(studio, request_).result.controlled is not None


def test_a_fork_that_dies_is_reported_and_the_next_run_works(pipeline, request_, monkeypatch, forked):
    studio = Studio(pipeline)
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "run", lambda job: os._exit(3))
        with pytest.raises(gr.Error, match="aborted"):
            finish(studio, request_)
    assert finish(studio, request_).result.controlled is not None


def test_a_run_asks_for_little_gpu_time_and_for_more_when_it_does_more(pipeline, request_, forked):
    def asks(**changes) -> int:
        return estimate_gpu_seconds(pipeline.plan(replace(request_, **changes)), (4, 20, 28, 20))

    assert asks(num_inference_steps=20) < 20
    assert asks(num_inference_steps=20, compare=False) < asks(num_inference_steps=20) < asks(num_inference_steps=100)
    assert asks(num_inference_steps=1000) == 120
    list(build_worker(pipeline)(pipeline.plan(request_)))
    assert forked.durations == [estimate_gpu_seconds(pipeline.plan(request_), pipeline.config.latent_shape)]


def test_cached_conditions_travel_without_being_computed_again(pipeline, request_, tiny_model, forked):
    studio = Studio(pipeline)
    finish(studio, request_)
    with_features = pipeline.plan(replace(request_, seed=6))
    *_, outcome = build_worker(pipeline)(with_features)
    assert "encode" not in outcome.timings
