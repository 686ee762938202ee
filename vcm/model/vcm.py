"""The Volumetric Conditioning Module: a U-Net at latent resolution behind the condition encoders, and two heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

from vcm.model.backbone import Backbone, build_betas, build_network
from vcm.model.channel_norm import use_channel_norms
from vcm.model.condition_encoder import ConditionReader
from vcm.model.config import AdapterConfig
from vcm.model.draft import TRUST_LEARNED_FROM, DraftMaps, DraftNetwork
from vcm.model.painter import PAINTED, Painter
from vcm.model.sketch import VIEWS, Sketcher
from vcm.model.static_maps import StaticMaps
from vcm.runtime.convolution import conv3d

OUTPUT_CONVOLUTION_STD = 0.06
"""MONAI starts its U-Net's last convolution at zero; below zero heads nothing but their bias would ever learn."""


class VCM(ConditionReader):
    """Predicts how to scale and shift a frozen prior's noise estimate (Ahn et al., WACV 2025).

    Conditions are encoded once, without time (`encode_condition`); each denoising step then calls the module with the
    features. Without `normalize_heads` a new VCM is exactly the identity: scale and shift are zero.
    """

    alphas_cumprod: Tensor

    def __init__(self, config: AdapterConfig) -> None:
        width = config.condition_encoder.out_channels
        super().__init__(config.condition_channels, config.condition_encoder, config.fusion_blocks, config.aggregation)
        self.config = config
        self.unet: DiffusionModelUNet = build_network(DiffusionModelUNet, config.unet)
        self.narrow: nn.Conv3d | None = None
        if config.feature_channels is not None:
            self.narrow = nn.Conv3d(width, config.feature_channels, kernel_size=1)
        self.static_maps: StaticMaps | None = None
        if config.static_maps:
            self.static_maps = StaticMaps(width, 3 * config.latent_channels)
        self.sketcher: Sketcher | None = None
        self.draft: DraftNetwork | None = None
        if config.draft is not None:
            seen = len(VIEWS) * config.latent_channels
            self.draft = DraftNetwork(config.draft, width, seen, config.latent_channels)
        self.painter: Painter | None = None
        contrasts = [name for name in PAINTED if name in config.condition_channels]
        if contrasts and config.draft is not None and config.draft.painter is not None:
            # Its weights are read from a file, and learn no more.
            self.painter = Painter(config.draft.painter, contrasts).requires_grad_(False)
        self.heads = Heads(
            config.unet["out_channels"],
            config.head_channels,
            config.latent_channels,
            config.normalize_heads,
            with_gain=config.velocity_schedule is not None and config.norm is None,
        )
        if config.velocity_schedule is not None:
            # In no weight file, so it must be real even where the module is built on the meta device.
            alphas_cumprod = torch.cumprod(1.0 - build_betas(config.velocity_schedule), dim=0)
            self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        output_convolution = self.unet.out[-1].conv
        nn.init.normal_(output_convolution.weight, std=OUTPUT_CONVOLUTION_STD)
        if config.norm == "channel":
            use_channel_norms(self)

    def look_through(self, backbone: Backbone) -> None:
        """Use a backbone's frozen encoder for sketches, where the VCM makes a draft; it is no part of the VCM."""
        if self.config.draft is not None:
            self.sketcher = Sketcher(backbone, self.config.draft.intensities)

    def encode_condition(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the features of the conditions given; any subset of the modalities will do.

        They are (B, F, x, y, z), F being `AdapterConfig.encoded_channels`.

        Args:
            conditions: each modality's tensor, (B, C, X, Y, Z), at full voxel resolution.
            keep: for training, (B,) booleans a modality: False drops it from that sample (modality latent drop).

        Raises:
            ValueError: no condition, or one that this VCM does not know, or one with the wrong channels.
            RuntimeError: it makes a draft, and nobody has said through which backbone it sees (`look_through`).
        """
        joined = self.read_conditions(conditions, keep)
        features = self.gather_features(joined)
        if self.draft is None:
            return features
        return torch.cat([features, self.draft(joined, self.look(conditions, keep))], dim=1)

    def gather_features(self, joined: Tensor) -> Tensor:
        """Return a run's features, as `encode_condition` but without a draft, of what `read_conditions` returned."""
        features = [joined if self.narrow is None else self.narrow(joined)]
        if self.static_maps is not None:
            features.append(self.static_maps(joined))
        return torch.cat(features, dim=1)

    def look(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return how the backbone's encoder sees the conditions given; see `Sketcher.look`."""
        self.check_conditions(conditions)
        if self.sketcher is None:
            raise RuntimeError("This VCM sees through its backbone's encoder: call look_through(backbone) first.")
        return self.sketcher.look(conditions, keep, self.painter)

    def read_draft(self, features: Tensor) -> DraftMaps | None:
        """Return the draft among what `encode_condition` returned; None where this VCM makes none."""
        return None if self.draft is None else DraftMaps.of(features.split(self.config.feature_split, dim=1)[2])

    def forward(self, latent: Tensor, epsilon: Tensor, features: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps_scale (gamma) and eps_shift (beta), each float32 (B, C, x, y, z).

        Args:
            latent: noisy latent z_t, (B, C, x, y, z).
            epsilon: the prior's noise estimate at z_t, (B, C, x, y, z).
            features: what `encode_condition` returned, (B, F, x, y, z).
            timesteps: (B,) integers.
        """
        read, static_maps, _ = features.split(self.config.feature_split, dim=1)
        if self.config.velocity_schedule is None:
            hidden = torch.cat([latent, epsilon, read], dim=1)  # (B, 2 C + F, x, y, z)
            scale, shift = self.heads(self.unet(hidden, timesteps=timesteps))
            return scale.float(), shift.float()
        alphas = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        signal, noise_level = alphas.sqrt(), (1.0 - alphas).sqrt()
        velocity = (epsilon - noise_level * latent) / signal
        hidden = self.unet(torch.cat([latent, velocity, read], dim=1), timesteps=timesteps)
        changes = self.heads.joined(hidden).float()  # (B, 2 C or 3 C, x, y, z)
        if self.heads.gain is None:
            # v' = v (1 + gamma) + shift; with epsilon = signal v + noise_level z_t that is gamma and beta of epsilon.
            eps_scale, shift = changes.chunk(2, dim=1)
            return eps_scale, signal * shift - noise_level * latent * eps_scale
        if self.static_maps is not None:
            changes += self.static_maps.fade(static_maps, signal, noise_level)
        scale, shift, gain = changes.chunk(3, dim=1)
        # v changes by scale z_0 + gain z_t + shift, where z_0 = (z_t - noise_level epsilon) / signal is what the prior
        # thinks the clean latent is, and epsilon = signal v + noise_level z_t; collected, that is gamma and beta.
        eps_scale, eps_shift = -noise_level * scale, (scale + signal * gain) * latent + signal * shift
        draft = self.read_draft(features)
        if draft is None or self.config.draft is None:
            return eps_scale, eps_shift
        if self.training:
            noisy = timesteps >= TRUST_LEARNED_FROM * len(self.alphas_cumprod)
            trust = torch.where(noisy.reshape(-1, 1, 1, 1, 1), draft.trust, draft.trust.detach())
            temperature = 1.0
        else:
            trust = (draft.trust * (self.config.draft.trust_factor or 1.0)).clamp(max=1.0)
            temperature = self.config.draft.temperature
        drafted = draft.estimate_epsilon(latent, signal, noise_level, temperature)
        # (1 - trust) (epsilon (1 + gamma) + beta) + trust drafted, as gamma and beta.
        return (1.0 - trust) * (1.0 + eps_scale) - 1.0, (1.0 - trust) * eps_shift + trust * drafted


class Heads(nn.Module):
    """Convolution and LeakyReLU, then one convolution for the scale, one for the shift and, with `with_gain`, one more.

    All are zero at the start.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, normalize: bool, with_gain: bool = False
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.shared = nn.Conv3d(in_channels, hidden_channels, kernel_size=3, padding=1)
        self.scale = nn.Conv3d(hidden_channels, out_channels, kernel_size=3, padding=1)
        self.shift = nn.Conv3d(hidden_channels, out_channels, kernel_size=3, padding=1)
        self.gain = nn.Conv3d(hidden_channels, out_channels, kernel_size=3, padding=1) if with_gain else None
        nn.init.kaiming_normal_(self.shared.weight)
        for convolution in self.outputs():
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Return scale and shift, then the gain where there is one, each (B, out_channels, x, y, z)."""
        if not self.normalize:
            return self.joined(hidden).chunk(len(self.outputs()), dim=1)
        hidden = functional.leaky_relu(self.shared(hidden))
        return tuple(functional.instance_norm(convolution(hidden)) for convolution in self.outputs())

    def joined(self, hidden: Tensor) -> Tensor:
        """Return the same in one tensor, (B, 2 or 3 times out_channels, x, y, z), without the norm."""
        hidden = functional.leaky_relu(self.shared(hidden))
        # One convolution for all: at few channels it takes no longer than one of them.
        weight = torch.cat([convolution.weight for convolution in self.outputs()])
        bias = torch.cat([convolution.bias for convolution in self.outputs()])  # type: ignore[misc]
        return conv3d(hidden, weight, bias, padding=(1, 1, 1))

    def outputs(self) -> list[nn.Conv3d]:
        """Return the last convolutions, in the order of what they give."""
        return [self.scale, self.shift] if self.gain is None else [self.scale, self.shift, self.gain]


def modulate(epsilon: Tensor, eps_scale: Tensor, eps_shift: Tensor) -> Tensor:
    """Return the controlled noise eps_hat = epsilon * (1 + gamma) + beta, all (B, C, x, y, z)."""
    return epsilon * (1.0 + eps_scale) + eps_shift
