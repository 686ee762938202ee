"""How much faster than the published loop: exact counts, then ratios measured side by side in one process.

The published loop is a mode of our own sampler: 200 DDIM steps, the conditions encoded again at each of them, the
controlled and the uncontrolled chain both run, all in float32. Machines are noisy, so every ratio is between medians of
runs that took turns on one thread, in the process's own CPU time; wall time stands beside it.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vcm.adapter import VCM
from vcm.conditions import encode_one_hot
from vcm.dataset import write_json
from vcm.pipeline import Pipeline
from vcm.sampler import initial_noise, trajectory

logger = logging.getLogger(__name__)

RESULTS_FILE = "benchmark.json"


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is compared.

    - `steps`: of ours; `published_steps`: of the published loop.
    - `repeats`: how often each part of a step is timed, in turns.
    - `timed_published_steps`: how many of its steps the published loop really runs in the whole-run comparison; its
      time is scaled up to all of them, since each costs the same.
    """

    steps: int = 20
    published_steps: int = 200
    repeats: int = 7
    timed_published_steps: int = 20


def benchmark(
    published: Pipeline, ours: Pipeline, out: str | Path, plan: BenchmarkPlan | None = None
) -> dict[str, Any]:
    """Measure, write `out/benchmark.json`, and return what was written.

    Args:
        published: the model in float32.
        ours: the same model in the precision that is its default here.
    """
    plan = plan or BenchmarkPlan()
    path = Path(out) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    conditions = solid_conditions(published)
    results: dict[str, Any] = {
        "model": published.config.name,
        "precision": ours.precision,
        "device": str(ours.device),
        "plan": asdict(plan),
        "counts": count_calls(published, conditions, plan),
    }
    with _one_thread(ours.device):
        results["parts"] = _time_parts(published, ours, conditions, plan)
        results["runs"] = _time_runs(published, ours, conditions, plan)
    results["ratios"] = _compare(results)
    write_json(path, results)
    return results


def solid_conditions(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return a condition of every label modality of a model, (1, C, X, Y, Z): its labels as nested balls."""
    shape = pipeline.grid.shape
    distance = np.linalg.norm(np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2, axis=0)
    conditions = {}
    for name, channels in pipeline.config.adapter.condition_channels.items():
        radius = min(shape) / 4
        labels = np.clip(channels - np.floor(distance / radius * channels), 0, channels).astype(np.uint8)
        conditions[name] = encode_one_hot(labels, channels)[None].to(pipeline.device)
    return conditions


class EncodeEveryStep(VCM):
    """A VCM that encodes its conditions again whenever it is asked, as the published loop does."""

    def __init__(self, adapter: VCM, conditions: Mapping[str, Tensor]) -> None:
        super().__init__(adapter.config)
        self.load_state_dict(adapter.state_dict(), assign=True)
        self.to(next(adapter.parameters()).device).eval()
        self._conditions = conditions

    def forward(self, latent: Tensor, epsilon: Tensor, features: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps_scale and eps_shift as the VCM does; the features given are not used."""
        return super().forward(latent, epsilon, self.encode_condition(self._conditions), timesteps)


def count_calls(pipeline: Pipeline, conditions: Mapping[str, Tensor], plan: BenchmarkPlan) -> dict[str, Any]:
    """Return calls and floating-point operations of a controlled and an uncontrolled volume, by loop and part."""
    parts = {name: _flops(call) for name, call in _parts(pipeline, conditions).items()}
    calls = {
        "published": {
            "prior": 2 * plan.published_steps,
            "adapter": plan.published_steps,
            "encode": plan.published_steps,
            "decode": 2,
        },
        "ours": {"prior": 2 * plan.steps, "adapter": plan.steps, "encode": 1, "decode": 2},
        "ours, uncontrolled volume cached": {"prior": plan.steps, "adapter": plan.steps, "encode": 1, "decode": 1},
    }
    flops = {loop: sum(parts[part] * count for part, count in counted.items()) for loop, counted in calls.items()}
    return {"calls": calls, "flops_a_call": parts, "flops": flops}


def _parts(pipeline: Pipeline, conditions: Mapping[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """What a run is made of, each as a call of its own."""
    noise = initial_noise(0, pipeline.config.latent_shape).to(pipeline.device)
    timesteps = torch.tensor([500], device=pipeline.device)
    context = torch.full((1, 1, 4), 0.5, device=pipeline.device)
    features = pipeline.adapter.encode_condition(conditions)
    return {
        "prior": lambda: pipeline.backbone.predict_epsilon(noise, timesteps, context),
        "adapter": lambda: pipeline.adapter(noise, noise, features, timesteps),
        "encode": lambda: pipeline.adapter.encode_condition(conditions),
        "decode": lambda: pipeline.backbone.decode(noise),
    }


@torch.no_grad()
def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@torch.no_grad()
def _time_parts(
    published: Pipeline, ours: Pipeline, conditions: Mapping[str, Tensor], plan: BenchmarkPlan
) -> dict[str, Any]:
    """Return the seconds of each part, float32 and ours in turns: medians of CPU time."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(plan.repeats + 1):
        for name, pipeline in (("float32", published), ("ours", ours)):
            with _autocast(pipeline):
                for part, call in _parts(pipeline, conditions).items():
                    took, _ = _clocked(pipeline, call)
                    seconds.setdefault(part, {}).setdefault(name, []).append(took)
    # The first round warms up.
    return {
        part: {name: statistics.median(times[1:]) for name, times in found.items()} for part, found in seconds.items()
    }


@torch.no_grad()
def _time_runs(
    published: Pipeline, ours: Pipeline, conditions: Mapping[str, Tensor], plan: BenchmarkPlan
) -> dict[str, Any]:
    """Return CPU and wall seconds of a controlled and an uncontrolled volume, three rounds in turns."""
    share = plan.published_steps / plan.timed_published_steps
    every_step = EncodeEveryStep(published.adapter, conditions)
    unused = published.adapter.encode_condition(conditions)

    def sample(pipeline: Pipeline, adapter: VCM, features: Tensor, steps: int, sampler: str, most: int) -> None:
        noise = initial_noise(0, pipeline.config.latent_shape)
        context = torch.full((1, 1, 4), 0.5)
        for given in (features, None):
            chain = trajectory(
                pipeline.backbone, adapter, noise, context, given, num_inference_steps=steps, sampler=sampler
            )
            for _step in islice(chain, most):
                pass

    def decode(pipeline: Pipeline) -> None:
        for _ in range(2):
            pipeline.backbone.decode(initial_noise(0, pipeline.config.latent_shape).to(pipeline.device))

    rounds: dict[str, list[tuple[float, float]]] = {"published": [], "ours in float32": [], "ours": []}
    for _ in range(3):
        with _autocast(published):
            looped = _clocked(
                published,
                lambda: sample(published, every_step, unused, plan.published_steps, "ddim", plan.timed_published_steps),
            )
            decoded = _clocked(published, lambda: decode(published))
        rounds["published"].append((looped[0] * share + decoded[0], looped[1] * share + decoded[1]))
        for name, pipeline in (("ours in float32", published), ("ours", ours)):
            with _autocast(pipeline):

                def run(pipeline: Pipeline = pipeline) -> None:
                    features = pipeline.adapter.encode_condition(conditions)
                    sample(pipeline, pipeline.adapter, features, plan.steps, "unipc", plan.steps)
                    decode(pipeline)

                rounds[name].append(_clocked(pipeline, run))
    return {
        name: {
            "cpu_seconds": statistics.median(cpu for cpu, _ in times),
            "wall_seconds": statistics.median(wall for _, wall in times),
        }
        for name, times in rounds.items()
    }


def _compare(results: Mapping[str, Any]) -> dict[str, float]:
    """Return what was asked of the loop, each as a ratio of figures above."""
    parts, runs, flops = results["parts"], results["runs"], results["counts"]["flops"]
    plan = results["plan"]
    encode_once = parts["adapter"]["float32"] + parts["encode"]["float32"] / plan["steps"]
    return {
        "published / ours in float32, CPU time": runs["published"]["cpu_seconds"]
        / runs["ours in float32"]["cpu_seconds"],
        "published / ours, CPU time": runs["published"]["cpu_seconds"] / runs["ours"]["cpu_seconds"],
        "published / ours, operations": flops["published"] / flops["ours"],
        "published / ours with the uncontrolled volume cached, operations": flops["published"]
        / flops["ours, uncontrolled volume cached"],
        "VCM a step / prior a step": parts["adapter"]["ours"] / parts["prior"]["ours"],
        "VCM a step / prior a step, float32": parts["adapter"]["float32"] / parts["prior"]["float32"],
        "VCM with the encoder every step / encoder once": (parts["adapter"]["float32"] + parts["encode"]["float32"])
        / encode_once,
        "prior in float32 / ours": parts["prior"]["float32"] / parts["prior"]["ours"],
        "decoding in float32 / ours": parts["decode"]["float32"] / parts["decode"]["ours"],
    }


def _clocked(pipeline: Pipeline, call: Callable[[], Any]) -> tuple[float, float]:
    """Return CPU and wall seconds of a call; on a GPU both are wall time up to its end."""
    accelerated = pipeline.device.type == "cuda"
    if accelerated:
        torch.cuda.synchronize()
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    if accelerated:
        torch.cuda.synchronize()
    wall_seconds = time.perf_counter() - wall
    return wall_seconds if accelerated else time.process_time() - cpu, wall_seconds


def _autocast(pipeline: Pipeline) -> torch.autocast:
    return torch.autocast(pipeline.device.type, torch.bfloat16, enabled=pipeline.precision == "bfloat16")


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one thread, so that CPU time is work and not waiting."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
