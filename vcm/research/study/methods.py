"""The ways to control a frozen backbone that the study compares, each called as the sampler calls a VCM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from monai.networks.nets import ControlNet
from torch import Tensor, nn
from torch.nn import functional

from vcm.model.backbone import Backbone
from vcm.model.condition_encoder import ConditionReader
from vcm.model.config import AdapterConfig, BackboneConfig
from vcm.model.denoiser import Denoiser
from vcm.model.vcm import VCM, modulate
from vcm.runtime.convolution import start_at_zero
from vcm.sampler.sampling import Adapter

ADAPTER_GAIN = 0.1
"""A T2I-Adapter's last convolutions start this much smaller: it has no zero convolutions, and what it adds to the
backbone's features from the first step on would drown them."""


class Method(nn.Module, ABC):
    """One way to control a backbone. It never holds the backbone: what it counts, averages and saves is its own.

    Features are what it makes of the conditions, once a run. The noise estimate is (B, C, x, y, z), as a backbone's.
    """

    encodes_every_step = False
    """Whether the method, as published, reads its conditions again at each step. Nothing but time depends on it."""

    @abstractmethod
    def encode(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the features (B, F, x, y, z) of conditions (B, C, X, Y, Z); see `VCM.encode_condition`."""

    @abstractmethod
    def estimate(
        self, backbone: Backbone, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the controlled noise estimate, and scale and shift where there are any, with their gradients."""

    def bind(self, backbone: Backbone, context: Tensor) -> Adapter:
        """Return what the sampler calls for a batch with this context (B, 1, 4)."""

        def replace_epsilon(
            latent: Tensor, epsilon: Tensor, features: Tensor, timesteps: Tensor, /
        ) -> tuple[Tensor, Tensor]:
            own, _ = self.estimate(backbone, latent, timesteps, context, features)
            return torch.full_like(own, -1.0), own

        return replace_epsilon


class VolumetricConditioning(Method):
    """A VCM, ours or as published."""

    def __init__(self, config: AdapterConfig, *, encodes_every_step: bool = False) -> None:
        super().__init__()
        self.vcm = VCM(config)
        self.encodes_every_step = encodes_every_step
        if config.normalize_heads:
            # Zero heads are ours. Their norm would divide what they say by next to nothing.
            for head in (self.vcm.heads.scale, self.vcm.heads.shift):
                head.reset_parameters()

    def encode(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """See `Method.encode`."""
        return self.vcm.encode_condition(conditions, keep)

    def estimate(
        self, backbone: Backbone, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """See `Method.estimate`; no gradient goes through the backbone."""
        with torch.no_grad():
            epsilon = backbone.predict_epsilon(latent, timesteps, context)
        eps_scale, eps_shift = self.vcm(latent, epsilon, features, timesteps)
        return modulate(epsilon, eps_scale, eps_shift), (eps_scale, eps_shift)

    def bind(self, backbone: Backbone, context: Tensor) -> Adapter:
        """See `Method.bind`: the sampler has asked the backbone already."""
        return self.vcm


class _Rival(Method):
    """What the rivals share: they read their conditions as our VCM does."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.reader = ConditionReader(
            config.condition_channels, config.condition_encoder, config.fusion_blocks, config.aggregation
        )

    def encode(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """See `Method.encode`."""
        return self.reader.read_conditions(conditions, keep)


class ControlNetMethod(_Rival):
    """MONAI's ControlNet (Zhang et al., ICCV 2023): a trainable copy of the encoder, joined by zero convolutions.

    Only the embedding of the condition is ours, so that all methods read the same features.
    """

    def __init__(self, config: AdapterConfig, backbone: Backbone) -> None:
        super().__init__(config)
        arguments = dict(backbone.config.diffusion)
        position = arguments.pop("position_map", None)
        del arguments["out_channels"]
        arguments["in_channels"] += position[0] if position else 0
        self.network = ControlNet(**arguments)
        embedding = nn.Conv3d(config.condition_encoder.out_channels, arguments["channels"][0], kernel_size=1)
        self.network.add_module("controlnet_cond_embedding", start_at_zero(embedding))
        _copy_encoder(backbone.diffusion, self.network)

    def estimate(
        self, backbone: Backbone, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """See `Method.estimate`."""
        inputs = backbone.diffusion.join_position(backbone.join_inputs(latent, context))
        down, middle = self.network(inputs, timesteps, features, context=context)
        return (
            backbone.predict_epsilon(
                latent,
                timesteps,
                context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ),
            None,
        )


class T2IAdapterMethod(_Rival):
    """A T2I-Adapter of the published shape (Mou et al., AAAI 2024): no time, two residual blocks a level.

    What a level makes is added to what the backbone's encoder makes there, on its way down and to the decoder.
    """

    def __init__(self, config: AdapterConfig, backbone: Backbone) -> None:
        super().__init__(config)
        widths = backbone.config.diffusion["channels"]
        sources = [config.condition_encoder.out_channels, *widths[:-1]]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.AvgPool3d(2) if index else nn.Identity(),
                nn.Conv3d(source, width, kernel_size=1),
                _AdapterBlock(width),
                _AdapterBlock(width),
            )
            for index, (source, width) in enumerate(zip(sources, widths, strict=True))
        )
        self.gains = nn.ParameterList(nn.Parameter(torch.tensor(ADAPTER_GAIN)) for _ in widths)

    def estimate(
        self, backbone: Backbone, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """See `Method.estimate`."""
        hidden = features
        with ExitStack() as hooks:
            for level, gain, block in zip(self.levels, self.gains, backbone.diffusion.down_blocks, strict=True):
                hidden = level(hidden)
                hooks.enter_context(_Hook(_last_part(block), hidden * gain))
            return backbone.predict_epsilon(latent, timesteps, context), None


class ConcatenationMethod(_Rival):
    """Conditional diffusion from scratch: a network like the backbone's, which reads the features beside its input.

    It has no pretrained weights, so it has to learn from these few subjects what a brain is.
    """

    def __init__(self, config: AdapterConfig, backbone: BackboneConfig, features_read: int = 16) -> None:
        super().__init__(config)
        arguments = dict(backbone.diffusion)
        arguments["in_channels"] += features_read
        self.narrow = nn.Conv3d(config.condition_encoder.out_channels, features_read, kernel_size=1)
        self.network = Denoiser(**arguments)

    def encode(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """See `Method.encode`."""
        read: Tensor = self.narrow(super().encode(conditions, keep))
        return read

    def estimate(
        self, backbone: Backbone, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """See `Method.estimate`; of the backbone only the form of its input and output is used."""
        inputs = torch.cat([backbone.join_inputs(latent, context), features], dim=1)
        output = self.network(inputs, timesteps=timesteps, context=context)
        return backbone.to_epsilon(output.float(), latent, timesteps), None


def published_form(config: AdapterConfig) -> AdapterConfig:
    """Return a VCM's configuration as the paper's: normed heads on z_t and epsilon, all features read, nothing more."""
    width = config.condition_encoder.out_channels
    return replace(
        config,
        unet={**config.unet, "in_channels": 2 * config.latent_channels + width},
        normalize_heads=True,
        velocity_schedule=None,
        fusion_blocks=0,
        feature_channels=None,
        static_maps=False,
    )


def widened(config: AdapterConfig, factor: float) -> AdapterConfig:
    """Return a VCM's configuration with the channels of its U-Net and heads multiplied."""
    channels = [round(width * factor) for width in config.unet["channels"]]
    heads = [round(width * factor) for width in config.unet["num_head_channels"]]
    unet = {**config.unet, "channels": channels, "num_head_channels": heads}
    return replace(
        config,
        unet={**unet, "out_channels": round(config.unet["out_channels"] * factor)},
        head_channels=round(config.head_channels * factor),
    )


def deepened(config: AdapterConfig) -> AdapterConfig:
    """Return a VCM's configuration with three residual blocks a condition encoder for each one."""
    encoder = config.condition_encoder
    blocks = tuple(3 * count for count in encoder.num_res_blocks)
    return replace(config, condition_encoder=replace(encoder, num_res_blocks=blocks))


def lightened(config: AdapterConfig, conditions: Sequence[str], encoder_channels: int) -> AdapterConfig:
    """Return a VCM's configuration for some of its conditions, with condition encoders that no method waits for.

    Args:
        encoder_channels: of the features, no more than there are; one fusion block follows.
    """
    encoder = config.condition_encoder
    width = min(encoder_channels, encoder.out_channels)
    channels = tuple(max(encoder.norm_num_groups, each * width // encoder.out_channels) for each in encoder.channels)
    read = min(config.read_channels, width)
    return replace(
        config,
        condition_channels={name: config.condition_channels[name] for name in conditions},
        condition_encoder=replace(encoder, channels=channels),
        unet={**config.unet, "in_channels": 2 * config.latent_channels + read},
        feature_channels=read,
        fusion_blocks=1,
        draft=None,
    )


BUILDERS: Mapping[str, Callable[[AdapterConfig, Backbone], Method]] = {
    "vcm": lambda config, backbone: VolumetricConditioning(config),
    "published": lambda config, backbone: VolumetricConditioning(published_form(config), encodes_every_step=True),
    "controlnet": ControlNetMethod,
    "t2i": T2IAdapterMethod,
    "concatenation": lambda config, backbone: ConcatenationMethod(config, backbone.config),
}
"""By the method's name."""

TITLES = {
    "vcm": "our VCM",
    "published": "VCM as published",
    "controlnet": "ControlNet",
    "t2i": "T2I-Adapter",
    "concatenation": "from scratch",
}


class _AdapterBlock(nn.Module):
    """The residual block of a T2I-Adapter: convolution, ReLU, convolution of one voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.outer = nn.Conv3d(channels, channels, kernel_size=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (B, channels, x, y, z)."""
        residual: Tensor = self.outer(functional.relu(self.inner(hidden)))
        return hidden + residual


class _Hook:
    """Adds a tensor to what a module returns, as long as the context lasts."""

    def __init__(self, module: nn.Module, added: Tensor) -> None:
        self._module = module
        self._added = added

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(lambda module, inputs, output: output + self._added)

    def __exit__(self, *error: Any) -> None:
        self._handle.remove()


def _last_part(block: nn.Module) -> nn.Module:
    """Return what makes the last features of a level of the backbone's encoder, before they are halved."""
    parts: Any = getattr(block, "attentions", None) or block.resnets
    last: nn.Module = parts[-1]
    return last


def _copy_encoder(source: Denoiser, target: ControlNet) -> None:
    """Start a ControlNet from the backbone's encoder: every weight that both have."""
    own = target.state_dict()
    shared = {name: tensor for name, tensor in source.state_dict().items() if name in own}
    missing = [name for name in own if name not in shared and not name.startswith("controlnet_")]
    if missing:
        raise ValueError(f"The backbone has no weight {missing[0]} for a ControlNet to start from.")
    target.load_state_dict({**own, **shared})
