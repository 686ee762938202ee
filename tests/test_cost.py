"""What a run of the published backbone takes is said where it is long, and nowhere else."""

from dataclasses import replace
from pathlib import Path

import pytest

from vcm.model.config import ModelConfig
from vcm.weights.checkpoint import CheckpointError
from vcm.weights.cost import guess_timings, peek_config, say_cost
from vcm.weights.presets import brainldm_config


def test_a_run_of_the_published_backbone_on_a_cpu_is_told_in_minutes() -> None:
    told = say_cost(brainldm_config(), "cpu", 20, compare=False)
    assert told == "On a CPU this model takes about 11 minutes for 20 steps, and about 5 for decoding."
    both = say_cost(brainldm_config(), "cpu", 40, compare=True)
    assert (
        both == "On a CPU this model takes about 44 minutes for 40 steps and the comparison, and about 10 for decoding."
    )


def test_many_runs_are_told_as_many() -> None:
    told = say_cost(brainldm_config(), "cpu", 20, compare=False, runs=50)
    assert told is not None
    assert told.endswith("about 5 for decoding, for each of 50 runs.")


def test_the_first_guess_of_the_page_is_the_same_time() -> None:
    assert guess_timings(brainldm_config(), "cpu") == {"sample": 660.0, "decode": 300.0}


def test_a_vcm_of_ones_own_on_that_backbone_takes_as_long() -> None:
    config = replace(brainldm_config(num_labels=3), name="ours")
    assert say_cost(config, "cpu", 20, compare=False) is not None


def test_nothing_is_said_on_a_gpu_or_of_a_small_model(tiny_config: ModelConfig) -> None:
    assert say_cost(brainldm_config(), "cuda", 20, compare=True) is None
    assert say_cost(tiny_config, "cpu", 1000, compare=True) is None
    assert guess_timings(tiny_config, "cpu") is None


def test_a_configuration_is_read_without_any_weights(
    tiny_folder: Path, tiny_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCM_CACHE", str(tmp_path))
    assert peek_config("brainldm") == brainldm_config()
    assert peek_config(tiny_folder) == tiny_config
    with pytest.raises(CheckpointError, match="no such model"):
        peek_config(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
