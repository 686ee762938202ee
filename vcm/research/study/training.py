"""One training of the study: any method, the same data, objective, region weights, averages and number of steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcm.modalities.names import ANATOMY, T2, TUMOR
from vcm.model.backbone import Backbone
from vcm.model.condition_encoder import ConditionReader
from vcm.model.config import AdapterConfig
from vcm.model.denoiser import Denoiser
from vcm.research.study.methods import BUILDERS, Method, deepened, lightened, widened
from vcm.research.study.plan import ARMS, Run, StudyPlan
from vcm.train.diffusion import denoising_loss
from vcm.train.loop import LoopConfig, read_seconds, run_loop
from vcm.train.objective import add_noise, measure_error, measure_size
from vcm.train.pairs import Pairs
from vcm.train.vcm import VCMRecipe, draw_conditions

EMA_DECAY = 0.99
"""Short trainings need a short memory."""


ALONE = {TUMOR: 0.32, ANATOMY: 0.1, T2: 0.04}
"""How often a sample keeps only this condition."""


@dataclass(frozen=True, eq=False)
class Material:
    """What all trainings of a study share: the frozen backbone, a VCM's configuration, and subjects as pairs."""

    backbone: Backbone
    config: AdapterConfig
    training: Pairs
    held_out: Pairs
    device: str


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained method, the backbone that it controls, its validation, and how long it took."""

    method: Method
    backbone: Backbone
    validation: dict[str, float]
    facts: dict[str, Any]


def train_run(run: Run, learning_rate: float, material: Material, plan: StudyPlan, out: Path) -> Trained:
    """Train the method of a run; a state that it left in `out` when it was killed is gone on with."""
    recipe = adjust_recipe(run.variant)
    pairs = material.training.first(run.samples)
    backbone = material.backbone
    if run.variant == "seen":
        backbone = show_tumors(backbone, pairs, plan, out / "backbone", material.device)
    torch.manual_seed(run.seed)
    method = build_method(run, material.config, backbone, plan)
    trained = run_loop(
        method,
        lambda network, step, random: objective(network, backbone, pairs, _draw(pairs, plan, random), recipe, random),
        loop_config(plan, learning_rate, run.seed),
        out,
        resume=True,
        device=material.device,
    )
    seconds = sum(read_seconds(folder) for folder in (out, out / "backbone"))
    parameters = sum(p.numel() for p in trained.parameters())  # of its own: it holds no backbone
    facts = {"parameters": parameters, "training_seconds": seconds}
    return Trained(trained, backbone, validate(trained, backbone, material.held_out, plan), facts)


def build_method(run: Run, config: AdapterConfig, backbone: Backbone, plan: StudyPlan) -> Method:
    """Return a run's method, freshly initialised."""
    config = lightened(config, ARMS[run.arm], plan.encoder_channels)
    if run.variant == "mean":
        config = replace(config, aggregation="mean")
    elif run.variant == "deep":
        config = deepened(config)
    elif run.variant in ("narrow", "wide"):
        config = widened(config, 0.5 if run.variant == "narrow" else 2.0)
    return BUILDERS[run.method](config, backbone)


def adjust_recipe(variant: str | None) -> VCMRecipe:
    """Return how every method learns, with what an ablation changes in it."""
    recipe = VCMRecipe(alone=ALONE, drop_probability=0.5)
    if variant == "even":
        return replace(recipe, tumor_weight=1.0)
    if variant == "undropped":
        return replace(recipe, drop_probability=0.0, alone={})
    return recipe


def loop_config(plan: StudyPlan, learning_rate: float, seed: int) -> LoopConfig:
    """Return how every training of the study goes."""
    return LoopConfig(
        steps=plan.steps,
        learning_rate=learning_rate,
        warmup_steps=min(50, max(1, plan.steps // 10)),
        ema_decay=EMA_DECAY,
        save_every=100,
        seed=seed,
    )


def objective(
    method: Method,
    backbone: Backbone,
    pairs: Pairs,
    chosen: list[int],
    recipe: VCMRecipe,
    random: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a VCM's training from noised latents, for any method; see `vcm.train.objective`.

    The embedded VCM is trained on crops of the prior's cached predictions; here every method reads whole latents.
    """
    conditions, keep = draw_conditions(pairs, method_conditions(method), chosen, recipe, random)
    noised = add_noise(pairs, chosen, backbone, random)
    _, context, _ = pairs.targets(chosen)
    features = method.encode(conditions, keep)
    epsilon, change = method.estimate(backbone, noised.latent, noised.timesteps, context, features)
    loss, figures = measure_error(epsilon, noised, recipe.tumor_weight)
    if change is not None:
        loss = loss + recipe.regularization * measure_size(*change, noised)
    return loss, figures


def method_conditions(method: Method) -> tuple[str, ...]:
    """Return the names of the conditions that a method was built for."""
    return next(part.modalities for part in method.modules() if isinstance(part, ConditionReader))


@torch.no_grad()
def validate(method: Method, backbone: Backbone, pairs: Pairs, plan: StudyPlan) -> dict[str, float]:
    """Return the objective over held-out subjects at fixed noise: all conditions kept, tumors weighing as shipped."""
    random = torch.Generator().manual_seed(1)
    recipe = adjust_recipe("undropped")
    totals: dict[str, float] = {}
    for start in range(0, len(pairs), 4):
        chosen = list(range(start, min(start + 4, len(pairs))))
        loss, figures = objective(method.eval(), backbone, pairs, chosen, recipe, random)
        for name, value in {"loss": loss.item(), **figures}.items():
            totals[name] = totals.get(name, 0.0) + value * len(chosen) / len(pairs)
    return totals


def show_tumors(backbone: Backbone, pairs: Pairs, plan: StudyPlan, out: Path, device: str) -> Backbone:
    """Return a copy of the backbone whose diffusion network has gone on learning on these subjects, tumors and all."""
    seeing = copy.deepcopy(backbone)

    def loss_function(network: Denoiser, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seeing.diffusion = network
        latents, context, _ = pairs.targets(_draw(pairs, plan, random))
        return denoising_loss(seeing, latents, context, torch.ones(1, device=device), random, device), {}

    network = seeing.diffusion.requires_grad_(True)
    seeing.diffusion = run_loop(network, loss_function, loop_config(plan, 3e-4, 0), out, resume=True, device=device)
    return seeing.requires_grad_(False)


def _draw(pairs: Pairs, plan: StudyPlan, random: torch.Generator) -> list[int]:
    chosen: list[int] = torch.multinomial(pairs.sampling_weights, plan.batch_size, generator=random).tolist()
    return chosen
