"""Small random networks in the layout of the published files: the bundle and the released VCM, in a few kilobytes."""

import io
from dataclasses import replace
from typing import Any

import torch
from tiny import randomize
from torch import Tensor, nn

from vcm.model.backbone import Backbone
from vcm.model.config import ConditionEncoderConfig, Grid, ModelConfig
from vcm.model.vcm import VCM
from vcm.weights import legacy
from vcm.weights.checkpoint import LoadedModel
from vcm.weights.presets import BRAINLDM_AFFINE, brainldm_config

SHAPE = (32, 64, 32)


def build_small_config(num_labels: int = 8, shape: tuple[int, int, int] = SHAPE) -> ModelConfig:
    """The published configuration with narrow networks and a small grid, and every switch as published."""
    published = brainldm_config(num_labels)
    autoencoder = published.backbone.autoencoder | {"channels": [4, 8, 8, 8], "num_res_blocks": 1, "norm_num_groups": 4}
    narrow: dict[str, Any] = {"channels": [8, 8, 16], "num_res_blocks": 1, "norm_num_groups": 4}
    diffusion = published.backbone.diffusion | narrow | {"num_head_channels": [0, 8, 16]}
    unet = published.adapter.unet | narrow | {"in_channels": 14, "out_channels": 8, "num_head_channels": [0, 0, 16]}
    encoder = ConditionEncoderConfig(
        channels=(4, 8, 8), num_res_blocks=(1, 1, 1), downsample=(True, True, True), norm_num_groups=4
    )
    return replace(
        published,
        grid=Grid(shape, BRAINLDM_AFFINE),
        backbone=replace(published.backbone, autoencoder=autoencoder, diffusion=diffusion),
        adapter=replace(published.adapter, unet=unet, condition_encoder=encoder, head_channels=8),
    )


def build_small_model(config: ModelConfig) -> LoadedModel:
    """A model of such a configuration with random weights."""
    backbone, adapter = Backbone(config.backbone, config.latent_shape), VCM(config.adapter)
    for seed, module in enumerate((backbone.autoencoder, backbone.diffusion, adapter)):
        randomize(module, seed)
    return LoadedModel(config, backbone, adapter.eval(), hashes={})


def published_files(model: LoadedModel) -> dict[str, bytes]:
    """The model's networks as the files autoencoder.pt, model.pt and vcm.pt, under their old names."""
    return {
        "autoencoder.pt": _pickle(model.backbone.autoencoder, "", legacy.published_network_name),
        "model.pt": _pickle(model.backbone.diffusion, "", legacy.published_network_name),
        "vcm.pt": _pickle(model.adapter, "module.", legacy.published_vcm_name),
    }


def _pickle(module: nn.Module, prefix: str, rename: Any) -> bytes:
    state: dict[str, Tensor] = {f"{prefix}{rename(name)}": tensor for name, tensor in module.state_dict().items()}
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()
