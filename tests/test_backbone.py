"""The frozen prior: its latent space, its noise schedule, its two ways to predict."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import build_tiny_model, randomize

from vcm.model.backbone import Backbone, build_betas, build_coordinates
from vcm.model.config import ConfigError, ModelConfig, ScheduleConfig
from vcm.weights.checkpoint import LoadedModel


def some_inputs(batch_size: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    latent = torch.randn(batch_size, 4, 4, 6, 4, generator=generator)
    return latent, torch.tensor([999, 30])[:batch_size], torch.rand(batch_size, 1, 4, generator=generator)


def test_backbone_is_frozen_and_stays_in_evaluation_mode() -> None:
    backbone = build_tiny_model().backbone.train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


def test_its_networks_can_be_thawed_one_by_one() -> None:
    backbone = build_tiny_model().backbone
    backbone.diffusion.requires_grad_(True).train()
    latent, timesteps, context = some_inputs()
    backbone.predict_raw(latent, timesteps, context).square().mean().backward()
    assert backbone.diffusion.training
    assert all(parameter.grad is not None for parameter in backbone.diffusion.parameters())
    assert all(parameter.grad is None for parameter in backbone.autoencoder.parameters())


@torch.no_grad()
def test_encode_returns_the_whitened_mean(tiny_model: LoadedModel) -> None:
    image = torch.rand(2, 1, 16, 24, 16, generator=torch.Generator().manual_seed(6))
    mean, _ = tiny_model.backbone.autoencoder.encode(image)
    expected = (mean - tiny_model.backbone.latent_mean) / tiny_model.backbone.latent_std
    torch.testing.assert_close(tiny_model.backbone.encode(image), expected)


@torch.no_grad()
def test_decode_undoes_the_whitening(tiny_model: LoadedModel) -> None:
    latent, _, _ = some_inputs()
    means = latent * tiny_model.backbone.latent_std + tiny_model.backbone.latent_mean
    image = tiny_model.backbone.decode(latent)
    torch.testing.assert_close(image, tiny_model.backbone.autoencoder.decode(means))
    torch.testing.assert_close(tiny_model.backbone.normalize(means), latent)


def test_wrong_whitening_maps_are_refused(tiny_config: ModelConfig) -> None:
    backbone = build_tiny_model().backbone
    maps = torch.ones(tiny_config.latent_shape)
    with pytest.raises(ValueError, match="latent's shape"):
        backbone.set_whitening(maps[:, :2], maps[:, :2])
    with pytest.raises(ValueError, match="positive"):
        backbone.set_whitening(maps, maps * 0)
    with pytest.raises(ValueError, match="positive"):
        backbone.set_whitening(maps, maps * math.nan)


def test_backbone_without_whitening_takes_no_maps(reference: LoadedModel) -> None:
    maps = torch.ones(reference.config.latent_shape)
    with pytest.raises(ValueError, match="not whitened"):
        reference.backbone.set_whitening(maps, maps)


@torch.no_grad()
def test_v_prediction_is_turned_into_the_epsilon_that_it_means(tiny_model: LoadedModel) -> None:
    """With the v of a known clean latent and noise, the noise must come back."""
    clean, timesteps, context = some_inputs()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    backbone = build_tiny_model().backbone
    noised = backbone.add_noise(clean, noise, timesteps)
    v = backbone.training_target(clean, noise, timesteps)
    handle = backbone.diffusion.register_forward_hook(lambda *_: v)
    torch.testing.assert_close(backbone.predict_epsilon(noised, timesteps, context), noise, rtol=0, atol=1e-5)
    handle.remove()


def test_target_of_epsilon_prediction_is_the_noise(reference: LoadedModel, golden: dict[str, torch.Tensor]) -> None:
    target = reference.backbone.training_target(golden["image_z_mu"], golden["noise"], torch.tensor([3]))
    assert target is golden["noise"]


def test_noised_latent_mixes_signal_and_noise_by_the_schedule(tiny_model: LoadedModel) -> None:
    clean, timesteps, _ = some_inputs()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(8))
    noised = tiny_model.backbone.add_noise(clean, noise, timesteps)
    for i, t in enumerate(timesteps.tolist()):
        alpha = math.prod(1 - beta for beta in build_betas(ScheduleConfig())[: t + 1].double().tolist())
        expected = math.sqrt(alpha) * clean[i] + math.sqrt(1 - alpha) * noise[i]
        torch.testing.assert_close(noised[i], expected, rtol=0, atol=1e-5)


def test_linear_schedule_is_linear_in_the_variance() -> None:
    betas = build_betas(ScheduleConfig(beta_schedule="linear", num_train_timesteps=5))
    torch.testing.assert_close(betas.diff(), torch.full((4,), (0.0205 - 0.0015) / 4))


def test_coordinates_run_from_minus_one_to_one_along_x_then_y_then_z() -> None:
    coordinates = build_coordinates((3, 4, 5))
    assert coordinates.shape == (3, 3, 4, 5)
    assert coordinates[0, :, 0, 0].tolist() == [-1, 0, 1]
    assert coordinates[1, 0, [0, -1], 0].tolist() == [-1, 1]
    assert coordinates[2, 1, 1, [0, 2, 4]].tolist() == [-1, 0, 1]
    assert bool((coordinates[0] == coordinates[0, :, :1, :1]).all())


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other(tiny_model: LoadedModel) -> None:
    latent, timesteps, context = some_inputs()
    together = tiny_model.backbone.predict_epsilon(latent, timesteps, context)
    for i in range(2):
        alone = tiny_model.backbone.predict_epsilon(latent[i : i + 1], timesteps[i : i + 1], context[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("as_channels", "as_context"), [(True, True), (True, False), (False, True)])
@torch.no_grad()
def test_covariates_matter_in_each_way_that_they_go_in(
    tiny_config: ModelConfig, as_channels: bool, as_context: bool
) -> None:
    arguments = tiny_config.backbone.diffusion | {"in_channels": 4 + 4 * as_channels + 3}
    if not as_context:
        arguments |= {"with_conditioning": False, "cross_attention_dim": None}
    config = replace(
        tiny_config.backbone,
        diffusion=arguments,
        covariates_as_channels=as_channels,
        covariates_as_context=as_context,
    )
    backbone = Backbone(config, tiny_config.latent_shape)
    randomize(backbone.diffusion, 1)
    latent, timesteps, context = some_inputs()
    other = context.clone()
    other[:, 0, 2] += 0.5
    difference = backbone.predict_epsilon(latent, timesteps, context) - backbone.predict_epsilon(
        latent, timesteps, other
    )
    assert float(difference.abs().max()) > 1e-3


def test_arguments_that_monai_does_not_know_are_a_configuration_error(tiny_config: ModelConfig) -> None:
    config = replace(tiny_config.backbone, diffusion=tiny_config.backbone.diffusion | {"num_chanels": 3})
    with pytest.raises(ConfigError, match="Denoiser cannot be built"):
        Backbone(config, tiny_config.latent_shape)
