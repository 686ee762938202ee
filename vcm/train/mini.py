"""The embedded model's configuration: small enough for two CPU cores, in BrainLDM's latent shape."""

from __future__ import annotations

from typing import Any

from vcm.data import simulate
from vcm.model.config import (
    NUM_COORDINATES,
    NUM_COVARIATES,
    AdapterConfig,
    BackboneConfig,
    ConditionEncoderConfig,
    CovariateConfig,
    DraftConfig,
    Grid,
    ModelConfig,
    PainterConfig,
    ScheduleConfig,
)

LATENT_CHANNELS = 16
LATENT_GRID = (20, 28, 20)
POSITION_CHANNELS = 16
FEATURE_CHANNELS = 16
ENCODER_CHANNELS = 64
MODALITIES = {"tumor": 3, "anatomy": 4, "partial": 2, "lowres": 1, "t2": 1, "flair": 1}
"""Conditions of the embedded VCM and their channels, in registry order."""

AUTOENCODER: dict[str, Any] = {
    "spatial_dims": 3,
    "patch_size": 2,
    "linear_code": True,
    "norm": "channel",
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": LATENT_CHANNELS,
    "channels": [48, 96],
    "num_res_blocks": [1, 1],
    "norm_num_groups": 8,
    "attention_levels": [False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
}

DIFFUSION: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": LATENT_CHANNELS + NUM_COVARIATES + NUM_COORDINATES,
    "position_map": [POSITION_CHANNELS, *LATENT_GRID],
    "out_channels": LATENT_CHANNELS,
    "channels": [32, 72, 88],
    "num_res_blocks": [3, 2, 2],
    "attention_levels": [False, False, True],
    "norm_num_groups": 8,
    "num_head_channels": [0, 0, 44],
    "with_conditioning": True,
    "cross_attention_dim": NUM_COVARIATES,
}

# One residual block at latent resolution keeps the VCM near a seventh of the backbone's time a step.
VCM_UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2 * LATENT_CHANNELS + FEATURE_CHANNELS,
    "out_channels": 16,
    "channels": [16, 16, 48],
    "num_res_blocks": [0, 0, 1],
    "attention_levels": [False, False, False],
    "norm_num_groups": 8,
    "num_head_channels": [0, 0, 48],
}

CONDITION_ENCODER = ConditionEncoderConfig(
    channels=(ENCODER_CHANNELS,),
    num_res_blocks=(1,),
    downsample=(False,),
    norm_num_groups=8,
    patch_size=4,
)

# The v prediction keeps an error of the network as small in the clean estimate at high noise as at low noise, where an
# epsilon prediction's is multiplied by 80.
SCHEDULE = ScheduleConfig(prediction_type="v_prediction")


DRAFT = DraftConfig(
    intensities={"tumor": (0.34, 0.62, 0.83), "anatomy": (0.24, 0.48, 0.71, 0.26)},
    channels=64,
    num_res_blocks=4,
    trust_factor=3.0,
    painter=PainterConfig(channels=(16, 32, 64, 128)),
)
"""The intensities are the means of the labels in T1-weighted images of the cohort."""


def build_mini_config() -> ModelConfig:
    """Return the configuration that `checkpoints/mini` is trained with."""
    return ModelConfig(
        name="mini",
        grid=Grid(simulate.SHAPE, simulate.AFFINE),
        backbone=BackboneConfig(
            autoencoder=AUTOENCODER, diffusion=DIFFUSION, schedule=SCHEDULE, whitening=True, coordinate_channels=True
        ),
        adapter=AdapterConfig(
            condition_channels=MODALITIES,
            condition_encoder=CONDITION_ENCODER,
            unet=VCM_UNET,
            head_channels=16,
            velocity_schedule=SCHEDULE,
            fusion_blocks=2,
            feature_channels=FEATURE_CHANNELS,
            static_maps=True,
            draft=DRAFT,
        ),
        covariates=CovariateConfig(
            age_years=simulate.AGE_RANGE_YEARS,
            ventricular_ml=simulate.VENTRICULAR_ML_RANGE,
            brain_ml=simulate.BRAIN_ML_RANGE,
        ),
    )
