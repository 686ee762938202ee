"""Train the autoencoder: the image compressor, which sees subjects with and without tumors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from vcm.data import simulate
from vcm.data.cohort import Cohort, simulated_cohort
from vcm.metrics import measure_band_energy, psnr
from vcm.modalities.names import FLAIR, T2
from vcm.model.autoencoder import Autoencoder
from vcm.train.crops import Lesion, draw_place, draw_window, find_lesions, weigh_inside
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.mini import AUTOENCODER

AUTOENCODER_LOOP = LoopConfig(steps=2600, learning_rate=1.5e-3, save_every=100, validate_every=400, ema_decay=0.998)
HELD_OUT_SUBJECTS = 40
VALIDATED_SUBJECTS = 8
CODE_SUBJECTS = 60
"""Their cubes give the linear code; its 64 numbers for each channel need no more."""

CONTRASTS = ("t1", T2, FLAIR)
"""Of the cohort that autoencoder and VCM share, so that it is simulated once; the autoencoder reads the first."""


@dataclass(frozen=True)
class AutoencoderRecipe:
    """What the autoencoder learns from, and for how long.

    - `crop`, `batch_size`: cubes of so many voxels an edge, so many a step, three in four around a lesion. Lesions of
      every size are drawn as often as each other.
    - `border`: voxels along a cut that do not count, since a whole volume has more to see there.
    - `lesion_weights`: the least and the largest weight of a lesion's voxels, beside 1 elsewhere; it falls with the
      root of the lesion's size from `lesion_weight` at 500 voxels.
    - `starting_log_variance` of the latent: a code that starts as pure noise learns slowly.
    """

    subjects: int = 600
    loop: LoopConfig = AUTOENCODER_LOOP
    crop: int = 48
    batch_size: int = 4
    lesion_share: float = 0.75
    border: int = 6
    lesion_weight: float = 15.0
    lesion_weights: tuple[float, float] = (4.0, 40.0)
    starting_log_variance: float = -8.0
    kl_weight: float = 1e-6


def train_autoencoder(
    out: str | Path,
    *,
    recipe: AutoencoderRecipe | None = None,
    resume: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Autoencoder:
    """Train on crops of simulated contrast-enhanced T1 volumes; returns the averaged network.

    Args:
        out: folder for state, log and pictures.
        cache: folder for the simulated cohort, `out` by default.
        initial: weights to start from, instead of random ones.
    """
    recipe = recipe or AutoencoderRecipe()
    first = simulate.VALIDATION_SEEDS.start
    cohort = simulated_cohort(cache or out, range(recipe.subjects), CONTRASTS)
    held_out = simulated_cohort(cache or out, range(first, first + HELD_OUT_SUBJECTS), CONTRASTS)
    lesions = find_lesions(cohort)
    torch.manual_seed(recipe.loop.seed)
    network = Autoencoder(**AUTOENCODER)
    nn.init.constant_(network.get_parameter("quant_conv_log_sigma.conv.bias"), recipe.starting_log_variance)
    if network.linear_code:
        network.set_linear_code(torch.from_numpy(np.asarray(cohort.images["t1"][:CODE_SUBJECTS]))[:, None])
    if initial is not None:
        network.load_state_dict(initial)

    def loss_function(network: Autoencoder, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        drawn = [draw_crop(cohort, lesions, recipe, random) for _ in range(recipe.batch_size)]
        image, weight = (
            torch.stack(each)[:, None].to(device, memory_format=torch.channels_last_3d)
            for each in zip(*drawn, strict=True)
        )
        mean, sigma = network.encode(image)
        noise = torch.randn(mean.shape, generator=random).to(device)
        restored = network.decode(mean + sigma * noise).float()
        mean, sigma = mean.float(), sigma.float()
        divergence = 0.5 * (mean**2 + sigma**2 - 2 * sigma.log() - 1).mean()
        with torch.no_grad():
            square, inside, lesion = (restored - image) ** 2, weight > 0, weight > 2
            figures = {
                "squared_error": (square[inside].mean()).item(),
                "squared_error_in_lesions": (square[lesion].sum() / lesion.sum().clamp_min(1)).item(),
                "divergence": divergence.item(),
            }
        loss = measure_restoration(restored, image, weight)
        return loss + recipe.kl_weight * divergence * image.numel() / mean.numel(), figures

    def validate(network: Autoencoder, step: int) -> dict[str, float]:
        quality, energy = [], []
        for index in range(min(VALIDATED_SUBJECTS, len(held_out))):
            image = held_out.images["t1"][index].astype(np.float32)
            tensor = torch.from_numpy(image)[None, None].to(device).contiguous(memory_format=torch.channels_last_3d)
            restored = network.decode(network.encode(tensor)[0])[0, 0].float().clamp(0, 1).cpu().numpy()
            quality.append(psnr(restored, image))
            energy.append(measure_band_energy(restored) / measure_band_energy(image))
        return {"psnr_db": float(np.mean(quality)), "upper_band": float(np.mean(energy))}

    return run_loop(network, loss_function, recipe.loop, out, resume=resume, device=device, validate=validate)


def measure_restoration(restored: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted error of an image and of its gradients; all three are (B, 1, X, Y, Z).

    Absolute errors keep edges, squares keep large errors rare, and gradients keep the upper band, which both others
    would rather blur.
    """
    error = restored - image
    total = (weight * (error.abs() + 4 * error**2)).mean()
    for axis in (2, 3, 4):
        steepness = (restored.diff(dim=axis) - image.diff(dim=axis)).abs()
        total = total + (steepness * weight.narrow(axis, 1, weight.shape[axis] - 1)).mean() / 3
    return total / weight.mean()


def draw_crop(
    cohort: Cohort, lesions: list[Lesion], recipe: AutoencoderRecipe, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a cube of an image, mirrored half the time, with its weights: both float32 (x, y, z)."""
    shape = cohort.tumor.shape[1:]
    middle: tuple[int, ...]
    if lesions and torch.rand(1, generator=random) < recipe.lesion_share:
        lesion = lesions[int(torch.randint(len(lesions), (1,), generator=random))]
        subject, middle = lesion.subject, lesion.middle
    else:
        subject = int(torch.randint(len(cohort), (1,), generator=random))
        middle = draw_place(shape, random)
    window = draw_window(middle, recipe.crop, shape, random, jitter=recipe.crop // 4, step=4)
    image = np.asarray(cohort.images["t1"][subject][window], np.float32)
    tumor = np.asarray(cohort.tumor[subject][window]) > 0
    weight = np.ones_like(image)
    if tumor.any():
        extra = np.clip(recipe.lesion_weight * math.sqrt(500 / tumor.sum()), *recipe.lesion_weights)
        weight += extra * ndimage.binary_dilation(tumor, ndimage.generate_binary_structure(3, 1))
    weight *= weigh_inside(window, shape, recipe.border)
    if torch.rand(1, generator=random) < 0.5:
        image, weight = image[::-1], weight[::-1]
    return torch.from_numpy(image.copy()), torch.from_numpy(weight.copy())
