"""A convolution of a volume of twice the size, done at the size that it has."""

from __future__ import annotations

import torch
from monai.networks.blocks import UpSample
from torch import Tensor, nn
from torch.nn import functional

from vcm.runtime.convolution import Conv3d, conv3d

_AXES = (2, 3, 4)


class DoublingConv3d(Conv3d):
    """Repeats each voxel twice along each axis, then convolves with 3 x 3 x 3 weights.

    Of the three weights along an axis two fall on the same small voxel, and which two depends on the parity of the
    place: so it is eight convolutions of 2 x 2 x 2 on the small volume, with 8 multiplications a voxel in place of 27.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, C', 2 X, 2 Y, 2 Z) of an image (B, C, X, Y, Z)."""
        if image.device.type != "cpu":  # an accelerator waits for memory, not for its multipliers
            return super().forward(functional.interpolate(image, scale_factor=2.0, mode="nearest"))
        kernels = _by_parity(self.weight)
        bias = None if self.bias is None else self.bias.repeat(8)
        answers = conv3d(image, kernels.flatten(0, 1), bias, padding=(1, 1, 1))  # (B, 8 C', X + 1, Y + 1, Z + 1)
        return _interleave(answers, image)


def fuse_upsampling(network: nn.Module) -> None:
    """Let every convolution that follows a doubling by MONAI's UpSample do both at once; no weight changes."""
    for module in list(network.modules()):
        convolution = _find_convolution(module) if isinstance(module, UpSample) else None
        if convolution is not None:
            module.upsample_non_trainable = nn.Identity()
            convolution.__class__ = DoublingConv3d


def _find_convolution(module: UpSample) -> nn.Conv3d | None:
    """Return the convolution behind a doubling; None where it is another one, or more than that."""
    parts = dict(module.named_children())
    if parts.keys() != {"upsample_non_trainable", "postconv"}:
        return None
    repeat, behind = parts["upsample_non_trainable"], list(parts["postconv"].children())
    convolution = behind[0] if len(behind) == 1 else None
    if not (isinstance(repeat, nn.Upsample) and isinstance(convolution, nn.Conv3d)):
        return None
    fits = (
        repeat.mode == "nearest"
        and repeat.scale_factor == (2.0, 2.0, 2.0)
        and convolution.kernel_size == (3, 3, 3)
        and convolution.padding_mode == "zeros"
        and convolution.stride == convolution.padding == convolution.dilation == (1, 1, 1)
        and convolution.groups == 1
    )
    return convolution if fits else None


def _by_parity(weight: Tensor) -> Tensor:
    """Return the eight kernels (8, C', C, 2, 2, 2), those of even places along X first, then along Y, then along Z."""
    kernels = weight[None]
    for axis in reversed(_AXES):
        before, here, after = kernels.unbind(axis + 1)
        even = torch.stack([before, here + after], dim=axis + 1)
        odd = torch.stack([before + here, after], dim=axis + 1)
        kernels = torch.cat([even, odd])
    return kernels


def _interleave(answers: Tensor, image: Tensor) -> Tensor:
    """Return each kernel's answers at the places of its parity, (B, C', 2 X, 2 Y, 2 Z), in the image's own layout."""
    is_channels_last = image.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if is_channels_last else torch.contiguous_format
    (width, height, depth), channels = image.shape[2:], answers.shape[1] // 8
    shape = (len(image), channels, 2 * width, 2 * height, 2 * depth)
    output = torch.empty(shape, dtype=answers.dtype, device=answers.device, memory_format=layout)
    for index, answer in enumerate(answers.split(channels, dim=1)):
        x, y, z = index // 4, index // 2 % 2, index % 2
        output[:, :, x::2, y::2, z::2] = answer[:, :, x : x + width, y : y + height, z : z + depth]
    return output
