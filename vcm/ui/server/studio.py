"""The pipeline as the page uses it: planned and remembered here, computed by the worker."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import gradio as gr

from vcm.job import Job, Outcome
from vcm.modalities.thick_slices import ROUND_TRIPS
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest, GenerationResult
from vcm.runtime.memory import give_back_freed_memory
from vcm.ui.server.cache import ResultCache
from vcm.ui.server.pace import Pace, Workload
from vcm.ui.server.worker import Progress, build_worker


@dataclass(frozen=True, eq=False)
class Finished:
    """The end of a run.

    Attributes:
        result: what the run gave.
        is_remembered: whether it was known, so that nothing was computed.
        notes: sentences for the user on what was changed or assumed about the conditions.
    """

    result: GenerationResult
    is_remembered: bool
    notes: tuple[str, ...] = ()


class Studio:
    """Runs requests for all visitors of one model.

    Attributes:
        pipeline: the loaded model.
        pace: how long runs take here.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.pace = Pace()
        self._compute = build_worker(pipeline)
        self._results = ResultCache()

    def run(
        self, request: GenerationRequest, *, is_traced: bool = False, is_quick: bool = False
    ) -> Generator[Progress | Finished, None, None]:
        """Run a request, yielding Progress after every step and Finished last; closing it stops the work.

        A traced run shows every step, with what the VCM did in it, so that it is computed even where its end is known.
        A quick run is neither measured nor remembered.

        Raises:
            VolumeError, ValueError: the request does not fit the model.
            gradio.Error: the run failed; one sentence.
        """
        job = self.pipeline.plan(request)
        notes = tuple(note for condition in job.conditions.values() for note in condition.notes)
        job = replace(job, is_traced=is_traced, is_measured=not is_quick)
        known = None if is_traced else self._results.get(job.recipe)
        if known is not None:
            yield Finished(known, is_remembered=True, notes=notes)
            return
        outcome: Outcome | None = None
        try:
            with closing(self._compute(job)) as events:
                for event in events:
                    if isinstance(event, Outcome):
                        outcome = event
                    else:
                        yield event
        finally:
            if not is_quick:  # the next quick run is about to come, and would have to fetch it all again
                give_back_freed_memory()
        if outcome is None:
            raise gr.Error("The run ended without a volume; your drawing is kept, so please try again.")
        result = self.pipeline.finish(job, outcome)
        if not is_quick:
            self._results.put(result)
            self.pace.learn(workload(job), outcome.timings)
        yield Finished(result, is_remembered=False, notes=notes)

    def learn_pace(
        self, request: GenerationRequest, timings: Mapping[str, float], *, is_controlled: bool | None = None
    ) -> None:
        """Take in how long a run took elsewhere, as a first guess; it was controlled if it had conditions."""
        if is_controlled is None:
            is_controlled = bool(request.conditions)
        self.pace.learn(Workload.of(request, is_controlled=is_controlled), timings)

    def estimate_seconds(
        self, request: GenerationRequest, *, is_controlled: bool, has_slices: bool | None = None
    ) -> float | None:
        """Return about how long a request takes where nothing of it is cached; None before the first run.

        See `Workload.of` for the arguments.
        """
        return self.pace.estimate_seconds(Workload.of(request, is_controlled=is_controlled, has_slices=has_slices))


def workload(job: Job) -> Workload:
    """Return what a job computes, beside what the caches knew."""
    steps = job.request.num_inference_steps
    missing_uncontrolled = job.wants_uncontrolled and job.uncontrolled is None
    return Workload(
        controlled_steps=steps if job.wants_controlled else 0,
        uncontrolled_steps=steps if missing_uncontrolled else 0,
        round_trips=ROUND_TRIPS if job.wants_controlled and job.followed else 0,
    )
