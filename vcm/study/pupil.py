"""What a method's volumes are worth as training data: a tumor segmenter learns from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, RandCropByPosNegLabeld, RandFlipd, SpatialPadd
from numpy.typing import NDArray
from torch import Tensor, nn

from vcm.train.loop import LoopConfig, run_loop

_WINDOW = (48, 48, 48)  # voxels; larger ones hold so little tumor that nothing is learned for thousands of steps
_CHANNELS = (16, 32, 64, 128)
_LEARNING_RATE = 3e-3


def teach(images: Sequence[NDArray[np.float32]], tumors: Sequence[NDArray[np.bool_]], steps: int, out: Path) -> UNet:
    """Return a small MONAI U-Net that has learned to find tumors in these volumes, each (X, Y, Z) in [0, 1].

    Args:
        out: folder for state and log; a training that was killed is gone on with.
    """
    names = ("image", "tumor")
    draw = Compose(
        [
            SpatialPadd(names, _WINDOW),
            RandCropByPosNegLabeld(names, "tumor", _WINDOW, pos=2, neg=1, num_samples=1),
            RandFlipd(names, prob=0.5, spatial_axis=0),
        ]
    )
    measure = DiceCELoss(sigmoid=True)

    def loss_function(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        subject, seed = (int(torch.randint(limit, (1,), generator=random)) for limit in (len(images), 2**31))
        draw.set_random_state(seed)
        image, tumor = (torch.as_tensor(each[subject], dtype=torch.float32)[None] for each in (images, tumors))
        window = draw({"image": image, "tumor": tumor})[0]
        image, tumor = (window[name].as_tensor()[None] for name in names)
        return measure(network(image).float(), tumor), {}

    torch.manual_seed(0)
    network = UNet(3, 1, 1, channels=_CHANNELS, strides=(2, 2, 2), num_res_units=1, norm="instance")
    warmup = max(1, min(100, steps // 10))
    config = LoopConfig(steps, _LEARNING_RATE, warmup_steps=warmup, ema_decay=0.98, save_every=1000)
    return run_loop(network, loss_function, config, out, resume=True)


@torch.no_grad()
def find_tumor(pupil: UNet, volume: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a segmenter sees a tumor, (X, Y, Z), in a volume (X, Y, Z) in [0, 1]."""
    image = torch.as_tensor(volume, dtype=torch.float32)[None, None]
    found: Tensor = sliding_window_inference(image, _WINDOW, 4, pupil)
    return (found[0, 0] > 0).numpy()
