"""3D convolutions that run at full speed on a CPU, also at the sizes of a latent.

In float32, torch hands a convolution of one sample to oneDNN only where channels times the first two edges exceed
20,480 (`use_mkldnn` in ATen/native/Convolution.cpp); a latent's smaller ones fall to a routine of its own that copies
each neighborhood into a matrix and takes three to six times as long. In bfloat16 there is no such rule, nor in batches.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv3d(nn.Conv3d):
    """torch's Conv3d, with the same parameters and the same results but for rounding."""

    def _conv_forward(self, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(image, weight, bias)
        return conv3d(
            image, weight, bias, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )


def conv3d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
    dilation: tuple[int, ...] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """Return what torch's `conv3d` does for an image (B, C, X, Y, Z), by the fastest routine there is for it."""
    if _suits_onednn(image, weight):
        found: Tensor = torch.ops.aten.mkldnn_convolution(image, weight, bias, padding, stride, dilation, groups)
        return found
    return functional.conv3d(image, weight, bias, stride, padding, dilation, groups)


def use_fast_convolutions(network: nn.Module) -> None:
    """Turn every Conv3d of a network that others have written into one of ours; its weights stay as they are."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d


def start_at_zero(convolution: nn.Conv3d) -> nn.Conv3d:
    """Return a convolution after setting its weights and its bias to zero, so that it adds nothing until it learns."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


def _suits_onednn(image: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes it and is faster: of a single voxel a kernel makes a product of matrices, which torch is."""
    is_plain = image.device.type == "cpu" and image.dtype == weight.dtype == torch.float32 and image.ndim == 5
    if not is_plain or max(weight.shape[2:]) == 1 or torch.is_autocast_enabled("cpu"):
        return False
    return bool(torch.backends.mkldnn.enabled) and _has_onednn_kernels()


@cache
def _has_onednn_kernels() -> bool:
    """Whether oneDNN brings convolutions of its own for this processor; elsewhere it has but its reference."""
    return torch.backends.mkldnn.is_available() and bool(torch.cpu.get_capabilities().get("avx2", False))
