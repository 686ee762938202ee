"""Tiny models and golden numbers that the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from tiny import ALL_CHANNELS, GOLDEN, build_tiny_config, build_tiny_model
from torch import Tensor, nn

from vcm.model.config import ModelConfig
from vcm.pipeline import Pipeline
from vcm.weights.checkpoint import LoadedModel, load_reference, save_model

if TYPE_CHECKING:
    import gradio as gr

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of several processes that share the cores wait for each other: one each is faster by far.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """The configuration of `tiny_model`."""
    return build_tiny_config()


@pytest.fixture(scope="session")
def tiny_model() -> LoadedModel:
    """A tiny model with random weights, shared: tests that change one build their own."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_folder(tiny_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that holds the tiny model, shared: tests that change one copy it first."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, tiny_model.config, tiny_model.backbone, tiny_model.adapter)
    return folder


@pytest.fixture(scope="session")
def image_model() -> LoadedModel:
    """A tiny model with random weights that takes every condition of the embedded one, shared."""
    return build_tiny_model(channels=ALL_CHANNELS)


@pytest.fixture(scope="session")
def image_folder(image_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that holds `image_model`, shared."""
    folder = tmp_path_factory.mktemp("models") / "images"
    save_model(folder, image_model.config, image_model.backbone, image_model.adapter)
    return folder


@pytest.fixture
def tiny_conditions(tiny_config: ModelConfig) -> dict[str, Tensor]:
    """A batch of two random one-hot conditions of the tiny model."""
    generator = torch.Generator().manual_seed(4)
    conditions = {}
    for name, channels in tiny_config.adapter.condition_channels.items():
        labels = torch.randint(channels + 1, (2, *tiny_config.grid.shape), generator=generator)
        one_hot = nn.functional.one_hot(labels, channels + 1)[..., 1:]
        conditions[name] = one_hot.movedim(-1, 1).float()
    return conditions


@pytest.fixture(scope="session")
def reference() -> LoadedModel:
    """The published code's small random networks, read from its own file layout."""
    return load_reference(GOLDEN)


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """What the published code computed with the networks of `reference`."""
    return load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(scope="module")
def app(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    """The app without examples, served, on the `pipeline` of a module of tests."""
    from vcm.ui.app import build_app, launch_options  # Gradio takes seconds that most tests need not wait

    blocks = build_app(pipeline, tmp_path_factory.mktemp("no-examples"))
    blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    yield blocks
    blocks.close(verbose=False)
