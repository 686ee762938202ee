"""The segmenter: what it returns, that it comes back from disk as it went, and what it refuses to be loaded from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import randomize

from vcm.model.segmenter import NUM_ANATOMY_CLASSES, NUM_TUMOR_CLASSES, Segmenter, SegmenterConfig
from vcm.runtime.precision import autocast
from vcm.weights.checkpoint import SEGMENTER_FILE, SUMS_FILE, CheckpointError, write_sums
from vcm.weights.segmenter import SEGMENTER_CONFIG_FILE, load_segmenter, save_segmenter

CONFIG = SegmenterConfig(init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
SHAPE = (16, 24, 16)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """Random weights, rounded as they are when they are saved."""
    segmenter = Segmenter(CONFIG)
    randomize(segmenter, 0)
    for parameter in segmenter.parameters():
        parameter.data = parameter.data.half().float()
    return segmenter.eval()


@pytest.fixture
def folder(segmenter, tmp_path) -> Path:
    save_segmenter(segmenter, tmp_path)
    write_sums(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE, dtype=np.float32)


def test_labels_are_the_most_likely_classes_and_anatomy_is_empty_under_the_tumor(segmenter, volume):
    tumor, anatomy = segmenter.segment(volume)
    with torch.no_grad(), autocast("cpu"):
        image = torch.from_numpy(volume)[None, None].contiguous(memory_format=torch.channels_last_3d)
        tumor_logits, anatomy_logits = segmenter(image)
    assert tumor_logits.shape == (1, NUM_TUMOR_CLASSES, *SHAPE)
    assert anatomy_logits.shape == (1, NUM_ANATOMY_CLASSES, *SHAPE)
    np.testing.assert_array_equal(tumor, tumor_logits[0].float().numpy().argmax(0))
    expected = np.where(tumor > 0, 0, anatomy_logits[0].float().numpy().argmax(0))
    np.testing.assert_array_equal(anatomy, expected)
    assert tumor.dtype == anatomy.dtype == np.uint8
    assert tumor.any()
    assert anatomy.any()
    assert (tumor == 0).any()


def test_a_volume_in_any_memory_order_and_type_gives_the_same_labels(segmenter, volume):
    expected = segmenter.segment(volume)
    for other in (np.asfortranarray(volume), volume.astype(np.float64), volume[::-1].copy()[::-1]):
        for labels, same in zip(segmenter.segment(other), expected, strict=True):
            np.testing.assert_array_equal(labels, same)


def test_a_description_is_one_vector_that_tells_volumes_apart(segmenter, volume):
    described = segmenter.describe(volume)
    assert described.shape == (16,)  # the filters double with every stage
    assert described.dtype == np.float32
    np.testing.assert_array_equal(described, segmenter.describe(volume))
    assert np.abs(described - segmenter.describe(volume**2)).max() > 1e-3


def test_a_saved_segmenter_comes_back_with_its_sizes_and_its_labels(segmenter, folder, volume):
    loaded = load_segmenter(folder)
    assert loaded.config == CONFIG
    assert not loaded.training
    for labels, same in zip(loaded.segment(volume), segmenter.segment(volume), strict=True):
        np.testing.assert_array_equal(labels, same)


def test_the_shipped_sizes_fit_the_model_grid():
    labels, _ = Segmenter(SegmenterConfig()).eval().segment(np.zeros((80, 112, 80), np.float32))
    assert labels.shape == (80, 112, 80)


@pytest.mark.parametrize("name", [SEGMENTER_CONFIG_FILE, SEGMENTER_FILE])
def test_a_damaged_file_is_refused_in_a_sentence_that_names_it_without_its_folder(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged or was changed") as caught:
        load_segmenter(folder)
    assert str(folder) not in str(caught.value)


@pytest.mark.parametrize("name", [SEGMENTER_CONFIG_FILE, SEGMENTER_FILE, SUMS_FILE])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_segmenter(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"init_filters": "eight"}',
        '{"init_filters": 0}',
        '{"init_filters": 12}',
        '{"init_filters": 100000}',
        '{"blocks_down": 3}',
        '{"blocks_down": [1, 1], "blocks_up": [1, 1]}',
        '{"filters": 8}',
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(folder, content):
    (folder / SEGMENTER_CONFIG_FILE).write_text(content)
    write_sums(folder)
    with pytest.raises(CheckpointError, match=r"segmenter\.json cannot be used"):
        load_segmenter(folder)


def test_weights_of_other_sizes_are_refused(folder):
    values = json.loads((folder / SEGMENTER_CONFIG_FILE).read_text())
    (folder / SEGMENTER_CONFIG_FILE).write_text(json.dumps(values | {"init_filters": 16}))
    write_sums(folder)
    with pytest.raises(CheckpointError, match=r"segmenter\.safetensors has the shape"):
        load_segmenter(folder)
