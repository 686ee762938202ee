"""Train the autoencoder: the image compressor, which sees subjects with and without tumors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vcm import simulate
from vcm.autoencoder import Autoencoder
from vcm.dataset import Cohort, simulated_cohort
from vcm.train.halves import draw_half, tumor_sampling_weights
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.mini import AUTOENCODER

AUTOENCODER_LOOP = LoopConfig(steps=3000, learning_rate=1e-3, save_every=200, validate_every=300, ema_decay=0.995)


@dataclass(frozen=True)
class AutoencoderRecipe:
    """What the autoencoder learns from, and for how long.

    GroupNorm's statistics depend on the content of its input: on small patches the loss jumps about and whole volumes
    come out wrong. A left or right half has the statistics of the whole head at half its cost, so training runs on
    halves, and the last `whole_share` of its steps on whole volumes.
    """

    subjects: int = 480
    loop: LoopConfig = AUTOENCODER_LOOP
    whole_share: float = 0.06
    starting_log_variance: float = -5.0  # of the latent: a code that starts as pure noise learns slowly
    kl_weight: float = 1e-6
    tumor_weight: float = 20.0  # beside 1 elsewhere: lesions are few voxels, and must survive the round trip


def train_autoencoder(
    out: str | Path,
    *,
    recipe: AutoencoderRecipe | None = None,
    resume: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
    decoder_only: bool = False,
) -> Autoencoder:
    """Train on simulated contrast-enhanced T1 volumes; returns the averaged network.

    Args:
        out: folder for state, log and pictures.
        cache: folder for the simulated cohort, `out` by default.
        initial: weights to start from, instead of random ones.
        decoder_only: leave the encoder as it is, so that latents, and all that learned from them, stay valid. All steps
            are then on whole volumes: what the encoder makes of a half is not what a decoder will be given.
    """
    recipe = recipe or AutoencoderRecipe()
    if decoder_only:
        recipe = replace(recipe, whole_share=1.0)
    cohort = simulated_cohort(cache or out, range(recipe.subjects))
    held_out = simulated_cohort(
        cache or out, range(simulate.VALIDATION_SEEDS.start, simulate.VALIDATION_SEEDS.start + 8)
    )
    sampling_weights = tumor_sampling_weights(cohort)
    torch.manual_seed(recipe.loop.seed)
    network = Autoencoder(**AUTOENCODER)
    nn.init.constant_(network.get_parameter("quant_conv_log_sigma.conv.bias"), recipe.starting_log_variance)
    if initial is not None:
        network.load_state_dict(initial)
    if decoder_only:
        network.requires_grad_(False)
        for part in (network.decoder, network.post_quant_conv):
            part.requires_grad_(True)

    def loss_function(network: Autoencoder, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        whole = step >= recipe.loop.steps * (1 - recipe.whole_share)
        image, weight = _draw(cohort, sampling_weights, recipe, whole, random)
        image, weight = (x.to(device, memory_format=torch.channels_last_3d) for x in (image, weight))
        mean, sigma = network.encode(image)
        noise = torch.randn(mean.shape, generator=random).to(device)
        error = network.decode(mean + sigma * noise).float() - image
        reconstruction = (weight * (error.abs() + 4 * error**2)).mean()
        mean, sigma = mean.float(), sigma.float()
        divergence = 0.5 * (mean**2 + sigma**2 - 2 * sigma.log() - 1).mean()
        figures = {"squared_error": (error.detach() ** 2).mean().item(), "divergence": divergence.item()}
        return reconstruction + recipe.kl_weight * divergence * image.numel() / mean.numel(), figures

    def validate(network: Autoencoder, step: int) -> dict[str, float]:
        squared = []
        for index in range(len(held_out)):
            image = torch.from_numpy(held_out.images["t1"][index].astype("float32"))[None, None].to(device)
            image = image.contiguous(memory_format=torch.channels_last_3d)
            restored = network.decode(network.encode(image)[0]).float().clamp(0, 1)
            squared.append(((restored - image) ** 2).mean().item())
        return {"psnr_db": float(-10 * torch.tensor(squared).log10().mean())}

    return run_loop(network, loss_function, recipe.loop, out, resume=resume, device=device, validate=validate)


def _draw(
    cohort: Cohort, sampling_weights: Tensor, recipe: AutoencoderRecipe, whole: bool, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One image, mirrored half the time, with its weights: both (1, 1, x, y, z)."""
    subject, window = draw_half(cohort, sampling_weights, random)
    if whole:
        window = slice(None)
    image = torch.from_numpy(cohort.images["t1"][subject][window].astype("float32"))
    tumor = torch.from_numpy(cohort.tumor[subject][window] > 0)
    if torch.rand(1, generator=random) < 0.5:
        image, tumor = image.flip(0), tumor.flip(0)
    weight = 1 + (recipe.tumor_weight - 1) * tumor.float()
    return image[None, None], weight[None, None]
