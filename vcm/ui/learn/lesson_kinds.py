"""The explorations that the page offers as lessons: where each stands, its name, and what to look for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from vcm.explore import (
    COVARIATE_ENDS,
    GUIDANCE_SCALES,
    SEED_COUNT,
    WINDOW_EDGES,
    compare_pair,
    map_window,
    move_covariates,
    repeat_seeds,
    sweep_guidance,
    trace_steps,
)
from vcm.request import GenerationRequest

MOST_STEPS = 20
"""Of one run of a lesson, so that a class does not wait for a visitor's hundred."""

_WINDOW_STEPS = 10  # of many runs, and as many as there are tenths of a trajectory


@dataclass(frozen=True)
class Kind:
    """One exploration on the page.

    Attributes:
        name: of its figure, `Figure.facts["kind"]`.
        tab: that it stands on.
        title: a few words.
        sentence: what to look for, HTML.
        explore: a function of `vcm.explore`.
        runs: how many volumes with control it generates.
    """

    name: str
    tab: str
    title: str
    sentence: str
    explore: Callable[..., Generator[Any, None, None]]
    runs: int

    def shorten(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request of one run as it is made for a lesson."""
        steps = _WINDOW_STEPS if self.name == "window" else MOST_STEPS
        return replace(request, num_inference_steps=min(request.num_inference_steps, steps))


@dataclass(frozen=True)
class Tab:
    """One tab: its title, and one sentence for a class."""

    name: str
    title: str
    sentence: str


TABS = (
    Tab("compare", "Compare", "Change one thing and keep the rest: whatever differs was caused by that one thing."),
    Tab("sweep", "Sweep", "Turn one knob through its whole range: control has a price, a right moment and a limit."),
    Tab("hood", "Under the hood", "Watch noise become a brain, and see in which steps and where the VCM steps in."),
)

KINDS = (
    Kind(
        "pair",
        "compare",
        "With and without the drawing",
        "Both start from the same noise, so the difference is what the drawing did.",
        compare_pair,
        1,
    ),
    Kind(
        "seeds",
        "compare",
        "One drawing, many brains",
        "Every seed is another brain: dark in the deviation is what all of them share, bright is what chance decides.",
        repeat_seeds,
        SEED_COUNT,
    ),
    Kind(
        "covariates",
        "compare",
        "What if the person were another?",
        "The same noise and the same drawing at another age, and with other ventricles: what moves, and what stays?",
        move_covariates,
        1 + 2 * len(COVARIATE_ENDS),
    ),
    Kind(
        "guidance",
        "sweep",
        "How strong should control be?",
        "0 ignores the drawing, 1 is what its training settled on; more pulls harder and moves the rest, too.",
        sweep_guidance,
        len(GUIDANCE_SCALES),
    ),
    Kind(
        "window",
        "sweep",
        "When does the lesion form?",
        "The VCM acts in a part of the steps only: the brighter the cell, the more of the lesion that part makes.",
        map_window,
        len(WINDOW_EDGES) * (len(WINDOW_EDGES) - 1) // 2,
    ),
    Kind(
        "steps",
        "hood",
        "One run, step by step",
        "The VCM turns the noise estimate &epsilon; into &epsilon; (1 + &gamma;) + &beta;: see where and when.",
        trace_steps,
        1,
    ),
)
