"""What the page remembers of finished runs, within bounds and across visitors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vcm.recipe import recipe_key
from vcm.request import GenerationResult
from vcm.runtime.cache import BoundedCache

MAX_RESULT_BYTES = 2**28  # about forty pairs of the embedded model


class ResultCache:
    """Results by their recipe: the same recipe gives the same voxels, so nobody waits for them twice.

    Encoded conditions and uncontrolled volumes are kept by the pipeline itself, which plans with them.
    """

    def __init__(self, max_bytes: int = MAX_RESULT_BYTES) -> None:
        self._results: BoundedCache[GenerationResult] = BoundedCache(max_bytes, _count_bytes)

    @property
    def num_bytes(self) -> int:
        """Bytes kept now."""
        return self._results.num_bytes

    def get(self, recipe: Mapping[str, Any]) -> GenerationResult | None:
        """Return the result of a recipe, or None if it has to be computed."""
        return self._results.get(recipe_key(recipe))

    def put(self, result: GenerationResult) -> None:
        """Keep a result under its own recipe."""
        self._results.put(recipe_key(result.recipe), result)


def _count_bytes(result: GenerationResult) -> int:
    volumes = [result.controlled, *result.conditions.values(), *(result.segmentation or {}).values()]
    volumes += [
        *result.scans.values(),
        *(volume for volume in (result.uncontrolled, result.fill) if volume is not None),
    ]
    return sum(volume.array.nbytes for volume in volumes)
