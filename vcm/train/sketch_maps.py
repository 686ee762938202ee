"""Fit the sketch maps of a VCM that is trained already: minutes on a CPU, where learning all of it takes hours.

The shift of v that they make is linear in their weights, so the weights that are best for the objective of
`vcm.train.objective` are the solution of normal equations (ridge regression): no step size, no schedule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vcm.adapter import VCM, modulate
from vcm.backbone import Backbone
from vcm.checkpoint import file_hash, read_weights, save_weights
from vcm.config import SKETCH_KNOTS, AdapterConfig
from vcm.convolution import start_at_zero
from vcm.dataset import write_json
from vcm.precision import autocast
from vcm.static_maps import SketchMaps, weigh_knots
from vcm.train.adapter import AdapterRecipe, draw_conditions, find_material
from vcm.train.foreign import Placement
from vcm.train.objective import Noised, add_noise, let_drift, weigh_cells, weigh_error
from vcm.train.pairs import Pairs
from vcm.train.strength import settle_strength
from vcm.train.team import find_team
from vcm.tuning import tune
from vcm.whole_files import write_whole

logger = logging.getLogger(__name__)

FIT_FILE = "fit.json"
"""The errors of v on subjects that nothing was fitted to, with and without the maps."""

BEFORE_FILE = "before.safetensors"
"""The VCM as it was: what is exported differs in more than its maps, since its strength is settled anew."""

_SUMS_FILE = "sums.pt"
_SAVE_EVERY = 10
_KERNEL = 3
_HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class SketchRecipe:
    """What sketch maps are fitted to, and how.

    - `subjects`, `batch_size`: as of `AdapterRecipe`.
    - `views`: sets of conditions that are read, `held_out` more of other subjects to measure on.
    - `times`: at which each is noised. The conditions are read once for all of them, which takes as long as a step.
    - `ridge`: added to the diagonal of the normal equations, as a share of its mean.
    - `of_conditions`: how conditions are drawn and errors weighed.
    """

    subjects: int = 400
    views: int = 800
    held_out: int = 40
    times: int = 2
    batch_size: int = 4
    ridge: float = 1e-3
    of_conditions: AdapterRecipe = field(default_factory=AdapterRecipe)


@dataclass(frozen=True, eq=False)
class View:
    """A batch of conditions as a VCM reads them, and what its estimates of v lack.

    - `joined`: its features, (B, F, x, y, z); `seen`: the latents of sketches, (B, S, x, y, z).
    - `tumor_share`: of each latent cell, (B, 1, x, y, z).
    - `positions`: in the noise schedule, (B,) each; `missing`: true v less the estimate, (B, C, x, y, z) each.
    """

    joined: Tensor
    seen: Tensor
    tumor_share: Tensor
    positions: list[Tensor]
    missing: list[Tensor]


@dataclass(eq=False)
class Sums:
    """The normal equations of the views so far.

    - `products`: of inputs with inputs, (knots, knots, I, I); `targets`: of inputs with what lacks, (knots, I, C).
    - `batches`: that were read.
    """

    products: Tensor
    targets: Tensor
    batches: int = 0

    @torch.no_grad()
    def add(self, view: View, tumor_weight: float) -> None:
        """Take in a batch, each view weighing the same."""
        weights = weigh_cells(view.tumor_share, tumor_weight)
        for index in range(len(view.joined)):
            inputs = gather_inputs(view.joined[index], view.seen[index])
            weight = weights[index].flatten()[:, None] / weights[index].sum()
            products = inputs.T @ (weight * inputs)
            for positions, missing in zip(view.positions, view.missing, strict=True):
                [knots] = weigh_knots(positions[index : index + 1])
                targets = inputs.T @ (weight * missing[index].flatten(1).T)
                for one in knots.nonzero()[:, 0].tolist():
                    self.targets[one] += knots[one] * targets
                    for other in knots.nonzero()[:, 0].tolist():
                        self.products[one, other] += knots[one] * knots[other] * products
        self.batches += 1

    def solve(self, ridge: float) -> Tensor:
        """Return the weights of the inputs, (knots, I, C)."""
        knots, size, _ = self.targets.shape
        products = self.products.transpose(1, 2).reshape(knots * size, knots * size).double()
        products += ridge * products.diagonal().mean() * torch.eye(len(products), device=products.device)
        solution: Tensor = torch.linalg.solve(products, self.targets.flatten(0, 1).double())
        return solution.float().reshape(knots, size, -1)


def train_sketch_maps(
    out: str | Path,
    backbone: Backbone,
    config: AdapterConfig,
    *,
    initial: Mapping[str, Tensor] | None,
    recipe: SketchRecipe | None = None,
    device: str = "cpu",
    cache: str | Path | None = None,
    placement: Placement | None = None,
) -> VCM:
    """Fit the sketch maps alone and return the VCM that has them, as strong as it must be.

    A run that was stopped goes on where it was.

    Args:
        out: folder for latents, sums and figures.
        backbone: frozen.
        config: of the VCM, with a `sketch`.
        initial: weights of the VCM, whose sketch maps are made anew; None for those that `out` has kept.
        cache, placement: as of `train_adapter`.

    Raises:
        ValueError: the VCM reads no sketches.
    """
    if config.sketch is None:
        raise ValueError("This VCM reads no sketches: it has no sketch maps to fit.")
    recipe = recipe or SketchRecipe()
    folder = Path(out)
    material = find_material(folder, backbone, config, recipe.subjects, device, cache, placement, own=None)
    if initial is not None:
        save_weights(folder / BEFORE_FILE, initial)
    adapter = VCM(config)
    adapter.load_state_dict(read_weights(folder / BEFORE_FILE))
    adapter.look_through(backbone)
    adapter = adapter.to(device).eval().requires_grad_(False)
    tune(adapter)
    maps = adapter.sketch_maps
    assert maps is not None, "a VCM with a sketch has them"
    start_at_zero(maps.read_features)
    start_at_zero(maps.read_seen)

    identity = {"weights": file_hash(folder / BEFORE_FILE), "subjects": len(material.pairs), "recipe": repr(recipe)}
    read = partial(_read, adapter, backbone, material.pairs, recipe)
    sums = _sum_up(folder / _SUMS_FILE, identity, recipe, read, adapter)
    # They are read before there are maps: what lacks is what a VCM lacks without.
    held_out = [
        _read(adapter, backbone, material.held_out, recipe, _HELD_OUT_SEED + index)
        for index in range(-(-recipe.held_out // recipe.batch_size))
    ]
    _set(maps, sums.solve(recipe.ridge))
    figures = _compare(maps, held_out, recipe.of_conditions.tumor_weight)
    logger.info("held out: %s", " ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if find_team(device).is_first:
        write_json(folder / FIT_FILE, figures)
        settle_strength(adapter, backbone, material.held_out, recipe.batch_size, folder)
    return adapter


def gather_inputs(joined: Tensor, seen: Tensor) -> Tensor:
    """Return what the maps of one view are linear in, a row for each latent cell: (x y z, I).

    In a row are the sketches' latents of the cell and its neighbors, (S, 3, 3, 3), the features, (F,), and 1.
    """
    reach = _KERNEL // 2
    padded = functional.pad(seen, (reach,) * 6)
    neighbors = padded.unfold(1, _KERNEL, 1).unfold(2, _KERNEL, 1).unfold(3, _KERNEL, 1)  # (S, x, y, z, 3, 3, 3)
    rows = neighbors.permute(1, 2, 3, 0, 4, 5, 6).flatten(3).flatten(0, 2)
    return torch.cat([rows, joined.flatten(1).T, rows.new_ones(len(rows), 1)], dim=1).float()


def _sum_up(
    path: Path, identity: dict[str, Any], recipe: SketchRecipe, read: Callable[[int], View], adapter: VCM
) -> Sums:
    """Return the normal equations of all views, going on with those that are kept, if they are of the same."""
    from tqdm import tqdm

    batches = -(-recipe.views // recipe.batch_size)
    sums: Sums | None = None
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        if kept.pop("identity") == identity:
            sums = Sums(**kept)
    if sums is None:
        channels, knots = adapter.config.latent_channels, len(SKETCH_KNOTS)
        size = 3 * channels * _KERNEL**3 + adapter.config.condition_encoder.out_channels + 1
        sums = Sums(torch.zeros(knots, knots, size, size), torch.zeros(knots, size, channels))
    for index in tqdm(range(sums.batches, batches), total=batches, initial=sums.batches, unit="batch"):
        sums.add(read(index), recipe.of_conditions.tumor_weight)
        if sums.batches % _SAVE_EVERY == 0 or sums.batches == batches:
            with write_whole(path) as file:
                torch.save({**vars(sums), "identity": identity}, file)
    return sums


@torch.no_grad()
def _read(adapter: VCM, backbone: Backbone, pairs: Pairs, recipe: SketchRecipe, index: int) -> View:
    """Return a batch of views, on the CPU, always the same for the same index."""
    random = torch.Generator().manual_seed(index)
    chosen = torch.multinomial(pairs.sampling_weights, recipe.batch_size, generator=random, replacement=True).tolist()
    conditions, keep = draw_conditions(pairs, adapter.modalities, chosen, recipe.of_conditions, random)
    with autocast(pairs.device):
        joined, seen = adapter.read_conditions(conditions, keep), adapter.look(conditions, keep)
        features = adapter.gather_features(joined, seen)
        noised = [let_drift(add_noise(pairs, chosen, backbone, random), backbone, random) for _ in range(recipe.times)]
        missing = [_find_missing(adapter, backbone, features, each).cpu() for each in noised]
    last = len(backbone.alphas_cumprod) - 1
    positions = [(each.timesteps / last).cpu() for each in noised]
    return View(joined.float().cpu(), seen.float().cpu(), noised[0].tumor_share.cpu(), positions, missing)


def _find_missing(adapter: VCM, backbone: Backbone, features: Tensor, noised: Noised) -> Tensor:
    epsilon = backbone.predict_epsilon(noised.latent, noised.timesteps, noised.context)
    controlled = modulate(epsilon, *adapter(noised.latent, epsilon, features, noised.timesteps))
    missing: Tensor = (noised.noise - controlled).float() / noised.signal
    return missing


@torch.no_grad()
def _set(maps: SketchMaps, weights: Tensor) -> None:
    """Give the maps their weights, (knots, I, C), in the order of `gather_inputs`."""
    flat = weights.transpose(1, 2).flatten(0, 1)  # (knots C, I)
    seen = maps.read_seen.weight
    of_seen, of_features, bias = flat.split([seen[0].numel(), maps.read_features.in_channels, 1], dim=1)
    seen.copy_(of_seen.reshape(seen.shape))
    maps.read_features.weight.copy_(of_features.reshape(maps.read_features.weight.shape))
    maps.read_features.bias.copy_(bias[:, 0])  # type: ignore[union-attr]


@torch.no_grad()
def _compare(maps: SketchMaps, views: list[View], tumor_weight: float) -> dict[str, float]:
    """Return the errors of v with the maps and without, and the objective of both, means over the views."""
    totals: dict[str, float] = {}
    device = maps.read_seen.weight.device
    for view in views:
        made = maps(view.joined.to(device), view.seen.to(device)).cpu()
        for positions, missing in zip(view.positions, view.missing, strict=True):
            for ending, lacks in (("", missing - maps.mix(made, positions)), ("_before", missing)):
                loss, figures = weigh_error(lacks, view.tumor_share, tumor_weight)
                for name, value in {"loss": loss.item(), **figures}.items():
                    totals[name + ending] = totals.get(name + ending, 0.0) + value
    count = sum(len(view.missing) for view in views)
    return {name: total / count for name, total in totals.items()}
