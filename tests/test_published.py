"""The published backbone: fetched, converted once, verified ever after, and nothing broken left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stand_in import COMMIT, HubStandIn, serve_hub, turn_to
from small_bundle import build_small_config, build_small_model, published_files

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights import published
from vcm.weights.checkpoint import CheckpointError, LoadedModel
from vcm.weights.hub import HubFile, HubSource

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return build_small_model(build_small_config())


@pytest.fixture(scope="module")
def files(small: LoadedModel) -> dict[str, bytes]:
    return published_files(small)


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with serve_hub() as hub:
        turn_to(hub, monkeypatch, tmp_path)
        monkeypatch.setattr(published, "brainldm_config", build_small_config)
        for name in ("autoencoder.pt", "model.pt"):
            hub.files[f"{published.SOURCE.repository}/models/{name}"] = files[name]
        yield hub


@pytest.fixture
def weights(files: dict[str, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "vcm_wegith_complexSemantics.pt"
    path.write_bytes(files["vcm.pt"])
    return path


def refusal(weights: Path | None) -> str:
    with pytest.raises(CheckpointError) as caught:
        Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "/tmp" not in message
    return message


def draw_labels(pipeline: Pipeline) -> Volume:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    for label in range(1, 9):
        labels[4:-4, 4 * label : 4 * label + 4, 4:-4] = label
    return Volume(labels, pipeline.grid.affine)


@torch.no_grad()
def test_the_preset_computes_what_the_published_files_hold(hub: HubStandIn, weights: Path, small: LoadedModel) -> None:
    pipeline = Pipeline.from_pretrained("brainldm", device="cpu", precision="float32", vcm_weights=weights)
    assert pipeline.config == small.config
    assert pipeline.modalities == ("semantic",)
    for mine, theirs in ((pipeline.backbone, small.backbone), (pipeline.adapter, small.adapter)):
        state = mine.state_dict()
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(state[name], tensor), name
    result = pipeline(GenerationRequest({"semantic": draw_labels(pipeline)}, num_inference_steps=2))
    assert result.controlled.array.shape == pipeline.grid.shape
    assert set(result.recipe["model"]["weights"]) >= {"diffusion.safetensors", "vcm.safetensors"}
    assert "wegith" not in json.dumps(result.recipe)


def test_the_backbone_is_converted_once_and_then_needs_no_hub(hub: HubStandIn, weights: Path) -> None:
    Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)
    source = json.loads((published.backbone_folder() / "source.json").read_text())
    assert source["commit"] == COMMIT
    assert set(source["sha256"]) == {"autoencoder.pt", "model.pt"}
    hub.requests.clear()
    hub.files.clear()
    Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)
    assert hub.requests == []


def test_without_a_vcm_nothing_is_fetched_and_the_sentence_says_how_to_get_it(
    hub: HubStandIn, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(None)
    assert "--vcm-weights" in message
    assert "VCM_WEIGHTS" in message
    assert hub.requests == []
    monkeypatch.setenv("VCM_WEIGHTS", str(weights))
    assert Pipeline.from_pretrained("brainldm", device="cpu").modalities == ("semantic",)


@pytest.mark.parametrize("name", ["autoencoder.pt", "model.pt"])
@pytest.mark.parametrize("fault", ["missing", "error", "stuck", "wrong", "pointer", "page"])
def test_a_failed_fetch_leaves_nothing_broken(hub: HubStandIn, weights: Path, name: str, fault: str) -> None:
    hub.faults[name] = fault
    assert name in refusal(weights)
    cache = published.cache_folder()
    assert not cache.exists() or list(cache.iterdir()) == []
    hub.faults.clear()
    assert Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)


def test_a_file_of_other_networks_is_refused_and_fetched_again_next_time(
    hub: HubStandIn, weights: Path, files: dict[str, bytes]
) -> None:
    path = f"{published.SOURCE.repository}/models/model.pt"
    hub.files[path] = files["autoencoder.pt"]
    assert refusal(weights).startswith("model.pt lacks weight")
    hub.files[path] = files["model.pt"]
    assert Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)


@pytest.mark.parametrize("name", ["autoencoder.safetensors", "diffusion.safetensors", "config.json", "source.json"])
def test_a_changed_bit_in_the_cache_is_noticed_and_the_way_out_said(hub: HubStandIn, weights: Path, name: str) -> None:
    Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)
    path = published.backbone_folder() / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = refusal(weights)
    assert message.startswith(name)
    assert "Delete brainldm-main in the cache" in message


def test_a_sum_that_becomes_known_later_is_held_against_the_cache(
    hub: HubStandIn, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)
    known = HubSource(published.SOURCE.repository, "main", (HubFile("models/model.pt", "0" * 64),))
    monkeypatch.setattr(published, "SOURCE", known)
    assert "was not the published file" in refusal(weights)


def test_a_cache_whose_place_is_taken_by_a_file_is_said(
    hub: HubStandIn, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCM_CACHE", str(weights))
    assert "cache cannot be written" in refusal(weights)


def test_what_is_no_released_vcm_is_refused(hub: HubStandIn, weights: Path, files: dict[str, bytes]) -> None:
    Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=weights)
    weights.write_bytes(files["model.pt"])
    assert "holds no weights of a released VCM" in refusal(weights)
    weights.write_bytes(b"<html></html>")
    assert "web page" in refusal(weights)
    assert "There is no such VCM" in refusal(weights.parent / "nowhere" / "vcm.pt")


def test_any_number_of_labels_is_read_from_the_weights(hub: HubStandIn, tmp_path: Path) -> None:
    model = build_small_model(build_small_config(num_labels=5))
    (tmp_path / "five.pt").write_bytes(published_files(model)["vcm.pt"])
    pipeline = Pipeline.from_pretrained("brainldm", device="cpu", vcm_weights=tmp_path / "five.pt")
    assert pipeline.config.adapter.condition_channels == {"semantic": 5}


_COMMAND = """
import sys
sys.path.insert(0, {tests!r})
from small_bundle import build_small_config
from vcm.weights import cost, published
published.brainldm_config = cost.brainldm_config = build_small_config
from vcm.cli import main
main(sys.argv[1:])
"""


def test_the_command_fetches_by_hf_endpoint_asks_on_a_cpu_and_generates(
    hub: HubStandIn, weights: Path, tmp_path: Path
) -> None:
    """A process of its own, since huggingface_hub reads its environment when it is imported."""
    config = build_small_config()
    labels = np.zeros(config.grid.shape, np.uint8)
    labels[8:24, 8:24, 8:24] = 3
    Volume(labels, config.grid.affine).save(tmp_path / "map.nii.gz")
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "fresh"),
        "VCM_CACHE": str(tmp_path / "converted"),
        "VCM_WEIGHTS": str(weights),
        "HF_HUB_OFFLINE": "0",
    }
    script = _COMMAND.format(tests=str(ROOT / "tests"))

    def run(*extra: str) -> subprocess.CompletedProcess[str]:
        arguments = ["generate", "--model", "brainldm", "--condition", f"semantic={tmp_path / 'map.nii.gz'}"]
        return subprocess.run(
            [sys.executable, "-c", script, *arguments, "--steps", "2", "--device", "cpu", "--out", "out", *extra],
            cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    asked = run()
    assert asked.returncode == 2
    assert asked.stderr.startswith("vcm: On a CPU this model takes about 2 minutes for 2 steps")
    assert asked.stderr.endswith("Give --yes to go on.\n")
    assert hub.requests == []
    done = run("--yes")
    assert done.returncode == 0, done.stderr
    assert Volume.load(tmp_path / "out" / "controlled.nii.gz").array.shape == config.grid.shape
    assert len(hub.requests) > 0
