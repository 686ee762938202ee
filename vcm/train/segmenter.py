"""Train the independent segmenter, on subjects and distortions of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vcm import simulate
from vcm.adherence import dice
from vcm.dataset import Cohort, simulated_cohort
from vcm.segmenter import NUM_ANATOMY_CLASSES, NUM_TUMOR_CLASSES, Segmenter, SegmenterConfig
from vcm.train.degrade import draw_uniform
from vcm.train.halves import draw_half, tumor_sampling_weights
from vcm.train.loop import LoopConfig, run_loop

TUMOR_WEIGHT = 12.0
"""Of a tumor's voxels in the tumor's loss, beside 1 elsewhere."""

LARGEST_MOTTLE = 0.15
"""Standard deviation, as a share of the intensity, of the patches of a few voxels that generated brains have."""

SMOOTHING = 2.0
"""Voxels added to both sides of the soft Dice: with many, a small lesion that is missed costs nothing."""

FIRST_SEED = 50_000
"""Its subjects are nobody else's."""

SEGMENTER_CONFIG = SegmenterConfig()
SEGMENTER_LOOP = LoopConfig(steps=17000, learning_rate=1.5e-3, save_every=400, validate_every=1000, ema_decay=0.998)


@dataclass(frozen=True)
class SegmenterRecipe:
    """What the segmenter learns from, and for how long.

    GroupNorm's statistics depend on the content of its input, and a left or right half of a head has those of the
    whole; but on halves alone, one voxel in a hundred of which is tumor, core and edema are not found for thousands of
    steps. So most of the early steps look at the surroundings of a lesion, and the last `halves_share` of them all at
    halves.
    """

    subjects: int = 320
    loop: LoopConfig = SEGMENTER_LOOP
    config: SegmenterConfig = SEGMENTER_CONFIG
    crop_share: float = 0.75  # of the early steps
    halves_share: float = 0.45
    crop: tuple[int, int, int] = (40, 56, 40)  # voxels


def train_segmenter(
    out: str | Path,
    *,
    recipe: SegmenterRecipe | None = None,
    resume: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Segmenter:
    """Train on simulated contrast-enhanced T1 volumes, a half or the surroundings of a lesion a step.

    Returns the averaged network.

    Args:
        out: folder for state and log.
        cache: folder for the simulated cohort, `out` by default.
        initial: weights to start from, instead of random ones.
    """
    recipe = recipe or SegmenterRecipe()
    cohort = simulated_cohort(cache or out, range(FIRST_SEED, FIRST_SEED + recipe.subjects))
    first = simulate.VALIDATION_SEEDS.start
    held_out = simulated_cohort(cache or out, range(first, first + 8))
    sampling_weights = tumor_sampling_weights(cohort)
    torch.manual_seed(recipe.loop.seed)
    segmenter = Segmenter(recipe.config)
    if initial is not None:
        segmenter.network.load_state_dict(initial)

    def loss_function(network: Segmenter, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        early = step < recipe.loop.steps * (1 - recipe.halves_share)
        image, tumor, anatomy = (x.to(device) for x in _draw(cohort, sampling_weights, recipe, random, early))
        tumor_logits, anatomy_logits = network(image.contiguous(memory_format=torch.channels_last_3d))
        # Anatomy under a tumor is unknown: those voxels do not count.
        known = (tumor == 0).float()
        # A tumor is one voxel in a hundred: counted alike, the network finds none for thousands of steps.
        counts = known + TUMOR_WEIGHT * (1 - known)
        tumor_loss = _dice_and_cross_entropy(tumor_logits.float(), tumor, NUM_TUMOR_CLASSES, counts)
        anatomy_loss = _dice_and_cross_entropy(anatomy_logits.float(), anatomy, NUM_ANATOMY_CLASSES, known)
        return tumor_loss + anatomy_loss, {"tumor": tumor_loss.item(), "anatomy": anatomy_loss.item()}

    def validate(network: Segmenter, step: int) -> dict[str, float]:
        scores: dict[str, list[float]] = {"tumor_dice": [], "ventricle_dice": []}
        for index in range(len(held_out)):
            found, anatomy = network.segment(held_out.images["t1"][index])
            truth = held_out.tumor[index] > 0
            if truth.any():
                scores["tumor_dice"].append(dice(truth, found > 0) or 0.0)
            ventricles = held_out.anatomy[index] == simulate.VENTRICLES
            scores["ventricle_dice"].append(dice(ventricles, anatomy == simulate.VENTRICLES) or 0.0)
        return {name: float(np.mean(values)) for name, values in scores.items()}

    return run_loop(segmenter, loss_function, recipe.loop, out, resume=resume, device=device, validate=validate)


def _draw(
    cohort: Cohort, sampling_weights: Tensor, recipe: SegmenterRecipe, random: torch.Generator, early: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a part of a head, distorted, (1, 1, x, y, z), and its labels (1, x, y, z)."""
    subject, side = draw_half(cohort, sampling_weights, random)
    window: tuple[slice, ...] = (side,)
    is_crop = bool(torch.rand(1, generator=random) < recipe.crop_share)
    if early and is_crop and cohort.tumor[subject][side].any():
        window = _surroundings(np.asarray(cohort.tumor[subject]), side, recipe.crop, random)
    image = torch.from_numpy(cohort.images["t1"][subject][window].astype(np.float32))
    tumor = torch.from_numpy(cohort.tumor[subject][window].astype(np.int64))
    anatomy = torch.from_numpy(cohort.anatomy[subject][window].astype(np.int64))
    if torch.rand(1, generator=random) < 0.5:
        image, tumor, anatomy = (x.flip(0) for x in (image, tumor, anatomy))
    return _distort(image, random)[None, None], tumor[None], anatomy[None]


def _surroundings(
    tumor: np.ndarray, side: slice, crop: tuple[int, int, int], random: torch.Generator
) -> tuple[slice, ...]:
    """Return a window of the size of `crop`, no larger than the volume, around a tumor voxel of one side."""
    voxels = np.argwhere(tumor[side] > 0)
    voxel = voxels[int(torch.randint(len(voxels), (1,), generator=random))] + [side.start or 0, 0, 0]
    sizes = [min(size, extent) for size, extent in zip(crop, tumor.shape, strict=True)]
    starts = [
        int(np.clip(at - size // 2, 0, extent - size))
        for at, size, extent in zip(voxel, sizes, tumor.shape, strict=True)
    ]
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


def _distort(image: Tensor, random: torch.Generator) -> Tensor:
    """Blur, sharpen, mottle, shift the gray scale, add noise: a judge of generated brains must not mind texture."""
    uniform = partial(draw_uniform, random)
    blur = simulate.gaussian_blur(image, uniform(0.4, 1.3))
    image = image + uniform(-1.0, 0.4) * (image - blur)
    mottle = simulate.gaussian_blur(torch.randn(image.shape, generator=random), uniform(0.8, 2.5))  # voxels
    image = image * (1 + uniform(0.0, LARGEST_MOTTLE) * mottle / mottle.std())
    image = uniform(0.92, 1.08) * image + uniform(-0.03, 0.03)
    image = image.clamp(0, 1) ** uniform(0.85, 1.15)
    noise = torch.randn(image.shape, generator=random)
    return (image + uniform(0.0, 0.03) * noise).clamp(0, 1)


def _dice_and_cross_entropy(logits: Tensor, labels: Tensor, classes: int, counts: Tensor) -> Tensor:
    """Mean soft Dice loss over all classes but the background, plus cross-entropy; both skip voxels that count 0."""
    entropy = (functional.cross_entropy(logits, labels, reduction="none") * counts).sum() / counts.sum()
    looked_at = (counts > 0).float()  # the overlap needs no weights: it is relative to the class already
    shares = logits.softmax(1) * looked_at[:, None]
    overlap, total = [], []
    for index in range(1, classes):
        truth = (labels == index).float() * looked_at
        overlap.append(2 * (shares[:, index] * truth).sum() + SMOOTHING)
        total.append(shares[:, index].sum() + truth.sum() + SMOOTHING)
    dice = torch.stack([o / t for o, t in zip(overlap, total, strict=True)]).mean()
    return entropy + 1 - dice
