"""A small MONAI U-Net that is trained within minutes: for pupils and baselines, never for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor, nn

from vcm.train.loop import LoopConfig, run_loop

INPUT, TARGET = "input", "target"

_CHANNELS = (16, 32, 64, 128)
_LEARNING_RATE = 3e-3


def train_small_unet(
    samples: Sequence[Mapping[str, NDArray[np.generic]]],
    transform: Compose,
    criterion: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    out: Path,
) -> UNet:
    """Return a U-Net that has learned each sample's "target" (X, Y, Z) from its "input" (C, X, Y, Z).

    Args:
        transform: from a sample to what a step sees, or to the list of it.
        criterion: from what the network says and the target, both (1, 1, x, y, z), to the loss.
        out: folder for state and log; a training that was killed is gone on with.
    """

    def loss_function(network: nn.Module, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen, seed = (int(torch.randint(limit, (1,), generator=random)) for limit in (len(samples), 2**31))
        transform.set_random_state(seed)
        sample = samples[chosen]
        seen = transform({INPUT: _to_tensor(sample[INPUT]), TARGET: _to_tensor(sample[TARGET])[None]})
        seen = seen[0] if isinstance(seen, list) else seen
        return criterion(network(seen[INPUT].as_tensor()[None]).float(), seen[TARGET].as_tensor()[None]), {}

    torch.manual_seed(0)
    inputs = len(samples[0][INPUT])
    network = UNet(3, inputs, 1, channels=_CHANNELS, strides=(2, 2, 2), num_res_units=1, norm="instance")
    warmup = max(1, min(100, steps // 10))
    config = LoopConfig(steps, _LEARNING_RATE, warmup_steps=warmup, ema_decay=0.98, save_every=1000)
    return run_loop(network, loss_function, config, out, resume=True)


@torch.no_grad()
def apply_small_unet(
    network: UNet, volumes: NDArray[np.generic], window: tuple[int, int, int] | None = None
) -> NDArray[np.float32]:
    """Return what a U-Net says of a whole volume, (X, Y, Z), from its input (C, X, Y, Z).

    Args:
        window: what it was trained on, if that was a part: its norms then take their statistics from as much.
    """
    inputs = _to_tensor(volumes)[None]
    said = network(inputs) if window is None else sliding_window_inference(inputs, window, 4, network, mode="gaussian")
    assert isinstance(said, Tensor)
    return said[0, 0].numpy()


def _to_tensor(volumes: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.asarray(volumes, np.float32))
