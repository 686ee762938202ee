"""VCMs on their own: saved, read, shared on the hub, and put in front of a backbone."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stand_in import HubStandIn, serve_hub, turn_to
from small_bundle import build_small_config, build_small_model
from tiny import build_tiny_model, randomize

from vcm import VCM
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import CheckpointError, LoadedModel
from vcm.weights.share import load_vcm, push_vcm, save_vcm


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with serve_hub() as hub:
        turn_to(hub, monkeypatch, tmp_path / "hub")
        yield hub


@pytest.fixture
def vcm() -> VCM:
    """A VCM for the tiny backbone, other than the one in its folder."""
    adapter = build_tiny_model().adapter
    randomize(adapter, seed=17)
    return adapter


def assert_same(first: VCM, second: VCM) -> None:
    assert first.config == second.config
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def refusal(where: str | Path, model: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_vcm(where) if model is None else Pipeline.from_pretrained(model, "cpu", vcm_weights=where)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "/tmp" not in message
    return message


def test_what_is_saved_comes_back_in_full_precision(vcm: VCM, tmp_path: Path) -> None:
    folder = save_vcm(vcm, tmp_path / "mine")
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    loaded = load_vcm(folder)
    assert_same(vcm, loaded)
    assert not loaded.training


def test_the_vcm_of_a_trained_model_can_be_taken_out_of_its_folder(tiny_folder: Path, tmp_path: Path) -> None:
    own = Pipeline.from_pretrained(tiny_folder, "cpu").adapter
    assert_same(own, load_vcm(save_vcm(load_vcm(tiny_folder), tmp_path / "taken")))
    folder = shutil.copytree(tiny_folder, tmp_path / "damaged")
    (folder / "vcm.safetensors").write_bytes((folder / "vcm.safetensors").read_bytes()[:-1] + b"x")
    assert "vcm.safetensors is damaged" in refusal(folder)


def test_a_card_says_what_the_vcm_takes_and_one_of_the_users_own_is_kept(vcm: VCM, tmp_path: Path) -> None:
    card = save_vcm(vcm, tmp_path) / "README.md"
    assert "`tumor`, 3 channels" in card.read_text()
    assert "4 latent channels at 1/4" in card.read_text()
    card.write_text("My own.")
    save_vcm(vcm, tmp_path)
    assert card.read_text() == "My own."


def test_what_is_pushed_to_the_hub_comes_back_from_there(vcm: VCM, hub: HubStandIn) -> None:
    assert push_vcm(vcm, "lab/tumors").endswith("lab/tumors")
    assert {name.rsplit("/")[-1] for name in hub.files} == {"README.md", "config.json", "model.safetensors"}
    assert_same(vcm, load_vcm("lab/tumors"))
    hub.files["lab/tumors/README.md"] = b"A better card."
    push_vcm(vcm, "lab/tumors")
    assert hub.files["lab/tumors/README.md"] == b"A better card."


def test_a_hub_that_refuses_or_is_not_there_is_said(
    vcm: VCM, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "no such repository" in refusal("lab/nothing")
    with pytest.raises(CheckpointError, match="named OWNER/NAME"):
        push_vcm(vcm, "tumors")
    hub.refuses_uploads = True
    with pytest.raises(CheckpointError, match=r"status 403: log in"):
        push_vcm(vcm, "lab/tumors")
    hub.address = "http://127.0.0.1:9"
    turn_to(hub, monkeypatch, tmp_path / "other")
    with pytest.raises(CheckpointError, match="cannot be reached"):
        push_vcm(vcm, "lab/tumors")


def test_a_folder_that_holds_no_vcm_is_refused(vcm: VCM, tmp_path: Path) -> None:
    assert "no such VCM" in refusal(tmp_path / "nowhere")
    assert "config.json is missing" in refusal(tmp_path)
    folder = save_vcm(vcm, tmp_path / "mine")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"head_channels": 16}))
    assert "model.safetensors has the shape" in refusal(folder)
    (folder / "config.json").write_text("{}")
    assert "config.json cannot be used" in refusal(folder)


@pytest.mark.parametrize("place", ["folder", "repository", "model folder"])
def test_a_model_takes_a_vcm_from_elsewhere(
    vcm: VCM, tiny_folder: Path, tiny_model: LoadedModel, hub: HubStandIn, tmp_path: Path, place: str
) -> None:
    where: str | Path = tiny_folder
    if place == "folder":
        where = save_vcm(vcm, tmp_path / "mine")
    elif place == "repository":
        push_vcm(vcm, "lab/tumors")
        where = "lab/tumors"
    pipeline = Pipeline.from_pretrained(tiny_folder, "cpu", vcm_weights=where)
    if place != "model folder":
        assert_same(vcm, pipeline.adapter)
    own = Pipeline.from_pretrained(tiny_folder, "cpu")
    labels = np.zeros(own.grid.shape, np.uint8)
    labels[4:9, 4:9, 4:9] = 2
    request = GenerationRequest({"tumor": Volume(labels, own.grid.affine)}, num_inference_steps=2)
    first, second = pipeline(request), own(request)
    assert np.array_equal(first.controlled.array, second.controlled.array) == (place == "model folder")
    assert np.array_equal(first.uncontrolled.array, second.uncontrolled.array)
    weights = [result.recipe["model"]["weights"]["vcm.safetensors"] for result in (first, second)]
    assert (weights[0] == weights[1]) == (place == "model folder")


def test_a_vcm_of_another_kind_of_backbone_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    model = build_small_model(build_small_config())
    folder = save_vcm(model.adapter, tmp_path / "other")
    assert "for another kind of backbone" in refusal(folder, tiny_folder)
    mean = VCM(replace(build_tiny_model().config.adapter, aggregation="mean"))
    assert Pipeline.from_pretrained(tiny_folder, "cpu", vcm_weights=save_vcm(mean, tmp_path / "mean"))
