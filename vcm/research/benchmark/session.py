"""What somebody waits for who starts afresh: a process of its own that loads the model and runs it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcm.runtime.clock import Seconds

# Nothing heavy is imported above: what a process imports first is measured, too.

STAGES = ("imports", "load", "first run", "next run", "another drawing on the same noise")


def measure_session(
    model: str, *, device: str = "auto", vcm_weights: str | None = None, steps: int = 20, sessions: int = 3
) -> dict[str, Any]:
    """Return what each of `STAGES` took on one thread, and the peak of memory, over fresh processes.

    A run makes a controlled and an uncontrolled volume with previews. The first one also fits the preview's decoder;
    the next one has other noise; the last one finds its uncontrolled volume in the pipeline's cache.

    Args:
        model, device, vcm_weights: as `Pipeline.from_pretrained` takes them.
        steps: of a run.
        sessions: how many processes, one after the other.

    Returns:
        "seconds", by stage as `summarize_seconds` returns them, and "peak_memory_mib", of a whole process, the
        interpreter, its libraries and the model included; the largest of the sessions.
    """
    from vcm.runtime.clock import Seconds, summarize_seconds

    told = [_run_apart(model, device, vcm_weights, steps) for _ in range(sessions)]
    return {
        "seconds": {stage: summarize_seconds([Seconds(*taken[stage]) for taken, _ in told]) for stage in STAGES},
        "peak_memory_mib": max(peak for _, peak in told),
    }


def _run_apart(*arguments: Any) -> tuple[dict[str, tuple[float, float]], float]:
    """Run `_live` in a process that has imported nothing yet."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_live, *arguments).result()


def _live(model: str, device: str, vcm_weights: str | None, steps: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Import, load and run; returns seconds by stage and the process's peak of memory in MiB."""
    cpu, wall = time.process_time(), time.perf_counter()
    from vcm.pipeline import Pipeline, choose_device
    from vcm.research.benchmark.loops import solid_request
    from vcm.runtime.clock import clocked, one_thread, peak_memory_mib

    taken = {"imports": (time.process_time() - cpu, time.perf_counter() - wall)}
    where = choose_device(device)

    def measure(stage: str, call: Callable[[], Any]) -> None:
        seconds: Seconds = clocked(where, call)
        taken[stage] = (seconds.cpu, seconds.wall)

    loaded: list[Pipeline] = []
    with one_thread(where):
        measure("load", lambda: loaded.append(Pipeline.from_pretrained(model, str(where), "auto", vcm_weights)))
        pipeline = loaded[0]
        requests = {
            "first run": solid_request(pipeline, steps),
            "next run": solid_request(pipeline, steps, seed=1),
            "another drawing on the same noise": solid_request(pipeline, steps, seed=1, share=0.2),
        }
        for stage, request in requests.items():
            measure(stage, lambda request=request: pipeline(request))  # type: ignore[misc]
    return taken, peak_memory_mib()
