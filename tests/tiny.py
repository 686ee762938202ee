"""A tiny model like the embedded one in every switch, made of random weights in milliseconds; the golden numbers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vcm.model.backbone import Backbone
from vcm.model.config import (
    AdapterConfig,
    BackboneConfig,
    ConditionEncoderConfig,
    CovariateConfig,
    DraftConfig,
    Grid,
    ModelConfig,
    ScheduleConfig,
)
from vcm.model.vcm import VCM
from vcm.weights.checkpoint import LoadedModel

SCHEDULE = ScheduleConfig(prediction_type="v_prediction")

GOLDEN = Path(__file__).parent / "data" / "golden"
"""The published code's small random networks in its own file layout, and what they computed."""

TINY_GRID = Grid((16, 24, 16), np.array([[2.0, 0, 0, -15], [0, 2, 0, -23], [0, 0, 2, -15], [0, 0, 0, 1]]))


LABEL_CHANNELS = {"tumor": 3, "anatomy": 4}
INTENSITIES = {"tumor": (0.3, 0.6, 0.9), "anatomy": (0.1, 0.5, 0.8, 0.2)}
"""What the labels look like in a sketch."""

DRAFT = DraftConfig(INTENSITIES, channels=8, num_res_blocks=1, norm_num_groups=4, trust_factor=2.0)

ALL_CHANNELS = {**LABEL_CHANNELS, "partial": 2, "lowres": 1, "t2": 1, "flair": 1}


def build_tiny_config(grid: Grid = TINY_GRID, channels: Mapping[str, int] = LABEL_CHANNELS) -> ModelConfig:
    """A model like the embedded one in every switch, small enough that a step takes milliseconds."""
    return ModelConfig(
        name="tiny",
        grid=grid,
        backbone=BackboneConfig(
            autoencoder={
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": 1,
                "latent_channels": 4,
                "channels": [4, 8, 8],
                "num_res_blocks": 1,
                "norm_num_groups": 4,
                "attention_levels": [False, False, False],
                "with_encoder_nonlocal_attn": False,
                "with_decoder_nonlocal_attn": False,
            },
            diffusion={
                "spatial_dims": 3,
                "in_channels": 4 + 4 + 3,
                "out_channels": 4,
                "channels": [8, 16],
                "num_res_blocks": 1,
                "attention_levels": [False, True],
                "norm_num_groups": 4,
                "num_head_channels": [0, 8],
                "with_conditioning": True,
                "cross_attention_dim": 4,
            },
            schedule=SCHEDULE,
            whitening=True,
            coordinate_channels=True,
        ),
        adapter=AdapterConfig(
            condition_channels=dict(channels),
            condition_encoder=ConditionEncoderConfig(
                channels=(4, 8, 8), num_res_blocks=(0, 1, 1), downsample=(True, True, False), norm_num_groups=4
            ),
            unet={
                "spatial_dims": 3,
                "in_channels": 4 + 4 + 8,
                "out_channels": 8,
                "channels": [8, 16],
                "num_res_blocks": 1,
                "attention_levels": [False, False],
                "norm_num_groups": 4,
                "num_head_channels": [0, 8],
            },
            head_channels=8,
            velocity_schedule=SCHEDULE,
        ),
        covariates=CovariateConfig(ventricular_ml=(5.0, 60.0), brain_ml=(1000.0, 1600.0)),
    )


def drafting(config: AdapterConfig) -> AdapterConfig:
    """The same VCM, but one that makes a draft and has static maps."""
    return replace(config, draft=DRAFT, static_maps=True)


def all_conditions(count: int = 1) -> dict[str, torch.Tensor]:
    """Every condition of the tiny grid at once: a cube of a tumor in tissue, scans of noise, and a hole in one."""
    shape, generator = TINY_GRID.shape, torch.Generator().manual_seed(0)
    given = {name: torch.zeros(count, channels, *shape) for name, channels in ALL_CHANNELS.items()}
    given["tumor"][:, 1, 4:8, 4:8, 4:8] = 1
    given["anatomy"][:, 2, 2:12, 2:20, 2:12] = 1
    given["anatomy"][given["tumor"].any(dim=1, keepdim=True).expand_as(given["anatomy"])] = 0
    for name in ("lowres", "t2", "flair"):
        given[name] = torch.rand(count, 1, *shape, generator=generator)
    given["partial"][:, 0] = torch.rand(count, *shape, generator=generator)
    given["partial"][:, 1, 3:9, 3:9, 3:9] = 1
    given["partial"][:, 0][given["partial"][:, 1] == 1] = 0
    return given


def randomize(module: nn.Module, seed: int) -> None:
    """Give every parameter a random value, so that nothing is hidden behind a convolution that starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)


def build_tiny_model(grid: Grid = TINY_GRID, channels: Mapping[str, int] = LABEL_CHANNELS) -> LoadedModel:
    """A fresh tiny model with random weights, whitening maps included."""
    config = build_tiny_config(grid, channels)
    backbone = Backbone(config.backbone, config.latent_shape)
    adapter = VCM(config.adapter)
    for seed, module in enumerate((backbone.autoencoder, backbone.diffusion, adapter)):
        randomize(module, seed)
    generator = torch.Generator().manual_seed(3)
    backbone.set_whitening(
        torch.randn(config.latent_shape, generator=generator),
        0.5 + torch.rand(config.latent_shape, generator=generator),
    )
    return LoadedModel(config, backbone, adapter.eval(), hashes={})
