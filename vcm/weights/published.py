"""BrainLDM, fetched from the hub once and kept in the cache as a model folder like any other."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import torch

from vcm.model.backbone import Backbone
from vcm.weights.checkpoint import (
    AUTOENCODER_FILE,
    CONFIG_FILE,
    DIFFUSION_FILE,
    CheckpointError,
    fill_published,
    read_json,
    read_weights,
    save_weights,
    verify_files,
    write_bytes,
    write_sums,
)
from vcm.weights.hub import FetchedFile, HubFile, HubSource, discard, fetch
from vcm.weights.legacy import strip_prefix
from vcm.weights.presets import brainldm_config

SOURCE = HubSource(
    repository="MONAI/brain_image_synthesis_latent_diffusion_model",
    revision="main",
    files=(HubFile("models/autoencoder.pt"), HubFile("models/model.pt")),
)
"""Where the backbone comes from. No commit and no sum are known beforehand, so the first download is trusted: its
commit and its sums are recorded, the hub is never asked again, and every later load is checked against the record.
To pin it, put the commit for `revision` and the sums beside the files."""

SOURCE_FILE = "source.json"


def cache_folder() -> Path:
    """Return where converted models are kept: VCM_CACHE, or else vcm-studio in the user's cache."""
    chosen = os.environ.get("VCM_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcm-studio"


def backbone_folder() -> Path:
    """Return where the converted backbone is kept, whether it is there yet or not."""
    return cache_folder() / f"brainldm-{SOURCE.revision}"


def is_cached() -> bool:
    """Whether the backbone has been fetched and converted."""
    return (backbone_folder() / SOURCE_FILE).is_file()


def open_backbone() -> Path:
    """Return the model folder of the backbone, verified; fetched and converted first where it is not in the cache.

    It holds no VCM: that comes from a file of its own.

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or is not what was fetched the first time.
    """
    folder = backbone_folder()
    if not is_cached():
        files = fetch(SOURCE)
        try:
            _convert(files, folder)
        except CheckpointError:
            for file in files:  # kept, they would fail the next time, too
                discard(file.path)
            raise
        except OSError as error:
            raise CheckpointError(f"The cache cannot be written: {error.strerror or error}.") from error
    try:
        verify_files(folder, [CONFIG_FILE, AUTOENCODER_FILE, DIFFUSION_FILE, SOURCE_FILE])
        _compare_with_record(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error} Delete {folder.name} in the cache of vcm-studio to fetch it again.") from error
    return folder


def _convert(files: list[FetchedFile], folder: Path) -> None:
    """Write the model folder of the published files; it appears whole or not at all."""
    config = brainldm_config()
    with torch.device("meta"):
        backbone = Backbone(config.backbone, config.latent_shape)
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}.part")
    partial.mkdir(parents=True)
    try:
        networks = ((backbone.autoencoder, AUTOENCODER_FILE), (backbone.diffusion, DIFFUSION_FILE))
        for (network, name), file in zip(networks, files, strict=True):
            fill_published(network, strip_prefix(read_weights(file.path)), file.path.name)
            save_weights(partial / name, {}, full_precision=network.state_dict())
            network.to("meta")  # two gigabytes that nobody needs any more
        write_bytes(partial / CONFIG_FILE, config.to_json().encode())
        source = {
            "repository": SOURCE.repository,
            "commit": files[0].commit,
            "sha256": {file.path.name: file.sha256 for file in files},
        }
        write_bytes(partial / SOURCE_FILE, (json.dumps(source, indent=2) + "\n").encode())
        write_sums(partial)
        if not is_cached():  # another process may have been quicker
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _compare_with_record(folder: Path) -> None:
    """Refuse a folder made of other files than those whose sums are known."""
    recorded = read_json(folder / SOURCE_FILE).get("sha256")
    for file in SOURCE.files:
        name = Path(file.path).name
        if file.sha256 is not None and (not isinstance(recorded, dict) or recorded.get(name) != file.sha256):
            raise CheckpointError(f"{name} was not the published file when it was fetched.")
