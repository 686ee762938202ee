"""Drafts: what they say, how far a step trusts them, and that a VCM that has just gained one is what it was."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import (
    ALL_CHANNELS,
    DRAFT,
    TINY_GRID,
    all_conditions,
    build_tiny_config,
    build_tiny_model,
    drafting,
    randomize,
)

from vcm.model.backbone import Backbone
from vcm.model.config import AdapterConfig, ConfigError
from vcm.model.draft import LOG_VARIANCE_RANGE
from vcm.model.vcm import VCM, modulate
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel


@pytest.fixture
def backbone() -> Backbone:
    return build_tiny_model().backbone


def build_drafting_vcm(backbone: Backbone) -> VCM:
    vcm = VCM(drafting(build_tiny_config().adapter))
    vcm.look_through(backbone)
    return vcm.eval()


def test_a_new_vcm_with_a_draft_is_one_without_and_learns_whom_to_trust(backbone):
    config = drafting(build_tiny_config(channels=ALL_CHANNELS).adapter)
    plain, drafted = VCM(replace(config, draft=None)), VCM(config)
    randomize(plain, 0)
    missing, unknown = drafted.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown
    assert {name.split(".")[0] for name in missing} == {"draft"}
    drafted.look_through(backbone)
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    timesteps = torch.tensor([600])
    scale, shift = drafted(latent, epsilon, drafted.encode_condition(all_conditions()), timesteps)
    before = plain(latent, epsilon, plain.encode_condition(all_conditions()), timesteps)
    torch.testing.assert_close((scale, shift), before)
    (scale.square() + (shift - 1).square()).mean().backward()
    assert drafted.draft is not None
    assert drafted.draft.trust.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_full_trust_is_the_draft_alone_and_none_the_prior(backbone, timestep):
    vcm = build_drafting_vcm(backbone)
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    timesteps = torch.tensor([timestep])
    alpha = backbone.alphas_cumprod[timestep]
    vcm.draft.predict.bias.data[:4] = 0.7
    vcm.draft.predict.bias.data[4:] = -20.0  # as sure as can be
    given = {"tumor": all_conditions()["tumor"]}
    controlled = modulate(epsilon, *vcm(latent, epsilon, vcm.encode_condition(given), timesteps))
    torch.testing.assert_close(controlled, epsilon)
    torch.nn.init.ones_(vcm.draft.trust.bias)
    controlled = modulate(epsilon, *vcm(latent, epsilon, vcm.encode_condition(given), timesteps))
    variance = DRAFT.temperature * torch.tensor(LOG_VARIANCE_RANGE[0]).exp()
    # Of two normal estimates, z_t / sqrt(a) with variance (1 - a) / a and 0.7, the mean by their precisions.
    precisions = torch.stack([alpha / (1 - alpha), 1 / variance])
    clean = (precisions[0] * latent / alpha.sqrt() + precisions[1] * 0.7) / precisions.sum()
    found = backbone.remove_noise(latent, controlled, timesteps)
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=2e-3 / float(alpha.sqrt()))


def test_trust_is_learned_only_where_noise_hides_the_truth(backbone):
    vcm = build_drafting_vcm(backbone).train()
    given = {"tumor": all_conditions()["tumor"]}
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    for timestep, learns in ((900, True), (100, False)):
        vcm.zero_grad()
        scale, shift = vcm(latent, epsilon, vcm.encode_condition(given), torch.tensor([timestep]))
        (modulate(epsilon, scale, shift) - latent).square().mean().backward()
        gradient = vcm.draft.trust.bias.grad
        assert (gradient is not None and bool(gradient.any())) == learns


def test_a_sample_is_drawn_colder_than_what_is_learned(backbone):
    vcm = build_drafting_vcm(backbone)
    torch.nn.init.ones_(vcm.draft.trust.bias)
    given = {"tumor": all_conditions()["tumor"]}
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    timesteps = torch.tensor([200])
    features = vcm.encode_condition(given)
    signal = backbone.alphas_cumprod[200].sqrt()
    draft = vcm.read_draft(features)
    assert draft is not None
    for mode, temperature in ((True, 1.0), (False, DRAFT.temperature)):
        vcm.train(mode)
        found = modulate(epsilon, *vcm(latent, epsilon, features, timesteps))
        wanted = draft.estimate_epsilon(latent, signal, (1 - signal**2).sqrt(), temperature)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("learned", "acted_on"), [(0.2, 0.2 * DRAFT.trust_factor), (0.9, 1.0)])
def test_a_sample_trusts_a_draft_more_than_a_step_of_training_but_never_more_than_wholly(backbone, learned, acted_on):
    vcm = build_drafting_vcm(backbone)
    torch.nn.init.constant_(vcm.draft.trust.bias, learned)
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    timesteps = torch.tensor([700])
    features = vcm.encode_condition({"tumor": all_conditions()["tumor"]})
    signal = backbone.alphas_cumprod[700].sqrt()
    draft = vcm.read_draft(features)
    assert draft is not None
    for mode, trust, temperature in ((True, learned, 1.0), (False, acted_on, DRAFT.temperature)):
        vcm.train(mode)
        drafted = draft.estimate_epsilon(latent, signal, (1 - signal**2).sqrt(), temperature)
        found = modulate(epsilon, *vcm(latent, epsilon, features, timesteps))
        torch.testing.assert_close(found, torch.lerp(epsilon, drafted, trust), rtol=1e-4, atol=1e-4)


def test_the_backbone_is_no_part_of_it(backbone):
    vcm = build_drafting_vcm(backbone)
    assert not any("autoencoder" in name or "backbone" in name for name in vcm.state_dict())
    assert copy.deepcopy(vcm).sketcher is vcm.sketcher
    assert len(list(vcm.parameters())) == len(list(VCM(vcm.config).parameters()))


def test_without_a_backbone_it_says_what_is_missing():
    vcm = VCM(drafting(build_tiny_config().adapter))
    with pytest.raises(RuntimeError, match="look_through"):
        vcm.encode_condition({"tumor": torch.zeros(1, 3, *TINY_GRID.shape)})
    with pytest.raises(ValueError, match="At least one condition"):
        vcm.encode_condition({})


def test_a_run_looks_once_at_each_view():
    model = build_tiny_model(channels=ALL_CHANNELS)
    config = replace(model.config, adapter=drafting(model.config.adapter))
    vcm = VCM(config.adapter)
    randomize(vcm, 0)
    pipeline = Pipeline(LoadedModel(config, model.backbone, vcm.eval(), hashes={}))
    seen = []
    model.backbone.autoencoder.encode = lambda image: (
        seen.append(len(image))
        or (
            torch.zeros(len(image), *config.latent_shape),
            torch.zeros(len(image), *config.latent_shape),
        )
    )
    maps = {name: given[0].argmax(0).numpy().astype("uint8") for name, given in all_conditions().items()}
    conditions = {name: Volume(maps[name], pipeline.grid.affine) for name in ("tumor", "anatomy")}
    scan = Volume(all_conditions()["t2"][0, 0].numpy(), pipeline.grid.affine)
    pipeline(GenerationRequest({**conditions, "t2": scan}, num_inference_steps=3))
    assert seen == [1, 1]


def test_configurations_from_before_are_read_and_written_as_they_were():
    config = build_tiny_config().adapter
    assert "draft" not in config.to_dict()
    assert AdapterConfig.from_json(config.to_json()) == config
    drafted = drafting(config)
    assert AdapterConfig.from_json(drafted.to_json()) == drafted


@pytest.mark.parametrize(
    "change",
    [
        {"intensities": {"tumor": (0.1, 0.2)}},
        {"intensities": {"tumor": (0.1, 0.2, 1.5)}},
        {"channels": 6},
        {"temperature": 0.0},
        {"trust_factor": 0.5},
        {"num_res_blocks": -1},
    ],
)
def test_drafts_that_cannot_be_are_refused(change):
    with pytest.raises(ConfigError, match="draft"):
        replace(build_tiny_config().adapter, draft=replace(DRAFT, **change))


def test_a_draft_needs_a_velocity_schedule():
    with pytest.raises(ConfigError, match="draft needs a velocity_schedule"):
        replace(build_tiny_config().adapter, draft=DRAFT, velocity_schedule=None)
