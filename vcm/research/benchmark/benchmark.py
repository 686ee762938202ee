"""How much faster than the published loop: exact counts, then ratios measured side by side in one process.

The published loop is a mode of our own sampler: 200 DDIM steps, the conditions encoded again at each of them, the
controlled and the uncontrolled chain both run, all in float32. Machines are noisy, so every ratio is between medians of
runs that took turns on one thread, in the process's own CPU time; wall time stands beside it. On a GPU it is the time
between CUDA events.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcm.data.cohort import read_earlier, write_json
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.research.benchmark.loops import (
    Loop,
    WithoutPreviews,
    list_parts,
    solid_conditions,
    solid_request,
    time_loop,
    time_part,
    time_run,
)
from vcm.research.benchmark.plan import BenchmarkPlan
from vcm.research.benchmark.quality import list_cases, measure_quality, measures_adherence
from vcm.research.benchmark.table import collect_ratios
from vcm.runtime.clock import one_thread, take_turns
from vcm.runtime.flops import count_flops
from vcm.runtime.precision import has_native_bfloat16

logger = logging.getLogger(__name__)

RESULTS_FILE = "benchmark.json"

Section = dict[str, Any]
MeasureSession = Callable[[], Section]
"""See `vcm.research.benchmark.session.measure_session`."""
MeasurePage = Callable[[Pipeline, GenerationRequest, int], Section]
"""See `vcm.ui.sections.benchmark.measure_page`; model code imports no page, so it is handed in."""


def benchmark(
    published: Pipeline,
    ours: Pipeline,
    out: str | Path,
    plan: BenchmarkPlan | None = None,
    *,
    plain: Pipeline | None = None,
    measure_session: MeasureSession | None = None,
    measure_page: MeasurePage | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Measure, write `out/benchmark.json` as each section is done, and return what was written.

    Args:
        published: the model in float32.
        ours: the same model in the precision that is its default here.
        plan: what is compared.
        plain: the model in float32 with networks that are not tuned, to measure what `vcm.runtime.tuning` is worth;
            all others are tuned, the published loop's, too.
        measure_session: measures loading and running in a fresh process; without it that section is left out.
        measure_page: measures what the page adds; without it that section is left out.
        resume: keep what a run with the same weights and plan has measured in `out`, and go on with the rest.

    Raises:
        ValueError: the model takes no label map.
    """
    plan = plan or BenchmarkPlan()
    path, cache = Path(out) / RESULTS_FILE, Path(out) / "work"
    conditions = solid_conditions(published)
    loops = list_loops(published, ours, plan)
    identity: dict[str, Any] = {
        "model": published.config.name,
        "weights": dict(published.environment.weights),
        "precision": ours.precision,
        "device": ours.device.type,
        "native_bfloat16": has_native_bfloat16(ours.device),
        "torch": torch.__version__,
        "plan": {**asdict(plan), "solvers": {solver: list(steps) for solver, steps in plan.solvers}},
    }
    earlier = read_earlier(path, identity) if resume else None
    if earlier is None:
        shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = earlier or {
        **identity,
        "loops": {name: _describe(loop) for name, loop in loops.items()},
        "counts": count_calls(published, conditions, plan),
    }
    request = solid_request(ours, plan.steps)
    pipelines = {"float32": published, "ours": ours} | ({} if plain is None else {"plain": plain})
    sections: dict[str, Callable[[], Section]] = {
        "parts": lambda: _time_parts(pipelines, conditions, plan),
        "runs": lambda: _time_runs(loops, conditions, plan),
        "previews": lambda: _time_previews(ours, request, plan),
    }
    if measure_page is not None:
        sections["page"] = lambda: measure_page(ours, request, plan.rounds)
    if measure_session is not None:
        sections["session"] = measure_session
    for name, measure in sections.items():
        if name in results:
            continue
        logger.info("measuring: %s", name)
        with one_thread(ours.device):
            results[name] = measure()
        write_json(path, results)
    results["ratios"] = {figure.name: figure.estimate["value"] for figure in collect_ratios(results)}
    write_json(path, results)
    if "quality" not in results:
        results["quality"] = _measure_quality(loops, plan, cache)
        write_json(path, results)
    shutil.rmtree(cache)
    return results


def list_loops(published: Pipeline, ours: Pipeline, plan: BenchmarkPlan) -> dict[str, Loop]:
    """Return all loops that are timed, by name: the published one, ours, and ours with each solver of the plan."""
    named = {
        "published": Loop(published, "ddim", plan.published_steps, encodes_every_step=True),
        "ours in float32": Loop(published, "unipc", plan.steps),
        "ours": Loop(ours, "unipc", plan.steps),
        "ours, uncontrolled volume cached": Loop(ours, "unipc", plan.steps, compare=False),
    }
    settings = [(solver, steps) for solver, counts in plan.solvers for steps in counts]
    others = [setting for setting in settings if setting != ("unipc", plan.steps)]  # that one is "ours"
    return named | {f"{solver} {steps}": Loop(ours, solver, steps) for solver, steps in others}


def _describe(loop: Loop) -> Section:
    return {
        "sampler": loop.sampler,
        "steps": loop.steps,
        "precision": loop.pipeline.precision,
        "encodes_every_step": loop.encodes_every_step,
        "compare": loop.compare,
    }


def count_calls(pipeline: Pipeline, conditions: Mapping[str, Tensor], plan: BenchmarkPlan) -> Section:
    """Return calls and floating-point operations of a controlled and an uncontrolled volume, by loop and part."""
    parts = {name: count_flops(call) for name, call in list_parts(pipeline, conditions).items()}
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


@torch.no_grad()
def _time_parts(pipelines: Mapping[str, Pipeline], conditions: Mapping[str, Tensor], plan: BenchmarkPlan) -> Section:
    """Return what each part takes in each of the pipelines, by part and their names, after one round of warming up."""
    contestants = {
        (part, name): partial(time_part, pipeline, call)
        for name, pipeline in pipelines.items()
        for part, call in list_parts(pipeline, conditions).items()
    }
    seconds = take_turns(contestants, plan.repeats, warm_up=True)
    parts: Section = {}
    for (part, name), taken in seconds.items():
        parts.setdefault(part, {})[name] = taken
    return parts


def _time_runs(loops: Mapping[str, Loop], conditions: Mapping[str, Tensor], plan: BenchmarkPlan) -> Section:
    """Return what each loop takes; timing the parts has warmed up both pipelines."""
    return take_turns(
        {name: partial(time_loop, loop, conditions, plan.timed_steps) for name, loop in loops.items()}, plan.rounds
    )


def _time_previews(ours: Pipeline, request: GenerationRequest, plan: BenchmarkPlan) -> Section:
    """Return what the pipeline's own run takes with and without previews; the first of them is made beforehand."""
    job = ours.plan(request)
    contestants = {"on": partial(time_run, ours, job), "off": partial(time_run, WithoutPreviews(ours), job)}
    return take_turns(contestants, plan.rounds, warm_up=True)


def _measure_quality(loops: Mapping[str, Loop], plan: BenchmarkPlan, cache: Path) -> Section:
    """Return distance and adherence of every loop that a volume depends on: not of how often it encodes or compares."""
    pipeline = loops["published"].pipeline
    masks = plan.masks if measures_adherence(pipeline) else 0
    if masks < plan.masks:
        logger.warning("Adherence is left out: this model has no segmenter, or another grid than the subjects'.")
    chosen = {name: loop for name, loop in loops.items() if loop.compare}
    cases = list_cases(pipeline, max(plan.noises, masks))
    return measure_quality(
        chosen, cases, noises=plan.noises, masks=masks, reference_steps=plan.reference_steps, cache=cache
    )
