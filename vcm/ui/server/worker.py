"""The one place that computes on the GPU: a picklable job in, previews and CPU arrays out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import gradio as gr
import numpy as np
import spaces
from numpy.typing import NDArray

from vcm.errors import is_out_of_memory
from vcm.job import Job, Outcome
from vcm.pipeline import GenerationError, Pipeline
from vcm.request import Preview
from vcm.ui.server.failures import OUT_OF_MEMORY, UNEXPECTED
from vcm.volume import VolumeError

MOST_PREVIEWS = 10
"""Steps of a run that come with a volume; the others bring only their number."""

_START_SECONDS = 8.0  # moving the weights and waking the device
_STEP_SECONDS = 0.05  # one network on a 20 x 28 x 20 latent, generously: a run that outlasts its request is killed
_SLICES_SECONDS = 6.0  # agreeing with thick slices, which is done on the CPU
_LONGEST_SECONDS = 120

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Progress:
    """One step done.

    Attributes:
        step: 1 to `num_inference_steps`.
        num_inference_steps: of the run.
        preview: what the model sees now, (X, Y, Z) uint8, 255 for an intensity of 1; None at most steps of long runs.
        eps_scale, eps_shift: of a traced job, how much the VCM did, as in `vcm.request.Preview`.
    """

    step: int
    num_inference_steps: int
    preview: NDArray[np.uint8] | None
    eps_scale: NDArray[np.float32] | None = None
    eps_shift: NDArray[np.float32] | None = None


Compute = Callable[[Job], Generator[Progress | Outcome, None, None]]


def build_worker(pipeline: Pipeline) -> Compute:
    """Return the function that computes a job, yielding Progress after every step and the Outcome last.

    On a Space with ZeroGPU it runs in a fork that owns the GPU for one call; elsewhere it runs right here. Either way
    closing the iterator stops the work within one step, and every failure arrives as a `gr.Error` of one sentence,
    the only kind of error whose words survive the way back from the fork.
    """

    def seconds(job: Job, *_: object, **__: object) -> int:
        return estimate_gpu_seconds(job, pipeline.config.latent_shape)

    @spaces.GPU(duration=seconds)
    def compute(job: Job) -> Generator[Progress | Outcome, None, None]:
        try:
            with closing(pipeline.run(job)) as events:
                for event in events:
                    yield event if isinstance(event, Outcome) else _shrink(event, job)
        except (VolumeError, GenerationError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            if is_out_of_memory(error):
                _log.exception("out of memory")
                raise gr.Error(OUT_OF_MEMORY, print_exception=False) from error
            _log.exception("a run failed")
            raise gr.Error(UNEXPECTED, print_exception=False) from error

    return compute


def estimate_gpu_seconds(job: Job, latent_shape: tuple[int, ...]) -> int:
    """Return how many GPU seconds to ask for: little, since a visitor is refused by what is asked for."""
    chains = int(job.wants_controlled) * 2 + int(job.wants_uncontrolled and job.uncontrolled is None)
    cells = float(np.prod(latent_shape[1:])) / (20 * 28 * 20)
    seconds = _START_SECONDS + chains * job.request.num_inference_steps * _STEP_SECONDS * cells
    if job.wants_controlled and job.followed:
        seconds += _SLICES_SECONDS
    return min(round(seconds), _LONGEST_SECONDS)


def shows_preview(step: int, num_inference_steps: int) -> bool:
    """Tell whether a step brings a volume: all of a short run, `MOST_PREVIEWS` evenly spread ones of a long one."""
    shown = min(MOST_PREVIEWS, num_inference_steps)
    return step * shown // num_inference_steps != (step - 1) * shown // num_inference_steps


def _shrink(preview: Preview, job: Job) -> Progress:
    """Return what a page needs of a preview, in a quarter of its bytes; of a quick run that is the last one alone."""
    shown = None
    is_last = preview.step == preview.num_inference_steps
    is_due = shows_preview(preview.step, preview.num_inference_steps) if job.is_measured else is_last
    if job.is_traced or is_due:
        shown = np.rint(preview.estimate.array * 255).astype(np.uint8)
    did = (preview.eps_scale, preview.eps_shift) if job.is_traced else ()
    return Progress(preview.step, preview.num_inference_steps, shown, *did)
