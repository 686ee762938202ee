"""How long a run will take here, learned from the runs before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vcm.modalities.registry import MODALITIES
from vcm.modalities.thick_slices import ROUND_TRIPS
from vcm.request import GenerationRequest

_MEMORY = 0.6  # of what was known; a machine that gets busy is noticed within a few runs
_CONTROLLED_COST = 1.15  # the VCM is asked as well as the prior


@dataclass(frozen=True)
class Workload:
    """What a run computes: solver steps of each kind, and volumes to decode; `round_trips` follow thick slices."""

    controlled_steps: int
    uncontrolled_steps: int
    round_trips: int = 0

    @classmethod
    def of(cls, request: GenerationRequest, *, is_controlled: bool = True, has_slices: bool | None = None) -> Workload:
        """Return what a request computes where nothing of it is cached.

        Args:
            request: whose conditions need not be there yet.
            is_controlled: whether it will have any.
            has_slices: whether thick slices will be among them; None asks the request.
        """
        if has_slices is None:
            has_slices = any(MODALITIES[name].follows for name in request.conditions)
        steps = request.num_inference_steps
        return cls(
            controlled_steps=steps if is_controlled else 0,
            uncontrolled_steps=steps if request.compare or not is_controlled else 0,
            round_trips=ROUND_TRIPS if is_controlled and has_slices else 0,
        )

    @property
    def evaluations(self) -> float:
        """Steps, in units of one evaluation of the prior."""
        return self.controlled_steps * _CONTROLLED_COST + self.uncontrolled_steps

    @property
    def volumes(self) -> int:
        """Volumes to decode and to measure, which is about what a round trip through the autoencoder takes, too."""
        return int(self.controlled_steps > 0) + int(self.uncontrolled_steps > 0) + self.round_trips


def convert_timings(work: Workload, timings: Mapping[str, float], seconds_a_step: float) -> dict[str, float]:
    """Return about how long each stage of a run takes here, from how long it took on another machine.

    Args:
        work: what the run computed.
        timings: seconds by stage, there.
        seconds_a_step: of the prior, here.
    """
    there = timings.get("sample", 0.0)
    factor = seconds_a_step * work.evaluations / there if there else 1.0
    return {stage: factor * seconds for stage, seconds in timings.items()}


class Pace:
    """Seconds per evaluation and per decoded volume, as a moving average; unknown until the first run."""

    def __init__(self) -> None:
        self._per_evaluation: float | None = None
        self._per_volume = 0.0

    def learn(self, work: Workload, timings: Mapping[str, float]) -> None:
        """Take in the seconds by stage of a finished run."""
        if not work.evaluations:
            return
        sampling = timings.get("sample", 0.0) + timings.get("preview", 0.0)
        finishing = sum(timings.get(stage, 0.0) for stage in ("encode", "decode", "agree", "segment"))
        self._per_evaluation = _average(self._per_evaluation, sampling / work.evaluations)
        self._per_volume = _average(self._per_volume or None, finishing / work.volumes)

    def estimate_seconds(self, work: Workload) -> float | None:
        """Return about how long such a run takes, or None where no run has been seen."""
        if self._per_evaluation is None:
            return None
        return work.evaluations * self._per_evaluation + work.volumes * self._per_volume

    def estimate_rest(
        self, work: Workload, step: int, num_inference_steps: int, seconds_a_step: float | None = None
    ) -> float | None:
        """Return about how long a run still takes after a step, or None where nothing is known.

        Args:
            seconds_a_step: as this very run has gone so far; it knows better than the runs before.
        """
        if seconds_a_step is None and self._per_evaluation is not None:
            seconds_a_step = work.evaluations * self._per_evaluation / num_inference_steps
        if seconds_a_step is None:
            return None
        return (num_inference_steps - step) * seconds_a_step + work.volumes * self._per_volume


def _average(known: float | None, seen: float) -> float:
    return seen if known is None else _MEMORY * known + (1 - _MEMORY) * seen
