"""The table of all conditions: which combinations there are, and that each row is what it says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity
from tiny import ALL_CHANNELS, build_tiny_model, randomize

from vcm.data import simulate
from vcm.metrics import psnr, ssim
from vcm.modalities.adherence import TUMOR_REGIONS
from vcm.model.config import Grid
from vcm.model.segmenter import Segmenter, SegmenterConfig
from vcm.pipeline import Pipeline
from vcm.research.evaluate.evaluate import EvaluationPlan, build_request
from vcm.research.evaluate.modalities import (
    interpolate_slices,
    list_combinations,
    measure_modalities,
    tabulate,
    thicken,
)
from vcm.research.evaluate.regressor import train_regressor


def test_each_condition_stands_alone_with_the_tumor_and_with_all_others():
    assert list_combinations(("tumor", "anatomy", "t2")) == [
        ("tumor",), ("anatomy",), ("t2",), ("tumor", "anatomy"), ("tumor", "t2"), ("tumor", "anatomy", "t2"),
    ]  # fmt: skip
    combinations = list_combinations(tuple(ALL_CHANNELS))
    assert len(combinations) == 6 + 5 + 1 + 1
    assert ("t2", "flair") in combinations
    assert list_combinations(("semantic",)) == []
    assert list_combinations(("tumor", "anatomy"))[-1] == ("tumor", "anatomy")


def test_similarity_is_what_others_compute():
    random = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(random.random((20, 22, 24)), 1)
    found = truth + 0.05 * random.random(truth.shape)
    _, full = structural_similarity(truth, found, data_range=1.0, win_size=7, full=True)
    where = np.zeros(truth.shape, bool)
    where[5:-5, 5:-5, 5:-5] = True
    assert ssim(found, truth, where) == pytest.approx(full[where].mean(), abs=1e-6)
    assert ssim(truth, truth, where) == pytest.approx(1.0)


def test_thick_slices_are_interpolated_to_where_they_lie():
    heights = np.broadcast_to(np.arange(80, dtype=np.float32), (4, 4, 80))
    slices = thicken(heights, 3)
    assert slices.array.shape == (4, 4, 26)
    assert slices.affine[2, 2] == 6
    first_slice = simulate.AFFINE @ [0, 0, 1, 1]
    np.testing.assert_allclose(slices.affine[:3, 3], first_slice[:3])
    for order in (1, 3):
        made = interpolate_slices(slices.array, 3, 80, order)
        np.testing.assert_allclose(made[:, :, 12:66], heights[:, :, 12:66], atol=0.02)
    nearest = interpolate_slices(slices.array, 3, 80, 0)
    np.testing.assert_array_equal(nearest[:, :, :78], np.repeat(slices.array, 3, axis=2))


def test_every_row_is_measured_and_the_truth_is_the_best_of_them():
    pipeline = Pipeline(build_tiny_model(Grid(simulate.SHAPE, simulate.AFFINE), ALL_CHANNELS))
    segmenter = Segmenter(SegmenterConfig(init_filters=8, blocks_down=(1,), blocks_up=()))
    randomize(segmenter, 0)
    pipeline.segmenter = segmenter.eval()
    subject = simulate.simulate_subject(200_000)
    assert "whole" in TUMOR_REGIONS
    plan = EvaluationPlan(num_inference_steps=1)

    def build(subject, conditions, fill):
        return replace(build_request(subject, conditions, plan, compare=False), fill=fill)

    combinations = [("lowres",), ("tumor", "partial"), tuple(ALL_CHANNELS)]
    regressors = {("t2", "flair"): lambda images: images["t1"].astype(np.float32) + 0.01}
    section = measure_modalities(pipeline, [subject], build, combinations, regressors)
    rows = section["rows"]
    assert list(rows) == [
        "the subject's own T1 (ceiling of Dice)",
        "autoencoder's round trip (ceiling)",
        *(
            f"slices of {thickness} mm, {name} interpolation"
            for thickness in (4, 6, 8)
            for name in ("nearest", "linear", "cubic")
        ),
        "t2 + flair, U-Net regressor",
        "no condition (floor)",
        *(f"lowres, {mm} mm{enforced}" for mm in (4, 6, 8) for enforced in ("", ", means of the slices not enforced")),
        "tumor + partial",
        " + ".join(ALL_CHANNELS),
    ]

    def figure(row, name):
        return rows[row][name]["value"]

    assert figure("the subject's own T1 (ceiling of Dice)", "psnr_db") is None
    # Whatever this model of random weights makes: thick slices bring it nearer, and outside a hole a scan is the truth.
    for row in ("lowres, 4 mm", "lowres, 6 mm", "lowres, 8 mm"):
        assert figure(row, "psnr_db") > figure(f"{row}, means of the slices not enforced", "psnr_db") + 2
    assert figure("tumor + partial", "psnr_db") > figure("no condition (floor)", "psnr_db") + 5
    assert figure("tumor + partial", "hole_psnr_db") < figure("tumor + partial", "psnr_db")
    assert figure("t2 + flair, U-Net regressor", "psnr_db") == pytest.approx(40, abs=0.5)
    linear, nearest = (figure(f"slices of 6 mm, {name} interpolation", "psnr_db") for name in ("linear", "nearest"))
    assert linear > nearest > 15
    gain = section["gains"]["lowres, 8 mm"]
    over_cubic = figure("lowres, 8 mm", "psnr_db") - figure("slices of 8 mm, cubic interpolation", "psnr_db")
    assert gain["value"] == pytest.approx(over_cubic)
    assert gain["count"] == 1
    assert "t2 + flair" not in section["gains"], "its row was not asked for"
    table = list(tabulate(section))
    assert len(table) == 1 + len(rows)
    assert len({len(cells) for cells in table}) == 1


def test_a_regressor_learns_one_contrast_from_another(tmp_path):
    translate = train_regressor(("t2",), subjects=2, steps=80, cache=tmp_path)
    subject = simulate.simulate_subject(200_000, ("t1", "t2"))
    truth = subject.images["t1"].astype(np.float32)
    made = translate(subject.images)
    assert made.shape == truth.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert np.corrcoef(made.ravel(), truth.ravel())[0, 1] > 0.8
    assert psnr(made, truth) > psnr(subject.images["t2"].astype(np.float32), truth) + 0.5
