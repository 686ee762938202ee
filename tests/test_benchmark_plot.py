"""The picture of the benchmark: every solver in its color, and a half for each quality that was measured."""

from pathlib import Path

import numpy as np
import pytest
from measured import build_results, estimate
from PIL import Image

from vcm.modalities.registry import MODALITIES
from vcm.research.benchmark.plot import draw_benchmark
from vcm.sampler.solvers import SOLVERS


def read_picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count_pixels_of(picture: np.ndarray, color: str) -> int:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - rgb).max(-1) < 24).sum())


def test_every_solver_is_drawn_in_its_color_in_both_halves(tmp_path):
    path = tmp_path / "benchmark.png"
    assert draw_benchmark(build_results(), path) == path
    picture = read_picture(path)
    plots = picture[len(picture) // 6 :]  # the legend above has every color, too
    for half in np.array_split(plots, 2, axis=1):
        for color in MODALITIES["tumor"].colors:
            assert count_pixels_of(half, color) > 200
    assert (picture[0] == 0).all()
    assert path.stat().st_size < 300_000


def test_a_solver_that_was_not_measured_is_not_drawn(tmp_path):
    results = build_results()
    del results["quality"]["loops"]["dpmpp 20"]
    picture = read_picture(draw_benchmark(results, tmp_path / "benchmark.png"))
    colors = dict(zip(SOLVERS, reversed(MODALITIES["tumor"].colors), strict=True))
    drawn = {solver: count_pixels_of(picture, color) > 0 for solver, color in colors.items()}
    assert drawn == {solver: solver != "dpmpp" for solver in SOLVERS}


def test_without_adherence_there_is_one_half_and_without_any_quality_none(tmp_path):
    results = build_results()
    both = read_picture(draw_benchmark(results, tmp_path / "both.png"))
    for row in results["quality"]["loops"].values():
        row["dice"] = estimate(None)
    one = read_picture(draw_benchmark(results, tmp_path / "one.png"))
    assert one.shape[1] * 2 == both.shape[1]
    for row in results["quality"]["loops"].values():
        row["distance"] = estimate(None)
    with pytest.raises(ValueError, match="no quality to draw"):
        draw_benchmark(results, tmp_path / "none.png")
