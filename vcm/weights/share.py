"""A VCM without its backbone: saved, shared on the hub, read again, and put in front of a backbone."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from vcm.model.config import AdapterConfig, ConfigError, ModelConfig
from vcm.model.vcm import VCM
from vcm.weights.checkpoint import (
    CONFIG_FILE,
    VCM_FILE,
    CheckpointError,
    file_hash,
    fill,
    fill_published,
    load_config,
    read_json,
    read_weights,
    save_weights,
    verify_files,
    write_bytes,
)
from vcm.weights.hub import HubFile, HubSource, fetch, is_repository
from vcm.weights.legacy import RELEASED_MODALITY, published_head_channels, strip_prefix

SHARED_WEIGHTS = "model.safetensors"
CARD_FILE = "README.md"

_CARD = """---
library_name: vcm-studio
tags:
  - medical-imaging
  - mri
  - latent-diffusion
  - vcm
---

# A Volumetric Conditioning Module

It steers a frozen 3D latent diffusion model (Ahn et al., WACV 2025, arXiv 2410.21826) and comes without that model.
It works with the backbone that it was trained on, which has {latent_channels} latent channels at 1/{factor} of the
voxel resolution.

Its conditions:
{conditions}

```bash
vcm generate --model BACKBONE --vcm-weights OWNER/NAME --condition {some}=map.nii.gz --out result
```

For research and teaching only, never for a diagnosis.
"""

_RELEASED_INPUT = "modality_encoder.conv_in.conv.weight"
_NOWHERE = "There is no such VCM: give a weight file, a folder, or a repository of the hub as OWNER/NAME."


def save_vcm(vcm: VCM, folder: str | Path) -> Path:
    """Write a VCM as the hub keeps models: config.json, model.safetensors in full precision, and a model card.

    A card that is there already is kept. Returns the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG_FILE, vcm.config.to_json().encode())
    save_weights(folder / SHARED_WEIGHTS, {}, full_precision=vcm.state_dict())
    if not (folder / CARD_FILE).exists():
        write_bytes(folder / CARD_FILE, _render_card(vcm.config).encode())
    return folder


def push_vcm(vcm: VCM, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a VCM to a repository of the hub, made where it is missing, and return its address.

    Raises:
        CheckpointError: the name is no OWNER/NAME, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if not is_repository(repository):
        raise CheckpointError("A repository of the hub is named OWNER/NAME.")
    api = HfApi(token=token)
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_vcm(vcm, folder)
            address = api.create_repo(repository, private=private, exist_ok=True)
            has_card = api.file_exists(repository, CARD_FILE)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="Upload a VCM",
                ignore_patterns=[CARD_FILE] if has_card else None,  # somebody may have written a better one
            )
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = ": log in with hf auth login" if status in (401, 403) else ""
        raise CheckpointError(f"The hub refused the upload with the status {status}{hint}.") from error
    except (HTTPError, OSError, RuntimeError) as error:
        raise CheckpointError("The VCM was not uploaded: the hub cannot be reached.") from error
    return str(address)


def load_vcm(where: str | Path, revision: str | None = None) -> VCM:
    """Read a VCM that `save_vcm` or `push_vcm` wrote, or that of a model folder, in float32 on the CPU, to evaluate.

    Args:
        where: a folder, or a repository of the hub as OWNER/NAME.
        revision: of the repository: a branch, a tag or a commit; its main branch by default.

    Raises:
        CheckpointError: it is not there, is damaged, or does not fit its configuration exactly.
    """
    config, weights = _locate(where, revision)
    return _read(config, weights)


def peek_conditions(config: ModelConfig, where: str | Path | None) -> tuple[str, ...] | None:
    """Return the conditions that a model will take, without loading weights; None where that needs a download.

    Args:
        config: of the model.
        where: of a VCM in place of the model's own, as `attach_vcm` takes it; None for its own.

    Raises:
        CheckpointError: the folder's configuration cannot be read.
    """
    if where is None:
        return tuple(config.adapter.condition_channels)
    folder = Path(where)
    if folder.is_file():
        return (RELEASED_MODALITY,)
    if not folder.is_dir():
        return None
    try:
        if (folder / VCM_FILE).is_file():
            return tuple(load_config(folder).adapter.condition_channels)
        return tuple(AdapterConfig.from_dict(read_json(folder / CONFIG_FILE)).condition_channels)
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG_FILE} cannot be used: {error}") from error


def attach_vcm(config: ModelConfig, where: str | Path) -> tuple[ModelConfig, VCM, str]:
    """Read the VCM that is to control a backbone.

    Args:
        config: of the backbone's model.
        where: the released weight file, or a folder or a repository that `load_vcm` reads.

    Returns:
        The configuration with this VCM's in place of its own, the VCM, and the SHA-256 sum of its weights.

    Raises:
        CheckpointError: it is not there, is damaged, or is for another kind of backbone.
    """
    if Path(where).is_file():
        weights = Path(where)
        vcm = _load_released(weights, config)
    else:
        described, weights = _locate(where, None)
        vcm = _read(described, weights)
    try:
        config = replace(config, adapter=vcm.config)
    except ConfigError as error:
        raise CheckpointError(f"This VCM is for another kind of backbone: {error}") from error
    return config, vcm, file_hash(weights)


def _locate(where: str | Path, revision: str | None) -> tuple[Path, Path]:
    """Return the configuration and the weights of a VCM in a folder, or fetched from the hub."""
    folder = Path(where)
    if folder.is_dir():
        if (folder / VCM_FILE).is_file():
            verify_files(folder, [CONFIG_FILE, VCM_FILE])
            return folder / CONFIG_FILE, folder / VCM_FILE
        return folder / CONFIG_FILE, folder / SHARED_WEIGHTS
    if not is_repository(str(where)):
        raise CheckpointError(_NOWHERE)
    files = (HubFile(CONFIG_FILE), HubFile(SHARED_WEIGHTS))
    config, weights = fetch(HubSource(str(where), revision or "main", files))
    return config.path, weights.path


def _read(config: Path, weights: Path) -> VCM:
    if weights.name == VCM_FILE:
        adapter = load_config(config.parent).adapter
    else:
        try:
            adapter = AdapterConfig.from_dict(read_json(config))
        except ConfigError as error:
            raise CheckpointError(f"{config.name} cannot be used: {error}") from error
    with torch.device("meta"):
        vcm = VCM(adapter)
    fill(vcm, read_weights(weights), weights.name)
    return vcm.eval()


def _load_released(path: Path, config: ModelConfig) -> VCM:
    """Read a weight file of the published code, for the sizes of the model but for any number of labels."""
    weights = strip_prefix(read_weights(path))
    head_channels = published_head_channels(weights)
    if head_channels is None or _RELEASED_INPUT not in weights:
        raise CheckpointError(f"{path.name} holds no weights of a released VCM.")
    labels = {RELEASED_MODALITY: int(weights[_RELEASED_INPUT].shape[1])}
    adapter = replace(config.adapter, condition_channels=labels, head_channels=head_channels, normalize_heads=True)
    with torch.device("meta"):
        vcm = VCM(adapter)
    fill_published(vcm, weights, path.name)
    return vcm.eval()


def _render_card(config: AdapterConfig) -> str:
    conditions = "\n".join(f"- `{name}`, {count} channels" for name, count in config.condition_channels.items())
    return _CARD.format(
        latent_channels=config.latent_channels,
        factor=config.condition_encoder.downsampling_factor,
        conditions=conditions,
        some=next(iter(config.condition_channels)),
    )
