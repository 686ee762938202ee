"""A painter: the T1-weighted image that follows from scans of other contrasts, voxel by voxel.

It is learned in minutes where voxels are seen, and hardly at all at latent resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from vcm.model.config import PainterConfig
from vcm.runtime.convolution import start_at_zero

PAINTER_PREFIX = "painter."
"""Of the names of its weights among a VCM's."""

PAINTED = ("t2", "flair")
"""Conditions that are scans of other contrasts than T1."""


class Painter(nn.Module):
    """Paints scans of other contrasts over the mean brain, as T1-weighted. A new one leaves the mean brain as it is.

    Where all scans are black, as those without their skull are around the brain, nothing follows from them, and the
    mean brain stays.

    Args:
        config: its size.
        contrasts: the conditions that it sees, one channel each; a sample may keep any of them.
    """

    def __init__(self, config: PainterConfig, contrasts: Sequence[str]) -> None:
        super().__init__()
        self.contrasts = tuple(contrasts)
        width = config.channels[0]
        self.network = UNet(
            spatial_dims=3,
            in_channels=1 + 2 * len(contrasts),
            out_channels=width,
            channels=config.channels,
            strides=(2,) * (len(config.channels) - 1),
            num_res_units=1,
            norm="instance",
        )
        self.paint = start_at_zero(nn.Conv3d(width, 1, kernel_size=1))

    def forward(self, mean_brain: Tensor, given: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Return images (B, 1, X, Y, Z), float32; in [0, 1] but while it learns, since a clamp would hide its errors.

        Args:
            mean_brain: (B, 1, X, Y, Z), what samples without any of the contrasts keep.
            given: the conditions, (B, C, X, Y, Z), and which samples keep them, (B,) booleans, by modality.
        """
        scans, present = [], []
        for name in self.contrasts:
            scan, keeps = given.get(name) or (torch.zeros_like(mean_brain), mean_brain.new_zeros(len(mean_brain)) > 0)
            scans.append(scan * keeps.reshape(-1, 1, 1, 1, 1))
            present.append(keeps)
        shown = torch.cat(scans, dim=1)
        flags = torch.stack(present, dim=1).to(shown)[:, :, None, None, None].expand(-1, -1, *shown.shape[2:])
        strokes = self.paint(self.network(torch.cat([mean_brain, shown, flags], dim=1)))
        painted = (mean_brain + strokes).float()
        painted = painted if self.training else painted.clamp(0.0, 1.0)
        return torch.where(shown.any(dim=1, keepdim=True), painted, mean_brain)
