"""Train a VCM on a frozen backbone: the paper's objective on crops of latents, with modality latent drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.data import simulate
from vcm.data.cohort import Cohort, simulated_cohort
from vcm.data.own_data import OwnCohort
from vcm.modalities.image_conditions import list_contrasts
from vcm.modalities.names import ANATOMY, FLAIR, LOWRES, PARTIAL, T2, TUMOR
from vcm.model.backbone import Backbone
from vcm.model.condition_encoder import draw_modality_keep
from vcm.model.config import AdapterConfig
from vcm.model.vcm import VCM, modulate
from vcm.runtime.tuning import tune
from vcm.train.autoencoder import CONTRASTS, HELD_OUT_SUBJECTS
from vcm.train.crops import Lesion, draw_place, draw_window, find_lesions, weigh_inside
from vcm.train.foreign import Placement
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.objective import Noised, measure_error, measure_size
from vcm.train.pairs import Pairs
from vcm.train.pictures import render_validation, save_picture
from vcm.train.prior_cache import NOISES, PriorCache

VCM_LOOP = LoopConfig(
    steps=16000, learning_rate=1.5e-3, warmup_steps=200, save_every=100, validate_every=1000, ema_decay=0.999
)

OWN_DATA_LOOP = LoopConfig(
    steps=2000, learning_rate=5e-4, warmup_steps=50, save_every=100, validate_every=100, ema_decay=0.99, patience=5
)
"""For a few subjects of one's own, usually from the weights of a VCM that was trained on these conditions before."""

OWN_DATA_PASSES = 6
"""As `VCMRecipe.passes`: of few subjects, each is noised more often."""

ALONE = {TUMOR: 0.3, ANATOMY: 0.08, PARTIAL: 0.05, LOWRES: 0.05, T2: 0.03, FLAIR: 0.03}
"""How often a sample keeps only this condition. The tumor alone is what people give most, and hardest to learn."""

DROP_PROBABILITY = 0.65
"""Of six conditions most people give one or two, and with half of them dropped hardly a sample would keep so few."""

HELD_OUT = 16
"""Simulated subjects that a VCM is validated on."""


@dataclass(frozen=True)
class VCMRecipe:
    """What a VCM learns from, and how.

    - `passes`: how often each subject and its mirror image is noised, at `prior_cache.NOISES` levels each time.
    - `batch_size`: subjects a step, each at all noise levels of one pass.
    - `crop`: edge of a crop, in latent cells; a VCM with GroupNorm reads whole latents instead.
    - `border`: cells along a cut that do not count, since a whole latent has more to see there.
    - `lesion_share`: of the crops that lie around a lesion, in subjects that have one.
    - `alone`: how often a sample keeps only the condition named.
    - `drop_probability`: of each modality in each other sample (modality latent drop); one always stays.
    - `tumor_weight`: of latent cells inside the tumor, beside 1 elsewhere; lesions fill few cells.
    - `regularization`: lambda of the paper, on the mean magnitude of scale and shift.
    """

    subjects: int = 600
    loop: LoopConfig = VCM_LOOP
    passes: int = 2
    batch_size: int = 4
    crop: int = 12
    border: int = 1
    lesion_share: float = 0.8
    alone: Mapping[str, float] = field(default_factory=lambda: dict(ALONE))
    drop_probability: float = DROP_PROBABILITY
    tumor_weight: float = 25.0
    regularization: float = 1e-3


@dataclass(frozen=True, eq=False)
class Material:
    """What a VCM learns from: pairs, what the prior predicts for them, and where their lesions are.

    - `crop`: edge of a crop in latent cells, None for whole latents; `factor`: voxels along an axis of a latent cell.
    """

    backbone: Backbone
    pairs: Pairs
    cache: PriorCache
    lesions: Mapping[int, Sequence[Lesion]]
    crop: int | None
    factor: int


def train_vcm(
    out: str | Path,
    backbone: Backbone,
    config: AdapterConfig,
    *,
    recipe: VCMRecipe | None = None,
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
    recipe = recipe or VCMRecipe()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tune(backbone.to(device))
    pairs, held_out_pairs, affine = find_pairs(folder, backbone, config, recipe.subjects, device, cache, placement, own)
    training = _prepare(folder, backbone, config, recipe, pairs, recipe.passes * len(pairs))
    held_out = _prepare(folder, backbone, config, recipe, held_out_pairs, len(held_out_pairs))
    batch_size = min(recipe.batch_size, len(training.cache))
    torch.manual_seed(recipe.loop.seed)
    network = VCM(config)
    network.look_through(backbone)
    if initial is not None:
        network.load_state_dict(dict(initial))

    def loss_function(network: VCM, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        numbers = torch.randint(len(training.cache), (batch_size,), generator=random).tolist()
        return measure_loss(network, training, numbers, recipe, random)

    def validate(network: VCM, step: int) -> dict[str, float]:
        random = torch.Generator().manual_seed(1)
        totals: dict[str, float] = {}
        for start in range(0, len(held_out.cache), batch_size):
            numbers = list(range(start, min(start + batch_size, len(held_out.cache))))
            loss, figures = measure_loss(network, held_out, numbers, recipe, random)
            share = len(numbers) / len(held_out.cache)
            for name, value in {"loss": loss.item(), **figures}.items():
                totals[name] = totals.get(name, 0.0) + share * value
        if own is not None:
            picture = _render_first(network, backbone, held_out_pairs, affine, random)
            save_picture(folder / f"validation-{step:06d}.png", picture)
        return totals

    options: dict[str, Any] = {"resume": resume, "device": device, "validate": validate, "board": own is not None}
    return run_loop(network, loss_function, recipe.loop, out, **options)


def _prepare(
    folder: Path, backbone: Backbone, config: AdapterConfig, recipe: VCMRecipe, pairs: Pairs, entries: int
) -> Material:
    lesions: dict[int, list[Lesion]] = {}
    for lesion in find_lesions(pairs.cohort):
        lesions.setdefault(lesion.subject, []).append(lesion)
    return Material(
        backbone=backbone,
        pairs=pairs,
        cache=PriorCache(folder, backbone, pairs, entries),
        lesions=lesions,
        # GroupNorm takes its statistics from the whole latent: what it learns on crops is wrong on latents.
        crop=recipe.crop if config.norm == "channel" else None,
        factor=backbone.config.downsampling_factor,
    )


def find_pairs(
    folder: Path,
    backbone: Backbone,
    config: AdapterConfig,
    subjects: int,
    device: str,
    cache: str | Path | None,
    placement: Placement | None,
    own: OwnCohort | None,
) -> tuple[Pairs, Pairs, NDArray]:
    """Return the pairs to learn from, those that are held out, and their affine; see `train_vcm` for the arguments."""

    def find_cohort(seeds: range) -> Cohort:
        contrasts = ("t1", *list_contrasts(config.condition_channels))
        # The cohort of the autoencoder has all contrasts: it is read again rather than simulated without some.
        cohort = simulated_cohort(cache or folder, seeds, CONTRASTS if len(contrasts) > 1 else contrasts)
        return cohort if placement is None else placement.apply(cohort, cache or folder)

    if own is not None:
        affine, training, validation, prefix = own.grid.affine, own.training, own.held_out, f"latents-{own.key}"
    else:
        first = simulate.VALIDATION_SEEDS.start
        affine, prefix = simulate.AFFINE if placement is None else placement.target.affine, "latents"
        training = find_cohort(range(subjects))
        held_out_count = HELD_OUT_SUBJECTS if placement is None else HELD_OUT
        validation = find_cohort(range(first, first + held_out_count)).take(range(HELD_OUT))
    return (
        Pairs(folder / f"{prefix}-training", training, backbone, device, affine),
        Pairs(folder / f"{prefix}-held-out", validation, backbone, device, affine),
        affine,
    )


def measure_loss(
    network: VCM, material: Material, numbers: Sequence[int], recipe: VCMRecipe, random: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The objective on some entries of the cache, with the squared errors inside and outside tumors.

    The prior's own errors stand beside them.
    """
    pairs, device = material.pairs, material.pairs.device
    entries = [material.cache[number] for number in numbers]
    chosen = [entry.index for entry in entries]
    windows = [_draw_cells(material, index, recipe, random) for index in chosen]

    def crop(each: Sequence[Tensor]) -> Tensor:
        """Return what lies in the windows, (B NOISES, C, x, y, z), of each entry's (NOISES or 1, C, x, y, z)."""
        cut = [tensor[:, :, x, y, z] for tensor, (x, y, z) in zip(each, windows, strict=True)]
        return torch.cat([tensor.expand(NOISES, *tensor.shape[1:]) for tensor in cut]).to(device)

    timesteps = torch.cat([entry.timesteps for entry in entries]).to(device)
    alphas = material.backbone.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
    signal, noise_level = alphas.sqrt(), (1.0 - alphas).sqrt()
    clean, noise = crop([pairs.latents[index][None].cpu() for index in chosen]), crop([e.noise for e in entries])
    noised = Noised(
        clean=clean,
        latent=signal * clean + noise_level * noise,
        noise=noise,
        timesteps=timesteps,
        signal=signal,
        tumor_share=crop([pairs.tumor_share(index)[None] for index in chosen]),
        counted=crop([_weigh(material, window, recipe) for window in windows]),
    )
    epsilon = signal * crop([entry.velocity for entry in entries]) + noise_level * noised.latent
    voxels = [tuple(slice(s.start * material.factor, s.stop * material.factor) for s in window) for window in windows]
    keep = draw_modality_keep(network.modalities, len(chosen), recipe.drop_probability, random, recipe.alone)
    conditions = pairs.conditions(chosen, keep, random, voxels)
    features = network.encode_condition(conditions, keep=keep).repeat_interleave(NOISES, dim=0)
    eps_scale, eps_shift = network(noised.latent, epsilon, features, timesteps)
    error, figures = measure_error(modulate(epsilon, eps_scale, eps_shift), noised, recipe.tumor_weight)
    loss = error + recipe.regularization * measure_size(eps_scale, eps_shift, noised)
    _, prior = measure_error(epsilon, noised, recipe.tumor_weight)
    return loss, {**figures, "inside_prior": prior["inside"], "outside_prior": prior["outside"]}


def draw_conditions(
    pairs: Pairs, modalities: Sequence[str], chosen: list[int], recipe: VCMRecipe, random: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the conditions of some pairs, (B, C, X, Y, Z) each, and which of them each sample keeps, (B,) each."""
    keep = draw_modality_keep(modalities, len(chosen), recipe.drop_probability, random, recipe.alone)
    return pairs.conditions(chosen, keep, random), keep


def _draw_cells(
    material: Material, index: int, recipe: VCMRecipe, random: torch.Generator
) -> tuple[slice, slice, slice]:
    """Return a window of a pair's latent, in cells: around a lesion or anywhere."""
    cells = material.pairs.latents.shape[2:]
    if material.crop is None:
        x, y, z = (slice(0, n) for n in cells)
        return x, y, z
    mirrored, subject = divmod(index, len(material.pairs.cohort))
    lesions = material.lesions.get(subject, ())
    if lesions and torch.rand(1, generator=random) < recipe.lesion_share:
        middle = list(lesions[int(torch.randint(len(lesions), (1,), generator=random))].middle)
        if mirrored:
            middle[0] = material.pairs.cohort.tumor.shape[1] - 1 - middle[0]
        place = tuple(voxel // material.factor for voxel in middle)
    else:
        place = draw_place(cells, random)
    return draw_window(place, material.crop, cells, random, jitter=3, step=1)


def _weigh(material: Material, window: tuple[slice, slice, slice], recipe: VCMRecipe) -> Tensor:
    """Return which cells of the whole latent count in a window, (1, 1, x, y, z): those away from its cuts."""
    x, y, z = window
    cells = material.pairs.latents.shape[2:]
    counted = torch.zeros(1, 1, *cells)
    counted[0, 0, x, y, z] = torch.from_numpy(weigh_inside(window, cells, recipe.border))
    return counted


def _render_first(
    network: VCM, backbone: Backbone, pairs: Pairs, affine: NDArray, random: torch.Generator
) -> NDArray[np.uint8]:
    """Return a picture of the first subject, of what it is to become and of what is made of its conditions."""
    name = next((name for name in (TUMOR, ANATOMY) if name in network.modalities), network.modalities[0])
    conditions = pairs.conditions([0], {name: torch.tensor([True])}, random)
    _, context, _ = pairs.targets([0])
    target, tumor = (np.array(each[0]) for each in (pairs.cohort.images["t1"], pairs.cohort.tumor))
    return render_validation(backbone, network, target.astype(np.float32), tumor, affine, conditions, context)
