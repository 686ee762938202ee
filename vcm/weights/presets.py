"""Configurations of published models, from facts that their authors state."""

from __future__ import annotations

import numpy as np

from vcm.model.config import (
    AdapterConfig,
    BackboneConfig,
    ConditionEncoderConfig,
    CovariateConfig,
    Grid,
    ModelConfig,
    ScheduleConfig,
)
from vcm.weights.legacy import RELEASED_MODALITY

BRAINLDM_AFFINE = np.array([[-1.0, 0, 0, 79], [0, 1, 0, -130], [0, 0, 1, -70], [0, 0, 0, 1]])
"""Voxels of 1 mm stored LAS, as the label map that goes with the released VCM; no origin is published with them."""


def brainldm_config(num_labels: int = 8) -> ModelConfig:
    """Return the configuration of BrainLDM with a VCM as released, for a label map of `num_labels` labels.

    The backbone is MONAI's bundle `brain_image_synthesis_latent_diffusion_model` (Pinaya et al. 2022), the VCM that of
    Ahn et al. (WACV 2025).
    """
    return ModelConfig(
        name="brainldm",
        grid=Grid((160, 224, 160), BRAINLDM_AFFINE),
        backbone=BackboneConfig(
            autoencoder={
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": 1,
                "latent_channels": 3,
                "channels": [64, 128, 128, 128],
                "num_res_blocks": 2,
                "norm_num_groups": 32,
                "norm_eps": 1e-6,
                "attention_levels": [False, False, False, False],
                "with_encoder_nonlocal_attn": False,
                "with_decoder_nonlocal_attn": False,
            },
            diffusion={
                "spatial_dims": 3,
                "in_channels": 7,
                "out_channels": 3,
                "channels": [256, 512, 768],
                "num_res_blocks": 2,
                "attention_levels": [False, True, True],
                "norm_num_groups": 32,
                "norm_eps": 1e-6,
                "resblock_updown": True,
                "num_head_channels": [0, 512, 768],
                "with_conditioning": True,
                "transformer_num_layers": 1,
                "cross_attention_dim": 4,
                "upcast_attention": True,
            },
            schedule=ScheduleConfig(),
            latent_scale_factor=0.8962649106979370,
        ),
        adapter=AdapterConfig(
            condition_channels={RELEASED_MODALITY: num_labels},
            condition_encoder=ConditionEncoderConfig(
                channels=(16, 32, 48),
                num_res_blocks=(2, 2, 2),
                downsample=(True, True, True),
                norm_num_groups=16,
            ),
            unet={
                "spatial_dims": 3,
                "in_channels": 54,
                "out_channels": 64,
                "channels": [64, 128, 256],
                "num_res_blocks": 2,
                "attention_levels": [False, False, True],
                "norm_num_groups": 32,
                "norm_eps": 1e-6,
                "resblock_updown": True,
                "num_head_channels": [0, 0, 256],
                "transformer_num_layers": 1,
                "upcast_attention": True,
                # The published code never applied the output projection of its self-attention.
                "include_fc": False,
            },
            head_channels=128,
            normalize_heads=True,
        ),
        covariates=CovariateConfig(age_years=(44.0, 82.0)),
    )
