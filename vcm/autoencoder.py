"""The image compressor: MONAI's autoencoder, optionally on cubes of voxels folded into channels."""

from __future__ import annotations

from typing import Any

from einops import rearrange
from monai.networks.nets import AutoencoderKL
from torch import Tensor


class Autoencoder(AutoencoderKL):
    """MONAI's AutoencoderKL, whose networks may see each cube of voxels as one cell with more channels.

    At full resolution convolutions have few channels, which processors are slow at: with a `patch_size` of 2 the first
    level works at half the resolution, at a fraction of the cost, and nothing is lost on the way in. 1, the published
    form, folds nothing and is exactly MONAI's network, with its weights.

    Args:
        patch_size: edge of the cubes, in voxels.
        in_channels, out_channels: of the image, before folding.
        arguments: all others of AutoencoderKL.
    """

    def __init__(self, *, patch_size: int = 1, in_channels: int = 1, out_channels: int = 1, **arguments: Any) -> None:
        cells = patch_size**3
        super().__init__(in_channels=in_channels * cells, out_channels=out_channels * cells, **arguments)
        self.patch_size = patch_size

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latent, each (B, C, x, y, z), of an image (B, in_channels, X, Y, Z)."""
        mean, deviation = super().encode(fold(x, self.patch_size))
        return mean, deviation

    def decode(self, z: Tensor) -> Tensor:
        """Return the image (B, out_channels, X, Y, Z) of a latent (B, C, x, y, z)."""
        return unfold(super().decode(z), self.patch_size)


def fold(volume: Tensor, patch_size: int) -> Tensor:
    """Return (B, C p^3, X / p, Y / p, Z / p) of a volume (B, C, X, Y, Z): each cube of voxels becomes channels."""
    if patch_size == 1:
        return volume
    edges = dict.fromkeys("pqr", patch_size)
    folded: Tensor = rearrange(volume, "b c (x p) (y q) (z r) -> b (c p q r) x y z", **edges)
    return folded


def unfold(folded: Tensor, patch_size: int) -> Tensor:
    """Undo `fold`: (B, C, X, Y, Z) of (B, C p^3, X / p, Y / p, Z / p)."""
    if patch_size == 1:
        return folded
    edges = dict.fromkeys("pqr", patch_size)
    volume: Tensor = rearrange(folded, "b (c p q r) x y z -> b c (x p) (y q) (z r)", **edges)
    return volume
