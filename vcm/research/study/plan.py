"""Which trainings the study consists of, in which order, and what identifies each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vcm.modalities.names import ANATOMY, T2, TUMOR
from vcm.research.study.methods import BUILDERS

ARMS: Mapping[str, tuple[str, ...]] = {TUMOR: (TUMOR,), "three": (TUMOR, ANATOMY, T2)}
"""What the conditions are, by the arm's name."""

REPEATED = ("vcm", "controlnet")
"""Methods that are trained three times at the small sizes, in the second arm, and sampled with more guidance."""

VARIANTS: Mapping[str, tuple[str, str]] = {
    "narrow": (TUMOR, "a U-Net of half the width"),
    "wide": (TUMOR, "a U-Net of twice the width"),
    "deep": (TUMOR, "three residual blocks a condition encoder"),
    "even": (TUMOR, "tumors weigh no more than the rest"),
    "seen": (TUMOR, "a backbone that has seen tumors"),
    "mean": ("three", "features averaged instead of joined"),
    "undropped": ("three", "no modality latent drop"),
}
"""Ablations of our VCM: the arm that each is trained in, and what it is."""


@dataclass(frozen=True)
class StudyPlan:
    """How much is trained and measured.

    - `steps`, `batch_size`: of every training. On two cores with AVX512_BF16 the whole study takes about four hours.
    - `encoder_channels`: of the condition encoders, the same for all methods; the shipped VCM's are twice as wide.
    - `sizes`: how many subjects are learned from. The one in the middle is that of the ablations, and that at which
      each method's learning rate is chosen among `learning_rates`, by its loss on subjects that it did not learn from.
    - `subjects`: test subjects that are generated after each training, the first of a `pool` whose largest lesion has
      at least `lesion_mm`: in so few steps no method follows a small one. Sets are compared with the others.
    - `num_inference_steps`: of the sampler.
    - `pupil_steps`: of a segmenter's training on generated volumes, those of the pool's other large lesions.
    """

    steps: int = 400
    batch_size: int = 2
    encoder_channels: int = 32
    sizes: tuple[int, int, int] = (10, 50, 500)
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    subjects: int = 8
    pool: int = 64
    lesion_mm: float = 24.0
    num_inference_steps: int = 20
    pupil_steps: int = 4000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "encoder_channels", "subjects", "num_inference_steps", "pupil_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 1 <= self.sizes[0] < self.sizes[1] < self.sizes[2]:
            raise ValueError(f"sizes is {self.sizes}; they must be three, rising from at least 1.")
        if not self.learning_rates:
            raise ValueError("learning_rates must hold at least one.")

    @property
    def tuning_samples(self) -> int:
        """The size in the middle."""
        return self.sizes[1]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StudyPlan:
        """Return the plan that `to_json` wrote."""
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Run:
    """One training. `learning_rate` is None where it is the one that was chosen for its method."""

    method: str
    arm: str
    samples: int
    seed: int = 0
    learning_rate: float | None = None
    variant: str | None = None

    @property
    def name(self) -> str:
        """What its file is called."""
        rate = None if self.learning_rate is None else f"rate-{self.learning_rate:g}"
        parts = (self.method, self.arm, f"{self.samples:03d}", f"seed-{self.seed}", self.variant, rate)
        return "-".join(part for part in parts if part)


def tuning_runs(method: str, plan: StudyPlan) -> list[Run]:
    """Return the trainings that a method's learning rate is chosen from."""
    return [Run(method, TUMOR, plan.tuning_samples, learning_rate=rate) for rate in plan.learning_rates]


def list_runs(plan: StudyPlan) -> Iterator[Run]:
    """Yield every training, the most informative ones first; the chosen rate's of `tuning_runs` is not done again."""
    for method in BUILDERS:
        yield from tuning_runs(method, plan)
    for samples in plan.sizes:
        if samples != plan.tuning_samples:
            yield from (Run(method, TUMOR, samples) for method in BUILDERS)
    for method in REPEATED:
        yield from (Run(method, "three", samples) for samples in plan.sizes[1:])
    yield from (Run("vcm", arm, plan.tuning_samples, variant=name) for name, (arm, _) in VARIANTS.items())
    for seed in (1, 2):
        yield from (Run(method, TUMOR, size, seed) for size in plan.sizes[:2] for method in REPEATED)


def find_main(results: Mapping[str, Any], method: str, arm: str, samples: int, seed: int = 0) -> dict[str, Any] | None:
    """Return the result of a method at a size, of the best learning rate if several were tried; None if there is none.

    Args:
        results: by the run's name.
    """
    found = [
        result
        for result in results.values()
        if (result["method"], result["arm"], result["samples"], result["seed"]) == (method, arm, samples, seed)
        and result["variant"] is None
    ]
    return min(found, key=lambda result: result["validation"]["loss"]) if found else None


def choose_rate(results: Mapping[str, Any], method: str, plan: StudyPlan) -> float | None:
    """Return the learning rate with the lowest validation loss; None while one of them was not tried yet."""
    tried: Sequence[Any] = [results.get(run.name) for run in tuning_runs(method, plan)]
    if any(result is None for result in tried):
        return None
    return float(min(tried, key=lambda result: result["validation"]["loss"])["learning_rate"])
