"""The trainings: the loop resumes bit for bit, and each stage makes what the next one loads."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from safetensors.torch import load_file
from tiny import build_tiny_config, build_tiny_model
from torch import Tensor, nn

from vcm.data import simulate
from vcm.data.cohort import cached_tensor
from vcm.model.config import AdapterConfig
from vcm.model.segmenter import Segmenter, SegmenterConfig
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.train import stages
from vcm.train.diffusion import stratified_timesteps, train_diffusion
from vcm.train.latents import WHITENING_FLOOR_SHARE, cached_pair, encode_images, measure_whitening
from vcm.train.loop import LoopConfig, count_steps, read_seconds, run_loop
from vcm.train.record import read_training
from vcm.train.vcm import VCMRecipe, train_vcm
from vcm.volume import Volume
from vcm.weights.checkpoint import CheckpointError, load_model, save_model

LOOP = LoopConfig(steps=6, learning_rate=1e-2, warmup_steps=2, save_every=3, validate_every=2, log_every=2)


class KilledError(Exception):
    """Stands for a kill in the middle of a step."""


def build_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1, 1))


def loss_function(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    image = torch.randn((2, 1, 4, 4, 4), generator=random)
    loss = ((network(image).float() - 2 * image) ** 2).mean()
    return loss, {"first_voxel": image.flatten()[0].item()}


def killed_at(stop: int):
    def until(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == stop:
            raise KilledError
        return loss_function(network, step, random)

    return until


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    others = second.state_dict()
    assert first.state_dict().keys() == others.keys()
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, others[name], rtol=0, atol=0)


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# The loop


@pytest.mark.parametrize("kernel_rate", [None, 2e-2])
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path, kernel_rate):
    config = replace(LOOP, kernel_rate=kernel_rate)
    whole_network, resumed_network = build_network(), build_network()
    whole = run_loop(whole_network, loss_function, config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run_loop(build_network(), killed_at(5), config, tmp_path / "killed")
    resumed = run_loop(resumed_network, loss_function, config, tmp_path / "killed", resume=True)
    assert_same_weights(resumed, whole)
    assert_same_weights(resumed_network, whole_network)
    assert not torch.equal(whole[0].weight, build_network()[0].weight)


def test_a_finished_run_that_is_resumed_returns_what_it_had(tmp_path):
    finished = run_loop(build_network(), loss_function, LOOP, tmp_path)
    assert_same_weights(run_loop(build_network(), killed_at(0), LOOP, tmp_path, resume=True), finished)


def test_a_run_in_a_used_folder_is_refused_unless_it_resumes(tmp_path):
    run_loop(build_network(), loss_function, LOOP, tmp_path)
    saved = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(FileExistsError, match="continue it with --resume or choose another") as caught:
        run_loop(build_network(), loss_function, LOOP, tmp_path)
    assert str(tmp_path) not in str(caught.value)
    assert (tmp_path / "state.pt").read_bytes() == saved


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_saved_state(tmp_path):
    def exploding(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss, figures = loss_function(network, step, random)
        return loss * (float("nan") if step == 4 else 1.0), figures

    with pytest.raises(FloatingPointError, match="nan at step 4"):
        run_loop(build_network(), exploding, LOOP, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 3
    assert all(bool(tensor.isfinite().all()) for tensor in state["network"].values())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path):
    def cornered(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss, figures = loss_function(network, step, random)
        # The root of 0 is 0, and its slope is infinite.
        return (loss + (0 * network[0].weight.sum()).sqrt() if step == 2 else loss), figures

    network = build_network()
    with pytest.raises(FloatingPointError, match="the gradient is nan at step 2"):
        run_loop(network, cornered, LOOP, tmp_path)
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())


@pytest.mark.parametrize("kernel_rate", [None, 2e-2])
def test_the_loop_learns_and_returns_a_frozen_average_in_evaluation_mode(tmp_path, kernel_rate):
    config = replace(LOOP, kernel_rate=kernel_rate, steps=150, save_every=150, validate_every=150, log_every=10)
    averaged = run_loop(build_network(), loss_function, config, tmp_path)
    losses = [entry["loss"] for entry in read_log(tmp_path)]
    assert losses[-1] < 0.3 * losses[0]
    assert not averaged.training
    assert not any(parameter.requires_grad for parameter in averaged.parameters())


def test_the_average_follows_the_weights_as_an_exponential_moving_one(tmp_path):
    seen: list[Tensor] = []

    def watching(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seen.append(network[0].weight.detach().clone())
        return loss_function(network, step, random)

    network = build_network()
    averaged = run_loop(network, watching, replace(LOOP, ema_decay=0.3), tmp_path)
    expected = seen[0]
    for step, weight in enumerate([*seen[1:], network[0].weight.detach()]):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(averaged[0].weight, expected)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_twentieth(tmp_path):
    moved = []

    def watching(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        moved.append(network.weight.detach().clone())
        # A constant gradient: Adam then moves each weight by the learning rate.
        return network.weight.sum() * 0.001, {}

    config = replace(LOOP, steps=40, warmup_steps=10, learning_rate=0.5)
    network = nn.Conv3d(1, 1, 1)
    run_loop(network, watching, config, tmp_path)
    moved.append(network.weight.detach())
    rates = [float((a - b).item()) for a, b in pairwise(moved)]
    assert rates[:10] == pytest.approx([0.05 * n for n in range(1, 11)], rel=1e-3)
    assert max(rates) == pytest.approx(0.5, rel=1e-3)
    assert rates[-1] == pytest.approx(0.025, rel=0.15)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_the_log_holds_means_and_validations_of_the_average(tmp_path):
    networks = []

    def validate(network: nn.Module, step: int) -> dict[str, float]:
        assert not network.training
        assert not torch.is_grad_enabled()
        networks.append(network)
        return {"score": float(step)}

    averaged = run_loop(build_network(), loss_function, LOOP, tmp_path, validate=validate)
    entries = read_log(tmp_path)
    assert [entry["step"] for entry in entries if "loss" in entry] == [2, 4, 6]
    assert [entry["validation"]["score"] for entry in entries if "validation" in entry] == [2.0, 4.0, 6.0]
    assert {"gradient_norm", "first_voxel", "seconds_a_step"} <= entries[0].keys()
    assert all(network is averaged for network in networks)
    assert json.loads((tmp_path / "loop.json").read_text())["steps"] == 6


def test_a_training_ends_early_with_the_best_weights_and_stays_ended(tmp_path):
    config = replace(LOOP, steps=40, patience=2)
    seen: dict[int, list[Tensor]] = {}

    def validate(network: nn.Module, step: int) -> dict[str, float]:
        seen[step] = [parameter.clone() for parameter in network.parameters()]
        return {"loss": abs(step - 4.0)}

    averaged = run_loop(build_network(), loss_function, config, tmp_path, validate=validate)
    assert list(seen) == [2, 4, 6, 8]
    assert all(torch.equal(*pair) for pair in zip(averaged.parameters(), seen[4], strict=True))
    assert count_steps(tmp_path, config) == 4
    again = run_loop(build_network(), loss_function, config, tmp_path, validate=validate, resume=True)
    assert list(seen) == [2, 4, 6, 8]
    assert_same_weights(again, averaged)


def test_a_run_that_is_killed_while_it_validates_does_so_again(tmp_path):
    config = replace(LOOP, patience=9, save_every=2)

    def killed(network: nn.Module, step: int) -> dict[str, float]:
        if step == config.steps:
            raise KilledError
        return {"loss": float(config.steps - step)}

    with pytest.raises(KilledError):
        run_loop(build_network(), loss_function, config, tmp_path, validate=killed)
    run_loop(build_network(), loss_function, config, tmp_path, validate=lambda _, step: {"loss": 0.0}, resume=True)
    assert count_steps(tmp_path, config) == config.steps


def test_a_line_of_the_log_that_was_cut_short_does_not_keep_a_run_from_going_on(tmp_path):
    with pytest.raises(KilledError):
        run_loop(build_network(), killed_at(5), LOOP, tmp_path)
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 4, "lo')
    run_loop(build_network(), loss_function, LOOP, tmp_path, resume=True)
    last = (tmp_path / "log.jsonl").read_text().splitlines()[-1]
    assert read_seconds(tmp_path) == json.loads(last)["seconds"] > 0


# Latents


def test_timesteps_are_one_from_each_part_of_the_schedule():
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        timesteps = stratified_timesteps(4, 1000, random)
        assert (timesteps // 250).tolist() == [0, 1, 2, 3]


def test_a_mirrored_encoding_is_that_of_the_mirrored_image():
    images = np.random.default_rng(0).random((2, *GRID.shape), dtype=np.float32)
    autoencoder = build_tiny_model(GRID).backbone.autoencoder
    mirrored = encode_images(autoencoder, images, "cpu", mirrored=True)
    torch.testing.assert_close(mirrored, encode_images(autoencoder, images[:, ::-1].copy(), "cpu"))
    assert mirrored.shape == (2, *build_tiny_config(GRID).latent_shape)
    assert not torch.equal(mirrored, encode_images(autoencoder, images, "cpu"))


def test_whitening_measures_each_cell_and_does_not_amplify_those_that_hardly_vary():
    means = torch.randn((50, 2, 3, 3, 3), generator=torch.Generator().manual_seed(0)) * 4 + 7
    means[:, 0, 0, 0, 0] = 1.0  # air
    mean, deviation = measure_whitening(means)
    torch.testing.assert_close(mean, means.mean(0))
    torch.testing.assert_close(deviation[1], means.std(0)[1])
    typical = means.std(0)[0].square().mean().sqrt()
    torch.testing.assert_close(deviation[0, 0, 0, 0], WHITENING_FLOOR_SHARE * typical)


def test_a_cached_tensor_is_made_once(tmp_path):
    made = []

    def make() -> Tensor:
        made.append(True)
        return torch.arange(3.0)

    for _ in range(2):
        assert cached_tensor(tmp_path / "x.pt", make).tolist() == [0.0, 1.0, 2.0]
    assert len(made) == 1


# The stages, on real subjects seen through a coarse grid


@pytest.fixture(scope="module")
def coarse_subjects() -> list[dict]:
    return make_coarse_subjects(("t1", "t2", "flair"))


@pytest.fixture
def cohorts(coarse_subjects, monkeypatch) -> CoarseCohorts:
    cohorts = CoarseCohorts(coarse_subjects)
    for module in ("autoencoder", "diffusion", "vcm", "segmenter"):
        monkeypatch.setattr(f"vcm.train.{module}.simulated_cohort", cohorts)
    monkeypatch.setattr("vcm.train.vcm.HELD_OUT", 4)  # all of them do as well, but take minutes
    return cohorts


@pytest.fixture
def tiny_stages(cohorts, monkeypatch) -> CoarseCohorts:
    """The stages of the embedded model, with the tiny model's configuration in its place."""
    config = build_tiny_config(GRID)
    monkeypatch.setattr(stages, "build_mini_config", lambda: config)
    monkeypatch.setattr("vcm.train.autoencoder.AUTOENCODER", config.backbone.autoencoder)
    small = stages.SegmenterRecipe(config=SegmenterConfig(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)))
    monkeypatch.setattr(stages, "MINI", replace(stages.MINI, segmenter=small))
    return cohorts


def test_no_gradient_of_a_vcm_reaches_the_backbone(cohorts, tmp_path):
    backbone = build_tiny_model(GRID).backbone
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    recipe = VCMRecipe(subjects=2, loop=replace(LOOP, steps=3))
    adapter = train_vcm(tmp_path, backbone, build_tiny_config(GRID).adapter, recipe=recipe)
    for name, tensor in backbone.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, msg=name)
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    # The heads start at zero: they have learned.
    torch.manual_seed(LOOP.seed)
    untrained = type(adapter)(adapter.config).state_dict()
    assert sum(not torch.equal(tensor, untrained[name]) for name, tensor in adapter.state_dict().items()) > 10


def channel_norm(config: AdapterConfig) -> AdapterConfig:
    """The VCM of the embedded model's form, which learns from crops."""
    return replace(config, velocity_schedule=build_tiny_config(GRID).backbone.schedule, norm="channel")


@pytest.mark.parametrize("crops", [False, True])
def test_the_first_step_of_a_vcm_starts_from_the_prior_itself(cohorts, tmp_path, crops):
    recipe = VCMRecipe(subjects=2, loop=replace(LOOP, steps=1), crop=4)
    config = build_tiny_config(GRID).adapter
    train_vcm(tmp_path, build_tiny_model(GRID).backbone, channel_norm(config) if crops else config, recipe=recipe)
    entry = read_log(tmp_path)[0]
    assert entry["inside"] == pytest.approx(entry["inside_prior"], rel=1e-4)
    assert entry["outside"] == pytest.approx(entry["outside_prior"], rel=1e-4)


def test_a_killed_vcm_training_resumes_to_the_same_weights(cohorts, tmp_path):
    config = build_tiny_config(GRID).adapter

    def train(folder: str, steps: int, resume: bool = False) -> nn.Module:
        # A loop of constant rate, so that three steps are the first three of six.
        loop = LoopConfig(steps=steps, learning_rate=1e-3, warmup_steps=1000, save_every=3)
        recipe = VCMRecipe(subjects=2, loop=loop)
        return train_vcm(tmp_path / folder, build_tiny_model(GRID).backbone, config, recipe=recipe, resume=resume)

    whole = train("whole", 6)
    train("killed", 3)
    assert_same_weights(train("killed", 6, resume=True), whole)


def test_the_prior_is_trained_on_whitened_latents_of_tumor_free_subjects_and_is_frozen_again(cohorts, tmp_path):
    model = build_tiny_model(GRID)
    recipe = stages.DiffusionRecipe(subjects=2, loop=replace(LOOP, steps=2))
    backbone = train_diffusion(tmp_path, model.config, model.backbone.autoencoder, recipe=recipe)
    assert cohorts.asked
    assert not any(with_tumor for _, with_tumor in cohorts.asked)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert_same_weights(backbone.autoencoder, model.backbone.autoencoder)
    paths = [next(tmp_path.glob(f"latents-training-2-{12 * '?'}{side}.pt")) for side in ("", "-mirrored")]
    latents = backbone.normalize(torch.cat([torch.load(path, weights_only=True) for path in paths]))
    torch.testing.assert_close(latents.mean(0), torch.zeros_like(latents[0]), atol=1e-4, rtol=0)
    assert float(latents.std(0).max()) <= 1.0001


def test_latents_are_those_of_the_encoder_as_it_is_now(tmp_path):
    autoencoder = build_tiny_model(GRID).backbone.autoencoder
    images = np.random.default_rng(0).random((2, *GRID.shape), dtype=np.float32)

    def made() -> torch.Tensor:
        return cached_pair(tmp_path / "latents", autoencoder, images, "cpu")

    first = made()
    with torch.no_grad():
        next(autoencoder.decoder.parameters()).add_(1.0)
    torch.testing.assert_close(made(), first, rtol=0, atol=0)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    with torch.no_grad():
        next(autoencoder.encoder.parameters()).add_(1.0)
    assert not torch.equal(made(), first)


def test_a_run_tells_how_long_it_took_though_it_was_stopped(tmp_path):
    assert read_seconds(tmp_path) == 0
    lines = [(20, 10.0), (40, 20.0), (60, 30.0), (40, 21.0)]  # stopped after 60, gone on with from 20
    text = "\n".join(json.dumps({"step": step, "seconds": seconds}) for step, seconds in lines)
    (tmp_path / "log.jsonl").write_text(f'{text}\n{{"step": 40, "validation": {{}}}}\n')
    assert read_seconds(tmp_path) == 21.0
    assert read_seconds(tmp_path, 20) == 10.0


def test_the_four_stages_make_a_model_that_generates(tiny_stages, tmp_path):
    folder = tmp_path / "model"
    for stage in ("autoencoder", "segmenter", "diffusion", "vcm"):
        assert stages.train(stage, folder, samples=2, steps=2) == folder
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    assert isinstance(pipeline.segmenter, Segmenter)
    assert pipeline.brain is not None
    assert 0.05 < pipeline.brain.mean() < 0.95
    tumor = np.zeros(GRID.shape, np.uint8)
    tumor[4:9, 8:14, 5:10] = simulate.EDEMA
    request = GenerationRequest({"tumor": Volume(tumor, GRID.affine)}, num_inference_steps=2)
    result = pipeline(request)
    assert np.isfinite(result.controlled.array).all()
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)

    with pytest.raises(FileExistsError, match="holds a run already"):
        stages.train("vcm", folder, samples=2, steps=2)
    before = (folder / "vcm.safetensors").read_bytes()
    stages.train("vcm", folder, samples=2, steps=4, resume=True)
    assert (folder / "vcm.safetensors").read_bytes() != before
    load_model(folder)  # its sums are those of the new weights
    (run,) = read_training(folder)["vcm"]
    assert run == {"from_weights": False, "steps": 4, "subjects": 2}


@pytest.mark.parametrize("stage", ["autoencoder", "segmenter", "diffusion", "vcm"])
def test_a_new_run_from_the_weights_of_an_old_one_starts_where_that_ended(tiny_stages, tmp_path, stage):
    for earlier in dict.fromkeys(("autoencoder", "diffusion", stage)):
        if earlier != stage or stage != "vcm":
            stages.train(earlier, tmp_path, samples=2, steps=2)
    if stage == "vcm":
        with pytest.raises(ValueError, match="no weights of the vcm"):
            stages.train(stage, tmp_path, samples=2, steps=1, from_weights=True)
        stages.train(stage, tmp_path, samples=2, steps=2)
    old = load_file(tmp_path / f"{stage}.safetensors")
    stages.train(stage, tmp_path, samples=2, steps=1, from_weights=True)
    new = load_file(tmp_path / f"{stage}.safetensors")
    changes = [float((new[name].float() - old[name].float()).abs().max()) for name in old if "latent_" not in name]
    assert 0 < max(changes) < 0.02  # one step of the warm-up away
    stages.train(stage, tmp_path, samples=2, steps=2, resume=True)
    runs = read_training(tmp_path)[stage]
    assert [(run["from_weights"], run["steps"]) for run in runs] == [(False, 2), (True, 2)]


def test_no_stage_sees_a_test_subject_and_the_segmenter_shares_none_with_the_others(tiny_stages, tmp_path):
    seen = {}
    for stage in ("autoencoder", "segmenter", "diffusion", "vcm"):
        tiny_stages.asked.clear()
        stages.train(stage, tmp_path, steps=1, samples=40)
        training = [set(seeds) for seeds, _ in tiny_stages.asked if seeds.start in simulate.TRAINING_SEEDS]
        seen[stage] = set.union(*training)
        assert all(seed < simulate.FIRST_TEST_SEED for seeds, _ in tiny_stages.asked for seed in seeds)
        assert len(seen[stage]) == 40
    assert not seen["segmenter"] & (seen["autoencoder"] | seen["diffusion"] | seen["vcm"])
    assert not seen["diffusion"] & seen["vcm"]


def test_a_vcm_of_another_folders_backbone_goes_with_a_copy_of_it(tiny_stages, tmp_path):
    model = build_tiny_model(GRID)
    save_model(tmp_path / "source", model.config, model.backbone, model.adapter)
    stages.train("vcm", tmp_path / "new", model=tmp_path / "source", samples=2, steps=2)
    new, source = load_model(tmp_path / "new"), load_model(tmp_path / "source")
    assert_same_weights(new.backbone, source.backbone)
    assert new.hashes["vcm.safetensors"] != source.hashes["vcm.safetensors"]


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("decoder", {}, "stage is 'decoder'; it must be one of autoencoder, diffusion, vcm, segmenter"),
        ("vcm", {"samples": 0}, "samples is 0; it must be at least 1"),
        ("vcm", {"steps": -1}, "steps is -1; it must be at least 1"),
        ("diffusion", {}, "no autoencoder yet: train that first"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(tmp_path, stage, options, message):
    with pytest.raises(ValueError, match=message):
        stages.train(stage, tmp_path, **options)


def test_a_vcm_without_any_backbone_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such model"):
        stages.train("vcm", tmp_path / "new", model=tmp_path / "nothing", samples=2, steps=1)
