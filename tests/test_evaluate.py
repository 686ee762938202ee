"""The evaluation: on test subjects only, its arithmetic, what it keeps of an earlier run, and its card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import build_tiny_model, randomize

from vcm.data import simulate
from vcm.model.config import Grid
from vcm.model.segmenter import Segmenter, SegmenterConfig
from vcm.pipeline import Pipeline
from vcm.research.evaluate.evaluate import (
    RESULTS_FILE,
    SIZE_EDGES_MM,
    EvaluationPlan,
    build_request,
    evaluate,
    summarize_adherence,
)
from vcm.research.report.model_card import write_model_card
from vcm.weights.checkpoint import LoadedModel, save_model, write_sums
from vcm.weights.segmenter import save_segmenter

PLAN = EvaluationPlan(
    subjects=2, uncontrolled=4, num_inference_steps=2, modality_subjects=1, regressor_subjects=2, regressor_steps=2
)


def build_segmenter(seed: int = 0) -> Segmenter:
    segmenter = Segmenter(SegmenterConfig(init_filters=8, blocks_down=(1,), blocks_up=()))
    randomize(segmenter, seed)
    return segmenter.eval()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """The tiny model on the grid of the simulated subjects."""
    return build_tiny_model(Grid(simulate.SHAPE, simulate.AFFINE))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, model.config, model.backbone, model.adapter)
    save_segmenter(build_segmenter(), folder)
    write_sums(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def measured(pipeline, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A whole evaluation of the tiny model: its folder and its results."""
    out = tmp_path_factory.mktemp("evaluation")
    return out, evaluate(pipeline, out, PLAN)


def all_estimates(part: Any) -> list[dict]:
    if isinstance(part, dict) and "interval" in part:
        return [part]
    return [found for value in part.values() for found in all_estimates(value)] if isinstance(part, dict) else []


def test_an_evaluation_is_written_as_it_is_returned(measured, pipeline):
    out, results = measured
    assert json.loads((out / RESULTS_FILE).read_text()) == results
    assert list(results["sections"]) == ["autoencoder", "adherence", "priors", "modalities"]
    assert results["weights"] == pipeline.environment.weights
    assert results["precision"] == "float32"
    assert results["plan"]["subjects"] == 2
    estimates = all_estimates(results["sections"])
    assert len(estimates) > 25
    for estimate in estimates:
        assert estimate.keys() == {"value", "interval", "count"}


def test_the_subjects_are_the_first_test_subjects_that_have_a_tumor(measured):
    _, results = measured
    rows = results["sections"]["adherence"]["subjects"]
    # The subject between them has none.
    assert [row["seed"] for row in rows] == [200_000, 200_002]
    for row in rows:
        assert row["drawn_ml"] > 0
        assert 0 <= row["change_outside"] < 1
    adherence = results["sections"]["adherence"]
    assert adherence["change_outside"]["value"] == pytest.approx(np.mean([row["change_outside"] for row in rows]))
    assert sum(size["count"] for size in adherence["by_size"].values()) == 2


def test_what_is_asked_of_the_prior_is_what_the_subjects_covariates_stand_for(measured, pipeline):
    _, results = measured
    asked = results["sections"]["priors"]["asked"]["brain_ml"]
    assert len(asked) == PLAN.uncontrolled
    low, high = pipeline.config.covariates.brain_ml
    first = simulate.simulate_subject(PLAN.first_seed + 10_000, contrasts=(), with_tumor=False)
    assert asked[0] == pytest.approx(low + first.covariates.brain_volume * (high - low))


def test_the_model_card_is_rendered_from_a_real_evaluation(measured, folder):
    card = write_model_card(folder, measured[1]).read_text()
    psnr = measured[1]["sections"]["autoencoder"]["psnr_whole_db"]["value"]
    assert f"{psnr:.2f} dB" in card
    assert "## The conditions, alone and together" in card
    assert "| tumor + anatomy |" in card
    assert "**not reached**" in card  # random weights reach little
    assert "vcm evaluate --model tiny --out evaluation --subjects 2 --uncontrolled 4 --modality-subjects 1" in card


def test_sections_of_the_same_model_are_kept_and_of_any_other_are_measured_again(
    measured, pipeline, model, monkeypatch, tmp_path
):
    _, results = measured

    class MeasuredAgainError(Exception):
        pass

    def refuse(*_: Any, **__: Any) -> None:
        raise MeasuredAgainError

    monkeypatch.setattr(simulate, "simulate_subjects", refuse)

    def resume(pipeline: Pipeline, plan: EvaluationPlan = PLAN, resume: bool = True) -> dict[str, Any]:
        (tmp_path / RESULTS_FILE).write_text(json.dumps(results))
        return evaluate(pipeline, tmp_path, plan, resume=resume)

    assert resume(pipeline) == results
    other_weights = Pipeline(
        LoadedModel(model.config, model.backbone, model.adapter, {"vcm.safetensors": "0" * 64}),
        segmenter=pipeline.segmenter,
    )
    other_segmenter = Pipeline(
        LoadedModel(model.config, model.backbone, model.adapter, dict(results["weights"])),
        segmenter=build_segmenter(seed=1),
    )
    for changed in (other_weights, other_segmenter):
        with pytest.raises(MeasuredAgainError):
            resume(changed)
    with pytest.raises(MeasuredAgainError):
        resume(pipeline, EvaluationPlan(subjects=2, uncontrolled=4, num_inference_steps=3))
    with pytest.raises(MeasuredAgainError):
        resume(pipeline, resume=False)


def test_an_interrupted_evaluation_measures_only_what_is_missing(measured, pipeline, tmp_path, monkeypatch):
    _, results = measured
    kept = {"autoencoder": {"mark": 1}, "adherence": {"mark": 2}}
    (tmp_path / RESULTS_FILE).write_text(json.dumps({**results, "sections": kept}))
    monkeypatch.setattr("vcm.research.evaluate.evaluate._measure_uncontrolled", lambda *_: {"mark": 3})
    monkeypatch.setattr("vcm.research.evaluate.evaluate._measure_modalities", lambda *_: {"mark": 4})
    resumed = evaluate(pipeline, tmp_path, PLAN, resume=True)
    assert resumed["sections"] == {**kept, "priors": {"mark": 3}, "modalities": {"mark": 4}}
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == resumed


@pytest.mark.parametrize("seed", [0, 99_999, 100_000, 199_999])
def test_seeds_of_training_and_validation_are_refused(seed):
    with pytest.raises(ValueError, match=f"first_seed is {seed}; evaluation needs seeds from 200000 on"):
        EvaluationPlan(first_seed=seed)


def test_a_model_without_a_segmenter_or_on_another_grid_is_refused(model, tiny_model, tmp_path):
    with pytest.raises(ValueError, match="no segmenter"):
        evaluate(Pipeline(model), tmp_path)
    with pytest.raises(ValueError, match="simulated cohort's grid"):
        evaluate(Pipeline(tiny_model, segmenter=build_segmenter()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_request_asks_for_the_subjects_own_covariates_and_noise():
    subject = simulate.simulate_subject(200_000, contrasts=())
    request = build_request(subject, {}, PLAN, compare=False)
    assert request.seed == 200_000
    assert request.num_inference_steps == 2
    assert request.sex == ("male" if subject.covariates.sex else "female")
    assert request.age == pytest.approx(44 + 38 * subject.covariates.age)
    assert request.ventricular_volume == subject.covariates.ventricular_volume
    assert not request.compare


def make_row(diameter_mm: float, found: float, ceiling: float, **others: Any) -> dict[str, Any]:
    return {
        "diameter_mm": diameter_mm,
        "drawn_ml": diameter_mm,
        "found_ml": diameter_mm / 2,
        "dice": {"whole": found, "core": None, "enhancing": found / 2},
        "ceiling": {"whole": ceiling, "core": None, "enhancing": ceiling},
        "floor": 0.0,
        "dice_with_anatomy": found,
        "ventricles": 0.9,
        "ventricles_ceiling": 0.95,
        "change_outside": 0.01,
        "change_inside": 0.2,
    } | others


def test_small_lesions_do_not_count_for_the_dice_but_for_the_sizes_and_for_preservation():
    rows = [
        make_row(11.9, 0.1, 0.2, change_outside=0.04),
        make_row(12.0, 0.6, 0.8),
        make_row(40.0, 0.9, 1.0, floor=0.3),
    ]
    figures = summarize_adherence(rows)
    assert figures["whole_tumor_dice"]["value"] == pytest.approx(0.75)
    assert figures["whole_tumor_dice"]["count"] == 2
    assert figures["whole_tumor_ceiling"]["value"] == pytest.approx(0.9)
    assert figures["share_of_ceiling"]["value"] == pytest.approx(0.75 / 0.9)
    assert figures["whole_tumor_floor"]["value"] == pytest.approx(0.15)
    assert figures["enhancing_dice"]["value"] == pytest.approx(0.375)
    assert figures["tumor_core_dice"] == {"value": None, "interval": None, "count": 0}
    assert figures["change_outside"]["value"] == pytest.approx(0.02)
    assert figures["volume"]["slope"]["value"] == pytest.approx(0.5)
    assert figures["volume"]["correlation"]["value"] == pytest.approx(1.0)


def test_every_lesion_falls_into_one_size_and_a_border_into_the_larger():
    sizes = summarize_adherence([make_row(diameter, diameter / 100, 1.0) for diameter in (5, 12, 23.9, 24, 36, 60)])
    assert {name: size["count"] for name, size in sizes["by_size"].items()} == {
        "0 to 12 mm": 1,
        "12 to 24 mm": 2,
        "24 to 36 mm": 1,
        "36 mm and more": 2,
    }
    assert sizes["by_size"]["36 mm and more"]["value"] == pytest.approx(0.48)
    assert len(SIZE_EDGES_MM) == 5


def test_a_segmenter_that_finds_nothing_gives_no_share_and_no_error():
    figures = summarize_adherence([make_row(20.0, 0.0, 0.0), make_row(30.0, 0.0, 0.0)])
    assert figures["share_of_ceiling"]["value"] is None
    assert figures["whole_tumor_dice"]["value"] == 0.0
