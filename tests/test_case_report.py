"""A mask of one's own: a page says how well it is followed, from figures that are measured, and needs no other file."""

import json
import re

import numpy as np
import pytest
from own_subjects import MOVED
from test_explore import Judge

from vcm.cli import main
from vcm.data import simulate
from vcm.errors import VolumeError
from vcm.pipeline import Pipeline
from vcm.research.report.case_report import follow_case, measure_case, place_with_scan, write_case
from vcm.volume import Volume
from vcm.weights.calibration import Calibration, Lesion
from vcm.weights.checkpoint import LoadedModel


@pytest.fixture
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model, segmenter=Judge())


@pytest.fixture
def mask(pipeline) -> Volume:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    labels[4:6, 6:9, 5:8] = 1
    return Volume(labels, pipeline.grid.affine)


def test_every_brain_is_measured_and_the_first_without_the_mask_as_well(pipeline, mask):
    told = []
    case = follow_case(
        pipeline, mask, seeds=3, first_seed=7, tell=lambda *steps: told.append(steps), num_inference_steps=2
    )
    assert told[-1] == (6, 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    figures = measure_case(case)
    assert [brain["seed"] for brain in figures["brains"]] == [7, 8, 9]
    assert figures["drawn_ml"]["whole"] == pytest.approx(5 * 7 * 5 * 8 / 1000)
    assert figures["drawn_ml"]["enhancing"] == 0
    for brain, result in zip(figures["brains"], case.results, strict=True):
        assert brain["dice"]["whole"] == result.adherence["tumor"]["controlled"]["dice"]["whole"]
        assert brain["dice"]["enhancing"] is None  # not drawn
    assert figures["floor"]["whole"] == case.results[0].adherence["tumor"]["uncontrolled"]["dice"]["whole"]
    assert [result.uncontrolled is None for result in case.results] == [False, True, True]
    assert figures["diameter_mm"] == pytest.approx((6 * 5 * 7 * 5 / np.pi) ** (1 / 3) * 2)


def test_what_to_expect_is_the_mean_of_the_models_test_lesions_of_that_size(pipeline, mask):
    case = follow_case(pipeline, mask, seeds=1, num_inference_steps=1)  # 1.4 ml
    lesions = [(1.0, 0.4), (2.0, 0.6), (0.5, 0.1), (9.0, 0.9)]
    calibration = Calibration(tuple(Lesion(drawn, drawn, 10.0, dice) for drawn, dice in lesions))
    assert measure_case(case, calibration)["expected"] == {"lesions": 2, "dice": pytest.approx(0.5)}
    assert measure_case(case, Calibration((Lesion(9.0, 9.0, 20.0, 0.9),)))["expected"] is None


def test_the_page_needs_no_other_file_and_holds_the_figures(pipeline, mask, tmp_path):
    noted = Volume(mask.array, mask.affine, ("Something was <assumed>.",))
    case = follow_case(pipeline, noted, seeds=2, num_inference_steps=1)
    page, numbers = write_case(case, tmp_path)
    text = page.read_text()
    assert not re.findall(r"https?://", text)
    assert text.count("<figure>") == 1 + 2 * 2
    assert text.count("data:image/webp;base64,") == 5
    assert "Something was &lt;assumed&gt;." in text
    figures = json.loads(numbers.read_text())
    for brain in figures["brains"]:
        assert f"<td>{brain['dice']['whole']:.2f}</td>" in text
    assert "not drawn" in text
    assert "in 2 brains" in text
    assert "never for a diagnosis" in text


def test_a_model_that_can_follow_or_measure_no_tumor_is_told(pipeline, mask, tiny_model):
    with pytest.raises(ValueError, match="has no segmenter"):
        follow_case(Pipeline(tiny_model), mask)
    with pytest.raises(ValueError, match="seeds is 0"):
        follow_case(pipeline, mask, seeds=0)
    with pytest.raises(ValueError, match="The last seed would be 4294967296; it must be at most 4294967295"):
        follow_case(pipeline, mask, seeds=2, first_seed=2**32 - 1)


def test_a_mask_without_a_tumor_on_the_grid_is_refused_before_anything_is_generated(pipeline, mask):
    with pytest.raises(VolumeError, match="There is no tumor in the mask"):
        follow_case(pipeline, Volume(np.zeros_like(mask.array), mask.affine))


def test_a_mask_goes_where_its_scan_goes():
    subject = simulate.simulate_subject(200_005, ("t1",))
    scan, mask = (Volume(array, MOVED @ simulate.AFFINE) for array in (subject.images["t1"], subject.tumor))
    placed, moved_mm = place_with_scan(mask, scan)
    assert moved_mm > 30
    assert np.prod(placed.spacing_mm) == pytest.approx(simulate.SPACING_MM**3)  # of a large head, too
    back = placed.to_grid(simulate.SHAPE, simulate.AFFINE, labels=True).array
    centers = [np.argwhere(labels > 0).mean(axis=0) * simulate.SPACING_MM for labels in (back, subject.tumor)]
    assert np.linalg.norm(centers[0] - centers[1]) < 8
    near, there_mm = place_with_scan(
        Volume(subject.tumor, simulate.AFFINE), Volume(subject.images["t1"], simulate.AFFINE)
    )
    assert there_mm == 0
    np.testing.assert_array_equal(near.affine, simulate.AFFINE)
    with pytest.raises(VolumeError):
        place_with_scan(Volume(subject.tumor, np.diag([2.0, 2, 2, 1]) + 900 * np.eye(4)[[3, 3, 3, 3]]), scan)


def test_the_command_refuses_a_mask_in_one_line_and_leaves_nothing(tiny_folder, tmp_path, capsys):
    (tmp_path / "text.nii.gz").write_text("no mask")
    arguments = ["case", tmp_path / "text.nii.gz", "--out", tmp_path / "out", "--model", tiny_folder]
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith("vcm: This is not a NIfTI file")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
