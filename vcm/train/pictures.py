"""What a VCM in training makes of subjects that it does not learn from, as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vcm.modalities.names import TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.model.backbone import Backbone
from vcm.model.vcm import VCM
from vcm.render.slices import Plane, find_focus, render_slice
from vcm.sampler import initial_noise, sample
from vcm.volume import Volume

STEPS = 10
"""Of the sampler: enough to see what is followed, and few enough to wait for."""

_PLANES: tuple[Plane, ...] = ("axial", "coronal")
_HEIGHT = 192


def render_validation(
    backbone: Backbone,
    adapter: VCM,
    target: NDArray[np.float32],
    tumor: NDArray[np.uint8],
    affine: NDArray[np.float64],
    conditions: Mapping[str, Tensor],
    context: Tensor,
) -> NDArray[np.uint8]:
    """Return a picture of a target, the same under its mask, and what is generated from its conditions (H, W, 3).

    Args:
        target: the subject's scan (X, Y, Z) in [0, 1].
        tumor: its labels (X, Y, Z).
        affine: of both, voxel to RAS+ mm.
        conditions: of the subject, (1, C, X, Y, Z) each.
        context: its covariates, (1, 1, 4).
    """
    noise = initial_noise(0, backbone.latent_shape).to(context.device)
    features = adapter.encode_condition(conditions)
    latent = sample(backbone, adapter, noise, context, features, num_inference_steps=STEPS)
    (made,) = backbone.decode_volumes(latent)
    colors = MODALITIES[TUMOR].colors
    focus, labels = find_focus(tumor), Volume(tumor, affine)
    rows = []
    for plane in _PLANES:
        seen, generated = (
            render_slice(Volume(image, affine), plane, voxel=focus, height=_HEIGHT) for image in (target, made)
        )
        masked = render_slice(Volume(target, affine), plane, labels=labels, colors=colors, voxel=focus, height=_HEIGHT)
        rows.append(np.concatenate([seen, masked, generated], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) as PNG."""
    from PIL import Image

    Image.fromarray(picture).save(path)
