"""Training data on disk: simulated cohorts, made once, and the latents that a frozen autoencoder gives for them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from torch import Tensor

from vcm.data import simulate
from vcm.whole_files import reserve, write_whole

logger = logging.getLogger(__name__)

# Raise it when a change to simulate.py changes what a seed gives, so that no stale cohort is read.
_COHORT_VERSION = 4

_ARRAYS = ("tumor", "anatomy", "anatomy_before", "context", "volumes_ml")


@dataclass(frozen=True)
class Cohort:
    """Arrays over N subjects on the mini grid, memory-mapped.

    Attributes:
        seeds: the subjects' seeds, (N,).
        images: contrast name to (N, 80, 112, 80) float16 in [0, 1].
        tumor, anatomy, anatomy_before: (N, 80, 112, 80) uint8 labels; see `simulate.Subject`.
        context: (N, 4) float32, sex, age, ventricular volume, brain volume in [0, 1].
        volumes_ml: (N, 2) float32, measured lateral ventricles and brain (gray and white matter).
    """

    seeds: Sequence[int]
    images: dict[str, np.ndarray]
    tumor: np.ndarray
    anatomy: np.ndarray
    anatomy_before: np.ndarray
    context: np.ndarray
    volumes_ml: np.ndarray

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, chosen: Sequence[int]) -> Cohort:
        """Return the cohort of some subjects, by their indices; a range from 0 copies nothing."""
        rows: Any = slice(chosen.stop) if isinstance(chosen, range) and chosen.start == 0 else list(chosen)
        return Cohort(
            seeds=[self.seeds[index] for index in chosen],
            images={name: images[rows] for name, images in self.images.items()},
            **{name: getattr(self, name)[rows] for name in _ARRAYS},
        )


def simulated_cohort(
    cache: str | Path,
    seeds: range,
    contrasts: tuple[str, ...] = ("t1",),
    with_tumor: bool = True,
    workers: int | None = None,
) -> Cohort:
    """The cohort of these seeds: from `cache` where it is whole, else simulated there, going on where a run stopped.

    Of several processes that want it, one makes it, and the others wait.
    """

    recipe = {
        "version": _COHORT_VERSION,
        "first": seeds.start,
        "count": len(seeds),
        "step": seeds.step,
        "contrasts": list(contrasts),
        "with_tumor": with_tumor,
    }
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(cache) / f"cohort-{seeds.start}-{len(seeds)}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        return _read_or_simulate(folder, recipe, seeds, contrasts, with_tumor, workers)


def _read_or_simulate(
    folder: Path,
    recipe: dict[str, Any],
    seeds: range,
    contrasts: tuple[str, ...],
    with_tumor: bool,
    workers: int | None,
) -> Cohort:
    from tqdm import tqdm

    progress = folder / "done.json"
    done = json.loads(progress.read_text())["subjects"] if progress.exists() else 0

    shape = (len(seeds), *simulate.SHAPE)
    names: dict[str, tuple[str, tuple[int, ...]]] = {f"image-{name}": ("float16", shape) for name in contrasts}
    names |= dict.fromkeys(("tumor", "anatomy", "anatomy_before"), ("uint8", shape))
    names |= {"context": ("float32", (len(seeds), 4)), "volumes_ml": ("float32", (len(seeds), 2))}
    arrays = {}
    for name, (dtype, array_shape) in names.items():
        path = folder / f"{name}.npy"
        fresh = not path.exists()
        done = 0 if fresh else done
        arrays[name] = open_memmap(path, "w+" if fresh else "r+", dtype=dtype, shape=array_shape)
        if fresh:
            reserve(path, path.stat().st_size)

    if done < len(seeds):
        logger.info("simulating %d subjects", len(seeds) - done)
        made = simulate.simulate_subjects(seeds[done:], contrasts, with_tumor, workers)
        for index, subject in enumerate(tqdm(made, total=len(seeds), initial=done, unit="subject"), start=done):
            for name in contrasts:
                arrays[f"image-{name}"][index] = subject.images[name]
            for name in ("tumor", "anatomy", "anatomy_before"):
                arrays[name][index] = getattr(subject, name)
            arrays["context"][index] = subject.covariates.context
            arrays["volumes_ml"][index] = subject.covariates.ventricular_ml, subject.covariates.brain_ml
            if index % 50 == 49 or index == len(seeds) - 1:
                for array in arrays.values():
                    array.flush()
                write_json(progress, {"subjects": index + 1, **recipe})
    return Cohort(
        seeds=seeds,
        images={name: arrays[f"image-{name}"] for name in contrasts},
        tumor=arrays["tumor"],
        anatomy=arrays["anatomy"],
        anatomy_before=arrays["anatomy_before"],
        context=arrays["context"],
        volumes_ml=arrays["volumes_ml"],
    )


def cached_tensor(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Read a tensor from `path`, or make it and keep it there; of several processes that want it, one makes it."""
    with FileLock(f"{path}.lock"):
        if path.exists():
            return torch.load(path, weights_only=True)
        tensor = make()
        with write_whole(path) as file:
            torch.save(tensor, file)
        return tensor


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def read_earlier(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read results to go on with; None where there are none, or where they are of something else than `identity`."""
    earlier = read_json(path) if path.exists() else {}
    return earlier if earlier and all(earlier.get(name) == value for name, value in identity.items()) else None


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader, or a run killed in mid-write, never sees half of it."""
    with write_whole(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
