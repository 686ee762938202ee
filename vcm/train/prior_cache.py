"""What the frozen prior predicts at noised latents, computed once and read at every training step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from torch import Tensor

from vcm.data.cohort import read_json, write_json
from vcm.model.backbone import Backbone
from vcm.runtime.precision import autocast
from vcm.train.diffusion import stratified_timesteps
from vcm.train.pairs import Pairs
from vcm.weights.checkpoint import hash_weights
from vcm.whole_files import reserve

NOISES = 4
"""Noised latents of each entry: one subject, at timesteps from as many equal parts of the schedule. Conditions are
encoded once for all of them."""

_FIRST_SEED = 1_000_000
_KEPT_EVERY = 25  # entries


@dataclass(frozen=True, eq=False)
class Entry:
    """One subject of the pairs at `NOISES` noise levels.

    - `index`: of the subject in the pairs; `timesteps`: (NOISES,).
    - `noise`: what is added to its latent, float32 (NOISES, C, x, y, z).
    - `velocity`: the prior's v at the noised latents, float32 (NOISES, C, x, y, z).
    """

    index: int
    timesteps: Tensor
    noise: Tensor
    velocity: Tensor


class PriorCache:
    """The prior's predictions for noised latents of some pairs, as float16 on disk, memory-mapped.

    Which subject, timesteps and noise an entry has follows from its number alone, so that only the prediction is kept.
    """

    def __init__(self, folder: Path, backbone: Backbone, pairs: Pairs, count: int) -> None:
        """Read the cache of these pairs in `folder`, or fill it, going on where an earlier run stopped.

        Args:
            count: of the entries; each subject, and its mirror image, is taken as often as any other.
        """
        self._backbone, self._pairs = backbone, pairs
        self._velocities = self._fill(folder, count)

    def __len__(self) -> int:
        return len(self._velocities)

    def __getitem__(self, number: int) -> Entry:
        index, timesteps, noise = self._describe(number)
        return Entry(index, timesteps, noise, torch.from_numpy(self._velocities[number].astype(np.float32)))

    def _describe(self, number: int) -> tuple[int, Tensor, Tensor]:
        """Return the subject, the timesteps and the noise of an entry."""
        turn, place = divmod(number, len(self._pairs))
        order = torch.randperm(len(self._pairs), generator=torch.Generator().manual_seed(_FIRST_SEED + turn))
        random = torch.Generator().manual_seed(_FIRST_SEED + 10_000 + number)
        timesteps = stratified_timesteps(NOISES, len(self._backbone.alphas_cumprod), random)
        noise = torch.randn((NOISES, *self._backbone.latent_shape), generator=random)
        return int(order[place]), timesteps, noise

    def _fill(self, folder: Path, count: int) -> np.memmap:
        from tqdm import tqdm

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"prior-{count}-{self._key()}.npy"
        progress = path.with_suffix(".json")
        shape = (count, NOISES, *self._backbone.latent_shape)
        with FileLock(f"{path}.lock"):  # of several processes that want it, one makes it
            fresh = not path.exists()
            velocities = open_memmap(path, "w+" if fresh else "r+", np.float16, shape)
            if fresh:
                reserve(path, path.stat().st_size)
            done = 0 if fresh or not progress.exists() else read_json(progress)["entries"]
            for number in tqdm(range(done, count), initial=done, total=count, unit="entry", desc="asking the prior"):
                velocities[number] = self._predict(number).numpy()
                if number % _KEPT_EVERY == _KEPT_EVERY - 1 or number == count - 1:
                    velocities.flush()
                    write_json(progress, {"entries": number + 1})
        return velocities

    @torch.no_grad()
    def _predict(self, number: int) -> Tensor:
        """Return the prior's v of an entry, float32 on the CPU."""
        index, timesteps, noise = self._describe(number)
        device = self._pairs.latents.device
        clean, context, _ = self._pairs.targets([index])
        timesteps, noise = timesteps.to(device), noise.to(device)
        noisy = self._backbone.add_noise(clean, noise, timesteps)
        with autocast(device):
            epsilon = self._backbone.predict_epsilon(noisy, timesteps, context.expand(NOISES, -1, -1))
        return to_velocity(epsilon, noisy, self._backbone.alphas_cumprod[timesteps]).cpu()

    def _key(self) -> str:
        """Return a hash that identifies this prior on these latents."""
        latents = self._pairs.latents
        digest = hashlib.sha256(hash_weights(self._backbone.diffusion).encode())
        digest.update(repr((tuple(latents.shape), self._pairs.prefix.name)).encode())
        digest.update(latents[:: max(1, len(latents) // 8)].cpu().numpy().tobytes())
        return digest.hexdigest()[:12]


def to_velocity(epsilon: Tensor, noisy: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return the v, (B, C, x, y, z), that a noise estimate at z_t stands for: (epsilon - sqrt(1 - a) z_t) / sqrt(a).

    Args:
        alphas_cumprod: a, of each sample, (B,).
    """
    alphas = alphas_cumprod.reshape(-1, 1, 1, 1, 1)
    return (epsilon - (1.0 - alphas).sqrt() * noisy) / alphas.sqrt()
