"""What this machine has, and whether one step of a model comes out as it did where the model was made."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcm import __version__
from vcm.pipeline import Pipeline
from vcm.sampler import initial_noise
from vcm.weights.checkpoint import STEP_FILE, write_bytes
from vcm.weights.pretrained import find_model

TOLERANCE = 1e-3  # relative; other processors and thread counts differ by 1e-5, wrong arithmetic by 1

_PACKAGES = (
    "torch",
    "monai",
    "diffusers",
    "numpy",
    "scipy",
    "nibabel",
    "gradio",
    "plotly",
    "safetensors",
    "huggingface_hub",
    "spaces",
)
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_TIMESTEP = 500
_NUM_PROBES = 16


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and whether it is as it should be."""

    subject: str
    found: str
    healthy: bool = True


@dataclass(frozen=True)
class StepProbe:
    """Numbers that identify a denoising step: values of its tensors at evenly spread places."""

    features: list[float]
    epsilon: list[float]
    eps_scale: list[float]
    eps_shift: list[float]


def examine(model: str | Path, device: str = "auto", vcm_weights: str | Path | None = None) -> list[Finding]:
    """Return what a report on this machine and a model says, one finding a line.

    Args:
        model, device, vcm_weights: as `Pipeline.from_pretrained` takes them.

    Raises:
        CheckpointError: the model is not there, or one of its files is damaged.
        ValueError: there is no such device.
    """
    pipeline = Pipeline.from_pretrained(model, device=device, vcm_weights=vcm_weights)
    folder = find_model(model)
    return [*_versions(), *_machine(pipeline.device), *_weights(pipeline), check_step(pipeline, folder)]


def check_step(pipeline: Pipeline, folder: Path) -> Finding:
    """Compute one denoising step and compare it with the one stored in the model's folder."""
    subject = "verified step"
    try:
        stored = StepProbe(**json.loads((folder / STEP_FILE).read_text(encoding="utf-8")))
        difference = max(
            _relative_difference(getattr(stored, name), values) for name, values in asdict(probe_step(pipeline)).items()
        )
    except (OSError, ValueError, TypeError):
        return Finding(subject, f"the model's {STEP_FILE} is missing or damaged; --record stores it", healthy=False)
    healthy = difference <= TOLERANCE
    verdict = "as stored" if healthy else f"not as stored: it differs by more than {TOLERANCE:g}"
    return Finding(subject, f"{verdict} (largest relative difference {difference:.1e})", healthy)


def record_step(model: str | Path, vcm_weights: str | Path | None = None) -> Path:
    """Store the step that `check_step` compares with; to be done once, where the model is made."""
    step = probe_step(Pipeline.from_pretrained(model, device="cpu", vcm_weights=vcm_weights))
    path = find_model(model) / STEP_FILE
    write_bytes(path, (json.dumps(asdict(step), indent=2) + "\n").encode())
    return path


@torch.no_grad()
def probe_step(pipeline: Pipeline) -> StepProbe:
    """Compute one step at the middle of the trajectory, with a drawn half of the field of view as its condition."""
    name = pipeline.modalities[0]
    condition = torch.zeros(1, pipeline.config.adapter.condition_channels[name], *pipeline.grid.shape)
    condition[:, 0, : pipeline.grid.shape[0] // 2] = 1.0
    features = pipeline.adapter.encode_condition({name: condition.to(pipeline.device)})
    latent = initial_noise(0, pipeline.config.latent_shape).to(pipeline.device)
    timesteps = torch.tensor([_TIMESTEP], device=pipeline.device)
    context = torch.full((1, 1, 4), 0.5, device=pipeline.device)
    epsilon = pipeline.backbone.predict_epsilon(latent, timesteps, context)
    eps_scale, eps_shift = pipeline.adapter(latent, epsilon, features, timesteps)
    return StepProbe(*(_probe(tensor) for tensor in (features, epsilon, eps_scale, eps_shift)))


def _probe(tensor: Tensor) -> list[float]:
    values = tensor.flatten().float().cpu()
    places = torch.linspace(0, len(values) - 1, _NUM_PROBES).long()
    return [float(value) for value in values[places]]


def _relative_difference(expected: list[float], found: list[float]) -> float:
    expected_values, found_values = torch.tensor(expected), torch.tensor(found)
    if expected_values.shape != found_values.shape:
        raise ValueError("the stored step has another size")
    size = float(expected_values.abs().max())
    return float((found_values - expected_values).abs().max()) / (size or 1.0)


def _versions() -> list[Finding]:
    found = [Finding("vcm-studio", __version__), Finding("python", platform.python_version())]
    return found + [Finding(package, _version(package)) for package in _PACKAGES]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _machine(device: torch.device) -> list[Finding]:
    features = _cpu_features()
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        Finding("system", f"{platform.system()} on {platform.machine()}"),
        Finding("processor", f"{torch.get_num_threads()} threads, {', '.join(features) or 'no known extensions'}"),
        Finding("accelerators", ", ".join(accelerators) or "none"),
        Finding("device", str(device)),
    ]


def _cpu_features() -> list[str]:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # not Linux
        return [torch.backends.cpu.get_cpu_capability().lower()]
    return [feature for feature in _CPU_FEATURES if feature in flags]


def _weights(pipeline: Pipeline) -> list[Finding]:
    environment: Any = pipeline.environment
    named = [Finding("model", environment.model)]
    return named + [Finding(name, f"sha256 {digest}") for name, digest in sorted(environment.weights.items())]
