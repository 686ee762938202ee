"""What a user asks for, validated field by field, and what comes back."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from vcm.modalities.names import PARTIAL
from vcm.modalities.registry import MODALITIES
from vcm.sampler.solvers import DEFAULT_SOLVER, SOLVERS
from vcm.volume import Volume

"""UniPC and DPM-Solver++(2M), which do well in 20 steps, and the published code's deterministic DDIM."""

SEXES = ("female", "male")

Placement = tuple[tuple[float, ...], ...]
"""A transform of the world, mm to mm, as the rows of a (4, 4) matrix."""

GUIDANCE_SCALE_RANGE = (0.0, 10.0)
NUM_INFERENCE_STEPS_RANGE = (1, 1000)
SEED_RANGE = (0, 2**32 - 1)
AGE_RANGE = (44.0, 82.0)  # years; the ages that the backbone was trained on


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One volume to be generated.

    Attributes:
        conditions: by modality name, each on any grid; none at all means no control.
        guidance_scale: w in eps + w (eps_hat - eps), 0 (uncontrolled) to 10.
        num_inference_steps: 1 to 1000.
        seed: of the noise, 0 to 2^32 - 1.
        sampler: the name of a solver, see `vcm.sampler.solvers`.
        control_start: where the control sets in, as a fraction of the trajectory, 0 (pure noise) to `control_end`.
        control_end: where it ends, up to 1 (the finished volume).
        sex: "female" or "male".
        age: in years, 44 to 82.
        ventricular_volume: 0 to 1 of the range that the model was trained on.
        brain_volume: 0 to 1 of the range that the model was trained on.
        compare: whether to generate the uncontrolled volume of the same noise as well.
        fill: for the condition `partial`, a mask on any grid of what is to be made up; without one it is the tumor
            and what lies within 6 mm of it.
        placement: what moved the scans to template space, as `vcm.registration.placement` does; written files go back
            by it.

    Raises:
        ValueError: a value is of the wrong type or out of its range; the sentence names field, value and range.
    """

    conditions: dict[str, Volume] = field(default_factory=dict)
    guidance_scale: float = 1.0
    num_inference_steps: int = 20
    seed: int = 0
    sampler: str = DEFAULT_SOLVER
    control_start: float = 0.0
    control_end: float = 1.0
    sex: str = "female"
    age: float = 63.0
    ventricular_volume: float = 0.5
    brain_volume: float = 0.5
    compare: bool = True
    fill: Volume | None = None
    placement: Placement | None = None

    def __post_init__(self) -> None:
        self._set("conditions", _read_conditions(self.conditions))
        self._set("guidance_scale", _read_number("guidance_scale", self.guidance_scale, *GUIDANCE_SCALE_RANGE))
        self._set(
            "num_inference_steps",
            _read_whole("num_inference_steps", self.num_inference_steps, *NUM_INFERENCE_STEPS_RANGE),
        )
        self._set("seed", _read_whole("seed", self.seed, *SEED_RANGE))
        self._set("sampler", _read_choice("sampler", self.sampler, tuple(SOLVERS)))
        self._set("control_start", _read_number("control_start", self.control_start, 0.0, 1.0))
        self._set("control_end", _read_number("control_end", self.control_end, 0.0, 1.0))
        if self.control_start > self.control_end:
            raise ValueError(
                f"control_start is {self.control_start:g}; it must be at most control_end, which is "
                f"{self.control_end:g}."
            )
        self._set("sex", _read_choice("sex", self.sex, SEXES))
        self._set("age", _read_number("age", self.age, *AGE_RANGE, unit=" years"))
        self._set("ventricular_volume", _read_number("ventricular_volume", self.ventricular_volume, 0.0, 1.0))
        self._set("brain_volume", _read_number("brain_volume", self.brain_volume, 0.0, 1.0))
        if not isinstance(self.compare, bool):
            raise ValueError(f"compare is {_show(self.compare)}; it must be true or false.")
        if self.fill is not None and not isinstance(self.fill, Volume):
            raise ValueError(f"fill is of type {type(self.fill).__name__}; it must be a Volume.")
        if self.fill is not None and PARTIAL not in self.conditions:
            raise ValueError("fill is the region of a partial scan that is made up: give the condition partial, too.")

        self._set("placement", _read_placement(self.placement))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Preview:
    """A look at a volume in the making.

    Attributes:
        step: 1 to `num_inference_steps`, the step just done.
        num_inference_steps: of the request.
        estimate: of the finished volume as the model sees it now; float32 in [0, 1], on the model grid.
        eps_scale, eps_shift: how much the VCM did, as the mean over the channels of |gamma| and of |beta|; float32
            (x, y, z) on the latent grid. None in a step in which it was not asked.
    """

    step: int
    num_inference_steps: int
    estimate: Volume
    eps_scale: NDArray[np.float32] | None = None
    eps_shift: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """A generated volume with all that made it.

    Attributes:
        controlled: the volume, float32 in [0, 1], on the model grid. With a partial scan it is that scan, on its own
            grid and in its own units, untouched outside the hole; with thick slices it is in their units.
        uncontrolled: the same noise without any condition, likewise; None where the request did not compare.
        conditions: by modality name, on the model grid, as the model took them.
        recipe: all that is needed to generate the same voxels again; JSON.
        adherence: how well the volume follows what was drawn; None where nothing can be measured.
        timings: seconds by stage.
        segmentation: what the model's own segmenter finds in the controlled volume, before that goes back to a scan's
            units or into its hole: label volumes of tumor and anatomy, by modality name; None where the model has none.
        scans: the image conditions as they were given, by modality name, on their own grids and in their own units.
        fill: what was made up of the partial scan, uint8 on its own grid; None without one.
    """

    controlled: Volume
    uncontrolled: Volume | None
    conditions: dict[str, Volume]
    recipe: dict[str, Any]
    adherence: dict[str, Any] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    segmentation: dict[str, Volume] | None = None
    scans: dict[str, Volume] = field(default_factory=dict)
    fill: Volume | None = None


def _read_conditions(value: Any) -> dict[str, Volume]:
    if not isinstance(value, Mapping):
        raise ValueError(f"conditions is {_show(value)}; it must be a dictionary of volumes by condition name.")
    for name, volume in value.items():
        if name not in MODALITIES:
            raise ValueError(f"conditions holds {_show(name)}; it must be one of {', '.join(MODALITIES)}.")
        if not isinstance(volume, Volume):
            raise ValueError(f"conditions[{name!r}] is of type {type(volume).__name__}; it must be a Volume.")
    return dict(value)


def _read_number(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    if not _is_number(value) or not low <= value <= high:  # NaN compares with nothing
        raise ValueError(f"{name} is {_show(value)}; it must be a number from {low:g} to {high:g}{unit}.")
    return float(value)


def _read_whole(name: str, value: Any, low: int, high: int) -> int:
    # 20.0 is a whole number too: pages and JSON do not distinguish it from 20.
    if not _is_number(value) or not low <= value <= high or value != int(value):
        raise ValueError(f"{name} is {_show(value)}; it must be a whole number from {low} to {high}.")
    return int(value)


def _read_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {_show(value)}; it must be one of {', '.join(choices)}.")
    return value


def _read_placement(value: Any) -> Placement | None:
    if value is None:
        return None
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    is_affine = matrix.shape == (4, 4) and np.isfinite(matrix).all() and (matrix[3] == [0, 0, 0, 1]).all()
    if not is_affine or not 0.1 < np.linalg.det(matrix[:3, :3]) < 10:
        raise ValueError("placement is no transform of space; it must be four rows of four numbers that keep sides.")
    return tuple(tuple(row) for row in matrix.tolist())


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)  # to Python, a bool is a number


def _show(value: object) -> str:
    """Return a refused value, cut to a readable length; numpy's numbers without their type."""
    return reprlib.repr(value.item() if isinstance(value, np.generic) else value)
