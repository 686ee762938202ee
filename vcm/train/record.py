"""The record of a model's training: what each part learned from and for how long, run by run, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vcm.data.cohort import read_json, write_json

TRAINING_FILE = "training.json"
_RUN_FILE = "run.json"


def begin_run(folder: Path, stage: str, run_folder: Path, *, from_weights: bool) -> None:
    """Note in `run_folder` which run of its stage this one is; a run that goes on after being killed finds it there.

    A run from random weights makes all that the stage learned before void; one from weights comes after it.
    """
    number = len(read_training(folder).get(stage, ())) if from_weights else 0
    run_folder.mkdir(parents=True, exist_ok=True)
    write_json(run_folder / _RUN_FILE, {"number": number, "from_weights": from_weights})


def began_from_weights(run_folder: Path) -> bool:
    """Tell whether the run in `run_folder` began from weights; False where none was begun."""
    path = run_folder / _RUN_FILE
    return path.is_file() and bool(read_json(path)["from_weights"])


def record_run(folder: Path, stage: str, run_folder: Path, **facts: Any) -> None:
    """Write a finished run into `folder/training.json`; one that went on after it had finished replaces itself."""
    run = read_json(run_folder / _RUN_FILE)
    record = read_training(folder)
    earlier = record.get(stage, [])[: run["number"]]
    record[stage] = [*earlier, {"from_weights": run["from_weights"], **facts}]
    write_json(folder / TRAINING_FILE, record)


def read_training(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of every stage, oldest first; none where there is no record."""
    path = folder / TRAINING_FILE
    return read_json(path) if path.is_file() else {}
