"""A look at an unfinished volume for a thousandth of the price of decoding it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vcm.runtime.convolution import conv3d

_NEIGHBORHOOD = 3  # latent cells along each axis that a patch of voxels is estimated from
_MOST_VOXELS = 2**21  # decoding more takes minutes on a CPU
_MIDDLE = 10  # cells along each axis of the middle: a few seconds, and ten times what the fit needs
_RIDGE = 1e-3  # keeps channels that hardly vary from being amplified


class LinearDecoder:
    """The linear map that comes closest to an autoencoder's decoder.

    Each latent cell becomes a patch of f x f x f voxels, a linear function of the 3 x 3 x 3 cells around it, fitted by
    least squares to one decoded volume. Its volumes are coarser than the decoder's, yet a lesion shows in them, and
    they take milliseconds where decoding takes a second (decoding a latent of half the resolution takes a tenth, and
    shows no brain). Finished volumes never pass through it.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = weight  # (f ** 3, C, 3, 3, 3)
        self._bias = bias  # (f ** 3,)
        self._factor = round(weight.shape[0] ** (1 / 3))

    @classmethod
    def fit(cls, latent: Tensor, image: Tensor) -> LinearDecoder:
        """Fit the map to a latent (1, C, x, y, z), in the autoencoder's own scale, and its image (1, 1, X, Y, Z)."""
        factor = image.shape[2] // latent.shape[2]
        cells = _neighborhoods(latent.double())  # (x * y * z, C * 27 + 1)
        patches = _to_patches(image.double(), factor)  # (x * y * z, f ** 3)
        gram = cells.T @ cells
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solution = torch.linalg.solve(gram + ridge, cells.T @ patches).float()  # (C * 27 + 1, f ** 3)
        weight = solution[:-1].T.reshape(factor**3, latent.shape[1], *(_NEIGHBORHOOD,) * 3)
        return cls(weight.contiguous(), solution[-1].contiguous())

    def decode(self, latent: Tensor) -> Tensor:
        """Return about the image (1, 1, X, Y, Z) of a latent (1, C, x, y, z) in the autoencoder's own scale."""
        patches = conv3d(_pad(latent), self._weight, self._bias)  # (1, f ** 3, x, y, z)
        f = self._factor
        x, y, z = latent.shape[2:]
        image = patches.reshape(f, f, f, x, y, z).permute(3, 0, 4, 1, 5, 2)
        return image.reshape(1, 1, x * f, y * f, z * f)


def choose_block(latent: Tensor, factor: int) -> Tensor:
    """Return the part of a latent (1, C, x, y, z) that `LinearDecoder.fit` should see decoded.

    It is all of it, but only its middle where a decoder at `factor` voxels a cell would take minutes on a CPU.
    """
    if latent[0, 0].numel() * factor**3 <= _MOST_VOXELS:
        return latent
    slices = [slice(max(0, (n - _MIDDLE) // 2), max(0, (n - _MIDDLE) // 2) + _MIDDLE) for n in latent.shape[2:]]
    return latent[(slice(None), slice(None), *slices)]


def _pad(latent: Tensor) -> Tensor:
    return functional.pad(latent, (_NEIGHBORHOOD // 2,) * 6, mode="replicate")


def _neighborhoods(latent: Tensor) -> Tensor:
    """Return each cell's 3 x 3 x 3 neighborhood and a 1, (x * y * z, C * 27 + 1)."""
    n = _NEIGHBORHOOD
    windows = _pad(latent)[0].unfold(1, n, 1).unfold(2, n, 1).unfold(3, n, 1)  # (C, x, y, z, 3, 3, 3)
    rows = windows.permute(1, 2, 3, 0, 4, 5, 6).flatten(3).flatten(0, 2)
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def _to_patches(image: Tensor, factor: int) -> Tensor:
    """Return the voxels that lie in each latent cell, (x * y * z, f ** 3)."""
    x, y, z = (n // factor for n in image.shape[2:])
    patches = image.reshape(x, factor, y, factor, z, factor).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(x * y * z, factor**3)
