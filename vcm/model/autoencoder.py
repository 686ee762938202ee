"""The image compressor: MONAI's autoencoder on cubes of voxels, optionally beside a linear code of larger cubes."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from einops import rearrange
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from vcm.model.channel_norm import use_channel_norms
from vcm.runtime.convolution import start_at_zero


class Autoencoder(AutoencoderKL):
    """MONAI's AutoencoderKL, whose networks may see each cube of voxels as one cell with more channels.

    At full resolution convolutions have few channels, which processors are slow at: with a `patch_size` of 2 the first
    level works at half the resolution, at a fraction of the cost, and nothing is lost on the way in. 1, the published
    form, folds nothing and is exactly MONAI's network, with its weights.

    With a `linear_code`, the cube of voxels that a latent cell stands for is projected on a fixed orthonormal basis
    (its principal components, see `set_linear_code`), and both networks, which start at zero, learn only what that
    leaves over. Small lesions survive the round trip from the first step on; deep compression autoencoders (Chen et
    al., ICLR 2025) have such shortcuts.

    Args:
        patch_size: edge of the cubes that the networks see, in voxels.
        in_channels, out_channels: of the image, before folding; 1 with a `linear_code`.
        linear_code: add the linear code of each latent cell's cube to what the encoder says, and undo it in decoding.
        norm: "group" is MONAI's; "channel" is blind to the extent, so that crops teach what whole volumes need.
        arguments: all others of AutoencoderKL.
    """

    code_mean: Tensor
    code_basis: Tensor

    def __init__(
        self,
        *,
        patch_size: int = 1,
        in_channels: int = 1,
        out_channels: int = 1,
        linear_code: bool = False,
        norm: Literal["group", "channel"] = "group",
        **arguments: Any,
    ) -> None:
        cells = patch_size**3
        super().__init__(in_channels=in_channels * cells, out_channels=out_channels * cells, **arguments)
        self.patch_size = patch_size
        self.linear_code = linear_code
        if norm not in ("group", "channel"):
            raise ValueError(f"norm is {norm!r}; it must be group or channel")
        if norm == "channel":
            use_channel_norms(self)
        if linear_code:
            if in_channels != 1 or out_channels != 1:
                raise ValueError("a linear code needs images of one channel")
            self.code_edge = patch_size * 2 ** (len(arguments["channels"]) - 1)
            voxels, channels = self.code_edge**3, int(arguments["latent_channels"])
            self.register_buffer("code_mean", torch.zeros(voxels))
            self.register_buffer("code_basis", torch.zeros(voxels, channels))
            last = len(cast(nn.ModuleList, self.decoder.blocks)) - 1
            for name in ("quant_conv_mu.conv", f"decoder.blocks.{last}.conv"):
                start_at_zero(cast(nn.Conv3d, self.get_submodule(name)))

    def set_linear_code(self, images: Tensor) -> None:
        """Choose the mean and the principal components of the cubes of images (N, 1, X, Y, Z) as the linear code.

        Cubes of air, which all look alike, are left out.
        """
        cubes = rearrange(fold(images.float(), self.code_edge), "n c x y z -> (n x y z) c").double()
        cubes = cubes[cubes.mean(1) > 0.02]
        _, vectors = torch.linalg.eigh(torch.cov(cubes.T))
        self.code_mean.copy_(cubes.mean(0))
        self.code_basis.copy_(vectors.flip(1)[:, : self.code_basis.shape[1]])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latent, each (B, C, x, y, z), of an image (B, in_channels, X, Y, Z)."""
        mean, deviation = super().encode(fold(x, self.patch_size))
        if self.linear_code:
            cubes = fold(x, self.code_edge) - self.code_mean.view(1, -1, 1, 1, 1)
            mean = mean + torch.einsum("bvxyz,vc->bcxyz", cubes, self.code_basis)
        return mean, deviation

    def decode(self, z: Tensor) -> Tensor:
        """Return the image (B, out_channels, X, Y, Z) of a latent (B, C, x, y, z)."""
        image = unfold(super().decode(z), self.patch_size)
        if self.linear_code:
            cubes = torch.einsum("bcxyz,vc->bvxyz", z, self.code_basis) + self.code_mean.view(1, -1, 1, 1, 1)
            image = image + unfold(cubes, self.code_edge)
        return image


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
