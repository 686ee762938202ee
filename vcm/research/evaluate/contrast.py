"""Measures that need no segmenter: how bright each label of a tumor is, and how far one step is from the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from vcm.data import simulate
from vcm.model.backbone import Backbone
from vcm.model.vcm import VCM, modulate
from vcm.sampler import initial_noise

RING_VOXELS = 3
LARGEST_MISS, LARGEST_SHARE = 0.06, 0.35
"""A contrast is right within the larger of the two: of intensities in [0, 1], and as a share of the original's."""

FEWEST_VOXELS = 8
"""A label or a ring of fewer voxels is not measured: its mean would be noise."""

LEVELS = (100, 300, 500, 700, 900)
"""Timesteps at which one step is compared with the truth."""

HEALTHY = (simulate.GRAY_MATTER, simulate.WHITE_MATTER)


def measure_contrasts(volume: NDArray, tumor: NDArray[np.uint8], anatomy: NDArray[np.uint8]) -> dict[int, float]:
    """Return each label's mean intensity minus that of healthy tissue in a ring around the lesion, by label.

    Args:
        volume: (X, Y, Z) in [0, 1].
        tumor: its labels.
        anatomy: labels of the tissue around it; gray and white matter count as healthy.

    Returns:
        Labels that have too few voxels, or too little healthy tissue around them, are left out.
    """
    lesion = tumor > 0
    reach = ndimage.binary_dilation(lesion, ndimage.generate_binary_structure(3, 1), iterations=RING_VOXELS)
    ring = reach & ~lesion & np.isin(anatomy, HEALTHY)
    if np.count_nonzero(ring) < FEWEST_VOXELS:
        return {}
    healthy = float(volume[ring].mean())
    return {
        int(label): float(volume[tumor == label].mean()) - healthy
        for label in np.unique(tumor[lesion])
        if np.count_nonzero(tumor == label) >= FEWEST_VOXELS
    }


def is_right(found: float, original: float) -> bool:
    """Return whether a contrast is as near to the original's as a person could see."""
    return abs(found - original) <= max(LARGEST_MISS, LARGEST_SHARE * abs(original))


@dataclass(frozen=True)
class StepError:
    """Mean squared errors of v at one noise level and label: with the VCM, and of the prior alone; 0 is background."""

    timestep: int
    label: int
    controlled: float
    prior: float


@torch.no_grad()
def measure_step_errors(
    backbone: Backbone,
    adapter: VCM,
    image: NDArray[np.float32],
    tumor: NDArray[np.uint8],
    conditions: Mapping[str, Tensor],
    context: Tensor,
    seed: int = 0,
) -> list[StepError]:
    """Return how far a single step is from the truth, for a subject whose image is known.

    Args:
        image: (X, Y, Z) in [0, 1] on the model grid.
        tumor: its labels; a cell belongs to a label as far as its voxels do.
        conditions: (1, C, X, Y, Z) each.
        context: covariates, (1, 1, 4).
        seed: of the noise.
    """
    device = backbone.alphas_cumprod.device
    clean = backbone.encode(torch.from_numpy(image)[None, None].to(device))
    features = adapter.encode_condition(conditions)
    noise = initial_noise(seed, backbone.latent_shape).to(device)
    cells = clean.shape[2:]
    shares = {}
    for label in (0, *np.unique(tumor[tumor > 0]).tolist()):
        mask = torch.from_numpy((tumor == label).astype(np.float32))[None, None].to(device)
        shares[int(label)] = functional.adaptive_avg_pool3d(mask, (cells[0], cells[1], cells[2]))
    errors = []
    for level in LEVELS:
        timesteps = torch.tensor([level], device=device)
        noisy = backbone.add_noise(clean, noise, timesteps)
        epsilon = backbone.predict_epsilon(noisy, timesteps, context)
        controlled = modulate(epsilon, *adapter(noisy, epsilon, features, timesteps))
        # An error of epsilon over sqrt(a_t) is one of v.
        signal = backbone.alphas_cumprod[level].sqrt()
        squares = [((estimate - noise) / signal) ** 2 for estimate in (controlled, epsilon)]
        for label, share in shares.items():
            means = [float((square * share).sum() / (share.sum() * square.shape[1])) for square in squares]
            errors.append(StepError(level, label, *means))
    return errors
