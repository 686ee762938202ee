"""What a method costs, whatever it has learned: parameters, operations, time, and memory of a training step."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from vcm.modalities.names import TUMOR
from vcm.research.study.methods import Method
from vcm.research.study.plan import ARMS, Run, StudyPlan
from vcm.research.study.training import build_method
from vcm.runtime.clock import clocked, one_thread, peak_memory_mib, summarize_seconds
from vcm.runtime.flops import count_flops
from vcm.runtime.memory import keep_freed_memory
from vcm.runtime.precision import autocast
from vcm.runtime.tuning import tune
from vcm.weights.checkpoint import load_backbone

_ROUNDS = 3


def measure_cost(model: Path, method: str, plan: StudyPlan, device: str) -> dict[str, Any]:
    """Return a method's costs in the first arm, measured in a process of its own so that the memory is only its own.

    - "parameters": that are trained.
    - "flops": of a denoising step with everything that it needs, the backbone included, of one volume.
    - "training_step", "denoising_step": as `summarize_seconds`, on one thread of a CPU, of a whole batch and of one
      volume.
    - "memory_mib": the most that the process had, and "memory_before_mib" with the models loaded, before any step.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, model, method, plan, device).result()


def _measure(model: Path, name: str, plan: StudyPlan, device: str) -> dict[str, Any]:
    keep_freed_memory()
    config, backbone, _ = load_backbone(model)
    backbone = backbone.to(device)
    method = build_method(Run(name, TUMOR, 1), config.adapter, backbone, plan).to(device)
    for network in (backbone, method):
        tune(network)
    torch.manual_seed(0)
    where = torch.device(device)
    with one_thread(where):
        before = peak_memory_mib() if where.type == "cpu" else torch.cuda.memory_allocated(where) / 2**20
        train, denoise = (_step(method, backbone, config.grid.shape, count, where) for count in (plan.batch_size, 1))
        training = [clocked(where, lambda: train(True)) for _ in range(1 + _ROUNDS)][1:]
        peak = peak_memory_mib() if where.type == "cpu" else torch.cuda.max_memory_allocated(where) / 2**20
        denoising = [clocked(where, lambda: denoise(False)) for _ in range(1 + _ROUNDS)][1:]
        flops = count_flops(lambda: denoise(False))
    return {
        "parameters": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "flops": flops,
        "training_step": summarize_seconds(training),
        "denoising_step": summarize_seconds(denoising),
        "memory_mib": peak,
        "memory_before_mib": before,
    }


def _step(method: Method, backbone: Any, shape: tuple[int, int, int], count: int, device: torch.device) -> Any:
    """Return what makes one step of a method on random latents: a training step, or one of denoising."""
    latent = torch.randn(count, *backbone.latent_shape, device=device)
    context = torch.rand(count, 1, 4, device=device)
    timesteps = torch.full((count,), 500, device=device)
    conditions = {name: torch.rand(count, 3, *shape, device=device) for name in ARMS[TUMOR]}
    with torch.no_grad(), autocast(device):
        kept = method.encode(conditions)

    def make(learn: bool) -> None:
        with torch.set_grad_enabled(learn), autocast(device):
            features = method.encode(conditions) if learn or method.encodes_every_step else kept
            epsilon, _ = method.estimate(backbone, latent, timesteps, context, features)
        if learn:
            epsilon.float().square().mean().backward()
            method.zero_grad(set_to_none=True)

    return make
