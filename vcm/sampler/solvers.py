"""The registry of solvers: one entry each, with its name, its title, and what builds it.

It imports no torch, so that requests and command lines know the names at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.model.config import ScheduleConfig


class Solver(Protocol):
    """An integrator of the denoising differential equation: its timesteps, and how a step goes from one to the next."""

    timesteps: list[int]

    def step(self, index: int, latent: Tensor, epsilon: Tensor) -> Tensor:
        """Return the latent after step `index`, from z_t and the noise estimate at `timesteps[index]`."""


@dataclass(frozen=True)
class SolverKind:
    """One way to solve the denoising differential equation.

    - `name`: in requests, recipes and on the command line; `title`: what a page calls it.
    - `build`: returns a solver for one run, from the noise schedule and the number of steps.
    """

    name: str
    title: str
    build: Callable[[ScheduleConfig, int], Solver]


def _build_unipc(schedule: ScheduleConfig, num_inference_steps: int) -> Solver:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    from vcm.sampler.multistep import DiffusersSolver

    return DiffusersSolver(UniPCMultistepScheduler, schedule, num_inference_steps)


def _build_dpmpp(schedule: ScheduleConfig, num_inference_steps: int) -> Solver:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    from vcm.sampler.multistep import DiffusersSolver

    return DiffusersSolver(DPMSolverMultistepScheduler, schedule, num_inference_steps)


def _build_ddim(schedule: ScheduleConfig, num_inference_steps: int) -> Solver:
    from vcm.sampler.ddim import DDIMSolver

    return DDIMSolver(schedule, num_inference_steps)


SOLVERS: Mapping[str, SolverKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            SolverKind("unipc", "UniPC", _build_unipc),
            SolverKind("ddim", "DDIM", _build_ddim),
            SolverKind("dpmpp", "DPM-Solver++(2M)", _build_dpmpp),
        )
    }
)
"""All solvers by name, the default first."""

DEFAULT_SOLVER = next(iter(SOLVERS))


def build_solver(sampler: str, schedule: ScheduleConfig, num_inference_steps: int) -> Solver:
    """Return a solver for one run: solvers remember earlier steps, so no two runs may share one.

    Raises:
        ValueError: the sampler is unknown or the number of steps out of range.
    """
    most = schedule.num_train_timesteps
    if not 1 <= num_inference_steps <= most:
        raise ValueError(f"num_inference_steps must be from 1 to {most}, got {num_inference_steps}.")
    if sampler not in SOLVERS:
        raise ValueError(f"sampler must be one of {', '.join(SOLVERS)}, got {sampler!r}.")
    return SOLVERS[sampler].build(schedule, num_inference_steps)
