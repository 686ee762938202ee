"""The pipeline: what a seed promises, what the caches may not change, and how a run stops."""

import itertools
import json
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny import GOLDEN, build_tiny_model

from vcm.job import Outcome
from vcm.modalities.image_conditions import grow
from vcm.model.config import CovariateConfig
from vcm.pipeline import GenerationError, Pipeline, build_context, choose_device
from vcm.recipe import request_from_recipe
from vcm.request import GenerationRequest, GenerationResult, Preview
from vcm.runtime.convolution import Conv3d
from vcm.runtime.upsampling import DoublingConv3d
from vcm.sampler import initial_noise, sample
from vcm.volume import Volume
from vcm.weights.checkpoint import CheckpointError, LoadedModel


@pytest.fixture
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model)


@pytest.fixture
def tumor(tiny_model: LoadedModel) -> Volume:
    labels = np.zeros(tiny_model.config.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    labels[5:7, 7:9, 5:7] = 1
    return Volume(labels, tiny_model.config.grid.affine)


@pytest.fixture
def request_(tumor: Volume) -> GenerationRequest:
    return GenerationRequest({"tumor": tumor}, num_inference_steps=4, seed=5)


class CallCounter:
    """Counts the calls of a network's forward pass."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls = 0
        self._handle = module.register_forward_hook(self._count)

    def _count(self, *_) -> None:
        self.calls += 1

    def __enter__(self) -> "CallCounter":
        return self

    def __exit__(self, *_) -> None:
        self._handle.remove()


class BrightIsTumor:
    """A segmenter by one threshold, in place of a trained one."""

    def segment(self, volume):
        bright = (volume > 0.5).astype(np.uint8)
        return bright, bright * np.uint8(4)


def test_networks_are_tuned_unless_asked_otherwise():
    tuned, plain = Pipeline(build_tiny_model()), Pipeline(build_tiny_model(), is_tuned=False)
    kinds = [{type(module) for module in each.backbone.modules()} for each in (tuned, plain)]
    assert {Conv3d, DoublingConv3d} <= kinds[0]
    assert not {Conv3d, DoublingConv3d} & kinds[1]
    found, expected = (each(GenerationRequest(num_inference_steps=2)).controlled.array for each in (tuned, plain))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_result_lies_on_the_model_grid_in_zero_to_one(pipeline, request_):
    result = pipeline(request_)
    for volume in (result.controlled, result.uncontrolled):
        assert volume.array.shape == pipeline.grid.shape
        assert volume.array.dtype == np.float32
        assert 0.0 <= volume.array.min() < volume.array.max() <= 1.0
        np.testing.assert_array_equal(volume.affine, pipeline.grid.affine)
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)
    np.testing.assert_array_equal(result.conditions["tumor"].array, request_.conditions["tumor"].array)


def test_a_stream_shows_every_step_and_ends_with_the_result(pipeline, request_):
    *previews, result = pipeline.stream(request_)
    assert all(isinstance(preview, Preview) for preview in previews)
    assert [(preview.step, preview.num_inference_steps) for preview in previews] == [(n, 4) for n in (1, 2, 3, 4)]
    assert {preview.estimate.array.shape for preview in previews} == {pipeline.grid.shape}
    assert isinstance(result, GenerationResult)
    assert {"encode", "sample", "preview", "decode", "total"} <= result.timings.keys()


def test_the_pipeline_gives_what_its_parts_give_by_hand(pipeline, tiny_model, request_):
    prepared = pipeline.prepare(request_)["tumor"]
    with torch.no_grad():
        features = tiny_model.adapter.encode_condition({"tumor": prepared.tensor[None]})
        noise = initial_noise(5, tiny_model.config.latent_shape)
        context = build_context(request_, tiny_model.config.covariates)
        latent = sample(
            tiny_model.backbone, tiny_model.adapter, noise, context, features, num_inference_steps=4, sampler="unipc"
        )
        expected = tiny_model.backbone.decode(latent)[0, 0].clamp(0, 1).numpy()
    np.testing.assert_array_equal(pipeline(request_).controlled.array, expected)


def test_the_same_request_gives_the_same_bits_with_full_and_with_empty_caches(pipeline, tiny_model, request_):
    first, again, fresh = pipeline(request_), pipeline(request_), Pipeline(tiny_model)(request_)
    for other in (again, fresh):
        np.testing.assert_array_equal(first.controlled.array, other.controlled.array)
        np.testing.assert_array_equal(first.uncontrolled.array, other.uncontrolled.array)


def test_the_controlled_volume_does_not_depend_on_the_comparison(pipeline, tiny_model, request_, tumor):
    alone = GenerationRequest({"tumor": tumor}, num_inference_steps=4, seed=5, compare=False)
    result = Pipeline(tiny_model)(alone)
    assert result.uncontrolled is None
    np.testing.assert_array_equal(result.controlled.array, pipeline(request_).controlled.array)


def test_zero_guidance_returns_the_uncontrolled_volume(pipeline, request_, tumor):
    result = pipeline(GenerationRequest({"tumor": tumor}, num_inference_steps=4, seed=5, guidance_scale=0.0))
    assert result.controlled.array is result.uncontrolled.array
    np.testing.assert_array_equal(result.controlled.array, pipeline(request_).uncontrolled.array)


def test_no_condition_is_zero_guidance(pipeline, request_):
    nothing = GenerationRequest(num_inference_steps=4, seed=5)
    np.testing.assert_array_equal(pipeline(nothing).controlled.array, pipeline(request_).uncontrolled.array)


def test_an_empty_tumor_map_is_a_condition(pipeline, tumor):
    empty = Volume(np.zeros_like(tumor.array), tumor.affine)
    result = pipeline(GenerationRequest({"tumor": empty}, num_inference_steps=4, seed=5))
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)


def test_an_empty_control_window_is_zero_guidance(pipeline, tiny_model, tumor):
    closed = GenerationRequest({"tumor": tumor}, num_inference_steps=4, control_start=0.5, control_end=0.5)
    with CallCounter(tiny_model.adapter) as adapter:
        result = pipeline(closed)
    assert adapter.calls == 0
    assert result.controlled.array is result.uncontrolled.array


def test_the_control_window_reaches_the_sampler(pipeline, tiny_model, tumor):
    first_half = GenerationRequest({"tumor": tumor}, num_inference_steps=4, control_end=0.5)
    with CallCounter(tiny_model.adapter) as adapter:
        pipeline(first_half)
    assert adapter.calls == 2


def test_conditions_are_encoded_once_a_run_and_never_again(pipeline, tiny_model, request_, tumor):
    other_settings = GenerationRequest({"tumor": tumor}, num_inference_steps=3, seed=6)
    with CallCounter(tiny_model.adapter.condition_encoders["tumor"]) as encoder:
        pipeline(request_)
        assert encoder.calls == 1
        pipeline(other_settings)
        assert encoder.calls == 1


def test_the_uncontrolled_chain_is_not_sampled_again_for_another_drawing(pipeline, tiny_model, request_, tumor):
    pipeline(request_)
    moved = Volume(np.roll(tumor.array, 2, axis=0), tumor.affine)
    with CallCounter(tiny_model.backbone.diffusion) as diffusion:
        pipeline(GenerationRequest({"tumor": moved}, num_inference_steps=4, seed=5))
    assert diffusion.calls == 4


def test_a_closed_stream_stops_within_one_step(pipeline, tiny_model, request_):
    with CallCounter(tiny_model.backbone.diffusion) as diffusion:
        stream = pipeline.stream(request_)
        next(stream)
        stream.close()
        assert diffusion.calls == 2  # one step of the controlled and of the uncontrolled chain
    np.testing.assert_array_equal(pipeline(request_).controlled.array, pipeline(request_).controlled.array)


def test_a_stream_that_is_left_open_blocks_nobody(pipeline, tiny_model, request_, tumor):
    waiting = pipeline.stream(request_)
    next(waiting)
    other = GenerationRequest({"tumor": tumor}, num_inference_steps=4, seed=9)
    np.testing.assert_array_equal(pipeline(other).controlled.array, Pipeline(tiny_model)(other).controlled.array)
    *_, result = waiting
    np.testing.assert_array_equal(result.controlled.array, Pipeline(tiny_model)(request_).controlled.array)


def test_two_users_at_once_get_what_each_gets_alone(pipeline, tiny_model, tumor):
    requests = [GenerationRequest({"tumor": tumor}, num_inference_steps=4, seed=seed) for seed in (1, 2)]
    results: dict[int, GenerationResult] = {}

    def work(request: GenerationRequest) -> None:
        results[request.seed] = pipeline(request)

    threads = [threading.Thread(target=work, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request in requests:
        alone = Pipeline(tiny_model)(request)
        np.testing.assert_array_equal(results[request.seed].controlled.array, alone.controlled.array)
        np.testing.assert_array_equal(results[request.seed].uncontrolled.array, alone.uncontrolled.array)


def test_a_job_may_be_computed_in_another_process(pipeline, tiny_model, request_):
    job = pipeline.plan(request_)
    worker = Pipeline(tiny_model)
    outcome = None
    for event in worker.run(pickle.loads(pickle.dumps(job))):
        outcome = pickle.loads(pickle.dumps(event))
    assert isinstance(outcome, Outcome)
    result = pipeline.finish(job, outcome)
    np.testing.assert_array_equal(result.controlled.array, worker(request_).controlled.array)
    again = pipeline.plan(request_)
    assert again.features is not None
    assert again.uncontrolled is not None


def test_a_recipe_gives_the_same_voxels_again(pipeline, tiny_model, request_):
    first = pipeline(request_)
    recipe = json.loads(json.dumps(first.recipe))
    again = Pipeline(tiny_model)(request_from_recipe(recipe))
    np.testing.assert_array_equal(first.controlled.array, again.controlled.array)
    np.testing.assert_array_equal(first.uncontrolled.array, again.uncontrolled.array)
    assert again.recipe == first.recipe


def test_what_a_cache_may_hold_cannot_be_changed(pipeline, request_):
    with pytest.raises(ValueError, match="read-only"):
        pipeline(request_).uncontrolled.array[0, 0, 0] = 1.0


def test_the_drawing_is_brought_to_the_model_grid_and_the_change_is_said(pipeline, tumor):
    flipped = Volume(tumor.array[::-1], tumor.affine @ np.diag([-1, 1, 1, 1]) + _shift(15, tumor))
    result = pipeline(GenerationRequest({"tumor": flipped}, num_inference_steps=2, compare=False))
    np.testing.assert_array_equal(result.conditions["tumor"].array, tumor.array)
    assert result.conditions["tumor"].notes


def _shift(voxels: int, volume: Volume) -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[:3, 3] = voxels * volume.affine[:3, 0]
    return shift


def test_a_tumor_outside_the_brain_is_said(tiny_model, request_):
    nowhere = np.zeros(tiny_model.config.grid.shape, bool)
    (note,) = Pipeline(tiny_model, brain=nowhere).prepare(request_)["tumor"].notes
    assert note.startswith("100.0% of the tumor")
    assert note.endswith("lies outside the brain.")
    assert Pipeline(tiny_model, brain=~nowhere).prepare(request_)["tumor"].notes == ()


def test_a_condition_that_the_model_does_not_take_is_refused_by_name(pipeline, tumor):
    with pytest.raises(ValueError, match="'t2' is not available in this model: it takes tumor, anatomy"):
        pipeline(GenerationRequest({"t2": tumor}))


def test_values_that_are_not_finite_are_refused(request_):
    model = build_tiny_model()
    with torch.no_grad():
        model.adapter.heads.shift.bias.fill_(torch.inf)
    with pytest.raises(GenerationError, match="lower guidance_scale"):
        Pipeline(model)(request_)


def test_adherence_and_labels_come_from_the_segmenter(tiny_model, request_):
    result = Pipeline(tiny_model, segmenter=BrightIsTumor())(request_)
    assert result.adherence["tumor"].keys() == {"drawn_ml", "controlled", "uncontrolled"}
    assert result.segmentation.keys() == {"tumor", "anatomy"}
    np.testing.assert_array_equal(result.segmentation["tumor"].array, result.controlled.array > 0.5)


def test_the_round_trip_is_the_autoencoder_alone(pipeline, tiny_model):
    image = np.random.default_rng(0).random(pipeline.grid.shape, np.float32)
    tensor = torch.from_numpy(image)[None, None]
    with torch.no_grad():
        expected = tiny_model.backbone.decode(tiny_model.backbone.encode(tensor))[0, 0].clamp(0, 1).numpy()
    np.testing.assert_array_equal(pipeline.reconstruct(image), expected)


def test_without_a_segmenter_there_is_no_adherence(pipeline, request_):
    result = pipeline(request_)
    assert result.adherence is None
    assert result.segmentation is None


def test_covariates_are_sex_age_ventricles_brain_from_zero_to_one():
    request = GenerationRequest(sex="male", age=82.0, ventricular_volume=0.25, brain_volume=0.75)
    assert build_context(request, CovariateConfig()).tolist() == [[[1.0, 1.0, 0.25, 0.75]]]
    assert build_context(GenerationRequest(age=44.0), CovariateConfig()).tolist() == [[[0.0, 0.0, 0.5, 0.5]]]


def test_half_precision_stays_near_full_precision(tiny_model, request_):
    full = Pipeline(tiny_model)(request_).controlled.array
    half = Pipeline(build_tiny_model(), precision="bfloat16")(request_)
    assert half.recipe["environment"]["precision"] == "bfloat16"
    assert not np.array_equal(half.controlled.array, full)
    assert np.abs(half.controlled.array - full).mean() < 0.05


def test_an_unknown_precision_or_device_is_refused(tiny_model):
    with pytest.raises(ValueError, match="precision is 'int4'"):
        Pipeline(tiny_model, precision="int4")
    for device in ("abacus", "cuda:99", "xla"):
        with pytest.raises(ValueError, match="no such device here"):
            choose_device(device)
    assert choose_device("cpu").type == "cpu"


def test_a_folder_is_loaded_like_a_named_model(tiny_folder, tiny_model, request_):
    pipeline = Pipeline.from_pretrained(tiny_folder, device="cpu")
    assert pipeline.config == tiny_model.config
    result = pipeline(request_)
    assert set(result.recipe["model"]["weights"]) >= {"autoencoder.safetensors", "vcm.safetensors"}


def test_a_model_that_is_not_there_is_named_in_one_sentence_without_a_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"choose mini, brainldm or a folder") as caught:
        Pipeline.from_pretrained(tmp_path / "secret")
    assert "secret" not in str(caught.value)


def test_the_embedded_model_is_there():
    pipeline = Pipeline.from_pretrained("mini", device="cpu")
    assert pipeline.config.name == "mini"
    assert pipeline.modalities == ("tumor", "anatomy", "partial", "lowres", "t2", "flair")
    assert pipeline.grid.shape == (80, 112, 80)


def test_the_published_layout_runs_from_a_label_map():
    pipeline = Pipeline.from_reference(GOLDEN, device="cpu")
    (name,) = pipeline.modalities
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[: labels.shape[0] // 2] = 1
    drawn = Volume(labels, pipeline.grid.affine)
    result = pipeline(GenerationRequest({name: drawn}, num_inference_steps=2, sampler="ddim"))
    assert result.controlled.array.shape == pipeline.grid.shape
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)


# ---- Scans as conditions ---------------------------------------------------------------------------------------------


def head(shape, affine) -> Volume:
    """A smooth head in a scanner's units, 0 in the air."""
    values = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=shape), 1.5)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = np.clip(4 * (0.95 - (places**2).sum(0)), 0, 1)
    return Volume((inside * (800 + 3000 * (values - values.min()))).astype(np.float32), affine)


@pytest.fixture
def images(image_model: LoadedModel) -> Pipeline:
    return Pipeline(image_model)


@pytest.fixture
def scan() -> Volume:
    """On a grid of its own: finer, flipped, not the model's."""
    affine = np.array([[-1.5, 0, 0, 17.3], [0, 1.5, 0, -23.1], [0, 0, 3, -16.2], [0, 0, 0, 1]])
    return head((22, 31, 11), affine)


@pytest.fixture
def fill(scan: Volume) -> Volume:
    mask = np.zeros(scan.array.shape, np.uint8)
    mask[8:14, 10:18, 3:7] = 1
    return Volume(mask, scan.affine)


def test_a_partial_scan_comes_back_on_its_own_grid_and_untouched_outside_the_fill(images, scan, fill):
    result = images(GenerationRequest({"partial": scan}, num_inference_steps=2, fill=fill))
    outside = fill.array == 0
    for volume in (result.controlled, result.uncontrolled):
        np.testing.assert_array_equal(volume.array[outside], scan.array[outside])
        np.testing.assert_array_equal(volume.affine, scan.affine)
    assert (result.controlled.array[~outside] != scan.array[~outside]).all()
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)
    assert result.conditions["partial"].array.shape == images.grid.shape
    np.testing.assert_array_equal(result.scans["partial"].array, scan.array)
    np.testing.assert_array_equal(result.fill.array, fill.array)


def test_a_tumor_goes_into_a_scan_and_only_its_surroundings_change(images, tumor):
    own = head(images.grid.shape, images.grid.affine)
    result = images(GenerationRequest({"partial": own, "tumor": tumor}, num_inference_steps=2))
    near = grow(tumor.array > 0, 6.0, (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(result.controlled.array != own.array, near)


def test_a_partial_scan_without_a_hole_is_refused(images, scan):
    with pytest.raises(ValueError, match="The partial condition needs a fill"):
        images(GenerationRequest({"partial": scan}))


def test_another_hole_in_the_same_scan_is_another_volume(images, scan, fill):
    request = GenerationRequest({"partial": scan}, num_inference_steps=2, fill=fill, compare=False)
    larger = Volume(np.roll(fill.array, 3, axis=1), fill.affine)
    first, second = images.plan(request), images.plan(replace(request, fill=larger))
    assert first.features_key != second.features_key


def thick(shape=(16, 24, 8)) -> Volume:
    return head(shape, np.array([[2.0, 0, 0, -15], [0, 2, 0, -23], [0, 0, 4, -14], [0, 0, 0, 1]]))


def test_thick_slices_give_a_volume_on_the_model_grid_in_their_units_with_their_means(images):
    slices = thick()
    result = images(GenerationRequest({"lowres": slices}, num_inference_steps=2))
    assert result.controlled.array.shape == images.grid.shape
    means = result.controlled.array.reshape(16, 24, 8, 2).mean(3)
    np.testing.assert_allclose(means, slices.array, atol=2e-3 * slices.array.max())
    assert result.uncontrolled.array.max() > 10


@pytest.mark.parametrize("name", ["t2", "flair"])
def test_another_contrast_gives_a_t1_between_0_and_1(images, scan, name):
    result = images(GenerationRequest({name: scan}, num_inference_steps=2))
    assert result.controlled.array.shape == images.grid.shape
    assert result.controlled.array.dtype == np.float32
    assert 0 <= result.controlled.array.min() < result.controlled.array.max() <= 1


def test_guidance_0_gives_the_uncontrolled_array_itself_with_scans_too(images, scan, fill):
    for conditions, region in (({"partial": scan}, fill), ({"lowres": thick()}, None)):
        request = GenerationRequest(conditions, guidance_scale=0.0, num_inference_steps=2, fill=region)
        result = images(request)
        assert result.controlled.array is result.uncontrolled.array


def test_a_recipe_with_scans_gives_the_same_voxels(images, scan, fill, tumor):
    conditions = {"tumor": tumor, "partial": scan, "t2": scan, "lowres": thick()}
    result = images(GenerationRequest(conditions, num_inference_steps=2, fill=fill))
    recipe = json.loads(json.dumps(result.recipe))
    again = images(request_from_recipe(recipe, result.scans))
    np.testing.assert_array_equal(again.controlled.array, result.controlled.array)
    assert again.recipe == result.recipe


def test_a_pickled_job_leaves_the_scans_at_home(images, scan, fill):
    job = images.plan(GenerationRequest({"partial": scan}, num_inference_steps=2, fill=fill))
    sent = pickle.loads(pickle.dumps(job))
    assert sent.conditions["partial"].scan is None
    outcome = next(event for event in images.run(sent) if isinstance(event, Outcome))
    np.testing.assert_array_equal(images.finish(job, outcome).controlled.affine, scan.affine)


def test_thick_slices_have_a_say_before_the_volume_is_done_wherever_it_is_made(images):
    job = images.plan(GenerationRequest({"lowres": thick()}, num_inference_steps=2, compare=False))
    blind = replace(job, conditions={"lowres": replace(job.conditions["lowres"], scan=None)})
    here, sent, unled = (
        next(event for event in images.run(each) if isinstance(event, Outcome)).controlled.array
        for each in (job, pickle.loads(pickle.dumps(job)), blind)
    )
    np.testing.assert_array_equal(here, sent)
    assert not np.array_equal(here, unled)


def test_thick_slices_leave_the_uncontrolled_volume_alone(images):
    request = GenerationRequest({"lowres": thick()}, num_inference_steps=2)
    job = images.plan(request)
    outcome = next(event for event in images.run(job) if isinstance(event, Outcome))
    free = images(GenerationRequest({}, num_inference_steps=2))
    np.testing.assert_array_equal(outcome.uncontrolled.array, free.controlled.array)


def test_every_pair_of_conditions_goes_together(images, scan, fill, tumor):
    given = {"tumor": tumor, "anatomy": tumor, "partial": scan, "lowres": thick(), "t2": scan, "flair": scan}
    for pair in itertools.combinations(given, 2):
        region = fill if "partial" in pair else None
        request = GenerationRequest({name: given[name] for name in pair}, num_inference_steps=1, fill=region)
        result = images(replace(request, compare=False))
        assert set(result.conditions) == set(pair)
        assert np.isfinite(result.controlled.array).all()
