"""Each condition alone, with a tumor, and all together, on unseen subjects: a section of `vcm evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from vcm.data import simulate
from vcm.job import Outcome
from vcm.metrics import head_mask, psnr, ssim, summarize
from vcm.modalities.adherence import score_anatomy, score_tumor
from vcm.modalities.image_conditions import CONTRASTS, HOLE_MARGIN_MM, grow, restore_intensities
from vcm.modalities.lowres import SHOWN_FACTOR, SLICE_FACTORS, average_slices
from vcm.modalities.names import LOWRES, PARTIAL, TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.volume import Volume

if TYPE_CHECKING:
    from vcm.data.simulate import Subject
    from vcm.pipeline import Pipeline
    from vcm.request import GenerationRequest

SECTION = "modalities"
INTERPOLATIONS = {"nearest": 0, "linear": 1, "cubic": 3}
YARDSTICKS = {
    "lowres, 4 mm": "slices of 4 mm, cubic interpolation",
    "lowres, 6 mm": "slices of 6 mm, cubic interpolation",
    "lowres, 8 mm": "slices of 8 mm, cubic interpolation",
    "t2 + flair": "t2 + flair, U-Net regressor",
}
"""Each row stands beside methods that need no model, or a model trained for this task alone."""

_FIGURES = ("psnr_db", "ssim", "hole_psnr_db", "tumor_dice", "ventricle_dice")

Translate = Callable[[Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]
"""From a subject's images by contrast, each (X, Y, Z) in [0, 1], to its T1, in the same units."""


def list_combinations(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Return which conditions are given together: each alone, each with the tumor, both contrasts, and all.

    Conditions that no training subject shows are left out.
    """
    known = [name for name in modalities if MODALITIES[name].can_be_trained]
    alone = [(name,) for name in known]
    pairs = [(TUMOR, name) for name in known if name != TUMOR] if TUMOR in known else []
    scans = [CONTRASTS] if len(known) > len(CONTRASTS) and set(CONTRASTS) <= set(known) else []
    return [*alone, *pairs, *scans, *([tuple(known)] if len(known) > 2 else [])]


def measure_modalities(
    pipeline: Pipeline,
    subjects: Sequence[Subject],
    build: Any,
    combinations: Sequence[tuple[str, ...]],
    regressors: Mapping[tuple[str, ...], Translate] | None = None,
) -> dict[str, Any]:
    """Measure what comes of each combination of conditions, beside what needs no condition and what needs no model.

    Each figure is between a volume in [0, 1] and the subject's own T1, in its head and in the slices that thick ones
    of every thickness cover: PSNR and SSIM of the intensities, PSNR also in the hole alone, Dice between the subject's
    labels and what the segmenter finds. A brain that is drawn from a tumor map alone has no reason to be the
    subject's: its PSNR says what chance gives.

    Args:
        subjects: with tumors, and with the contrasts t1, t2 and flair.
        build: from a subject, conditions and a region to a request.
        combinations: as `list_combinations` gives them; one with a condition that no subject shows has no row.
        regressors: what translation is compared with, by the contrasts that it sees.

    Returns:
        "rows": by the row's name, by the figure's name, an estimate. "gains": by the row's name, by how many dB its
        PSNR is above that of its yardstick (`YARDSTICKS`). "slice_mm": how thick slices were beside others.
    """
    figures: dict[str, dict[str, list[float | None]]] = {}
    for subject in tqdm(subjects, desc="modalities", unit="subject"):
        truth = subject.images["t1"].astype(np.float32)
        hole = grow(subject.tumor > 0, HOLE_MARGIN_MM, (simulate.SPACING_MM,) * 3)
        where = head_mask(truth)
        covered = min(truth.shape[2] - truth.shape[2] % factor for factor in SLICE_FACTORS)
        where[:, :, covered:] = False
        for row, volume in _make_rows(pipeline, subject, truth, hole, build, combinations, regressors or {}):
            found = _measure(pipeline, subject, volume, truth, where, hole)
            for name, value in found.items():
                figures.setdefault(row, {}).setdefault(name, []).append(value)
    rows = {row: {name: summarize(values) for name, values in found.items()} for row, found in figures.items()}
    psnrs = {row: np.array(found["psnr_db"], np.float64) for row, found in figures.items()}
    gains = {
        row: summarize((psnrs[row] - psnrs[yardstick]).tolist())
        for row, yardstick in YARDSTICKS.items()
        if row in psnrs and yardstick in psnrs
    }
    return {"slice_mm": SHOWN_FACTOR * simulate.SPACING_MM, "rows": rows, "gains": gains}


def tabulate(section: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the section's table: titles first, then name and figures of each row."""
    yield ("condition", "PSNR, dB", "SSIM", "PSNR in the hole, dB", "tumor Dice", "ventricle Dice", "n")
    for row, figures in section["rows"].items():
        cells = []
        for name, digits in zip(_FIGURES, (2, 3, 2, 3, 3), strict=True):
            value = figures[name]["value"]
            cells.append("" if value is None else f"{value:.{digits}f}")
        yield (row, *cells, str(max(figures[name]["count"] for name in _FIGURES)))


def interpolate_slices(slices: NDArray[np.float32], factor: int, depth: int, order: int) -> NDArray[np.float32]:
    """Return slices (X, Y, N) of `factor` model voxels on the model grid (X, Y, depth), by a spline of an order."""
    scale = 1 / factor
    start = -(factor - 1) / (2 * factor)
    made: NDArray[np.float32] = ndimage.affine_transform(
        slices, [1, 1, scale], [0, 0, start], (*slices.shape[:2], depth), order=order, mode="nearest"
    )
    return made


def thicken(truth: NDArray[np.float32], factor: int) -> Volume:
    """Return axial slices that are means of `factor` slices of an image on the cohort's grid."""
    return average_slices(Volume(truth, simulate.AFFINE), factor)


def _make_rows(
    pipeline: Pipeline,
    subject: Subject,
    truth: NDArray[np.float32],
    hole: NDArray[np.bool_],
    build: Any,
    combinations: Sequence[tuple[str, ...]],
    regressors: Mapping[tuple[str, ...], Translate],
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the name and the volume, in the units of the true image, of each row of one subject."""
    yield "the subject's own T1 (ceiling of Dice)", truth
    yield "autoencoder's round trip (ceiling)", pipeline.reconstruct(truth)
    slices = {factor: thicken(truth, factor) for factor in SLICE_FACTORS}
    modalities = {name for combination in combinations for name in combination}
    for factor in SLICE_FACTORS if LOWRES in modalities else ():
        for name, order in INTERPOLATIONS.items():
            made = interpolate_slices(slices[factor].array, factor, truth.shape[2], order)
            yield f"slices of {_thickness(factor)}, {name} interpolation", made
    for names, translate in regressors.items():
        yield f"{' + '.join(names)}, U-Net regressor", translate(subject.images)
    yield "no condition (floor)", pipeline(build(subject, {}, None)).controlled.array
    shown = {name: MODALITIES[name].show(subject) for name in modalities}
    given = {name: volume for name, volume in shown.items() if volume is not None}
    fill = Volume(hole.astype(np.uint8), simulate.AFFINE)
    for names in combinations:
        if not given.keys() >= set(names):
            continue
        if names == (LOWRES,):
            for factor in SLICE_FACTORS:
                request = build(subject, {LOWRES: slices[factor]}, None)
                yield f"lowres, {_thickness(factor)}", pipeline(request).controlled.array
                row = f"lowres, {_thickness(factor)}, means of the slices not enforced"
                yield row, _run_unenforced(pipeline, request)
            continue
        conditions = {name: given[name] for name in names}
        request = build(subject, conditions, fill if PARTIAL in names else None)
        yield " + ".join(names), pipeline(request).controlled.array


def _thickness(factor: int) -> str:
    return f"{factor * simulate.SPACING_MM:g} mm"


def _run_unenforced(pipeline: Pipeline, request: GenerationRequest) -> NDArray[np.float32]:
    """Return a volume in the units of its thick slices that depends on them through the VCM alone."""
    job = pipeline.plan(request)
    slices = job.conditions[LOWRES]
    assert slices.scan is not None, "slices are a scan"
    blind = replace(job, conditions={**job.conditions, LOWRES: replace(slices, scan=None)})
    outcome = next(event for event in pipeline.run(blind) if isinstance(event, Outcome))
    assert outcome.controlled is not None, "guidance is not 0"
    return restore_intensities(outcome.controlled.array, slices.scan.limits)


def _measure(
    pipeline: Pipeline,
    subject: Subject,
    volume: NDArray[np.float32],
    truth: NDArray[np.float32],
    where: NDArray[np.bool_],
    hole: NDArray[np.bool_],
) -> dict[str, float | None]:
    assert pipeline.segmenter is not None
    image = np.clip(volume, 0.0, 1.0).astype(np.float32)
    tumor, anatomy = pipeline.segmenter.segment(image)
    is_truth = np.array_equal(image, truth)
    inside = where & hole
    return {
        "psnr_db": None if is_truth else psnr(image, truth, where),
        "ssim": None if is_truth else ssim(image, truth, where),
        "hole_psnr_db": None if is_truth or not inside.any() else psnr(image, truth, inside),
        "tumor_dice": score_tumor(subject.tumor, tumor)["whole"],
        "ventricle_dice": score_anatomy(subject.anatomy, anatomy, subject.tumor > 0)["ventricles"],
    }
