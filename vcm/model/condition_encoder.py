"""Conditions at full voxel resolution to features at latent resolution: one encoder a modality, then one map of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcm.model.autoencoder import fold
from vcm.model.config import ConditionEncoderConfig

CONDITION_GAIN = 50.0
"""A freshly initialised encoder turns a 0-or-1 map into features of about 0.1 or less; beside latents and noise of
about 1 they hardly affect a U-Net, and learning stalls. The first convolution starts this much larger."""


class ConditionReader(nn.Module):
    """Condition encoders, one a modality, and what joins their features into one map; it sees no time.

    Args:
        condition_channels: each modality's channels, in their order of concatenation.
        encoder: of each modality.
        fusion_blocks: residual blocks after the aggregation.
        aggregation: "concat" joins the features and presence flags with one projection, "mean" averages those present.
    """

    def __init__(
        self,
        condition_channels: Mapping[str, int],
        encoder: ConditionEncoderConfig,
        fusion_blocks: int = 0,
        aggregation: Literal["concat", "mean"] = "concat",
    ) -> None:
        super().__init__()
        self.condition_channels = dict(condition_channels)
        width = encoder.out_channels
        self.condition_encoders = nn.ModuleDict(
            {name: ConditionEncoder(channels, encoder) for name, channels in condition_channels.items()}
        )
        # Released weights have one modality and no projection.
        self.projection: nn.Conv3d | None = None
        if aggregation == "concat" and len(self.condition_encoders) > 1:
            self.projection = nn.Conv3d(len(self.condition_encoders) * (width + 1), width, kernel_size=1)
        self.fusion = nn.Sequential(
            *(ResidualBlock(width, width, encoder.norm_num_groups, encoder.norm_eps) for _ in range(fusion_blocks))
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the conditions that this network was built for, in their order of concatenation."""
        return tuple(self.condition_channels)

    def read_conditions(
        self,
        conditions: Mapping[str, Tensor],
        keep: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the joined features (B, F, x, y, z), F as wide as the encoders; see `VCM.encode_condition`."""
        self.check_conditions(conditions)
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
        fused: Tensor = self.fusion(joined)
        return fused

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

    def check_conditions(self, conditions: Mapping[str, Tensor]) -> None:
        if not conditions:
            raise ValueError("At least one condition is needed.")
        for name, tensor in conditions.items():
            if name not in self.condition_channels:
                known = ", ".join(self.modalities)
                raise ValueError(f"This VCM knows no condition named {name}: it takes {known}.")
            channels = self.condition_channels[name]
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
