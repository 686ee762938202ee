"""One process of a launch that trains a small network, or the tiny model's VCM: what tests of a team start."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_config, build_tiny_model
from torch import nn

from vcm.train import stages
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.team import find_team
from vcm.train.vcm import VCMRecipe
from vcm.weights.checkpoint import save_model

LOOP = LoopConfig(steps=4, learning_rate=1e-2, warmup_steps=1, save_every=2, validate_every=2, log_every=2)


def train_line(out: Path) -> None:
    """A linear network whose second part only the first process uses; each process learns from a number of its own."""
    team = find_team("cpu")
    torch.manual_seed(0)
    network = nn.ModuleDict({"shared": nn.Linear(1, 1), "own": nn.Linear(1, 1), "unused": nn.Linear(1, 1)})
    seen = []

    def loss_function(network, step, random):
        number = torch.rand(1, generator=random)
        seen.append(number.item())
        made = network["shared"](number[None])
        if team.is_first:
            made = made + network["own"](number[None])
        return (made - 1).square().mean(), {}

    validated = []

    def validate(network, step):
        validated.append(step)
        return {"loss": float(step)}

    averaged = run_loop(network, loss_function, LOOP, out / "line", validate=validate)
    found = {
        "seen": seen,
        "validated": validated,
        "weights": {name: tensor.tolist() for name, tensor in network.state_dict().items()},
        "averaged": {name: tensor.tolist() for name, tensor in averaged.state_dict().items()},
    }
    (out / f"line-{team.index}.json").write_text(json.dumps(found))


def train_vcm(out: Path) -> None:
    """The stage that trains a VCM, in a folder that all processes share."""
    team = find_team("cpu")
    model = out / "model"
    if team.is_first:
        tiny = build_tiny_model(GRID)
        save_model(model, tiny.config, tiny.backbone, tiny.adapter)
    team.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vcm.train.vcm.simulated_cohort", CoarseCohorts(make_coarse_subjects()))
        patch.setattr(stages, "build_mini_config", lambda: build_tiny_config(GRID))
        patch.setattr(stages, "MINI", replace(stages.MINI, vcm=VCMRecipe(subjects=2, loop=replace(LOOP, steps=2))))
        stages.train("vcm", out / "made", model=model)


if __name__ == "__main__":
    train_line(Path(sys.argv[1]))
    train_vcm(Path(sys.argv[1]))
