"""What goes to where a run is computed and what comes back: plain values and CPU arrays, all picklable."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vcm.modalities.adherence import Segmentation
from vcm.modalities.base import PreparedCondition
from vcm.modalities.registry import get_modality
from vcm.modalities.scans import Scan
from vcm.request import GenerationRequest
from vcm.runtime.memory import in_own_pages


@dataclass(frozen=True, eq=False)
class Sample:
    """One finished volume.

    `array` is (X, Y, Z) float32 in [0, 1]; `segmentation` is what the model's segmenter finds in it, None where the
    model has none.
    """

    array: NDArray[np.float32]
    segmentation: Segmentation | None = None

    def __post_init__(self) -> None:
        # A sample may stay in a cache for long, and nobody may change it there.
        object.__setattr__(self, "array", in_own_pages(self.array))
        if self.segmentation is not None:
            object.__setattr__(self, "segmentation", Segmentation(*map(in_own_pages, self.segmentation)))
        for array in self._arrays():
            array.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back from a pickle, which forgets that arrays are read-only."""
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> tuple[NDArray, ...]:
        return (self.array, *(self.segmentation or ()))


@dataclass(frozen=True, eq=False)
class Job:
    """One validated run, with all that the caches knew already in it.

    Attributes:
        request: its settings; the conditions are below.
        conditions: prepared, by modality name.
        recipe: of the run; `vcm.recipe.recipe_key` tells whether its result is known.
        context: the covariates as the model takes them, (1, 1, 4).
        features: the encoded conditions, (1, F, x, y, z), where they are known.
        uncontrolled: the uncontrolled sample of the same noise, where it is known.
        wants_controlled: whether the control does anything; without it the result is the uncontrolled sample itself.
        wants_uncontrolled: whether the result needs the uncontrolled sample.
        features_key: under which the features are kept.
        uncontrolled_key: under which the uncontrolled sample is kept.
        is_traced: whether every step is wanted with its volume and with what the VCM did, rather than a few volumes.
        is_measured: whether the segmenter looks at what was made; without it nothing of the run is kept in a cache.
    """

    request: GenerationRequest
    conditions: Mapping[str, PreparedCondition]
    recipe: dict[str, Any]
    context: Tensor
    features: Tensor | None
    uncontrolled: Sample | None
    wants_controlled: bool
    wants_uncontrolled: bool
    features_key: Hashable
    uncontrolled_key: Hashable
    is_traced: bool = False
    is_measured: bool = True

    @property
    def followed(self) -> dict[str, Scan]:
        """The scans that have a say while a volume is made, not only in what becomes of it, by condition."""
        return {
            name: prepared.scan
            for name, prepared in self.conditions.items()
            if prepared.scan is not None and get_modality(name).follows
        }

    def __getstate__(self) -> dict[str, Any]:
        """Go into a pickle without scans that are needed only where the job was planned: they are large."""
        conditions = {
            name: prepared if name in self.followed else replace(prepared, scan=None)
            for name, prepared in self.conditions.items()
        }
        return self.__dict__ | {"conditions": conditions}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job came to: the samples that were made, the features (1, F, x, y, z), and seconds by stage."""

    controlled: Sample | None
    uncontrolled: Sample | None
    features: Tensor | None
    timings: dict[str, float] = field(default_factory=dict)
