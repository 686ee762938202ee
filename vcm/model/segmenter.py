"""The independent judge: finds tumor and anatomy in a volume, and describes it for distances between sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.nets import SegResNet
from torch import Tensor, nn

from vcm.model.autoencoder import fold, unfold
from vcm.runtime.convolution import use_fast_convolutions
from vcm.runtime.precision import autocast

NUM_TUMOR_CLASSES = 4
"""Background, necrotic core, edema, enhancing."""
NUM_ANATOMY_CLASSES = 5
"""Background, CSF, gray matter, white matter, ventricles."""

_NORM_GROUPS = 8
_LARGEST_SIZE = 256
_PATCH_SIZES = (1, 2, 4)


@dataclass(frozen=True)
class SegmenterConfig:
    """Sizes of MONAI's SegResNet (Myronenko 2018), whose output holds the tumor's classes, then the anatomy's.

    `patch_size` is the edge, in voxels, of the cubes that are folded into channels before the network and unfolded
    after it: every voxel keeps its own logits, at a fraction of the cost of convolutions at full resolution.

    Raises:
        ValueError: they make no network.
    """

    init_filters: int = 32
    blocks_down: tuple[int, ...] = (1, 2, 2)
    blocks_up: tuple[int, ...] = (1, 1)
    patch_size: int = 2

    def __post_init__(self) -> None:
        blocks = (*self.blocks_down, *self.blocks_up)
        if not all(isinstance(size, int) and 1 <= size <= _LARGEST_SIZE for size in (self.init_filters, *blocks)):
            raise ValueError(f"Every size of a segmenter must be a whole number from 1 to {_LARGEST_SIZE}.")
        if self.patch_size not in _PATCH_SIZES:
            raise ValueError("A segmenter's patch_size must be 1, 2 or 4.")
        if self.init_filters % _NORM_GROUPS:
            raise ValueError(f"init_filters is {self.init_filters}; it must be a multiple of {_NORM_GROUPS}.")
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError("A segmenter needs one stage less on its way up than on its way down.")


class Segmenter(nn.Module):
    """Segments a contrast-enhanced T1 volume on the model's grid.

    It is trained on simulated subjects of its own, and used for measuring only: never in the training of what it
    measures, never in guidance, never to choose a checkpoint.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        cells = config.patch_size**3
        self.network = SegResNet(
            spatial_dims=3,
            init_filters=config.init_filters,
            in_channels=cells,
            out_channels=cells * (NUM_TUMOR_CLASSES + NUM_ANATOMY_CLASSES),
            blocks_down=config.blocks_down,
            blocks_up=config.blocks_up,
            norm=("GROUP", {"num_groups": _NORM_GROUPS}),
        )
        use_fast_convolutions(self.network)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the tumor's classes (B, 4, X, Y, Z) and of the anatomy's (B, 5, X, Y, Z)."""
        logits = unfold(self.network(fold(image, self.config.patch_size)), self.config.patch_size)
        return logits[:, :NUM_TUMOR_CLASSES], logits[:, NUM_TUMOR_CLASSES:]

    @torch.no_grad()
    def segment(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tumor labels and anatomy labels, both uint8 (X, Y, Z), of a volume (X, Y, Z) in [0, 1]."""
        image = self._to_tensor(volume)
        with autocast(image.device):
            tumor, anatomy = self(image)
        tumor_labels, anatomy_labels = _most_likely(tumor[0]), _most_likely(anatomy[0])
        anatomy_labels[tumor_labels > 0] = 0
        return tumor_labels, anatomy_labels

    @torch.no_grad()
    def describe(self, volume: np.ndarray) -> np.ndarray:
        """Return the mean of the deepest features over the volume, float32 (F,), of a volume (X, Y, Z) in [0, 1]."""
        image = self._to_tensor(volume)
        with autocast(image.device):
            deepest, _ = self.network.encode(fold(image, self.config.patch_size))
        return deepest.float().mean(dim=(2, 3, 4))[0].cpu().numpy()

    def _to_tensor(self, volume: np.ndarray) -> Tensor:
        device = next(self.parameters()).device
        tensor = torch.from_numpy(np.array(volume, dtype=np.float32, order="C"))[None, None]
        return tensor.to(device).contiguous(memory_format=torch.channels_last_3d)


def _most_likely(logits: Tensor) -> np.ndarray:
    """Return the class of each voxel, uint8 (X, Y, Z), from logits (classes, X, Y, Z)."""
    best = logits[0]
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    # A running comparison: argmax over the leading axis is ten times as slow on a CPU.
    for index in range(1, len(logits)):
        labels[logits[index] > best] = index
        best = torch.maximum(best, logits[index])
    return labels.cpu().numpy()
