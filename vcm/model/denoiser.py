"""The diffusion network: MONAI's U-Net, optionally with a learned map of where in the field of view a cell lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn


class Denoiser(DiffusionModelUNet):
    """MONAI's DiffusionModelUNet, which may read a learned map beside its input.

    Where all subjects lie in one template's space, what belongs to a place need not be discovered from noise: the map
    holds it, and every training step teaches all of it. Without a map this is exactly MONAI's network, with its
    weights.

    Args:
        position_map: shape (P, x, y, z) of the learned map on the latent grid, or None for none.
        in_channels: of the input, without the map's.
        arguments: all others of DiffusionModelUNet.
    """

    def __init__(self, *, in_channels: int, position_map: Sequence[int] | None = None, **arguments: Any) -> None:
        channels = position_map[0] if position_map else 0
        super().__init__(in_channels=in_channels + channels, **arguments)
        self.position: nn.Parameter | None = None
        if position_map:
            # Unit noise, so that places differ from the first step on.
            self.position = nn.Parameter(torch.randn(*position_map))

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return what the network predicts, (B, out_channels, x, y, z), of its input (B, in_channels, x, y, z).

        All other arguments are those of DiffusionModelUNet.
        """
        prediction: Tensor = super().forward(self.join_position(x), *arguments, **options)
        return prediction

    def join_position(self, x: Tensor) -> Tensor:
        """Return the input with the learned map's channels behind it, where there is a map."""
        return x if self.position is None else torch.cat([x, self.position.expand(x.shape[0], -1, -1, -1, -1)], dim=1)
