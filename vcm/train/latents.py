"""Latents of a cohort: made once by the frozen autoencoder, then read at every training step."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vcm.data.cohort import cached_tensor
from vcm.model.autoencoder import Autoencoder
from vcm.runtime.precision import autocast
from vcm.weights.checkpoint import hash_weights

logger = logging.getLogger(__name__)

_ENCODER = ("encoder.", "quant_conv_mu.")
"""How the names of the weights begin that a latent's mean depends on."""

WHITENING_FLOOR_SHARE = 0.3
"""The least deviation of a cell, as a share of its channel's typical one: air hardly varies, and would be amplified."""


@torch.no_grad()
def encode_images(autoencoder: Autoencoder, images: np.ndarray, device: str, mirrored: bool = False) -> Tensor:
    """Return the encoder's means, float32 (N, C, x, y, z) on the CPU, of images (N, X, Y, Z) in [0, 1].

    Args:
        mirrored: swap left and right first.
    """
    from tqdm import tqdm

    means = []
    for image in tqdm(images, unit="volume", desc="encoding"):
        tensor = torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None].to(device)
        if mirrored:
            tensor = tensor.flip(2)
        with autocast(device):
            mean, _ = autoencoder.encode(tensor.contiguous(memory_format=torch.channels_last_3d))
        means.append(mean.float().cpu())
    return torch.cat(means)


def cached_pair(prefix: Path, autoencoder: Autoencoder, images: np.ndarray, device: str) -> Tensor:
    """Read or make the latents of images as they are, then of their mirror images: (2 N, C, x, y, z).

    An encoder with other weights makes them anew; a decoder that has learned on leaves them as they are.
    """
    name = f"{prefix.name}-{len(images)}-{hash_weights(autoencoder, _ENCODER)[:12]}"
    return torch.cat(
        [
            cached_tensor(
                prefix.with_name(f"{name}{'-mirrored' * mirrored}.pt"),
                partial(encode_images, autoencoder, images, device, mirrored),
            )
            for mirrored in (False, True)
        ]
    )


def measure_whitening(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the voxelwise mean and floored deviation, each (C, x, y, z), of latents (N, C, x, y, z)."""
    mean, deviation = means.mean(0), means.std(0)
    typical = deviation.square().mean((1, 2, 3), keepdim=True).sqrt()
    return mean, torch.maximum(deviation, WHITENING_FLOOR_SHARE * typical)
