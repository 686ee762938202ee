"""How strongly a trained VCM has to act for tumors to come out as dark and as bright as they are.

Each step of a training is judged by itself, from a true noisy latent. In a sample errors add up: the prior, which has
never seen a tumor, takes a part of it away again at every step, and what comes out is too faint. Training shows such
tumors (`vcm.train.objective.let_drift`); what is left is settled here. Guidance would make up for it, but what 1 means
is better settled once, on subjects that were not learned from: by intensities alone, so that the segmenter stays a
judge that has had no part in it. A VCM that makes a draft trusts it by so much more.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.data.cohort import write_json
from vcm.model.backbone import Backbone
from vcm.model.vcm import VCM
from vcm.runtime.precision import autocast
from vcm.sampler import initial_noise, sample
from vcm.train.pairs import Pairs

STRENGTHS = (1.0, 1.25, 1.5, 1.75, 2.0)
"""Factors that are tried, rising; see `VCM.strengthen`."""

STRENGTH_FILE = "strength.json"
"""What was chosen, and the contrasts that it was chosen by."""

_CONDITION = "tumor"
_MOST_SUBJECTS = 16
_FEWEST_VOXELS = 20
"""Of a label, for its mean to say something."""


def settle_strength(adapter: VCM, backbone: Backbone, pairs: Pairs, batch_size: int, folder: Path) -> None:
    """Strengthen a VCM that was just trained until tumors have their contrast, and note how in `folder`.

    Heads that end in a norm stay as they are; see `measure_contrasts` for the arguments.
    """
    contrasts = {} if adapter.config.normalize_heads else measure_contrasts(backbone, adapter, pairs, batch_size)
    strength = choose_strength(contrasts)
    if strength != 1.0:
        adapter.strengthen(strength)
    write_json(folder / STRENGTH_FILE, {"strength": strength, "contrasts": {f"{k:g}": v for k, v in contrasts.items()}})


@torch.no_grad()
def measure_contrasts(backbone: Backbone, adapter: VCM, pairs: Pairs, batch_size: int) -> dict[float, float]:
    """Return, by strength, the contrast of generated tumors as a share of that of the subjects' own.

    The contrast of a label is its mean difference from the uncontrolled volume of the same noise; the share is the
    slope of the least squares line through the labels of all subjects, each subject weighing the same.

    Args:
        backbone: the frozen prior.
        adapter: the VCM as it was trained, which takes a tumor map.
        pairs: subjects that it did not learn from; those without a tumor are passed over.
        batch_size: how many subjects are generated together.

    Returns:
        Rising strengths up to the first at which the share is 1; nothing where no subject has a tumor, or the VCM takes
        no tumor map.
    """
    found = [index for index, tumor in enumerate(pairs.cohort.tumor) if _list_labels(tumor)][:_MOST_SUBJECTS]
    if not found or _CONDITION not in adapter.modalities:
        return {}
    batches = [
        _Batch.of(found[start : start + batch_size], backbone, pairs) for start in range(0, len(found), batch_size)
    ]
    whole = sum(truth @ truth for batch in batches for truth in batch.truth)
    shares: dict[float, float] = {}
    for strength in STRENGTHS:
        stronger = copy.deepcopy(adapter)
        if strength != 1.0:
            stronger.strengthen(strength)
        made = sum(batch.compare(backbone, stronger) for batch in batches)
        shares[strength] = float(made / whole)
        if shares[strength] >= 1.0:
            break
    return shares


def choose_strength(contrasts: Mapping[float, float]) -> float:
    """Return the least strength at which the contrast is whole, between those tried; the nearest where none is.

    Args:
        contrasts: as `measure_contrasts` gives them; where there are none, 1.
    """
    if not contrasts:
        return 1.0
    tried = sorted(contrasts.items())
    for (low, below), (high, above) in itertools.pairwise(tried):
        if below >= 1.0:
            return low
        if above >= 1.0:
            return round(low + (high - low) * (1.0 - below) / (above - below), 2)
    return min(contrasts, key=lambda strength: abs(contrasts[strength] - 1.0))


@dataclass(frozen=True, eq=False)
class _Batch:
    """Subjects that are generated together, what they look like without control, and their tumors' true contrasts."""

    tumors: list[NDArray[np.uint8]]
    noise: Tensor
    context: Tensor
    conditions: dict[str, Tensor]
    without: list[NDArray[np.float32]]
    truth: list[NDArray[np.float64]]

    @classmethod
    def of(cls, chosen: list[int], backbone: Backbone, pairs: Pairs) -> _Batch:
        latents, context, _ = pairs.targets(chosen)
        noise = initial_noise(chosen, latents.shape[1:])
        everything = {_CONDITION: torch.ones(len(chosen), dtype=torch.bool)}
        conditions = pairs.conditions(chosen, everything, torch.Generator())
        with autocast(context.device):
            without = backbone.decode_volumes(sample(backbone, None, noise, context, None))
            whole = backbone.decode_volumes(latents)
        tumors = [np.asarray(pairs.cohort.tumor[index]) for index in chosen]
        truth = [_contrast(*each) for each in zip(whole, without, tumors, strict=True)]
        return cls(tumors, noise, context, conditions, without, truth)

    def compare(self, backbone: Backbone, adapter: VCM) -> float:
        """Return the sum of products of the contrasts that a VCM makes and the true ones."""
        with autocast(self.context.device):
            features = adapter.encode_condition(self.conditions)
            latents = sample(backbone, adapter, self.noise, self.context, features)
            made = backbone.decode_volumes(latents)
        found = [_contrast(*each) for each in zip(made, self.without, self.tumors, strict=True)]
        return float(sum(truth @ contrast for truth, contrast in zip(self.truth, found, strict=True)))


def _list_labels(tumor: NDArray[np.uint8]) -> list[int]:
    """Return the labels of a map (X, Y, Z) that are not too small."""
    counts = np.bincount(np.asarray(tumor).ravel(), minlength=4)
    return [label for label in (1, 2, 3) if counts[label] >= _FEWEST_VOXELS]


def _contrast(image: NDArray, without: NDArray, tumor: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean difference in each label, times the root of the label's share of the tumor."""
    difference, size = image - without, np.count_nonzero(tumor)
    places = [tumor == label for label in _list_labels(tumor)]
    return np.array([difference[where].mean() * np.sqrt(where.sum() / size) for where in places], np.float64)
