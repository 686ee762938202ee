"""The layout of the published weights and configurations, and how it maps to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from vcm.model.config import (
    AdapterConfig,
    BackboneConfig,
    ConditionEncoderConfig,
    ConfigError,
    Grid,
    ModelConfig,
    ScheduleConfig,
)

RELEASED_MODALITY = "semantic"
"""The one condition of a released VCM: a label map, one-hot without its background."""

_OUR_HEADS = {"shared": "mlp_shared", "scale": "mlp_gamma", "shift": "mlp_beta"}


def published_config(values: Mapping[str, Any], name: str, head_channels: int) -> ModelConfig:
    """Return our configuration of a published model.

    Args:
        values: parsed JSON with `autoencoder`, `diffusion`, `condition_encoder` and `vcm_unet` (keyword arguments in
            the names of MONAI Generative), `volume_shape` and `latent_scale_factor`; an `affine` is optional. What
            else it holds describes how it was made, and is left alone.
        name: the model's name.
        head_channels: width of the VCM's heads, which such a file does not say.

    Raises:
        ConfigError: something is missing or does not fit together.
    """
    try:
        shape = tuple(int(n) for n in values["volume_shape"])
        affine = np.array(values["affine"]) if "affine" in values else centered_affine(shape)
        encoder = values["condition_encoder"]
        autoencoder, diffusion = (modern_arguments(values[part]) for part in ("autoencoder", "diffusion"))
        return ModelConfig(
            name=name,
            grid=Grid((shape[0], shape[1], shape[2]), affine),
            backbone=BackboneConfig(
                autoencoder=autoencoder,
                diffusion=diffusion,
                schedule=ScheduleConfig(),
                latent_scale_factor=float(values["latent_scale_factor"]),
                covariates_as_channels=diffusion["in_channels"] != autoencoder["latent_channels"],
                covariates_as_context=bool(diffusion.get("with_conditioning", False)),
            ),
            adapter=AdapterConfig(
                condition_channels={RELEASED_MODALITY: int(encoder["in_channels"])},
                condition_encoder=_condition_encoder_config(encoder),
                unet=modern_arguments(values["vcm_unet"]),
                head_channels=head_channels,
                normalize_heads=True,
            ),
        )
    except ConfigError:
        raise
    except KeyError as error:
        raise ConfigError(f"The published configuration lacks {error.args[0]}.") from error
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError("The published configuration does not hold what it should.") from error


def modern_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's keyword arguments in MONAI's names instead of MONAI Generative's.

    MONAI Generative's self-attention never applied its output projection, though its state dict holds one; with
    `include_fc=False` MONAI computes the same. Its cross-attention did, so a U-Net with context keeps it.
    """
    modern = dict(arguments)
    modern["channels"] = modern.pop("num_channels", modern.get("channels"))
    modern.setdefault("include_fc", bool(modern.get("with_conditioning", False)))
    return modern


def centered_affine(shape: tuple[int, ...]) -> np.ndarray:
    """Return the affine (4, 4) of voxels of 1 mm, axes toward RAS+, with the world's origin in the grid's middle."""
    affine = np.eye(4)
    affine[:3, 3] = [-(n - 1) / 2 for n in shape]
    return affine


def published_head_channels(weights: Mapping[str, Tensor]) -> int | None:
    """Return the width of a released VCM's heads, or None if these weights have none."""
    shared = weights.get("mlp_shared.conv.weight")
    return None if shared is None else int(shared.shape[0])


def strip_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the `module.` that data-parallel training puts before every name."""
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def rename_network(weights: Mapping[str, Tensor], ours: list[str]) -> dict[str, Tensor]:
    """Return the weights of an AutoencoderKL or a DiffusionModelUNet under the names `ours` that MONAI has now.

    Names that are new already are left as they are, and what has no place in the network is passed on, so that strict
    loading can name it. Only the output projections that self-attention never applied are left out.
    """
    return _rename(weights, ours, published_network_name)


def rename_vcm(weights: Mapping[str, Tensor], ours: list[str]) -> dict[str, Tensor]:
    """Return the weights of a released VCM under our names `ours`, as `rename_network` does."""
    return _rename(strip_prefix(weights), ours, published_vcm_name)


def published_network_name(name: str) -> str:
    """Return what MONAI Generative called the weight that MONAI calls `name`."""
    name = name.replace(".attn.out_proj.", ".proj_attn.")
    name = re.sub(r"\.attn\.(to_[qkv])\.", r".\1.", name)
    name = name.replace(".out_proj.", ".to_out.0.")
    return name.replace(".postconv.", ".conv.")


def published_vcm_name(name: str) -> str:
    """Return what the released VCM calls the weight that we call `name`."""
    part, _, rest = name.partition(".")
    if part == "unet":
        return published_network_name(f"time_unet.{rest}")
    if part == "heads":
        head, _, kind = rest.partition(".")
        return f"{_OUR_HEADS.get(head, head)}.conv.{kind}"
    if part == "condition_encoders":
        rest = rest.partition(".")[2]
        return "modality_encoder." + re.sub(r"(conv_in|conv1|conv2|skip_connection)\.", r"\1.conv.", rest)
    return name


def _rename(weights: Mapping[str, Tensor], ours: list[str], published: Callable[[str], str]) -> dict[str, Tensor]:
    left = dict(weights)
    renamed = {}
    for name in ours:
        source = name if name in left else published(name)
        if source in left:
            renamed[name] = left.pop(source)
    return renamed | {name: tensor for name, tensor in left.items() if ".proj_attn." not in name}


def _condition_encoder_config(arguments: Mapping[str, Any]) -> ConditionEncoderConfig:
    channels = tuple(int(c) for c in arguments["num_channels"])
    if any(arguments.get("attention_levels", ())) or not arguments.get("resblock_updown", False):
        raise ConfigError("Only condition encoders without attention and with residual downsampling can be read.")
    blocks = arguments["num_res_blocks"]
    return ConditionEncoderConfig(
        channels=channels,
        num_res_blocks=(blocks,) * len(channels) if isinstance(blocks, int) else tuple(int(n) for n in blocks),
        downsample=(True,) * len(channels),
        norm_num_groups=int(arguments["norm_num_groups"]),
        norm_eps=float(arguments.get("norm_eps", 1e-6)),
    )
