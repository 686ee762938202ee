"""The Volumetric Conditioning Module: condition encoders, a U-Net at latent resolution, two heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

from vcm.autoencoder import fold
from vcm.backbone import build_betas, build_network
from vcm.config import AdapterConfig, ConditionEncoderConfig

OUTPUT_CONVOLUTION_STD = 0.06
"""MONAI starts its U-Net's last convolution at zero; below zero heads nothing but their bias would ever learn."""

CONDITION_GAIN = 50.0
"""A freshly initialised encoder turns a 0-or-1 map into features of about 0.1 or less; beside latents and noise of
about 1 a U-Net hardly hears them, and learning stalls. The first convolution starts this much larger."""


class VCM(nn.Module):
    """Predicts how to scale and shift a frozen prior's noise estimate (Ahn et al., WACV 2025).

    Conditions are encoded once, without time (`encode_condition`); each denoising step then calls the module with the
    features. Without `normalize_heads` a new VCM is exactly the identity: scale and shift are zero.
    """

    alphas_cumprod: Tensor

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.condition_encoder.out_channels
        self.condition_encoders = nn.ModuleDict(
            {
                name: ConditionEncoder(channels, config.condition_encoder)
                for name, channels in config.condition_channels.items()
            }
        )
        # Released weights have one modality and no projection.
        self.projection: nn.Conv3d | None = None
        if config.aggregation == "concat" and len(self.condition_encoders) > 1:
            self.projection = nn.Conv3d(len(self.condition_encoders) * (width + 1), width, kernel_size=1)
        self.fusion = nn.Sequential(
            *(
                ResidualBlock(width, width, config.condition_encoder.norm_num_groups, config.condition_encoder.norm_eps)
                for _ in range(config.fusion_blocks)
            )
        )
        self.unet: DiffusionModelUNet = build_network(DiffusionModelUNet, config.unet)
        self.narrow: nn.Conv3d | None = None
        if config.feature_channels is not None:
            self.narrow = nn.Conv3d(width, config.feature_channels, kernel_size=1)
        self.static_maps: StaticMaps | None = None
        if config.static_maps:
            self.static_maps = StaticMaps(width, 3 * config.latent_channels)
        self.heads = Heads(
            config.unet["out_channels"],
            config.head_channels,
            config.latent_channels,
            config.normalize_heads,
            with_gain=config.velocity_schedule is not None,
        )
        if config.velocity_schedule is not None:
            # In no weight file, so it must be real even where the module is built on the meta device.
            alphas_cumprod = torch.cumprod(1.0 - build_betas(config.velocity_schedule), dim=0)
            self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        output_convolution = self.unet.out[-1].conv
        nn.init.normal_(output_convolution.weight, std=OUTPUT_CONVOLUTION_STD)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the conditions that this VCM was built for, in their order of concatenation."""
        return tuple(self.config.condition_channels)

    def encode_condition(self, conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the features of the conditions given; any subset of the modalities will do.

        They are (B, F, x, y, z), F being `AdapterConfig.encoded_channels`.

        Args:
            conditions: each modality's tensor, (B, C, X, Y, Z), at full voxel resolution.
            keep: for training, (B,) booleans a modality: False drops it from that sample (modality latent drop).

        Raises:
            ValueError: no condition, or one that this VCM does not know, or one with the wrong channels.
        """
        self._check(conditions)
        some = next(iter(conditions.values()))
        batch_size, device = some.shape[0], some.device
        present = torch.zeros(batch_size, len(self.modalities), dtype=torch.bool, device=device)
        features: list[Tensor | None] = []
        for index, (name, encoder) in enumerate(self.condition_encoders.items()):
            if name not in conditions:
                features.append(None)
                continue
            kept = None if keep is None else keep.get(name)
            present[:, index] = True if kept is None else kept.to(device)
            features.append(_encode_kept(encoder, conditions[name], kept))  # (B, F, x, y, z)
        if len(features) == 1 and keep is None:
            joined: Tensor = features[0]  # type: ignore[assignment]  # the only modality is present: see _check
        else:
            joined = self._aggregate(features, present)
        joined = self.fusion(joined)
        read = joined if self.narrow is None else self.narrow(joined)
        return read if self.static_maps is None else torch.cat([read, self.static_maps(joined)], dim=1)

    def forward(self, latent: Tensor, epsilon: Tensor, features: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps_scale (gamma) and eps_shift (beta), each float32 (B, C, x, y, z).

        Args:
            latent: noisy latent z_t, (B, C, x, y, z).
            epsilon: the prior's noise estimate at z_t, (B, C, x, y, z).
            features: what `encode_condition` returned, (B, F, x, y, z).
            timesteps: (B,) integers.
        """
        read, maps = features.split([self.config.read_channels, features.shape[1] - self.config.read_channels], dim=1)
        if self.config.velocity_schedule is None:
            hidden = torch.cat([latent, epsilon, read], dim=1)  # (B, 2 C + F, x, y, z)
            scale, shift = self.heads(self.unet(hidden, timesteps=timesteps))
            return scale.float(), shift.float()
        alphas = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        signal, noise_level = alphas.sqrt(), (1.0 - alphas).sqrt()
        velocity = (epsilon - noise_level * latent) / signal
        hidden = self.unet(torch.cat([latent, velocity, read], dim=1), timesteps=timesteps)
        changes = self.heads.joined(hidden).float()  # (B, 3 C, x, y, z)
        if self.static_maps is not None:
            changes += self.static_maps.fade(maps, signal, noise_level)
        # v changes by scale z_0 + gain z_t + shift, where z_0 = (z_t - noise_level epsilon) / signal is what the prior
        # thinks the clean latent is, and epsilon = signal v + noise_level z_t; collected, that is gamma and beta.
        scale, shift, gain = changes.chunk(3, dim=1)
        return -noise_level * scale, (scale + signal * gain) * latent + signal * shift

    @classmethod
    def from_pretrained(cls, where: str | Path, revision: str | None = None) -> VCM:
        """Read a VCM from a folder or a repository of the hub; see `vcm.share.load_vcm`."""
        from vcm.share import load_vcm

        return load_vcm(where, revision)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and a model card; see `vcm.share.save_vcm`."""
        from vcm.share import save_vcm

        return save_vcm(self, folder)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the hub and return the address; see `vcm.share.push_vcm`."""
        from vcm.share import push_vcm

        return push_vcm(self, repository, private=private, token=token)

    def _aggregate(self, features: Sequence[Tensor | None], present: Tensor) -> Tensor:
        """Join the modalities' features, zeroing those that are absent: (B, F, x, y, z)."""
        like = next(f for f in features if f is not None)
        flags = present.to(like.dtype)[:, :, None, None, None, None]  # (B, M, 1, 1, 1, 1)
        stacked = torch.stack([torch.zeros_like(like) if f is None else f for f in features], dim=1) * flags
        if self.projection is None:
            return stacked.sum(dim=1) / flags.sum(dim=1).clamp(min=1.0)
        planes = flags[:, :, 0].expand(-1, -1, *like.shape[2:])  # (B, M, x, y, z)
        joined: Tensor = self.projection(torch.cat([stacked.flatten(1, 2), planes], dim=1))
        return joined

    def _check(self, conditions: Mapping[str, Tensor]) -> None:
        if not conditions:
            raise ValueError("At least one condition is needed.")
        for name, tensor in conditions.items():
            if name not in self.config.condition_channels:
                known = ", ".join(self.modalities)
                raise ValueError(f"This VCM knows no condition named {name}: it takes {known}.")
            channels = self.config.condition_channels[name]
            if tensor.ndim != 5 or tensor.shape[1] != channels:
                raise ValueError(
                    f"The condition {name} must have the shape (B, {channels}, X, Y, Z), got {list(tensor.shape)}."
                )


def _encode_kept(encoder: nn.Module, condition: Tensor, kept: Tensor | None) -> Tensor:
    """Return the features (B, F, x, y, z) of the samples that are kept, 0 elsewhere.

    What was dropped would be zeroed anyway, and encoding it is most of a training step on a CPU.
    """
    if kept is None or bool(kept.all()) or not bool(kept.any()):
        features: Tensor = encoder(condition)
        return features
    chosen = kept.to(condition.device)
    some = encoder(condition[chosen])
    padded = some.new_zeros(len(condition), *some.shape[1:])
    padded[chosen] = some
    return padded


class ConditionEncoder(nn.Module):
    """Convolutions from a condition at full voxel resolution down to features at latent resolution.

    It sees no time, so a run encodes its conditions once. Input (B, in_channels, X, Y, Z), output (B, F, x, y, z).
    """

    def __init__(self, in_channels: int, config: ConditionEncoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        # A folded cube already holds its voxels' neighbors, and 3 x 3 x 3 of them would be most of the encoder's cost.
        size = 3 if config.patch_size < 4 else 1
        self.conv_in = nn.Conv3d(
            in_channels * config.patch_size**3, config.channels[0], kernel_size=size, padding=size // 2
        )
        with torch.no_grad():
            self.conv_in.weight.mul_(CONDITION_GAIN)
        self.down_blocks = nn.ModuleList()
        width = config.channels[0]
        for channels, num_res_blocks, downsample in zip(
            config.channels, config.num_res_blocks, config.downsample, strict=True
        ):
            self.down_blocks.append(
                DownBlock(width, channels, num_res_blocks, downsample, config.norm_num_groups, config.norm_eps)
            )
            width = channels

    def forward(self, condition: Tensor) -> Tensor:
        """Return the features (B, F, x, y, z) of one condition (B, in_channels, X, Y, Z), of any number type."""
        condition = condition.to(self.conv_in.weight.dtype)
        hidden: Tensor = self.conv_in(fold(condition, self.patch_size))
        for block in self.down_blocks:
            hidden = block(hidden)
        return hidden


class DownBlock(nn.Module):
    """One level of a condition encoder: residual blocks, then a residual block that halves the resolution."""

    def __init__(
        self, in_channels: int, channels: int, num_res_blocks: int, downsample: bool, num_groups: int, eps: float
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * num_res_blocks
        self.resnets = nn.ModuleList(
            ResidualBlock(width, channels, num_groups, eps) for width in widths[:num_res_blocks]
        )
        self.downsampler = ResidualBlock(widths[-1], channels, num_groups, eps, down=True) if downsample else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (B, channels, ...) at this level's resolution, halved where the level downsamples."""
        for block in self.resnets:
            hidden = block(hidden)
        return hidden if self.downsampler is None else self.downsampler(hidden)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, around a shortcut; `down` averages pairs of voxels along each axis first."""

    def __init__(self, in_channels: int, channels: int, num_groups: int, eps: float, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.norm1 = nn.GroupNorm(num_groups, in_channels, eps=eps)
        self.conv1 = nn.Conv3d(in_channels, channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, channels, eps=eps)
        self.conv2 = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.skip_connection = nn.Identity() if in_channels == channels else nn.Conv3d(in_channels, channels, 1)
        # The block starts as its shortcut, as the published ones do.
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (B, channels, ...), at half the resolution if `down`."""
        residual = functional.silu(self.norm1(hidden))
        if self.down:
            hidden = functional.avg_pool3d(hidden, kernel_size=2)
            residual = functional.avg_pool3d(residual, kernel_size=2)
        residual = self.conv2(functional.silu(self.norm2(self.conv1(residual))))
        output: Tensor = self.skip_connection(hidden) + residual
        return output


class StaticMaps(nn.Module):
    """Maps (B, out_channels, x, y, z) made of a run's features, zero at the start, and how they fade with the noise."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int = 32) -> None:
        super().__init__()
        self.maps = nn.Conv3d(in_channels, out_channels, kernel_size=1)
        nn.init.zeros_(self.maps.weight)
        nn.init.zeros_(self.maps.bias)  # type: ignore[arg-type]
        self.fading = nn.Sequential(nn.Linear(3, hidden_channels), nn.SiLU(), nn.Linear(hidden_channels, out_channels))
        nn.init.ones_(self.fading[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return the maps of features (B, F, x, y, z)."""
        maps: Tensor = self.maps(features)
        return maps

    def fade(self, maps: Tensor, signal: Tensor, noise_level: Tensor) -> Tensor:
        """Return the maps times their weights at sqrt(a_t) and sqrt(1 - a_t), each (B, 1, 1, 1, 1)."""
        level = torch.cat([signal, noise_level, (signal / noise_level).log()], dim=1).flatten(1)  # (B, 3)
        weights = self.fading(level.to(maps.dtype)).float()
        return maps * weights[:, :, None, None, None]


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
        for convolution in self._outputs():
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Return scale and shift, then the gain where there is one, each (B, out_channels, x, y, z)."""
        if not self.normalize:
            return self.joined(hidden).chunk(len(self._outputs()), dim=1)
        hidden = functional.leaky_relu(self.shared(hidden))
        return tuple(functional.instance_norm(convolution(hidden)) for convolution in self._outputs())

    def joined(self, hidden: Tensor) -> Tensor:
        """Return the same in one tensor, (B, 2 or 3 times out_channels, x, y, z), without the norm."""
        hidden = functional.leaky_relu(self.shared(hidden))
        # One convolution for all: at few channels it takes no longer than one of them.
        weight = torch.cat([convolution.weight for convolution in self._outputs()])
        bias = torch.cat([convolution.bias for convolution in self._outputs()])  # type: ignore[misc]
        return functional.conv3d(hidden, weight, bias, padding=1)

    def _outputs(self) -> list[nn.Conv3d]:
        return [self.scale, self.shift] if self.gain is None else [self.scale, self.shift, self.gain]


def modulate(epsilon: Tensor, eps_scale: Tensor, eps_shift: Tensor) -> Tensor:
    """Return the controlled noise eps_hat = epsilon * (1 + gamma) + beta, all (B, C, x, y, z)."""
    return epsilon * (1.0 + eps_scale) + eps_shift


def draw_modality_keep(
    modalities: Sequence[str],
    batch_size: int,
    drop_probability: float,
    generator: torch.Generator | None = None,
    alone: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Draw a modality latent drop: which modalities each sample keeps, (B,) booleans each, at least one a sample.

    Args:
        alone: the probability that a sample keeps this modality and no other; all other samples drop each with
            `drop_probability`. Names of other modalities do not count.
    """
    count = len(modalities)
    keep = torch.rand(batch_size, count, generator=generator) >= drop_probability
    survivor = torch.randint(count, (batch_size,), generator=generator)
    emptied = ~keep.any(dim=1)
    keep[emptied, survivor[emptied]] = True
    shares = torch.tensor([alone.get(name, 0.0) for name in modalities])
    if bool(shares.any()):
        chosen = torch.searchsorted(shares.cumsum(0), torch.rand(batch_size, generator=generator), right=True)
        single = chosen < count
        keep[single] = nn.functional.one_hot(chosen[single], count).bool()
    return {name: keep[:, index] for index, name in enumerate(modalities)}
