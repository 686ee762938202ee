"""Train a VCM on a frozen backbone: the paper's objective, with modality latent drop and region weights."""

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
from vcm.model.backbone import Backbone
from vcm.model.condition_encoder import draw_modality_keep
from vcm.model.config import AdapterConfig
from vcm.model.painter import PAINTER_PREFIX
from vcm.model.vcm import VCM, modulate
from vcm.runtime.tuning import tune
from vcm.train.foreign import Placement
from vcm.train.loop import STATE_FILE, LoopConfig, run_loop
from vcm.train.objective import add_noise, let_drift, measure_draft, measure_error, measure_size
from vcm.train.painter import PAINTER_LOOP, train_painter
from vcm.train.pairs import Pairs
from vcm.train.pictures import render_validation, save_picture
from vcm.train.strength import settle_strength
from vcm.train.team import find_team
from vcm.volume import affines

ADAPTER_LOOP = LoopConfig(
    steps=6000, learning_rate=2e-3, warmup_steps=50, save_every=100, validate_every=250, ema_decay=0.997
)

OWN_DATA_LOOP = LoopConfig(
    steps=2000, learning_rate=5e-4, warmup_steps=50, save_every=100, validate_every=100, ema_decay=0.99, patience=5
)
"""For a few subjects of one's own, usually from the weights of a VCM that knows the conditions already."""

ALONE = {"tumor": 0.2, "anatomy": 0.08, "partial": 0.02, "lowres": 0.04, "t2": 0.03, "flair": 0.03}
"""How often a sample keeps only this condition. The tumor alone is what people give most, and hardest to learn."""

DROP_PROBABILITY = 0.65
"""Of six conditions most people give one or two, and with half of them dropped hardly a sample would keep so few."""

HELD_OUT = 16
"""Simulated subjects that a VCM is validated on."""


@dataclass(frozen=True)
class AdapterRecipe:
    """What a VCM learns from, and how.

    - `alone`: how often a sample keeps only the condition named.
    - `drop_probability`: of each modality in each other sample (modality latent drop); one always stays.
    - `tumor_weight`: of latent cells inside the tumor, beside 1 elsewhere; lesions fill few cells.
    - `regularization`: lambda of the paper, on the mean magnitude of scale and shift.
    - `draft_weight`: of the draft's own objective, where the VCM makes one.
    - `painter_loop`: how its painter learns before, where it has one that has not.
    """

    subjects: int = 600
    loop: LoopConfig = ADAPTER_LOOP
    batch_size: int = 4
    alone: Mapping[str, float] = field(default_factory=lambda: dict(ALONE))
    drop_probability: float = DROP_PROBABILITY
    tumor_weight: float = 25.0
    regularization: float = 1e-3
    draft_weight: float = 0.5
    painter_loop: LoopConfig = PAINTER_LOOP


@dataclass(frozen=True, eq=False)
class Material:
    """Pairs to learn from, pairs that are held out, and the affine of both."""

    pairs: Pairs
    held_out: Pairs
    affine: NDArray


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
    """Train on subjects with tumors, seen as they are and mirrored; returns the averaged VCM, as strong as it must be.

    Args:
        out: folder for state, log and latents.
        backbone: frozen; no gradient reaches it.
        cache: folder for the simulated cohort, `out` by default.
        initial: weights of the VCM to start from, instead of random ones. A painter that is among them learns no more.
        placement: how the simulated cohort is brought to the backbone's grid, where that is another.
        own: subjects to learn from instead of simulated ones; each validation then leaves a picture in `out`.
    """
    recipe = recipe or AdapterRecipe()
    folder = Path(out)
    material = find_material(folder, backbone, config, recipe.subjects, device, cache, placement, own)
    pairs, held_out, affine = material.pairs, material.held_out, material.affine
    batch_size = min(recipe.batch_size, len(pairs))
    torch.manual_seed(recipe.loop.seed)
    adapter = VCM(config)
    adapter.look_through(backbone)
    if initial is not None:
        _begin_from(adapter, initial)
    goes_on = resume and (folder / STATE_FILE).is_file()
    is_new = adapter.painter is not None and not bool(adapter.painter.paint.weight.any())
    if adapter.painter is not None and adapter.sketcher is not None and is_new and not goes_on:
        learning, sketcher = adapter.painter.to(device).requires_grad_(True), adapter.sketcher
        painter = train_painter(learning, sketcher, pairs, held_out, folder, loop=recipe.painter_loop, device=device)
        adapter.painter = painter.requires_grad_(False)

    def loss_function(network: VCM, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.multinomial(pairs.sampling_weights, batch_size, generator=random).tolist()
        return _loss(network, backbone, pairs, chosen, recipe, random)

    def validate(network: VCM, step: int) -> dict[str, float]:
        random = torch.Generator().manual_seed(1)
        totals: dict[str, float] = {}
        for start in range(0, len(held_out), 4):
            chosen = list(range(start, min(start + 4, len(held_out))))
            loss, figures = _loss(network, backbone, held_out, chosen, recipe, random)
            share = len(chosen) / len(held_out)
            for name, value in {"loss": loss.item(), **figures}.items():
                totals[name] = totals.get(name, 0.0) + share * value
        if own is not None:
            save_picture(folder / f"validation-{step:06d}.png", _draw(network, backbone, held_out, affine, random))
        return totals

    options: dict[str, Any] = {"resume": resume, "device": device, "validate": validate, "board": own is not None}
    trained = run_loop(adapter, loss_function, recipe.loop, out, **options)
    if find_team(device).is_first:
        settle_strength(trained, backbone, held_out, batch_size, folder)
    return trained


def _begin_from(adapter: VCM, weights: Mapping[str, Tensor]) -> None:
    """Fill a VCM with weights, which may be those of one without its painter."""
    own = adapter.state_dict()
    adapter.load_state_dict({name: own[name] for name in own if name.startswith(PAINTER_PREFIX)} | dict(weights))


def draw_conditions(
    pairs: Pairs, modalities: Sequence[str], chosen: list[int], recipe: AdapterRecipe, random: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the conditions of some pairs, (B, C, X, Y, Z) each, and which of them each sample keeps, (B,) each."""
    keep = draw_modality_keep(modalities, len(chosen), recipe.drop_probability, random, recipe.alone)
    return pairs.conditions(chosen, keep, random), keep


def find_material(
    folder: Path,
    backbone: Backbone,
    config: AdapterConfig,
    subjects: int,
    device: str,
    cache: str | Path | None,
    placement: Placement | None,
    own: OwnCohort | None,
) -> Material:
    """Return the subjects that a VCM learns from and make the backbone ready; see `train_adapter` for the arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    tune(backbone.to(device))

    def find_cohort(seeds: range) -> Cohort:
        contrasts = ("t1", *list_contrasts(config.condition_channels))
        cohort = simulated_cohort(cache or folder, seeds, contrasts)
        return cohort if placement is None else placement.apply(cohort, cache or folder)

    if own is not None:
        affine, training, validation, prefix = own.grid.affine, own.training, own.held_out, f"latents-{own.key}"
    else:
        first = simulate.VALIDATION_SEEDS.start
        affine, prefix = simulate.AFFINE if placement is None else placement.target.affine, "latents"
        training, validation = find_cohort(range(subjects)), find_cohort(range(first, first + HELD_OUT))
    spacing_mm: tuple[float, float, float] = tuple(affines.spacing_mm(affine).tolist())
    return Material(
        pairs=Pairs(folder / f"{prefix}-training", training, backbone, device, spacing_mm),
        held_out=Pairs(folder / f"{prefix}-held-out", validation, backbone, device, spacing_mm),
        affine=affine,
    )


def _draw(
    adapter: VCM, backbone: Backbone, pairs: Pairs, affine: NDArray, random: torch.Generator
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
    pairs: Pairs,
    chosen: list[int],
    recipe: AdapterRecipe,
    random: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """The objective on some pairs, and the squared errors inside and outside the tumor beside the prior's own."""
    conditions, keep = draw_conditions(pairs, adapter.modalities, chosen, recipe, random)
    noised = add_noise(pairs, chosen, backbone, random)
    noised = let_drift(noised, backbone, random)
    with torch.no_grad():
        epsilon = backbone.predict_epsilon(noised.latent, noised.timesteps, noised.context)
    features = adapter.encode_condition(conditions, keep=keep)
    eps_scale, eps_shift = adapter(noised.latent, epsilon, features, noised.timesteps)
    error, figures = measure_error(modulate(epsilon, eps_scale, eps_shift), noised, recipe.tumor_weight)
    loss = error + recipe.regularization * measure_size(eps_scale, eps_shift, noised)
    draft = adapter.read_draft(features)
    if draft is not None:
        error, of_draft = measure_draft(draft, noised, recipe.tumor_weight)
        loss, figures = loss + recipe.draft_weight * error, {**figures, **of_draft}
    _, prior = measure_error(epsilon, noised, recipe.tumor_weight)
    return loss, {**figures, "inside_prior": prior["inside"], "outside_prior": prior["outside"]}
