"""What the steps that are saved cost: every solver's distance to the exact solution, and how well it follows masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vcm.data import simulate
from vcm.data.cohort import cached_tensor, read_json, write_json
from vcm.metrics import summarize
from vcm.modalities.adherence import dice
from vcm.modalities.names import TUMOR
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.research.benchmark.loops import Loop, solid_request
from vcm.research.evaluate.evaluate import EvaluationPlan, build_request, subjects_with_tumor
from vcm.volume import Volume

Section = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One volume to be made: its condition, covariates and noise, and the tumor labels (X, Y, Z) that it asks for."""

    request: GenerationRequest
    drawn: NDArray[np.uint8] | None = None


def list_cases(pipeline: Pipeline, count: int) -> list[Case]:
    """Return as many cases: the evaluation's first test subjects with a tumor, on their own noise.

    A model on another grid than theirs, or one that takes no tumor, gets solid shapes on the noises 0, 1, ...
    """
    if not count:
        return []
    if not measures_adherence(pipeline):
        return [Case(solid_request(pipeline, 1, seed=seed, compare=False)) for seed in range(count)]
    plan = EvaluationPlan(subjects=count)
    return [
        Case(
            build_request(subject, {TUMOR: Volume(subject.tumor, simulate.AFFINE)}, plan, compare=False),
            subject.tumor,
        )
        for subject in subjects_with_tumor(plan)
    ]


def measures_adherence(pipeline: Pipeline) -> bool:
    """Whether a model can be judged on the simulated subjects: its grid is theirs, and there is a judge."""
    on_grid = pipeline.grid.shape == simulate.SHAPE and TUMOR in pipeline.modalities
    return on_grid and pipeline.segmenter is not None


def measure_quality(
    loops: Mapping[str, Loop],
    cases: Sequence[Case],
    *,
    noises: int,
    masks: int,
    cache: Path,
    reference_steps: int | None = None,
) -> Section:
    """Return distance and adherence of every loop's controlled volumes.

    The distance is the RMSE, in the latent's normalised units, to the same noise after 1000 steps of DDIM in float32:
    all solvers integrate the same differential equation, and that is as near to its solution as the noise schedule
    has steps. The adherence is the whole-tumor Dice that the model's segmenter finds.

    Every loop runs here with the conditions encoded once, the published one too: with or without that, its latents are
    the same (a test says so), and its 200 steps would take half as long again.

    Args:
        loops: by name; "published", in float32, comes first, and the others are compared with it.
        cases: as many as the larger of the next two.
        noises: how many cases the distance is measured on.
        masks: how many cases the adherence is measured on.
        cache: a folder that keeps the exact solutions and each loop's figures, to go on from.
        reference_steps: of the exact solution; all of the schedule when not given.
    """
    exact = loops["published"].pipeline
    steps = reference_steps or exact.config.backbone.schedule.num_train_timesteps
    exact_loop = Loop(exact, "ddim", steps)
    references = [
        cached_tensor(cache / f"exact-{index}.pt", partial(sample_latent, exact_loop, case.request))
        for index, case in enumerate(tqdm(cases[:noises], desc="exact", unit="sample"))
    ]
    rows: dict[str, Section] = {}
    for name, loop in loops.items():
        kept = cache / f"{name}.json"
        if kept.is_file():
            rows[name] = read_json(kept)
            continue
        distances, dices = [], []
        for index, case in enumerate(tqdm(cases, desc=name, unit="sample")):
            latent = sample_latent(loop, case.request)
            if index < noises:
                distances.append(rmse(latent, references[index]))
            if index < masks and case.drawn is not None:
                dices.append(score(loop.pipeline, latent, case.drawn))
        below = [first - own for first, own in zip(rows["published"]["dices"] if rows else dices, dices, strict=True)]
        rows[name] = {
            "distance": summarize(distances),
            "dice": summarize(dices),
            "dice_below_published": summarize(below),
            "dices": dices,
        }
        write_json(kept, rows[name])
    return {"reference_steps": steps, "noises": noises, "masks": masks, "loops": rows}


@torch.no_grad()
def sample_latent(loop: Loop, request: GenerationRequest) -> Tensor:
    """Return the controlled latent (1, C, x, y, z) that a loop makes of a request."""
    pipeline = loop.pipeline
    job = pipeline.plan(replace(request, num_inference_steps=loop.steps, sampler=loop.sampler))
    with pipeline.autocast():
        latent: Tensor | None = None
        for step in pipeline.start_chain(job, pipeline.encode(job)):
            latent = step.latent  # the steps themselves, kept, would fill the memory
    assert latent is not None, "a run has a step"
    return latent


def rmse(latent: Tensor, reference: Tensor) -> float:
    """Return the root of the mean squared difference of two latents."""
    return float((latent - reference).square().mean().sqrt())


@torch.no_grad()
def score(pipeline: Pipeline, latent: Tensor, drawn: NDArray[np.uint8]) -> float:
    """Return the Dice of the drawn whole tumor and the one that the segmenter finds in the decoded latent."""
    assert pipeline.segmenter is not None
    with pipeline.autocast():
        (volume,) = pipeline.backbone.decode_volumes(latent)
    found, _ = pipeline.segmenter.segment(volume)
    overlap = dice(drawn > 0, found > 0)
    assert overlap is not None, "the subject has a tumor"
    return overlap
