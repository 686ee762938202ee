"""What a controlled noise estimate is measured by, the same for a VCM and for its rivals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vcm.model.backbone import Backbone
from vcm.model.draft import DraftMaps
from vcm.train.diffusion import stratified_timesteps
from vcm.train.pairs import Pairs

_USUAL_CELLS = 30.0
_FEWEST_CELLS = 2.0

_TRUST_WEIGHT = 0.02
"""Of the mean trust in a draft: where the prior guesses as well, a sample is to be left to it."""

_LATEST_BELIEF = 0.7
"""Of the schedule. Later the clean latent that a noise estimate stands for is mostly that estimate's error."""


@dataclass(frozen=True, eq=False)
class Noised:
    """A batch of latents with noise added.

    - `clean`: z_0, (B, C, x, y, z); `noise`: what was added to it; `latent`: z_t, what came of it.
    - `timesteps`: (B,); `signal`: sqrt(a_t), (B, 1, 1, 1, 1).
    - `context`: covariates, (B, 1, 4).
    - `tumor_share`: of each latent cell, (B, 1, x, y, z).
    """

    clean: Tensor
    latent: Tensor
    noise: Tensor
    timesteps: Tensor
    signal: Tensor
    context: Tensor
    tumor_share: Tensor


def add_noise(pairs: Pairs, chosen: list[int], backbone: Backbone, random: torch.Generator) -> Noised:
    """Return the latents of some pairs at timesteps spread evenly over the schedule."""
    clean, context, tumor_share = pairs.targets(chosen)
    noise = torch.randn(clean.shape, generator=random).to(clean.device)
    timesteps = stratified_timesteps(len(clean), len(backbone.alphas_cumprod), random).to(clean.device)
    return Noised(
        clean=clean,
        latent=backbone.add_noise(clean, noise, timesteps),
        noise=noise,
        timesteps=timesteps,
        signal=backbone.alphas_cumprod[timesteps].sqrt().reshape(-1, 1, 1, 1, 1),
        context=context,
        tumor_share=tumor_share,
    )


@torch.no_grad()
def let_drift(noised: Noised, backbone: Backbone, random: torch.Generator) -> Noised:
    """Return the pairs, about half of them with a part of the tumor taken away by the prior, as samples come upon it.

    A noised latent holds the whole tumor. That of a sample holds less: at each step before, the prior, which has never
    seen one, has taken a part of it away, and a VCM that was never shown that does not make up for it. Here a share of
    the way, drawn evenly up to sqrt(1 - a_t), goes from the tumor to what the prior believes at a higher noise, and the
    noise becomes the one that leads back to the whole tumor.

    Args:
        noised: as `add_noise` gives it.
        backbone: the frozen prior; it is asked once more for the pairs that drift.
    """
    device, count = noised.clean.device, len(noised.clean)
    drifting = (torch.rand(count, generator=random) < 0.5).to(device)
    shares, later = torch.rand(2, count, generator=random).to(device)
    drifting &= noised.tumor_share.flatten(1).amax(1) > 0
    if not bool(drifting.any()):
        return noised
    latest = int(_LATEST_BELIEF * (len(backbone.alphas_cumprod) - 1))
    now = noised.timesteps[drifting].clamp(max=latest)
    believed = _believe(backbone, noised, drifting, now + ((latest - now) * later[drifting]).long())
    signal = noised.signal[drifting]
    noise_level = (1.0 - signal**2).sqrt()
    tumor = functional.max_pool3d(noised.tumor_share[drifting], 3, stride=1, padding=1) > 0
    way = tumor * (believed - noised.clean[drifting]) * shares[drifting].reshape(-1, 1, 1, 1, 1)
    latent, noise = noised.latent.clone(), noised.noise.clone()
    latent[drifting] += signal * noise_level * way
    noise[drifting] += signal * way
    return replace(noised, latent=latent, noise=noise)


def _believe(backbone: Backbone, noised: Noised, chosen: Tensor, timesteps: Tensor) -> Tensor:
    """Return the clean latents that the prior sees in the chosen pairs, with the noise of other timesteps."""
    latent = backbone.add_noise(noised.clean[chosen], noised.noise[chosen], timesteps)
    epsilon = backbone.predict_epsilon(latent, timesteps, noised.context[chosen])
    return backbone.remove_noise(latent, epsilon, timesteps)


def measure_error(epsilon: Tensor, noised: Noised, tumor_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Return the weighted squared error of a noise estimate (B, C, x, y, z), and the error inside and outside tumors.

    An error of epsilon over sqrt(a_t) is one of v: without it, what forms the lesion at high noise has no weight.

    Args:
        tumor_weight: of latent cells inside a tumor of usual size, beside 1 elsewhere. Cells of a smaller one weigh
            more: a tumor's weight grows as the root of its size, else those of a few cells would go unlearned.
    """
    return weigh_error((epsilon - noised.noise) / noised.signal, noised.tumor_share, tumor_weight)


def weigh_error(missed: Tensor, tumor_share: Tensor, tumor_weight: float) -> tuple[Tensor, dict[str, float]]:
    """The same of what an estimate of v missed, (B, C, x, y, z), and the tumor's share of each cell."""
    error = missed**2
    weight = weigh_cells(tumor_share, tumor_weight)
    loss = (weight * error).sum() / (weight.sum() * error.shape[1])
    with torch.no_grad():
        inside = tumor_share.expand_as(error)
        figures = {"inside": _mean(error, inside), "outside": _mean(error, 1 - inside)}
    return loss, figures


def measure_draft(draft: DraftMaps, noised: Noised, tumor_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Return the objective of a draft, and the squared error of its mean and its trust inside and outside tumors.

    The mean is the best for squared errors whatever the variance says, which likelihood alone would slow down where it
    is large; the variance is the likeliest for the mean's errors, which it has no say in.
    """
    missed = noised.clean - draft.mean
    error, figures = weigh_error(missed, noised.tumor_share, tumor_weight)
    surprise = missed.detach() ** 2 * (-draft.log_variance).exp() + draft.log_variance
    weight = weigh_cells(noised.tumor_share, tumor_weight)
    likelihood = 0.5 * (weight * surprise).sum() / (weight.sum() * surprise.shape[1])
    trust = {"trust_inside": _mean(draft.trust.detach(), noised.tumor_share.expand_as(missed))}
    trust["trust_outside"] = _mean(draft.trust.detach(), (1 - noised.tumor_share).expand_as(missed))
    loss = error + likelihood + _TRUST_WEIGHT * draft.trust.abs().mean()
    return loss, {**{f"draft_{name}": value for name, value in figures.items()}, **trust}


def weigh_cells(tumor_share: Tensor, tumor_weight: float) -> Tensor:
    """Return the weight of each latent cell, (B, 1, x, y, z); see `measure_error`."""
    cells = tumor_share.sum((1, 2, 3, 4), keepdim=True).clamp_min(_FEWEST_CELLS)
    return 1 + (tumor_weight - 1) * tumor_share * (_USUAL_CELLS / cells).sqrt()


def measure_size(eps_scale: Tensor, eps_shift: Tensor, noised: Noised) -> Tensor:
    """Return the mean magnitude of scale and shift, which the paper's lambda weighs, as that of a change of v."""
    return (eps_scale.abs().mean() + eps_shift.abs().mean()) / noised.signal.mean()


def _mean(values: Tensor, weights: Tensor) -> float:
    return ((values * weights).sum() / weights.sum().clamp_min(1e-6)).item()
