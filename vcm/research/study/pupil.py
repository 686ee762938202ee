"""What a method's volumes are worth as training data: a tumor segmenter learns from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, RandCropByPosNegLabeld, RandFlipd, SpatialPadd
from numpy.typing import NDArray

from vcm.research.small_unet import INPUT, TARGET, apply_small_unet, train_small_unet

_WINDOW = (48, 48, 48)  # voxels; larger ones hold so little tumor that none is found for thousands of steps


def teach(images: Sequence[NDArray[np.float32]], tumors: Sequence[NDArray[np.bool_]], steps: int, out: Path) -> UNet:
    """Return a small U-Net that has learned to find tumors in these volumes, each (X, Y, Z) in [0, 1].

    Args:
        out: folder for state and log; a training that was killed is gone on with.
    """
    names = (INPUT, TARGET)
    draw = Compose(
        [
            SpatialPadd(names, _WINDOW),
            RandCropByPosNegLabeld(names, TARGET, _WINDOW, pos=2, neg=1, num_samples=1),
            RandFlipd(names, prob=0.5, spatial_axis=0),
        ]
    )
    lessons = [{INPUT: image[None], TARGET: tumor} for image, tumor in zip(images, tumors, strict=True)]
    return train_small_unet(lessons, draw, DiceCELoss(sigmoid=True), steps, out)


def find_tumor(pupil: UNet, volume: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a segmenter sees a tumor, (X, Y, Z), in a volume (X, Y, Z) in [0, 1]."""
    return apply_small_unet(pupil, volume[None], _WINDOW) > 0
