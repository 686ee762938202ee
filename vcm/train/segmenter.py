"""Train the independent segmenter, on subjects and distortions of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from vcm.data import simulate
from vcm.data.cohort import Cohort, simulated_cohort
from vcm.modalities.adherence import dice
from vcm.modalities.names import ANATOMY, TUMOR
from vcm.modalities.shifts import draw_uniform
from vcm.model.segmenter import NUM_ANATOMY_CLASSES, NUM_TUMOR_CLASSES, Segmenter, SegmenterConfig
from vcm.train.autoencoder import CONTRASTS, HELD_OUT_SUBJECTS
from vcm.train.crops import Lesion, draw_place, draw_window, find_lesions
from vcm.train.loop import LoopConfig, run_loop

TUMOR_WEIGHTS = (1.0, 4.0, 4.0, 4.0)
"""Of the tumor's classes in its cross-entropy, background first."""

SMOOTHING = 2.0
"""Voxels added to both sides of the soft Dice: with many, a small lesion that is missed costs nothing."""

VALIDATED_SUBJECTS = 12

FIRST_SEED = 50_000
"""No other network is trained on its subjects."""

SEGMENTER_CONFIG = SegmenterConfig()
SEGMENTER_LOOP = LoopConfig(steps=17000, learning_rate=1.5e-3, save_every=200, validate_every=1000, ema_decay=0.998)


@dataclass(frozen=True)
class SegmenterRecipe:
    """What the segmenter learns from, and for how long.

    GroupNorm's statistics depend on the content of its input, and those of a left or right half of a head are those of
    the whole; but on halves alone, one voxel in a hundred of which is tumor, core and edema are not learned for
    thousands of steps. So most of the early steps read a crop around a lesion, and the last `halves_share` of all
    steps read halves. Lesions of every size are drawn as often as each other.
    """

    subjects: int = 600
    loop: LoopConfig = SEGMENTER_LOOP
    config: SegmenterConfig = SEGMENTER_CONFIG
    lesion_share: float = 0.8  # of the steps; the others read any half
    crop_share: float = 0.75  # of the early steps that read a lesion
    halves_share: float = 0.45
    crop: int = 48  # voxels


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
    held_out = simulated_cohort(cache or out, range(first, first + HELD_OUT_SUBJECTS), CONTRASTS)
    lesions = find_lesions(cohort)
    torch.manual_seed(recipe.loop.seed)
    segmenter = Segmenter(recipe.config)
    if initial is not None:
        segmenter.network.load_state_dict(initial)

    def loss_function(network: Segmenter, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        early = step < recipe.loop.steps * (1 - recipe.halves_share)
        image, tumor, anatomy = (x.to(device) for x in _draw(cohort, lesions, recipe, random, early))
        tumor_logits, anatomy_logits = network(image.contiguous(memory_format=torch.channels_last_3d))
        tumor_loss = _measure_tumor_loss(tumor_logits.float(), tumor)
        anatomy_loss = _measure_anatomy_loss(anatomy_logits.float(), anatomy, known=tumor == 0)
        return tumor_loss + anatomy_loss, {TUMOR: tumor_loss.item(), ANATOMY: anatomy_loss.item()}

    def validate(network: Segmenter, step: int) -> dict[str, float]:
        scores: dict[str, list[float]] = {"tumor_dice": [], "ventricle_dice": []}
        for index in range(min(VALIDATED_SUBJECTS, len(held_out))):
            found, anatomy = network.segment(held_out.images["t1"][index])
            truth = held_out.tumor[index] > 0
            if truth.any():
                scores["tumor_dice"].append(dice(truth, found > 0) or 0.0)
            ventricles = held_out.anatomy[index] == simulate.VENTRICLES
            scores["ventricle_dice"].append(dice(ventricles, anatomy == simulate.VENTRICLES) or 0.0)
        return {name: float(np.mean(values)) for name, values in scores.items()}

    return run_loop(segmenter, loss_function, recipe.loop, out, resume=resume, device=device, validate=validate)


def _draw(
    cohort: Cohort, lesions: Sequence[Lesion], recipe: SegmenterRecipe, random: torch.Generator, early: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a part of a head, distorted, (1, 1, x, y, z), and its labels (1, x, y, z)."""
    uniform = partial(draw_uniform, random)
    shape = cohort.tumor.shape[1:]
    has_lesion = bool(lesions) and uniform(0.0, 1.0) < recipe.lesion_share
    if has_lesion:
        lesion = lesions[int(torch.randint(len(lesions), (1,), generator=random))]
        subject = lesion.subject
        place: tuple[int, ...] = lesion.middle
    else:
        subject, place = int(torch.randint(len(cohort), (1,), generator=random)), draw_place(shape, random)
    if early and has_lesion and uniform(0.0, 1.0) < recipe.crop_share:
        window: tuple[slice, ...] = draw_window(place, recipe.crop, shape, random, jitter=8, step=1)
    else:
        middle = shape[0] // 2
        window = (slice(None, middle) if place[0] < middle else slice(middle, None),)
    image = cohort.images["t1"][subject][window].astype(np.float32)
    tumor, anatomy = (np.asarray(labels[subject][window]) for labels in (cohort.tumor, cohort.anatomy))
    if uniform(0.0, 1.0) < 0.5:
        image, tumor, anatomy = image[::-1], tumor[::-1], anatomy[::-1]
    image = _distort(_fade_lesion(image, tumor, random), random)
    tumor_labels, anatomy_labels = (torch.from_numpy(each.astype(np.int64))[None] for each in (tumor, anatomy))
    return torch.from_numpy(image)[None, None], tumor_labels, anatomy_labels


def _fade_lesion(image: NDArray[np.float32], tumor: NDArray[np.uint8], random: torch.Generator) -> NDArray[np.float32]:
    """Return an image (x, y, z) whose lesion is, half of the time, up to a quarter darker or brighter."""
    if not tumor.any() or draw_uniform(random, 0.0, 1.0) < 0.5:
        return image
    inside = ndimage.gaussian_filter((tumor > 0).astype(np.float32), 0.7)
    return image * (1 + np.float32(draw_uniform(random, -0.25, 0.25)) * inside)


def _distort(image: NDArray[np.floating], random: torch.Generator) -> NDArray[np.float32]:
    """Blur, mottle, shift the gray scale, add noise, each now and then: generated brains have other textures."""
    uniform = partial(draw_uniform, random)
    if uniform(0.0, 1.0) < 0.5:
        image = ndimage.gaussian_filter(image, uniform(0.3, 0.9))  # voxels
    if uniform(0.0, 1.0) < 0.3:
        noise = torch.randn(image.shape, generator=random).numpy()
        mottle = ndimage.gaussian_filter(noise, uniform(0.8, 2.5))
        image = image * (1 + np.float32(uniform(0.0, 0.12)) * mottle / mottle.std())
    if uniform(0.0, 1.0) < 0.3:
        image = np.float32(uniform(0.92, 1.08)) * image + np.float32(uniform(-0.03, 0.03))
    image = np.clip(image, 0.0, 1.0, dtype=np.float32)
    if uniform(0.0, 1.0) < 0.3:
        image = np.power(image, np.float32(uniform(0.86, 1.16)))
    if uniform(0.0, 1.0) < 0.3:
        image = image + np.float32(uniform(0.0, 0.03)) * torch.randn(image.shape, generator=random).numpy()
    return np.ascontiguousarray(image.clip(0.0, 1.0), dtype=np.float32)


def _measure_tumor_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Twice the weighted cross-entropy, plus the mean soft Dice loss of the labels that are there and of their union.

    Args:
        logits: (1, classes, x, y, z).
        labels: (1, x, y, z).
    """
    entropy = functional.cross_entropy(logits, labels, weight=logits.new_tensor(TUMOR_WEIGHTS))
    shares = logits.softmax(1)
    truths = [labels == index for index in range(1, NUM_TUMOR_CLASSES)]
    pairs = [(shares[:, index], truth) for index, truth in enumerate(truths, start=1)]
    pairs.append((1 - shares[:, 0], labels > 0))
    losses = [_soft_dice_loss(share, truth.float()) for share, truth in pairs if bool(truth.any())]
    return 2 * entropy + (torch.stack(losses).mean() if losses else 0.0)


def _measure_anatomy_loss(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Mean soft Dice loss of all tissues, plus cross-entropy; `known` is where the tissue is known, (1, x, y, z)."""
    entropy = (functional.cross_entropy(logits, labels, reduction="none") * known).sum() / known.sum()
    shares = logits.softmax(1) * known[:, None]
    losses = [
        _soft_dice_loss(shares[:, index], ((labels == index) & known).float())
        for index in range(1, NUM_ANATOMY_CLASSES)
    ]
    return entropy + torch.stack(losses).mean()


def _soft_dice_loss(share: Tensor, truth: Tensor) -> Tensor:
    return 1 - (2 * (share * truth).sum() + SMOOTHING) / (share.sum() + truth.sum() + SMOOTHING)
