"""Maps of what a VCM changes, made once per run, and how they fade with the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vcm.config import SKETCH_KNOTS
from vcm.convolution import start_at_zero


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


class SketchMaps(nn.Module):
    """Shifts of v made of how a frozen encoder sees what is known of an image, beside the features; see `vcm.sketch`.

    The features tell where a sketch is to be believed. There is a map for each of some noise levels, and between them
    two are mixed. All is linear, so that what is best for an objective can be computed (`vcm.train.sketch_maps`).
    """

    def __init__(self, feature_channels: int, seen_channels: int, out_channels: int) -> None:
        super().__init__()
        all_channels = len(SKETCH_KNOTS) * out_channels
        self.read_features = start_at_zero(nn.Conv3d(feature_channels, all_channels, kernel_size=1))
        self.read_seen = start_at_zero(nn.Conv3d(seen_channels, all_channels, kernel_size=3, padding=1))

    def forward(self, features: Tensor, seen: Tensor) -> Tensor:
        """Return all knots' maps, (B, knots out_channels, x, y, z), of features and of the latents of sketches."""
        maps: Tensor = self.read_features(features) + self.read_seen(seen)
        return maps

    @staticmethod
    def mix(maps: Tensor, positions: Tensor) -> Tensor:
        """Return the shifts of v, (B, out_channels, x, y, z), at positions (B,) in the schedule, in [0, 1]."""
        of_knots = maps.unflatten(1, (len(SKETCH_KNOTS), -1)).float()
        return torch.einsum("bk,bkcxyz->bcxyz", weigh_knots(positions), of_knots)


def weigh_knots(positions: Tensor) -> Tensor:
    """Return the weights of the knots, (B, knots), at positions (B,) in [0, 1]: those of the two around add up to 1."""
    knots = torch.tensor(SKETCH_KNOTS, device=positions.device)
    above = torch.bucketize(positions, knots[1:-1], right=True) + 1
    share = (positions - knots[above - 1]) / (knots[above] - knots[above - 1])
    weights = positions.new_zeros(len(positions), len(knots))
    weights.scatter_(1, (above - 1)[:, None], (1.0 - share)[:, None])
    return weights.scatter_(1, above[:, None], share[:, None])
