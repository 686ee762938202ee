"""Training pairs of a VCM: what a subject's latent is, and the conditions that belong to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vcm.data.cohort import Cohort
from vcm.modalities.conditions import encode_one_hot
from vcm.modalities.image_conditions import CONTRASTS, encode_image, encode_partial, measure_range, scale_intensities
from vcm.model.backbone import Backbone
from vcm.train.degrade import SLICE_FACTORS, STRIPPED_SHARE, draw_hole, strip_skull, thicken_slices
from vcm.train.latents import cached_pair


class Pairs:
    """Normalised latents of a cohort and its mirror image, with the conditions that belong to them."""

    def __init__(
        self, prefix: Path, cohort: Cohort, backbone: Backbone, device: str, spacing_mm: tuple[float, float, float]
    ) -> None:
        self.cohort = cohort
        self.device = device
        self.spacing_mm = spacing_mm
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

    def targets(self, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents, contexts, and the tumor's share of each latent cell (B, 1, x, y, z)."""
        latent = self.latents[chosen]
        tumors = torch.stack([torch.from_numpy(self._oriented(self.cohort.tumor, index) > 0) for index in chosen])
        width, height, depth = latent.shape[2:]
        share = functional.adaptive_avg_pool3d(tumors[:, None].float(), (width, height, depth))
        context = self.contexts[[index % len(self.cohort) for index in chosen]]
        return latent, context, share.to(self.device)

    def image(self, index: int) -> Tensor:
        """Return a subject's T1-weighted image, float32 (1, 1, X, Y, Z) in [0, 1]."""
        volume = self._oriented(self.cohort.images["t1"], index).astype(np.float32)
        return torch.from_numpy(volume)[None, None].to(self.device)

    def conditions(self, chosen: list[int], keep: Mapping[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
        """Return the conditions, (B, C, X, Y, Z) each, of the samples that keep them; others' are zero."""
        stacked = {}
        for name, kept in keep.items():
            tensors = [
                self._condition(name, index, random) if bool(wanted) else None
                for index, wanted in zip(chosen, kept, strict=True)
            ]
            like = next((tensor for tensor in tensors if tensor is not None), None)
            if like is None:
                continue
            batch = torch.stack([torch.zeros_like(like) if tensor is None else tensor for tensor in tensors])
            stacked[name] = batch.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        return stacked

    def _condition(self, name: str, index: int, random: torch.Generator) -> Tensor:
        """Return one condition of one subject, (C, X, Y, Z), as a user's volume would become."""
        tumor = self._oriented(self.cohort.tumor, index)
        if name == "tumor":
            return encode_one_hot(tumor, 3)
        if name == "anatomy":
            # A person draws on healthy anatomy, but a tumor has pushed tissue away: show both.
            before = bool(torch.rand(1, generator=random) < 0.5)
            anatomy = self._oriented(self.cohort.anatomy_before if before else self.cohort.anatomy, index)
            return encode_one_hot(np.where(tumor > 0, np.uint8(0), anatomy), 4)
        image = self._oriented(self.cohort.images[name if name in CONTRASTS else "t1"], index).astype(np.float32)
        after = self._oriented(self.cohort.anatomy, index)
        if bool(torch.rand(1, generator=random) < STRIPPED_SHARE):
            image = strip_skull(image, after, tumor)
        if name == "lowres":
            factor = SLICE_FACTORS[int(torch.randint(len(SLICE_FACTORS), (1,), generator=random))]
            offset = int(torch.randint(factor, (1,), generator=random))
            image = thicken_slices(torch.from_numpy(image), factor, offset).numpy()
        scaled = scale_intensities(image, measure_range(image))
        if name == "partial":
            hole = draw_hole(tumor, after, self.spacing_mm, random)
            return encode_partial(scaled, hole)
        return encode_image(scaled)

    def _oriented(self, volumes: np.ndarray, index: int) -> np.ndarray:
        """Return one subject's volume (X, Y, Z), left and right swapped in the second half of the indices."""
        volume = np.asarray(volumes[index % len(self.cohort)])
        return volume[::-1].copy() if index >= len(self.cohort) else volume
