"""The segmenter of a model folder: its weights in half precision, and their configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from vcm.model.segmenter import Segmenter, SegmenterConfig
from vcm.weights.checkpoint import (
    SEGMENTER_FILE,
    CheckpointError,
    fill,
    read_weights,
    save_weights,
    verify_files,
    write_bytes,
)

SEGMENTER_CONFIG_FILE = "segmenter.json"
_CONFIG = TypeAdapter(SegmenterConfig)


def load_segmenter(folder: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """Load the segmenter of a model folder.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit its configuration.
    """
    folder = Path(folder)
    verify_files(folder, [SEGMENTER_CONFIG_FILE, SEGMENTER_FILE])
    try:
        config = _CONFIG.validate_json((folder / SEGMENTER_CONFIG_FILE).read_bytes(), strict=True, extra="forbid")
    except ValidationError as error:
        raise CheckpointError(f"{SEGMENTER_CONFIG_FILE} cannot be used.") from error
    segmenter = Segmenter(config)
    fill(segmenter.network, read_weights(folder / SEGMENTER_FILE), SEGMENTER_FILE)
    return segmenter.to(device).eval()


def save_segmenter(segmenter: Segmenter, folder: str | Path) -> None:
    """Write weights in half precision and their configuration into a model folder."""
    folder = Path(folder)
    write_bytes(folder / SEGMENTER_CONFIG_FILE, _CONFIG.dump_json(segmenter.config, indent=2) + b"\n")
    save_weights(folder / SEGMENTER_FILE, segmenter.network.state_dict())
