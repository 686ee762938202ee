"""What a controlled noise estimate is measured by, the same for a VCM and for what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.model.backbone import Backbone
from vcm.train.diffusion import stratified_timesteps
from vcm.train.pairs import Pairs

_USUAL_CELLS = 30.0
_FEWEST_CELLS = 2.0


@dataclass(frozen=True, eq=False)
class Noised:
    """A batch of latents, or of crops of them, with noise added.

    - `clean`: z_0, (B, C, x, y, z); `noise`: what was added to it; `latent`: z_t, what came of it.
    - `timesteps`: (B,); `signal`: sqrt(a_t), (B, 1, 1, 1, 1).
    - `tumor_share`: of each latent cell, (B, 1, x, y, z).
    - `counted`: 1 for cells that count and 0 for others, (B, 1, x, y, z).
    """

    clean: Tensor
    latent: Tensor
    noise: Tensor
    timesteps: Tensor
    signal: Tensor
    tumor_share: Tensor
    counted: Tensor


def add_noise(pairs: Pairs, chosen: Sequence[int], backbone: Backbone, random: torch.Generator) -> Noised:
    """Return the whole latents of some pairs at timesteps spread evenly over the schedule."""
    clean, _, tumor_share = pairs.targets(chosen)
    noise = torch.randn(clean.shape, generator=random).to(clean.device)
    timesteps = stratified_timesteps(len(clean), len(backbone.alphas_cumprod), random).to(clean.device)
    return Noised(
        clean=clean,
        latent=backbone.add_noise(clean, noise, timesteps),
        noise=noise,
        timesteps=timesteps,
        signal=backbone.alphas_cumprod[timesteps].sqrt().reshape(-1, 1, 1, 1, 1),
        tumor_share=tumor_share,
        counted=torch.ones_like(tumor_share),
    )


def measure_error(epsilon: Tensor, noised: Noised, tumor_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Return the weighted squared error of a noise estimate (B, C, x, y, z), and the error inside and outside tumors.

    An error of epsilon over sqrt(a_t) is one of v: without it, what forms the lesion at high noise has no weight.

    Args:
        tumor_weight: of latent cells inside a tumor of usual size, beside 1 elsewhere. Cells of a smaller one weigh
            more: a tumor's weight grows as the root of its size, else those of a few cells would go unlearned.
    """
    error = ((epsilon - noised.noise) / noised.signal) ** 2
    weight = noised.counted * weigh_cells(noised.tumor_share * noised.counted, tumor_weight)
    loss = (weight * error).sum() / (weight.sum() * error.shape[1])
    with torch.no_grad():
        inside = (noised.tumor_share * noised.counted).expand_as(error)
        outside = ((1 - noised.tumor_share) * noised.counted).expand_as(error)
        figures = {"inside": _mean(error, inside), "outside": _mean(error, outside)}
    return loss, figures


def weigh_cells(tumor_share: Tensor, tumor_weight: float) -> Tensor:
    """Return the weight of each latent cell, (B, 1, x, y, z); see `measure_error`."""
    cells = tumor_share.sum((1, 2, 3, 4), keepdim=True).clamp_min(_FEWEST_CELLS)
    return 1 + (tumor_weight - 1) * tumor_share * (_USUAL_CELLS / cells).sqrt()


def measure_size(eps_scale: Tensor, eps_shift: Tensor, noised: Noised) -> Tensor:
    """Return the mean magnitude of scale and shift, which the paper's lambda weighs, as that of a change of v."""
    return (eps_scale.abs().mean() + eps_shift.abs().mean()) / noised.signal.mean()


def _mean(values: Tensor, weights: Tensor) -> float:
    return ((values * weights).sum() / weights.sum().clamp_min(1e-6)).item()
