"""Maps of what a VCM changes, made once per run, and how they fade with the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vcm.runtime.convolution import start_at_zero


class StaticMaps(nn.Module):
    """Maps (B, out_channels, x, y, z) made of a run's features, zero at the start, and how they fade with the noise."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int = 32) -> None:
        super().__init__()
        self.maps = start_at_zero(nn.Conv3d(in_channels, out_channels, kernel_size=1))
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
