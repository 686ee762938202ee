"""What is known of an image, painted into the mean brain and seen by the backbone's own frozen encoder.

A VCM has to say what a condition looks like as a latent, and learning that from nothing takes far longer than learning
where to believe it. The frozen encoder knows it already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from vcm.model.backbone import Backbone
from vcm.model.painter import Painter

VIEWS = ("t1", "t2", "flair")
"""A latent each: the sketch of a T1-weighted image, and the other contrasts as they are."""

_PAINTED_FIRST, _PAINTED_LAST = "anatomy", "tumor"


class Sketcher:
    """Makes sketches and shows them to a backbone's encoder; it holds no weights of its own.

    Args:
        backbone: whose autoencoder sees the sketches; no gradient reaches it.
        intensities: what each label of a label map looks like in a T1-weighted image in [0, 1], by modality.
    """

    def __init__(self, backbone: Backbone, intensities: Mapping[str, Sequence[float]]) -> None:
        self._backbone = backbone
        self._intensities = {name: torch.tensor(values) for name, values in intensities.items()}
        self._mean_brain: Tensor | None = None

    def __deepcopy__(self, memo: object) -> Self:
        """The same: a copy of a VCM looks through the same backbone."""
        return self

    @torch.no_grad()
    def look(
        self,
        conditions: Mapping[str, Tensor],
        keep: Mapping[str, Tensor] | None = None,
        painter: Painter | None = None,
    ) -> Tensor:
        """Return the latents of `VIEWS`, (B, 3 C, x, y, z); 0 for those of which a sample knows nothing.

        Args:
            conditions: as `VCM.encode_condition` takes them, (B, C, X, Y, Z) each.
            keep: (B,) booleans a modality; False leaves it out of that sample.
            painter: says what other contrasts look like as T1-weighted; without it they are no part of the sketch.
        """
        some = next(iter(conditions.values()))
        given = read_given(conditions, keep)
        views = [
            self._see_t1(given, painter),
            *(self._see(given[name]) if name in given else None for name in VIEWS[1:]),
        ]
        channels, *cells = self._backbone.latent_shape
        empty = some.new_zeros(len(some), channels, *cells, dtype=torch.float32)
        return torch.cat([empty if view is None else view for view in views], dim=1)

    def draw(self, conditions: Mapping[str, tuple[Tensor, Tensor]], painter: Painter | None = None) -> Tensor:
        """Return the T1-weighted sketches (B, 1, X, Y, Z) of conditions and of the samples that keep them, (B,) each.

        Where several say something, the voxels of a scan outside its hole come before a tumor, a tumor before thick
        slices, they before tissues, and those before what a painter makes of other contrasts.
        """
        tensor, _ = next(iter(conditions.values()))
        sketch = self.mean_brain(tensor.device).expand(len(tensor), -1, -1, -1, -1)
        if painter is not None and not conditions.keys().isdisjoint(painter.contrasts):
            sketch = painter(sketch, conditions)
        sketch = self._paint(sketch, conditions, _PAINTED_FIRST)
        if "lowres" in conditions:
            slices, keeps = conditions["lowres"]
            sketch = torch.where(_spread(keeps), slices, sketch)
        sketch = self._paint(sketch, conditions, _PAINTED_LAST)
        if "partial" in conditions:
            scan, keeps = conditions["partial"]
            image, hole = scan.split(1, dim=1)
            sketch = torch.where(_spread(keeps) & (hole == 0), image, sketch)
        return sketch

    def _see_t1(self, given: Mapping[str, tuple[Tensor, Tensor]], painter: Painter | None) -> Tensor | None:
        telling = {*self._intensities, "lowres", "partial", *(() if painter is None else painter.contrasts)}
        known = {name: each for name, each in given.items() if name in telling}
        if not known:
            return None
        keeps = torch.stack([each for _, each in known.values()]).any(dim=0)
        return self._see((self.draw(known, painter), keeps))

    def _see(self, given: tuple[Tensor, Tensor]) -> Tensor:
        """Return the latents (B, C, x, y, z) of images (B, 1, X, Y, Z), 0 for the samples that do not keep theirs."""
        images, keeps = given
        latents = images.new_zeros(len(images), *self._backbone.latent_shape)
        if bool(keeps.any()):
            latents[keeps] = self._backbone.encode(images[keeps].contiguous())
        return latents

    def _paint(self, sketch: Tensor, conditions: Mapping[str, tuple[Tensor, Tensor]], name: str) -> Tensor:
        """Return the sketch with each label of a map in its intensity."""
        if name not in conditions or name not in self._intensities:
            return sketch
        labels, keeps = conditions[name]
        intensities = self._intensities[name].to(labels.device).reshape(1, -1, 1, 1, 1)
        return torch.where(
            _spread(keeps) & labels.any(dim=1, keepdim=True), (labels * intensities).sum(1, keepdim=True), sketch
        )

    def mean_brain(self, device: torch.device) -> Tensor:
        """Return the mean brain (1, 1, X, Y, Z): what the mean latent decodes to."""
        if self._mean_brain is None or self._mean_brain.device != device:
            mean = torch.zeros(1, *self._backbone.latent_shape, device=device)
            with torch.autocast(device.type, enabled=False):  # the same whoever asks first
                self._mean_brain = self._backbone.decode(mean).clamp(0.0, 1.0)
        return self._mean_brain


def read_given(
    conditions: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each condition as float32 (B, C, X, Y, Z), and which samples keep it, (B,) booleans: all by default."""
    given = {}
    for name, tensor in conditions.items():
        kept = None if keep is None else keep.get(name)
        everyone = torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
        given[name] = (tensor.float(), everyone if kept is None else kept.to(tensor.device))
    return given


def _spread(keeps: Tensor) -> Tensor:
    return keeps.reshape(-1, 1, 1, 1, 1)
