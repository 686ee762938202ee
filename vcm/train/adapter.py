"""Train a VCM on a frozen backbone: the paper's objective, with modality latent drop and region weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vcm import affines, simulate
from vcm.adapter import VCM, modulate
from vcm.backbone import Backbone
from vcm.condition_encoder import draw_modality_keep
from vcm.conditions import encode_one_hot
from vcm.config import AdapterConfig
from vcm.dataset import Cohort, simulated_cohort
from vcm.image_conditions import encode_image, encode_partial, measure_range, scale_intensities
from vcm.precision import autocast, use_channels_last
from vcm.train.degrade import SLICE_FACTORS, draw_hole, thicken_slices
from vcm.train.diffusion import stratified_timesteps
from vcm.train.foreign import Placement
from vcm.train.latents import cached_pair
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.own_data import OwnCohort
from vcm.train.pictures import render_validation, save_picture

ADAPTER_LOOP = LoopConfig(
    steps=6000, learning_rate=2e-3, warmup_steps=50, save_every=100, validate_every=250, ema_decay=0.997
)

OWN_DATA_LOOP = LoopConfig(
    steps=2000, learning_rate=5e-4, warmup_steps=50, save_every=100, validate_every=100, ema_decay=0.99, patience=5
)
"""For a few subjects of one's own, usually from the weights of a VCM that knows the conditions already."""

CONTRASTS = ("t2", "flair")
"""Conditions that are scans of their own."""

ALONE = {"tumor": 0.32, "anatomy": 0.1, "partial": 0.06, "lowres": 0.04, "t2": 0.04, "flair": 0.04}
"""How often a sample keeps only this condition. The tumor alone is what people give most, and hardest to learn."""


@dataclass(frozen=True)
class AdapterRecipe:
    """What a VCM learns from, and how.

    - `alone`: how often a sample keeps only the condition named.
    - `drop_probability`: of each modality in each other sample (modality latent drop); one always stays.
    - `tumor_weight`: of latent cells inside the tumor, beside 1 elsewhere; lesions fill few cells.
    - `regularization`: lambda of the paper, on the mean magnitude of scale and shift.
    """

    subjects: int = 600
    loop: LoopConfig = ADAPTER_LOOP
    batch_size: int = 4
    alone: Mapping[str, float] = field(default_factory=lambda: dict(ALONE))
    drop_probability: float = 0.5
    tumor_weight: float = 25.0
    regularization: float = 1e-3


def train_adapter(
    out: str | Path,
    backbone: Backbone,
    config: AdapterConfig,
    *,
    recipe: AdapterRecipe | None = None,
    resume: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
    placement: Placement | None = None,
    own: OwnCohort | None = None,
) -> VCM:
    """Train on subjects with tumors, seen as they are and mirrored; returns the averaged VCM.

    Args:
        out: folder for state, log and latents.
        backbone: frozen; no gradient reaches it.
        cache: folder for the simulated cohort, `out` by default.
        initial: weights of the VCM to start from, instead of random ones.
        placement: how the simulated cohort is brought to the backbone's grid, where that is another.
        own: subjects to learn from instead of simulated ones; each validation then leaves a picture in `out`.
    """
    recipe = recipe or AdapterRecipe()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = backbone.to(device)
    use_channels_last(backbone)

    def find_cohort(seeds: range) -> Cohort:
        contrasts = ("t1", *(name for name in CONTRASTS if name in config.condition_channels))
        cohort = simulated_cohort(cache or out, seeds, contrasts)
        return cohort if placement is None else placement.apply(cohort, cache or out)

    if own is not None:
        affine, training, validation, prefix = own.grid.affine, own.training, own.held_out, f"latents-{own.key}"
    else:
        first = simulate.VALIDATION_SEEDS.start
        affine, prefix = simulate.AFFINE if placement is None else placement.target.affine, "latents"
        training, validation = find_cohort(range(recipe.subjects)), find_cohort(range(first, first + 16))
    spacing_mm: tuple[float, float, float] = tuple(affines.spacing_mm(affine).tolist())
    pairs = _Pairs(folder / f"{prefix}-training", training, backbone, device, spacing_mm)
    held_out = _Pairs(folder / f"{prefix}-held-out", validation, backbone, device, spacing_mm)
    batch_size = min(recipe.batch_size, len(pairs))
    torch.manual_seed(recipe.loop.seed)
    adapter = VCM(config)
    if initial is not None:
        adapter.load_state_dict(initial)

    def loss_function(network: VCM, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.multinomial(pairs.sampling_weights, batch_size, generator=random).tolist()
        return _loss(network, backbone, pairs, chosen, recipe, random, device)

    def validate(network: VCM, step: int) -> dict[str, float]:
        random = torch.Generator().manual_seed(1)
        totals: dict[str, float] = {}
        for start in range(0, len(held_out), 4):
            chosen = list(range(start, min(start + 4, len(held_out))))
            loss, figures = _loss(network, backbone, held_out, chosen, recipe, random, device)
            share = len(chosen) / len(held_out)
            for name, value in {"loss": loss.item(), **figures}.items():
                totals[name] = totals.get(name, 0.0) + share * value
        if own is not None:
            save_picture(folder / f"validation-{step:06d}.png", _draw(network, backbone, held_out, affine, random))
        return totals

    options: dict[str, Any] = {"resume": resume, "device": device, "validate": validate, "board": own is not None}
    return run_loop(adapter, loss_function, recipe.loop, out, **options)


def _draw(
    adapter: VCM, backbone: Backbone, pairs: _Pairs, affine: NDArray, random: torch.Generator
) -> NDArray[np.uint8]:
    """Return a picture of the first subject, of what it is to become and of what is made of its conditions."""
    name = next((name for name in ("tumor", "anatomy") if name in adapter.modalities), adapter.modalities[0])
    conditions = pairs.conditions([0], {name: torch.tensor([True])}, random)
    _, context, _ = pairs.targets([0])
    target, tumor = (np.array(each[0]) for each in (pairs.cohort.images["t1"], pairs.cohort.tumor))
    return render_validation(backbone, adapter, target.astype(np.float32), tumor, affine, conditions, context)


def _loss(
    adapter: VCM,
    backbone: Backbone,
    pairs: _Pairs,
    chosen: list[int],
    recipe: AdapterRecipe,
    random: torch.Generator,
    device: str,
) -> tuple[Tensor, dict[str, float]]:
    """The objective on some pairs, and the squared errors inside and outside the tumor beside the prior's own."""
    keep = draw_modality_keep(adapter.modalities, len(chosen), recipe.drop_probability, random, recipe.alone)
    latent, context, tumor_share = pairs.targets(chosen)
    conditions = pairs.conditions(chosen, keep, random)
    noise = torch.randn(latent.shape, generator=random).to(device)
    timesteps = stratified_timesteps(len(latent), len(backbone.alphas_cumprod), random).to(device)
    noisy = backbone.add_noise(latent, noise, timesteps)
    with torch.no_grad():
        epsilon = backbone.predict_epsilon(noisy, timesteps, context)
    features = adapter.encode_condition(conditions, keep=keep)
    eps_scale, eps_shift = adapter(noisy, epsilon, features, timesteps)
    controlled = modulate(epsilon, eps_scale, eps_shift)

    # An error of epsilon over sqrt(a_t) is one of v: without it, what forms the lesion at high noise has no weight.
    level = backbone.alphas_cumprod[timesteps].sqrt().reshape(-1, 1, 1, 1, 1)
    error = ((controlled - noise) / level) ** 2
    weight = 1 + (recipe.tumor_weight - 1) * tumor_share
    size = (eps_scale.abs().mean() + eps_shift.abs().mean()) / level.mean()
    loss = (weight * error).sum() / (weight.sum() * error.shape[1]) + recipe.regularization * size

    with torch.no_grad():
        prior = ((epsilon - noise) / level) ** 2
        inside, outside = tumor_share.expand_as(error), (1 - tumor_share).expand_as(error)
        figures = {
            "inside": _mean(error, inside),
            "inside_prior": _mean(prior, inside),
            "outside": _mean(error, outside),
            "outside_prior": _mean(prior, outside),
        }
    return loss, figures


def _mean(values: Tensor, weights: Tensor) -> float:
    return ((values * weights).sum() / weights.sum().clamp_min(1e-6)).item()


class _Pairs:
    """Normalised latents of a cohort and its mirror image, with the conditions that belong to them."""

    def __init__(
        self, prefix: Path, cohort: Cohort, backbone: Backbone, device: str, spacing_mm: tuple[float, float, float]
    ) -> None:
        self.cohort = cohort
        self.device = device
        self.spacing_mm = spacing_mm
        means = cached_pair(prefix, backbone.autoencoder, cohort.images["t1"], device)
        self.latents = backbone.normalize(means.to(device))
        self.contexts = torch.from_numpy(cohort.context.copy())[:, None].to(device)  # (N, 1, 4)
        # Most tumors fill a few dozen of eleven thousand latent cells: seen evenly, they teach little in a step.
        sizes = torch.tensor([float(np.count_nonzero(tumor)) for tumor in cohort.tumor])
        self.sampling_weights = (sizes + sizes.mean() / 4 if sizes.any() else torch.ones(len(sizes))).repeat(2)

    def __len__(self) -> int:
        return len(self.latents)

    def targets(self, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents, contexts, and the tumor's share of each latent cell (B, 1, x, y, z)."""
        latent = self.latents[chosen]
        tumors = torch.stack([torch.from_numpy(self._oriented(self.cohort.tumor, index) > 0) for index in chosen])
        width, height, depth = latent.shape[2:]
        share = functional.adaptive_avg_pool3d(tumors[:, None].float(), (width, height, depth))
        context = self.contexts[[index % len(self.cohort) for index in chosen]]
        return latent, context, share.to(self.device)

    def conditions(self, chosen: list[int], keep: Mapping[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
        """Return the conditions, (B, C, X, Y, Z) each, of the samples that keep them; others' are zero."""
        stacked = {}
        for name, kept in keep.items():
            tensors = [
                self._condition(name, index, random) if bool(wanted) else None
                for index, wanted in zip(chosen, kept, strict=True)
            ]
            like = next((tensor for tensor in tensors if tensor is not None), None)
            if like is None:
                continue
            batch = torch.stack([torch.zeros_like(like) if tensor is None else tensor for tensor in tensors])
            stacked[name] = batch.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        return stacked

    def _condition(self, name: str, index: int, random: torch.Generator) -> Tensor:
        """Return one condition of one subject, (C, X, Y, Z), as a user's volume would become."""
        tumor = self._oriented(self.cohort.tumor, index)
        if name == "tumor":
            return encode_one_hot(tumor, 3)
        if name == "anatomy":
            # A person draws on healthy anatomy, but a tumor has pushed tissue away: show both.
            before = bool(torch.rand(1, generator=random) < 0.5)
            anatomy = self._oriented(self.cohort.anatomy_before if before else self.cohort.anatomy, index)
            return encode_one_hot(np.where(tumor > 0, np.uint8(0), anatomy), 4)
        image = self._oriented(self.cohort.images[name if name in CONTRASTS else "t1"], index).astype(np.float32)
        if name == "lowres":
            factor = SLICE_FACTORS[int(torch.randint(len(SLICE_FACTORS), (1,), generator=random))]
            offset = int(torch.randint(factor, (1,), generator=random))
            image = thicken_slices(torch.from_numpy(image), factor, offset).numpy()
        scaled = scale_intensities(image, measure_range(image))
        if name == "partial":
            hole = draw_hole(tumor, self._oriented(self.cohort.anatomy, index), self.spacing_mm, random)
            return encode_partial(scaled, hole)
        return encode_image(scaled)

    def _oriented(self, volumes: np.ndarray, index: int) -> np.ndarray:
        """Return one subject's volume (X, Y, Z), left and right swapped in the second half of the indices."""
        volume = np.asarray(volumes[index % len(self.cohort)])
        return volume[::-1].copy() if index >= len(self.cohort) else volume


def measure_overhead(backbone: Backbone, adapter: VCM, repeats: int = 9) -> float:
    """Return the VCM's time a step over the backbone's, medians of interleaved single-thread runs on the CPU."""
    import time

    shape = (1, *backbone.latent_shape)
    latent, timesteps, context = torch.randn(shape), torch.tensor([500]), torch.rand(1, 1, 4)
    features = torch.randn(1, adapter.config.encoded_channels, *shape[2:])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"backbone": [], "adapter": []}
    try:
        with torch.no_grad(), autocast("cpu"):
            for _ in range(repeats):
                start = time.process_time()
                epsilon = backbone.predict_epsilon(latent, timesteps, context)
                middle = time.process_time()
                adapter(latent, epsilon, features, timesteps)
                times["backbone"].append(middle - start)
                times["adapter"].append(time.process_time() - middle)
    finally:
        torch.set_num_threads(threads)
    return float(np.median(times["adapter"]) / np.median(times["backbone"]))
