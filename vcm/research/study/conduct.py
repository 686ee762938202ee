"""`vcm study`: every training and measurement of the plan, each kept as it ends, by one process or several."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from vcm.data import simulate
from vcm.data.cohort import read_json, simulated_cohort, write_json
from vcm.modalities.names import T2, TUMOR
from vcm.model.config import ModelConfig
from vcm.research.study.cost import measure_cost
from vcm.research.study.measuring import Bench, build_bench
from vcm.research.study.methods import BUILDERS
from vcm.research.study.plan import ARMS, REPEATED, Run, StudyPlan, choose_rate, list_runs
from vcm.research.study.training import Material, train_run
from vcm.runtime.tuning import tune
from vcm.train.pairs import Pairs
from vcm.weights.checkpoint import CONFIG_FILE, SEGMENTER_FILE, file_hash, load_model
from vcm.weights.segmenter import load_segmenter

logger = logging.getLogger(__name__)

RESULTS_FILE = "study.json"
PLAN_FILE = "plan.json"
GUIDANCE_SCALES = (0.5, 1.5, 2.0, 3.0)
"""Beside 1: what guidance does to a method, without another training."""

_PARTS = ("limits", "costs", "runs")
_HELD_OUT = 8
_PAUSE_SECONDS = 5.0


def conduct(model: Path, out: Path, plan: StudyPlan | None = None, *, device: str = "cpu") -> dict[str, Any]:
    """Do all that the plan holds and is not in `out` yet; returns what `out/study.json` then holds.

    Given the same folder, several processes share the work: each training is done by the one that takes it first, and
    one that is killed is gone on with by whoever comes next. A study.json alone, as a report keeps it, is enough to go
    on with: lay it into `out`.

    Args:
        model: folder with the frozen backbone and its segmenter.

    Raises:
        ValueError: `out` holds a study of other weights or of another plan, or the model has no segmenter.
    """
    plan = plan or StudyPlan()
    out.mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        unpack(out)
    _Study(model, out, plan, device).do_all()
    return collect(out)


def unpack(out: Path) -> None:
    """Lay out again what `collect` put together, where only that is left."""
    if (out / PLAN_FILE).is_file() or not (out / RESULTS_FILE).is_file():
        return
    results = read_json(out / RESULTS_FILE)
    parts = {part: results.pop(part) for part in _PARTS}
    for part, found in parts.items():
        (out / part).mkdir(exist_ok=True)
        for name, content in found.items():
            write_json(out / part / f"{name}.json", content)
    write_json(out / PLAN_FILE, results)


def collect(out: Path) -> dict[str, Any]:
    """Write everything that was measured so far into `out/study.json`, and return it."""
    with _alone_in(out):
        results = read_json(out / PLAN_FILE)
        for part in _PARTS:
            results[part] = {path.stem: read_json(path) for path in sorted((out / part).glob("*.json"))}
        write_json(out / RESULTS_FILE, results)
    return results


def _alone_in(out: Path) -> FileLock:
    """For as long as it is held, no other process writes the files that all of them share."""
    return FileLock(out / f"{RESULTS_FILE}.lock")


def _hash_config(config: ModelConfig) -> str:
    """Return the hash of a model's configuration file, as far as a study has to do with it: no method makes a draft."""
    plain = replace(config, adapter=replace(config.adapter, draft=None))
    return hashlib.sha256(plain.to_json().encode()).hexdigest()


class _Study:
    """One process's part in it; what is expensive is made when it is first needed."""

    def __init__(self, model: Path, out: Path, plan: StudyPlan, device: str) -> None:
        self._model = model
        self._out = out
        self._plan = plan
        self._device = device
        if not (model / SEGMENTER_FILE).is_file():
            raise ValueError("The model folder has no segmenter, so there is nothing to measure with.")
        self._loaded = loaded = load_model(model)
        tune(loaded.backbone.to(device))
        identity = {
            "plan": plan.to_json(),
            "weights": {
                **{name: value for name, value in loaded.hashes.items() if not name.startswith("vcm")},
                CONFIG_FILE: _hash_config(loaded.config),
            },
            "segmenter": file_hash(model / SEGMENTER_FILE),
        }
        path = out / PLAN_FILE
        for part in (*_PARTS, "work"):
            (out / part).mkdir(parents=True, exist_ok=True)
        with _alone_in(out):
            if path.is_file() and read_json(path) != identity:
                raise ValueError("The folder holds a study of other weights or of another plan: choose another folder.")
            write_json(path, identity)
        self._material: Material | None = None
        self._bench: Bench | None = None

    def do_all(self) -> None:
        """Take one task after the other until none is left that is not done."""
        tasks: dict[Path, Callable[[], dict[str, Any] | None]] = {
            self._out / "costs" / f"{name}.json": partial(self._cost, name) for name in BUILDERS
        }
        tasks[self._out / "limits" / "limits.json"] = self._measure_limits
        tasks[self._out / "limits" / "taught.json"] = self._teach_on_originals
        tasks |= {self._out / "runs" / f"{run.name}.json": partial(self._train, run) for run in list_runs(self._plan)}
        while left := {path: task for path, task in tasks.items() if not path.is_file()}:
            if not any(self._take(path, task) for path, task in left.items()):
                time.sleep(_PAUSE_SECONDS)  # the others are on what is left, or on what it waits for

    def _take(self, path: Path, task: Callable[[], dict[str, Any] | None]) -> bool:
        """Do a task, unless it is done, another process is on it, or it has to wait; says whether it was done."""
        lock = FileLock(self._out / "work" / f"{path.parent.name}-{path.stem}.lock")
        try:
            with lock.acquire(timeout=0):
                if path.is_file():
                    return False
                found = task()
                if found is None:
                    return False
                write_json(path, found)
                # Only now: what a task that is killed has reached is gone on with.
                shutil.rmtree(self._out / "work" / path.stem, ignore_errors=True)
        except Timeout:
            return False
        collect(self._out)
        return True

    def _cost(self, name: str) -> dict[str, Any]:
        logger.info("what it costs: %s", name)
        return measure_cost(self._model, name, self._plan, self._device)

    def _measure_limits(self) -> dict[str, Any]:
        logger.info("measuring floor and ceilings")
        return self.bench.measure_limits()

    def _teach_on_originals(self) -> dict[str, Any]:
        logger.info("teaching a segmenter on originals")
        return self.bench.teach_on_originals(self._out / "work" / "taught")

    def _train(self, run: Run) -> dict[str, Any] | None:
        rate = run.learning_rate
        if rate is None:
            rate = choose_rate(self._results(), run.method, self._plan)
        if rate is None:
            return None
        logger.info("training: %s", run.name)
        folder = self._out / "work" / run.name
        trained = train_run(run, rate, self.material, self._plan, folder)
        names = ARMS[run.arm]
        found: dict[str, Any] = {
            **{name: getattr(run, name) for name in ("method", "arm", "samples", "seed", "variant")},
            "learning_rate": rate,
            **trained.facts,
            "validation": trained.validation,
            "figures": self.bench.measure(trained.method, trained.backbone, names),
        }
        if len(names) > 1:
            found["tumor_alone"] = self.bench.measure(trained.method, trained.backbone, ARMS[TUMOR])
        if run == Run(run.method, TUMOR, self._plan.sizes[-1]):
            found["taught"] = self.bench.teach(trained.method, trained.backbone, folder / "pupil")
        if run.method in REPEATED and run == Run(run.method, TUMOR, self._plan.sizes[-1]):
            found["guidance"] = {
                str(scale): self.bench.measure(trained.method, trained.backbone, names, scale)
                for scale in GUIDANCE_SCALES
            }
        return found

    def _results(self) -> Mapping[str, Any]:
        return {path.stem: read_json(path) for path in (self._out / "runs").glob("*.json")}

    @property
    def material(self) -> Material:
        """The subjects to learn from, in the contrasts of all arms, and their latents."""
        if self._material is None:
            cache, backbone = self._out / "work", self._loaded.backbone
            first = simulate.VALIDATION_SEEDS.start
            training = simulated_cohort(cache, range(max(self._plan.sizes)), ("t1", T2))
            held_out = simulated_cohort(cache, range(first, first + _HELD_OUT), ("t1", T2))
            pairs = {
                name: Pairs(cache / f"latents-{name}", cohort, backbone, self._device, simulate.AFFINE)
                for name, cohort in (("training", training), ("held_out", held_out))
            }
            self._material = Material(backbone, self._loaded.config.adapter, device=self._device, **pairs)
        return self._material

    @property
    def bench(self) -> Bench:
        """The test subjects."""
        if self._bench is None:
            segmenter = load_segmenter(self._model, torch.device(self._device))
            with FileLock(self._out / "work" / "bench.lock"):
                self._bench = build_bench(
                    self._loaded.backbone, segmenter, self._plan, self._out / "work", self._device
                )
        return self._bench
