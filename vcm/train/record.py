"""The record of a model's training: what each part learned from and for how long, run by run, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vcm.dataset import read_json, write_json

TRAINING_FILE = "training.json"

Beginning = Literal["state", "random", "weights"]
"""What a run starts from: an earlier run's state, random weights, or the weights that the folder held."""


def record_training(folder: Path, stage: str, begun: Beginning, **facts: Any) -> None:
    """Write a finished run into `folder/training.json`.

    A run from random weights makes all that the stage learned before void, one from a state ends the run that left it,
    and one from weights comes after the others.
    """
    record = read_training(folder)
    runs = record.setdefault(stage, [])
    if begun == "random":
        runs.clear()
    if begun == "state" and runs:
        facts["from_weights"] = runs.pop()["from_weights"]
    runs.append({"from_weights": begun == "weights", **facts})
    write_json(folder / TRAINING_FILE, record)


def read_training(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of every stage, oldest first; none where there is no record."""
    path = folder / TRAINING_FILE
    return read_json(path) if path.is_file() else {}
