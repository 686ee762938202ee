"""Explorations: one setting moves and the rest stays, the result comes last, and closing stops the work."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from vcm.explore import (
    Advance,
    compare_pair,
    follow_score,
    map_window,
    measure_distance,
    move_covariates,
    repeat_seeds,
    sweep_guidance,
    trace_steps,
)
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel

ALL = (compare_pair, sweep_guidance, map_window, repeat_seeds, move_covariates, trace_steps)


class Judge:
    """Finds a tumor where a volume is bright, and ventricles where it is dark."""

    def segment(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (volume > 0.6).astype(np.uint8), (volume < 0.3).astype(np.uint8) * 4


@pytest.fixture
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model, segmenter=Judge())


@pytest.fixture
def request_(pipeline: Pipeline) -> GenerationRequest:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    return GenerationRequest({"tumor": Volume(labels, pipeline.grid.affine)}, num_inference_steps=3, seed=5)


def last(events):
    *_, whole = events
    return whole


@pytest.mark.parametrize("explore", ALL)
def test_progress_rises_to_its_end_and_the_whole_result_comes_last(
    explore: Callable, pipeline: Pipeline, request_: GenerationRequest
) -> None:
    events = list(explore(pipeline, request_))
    advances = [event for event in events if isinstance(event, Advance)]
    done = [advance.done for advance in advances]
    assert done == sorted(done)
    assert done[-1] == advances[-1].total
    assert not isinstance(events[-1], Advance)
    assert type(events[-1]) in {type(event) for event in events if not isinstance(event, Advance)}


@pytest.mark.parametrize("explore", ALL)
def test_closing_it_stops_within_one_step(
    explore: Callable, pipeline: Pipeline, request_: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    predict = pipeline.backbone.predict_epsilon
    monkeypatch.setattr(pipeline.backbone, "predict_epsilon", lambda *given: asked.append(1) or predict(*given))
    events = explore(pipeline, replace(request_, num_inference_steps=50))
    assert isinstance(next(events), Advance)
    before = len(asked)
    events.close()
    assert len(asked) == before <= 2  # one step of the pair


def test_guidance_begins_at_the_uncontrolled_volume_and_moves_away(pipeline, request_) -> None:
    sweep = last(sweep_guidance(pipeline, request_, (0.0, 1.0, 2.0)))
    plain = pipeline(request_)
    np.testing.assert_array_equal(sweep.shots[0].volume.array, plain.uncontrolled.array)
    np.testing.assert_array_equal(sweep.shots[1].volume.array, plain.controlled.array)
    assert sweep.shots[0].distance == 0.0
    assert sweep.shots[1].distance == measure_distance(plain.controlled, plain.uncontrolled) > 0
    assert sweep.shots[1].dice == plain.adherence["tumor"]["controlled"]["dice"]["whole"]
    assert sweep.view.voxel == (5, 8, 6)


def test_a_sweep_is_shown_as_far_as_it_has_come(pipeline, request_) -> None:
    sweeps = [event for event in sweep_guidance(pipeline, request_, (0.0, 1.0)) if not isinstance(event, Advance)]
    assert [sweep.scales for sweep in sweeps] == [(0.0,), (0.0, 1.0)]


def test_the_window_map_has_the_whole_way_and_every_part_of_it(pipeline, request_) -> None:
    window = last(map_window(pipeline, replace(request_, num_inference_steps=4), (0.0, 0.5, 1.0)))
    assert set(window.cells) == {(0.0, 0.5), (0.0, 1.0), (0.5, 1.0)}
    whole = pipeline(replace(request_, num_inference_steps=4))
    np.testing.assert_array_equal(window.cells[0.0, 1.0].volume.array, whole.controlled.array)
    assert not np.array_equal(window.cells[0.5, 1.0].volume.array, whole.controlled.array)


def test_an_ensemble_has_the_mean_and_the_deviation_of_its_volumes(pipeline, request_) -> None:
    ensemble = last(repeat_seeds(pipeline, request_, 3))
    assert ensemble.seeds == (5, 6, 7)
    volumes = np.stack([shot.volume.array for shot in ensemble.shots])
    np.testing.assert_allclose(ensemble.mean.array, volumes.mean(0), atol=1e-6)
    np.testing.assert_allclose(ensemble.deviation.array, volumes.std(0), atol=1e-6)
    np.testing.assert_array_equal(volumes[0], pipeline(request_).controlled.array)


def test_the_seeds_of_an_ensemble_stay_in_their_range(pipeline, request_) -> None:
    assert last(repeat_seeds(pipeline, replace(request_, seed=2**32 - 1), 2)).seeds == (2**32 - 1, 0)


def test_a_counterfactual_moves_one_covariate_and_keeps_the_noise(pipeline, request_) -> None:
    moved = last(move_covariates(pipeline, request_))
    assert set(moved.moved) == {"age", "ventricular_volume"}
    np.testing.assert_array_equal(moved.asked.volume.array, pipeline(request_).controlled.array)
    age, old = moved.moved["age"][1]
    assert age == 82.0
    np.testing.assert_array_equal(old.volume.array, pipeline(replace(request_, age=82.0)).controlled.array)
    assert moved.asked.ventricles_ml == pytest.approx(0.008 * np.count_nonzero(moved.asked.volume.array < 0.3))


def test_a_trace_has_every_step_and_says_where_the_vcm_was_not_asked(pipeline, request_) -> None:
    trace = last(trace_steps(pipeline, replace(request_, num_inference_steps=4, control_end=0.5)))
    assert [step.step for step in trace.steps] == [1, 2, 3, 4]
    assert [step.eps_scale is not None for step in trace.steps] == [True, True, False, False]
    latent = pipeline.config.latent_shape[1:]
    assert trace.steps[0].eps_scale.shape == trace.steps[0].eps_shift.shape == latent
    assert (trace.steps[0].eps_shift >= 0).all()


def test_a_volume_that_is_known_is_traced_again(pipeline) -> None:
    plain = GenerationRequest(num_inference_steps=3, seed=5)
    pipeline(plain)
    trace = last(trace_steps(pipeline, plain))
    assert len(trace.steps) == 3
    assert trace.steps[0].eps_shift is None


def test_without_a_drawing_there_is_no_score_and_the_middle_is_shown(pipeline) -> None:
    pair = last(compare_pair(pipeline, GenerationRequest(num_inference_steps=2)))
    assert (pair.controlled.dice, pair.uncontrolled.dice) == (None, None)
    assert pair.view.tumor is None
    assert pair.view.voxel == tuple(size // 2 for size in pipeline.grid.shape)


def test_an_empty_map_has_no_score(pipeline, request_) -> None:
    empty = Volume(np.zeros(pipeline.grid.shape, np.uint8), pipeline.grid.affine)
    assert follow_score(pipeline(replace(request_, conditions={"tumor": empty}))) is None


def test_an_anatomy_map_alone_is_scored_by_the_mean_of_its_tissues(pipeline, request_) -> None:
    labels = np.full(pipeline.grid.shape, 4, np.uint8)
    result = pipeline(replace(request_, conditions={"anatomy": Volume(labels, pipeline.grid.affine)}))
    assert follow_score(result) == result.adherence["anatomy"]["controlled"]["dice"]["ventricles"]


def test_with_a_scan_volumes_are_shown_on_the_model_grid(image_model: LoadedModel) -> None:
    pipeline = Pipeline(image_model)
    shape = tuple(size + 4 for size in pipeline.grid.shape)
    scan = np.random.default_rng(0).random(shape).astype(np.float32) * 900
    hole = np.zeros(shape, np.uint8)
    hole[6:12, 6:14, 6:12] = 1
    request = GenerationRequest(
        {"partial": Volume(scan, pipeline.grid.affine)},
        fill=Volume(hole, pipeline.grid.affine),
        num_inference_steps=2,
    )
    pair = last(compare_pair(pipeline, request))
    assert pair.controlled.volume.array.shape == pipeline.grid.shape
    assert 0 <= pair.controlled.volume.array.min() <= pair.controlled.volume.array.max() <= 1
