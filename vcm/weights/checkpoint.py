"""Model folders: read, verify, load strictly, save."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from vcm.model.backbone import Backbone
from vcm.model.config import ConfigError, ModelConfig
from vcm.model.vcm import VCM
from vcm.weights import legacy
from vcm.whole_files import write_whole

CONFIG_FILE = "config.json"
AUTOENCODER_FILE = "autoencoder.safetensors"
DIFFUSION_FILE = "diffusion.safetensors"
VCM_FILE = "vcm.safetensors"
SEGMENTER_FILE = "segmenter.safetensors"
BRAIN_FILE = "brain.nii.gz"
"""A mask on the model grid of where brains lie, so that a tumor drawn elsewhere can be said."""
STEP_FILE = "verified_step.json"
"""Numbers of one denoising step, with which `vcm doctor` compares that step on this machine."""
SUMS_FILE = "SHA256SUMS"

WHITENING = ("latent_mean", "latent_std")
"""Buffers of a whitened backbone, kept with the diffusion network and in full precision."""

_LARGEST_TEXT = 1_000_000


class CheckpointError(ValueError):
    """Weights or a model folder that cannot be used; the message is one sentence that names the file, not its path."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, in float32 and evaluation mode; `hashes` are SHA-256 sums by file name."""

    config: ModelConfig
    backbone: Backbone
    adapter: VCM
    hashes: dict[str, str]

    def __post_init__(self) -> None:
        self.adapter.look_through(self.backbone)


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model folder: config.json, three safetensors files and SHA256SUMS.

    Raises:
        CheckpointError: a file is missing, damaged, not what its sum says, or does not fit the configuration exactly.
    """
    folder = Path(folder)
    config, backbone, hashes = load_backbone(folder, device)
    hashes |= verify_files(folder, [VCM_FILE])
    with torch.device("meta"):
        adapter = VCM(config.adapter)
    fill(adapter, read_weights(folder / VCM_FILE), VCM_FILE)
    return LoadedModel(config, backbone, adapter.to(device).eval(), hashes)


def load_backbone(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[ModelConfig, Backbone, dict[str, str]]:
    """Load only the configuration and the frozen backbone of a model folder, with their SHA-256 sums.

    Raises:
        CheckpointError: as `load_model` does.
    """
    folder = Path(folder)
    hashes = verify_files(folder, [CONFIG_FILE, AUTOENCODER_FILE, DIFFUSION_FILE])
    config = _read_config(folder / CONFIG_FILE)
    backbone = _build_backbone(config)
    diffusion = read_weights(folder / DIFFUSION_FILE)
    if config.backbone.whitening:
        maps = {name: diffusion.pop(name) for name in WHITENING if name in diffusion}
        _set_whitening(backbone, maps)
    fill(backbone.autoencoder, read_weights(folder / AUTOENCODER_FILE), AUTOENCODER_FILE)
    fill(backbone.diffusion, diffusion, DIFFUSION_FILE)
    return config, backbone.to(device), hashes


def save_model(folder: str | Path, config: ModelConfig, backbone: Backbone, adapter: VCM | None = None) -> None:
    """Write a model folder in half precision that `load_model` reads, and its SHA256SUMS.

    What else the folder holds (a segmenter, a model card) is kept, and counted among the sums if it is a weight file.

    Raises:
        CheckpointError: a weight is not finite in half precision.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG_FILE, config.to_json().encode())
    save_weights(folder / AUTOENCODER_FILE, backbone.autoencoder.state_dict())
    whitening = {name: getattr(backbone, name) for name in WHITENING} if config.backbone.whitening else {}
    save_weights(folder / DIFFUSION_FILE, backbone.diffusion.state_dict(), whitening)
    if adapter is not None:
        save_weights(folder / VCM_FILE, adapter.state_dict())
    write_sums(folder)


def load_reference(folder: str | Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Load the layout of the published code: config.json, autoencoder.pth, diffusion_model.pth and vcm_weight.pt.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the configuration exactly.
    """
    folder = Path(folder)
    values = read_json(folder / CONFIG_FILE)
    files = {"autoencoder": "autoencoder.pth", "diffusion": "diffusion_model.pth", "vcm": "vcm_weight.pt"}
    weights = {part: legacy.strip_prefix(read_weights(folder / name)) for part, name in files.items()}
    head_channels = legacy.published_head_channels(weights["vcm"])
    if head_channels is None:
        raise CheckpointError(f"{files['vcm']} lacks the weight mlp_shared.conv.weight.")
    try:
        config = legacy.published_config(values, name="reference", head_channels=head_channels)
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG_FILE} cannot be used: {error}") from error
    backbone = _build_backbone(config)
    with torch.device("meta"):
        adapter = VCM(config.adapter)
    fill_published(backbone.autoencoder, weights["autoencoder"], files["autoencoder"])
    fill_published(backbone.diffusion, weights["diffusion"], files["diffusion"])
    fill_published(adapter, weights["vcm"], files["vcm"])
    hashes = {name: file_hash(folder / name) for name in [CONFIG_FILE, *files.values()]}
    return LoadedModel(config, backbone.to(device), adapter.to(device).eval(), hashes)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a weight file into float32 tensors on the CPU; nothing in the file is ever executed.

    `.safetensors` is read as such, anything else as a file of `torch.save`, of plain tensors only.

    Raises:
        CheckpointError: the file is missing, damaged, no weight file, or holds something that is not a finite number.
    """
    path = Path(path)
    refuse_impostors(path)
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path.name} holds numbers that are not floating point in {name}.")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path.name} holds numbers that are not finite in {name}.")
    return {name: tensor.float() for name, tensor in weights.items()}


def save_weights(path: Path, state: Mapping[str, Tensor], full_precision: Mapping[str, Tensor] | None = None) -> None:
    """Write tensors as safetensors, `state` in half precision; the file appears whole or not at all.

    Raises:
        CheckpointError: a weight is not finite in half precision.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in state.items()}
    for name, tensor in (full_precision or {}).items():
        tensors[name] = tensor.detach().cpu().float().contiguous()
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path.name} cannot be written: {name} is not finite in half precision.")
    write_bytes(path, serialize(tensors))


def fill(module: nn.Module, weights: Mapping[str, Tensor], file_name: str) -> None:
    """Give a module, which may be on the meta device, exactly these weights.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs.
    """
    expected = module.state_dict()
    for problem, names in (("lacks", set(expected) - set(weights)), ("has an unknown", set(weights) - set(expected))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{file_name} {problem} weight {min(names)}{more}.")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{file_name} has the shape {list(tensor.shape)} in {name}, expected {list(expected[name].shape)}."
            )
    module.load_state_dict(weights, strict=True, assign=True)


def fill_published(module: nn.Module, weights: Mapping[str, Tensor], file_name: str) -> None:
    """Give a module the weights of a published file, whose names are those of MONAI Generative or the released VCM.

    Raises:
        CheckpointError: as `fill` does.
    """
    rename = legacy.rename_vcm if isinstance(module, VCM) else legacy.rename_network
    fill(module, rename(weights, list(module.state_dict())), file_name)


def load_config(folder: str | Path) -> ModelConfig:
    """Read the configuration of a model folder, without its weights.

    Raises:
        CheckpointError: it is missing or cannot be used.
    """
    return _read_config(Path(folder) / CONFIG_FILE)


def verify_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 sums of files in a model folder after comparing each with SHA256SUMS.

    Raises:
        CheckpointError: a file or its sum is missing, or they differ.
    """
    sums = _read_sums(folder)
    hashes = {}
    for name in names:
        path = folder / name
        refuse_impostors(path)
        if name not in sums:
            raise CheckpointError(f"{SUMS_FILE} has no sum for {name}.")
        hashes[name] = file_hash(path)
        if hashes[name] != sums[name]:
            raise CheckpointError(f"{name} is damaged or was changed: its SHA-256 sum is not the one in {SUMS_FILE}.")
    return hashes


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS for every configuration, every safetensors file and the brain mask of a model folder."""
    paths = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob(BRAIN_FILE)])
    lines = [f"{file_hash(path)}  {path.name}\n" for path in paths]
    write_bytes(folder / SUMS_FILE, "".join(lines).encode())


def hash_weights(network: nn.Module, parts: tuple[str, ...] = ("",)) -> str:
    """Return the SHA-256 of a network's weights as they are in memory, or of those whose names begin with `parts`."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if name.startswith(parts):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Return a file's SHA-256 sum in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    with write_whole(path) as file:
        file.write(content)


def _build_backbone(config: ModelConfig) -> Backbone:
    with torch.device("meta"):
        return Backbone(config.backbone, config.latent_shape)


def _set_whitening(backbone: Backbone, maps: Mapping[str, Tensor]) -> None:
    missing = [name for name in WHITENING if name not in maps]
    if missing:
        raise CheckpointError(f"{DIFFUSION_FILE} lacks weight {missing[0]}.")
    try:
        backbone.set_whitening(maps["latent_mean"], maps["latent_std"])
    except ValueError as error:
        raise CheckpointError(f"{DIFFUSION_FILE} cannot be used: {error}") from error


def _read_config(path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_dict(read_json(path))
    except ConfigError as error:
        raise CheckpointError(f"{path.name} cannot be used: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of any origin; raises CheckpointError if it is missing, far too large or something else."""
    text = _read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not valid JSON.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} is not a JSON object.")
    return values


def _read_sums(folder: Path) -> dict[str, str]:
    sums = {}
    for line in _read_text(folder / SUMS_FILE).splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    return sums


def _read_text(path: Path) -> str:
    _refuse_missing(path)
    if path.stat().st_size > _LARGEST_TEXT:
        raise CheckpointError(f"{path.name} is far larger than it should be.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name} is not text.") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged or not a safetensors file.") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} was not opened, because it holds more than plain tensors or is no weight file."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged or not a weight file.") from error
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{path.name} is not a plain table of named weights.")
    return dict(weights)


def _check_archive(path: Path) -> None:
    """Compare the checksums inside a file of `torch.save`, which torch itself does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged.") from error
    if damaged is not None:
        raise CheckpointError(f"{path.name} is damaged: a checksum inside it is wrong.")


def refuse_impostors(path: Path) -> None:
    """Refuse what is often found in place of weights.

    Raises:
        CheckpointError: the file is missing or empty, only a pointer to the weights, or a web page.
    """
    _refuse_missing(path)
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path.name} is only a pointer to the weights: download the file itself.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise CheckpointError(f"{path.name} is a web page, not weights: download the file itself.")
    if not start:
        raise CheckpointError(f"{path.name} is empty.")


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing.")
