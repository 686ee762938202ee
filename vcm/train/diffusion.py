"""Train the diffusion network of the backbone, on tumor-free subjects only, as BrainLDM was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vcm.data import simulate
from vcm.data.cohort import Cohort, simulated_cohort
from vcm.model.backbone import Backbone
from vcm.model.config import ModelConfig
from vcm.model.denoiser import Denoiser
from vcm.runtime.tuning import tune
from vcm.train.latents import cached_pair, measure_whitening
from vcm.train.loop import LoopConfig, run_loop

FIRST_SEED = 10_000
"""Seeds below are for the autoencoder and the VCM, so that the backbone has not seen their anatomies."""

SMALLEST_BRAIN_SHARE = 0.05


DIFFUSION_LOOP = LoopConfig(
    steps=3000, learning_rate=8e-4, save_every=50, validate_every=500, ema_decay=0.998, kernel_rate=2e-3
)
"""Muon: after 480 s of one core the validation loss is 0.726, with AdamW alone 0.745, where Muon was after 330 s."""


@dataclass(frozen=True)
class DiffusionRecipe:
    """What the diffusion network learns from, and for how long.

    - `ventricle_weight`: of latent cells where most subjects have ventricles, beside 1 elsewhere. They are one cell in
      a hundred: unweighted, what the covariate says about their size is not heard.
    """

    subjects: int = 1000
    loop: LoopConfig = DIFFUSION_LOOP
    batch_size: int = 4
    ventricle_weight: float = 8.0


def train_diffusion(
    out: str | Path,
    config: ModelConfig,
    autoencoder: nn.Module,
    *,
    recipe: DiffusionRecipe | None = None,
    resume: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Backbone:
    """Train on whitened latents of simulated tumor-free subjects and of their mirror images.

    Returns the backbone with averaged weights.

    Args:
        out: folder for state, log and latents.
        autoencoder: the trained one; it stays as it is.
        cache: folder for the simulated cohort, `out` by default.
        initial: weights of the diffusion network to start from, instead of random ones.
    """
    recipe = recipe or DiffusionRecipe()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = Backbone(config.backbone, config.latent_shape).to(device)
    backbone.autoencoder.load_state_dict(autoencoder.state_dict())
    if initial is not None:
        backbone.diffusion.load_state_dict(initial)
    tune(backbone)

    cohorts = {
        "training": training_seeds(recipe),
        "validation": range(simulate.VALIDATION_SEEDS.start + 100, simulate.VALIDATION_SEEDS.start + 132),
    }
    simulated = {
        name: simulated_cohort(cache or out, seeds, ("t1",), with_tumor=False) for name, seeds in cohorts.items()
    }
    weight = _weigh_ventricles(simulated["training"], config.latent_shape[1:], recipe.ventricle_weight).to(device)
    latents, contexts = {}, {}
    for name, cohort in simulated.items():
        latents[name] = cached_pair(folder / f"latents-{name}", backbone.autoencoder, cohort.images["t1"], device)
        contexts[name] = torch.from_numpy(cohort.context.copy())[:, None].repeat(2, 1, 1)  # (2 N, 1, 4)
    if config.backbone.whitening:
        backbone.set_whitening(*(part.to(device) for part in measure_whitening(latents["training"])))
    latents = {name: backbone.normalize(means.to(device)) for name, means in latents.items()}

    def measure(name: str, chosen: Tensor | slice, random: torch.Generator) -> Tensor:
        return denoising_loss(backbone, latents[name][chosen], contexts[name][chosen], weight, random, device)

    def loss_function(network: Denoiser, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(latents["training"]), (recipe.batch_size,), generator=random)
        return measure("training", chosen, random), {}

    def validate(network: Denoiser, step: int) -> dict[str, float]:
        backbone.diffusion = network
        random = torch.Generator().manual_seed(1)
        count = len(latents["validation"])
        losses = [measure("validation", slice(i, i + 8), random).item() for i in range(0, count, 8)]
        backbone.diffusion = trained
        return {"loss": sum(losses) / len(losses)}

    # The trainer thaws the network that the backbone holds frozen.
    trained = backbone.diffusion.requires_grad_(True)
    averaged = run_loop(trained, loss_function, recipe.loop, out, resume=resume, device=device, validate=validate)
    backbone.diffusion = averaged
    return backbone.requires_grad_(False)


def find_brain_region(cache: str | Path, recipe: DiffusionRecipe) -> NDArray[np.bool_]:
    """Return where at least one in twenty of the training subjects has brain, (X, Y, Z) on the mini grid."""
    cohort = simulated_cohort(cache, training_seeds(recipe), ("t1",), with_tumor=False)
    return _share(anatomy > 0 for anatomy in cohort.anatomy) >= SMALLEST_BRAIN_SHARE


def training_seeds(recipe: DiffusionRecipe) -> range:
    """Return the seeds of the subjects that the diffusion network learns from."""
    return range(FIRST_SEED, FIRST_SEED + recipe.subjects)


def _weigh_ventricles(cohort: Cohort, cells: tuple[int, int, int], ventricle_weight: float) -> Tensor:
    """Return the weight of each latent cell, (1, 1, x, y, z): 1, and more where ventricles are common."""
    share = _share(anatomy == simulate.VENTRICLES for anatomy in cohort.anatomy[:200])
    both_sides = torch.from_numpy((share + share[::-1]) / 2)[None, None]
    pooled = nn.functional.adaptive_avg_pool3d(both_sides, cells)
    return 1 + (ventricle_weight - 1) * pooled / pooled.max()


def _share(masks: Iterable[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Return in which share of the masks each voxel is set, (X, Y, Z)."""
    share: NDArray[np.float32] = np.mean(np.stack(list(masks)), axis=0, dtype=np.float32)
    return share


def denoising_loss(
    backbone: Backbone, latent: Tensor, context: Tensor, weight: Tensor, random: torch.Generator, device: str
) -> Tensor:
    """Weighted squared error of the network's own prediction, over timesteps spread evenly across the batch."""
    count = len(latent)
    noise = torch.randn(latent.shape, generator=random).to(device)
    timesteps = stratified_timesteps(count, len(backbone.alphas_cumprod), random).to(device)
    noisy = backbone.add_noise(latent, noise, timesteps)
    prediction = backbone.predict_raw(noisy, timesteps, context.to(device))
    error = (prediction - backbone.training_target(latent, noise, timesteps)) ** 2
    return (weight * error).mean() / weight.mean()


def stratified_timesteps(count: int, num_train_timesteps: int, random: torch.Generator) -> Tensor:
    """Return `count` timesteps, one from each of as many equal parts of the schedule: less noise in the gradient."""
    positions = (torch.arange(count) + torch.rand(count, generator=random)) / count
    return (positions * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)
