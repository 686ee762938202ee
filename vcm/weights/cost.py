"""What a run of the published backbone takes where there is no GPU, so that nobody starts one unawares."""

from __future__ import annotations

from pathlib import Path

from vcm.model.config import ModelConfig
from vcm.weights.checkpoint import load_config
from vcm.weights.presets import brainldm_config
from vcm.weights.pretrained import PUBLISHED, find_model

# Estimates for two cores at 47 GFLOP/s together, from 1.54 TFLOP a controlled step and 15.1 TFLOP a decoded volume.
_MINUTES_A_STEP = 11 / 20
_MINUTES_A_VOLUME = 5.0


def say_cost(config: ModelConfig, device: str, num_inference_steps: int, *, compare: bool, runs: int = 1) -> str | None:
    """Return a sentence on how long a run will take, or None where no warning is needed.

    Args:
        config: of the model.
        device: the kind that it runs on, "cpu" or "cuda".
        num_inference_steps: of the run.
        compare: whether the uncontrolled volume is made, too.
        runs: how many such runs there are to come.
    """
    if device != "cpu" or config.backbone != brainldm_config().backbone:
        return None
    volumes = 2 if compare else 1
    sampling = round(num_inference_steps * _MINUTES_A_STEP * volumes) or 1
    decoding = round(_MINUTES_A_VOLUME * volumes)
    with_comparison = " and the comparison" if compare else ""
    return (
        f"On a CPU this model takes about {sampling} minutes for {num_inference_steps} steps{with_comparison}, and "
        f"about {decoding} for decoding{f', for each of {runs} runs' if runs > 1 else ''}."
    )


def guess_timings(config: ModelConfig, device: str) -> dict[str, float] | None:
    """Return about how many seconds each stage of a controlled run of 20 steps takes, where `say_cost` warns."""
    if say_cost(config, device, 20, compare=False) is None:
        return None
    return {"sample": 20 * _MINUTES_A_STEP * 60, "decode": _MINUTES_A_VOLUME * 60}


def peek_config(name: str | Path) -> ModelConfig:
    """Return the configuration of a model, without fetching or loading its weights.

    Raises:
        CheckpointError: there is no such model.
    """
    return brainldm_config() if name == PUBLISHED else load_config(find_model(name))
