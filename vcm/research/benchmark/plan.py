"""What `vcm benchmark` compares, and how often it times it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is compared.

    - `steps`: of ours, with UniPC; `published_steps`: of the published loop.
    - `solvers`: step counts by solver, each timed and its quality measured.
    - `repeats`: how often each part of a step is timed, in turns; `rounds`: how often each loop is.
    - `timed_steps`: how many steps of a longer loop really run when it is timed; its time is scaled up to all of them,
      since each costs the same.
    - `noises`: volumes whose distance to the exact solution is measured, which has `reference_steps` (None: all that
      the schedule has); `masks`: those whose adherence is. 0 leaves either out.
    """

    steps: int = 20
    published_steps: int = 200
    solvers: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("unipc", (6, 8, 10, 20)),
        ("dpmpp", (10, 20)),
        ("ddim", (20, 50)),
    )
    repeats: int = 7
    rounds: int = 5
    timed_steps: int = 20
    noises: int = 3
    masks: int = 16
    reference_steps: int | None = None
