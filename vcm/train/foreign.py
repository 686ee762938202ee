"""A new VCM for a backbone that was made elsewhere: its configuration, and the simulated cohort on its grid."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap

from vcm.data.cohort import Cohort
from vcm.modalities.names import ANATOMY, TUMOR
from vcm.modalities.registry import MODALITIES, list_trainable
from vcm.model.config import (
    AdapterConfig,
    BackboneConfig,
    ConditionEncoderConfig,
    CovariateConfig,
    Grid,
    ModelConfig,
)
from vcm.volume import Volume
from vcm.whole_files import reserve

logger = logging.getLogger(__name__)

_DEFAULT = (TUMOR, ANATOMY)

_NARROWEST, _WIDEST = 16, 64
_MOST_LEVELS = 3
_FEWEST_CELLS = 3  # along an axis; at 2, bfloat16 convolutions on a CPU read memory that nobody wrote


def choose_adapter(config: ModelConfig, conditions: Sequence[str] | None = None) -> AdapterConfig:
    """Return the configuration of the VCM to train for a model.

    It is the model's own where that can be trained here; its own with other conditions where those were asked for; and
    a new one, which begins as the identity, where the model's own is of the published form, which never can.

    Args:
        conditions: names of `list_trainable`; the model's own by default, or tumor and anatomy where it has others.

    Raises:
        ValueError: a condition cannot be trained.
    """
    own, trainable = config.adapter, list_trainable()
    known = tuple(own.condition_channels)
    wanted = tuple(conditions) if conditions else (known if set(known) <= set(trainable) else _DEFAULT)
    for name in wanted:
        if name not in trainable:
            raise ValueError(f"condition is {name!r}; it must be one of {', '.join(trainable)}.")
    channels = {name: MODALITIES[name].channels or 0 for name in trainable if name in wanted}
    if own.normalize_heads:
        return build_adapter_config(config.backbone, config.grid, channels)
    return own if own.condition_channels == channels else replace(own, condition_channels=channels)


def build_adapter_config(backbone: BackboneConfig, grid: Grid, condition_channels: dict[str, int]) -> AdapterConfig:
    """Return a VCM for any backbone: a quarter as wide as it, in the published proportions, without head norm.

    Args:
        backbone: what is to be controlled.
        grid: of its volumes.
        condition_channels: of each condition.
    """
    factor = backbone.downsampling_factor
    # Folding 2 x 2 x 2 voxels into channels spares the level at full resolution, most of an encoder's memory.
    patch_size = min(2, factor)
    halvings = (factor // patch_size).bit_length() - 1
    encoder = ConditionEncoderConfig(
        channels=tuple(16 * min(level, 3) for level in range(1, halvings + 2)),
        num_res_blocks=(1,) * (halvings + 1),
        downsample=(True,) * halvings + (False,),
        norm_num_groups=8,
        patch_size=patch_size,
    )
    width = min(_WIDEST, max(_NARROWEST, backbone.diffusion["channels"][0] // 4 // 8 * 8))
    levels = _count_levels([n // factor for n in grid.shape])
    widths = [width * 2**level for level in range(levels)]
    return AdapterConfig(
        condition_channels=condition_channels,
        condition_encoder=encoder,
        unet={
            "spatial_dims": 3,
            "in_channels": 2 * backbone.latent_channels + encoder.out_channels,
            "out_channels": width,
            "channels": widths,
            "num_res_blocks": 2,
            "attention_levels": [False] * levels,
            "norm_num_groups": 8,
            "resblock_updown": True,
            "num_head_channels": [0] * (levels - 1) + [widths[-1]],
        },
        head_channels=2 * width,
        velocity_schedule=backbone.schedule,
        norm="channel",
    )


def _count_levels(latent: Sequence[int]) -> int:
    """Return how many levels a U-Net may have on a latent of this shape."""
    levels = 1
    while levels < _MOST_LEVELS and all(n % 2**levels == 0 and n // 2**levels >= _FEWEST_CELLS for n in latent):
        levels += 1
    return levels


@dataclass(frozen=True)
class Placement:
    """How a cohort goes from its own grid and covariates to a model's.

    Images are averaged over each voxel of the model, labels decided by their shares, as a user's volumes are. What the
    cohort does not cover is 0, and no finer than it was simulated, whatever the model's voxels.

    Raises:
        ValueError: the model's first axis does not run between left and right, which training mirrors.
    """

    source: Grid
    target: Grid
    source_covariates: CovariateConfig
    target_covariates: CovariateConfig

    def __post_init__(self) -> None:
        if Volume(np.zeros((1, 1, 1), np.uint8), self.target.affine).axcodes[0] not in "LR":
            raise ValueError("The first axis of the model's grid must run between left and right.")

    def apply(self, cohort: Cohort, cache: str | Path) -> Cohort:
        """Return the cohort on the model's grid, made once and kept in `cache`, memory-mapped."""
        folder = Path(cache) / f"cohort-{len(cohort)}-on-grid-{self._key(cohort)}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # of several processes that want it, one makes it
            if not folder.is_dir():
                self._fill(folder, cohort)
        read = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        return replace(
            cohort,
            images={name: read[f"image-{name}"] for name in cohort.images},
            tumor=read[TUMOR],
            anatomy=read[ANATOMY],
            anatomy_before=read["anatomy_before"],
            context=self._translate(cohort.context),
        )

    def _fill(self, folder: Path, cohort: Cohort) -> None:
        """Write the cohort's volumes as they lie on the model's grid; the folder appears once it is whole."""
        from tqdm import tqdm

        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        labels = {TUMOR: cohort.tumor, ANATOMY: cohort.anatomy, "anatomy_before": cohort.anatomy_before}
        shape = (len(cohort), *self.target.shape)
        made = {name: open_memmap(partial / f"{name}.npy", "w+", np.uint8, shape) for name in labels}
        made |= {name: open_memmap(partial / f"image-{name}.npy", "w+", np.float16, shape) for name in cohort.images}
        for path in partial.glob("*.npy"):
            reserve(path, path.stat().st_size)
        for index in tqdm(range(len(cohort)), unit="subject", desc="placing"):
            for name, maps in labels.items():
                made[name][index] = self._place(maps[index], labels=True)
            for name, images in cohort.images.items():
                made[name][index] = self._place(images[index], labels=False).clip(0.0, 1.0)
        for array in made.values():
            array.flush()
        partial.rename(folder)

    def _place(self, array: np.ndarray, labels: bool) -> np.ndarray:
        volume = Volume(np.array(array, dtype=np.uint8 if labels else np.float32), self.source.affine)
        return volume.to_grid(self.target.shape, self.target.affine, labels=labels).array

    def _translate(self, context: np.ndarray) -> np.ndarray:
        """Return covariates (N, 4) as the model counts them; where it does not say its range, the cohort's is kept."""
        translated = np.array(context, dtype=np.float32)
        for column, name in ((1, "age_years"), (2, "ventricular_ml"), (3, "brain_ml")):
            ours, theirs = getattr(self.source_covariates, name), getattr(self.target_covariates, name)
            if ours is not None and theirs is not None and ours != theirs:
                amounts = ours[0] + (ours[1] - ours[0]) * translated[:, column]
                translated[:, column] = ((amounts - theirs[0]) / (theirs[1] - theirs[0])).clip(0.0, 1.0)
        return translated

    def _key(self, cohort: Cohort) -> str:
        """Return a hash that identifies this cohort on this grid."""
        digest = hashlib.sha256(repr((self.target.shape, self.target.affine.tolist(), list(cohort.seeds))).encode())
        for array in (cohort.tumor[0], *(images[0] for images in cohort.images.values())):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]
