"""What a single run does not show: one setting moved while all else, the noise above all, stays as it is.

Every function here is a generator. It yields an `Advance` after each denoising step and its own result after each run,
with all that is known by then; the last one is whole. Closing it stops the work within one step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.metrics import head_mask
from vcm.modalities.names import ANATOMY, TUMOR
from vcm.modalities.registry import MODALITIES, show_on_grid
from vcm.pipeline import Pipeline
from vcm.render.slices import find_focus
from vcm.request import AGE_RANGE, SEED_RANGE, GenerationRequest, GenerationResult, Preview
from vcm.volume import Volume

GUIDANCE_SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
WINDOW_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SEED_COUNT = 8
COVARIATE_ENDS = (("age", AGE_RANGE), ("ventricular_volume", (0.0, 1.0)))
"""The covariates that are moved, and from where to where."""

_VENTRICLES = MODALITIES[ANATOMY].label_names.index("ventricles") + 1

Run = Callable[[GenerationRequest], Generator[object, None, None]]
"""Runs one request: yields something after each step, and the GenerationResult last, as `Pipeline.stream` does."""


@dataclass(frozen=True)
class Advance:
    """How far an exploration is: denoising steps done, of all that there will be."""

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class View:
    """Where to look: the drawn tumor (labels on the model grid, None without one), and the voxel to cut through.

    The voxel lies inside the largest lesion, or in the middle where none is drawn.
    """

    tumor: Volume | None
    voxel: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Shot:
    """One generated volume.

    Attributes:
        volume: float32 in [0, 1] on the model grid.
        dice: overlap of what the segmenter finds with what was drawn, 0 to 1, see `follow_score`.
        distance: from the uncontrolled volume of the same noise, see `measure_distance`; None without one.
        ventricles_ml: that the segmenter finds; None where the model has none.
    """

    volume: Volume
    dice: float | None
    distance: float | None = None
    ventricles_ml: float | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """The same noise with and without the control."""

    view: View
    controlled: Shot
    uncontrolled: Shot


@dataclass(frozen=True, eq=False)
class GuidanceSweep:
    """One shot for each guidance scale, rising."""

    view: View
    scales: tuple[float, ...]
    shots: tuple[Shot, ...]


@dataclass(frozen=True, eq=False)
class WindowMap:
    """What is left of the control when it acts only from one edge to another.

    `cells` are by (start, end), both of `edges` (shares of the trajectory, 0 is pure noise), where start < end.
    """

    edges: tuple[float, ...]
    num_inference_steps: int
    cells: dict[tuple[float, float], Shot]


@dataclass(frozen=True, eq=False)
class SeedEnsemble:
    """One condition in the brains of many seeds.

    `mean` and `deviation` are the voxels' mean and standard deviation over the shots, each on the model grid.
    """

    view: View
    seeds: tuple[int, ...]
    shots: tuple[Shot, ...]

    @property
    def mean(self) -> Volume:
        """The mean of the volumes, float32 in [0, 1]."""
        return _reduce(self.shots, np.mean)

    @property
    def deviation(self) -> Volume:
        """The standard deviation of the volumes, float32; 0 for a single one."""
        return _reduce(self.shots, np.std)


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """The same noise and the same drawing in another person.

    Attributes:
        view: where to look.
        asked: the shot of the request itself.
        moved: by the covariate's name, its two ends and their shots.
    """

    view: View
    asked: Shot
    moved: dict[str, tuple[tuple[float, Shot], ...]]


@dataclass(frozen=True, eq=False)
class Trace:
    """One run, step by step; `steps` are the previews of `Pipeline.stream` in their order."""

    view: View
    steps: tuple[Preview, ...]
    dice: float | None = None


def compare_pair(
    pipeline: Pipeline, request: GenerationRequest, *, run: Run | None = None
) -> Generator[Advance | Pair, None, None]:
    """Generate with and without the control, from the same noise.

    Args:
        pipeline: the model.
        request: what is generated.
        run: what runs a request; `pipeline.stream` when not given.

    Raises:
        VolumeError, ValueError, GenerationError: as `Pipeline.stream` does; so do all functions here.
    """
    for event in _run_all([replace(request, compare=True)], run or pipeline.stream):
        if isinstance(event, Advance):
            yield event
        else:
            assert event.uncontrolled is not None
            dice = _follow_score(event.adherence, "uncontrolled")
            uncontrolled = Shot(show_on_grid(event, event.uncontrolled), dice)
            yield Pair(_view(event), _shoot(event), uncontrolled)


def sweep_guidance(
    pipeline: Pipeline,
    request: GenerationRequest,
    scales: Sequence[float] = GUIDANCE_SCALES,
    *,
    run: Run | None = None,
) -> Generator[Advance | GuidanceSweep, None, None]:
    """Move the guidance scale: how well the drawing is followed, and what that costs in distance from the prior."""
    requests = [replace(request, guidance_scale=scale, compare=True) for scale in scales]
    for view, shots, event in _shoot_all(requests, run or pipeline.stream):
        yield event or GuidanceSweep(view, tuple(scales[: len(shots)]), shots)


def map_window(
    pipeline: Pipeline,
    request: GenerationRequest,
    edges: Sequence[float] = WINDOW_EDGES,
    *,
    run: Run | None = None,
) -> Generator[Advance | WindowMap, None, None]:
    """Open the control for every part of the trajectory between two edges: when does the lesion form?

    Few steps will do, as long as there are some between any two edges.
    """
    windows = [(start, end) for start in edges for end in edges if start < end]
    requests = [replace(request, control_start=start, control_end=end, compare=True) for start, end in windows]
    for _, shots, event in _shoot_all(requests, run or pipeline.stream):
        cells = dict(zip(windows, shots, strict=False))
        yield event or WindowMap(tuple(edges), request.num_inference_steps, cells)


def repeat_seeds(
    pipeline: Pipeline, request: GenerationRequest, count: int = SEED_COUNT, *, run: Run | None = None
) -> Generator[Advance | SeedEnsemble, None, None]:
    """Generate the same condition from many noises: what it fixes stays, what it leaves open varies.

    Args:
        count: how many seeds, from the request's own upwards.
    """
    seeds = [(request.seed + number) % (SEED_RANGE[1] + 1) for number in range(count)]
    requests = [replace(request, seed=seed, compare=False) for seed in seeds]
    for view, shots, event in _shoot_all(requests, run or pipeline.stream):
        yield event or SeedEnsemble(view, tuple(seeds[: len(shots)]), shots)


def move_covariates(
    pipeline: Pipeline, request: GenerationRequest, *, run: Run | None = None
) -> Generator[Advance | Counterfactual, None, None]:
    """Ask for another age, and for other ventricles, and keep noise and drawing."""
    moves = [(name, value) for name, ends in COVARIATE_ENDS for value in ends]
    asked = replace(request, compare=False)
    requests = [asked, *(_move(asked, name, value) for name, value in moves)]
    for view, shots, event in _shoot_all(requests, run or pipeline.stream):
        if event is not None:
            yield event
            continue
        moved: dict[str, tuple[tuple[float, Shot], ...]] = {}
        for (name, value), shot in zip(moves, shots[1:], strict=False):
            moved[name] = (*moved.get(name, ()), (value, shot))
        yield Counterfactual(view, shots[0], moved)


def trace_steps(
    pipeline: Pipeline, request: GenerationRequest, *, run: Run | None = None
) -> Generator[Advance | Trace, None, None]:
    """Keep every step of one run: the estimate of the clean volume, |gamma| and |beta|.

    Args:
        run: must yield a `Preview` after every step, as a traced `pipeline.stream` does.
    """
    steps: list[Preview] = []
    total = request.num_inference_steps
    with closing((run or partial(pipeline.stream, is_traced=True))(replace(request, compare=False))) as events:
        for event in events:
            if isinstance(event, Preview):
                steps.append(event)
                yield Advance(event.step, total)
            elif isinstance(event, GenerationResult):
                yield Trace(_view(event), tuple(steps), follow_score(event))


def follow_score(result: GenerationResult) -> float | None:
    """Return how well a controlled volume follows its drawing, 0 to 1, by the adherence judge.

    It is the Dice of the whole tumor, or the mean over the tissues where an anatomy map was given and no tumor; None
    where nothing was drawn or the model has no segmenter.
    """
    return _follow_score(result.adherence, "controlled")


def measure_distance(controlled: Volume, uncontrolled: Volume) -> float:
    """Return the mean absolute difference of two volumes in [0, 1] inside the uncontrolled one's head, 0 to 1."""
    head = head_mask(uncontrolled.array)
    difference = np.abs(controlled.array - uncontrolled.array)
    return float(difference[head].mean() if head.any() else difference.mean())


def _move(request: GenerationRequest, name: str, value: float) -> GenerationRequest:
    if name == "age":
        return replace(request, age=value)
    return replace(request, ventricular_volume=value)


def _shoot_all(
    requests: Sequence[GenerationRequest], run: Run
) -> Iterator[tuple[View, tuple[Shot, ...], Advance | None]]:
    """Yield where to look, the shots so far, and the advance where it is no run that has ended."""
    view = View(None, (0, 0, 0))
    shots: tuple[Shot, ...] = ()
    with closing(_run_all(requests, run)) as events:
        for event in events:
            if isinstance(event, Advance):
                yield view, shots, event
            else:
                view, shots = _view(event), (*shots, _shoot(event))
                yield view, shots, None


def _run_all(requests: Sequence[GenerationRequest], run: Run) -> Generator[Advance | GenerationResult, None, None]:
    total, before = sum(request.num_inference_steps for request in requests), 0
    for request in requests:
        done = before
        with closing(run(request)) as events:
            for event in events:
                if isinstance(event, GenerationResult):
                    before += request.num_inference_steps
                    yield Advance(before, total)  # a run that was remembered has no steps
                    yield event
                else:
                    done += 1
                    yield Advance(done, total)


def _view(result: GenerationResult) -> View:
    tumor = result.conditions.get(TUMOR)
    if tumor is None:
        x, y, z = (size // 2 for size in show_on_grid(result, result.controlled).array.shape)
        return View(None, (x, y, z))
    return View(tumor, find_focus(tumor.array))


def _shoot(result: GenerationResult) -> Shot:
    volume = show_on_grid(result, result.controlled)
    distance = None
    if result.uncontrolled is not None:
        distance = measure_distance(volume, show_on_grid(result, result.uncontrolled))
    return Shot(volume, follow_score(result), distance, _ventricles_ml(result))


def _follow_score(adherence: Mapping[str, Any] | None, name: str) -> float | None:
    scores = {kind: measured.get(name, {}).get("dice", {}) for kind, measured in (adherence or {}).items()}
    whole: float | None = scores.get(TUMOR, {}).get("whole")
    if whole is not None:
        return whole
    tissues = [dice for dice in scores.get(ANATOMY, {}).values() if dice is not None]
    return float(np.mean(tissues)) if tissues else None


def _ventricles_ml(result: GenerationResult) -> float | None:
    found = (result.segmentation or {}).get(ANATOMY)
    if found is None:
        return None
    voxel_ml = abs(float(np.linalg.det(found.affine[:3, :3]))) / 1000
    return float(np.count_nonzero(found.array == _VENTRICLES) * voxel_ml)


def _reduce(shots: Sequence[Shot], statistic: Callable[..., NDArray]) -> Volume:
    volumes = [shot.volume for shot in shots]
    stacked = np.stack([volume.array for volume in volumes])
    return Volume(np.asarray(statistic(stacked, axis=0), np.float32), volumes[0].affine)
