"""Training pairs of a VCM: what a subject's latent is, and the conditions that belong to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vcm.data.cohort import Cohort
from vcm.modalities.registry import get_modality
from vcm.model.backbone import Backbone
from vcm.train.latents import cached_pair
from vcm.train.views import View, Window


class Pairs:
    """Normalised latents of a cohort and its mirror image, with the conditions that belong to them.

    Args:
        prefix: of the files that keep the latents.
        affine: (4, 4), of the cohort's grid, voxel to RAS+ mm.
    """

    def __init__(self, prefix: Path, cohort: Cohort, backbone: Backbone, device: str, affine: NDArray) -> None:
        self.prefix = prefix
        self.cohort = cohort
        self.device = device
        self.affine = affine
        means = cached_pair(prefix, backbone.autoencoder, cohort.images["t1"], device)
        self.latents = backbone.normalize(means.to(device))
        self.contexts = torch.from_numpy(cohort.context.copy())[:, None].to(device)  # (N, 1, 4)
        # Drawn by size, small tumors would hardly ever be seen: a VCM trained so left out all below 24 mm.
        self.sampling_weights = torch.tensor([1.0 if tumor.any() else 0.25 for tumor in cohort.tumor]).repeat(2)

    def __len__(self) -> int:
        return len(self.latents)

    def first(self, count: int) -> Pairs:
        """Return the pairs of the first `count` subjects and of their mirror images."""
        some = copy.copy(self)
        both = [*range(count), *range(len(self.cohort), len(self.cohort) + count)]
        some.cohort = self.cohort.take(range(count))
        some.latents, some.sampling_weights = self.latents[both], self.sampling_weights[both]
        some.contexts = self.contexts[:count]
        return some

    def view(self, index: int, window: Window | None = None) -> View:
        """Return one pair's volumes, or a window of them in voxels, left and right swapped in the second half."""
        mirrored, subject = divmod(index, len(self.cohort))
        view = View(self.cohort, subject, bool(mirrored), self.affine)
        return view if window is None else View(self.cohort, subject, bool(mirrored), self.affine, window)

    def targets(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents, contexts, and the tumor's share of each latent cell (B, 1, x, y, z)."""
        latent = self.latents[list(chosen)]
        share = torch.stack([self.tumor_share(index) for index in chosen])
        context = self.contexts[[index % len(self.cohort) for index in chosen]]
        return latent, context, share.to(self.device)

    def tumor_share(self, index: int) -> Tensor:
        """Return the tumor's share of each latent cell, (1, x, y, z), on the CPU."""
        tumor = torch.from_numpy((self.view(index).tumor > 0).astype(np.float32))[None]
        width, height, depth = self.latents.shape[2:]
        return functional.adaptive_avg_pool3d(tumor, (width, height, depth))

    def conditions(
        self,
        chosen: Sequence[int],
        keep: Mapping[str, Tensor],
        random: torch.Generator,
        windows: Sequence[Window] | None = None,
    ) -> dict[str, Tensor]:
        """Return the conditions, (B, C, X, Y, Z) each, of the samples that keep them; others' are zero.

        Args:
            chosen: the pairs.
            keep: of each modality, which of the samples keep it, (B,).
            windows: of each sample, in voxels and all of one shape; the whole volumes by default.
        """
        views = [self.view(index, windows[row] if windows else None) for row, index in enumerate(chosen)]
        stacked = {}
        for name, kept in keep.items():
            tensors = [
                get_modality(name).degrade(view, random) if bool(wanted) else None
                for view, wanted in zip(views, kept, strict=True)
            ]
            like = next((tensor for tensor in tensors if tensor is not None), None)
            if like is None:
                continue
            batch = torch.stack([torch.zeros_like(like) if tensor is None else tensor for tensor in tensors])
            stacked[name] = batch.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        return stacked
