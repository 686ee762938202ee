"""Begin a VCM from the weights of one that follows other conditions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vcm.modalities.image_conditions import list_contrasts
from vcm.model.config import AdapterConfig
from vcm.model.painter import PAINTER_PREFIX
from vcm.model.vcm import VCM

_PROJECTION = "projection"


def carry_over(weights: Mapping[str, Tensor], before: AdapterConfig, after: AdapterConfig, seed: int = 0) -> VCM:
    """Return a VCM that does with the conditions both know what the earlier one did, and has the others still to learn.

    A condition that is absent adds nothing to the features, so new ones change nothing until they are given.

    Args:
        weights: of the earlier VCM.
        before: its configuration.
        after: the same but for its conditions.
        seed: of the random weights of the new conditions.

    Raises:
        ValueError: the two differ in more than their conditions, or one condition is left of several: a VCM of one
            has nothing to join, and what the earlier one learned of that would be lost.
    """
    torch.manual_seed(seed)
    adapter = VCM(after)
    if adapter.projection is None and f"{_PROJECTION}.weight" in weights:
        raise ValueError("A VCM of several conditions cannot go on with one alone: keep two of them, or begin anew.")
    own = adapter.state_dict()
    left = [_PROJECTION]
    if list_contrasts(before.condition_channels) != list_contrasts(after.condition_channels):
        left.append(PAINTER_PREFIX)  # of other contrasts it is another one, and learns anew
    carried = {name: tensor for name, tensor in weights.items() if name in own and not name.startswith(tuple(left))}
    if any(own[name].shape != tensor.shape for name, tensor in carried.items()):
        raise ValueError("A VCM begins only from weights of its own sizes.")
    own.update(carried)
    if adapter.projection is not None:
        width = after.condition_encoder.out_channels
        own[f"{_PROJECTION}.weight"] = _project(weights, own[f"{_PROJECTION}.weight"], before, after, width)
        own[f"{_PROJECTION}.bias"] = weights.get(f"{_PROJECTION}.bias", torch.zeros(width))
    adapter.load_state_dict(own)
    return adapter


def _project(
    weights: Mapping[str, Tensor], fresh: Tensor, before: AdapterConfig, after: AdapterConfig, width: int
) -> Tensor:
    """Return the projection (F, M F + M, 1, 1, 1), which reads all conditions' features, then which are there."""
    projection = fresh.clone()
    old_names, names = list(before.condition_channels), list(after.condition_channels)
    old = weights.get(f"{_PROJECTION}.weight")
    for index, name in enumerate(names):
        if name not in old_names:
            continue
        features = slice(index * width, (index + 1) * width)
        presence = len(names) * width + index
        if old is None:  # one condition's features are read as they are
            projection[:, features] = torch.eye(width)[:, :, None, None, None]
            projection[:, presence] = 0
            continue
        earlier = old_names.index(name)
        projection[:, features] = old[:, earlier * width : (earlier + 1) * width]
        projection[:, presence] = old[:, len(old_names) * width + earlier]
    return projection
