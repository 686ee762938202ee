"""Steps of a VCM that stay the same while its sketch maps learn, computed once and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from torch import Tensor

from vcm.adapter import VCM, modulate
from vcm.backbone import Backbone
from vcm.dataset import read_earlier, write_json
from vcm.precision import autocast
from vcm.train.objective import Noised
from vcm.whole_files import reserve

logger = logging.getLogger(__name__)

TIMES = 2
"""At which each view is noised. The conditions are read once for all of them, which takes as long as a step."""

_PROGRESS = "done.json"


@dataclass(frozen=True)
class View:
    """A batch of conditions as a VCM reads them, and the same subjects noised `TIMES` times."""

    joined: Tensor
    seen: Tensor
    noised: list[Noised]


@dataclass(frozen=True)
class Moments:
    """What sketch maps are made of, and what they have to make up for, memory-mapped float16.

    - `joined`: the VCM's features (N, F, x, y, z); `seen`: the latents of sketches (N, 3 C, x, y, z);
      `tumor_share`: of each latent cell, (N, 1, x, y, z).
    - `latent`: z_t; `clean`: what the prior thinks that z_0 is; `missing`: by how much the VCM's v falls short of the
      true one without sketch maps; (N, TIMES, C, x, y, z) each.
    - `timesteps`: (N, TIMES), integers.
    """

    joined: np.ndarray
    seen: np.ndarray
    tumor_share: np.ndarray
    latent: np.ndarray
    clean: np.ndarray
    missing: np.ndarray
    timesteps: np.ndarray

    def __len__(self) -> int:
        return len(self.timesteps)

    def take(self, name: str, chosen: list[int], device: str) -> Tensor:
        """Return an array's rows as a tensor: float32, or integers as they are."""
        tensor = torch.from_numpy(np.asarray(getattr(self, name)[chosen])).to(device)
        return tensor.float() if tensor.is_floating_point() else tensor


def kept_moments(
    folder: Path,
    identity: dict[str, Any],
    batches: int,
    batch_size: int,
    draw: Callable[[int], View],
    backbone: Backbone,
    adapter: VCM,
    device: str,
) -> Moments:
    """Read moments from `folder`, or make them there, going on where a run stopped.

    Args:
        folder: of arrays, one a file.
        identity: what the moments depend on; those of another are made anew.
        batches: of `batch_size` views each.
        draw: index of a batch to its view, always the same for the same index.
        backbone: the frozen prior.
        adapter: the VCM, whose sketch maps are still silent.
        device: of both.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        earlier = read_earlier(folder / _PROGRESS, identity)
        done = 0 if earlier is None else earlier["batches"]
        moments = _open(folder, batches * batch_size, backbone, adapter, fresh=earlier is None)
        if done < batches:
            logger.info("reading %d batches of conditions", batches - done)
        for index in tqdm(range(done, batches), total=batches, initial=done, unit="batch", disable=done == batches):
            rows = slice(index * batch_size, (index + 1) * batch_size)
            _fill(moments, rows, draw(index), backbone, adapter, device)
            if index % 10 == 9 or index == batches - 1:
                for array in vars(moments).values():
                    array.flush()
                write_json(folder / _PROGRESS, {**identity, "batches": index + 1})
    return moments


def _open(folder: Path, count: int, backbone: Backbone, adapter: VCM, fresh: bool) -> Moments:
    channels, *cells = backbone.latent_shape
    seen = 3 * channels
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "joined": ("float16", (count, adapter.config.condition_encoder.out_channels, *cells)),
        "seen": ("float16", (count, seen, *cells)),
        "tumor_share": ("float16", (count, 1, *cells)),
        "timesteps": ("int64", (count, TIMES)),
    }
    shapes |= dict.fromkeys(("latent", "clean", "missing"), ("float16", (count, TIMES, channels, *cells)))
    arrays = {}
    for name, (dtype, shape) in shapes.items():
        path = folder / f"{name}.npy"
        arrays[name] = open_memmap(path, "w+" if fresh else "r+", dtype=dtype, shape=shape)
        if fresh:
            reserve(path, path.stat().st_size)
    return Moments(**arrays)


@torch.no_grad()
def _fill(moments: Moments, rows: slice, view: View, backbone: Backbone, adapter: VCM, device: str) -> None:
    moments.joined[rows] = _half(view.joined)
    moments.seen[rows] = _half(view.seen)
    moments.tumor_share[rows] = _half(view.noised[0].tumor_share)
    features = adapter.gather_features(view.joined, view.seen)
    for time, noised in enumerate(view.noised):
        with autocast(device):
            epsilon = backbone.predict_epsilon(noised.latent, noised.timesteps, noised.context)
            eps_scale, eps_shift = adapter(noised.latent, epsilon, features, noised.timesteps)
        missing = (noised.noise - modulate(epsilon, eps_scale, eps_shift)) / noised.signal
        moments.latent[rows, time] = _half(noised.latent)
        moments.clean[rows, time] = _half(backbone.remove_noise(noised.latent, epsilon, noised.timesteps))
        moments.missing[rows, time] = _half(missing)
        moments.timesteps[rows, time] = noised.timesteps.cpu().numpy()


def _half(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.float().cpu().numpy().astype(np.float16)
    return array
