"""The pictures: what stands where, that a colored mark lands on its place, and that the files stay small."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import build_tiny_model

from vcm.data import simulate
from vcm.modalities.registry import MODALITIES
from vcm.model.config import Grid
from vcm.pipeline import Pipeline
from vcm.research.report.figures import COHORT_SEEDS, draw_cohort, draw_samples

MARGIN, LEGEND = 72, 80  # pixels at the left of a sheet and at its bottom
ROW = 2 * simulate.SHAPE[1]
ASSETS = Path(__file__).parent.parent / "assets"


def read_picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count_pixels_near(picture: np.ndarray, color: str) -> int:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - rgb).max(-1) < 24).sum())


@pytest.fixture(scope="module")
def cohort_picture(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    # The first has a tumor of all three labels, the second has none.
    path = tmp_path_factory.mktemp("figures") / "cohort.png"
    assert draw_cohort(path, seeds=[200_000, 200_001], workers=1) == path
    return read_picture(path)


def test_a_cohort_picture_shows_three_gray_contrasts_and_colored_labels(cohort_picture):
    height = len(cohort_picture)
    top = height - LEGEND - 4 * ROW
    coloredness = []
    for number in range(4):
        pixels = cohort_picture[top + number * ROW : top + (number + 1) * ROW, MARGIN:]
        assert (pixels.max(-1) > 100).mean() > 0.05
        coloredness.append((np.ptp(pixels, axis=-1) > 24).mean())
    assert max(coloredness[:3]) < 0.005
    assert coloredness[3] > 0.1


def test_the_tumors_colors_appear_for_the_subject_that_has_one(cohort_picture):
    drawing = cohort_picture[:-LEGEND]
    left, right = np.array_split(drawing, 2, axis=1)
    for color in MODALITIES["tumor"].colors:
        assert count_pixels_near(left, color) > 0
    assert count_pixels_near(right, MODALITIES["tumor"].colors[0]) == 0


def test_the_left_of_the_subject_is_on_the_right_of_its_axial_picture(tmp_path, monkeypatch):
    subject = simulate.simulate_subject(200_000)
    subject.tumor[:] = 0
    subject.tumor[20:24, 54:58, 38:42] = simulate.NECROTIC_CORE  # a low X is the subject's left
    monkeypatch.setattr(simulate, "simulate_subjects", lambda *_, **__: iter([subject]))
    picture = read_picture(draw_cohort(tmp_path / "left.png", seeds=[200_000]))
    axial_labels = picture[-LEGEND - ROW : -LEGEND, MARGIN : MARGIN + 2 * simulate.SHAPE[0]]
    rgb = [int(MODALITIES["tumor"].colors[0][i : i + 2], 16) for i in (1, 3, 5)]
    columns = np.nonzero((np.abs(axial_labels - rgb).max(-1) < 24).any(0))[0]
    assert columns.size
    assert columns.mean() > simulate.SHAPE[0] + 20


def test_samples_show_the_same_noise_without_and_with_the_tumor_and_their_difference(tmp_path):
    pipeline = Pipeline(build_tiny_model(Grid(simulate.SHAPE, simulate.AFFINE)))
    picture = read_picture(draw_samples(pipeline, tmp_path / "samples.png", count=1, num_inference_steps=2))
    rows = picture[-LEGEND - 4 * ROW : -LEGEND, MARGIN:]
    simulated, uncontrolled, controlled, difference = np.split(rows, 4)
    outlined = [
        sum(count_pixels_near(row, color) for color in MODALITIES["tumor"].colors)
        for row in (simulated, uncontrolled, controlled)
    ]
    assert outlined[1] > 0
    assert outlined[0] == outlined[2] == 0
    assert (controlled != uncontrolled).any()
    assert difference.max() > 0


def test_the_shipped_cohort_picture_is_of_twelve_test_subjects_and_below_its_size_limit():
    assert len(COHORT_SEEDS) == 12
    assert min(COHORT_SEEDS) >= simulate.FIRST_TEST_SEED
    shipped = ASSETS / "cohort.png"
    assert shipped.stat().st_size < 1_200_000
    assert Image.open(shipped).width > 1000
