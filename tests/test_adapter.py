"""The VCM: what it starts as, what it learns, which conditions it joins and which it refuses."""

from dataclasses import replace

import pytest
import torch
from tiny import build_tiny_model, randomize
from torch import Tensor, nn

from vcm.model.condition_encoder import ConditionEncoder, draw_modality_keep
from vcm.model.config import AdapterConfig, ConditionEncoderConfig, ModelConfig
from vcm.model.vcm import VCM, modulate
from vcm.weights.checkpoint import LoadedModel


def some_step(batch_size: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    latent, epsilon = torch.randn(2, batch_size, 4, 4, 6, 4, generator=generator)
    return latent, epsilon, torch.tensor([700, 20])[:batch_size]


def single_modality(config: AdapterConfig) -> AdapterConfig:
    return replace(config, condition_channels={"tumor": 3})


def train_a_step(vcm: VCM, optimizer: torch.optim.Optimizer, conditions: dict[str, Tensor]) -> None:
    latent, epsilon, timesteps = some_step()
    scale, shift = vcm(latent, epsilon, vcm.encode_condition(conditions), timesteps)
    optimizer.zero_grad()
    (modulate(epsilon, scale, shift) - latent).square().mean().backward()
    optimizer.step()


def has_changed(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def test_new_vcm_is_exactly_the_identity(tiny_config: ModelConfig, tiny_conditions: dict[str, Tensor]) -> None:
    vcm = VCM(tiny_config.adapter)
    latent, epsilon, timesteps = some_step()
    scale, shift = vcm(latent, epsilon, vcm.encode_condition(tiny_conditions), timesteps)
    assert not scale.any()
    assert not shift.any()
    assert torch.equal(modulate(epsilon, scale, shift), epsilon)


def test_heads_learn_in_the_first_step_and_the_condition_encoders_in_the_second(
    tiny_config: ModelConfig, tiny_conditions: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    vcm = VCM(tiny_config.adapter)
    heads, encoders = snapshot(vcm.heads), {n: snapshot(e) for n, e in vcm.condition_encoders.items()}
    optimizer = torch.optim.Adam(vcm.parameters(), lr=1e-3)

    train_a_step(vcm, optimizer, tiny_conditions)
    assert has_changed(vcm.heads, heads)
    assert not any(has_changed(e, encoders[n]) for n, e in vcm.condition_encoders.items())

    train_a_step(vcm, optimizer, tiny_conditions)
    assert all(has_changed(e, encoders[n]) for n, e in vcm.condition_encoders.items())


def test_no_gradient_reaches_the_backbone(tiny_conditions: dict[str, Tensor]) -> None:
    model = build_tiny_model()
    latent, _, timesteps = some_step()
    context = torch.full((2, 1, 4), 0.5)
    epsilon = model.backbone.predict_epsilon(latent, timesteps, context)
    features = model.adapter.encode_condition(tiny_conditions)
    scale, shift = model.adapter(latent, epsilon, features, timesteps)
    modulate(epsilon, scale, shift).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.adapter.parameters())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@torch.no_grad()
def test_heads_with_instance_norm_have_zero_mean_and_unit_variance(
    reference: LoadedModel, golden: dict[str, Tensor]
) -> None:
    features, timesteps = golden["condition_features"], torch.tensor([500])
    scale, shift = reference.adapter(golden["noise"], golden["t500.epsilon"], features, timesteps)
    for head in (scale, shift):
        torch.testing.assert_close(head.mean(dim=(2, 3, 4)), torch.zeros(1, 3), rtol=0, atol=1e-4)
        torch.testing.assert_close(head.var(dim=(2, 3, 4)), torch.ones(1, 3), rtol=0, atol=0.1)


@torch.no_grad()
def test_features_lie_on_the_latent_grid_and_keep_the_place_of_the_condition(tiny_config: ModelConfig) -> None:
    """A mark in one corner of the volume changes the features there more than anywhere else."""
    encoder = ConditionEncoder(3, tiny_config.adapter.condition_encoder)
    randomize(encoder, 2)
    condition = torch.zeros(1, 3, 16, 24, 16)
    marked = condition.clone()
    marked[:, 0, 13:, 1:3, 6:8] = 1
    change = (encoder(marked) - encoder(condition)).abs().sum(dim=1)[0]
    assert change.shape == (4, 6, 4)
    assert torch.tensor(change.shape).tolist() == list(tiny_config.latent_shape[1:])
    assert divmod(int(change.argmax()), 6 * 4) == (3, 0 * 4 + 1)


@pytest.mark.parametrize("names", [("tumor",), ("anatomy",), ("tumor", "anatomy")])
@torch.no_grad()
def test_any_subset_of_the_conditions_can_be_encoded(
    tiny_model: LoadedModel, tiny_conditions: dict[str, Tensor], names: tuple[str, ...]
) -> None:
    features = tiny_model.adapter.encode_condition({name: tiny_conditions[name] for name in names})
    assert features.shape == (2, 8, 4, 6, 4)
    assert bool(features.isfinite().all())


@torch.no_grad()
def test_order_in_which_conditions_are_given_does_not_matter(
    tiny_model: LoadedModel, tiny_conditions: dict[str, Tensor]
) -> None:
    turned = dict(reversed(tiny_conditions.items()))
    assert list(turned) != list(tiny_conditions)
    assert torch.equal(
        tiny_model.adapter.encode_condition(turned), tiny_model.adapter.encode_condition(tiny_conditions)
    )


@pytest.mark.parametrize("aggregation", ["concat", "mean"])
@torch.no_grad()
def test_dropped_modality_is_as_good_as_absent(
    tiny_config: ModelConfig, tiny_conditions: dict[str, Tensor], aggregation: str
) -> None:
    vcm = VCM(AdapterConfig.from_dict(tiny_config.adapter.to_dict() | {"aggregation": aggregation}))
    randomize(vcm, 3)
    keep = {"tumor": torch.tensor([True, True]), "anatomy": torch.tensor([True, False])}
    features = vcm.encode_condition(tiny_conditions, keep)
    both = vcm.encode_condition(tiny_conditions)
    only_tumor = vcm.encode_condition({"tumor": tiny_conditions["tumor"]})
    torch.testing.assert_close(features[0], both[0])
    torch.testing.assert_close(features[1], only_tumor[1])
    assert not torch.allclose(both[1], only_tumor[1])


@torch.no_grad()
def test_empty_condition_differs_from_an_absent_one(
    tiny_model: LoadedModel, tiny_conditions: dict[str, Tensor]
) -> None:
    """An empty tumor map says that there is no lesion; no tumor map says nothing."""
    anatomy = {"anatomy": tiny_conditions["anatomy"]}
    empty = anatomy | {"tumor": torch.zeros_like(tiny_conditions["tumor"])}
    difference = tiny_model.adapter.encode_condition(empty) - tiny_model.adapter.encode_condition(anatomy)
    assert float(difference.abs().max()) > 1e-3


@torch.no_grad()
def test_mean_of_two_modalities_is_the_mean_of_their_features(
    tiny_config: ModelConfig, tiny_conditions: dict[str, Tensor]
) -> None:
    vcm = VCM(replace(tiny_config.adapter, aggregation="mean"))
    randomize(vcm, 4)
    expected = sum(vcm.condition_encoders[name](tensor) for name, tensor in tiny_conditions.items()) / 2
    torch.testing.assert_close(vcm.encode_condition(tiny_conditions), expected)


@torch.no_grad()
def test_velocity_schedule_makes_gamma_and_beta_of_changes_to_the_priors_clean_latent(
    tiny_model: LoadedModel, tiny_conditions: dict[str, Tensor]
) -> None:
    vcm = tiny_model.adapter
    latent, epsilon, timesteps = some_step()
    features = vcm.encode_condition(tiny_conditions)
    alphas = tiny_model.backbone.alphas_cumprod[timesteps].reshape(2, 1, 1, 1, 1)
    signal, noise_level = alphas.sqrt(), (1 - alphas).sqrt()
    velocity = (epsilon - noise_level * latent) / signal
    hidden = vcm.unet(torch.cat([latent, velocity, features], dim=1), timesteps=timesteps)
    scale, shift, gain = vcm.heads(hidden)
    clean = (latent - noise_level * epsilon) / signal
    changed = velocity + scale * clean + gain * latent + shift
    expected = signal * changed + noise_level * latent
    actual = modulate(epsilon, *vcm(latent, epsilon, features, timesteps))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_static_maps_reach_the_output_past_the_unet_and_leave_a_new_vcm_the_identity(
    tiny_config: ModelConfig, tiny_conditions: dict[str, Tensor]
) -> None:
    unet = {**tiny_config.adapter.unet, "in_channels": 4 + 4 + 3}
    config = replace(tiny_config.adapter, static_maps=True, fusion_blocks=1, feature_channels=3, unet=unet)
    vcm = VCM(config)
    latent, epsilon, timesteps = some_step()
    features = vcm.encode_condition(tiny_conditions)
    assert features.shape[1] == config.encoded_channels == 3 + 3 * 4
    with torch.no_grad():
        scale, shift = vcm(latent, epsilon, features, timesteps)
    assert not scale.any()
    assert not shift.any()
    assert vcm.static_maps is not None
    randomize(vcm.static_maps, 5)  # the heads are still silent: what comes, comes by the maps
    _, shift = vcm(latent, epsilon, vcm.encode_condition(tiny_conditions), timesteps)
    assert shift.abs().mean() > 0.01
    shift.square().sum().backward()
    gradient = vcm.condition_encoders["tumor"].conv_in.weight.grad
    assert gradient is not None
    assert gradient.any()


def test_single_modality_has_no_projection(tiny_config: ModelConfig, tiny_conditions: dict[str, Tensor]) -> None:
    vcm = VCM(single_modality(tiny_config.adapter))
    assert vcm.projection is None
    features = vcm.encode_condition({"tumor": tiny_conditions["tumor"]})
    assert torch.equal(features, vcm.condition_encoders["tumor"](tiny_conditions["tumor"]))


@torch.no_grad()
def test_labels_of_any_number_type_are_encoded_alike(
    tiny_model: LoadedModel, tiny_conditions: dict[str, Tensor]
) -> None:
    expected = tiny_model.adapter.encode_condition(tiny_conditions)
    for dtype in (torch.uint8, torch.bool, torch.int64, torch.float64):
        conditions = {name: tensor.to(dtype) for name, tensor in tiny_conditions.items()}
        assert torch.equal(tiny_model.adapter.encode_condition(conditions), expected)


def test_conditions_that_cannot_be_encoded_are_refused(tiny_model: LoadedModel) -> None:
    encode = tiny_model.adapter.encode_condition
    with pytest.raises(ValueError, match="At least one condition"):
        encode({})
    with pytest.raises(ValueError, match="no condition named t2: it takes tumor, anatomy"):
        encode({"t2": torch.zeros(1, 1, 16, 24, 16)})
    with pytest.raises(ValueError, match=r"tumor must have the shape \(B, 3, X, Y, Z\)"):
        encode({"tumor": torch.zeros(1, 4, 16, 24, 16)})
    with pytest.raises(ValueError, match="must have the shape"):
        encode({"tumor": torch.zeros(3, 16, 24, 16)})


def test_condition_encoder_may_have_no_residual_block_at_full_resolution() -> None:
    config = ConditionEncoderConfig(channels=(4, 8), num_res_blocks=(0, 1), downsample=(True, False), norm_num_groups=4)
    encoder = ConditionEncoder(2, config)
    assert encoder(torch.zeros(1, 2, 4, 6, 8)).shape == (1, 8, 2, 3, 4)


def test_a_condition_encoder_that_folds_patches_hears_every_voxel_where_it_lies() -> None:
    config = ConditionEncoderConfig(
        channels=(4, 8), num_res_blocks=(0, 1), downsample=(True, False), norm_num_groups=4, patch_size=2
    )
    assert config.downsampling_factor == 4
    encoder = ConditionEncoder(2, config)
    condition = torch.zeros(1, 2, 16, 16, 16, requires_grad=True)
    features = encoder(condition)
    assert features.shape == (1, 8, 4, 4, 4)
    features.square().sum().backward()
    assert (condition.grad != 0).all()  # type: ignore[union-attr]
    with torch.no_grad():
        bump = torch.zeros_like(condition)
        bump[0, 1, 1, 14, 2] = 1.0
        folded = encoder.conv_in.weight.new_zeros(1, 16, 8, 8, 8)
        folded[0, 8 + 4 * 1 + 2 * 0 + 0, 0, 7, 1] = 1.0  # channel 1, odd x, even y, even z
        seen: list[Tensor] = []
        encoder.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        encoder(bump)
        torch.testing.assert_close(seen[0], folded)


def test_modality_drop_keeps_at_least_one_modality_of_every_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    for probability in (0.0, 0.5, 1.0):
        keep = torch.stack(list(draw_modality_keep(("a", "b", "c"), 200, probability, generator).values()), dim=1)
        assert bool(keep.any(dim=1).all())
        assert float(keep.float().mean()) == pytest.approx({0.0: 1.0, 0.5: 0.5, 1.0: 1 / 3}[probability], abs=0.1)


def test_survivor_of_a_total_drop_is_every_modality_in_turn() -> None:
    keep = draw_modality_keep(("a", "b", "c"), 300, 1.0, torch.Generator().manual_seed(0))
    assert all(70 < int(kept.sum()) < 130 for kept in keep.values())
