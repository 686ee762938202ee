"""What conditions become, and how results go back to the scans, is what it was before modalities owned that."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import ALL_CHANNELS, TINY_GRID, build_tiny_model

from vcm.job import Outcome, Sample
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume

KEPT = Path(__file__).parent / "data" / "kept_runs.json"
"""What `describe_run` returned for every request at commit c65ee0e."""

AFFINE = TINY_GRID.affine
FINER = np.diag([1.5, 1.5, 1.5, 1.0])
FINER[:3, 3] = (-14.0, -22.0, -13.0)


def draw_tumor(shape: tuple[int, ...], affine: NDArray) -> Volume:
    """Three balls, one inside the other, as label map."""
    voxels = np.indices(shape).reshape(3, -1)
    points = affine[:3, :3] @ voxels + affine[:3, 3:]
    distances = np.linalg.norm(points - np.array([[2.0], [-3.0], [1.0]]), axis=0).reshape(shape)
    labels = np.zeros(shape, np.uint8)
    for radius, label in ((9.0, 2), (6.0, 3), (3.5, 1)):
        labels[distances < radius] = label
    return Volume(labels, affine)


def draw_anatomy() -> Volume:
    """Nested boxes of the four tissues."""
    labels = np.zeros(TINY_GRID.shape, np.uint8)
    for margin, label in enumerate((1, 2, 3, 4), start=1):
        labels[margin:-margin, margin + 1 : -margin - 1, margin:-margin] = label
    return Volume(labels, AFFINE)


def draw_scan(shape: tuple[int, ...], affine: NDArray, seed: int, brightness: float) -> Volume:
    """Positive noise inside of a margin of air."""
    scan = np.zeros(shape, np.float32)
    inside = tuple(slice(1, size - 1) for size in shape)
    scan[inside] = brightness * (0.2 + np.random.default_rng(seed).random(scan[inside].shape, np.float32))
    return Volume(scan, affine)


def draw_thick_slices() -> Volume:
    """A scan of 4 slices, each as thick as four voxels of the grid."""
    affine = AFFINE @ np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] += AFFINE[:3, 2] * 1.5
    return Volume(draw_scan((16, 24, 6), AFFINE, 2, 700.0).array[..., 1:5].copy(), affine)


def build_requests() -> dict[str, GenerationRequest]:
    """Requests that together touch every modality of simulated subjects, alone and beside others."""
    tumor, anatomy = draw_tumor(TINY_GRID.shape, AFFINE), draw_anatomy()
    elsewhere = draw_tumor((22, 30, 20), FINER)
    older = Volume(np.where(tumor.array == 3, np.uint8(4), tumor.array), AFFINE)
    scan = draw_scan((20, 28, 18), FINER, 0, 900.0)
    t2, flair = (draw_scan(TINY_GRID.shape, AFFINE, seed, 1500.0) for seed in (3, 4))
    region = np.zeros(TINY_GRID.shape, np.uint8)
    region[3:9, 6:14, 4:11] = 1
    fill, slices = Volume(region, AFFINE), draw_thick_slices()
    usual: dict[str, Any] = {"num_inference_steps": 3, "seed": 11}
    return {
        "tumor": GenerationRequest({"tumor": tumor}, **usual),
        "tumor of another grid": GenerationRequest({"tumor": elsewhere}, **usual),
        "tumor with label 4": GenerationRequest({"tumor": older}, **usual),
        "empty tumor": GenerationRequest({"tumor": Volume(np.zeros_like(region), AFFINE)}, **usual),
        "anatomy and tumor": GenerationRequest({"anatomy": anatomy, "tumor": tumor}, **usual),
        "partial around a tumor": GenerationRequest({"partial": scan, "tumor": tumor}, **usual),
        "partial with a fill": GenerationRequest({"partial": scan}, fill=fill, **usual),
        "lowres": GenerationRequest({"lowres": slices}, **usual),
        "partial, lowres": GenerationRequest({"partial": scan, "lowres": slices}, fill=fill, **usual),
        "t2, flair": GenerationRequest({"t2": t2, "flair": flair}, **usual),
        "everything": GenerationRequest(
            {"flair": flair, "t2": t2, "lowres": slices, "partial": scan, "anatomy": anatomy, "tumor": tumor}, **usual
        ),
    }


def describe_array(array: NDArray) -> list[float]:
    """Return mean, deviation, and eight voxels of an array, in its own units."""
    picked = array.ravel()[np.linspace(0, array.size - 1, 10).astype(int)[1:-1]]
    return [float(value) for value in (array.mean(dtype=np.float64), array.std(dtype=np.float64), *picked)]


def describe_run(pipeline: Pipeline, request: GenerationRequest) -> dict[str, Any]:
    """Return what a request becomes: labels by their SHA-256, intensities by a few numbers, and all notes.

    No network takes part: random volumes stand for what would be sampled.
    """
    job = pipeline.plan(request)
    sampled = [np.random.default_rng(seed).random(TINY_GRID.shape, np.float32) for seed in (5, 6)]
    result = pipeline.finish(job, Outcome(*(Sample(array, None) for array in sampled), None, {}))
    assert result.uncontrolled is not None
    return {
        "tensors": {
            name: hashlib.sha256(each.tensor.numpy().tobytes()).hexdigest()
            if each.scan is None
            else describe_array(each.tensor.numpy())
            for name, each in job.conditions.items()
        },
        "notes": {name: list(each.notes) for name, each in job.conditions.items()},
        "controlled": describe_array(result.controlled.array),
        "uncontrolled": describe_array(result.uncontrolled.array),
        "shape": list(result.controlled.array.shape),
        "affine": result.controlled.affine.tolist(),
        "labels": {name: entry["sha256"] for name, entry in result.recipe["conditions"].items() if "data" in entry},
    }


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(build_tiny_model(channels=ALL_CHANNELS), is_tuned=False)


@pytest.mark.parametrize("name", build_requests())
def test_a_request_of_before_becomes_what_it_was(name: str, pipeline: Pipeline) -> None:
    kept, made = json.loads(KEPT.read_text())[name], describe_run(pipeline, build_requests()[name])
    for exact in ("notes", "shape", "affine", "labels"):
        assert made[exact] == kept[exact]
    assert list(made["tensors"]) == list(kept["tensors"])
    for condition, expected in kept["tensors"].items():
        if isinstance(expected, str):
            assert made["tensors"][condition] == expected
        else:
            assert made["tensors"][condition] == pytest.approx(expected, abs=1e-5)
    for volume in ("controlled", "uncontrolled"):
        spread = kept[volume][1]  # in the units of the volume
        assert made[volume] == pytest.approx(kept[volume], abs=1e-4 * spread)
