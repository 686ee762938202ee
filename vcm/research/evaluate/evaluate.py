"""Measure a model on subjects that nothing was trained on: `vcm evaluate` and the model card's figures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from vcm.data import simulate
from vcm.data.cohort import read_earlier, write_json
from vcm.data.simulate import Subject
from vcm.metrics import (
    correlation,
    cubic_mmd,
    estimate,
    head_mask,
    largest_diameter_mm,
    mean_ms_ssim,
    measure_band_energy,
    psnr,
    ratio_of_means,
    slope,
    summarize,
)
from vcm.modalities.adherence import dice, score_anatomy, score_tumor
from vcm.modalities.image_conditions import CONTRASTS
from vcm.modalities.names import ANATOMY, FLAIR, T2, TUMOR
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.research.evaluate.contrast import is_right, measure_contrasts
from vcm.research.evaluate.lesions import LesionScore, compare_by_size, score_lesions
from vcm.research.evaluate.modalities import SECTION, list_combinations, measure_modalities
from vcm.volume import Volume
from vcm.weights.calibration import RESULTS_FILE
from vcm.weights.checkpoint import hash_weights

logger = logging.getLogger(__name__)

CLEAR_LESION_MM = 12.0
SIZE_EDGES_MM = (0.0, 12.0, 24.0, 36.0, np.inf)
MARGIN_MM = 10.0
_CLASSES_MM = (8.0, 12.0, 24.0, np.inf)
_VOXEL_ML = simulate.SPACING_MM**3 / 1000

Section = dict[str, Any]


@dataclass(frozen=True)
class EvaluationPlan:
    """How much is measured.

    - `first_seed`: of the test subjects; seeds of training and validation are refused.
    - `subjects`: with a tumor, for adherence, preservation and the round trip.
    - `uncontrolled`: samples for covariates, realism and diversity.
    - `modality_subjects`: with a tumor, for the table of all conditions; 0 leaves it out.
    - `regressor_subjects`, `regressor_steps`: that translation's rivals in that table learn from, and for how long.
    """

    first_seed: int = simulate.FIRST_TEST_SEED
    subjects: int = 32
    uncontrolled: int = 128
    num_inference_steps: int = 20
    guidance_scale: float = 1.0
    modality_subjects: int = 32
    regressor_subjects: int = 64
    regressor_steps: int = 1500

    def __post_init__(self) -> None:
        if self.first_seed < simulate.FIRST_TEST_SEED:
            raise ValueError(
                f"first_seed is {self.first_seed}; evaluation needs seeds from {simulate.FIRST_TEST_SEED} on, "
                "since those below are for training and validation."
            )


def evaluate(
    pipeline: Pipeline, out: str | Path, plan: EvaluationPlan | None = None, *, resume: bool = False
) -> dict[str, Any]:
    """Measure all sections and write them to `out/evaluation.json` as each is done; returns what was written.

    Args:
        resume: keep the sections that the file holds already, if they are of the same model, segmenter and plan.

    Raises:
        ValueError: the model has no segmenter, or is not on the simulated cohort's grid.
    """
    plan = plan or EvaluationPlan()
    if pipeline.segmenter is None:
        raise ValueError("The model folder has no segmenter, so there is nothing to measure with.")
    if pipeline.grid.shape != simulate.SHAPE:
        raise ValueError("Only models on the simulated cohort's grid can be evaluated on it.")
    path = Path(out) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = pipeline.environment
    identity = {
        "weights": dict(environment.weights),
        "segmenter": hash_weights(pipeline.segmenter),
        "precision": environment.precision,
        "plan": {name: getattr(plan, name) for name in EvaluationPlan.__dataclass_fields__},
    }
    earlier = read_earlier(path, identity) if resume else None
    results: dict[str, Any] = earlier or {**identity, "sections": {}}

    tumor_subjects = _Lazy(lambda: subjects_with_tumor(plan))
    sections: dict[str, Callable[[], Section]] = {
        "autoencoder": lambda: _measure_round_trip(pipeline, tumor_subjects()),
        "adherence": lambda: _measure_adherence(pipeline, tumor_subjects(), plan),
        "priors": lambda: _measure_uncontrolled(pipeline, plan),
    }
    if plan.modality_subjects:
        sections[SECTION] = lambda: _measure_modalities(pipeline, plan, path.parent)
    for name, measure in sections.items():
        if name in results["sections"]:
            continue
        logger.info("measuring: %s", name)
        results["sections"][name] = measure()
        write_json(path, results)
    return results


def _measure_round_trip(pipeline: Pipeline, subjects: list[Subject]) -> Section:
    """The autoencoder alone: PSNR, and what the segmenter still finds."""
    whole, head, bands = [], [], []
    originals: list[float] = []
    restored: list[float] = []
    lesions: tuple[list[LesionScore], list[LesionScore]] = ([], [])
    for subject in tqdm(subjects, desc="round trip", unit="subject"):
        image = subject.images["t1"]
        back = pipeline.reconstruct(image)
        whole.append(psnr(back, image))
        head.append(psnr(back, image, head_mask(image)))
        bands.append(measure_band_energy(back) / measure_band_energy(image))
        found = [_segment(pipeline, volume)[0] for volume in (image, back)]
        for scores, labels, each in zip((originals, restored), found, lesions, strict=True):
            scores.append(dice(subject.tumor > 0, labels > 0) or 0.0)
            each.extend(score_lesions(subject.tumor, labels, _VOXEL_ML))
    return {
        "psnr_whole_db": summarize(whole),
        "psnr_head_db": summarize(head),
        "tumor_dice_originals": summarize(originals),
        "tumor_dice_round_trip": summarize(restored),
        "tumor_dice_kept": estimate(ratio_of_means, restored, originals),
        "upper_band": summarize(bands),
        "lesions_kept": compare_by_size(*lesions),
    }


def _measure_adherence(pipeline: Pipeline, subjects: list[Subject], plan: EvaluationPlan) -> Section:
    """Whether the controlled volumes have what was drawn, where it was drawn, and nothing else changed."""
    rows: list[dict[str, Any]] = []
    for subject in tqdm(subjects, desc="adherence", unit="subject"):
        conditions = {TUMOR: Volume(subject.tumor, simulate.AFFINE)}
        result = pipeline(build_request(subject, conditions, plan, compare=True))
        controlled, uncontrolled = result.controlled.array, result.uncontrolled.array  # type: ignore[union-attr]
        both = {**conditions, ANATOMY: Volume(subject.anatomy, simulate.AFFINE)}
        guided = pipeline(build_request(subject, both, plan, compare=False)).controlled.array

        drawn = subject.tumor > 0
        reach_voxels = MARGIN_MM / simulate.SPACING_MM
        outside = ndimage.distance_transform_edt(~drawn) > reach_voxels
        change = np.abs(controlled - uncontrolled)
        found, _ = _segment(pipeline, controlled)
        found_uncontrolled, _ = _segment(pipeline, uncontrolled)
        found_guided, found_anatomy = _segment(pipeline, guided)
        ceiling, ceiling_anatomy = _segment(pipeline, subject.images["t1"])
        rows.append(
            {
                "seed": subject.seed,
                "diameter_mm": largest_diameter_mm(drawn, simulate.SPACING_MM),
                "drawn_ml": float(drawn.sum() * _VOXEL_ML),
                "found_ml": float((found > 0).sum() * _VOXEL_ML),
                "dice": score_tumor(subject.tumor, found),
                "floor": score_tumor(subject.tumor, found_uncontrolled)["whole"],
                "ceiling": score_tumor(subject.tumor, ceiling),
                "dice_with_anatomy": score_tumor(subject.tumor, found_guided)["whole"],
                "ventricles": score_anatomy(subject.anatomy, found_anatomy, drawn)["ventricles"],
                "ventricles_ceiling": score_anatomy(subject.anatomy, ceiling_anatomy, drawn)["ventricles"],
                "contrasts": _compare_contrasts(subject, controlled),
                "change_outside": float(change[outside].mean()),
                "change_inside": float(change[drawn].mean()),
            }
        )
    return {**summarize_adherence(rows), "subjects": rows}


def summarize_adherence(rows: list[dict[str, Any]]) -> Section:
    """Return the figures of the section from its subjects: Dice is of those with a lesion of 12 mm and more."""
    clear = [row for row in rows if row["diameter_mm"] >= CLEAR_LESION_MM]
    by_size = {}
    for low, high in pairwise(SIZE_EDGES_MM):
        name = f"{low:.0f} mm and more" if np.isinf(high) else f"{low:.0f} to {high:.0f} mm"
        by_size[name] = summarize([row["dice"]["whole"] for row in rows if low <= row["diameter_mm"] < high])
    shares, right = {}, {}
    for low, high in pairwise(_CLASSES_MM):
        name = f"{low:.0f} mm and more" if np.isinf(high) else f"{low:.0f} to {high:.0f} mm"
        some = [row for row in rows if low <= row["diameter_mm"] < high]
        shares[name] = {
            region: estimate(
                ratio_of_means, *zip(*[(row["dice"][region], row["ceiling"][region]) for row in those], strict=True)
            )
            for region in ("whole", "core")
            if (those := [row for row in some if row["ceiling"][region]])
        }
        contrasts = [pair for row in some for pair in row.get("contrasts", {}).values()]
        right[name] = summarize([float(is_right(*pair)) for pair in contrasts])
    found = [row["dice"]["whole"] for row in clear]
    ceiling = [row["ceiling"]["whole"] for row in clear]
    drawn_ml = [row["drawn_ml"] for row in rows]
    found_ml = [row["found_ml"] for row in rows]
    return {
        "clear_lesion_mm": CLEAR_LESION_MM,
        "whole_tumor_dice": summarize(found),
        "whole_tumor_ceiling": summarize(ceiling),
        "share_of_ceiling": estimate(ratio_of_means, found, ceiling),
        "whole_tumor_floor": summarize([row["floor"] for row in clear]),
        "tumor_core_dice": summarize([row["dice"]["core"] for row in clear]),
        "tumor_core_ceiling": summarize([row["ceiling"]["core"] for row in clear]),
        "enhancing_dice": summarize([row["dice"]["enhancing"] for row in clear]),
        "enhancing_ceiling": summarize([row["ceiling"]["enhancing"] for row in clear]),
        "whole_tumor_dice_with_anatomy": summarize([row["dice_with_anatomy"] for row in clear]),
        "by_size": by_size,
        "share_of_ceiling_by_size": shares,
        "contrasts_right_by_size": right,
        "volume": _fit(drawn_ml, found_ml),
        "ventricle_dice": summarize([row["ventricles"] for row in rows]),
        "ventricle_ceiling": summarize([row["ventricles_ceiling"] for row in rows]),
        "margin_mm": MARGIN_MM,
        "change_outside": summarize([row["change_outside"] for row in rows]),
        "change_inside": summarize([row["change_inside"] for row in rows]),
    }


def _compare_contrasts(subject: Subject, controlled: NDArray) -> dict[str, list[float]]:
    """Return, by label, the contrast to healthy tissue in a controlled volume and in the subject's own image."""
    made, original = (
        measure_contrasts(volume, subject.tumor, subject.anatomy) for volume in (controlled, subject.images["t1"])
    )
    return {str(label): [made[label], original[label]] for label in made}


def _measure_uncontrolled(pipeline: Pipeline, plan: EvaluationPlan) -> Section:
    """The frozen prior alone: how well it follows its covariates, and how realistic and varied its volumes are."""
    config = pipeline.config.covariates
    if config.ventricular_ml is None or config.brain_ml is None:
        raise ValueError("The model's configuration does not say what its volume covariates stand for.")
    first = plan.first_seed + 10_000  # other subjects than the tumors'
    asked = {"ventricular_ml": [], "brain_ml": []}  # type: dict[str, list[float]]
    measured = {"ventricular_ml": [], "brain_ml": []}  # type: dict[str, list[float]]
    generated, features = [], []
    seeds = range(first, first + plan.uncontrolled)
    subjects = simulate.simulate_subjects(seeds, ("t1",), with_tumor=False)
    real, real_features = [], []
    for subject in tqdm(subjects, total=len(seeds), desc="uncontrolled", unit="sample"):
        image = subject.images["t1"]
        real.append(image.astype(np.float16))
        real_features.append(_describe(pipeline, image))
        volume = pipeline(build_request(subject, {}, plan, compare=False)).controlled.array
        generated.append(volume.astype(np.float16))
        features.append(_describe(pipeline, volume))
        _, anatomy = _segment(pipeline, volume)
        ventricles = float((anatomy == simulate.VENTRICLES).sum() * _VOXEL_ML)
        brain = float(np.isin(anatomy, (simulate.GRAY_MATTER, simulate.WHITE_MATTER)).sum() * _VOXEL_ML)
        for name, value, limits, request in (
            ("ventricular_ml", ventricles, config.ventricular_ml, subject.covariates.ventricular_volume),
            ("brain_ml", brain, config.brain_ml, subject.covariates.brain_volume),
        ):
            measured[name].append(value)
            asked[name].append(limits[0] + request * (limits[1] - limits[0]))
    half = len(real) // 2
    return {
        "ventricular_volume": _fit(asked["ventricular_ml"], measured["ventricular_ml"]),
        "brain_volume": _fit(asked["brain_ml"], measured["brain_ml"]),
        "mmd_generated": cubic_mmd(np.stack(features[:half]), np.stack(real_features[half:])),
        "mmd_simulated": cubic_mmd(np.stack(real_features[:half]), np.stack(real_features[half:])),
        "ms_ssim_generated": summarize(list(mean_ms_ssim(generated))),
        "ms_ssim_simulated": summarize(list(mean_ms_ssim(real))),
        "asked": asked,
        "measured": measured,
    }


def _fit(asked: list[float], measured: list[float]) -> Section:
    """How well measured follows asked, and how much of it."""
    return {"correlation": estimate(correlation, asked, measured), "slope": estimate(slope, asked, measured)}


def _measure_modalities(pipeline: Pipeline, plan: EvaluationPlan, cache: Path) -> Section:
    """All conditions, alone and together, beside networks that know translation alone."""
    from vcm.research.evaluate.regressor import train_regressor

    combinations = list_combinations(pipeline.modalities)
    contrasts = ("t1", T2, FLAIR)
    subjects = subjects_with_tumor(replace(plan, subjects=plan.modality_subjects), contrasts)

    def build(subject: Subject, conditions: dict[str, Volume], fill: Volume | None) -> GenerationRequest:
        return replace(build_request(subject, conditions, plan, compare=False), fill=fill)

    regressors = {
        names: train_regressor(names, plan.regressor_subjects, plan.regressor_steps, cache / "work")
        for names in combinations
        if set(names) <= set(CONTRASTS)
    }
    return measure_modalities(pipeline, subjects, build, combinations, regressors)


def build_request(
    subject: Subject, conditions: dict[str, Volume], plan: EvaluationPlan, *, compare: bool
) -> GenerationRequest:
    """Return the request for a volume of the subject's covariates, from the noise of its seed."""
    low, high = simulate.AGE_RANGE_YEARS
    facts = subject.covariates
    return GenerationRequest(
        conditions=conditions,
        guidance_scale=plan.guidance_scale,
        num_inference_steps=plan.num_inference_steps,
        seed=subject.seed,
        sex="male" if facts.sex else "female",
        age=low + facts.age * (high - low),
        ventricular_volume=facts.ventricular_volume,
        brain_volume=facts.brain_volume,
        compare=compare,
    )


def subjects_with_tumor(plan: EvaluationPlan, contrasts: tuple[str, ...] = ("t1",)) -> list[Subject]:
    """The first test subjects that have a tumor, as many as the plan asks for."""
    found: list[Subject] = []
    first = plan.first_seed
    with tqdm(total=plan.subjects, desc="simulating", unit="subject") as progress:
        while len(found) < plan.subjects:
            missing = plan.subjects - len(found)
            for subject in simulate.simulate_subjects(range(first, first + missing), contrasts):
                if subject.tumor.any():
                    found.append(subject)
                    progress.update()
            first += missing
    return found


def _segment(pipeline: Pipeline, volume: NDArray) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    assert pipeline.segmenter is not None
    return pipeline.segmenter.segment(volume)


def _describe(pipeline: Pipeline, volume: NDArray) -> NDArray[np.float32]:
    assert pipeline.segmenter is not None
    return pipeline.segmenter.describe(volume)


class _Lazy:
    """A value that is made when first asked for: sections that were measured before need no subjects."""

    def __init__(self, make: Callable[[], list[Subject]]) -> None:
        self._make = make
        self._value: list[Subject] | None = None

    def __call__(self) -> list[Subject]:
        if self._value is None:
            self._value = self._make()
        return self._value
