"""Maps of what a VCM changes, made once per run, and how they fade with the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcm.config import SKETCH_KINDS
from vcm.convolution import start_at_zero

_HIDDEN_CHANNELS = 64


class StaticMaps(nn.Module):
    """Maps (B, out_channels, x, y, z) made of a run's features, zero at the start, and how they fade with the noise."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maps = start_at_zero(nn.Conv3d(in_channels, out_channels, kernel_size=1))
        self.fading = _build_fading(out_channels)
        nn.init.ones_(self.fading[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return the maps of features (B, F, x, y, z)."""
        maps: Tensor = self.maps(features)
        return maps

    def fade(self, maps: Tensor, signal: Tensor, noise_level: Tensor) -> Tensor:
        """Return the maps times their weights at sqrt(a_t) and sqrt(1 - a_t), each (B, 1, 1, 1, 1)."""
        return _fade(self.fading, maps, signal, noise_level)


class SketchMaps(nn.Module):
    """The same of how a frozen encoder sees what is known of an image, beside the features; see `vcm.sketch`.

    The features tell where a sketch is to be believed, so the two are joined before anything is made of them.
    """

    def __init__(self, feature_channels: int, seen_channels: int, out_channels: int) -> None:
        super().__init__()
        self.read_features = nn.Conv3d(feature_channels, _HIDDEN_CHANNELS, kernel_size=1)
        self.read_seen = nn.Conv3d(seen_channels, _HIDDEN_CHANNELS, kernel_size=3, padding=1)
        self.maps = start_at_zero(nn.Conv3d(_HIDDEN_CHANNELS, SKETCH_KINDS * out_channels, kernel_size=3, padding=1))
        self.fading = _build_fading(SKETCH_KINDS * out_channels)
        nn.init.ones_(self.fading[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, seen: Tensor) -> Tensor:
        """Return the maps, (B, SKETCH_KINDS out_channels, x, y, z), of features and of the latents of sketches."""
        maps: Tensor = self.maps(functional.silu(self.read_features(features) + self.read_seen(seen)))
        return maps

    def fade(self, maps: Tensor, signal: Tensor, noise_level: Tensor) -> Tensor:
        """Return the sum of the kinds, (B, out_channels, x, y, z), at sqrt(a_t) and sqrt(1 - a_t), as `StaticMaps`."""
        faded = _fade(self.fading, maps, signal, noise_level)
        return torch.stack(faded.chunk(SKETCH_KINDS, dim=1)).sum(dim=0)


def change_velocity(changes: Tensor, clean: Tensor, latent: Tensor) -> Tensor:
    """Return by how much v changes, (B, C, x, y, z).

    Args:
        changes: scale, gain and shift, (B, 3 C, x, y, z).
        clean: what the prior thinks that the clean latent is, (B, C, x, y, z).
        latent: z_t, (B, C, x, y, z).
    """
    scale, shift, gain = changes.chunk(3, dim=1)
    return scale * clean + gain * latent + shift


def _build_fading(out_channels: int, hidden_channels: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, hidden_channels), nn.SiLU(), nn.Linear(hidden_channels, out_channels))


def _fade(fading: nn.Sequential, maps: Tensor, signal: Tensor, noise_level: Tensor) -> Tensor:
    level = torch.cat([signal, noise_level, (signal / noise_level).log()], dim=1).flatten(1)  # (B, 3)
    weights = fading(level.to(maps.dtype)).float()
    return maps * weights[:, :, None, None, None]
