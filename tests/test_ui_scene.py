"""The 3-D view's Python half: a small gzipped figure, with or without a segmenter."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vcm.request import GenerationResult
from vcm.ui.palette import Palette
from vcm.ui.scene.scene import publish_scene
from vcm.volume import Volume

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
TUMOR = Palette("tumor", ("necrotic core", "edema", "enhancing tumor"), ("#ef476f", "#ffd166", "#4cc9f0"))


def ball(radius: float) -> np.ndarray:
    return np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0) < radius


@pytest.fixture
def result() -> GenerationResult:
    tumor = Volume((ball(5) * 2).astype(np.uint8), AFFINE)
    head = Volume((ball(15) * 0.6 + ball(2) * 0.1).astype(np.float32), AFFINE)
    return GenerationResult(head, None, {"tumor": tumor}, {})


def read_figure(result: GenerationResult, folder: Path, palette: Palette = TUMOR) -> dict:
    data = publish_scene(result, palette, folder)
    packed = Path(data.figure.path).read_bytes()
    assert len(packed) < 1_500_000
    return json.loads(gzip.decompress(packed))


def names(figure: dict) -> list[str]:
    return [trace["name"] for trace in figure["data"] if trace["type"] == "mesh3d"]


def test_without_a_segmenter_the_brain_is_that_of_the_volume(result, tmp_path):
    assert names(read_figure(result, tmp_path)) == ["Drawn edema", "Brain"]


def test_with_a_segmenter_the_generated_tumor_joins(result, tmp_path):
    found = {
        "tumor": Volume((ball(4) * 2).astype(np.uint8), AFFINE),
        "anatomy": Volume(((ball(12) & ~ball(4)) * 3).astype(np.uint8), AFFINE),
    }
    figure = read_figure(replace(result, segmentation=found), tmp_path)
    assert set(names(figure)) == {"Drawn edema", "Generated tumor", "Brain"}


def test_a_segmenter_that_finds_no_brain_is_no_obstacle(result, tmp_path):
    found = {name: Volume(np.zeros((40, 40, 40), np.uint8), AFFINE) for name in ("tumor", "anatomy")}
    assert "Brain" in names(read_figure(replace(result, segmentation=found), tmp_path))


def test_a_volume_without_a_condition_is_a_brain(result, tmp_path):
    assert names(read_figure(replace(result, conditions={}), tmp_path)) == ["Brain"]


def test_other_modalities_are_drawn_label_by_label(result, tmp_path):
    labels = Volume((ball(5) * 2).astype(np.uint8), AFFINE)
    palette = Palette("semantic", ("label 1", "label 2"), ("#e69f00", "#56b4e9"))
    figure = read_figure(replace(result, conditions={"semantic": labels}), tmp_path, palette)
    assert names(figure) == ["label 2", "Brain"]


def test_the_same_result_is_published_once(result, tmp_path):
    first, again = (publish_scene(result, TUMOR, tmp_path).figure.path for _ in range(2))
    assert first == again
