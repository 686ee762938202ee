"""Train the sketch maps of a VCM that is trained already: minutes on a CPU, where all of it takes hours.

All else stays as it is, so that what it reads and says at a step is computed once, and only the maps at every step.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from vcm.adapter import VCM
from vcm.backbone import Backbone
from vcm.checkpoint import read_weights, save_weights
from vcm.config import AdapterConfig
from vcm.convolution import start_at_zero
from vcm.precision import autocast
from vcm.static_maps import SketchMaps, change_velocity
from vcm.train.adapter import AdapterRecipe, draw_conditions, find_material
from vcm.train.foreign import Placement
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.moments import TIMES, Moments, View, kept_moments
from vcm.train.objective import add_noise, let_drift, weigh_error
from vcm.train.own_data import OwnCohort
from vcm.train.pairs import Pairs
from vcm.train.strength import settle_strength
from vcm.train.team import find_team
from vcm.tuning import tune

SKETCH_LOOP = LoopConfig(
    steps=1500, learning_rate=2e-3, warmup_steps=50, save_every=250, validate_every=250, ema_decay=0.99
)

_BEFORE_FILE = "before.safetensors"
"""The VCM as it was: what is exported differs in more than its maps, since its strength is settled anew."""


@dataclass(frozen=True)
class SketchRecipe:
    """What sketch maps learn from, and how.

    - `subjects`, `loop`, `batch_size`: as of `AdapterRecipe`.
    - `views`: sets of conditions that are read, each noised `TIMES` times.
    - `of_conditions`: how conditions are drawn and errors weighed.
    """

    subjects: int = 400
    views: int = 800
    loop: LoopConfig = SKETCH_LOOP
    batch_size: int = 4
    of_conditions: AdapterRecipe = field(default_factory=AdapterRecipe)


def train_sketch_maps(
    out: str | Path,
    backbone: Backbone,
    config: AdapterConfig,
    *,
    initial: Mapping[str, Tensor] | None,
    recipe: SketchRecipe | None = None,
    resume: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    placement: Placement | None = None,
    own: OwnCohort | None = None,
) -> VCM:
    """Train the sketch maps alone and return the VCM that has them, as strong as it must be.

    Args:
        out: folder for state, log, latents and moments.
        backbone: frozen.
        config: of the VCM, with a `sketch`.
        initial: weights of the VCM, of which those of the sketch maps go on learning; None to go on with the run in
            `out`, which has kept them.
        cache, placement, own: as of `train_adapter`.

    Raises:
        ValueError: the VCM reads no sketches.
    """
    if config.sketch is None:
        raise ValueError("This VCM reads no sketches: it has no sketch maps to train.")
    recipe = recipe or SketchRecipe()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = backbone.to(device)
    tune(backbone)
    material = find_material(folder, backbone, config, recipe.subjects, device, cache, placement, own)
    torch.manual_seed(recipe.loop.seed)
    adapter = VCM(config)
    if initial is not None:
        save_weights(folder / _BEFORE_FILE, initial)
    adapter.load_state_dict(read_weights(folder / _BEFORE_FILE))
    adapter.look_through(backbone)
    adapter = adapter.to(device).eval()
    tune(adapter)
    adapter.requires_grad_(False)
    silent, maps = copy.deepcopy(adapter), adapter.sketch_maps
    assert maps is not None, "a VCM with a sketch has them"
    assert silent.sketch_maps is not None
    start_at_zero(silent.sketch_maps.maps)

    def keep(name: str, pairs: Pairs, views: int, seed: int) -> Moments:
        batches = -(-views // recipe.batch_size)
        identity = {"weights": _hash(silent.state_dict()), "subjects": len(pairs), "batch_size": recipe.batch_size}
        draw = partial(_draw, silent, backbone, pairs, recipe, seed)
        return kept_moments(folder / name, identity, batches, recipe.batch_size, draw, backbone, silent, device)

    learned = keep("moments-training", material.pairs, recipe.views, seed=0)
    held_out = keep("moments-held-out", material.held_out, max(4, recipe.views // 20), seed=1_000_003)

    def loss_function(maps: SketchMaps, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(learned), (recipe.batch_size,), generator=random).tolist()
        return _loss(maps, learned, chosen, backbone, recipe, device)

    def validate(maps: SketchMaps, step: int) -> dict[str, float]:
        totals: dict[str, float] = {}
        for start in range(0, len(held_out), recipe.batch_size):
            chosen = list(range(start, min(start + recipe.batch_size, len(held_out))))
            loss, figures = _loss(maps, held_out, chosen, backbone, recipe, device)
            share = len(chosen) / len(held_out)
            for name, value in {"loss": loss.item(), **figures}.items():
                totals[name] = totals.get(name, 0.0) + share * value
        return totals

    learning = copy.deepcopy(maps).requires_grad_(True)
    trained = run_loop(learning, loss_function, recipe.loop, out, resume=resume, device=device, validate=validate)
    maps.load_state_dict(trained.state_dict())
    if find_team(device).is_first:
        settle_strength(adapter, backbone, material.held_out, recipe.batch_size, folder)
    return adapter


@torch.no_grad()
def _draw(adapter: VCM, backbone: Backbone, pairs: Pairs, recipe: SketchRecipe, seed: int, index: int) -> View:
    random = torch.Generator().manual_seed(seed + index)
    chosen = torch.multinomial(pairs.sampling_weights, recipe.batch_size, generator=random, replacement=True).tolist()
    conditions, keep = draw_conditions(pairs, adapter.modalities, chosen, recipe.of_conditions, random)
    with autocast(pairs.device):
        joined, seen = adapter.read_conditions(conditions, keep), adapter.look(conditions, keep)
        noised = [let_drift(add_noise(pairs, chosen, backbone, random), backbone, random) for _ in range(TIMES)]
    return View(joined, seen, noised)


def _loss(
    maps: SketchMaps, moments: Moments, chosen: list[int], backbone: Backbone, recipe: SketchRecipe, device: str
) -> tuple[Tensor, dict[str, float]]:
    """The objective on some views, and the squared errors of v inside and outside the tumor beside those before."""
    take = partial(moments.take, chosen=chosen, device=device)
    made = maps(take("joined"), take("seen"))
    alphas = backbone.alphas_cumprod[take("timesteps")][..., None, None, None, None]  # (B, TIMES, 1, 1, 1, 1)
    signal, noise_level = alphas.sqrt(), (1.0 - alphas).sqrt()
    clean, latent, missing = take("clean"), take("latent"), take("missing")
    missed = torch.cat(
        [
            missing[:, time]
            - change_velocity(maps.fade(made, signal[:, time], noise_level[:, time]), clean[:, time], latent[:, time])
            for time in range(TIMES)
        ]
    )
    tumor_share = take("tumor_share").repeat(TIMES, 1, 1, 1, 1)
    loss, figures = weigh_error(missed, tumor_share, recipe.of_conditions.tumor_weight)
    _, before = weigh_error(missing.transpose(0, 1).flatten(0, 1), tumor_share, recipe.of_conditions.tumor_weight)
    return loss, {**figures, "inside_before": before["inside"], "outside_before": before["outside"]}


def _hash(weights: Mapping[str, Tensor]) -> str:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return hashlib.sha256(save(plain)).hexdigest()
