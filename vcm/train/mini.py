"""The embedded model's configuration: small enough for two CPU cores, in BrainLDM's latent shape."""

from __future__ import annotations

from typing import Any

from vcm.data import simulate
from vcm.modalities.names import ANATOMY, FLAIR, LOWRES, PARTIAL, T2, TUMOR
from vcm.model.config import (
    NUM_COORDINATES,
    NUM_COVARIATES,
    AdapterConfig,
    BackboneConfig,
    ConditionEncoderConfig,
    CovariateConfig,
    Grid,
    ModelConfig,
    ScheduleConfig,
)

LATENT_CHANNELS = 16
LATENT_GRID = (20, 28, 20)
POSITION_CHANNELS = 16
FEATURE_CHANNELS = 32
ENCODER_CHANNELS = 64
MODALITIES = {TUMOR: 3, ANATOMY: 4, PARTIAL: 2, LOWRES: 1, T2: 1, FLAIR: 1}
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
    "num_res_blocks": [2, 2, 2],
    "attention_levels": [False, False, True],
    "norm_num_groups": 8,
    "num_head_channels": [0, 0, 44],
    "with_conditioning": True,
    "cross_attention_dim": NUM_COVARIATES,
}

VCM_WIDTHS = [32, 64, 96]
# Half of the time of a backbone step: most of it is spent at full latent resolution, where one block is enough.
VCM_UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2 * LATENT_CHANNELS + FEATURE_CHANNELS,
    "out_channels": VCM_WIDTHS[0],
    "channels": VCM_WIDTHS,
    "num_res_blocks": [0, 2, 2],
    "attention_levels": [False, False, False],
    "norm_num_groups": 8,
    "num_head_channels": [0, 0, VCM_WIDTHS[2]],
}

CONDITION_ENCODER = ConditionEncoderConfig(
    channels=(ENCODER_CHANNELS,),
    num_res_blocks=(2,),
    downsample=(False,),
    norm_num_groups=8,
    patch_size=4,
)

# The v prediction keeps an error of the network as small in the clean estimate at high noise as at low noise, where an
# epsilon prediction's is multiplied by 80.
SCHEDULE = ScheduleConfig(prediction_type="v_prediction")


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
            head_channels=VCM_WIDTHS[0],
            velocity_schedule=SCHEDULE,
            fusion_blocks=2,
            feature_channels=FEATURE_CHANNELS,
            norm="channel",
        ),
        covariates=CovariateConfig(
            age_years=simulate.AGE_RANGE_YEARS,
            ventricular_ml=simulate.VENTRICULAR_ML_RANGE,
            brain_ml=simulate.BRAIN_ML_RANGE,
        ),
    )
