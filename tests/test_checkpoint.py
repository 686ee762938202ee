"""Model folders: what is saved comes back, and every faulty weight file is refused in one sentence."""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, build_tiny_model, randomize
from torch import Tensor, nn

from vcm.model.backbone import Backbone
from vcm.model.condition_encoder import ConditionEncoder
from vcm.model.config import ModelConfig
from vcm.model.vcm import VCM
from vcm.pipeline import Pipeline
from vcm.sampler import initial_noise, trajectory
from vcm.weights import legacy
from vcm.weights.checkpoint import (
    CheckpointError,
    LoadedModel,
    load_backbone,
    load_model,
    load_reference,
    read_weights,
    save_model,
    save_weights,
    verify_files,
    write_sums,
)

WEIGHT_FILES = ["autoencoder.safetensors", "diffusion.safetensors", "vcm.safetensors"]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def published_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "published"))


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a weight file and give the folder honest sums for it."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    write_sums(path.parent)


def refusal(action: Callable[[], Any], *hidden: object) -> str:
    """The one sentence of a refusal, which names no folder."""
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not any(str(text) in message for text in hidden)
    return message


def test_saved_model_comes_back_in_half_precision(tiny_model: LoadedModel, tiny_folder: Path) -> None:
    loaded = load_model(tiny_folder)
    assert loaded.config == tiny_model.config
    for mine, saved in ((loaded.backbone, tiny_model.backbone), (loaded.adapter, tiny_model.adapter)):
        state = mine.state_dict()
        for name, tensor in saved.state_dict().items():
            assert state[name].dtype == torch.float32
            expected = tensor if name in ("latent_mean", "latent_std") else tensor.half().float()
            assert torch.equal(state[name], expected)


@torch.no_grad()
def test_loaded_model_computes_what_the_saved_one_did(
    tiny_model: LoadedModel, tiny_folder: Path, tiny_conditions: dict[str, Tensor]
) -> None:
    loaded = load_model(tiny_folder)
    latent = torch.randn(2, *tiny_model.config.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps, context = torch.tensor([900, 10]), torch.rand(2, 1, 4, generator=torch.Generator().manual_seed(1))
    outputs = []
    for model in (tiny_model, loaded):
        epsilon = model.backbone.predict_epsilon(latent, timesteps, context)
        features = model.adapter.encode_condition(tiny_conditions)
        outputs.append([epsilon, *model.adapter(latent, epsilon, features, timesteps), model.backbone.decode(latent)])
    for before, after in zip(*outputs, strict=True):
        torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)


def test_loaded_backbone_is_frozen_and_loaded_vcm_can_learn(tiny_folder: Path) -> None:
    loaded = load_model(tiny_folder)
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    assert all(p.requires_grad for p in loaded.adapter.parameters())
    assert not loaded.backbone.training
    assert not loaded.adapter.training


def test_nothing_of_a_loaded_model_stays_on_the_meta_device(tiny_folder: Path) -> None:
    loaded = load_model(tiny_folder)
    tensors = [*loaded.backbone.parameters(), *loaded.backbone.buffers(), *loaded.adapter.parameters()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_hashes_are_those_that_sha256sum_would_print(tiny_folder: Path) -> None:
    lines = (tiny_folder / "SHA256SUMS").read_text().splitlines()
    assert {name: digest for digest, _, name in (line.partition("  ") for line in lines)} == load_model(
        tiny_folder
    ).hashes


def test_backbone_can_be_saved_and_loaded_before_there_is_a_vcm(tiny_model: LoadedModel, tmp_path: Path) -> None:
    save_model(tmp_path / "prior", tiny_model.config, tiny_model.backbone)
    config, backbone, hashes = load_backbone(tmp_path / "prior")
    assert config == tiny_model.config
    assert torch.equal(backbone.latent_std, tiny_model.backbone.latent_std)
    assert set(hashes) == {"config.json", "autoencoder.safetensors", "diffusion.safetensors"}
    assert "vcm.safetensors is missing" in refusal(lambda: load_model(tmp_path / "prior"), tmp_path)


def test_saving_leaves_no_partial_file_and_keeps_what_else_is_there(folder: Path, tiny_model: LoadedModel) -> None:
    (folder / "README.md").write_text("A model card.")
    save_weights(folder / "segmenter.safetensors", {"weight": torch.ones(2)})
    save_model(folder, tiny_model.config, tiny_model.backbone, tiny_model.adapter)
    expected = {"README.md", "SHA256SUMS", "config.json", "segmenter.safetensors", *WEIGHT_FILES}
    assert {path.name for path in folder.iterdir()} == expected
    assert "segmenter.safetensors" in verify_files(folder, ["segmenter.safetensors"])


def test_weight_that_half_precision_cannot_hold_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "vcm.safetensors"
    assert "not finite in half precision" in refusal(lambda: save_weights(path, {"weight": torch.tensor([1e6])}))
    assert not path.exists()


@pytest.mark.parametrize("name", ["config.json", "SHA256SUMS", *WEIGHT_FILES])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(lambda: load_model(folder), folder)


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_one_flipped_bit_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"{name} is damaged" in refusal(lambda: load_model(folder), folder)


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_truncated_file_is_refused_with_and_without_its_sum(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert f"{name} is damaged" in refusal(lambda: load_model(folder), folder)
    write_sums(folder)
    assert f"{name} is damaged" in refusal(lambda: load_model(folder), folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "only a pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_what_is_often_found_in_place_of_weights_is_named(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    assert message in refusal(lambda: load_model(folder), folder)


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_missing_weight_is_named(folder: Path, name: str) -> None:
    key = min(load_file(folder / name))
    rewrite(folder / name, lambda weights: weights.pop(key))
    assert refusal(lambda: load_model(folder), folder) == f"{name} lacks weight {key}."


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_unknown_weight_is_named(folder: Path, name: str) -> None:
    rewrite(folder / name, lambda weights: weights.update({"stray": torch.zeros(1)}))
    assert refusal(lambda: load_model(folder), folder) == f"{name} has an unknown weight stray."


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_weight_of_another_shape_is_named(folder: Path, name: str) -> None:
    key = min(load_file(folder / name))
    rewrite(folder / name, lambda weights: weights.update({key: torch.zeros(7, 7)}))
    assert refusal(lambda: load_model(folder), folder).startswith(f"{name} has the shape [7, 7] in {key}, expected [")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_weight_that_is_not_finite_is_named(folder: Path, name: str, value: float) -> None:
    key = max(load_file(folder / name))
    rewrite(folder / name, lambda weights: weights[key].view(-1)[:1].fill_(value))
    assert refusal(lambda: load_model(folder), folder) == f"{name} holds numbers that are not finite in {key}."


def test_weights_that_are_not_floating_point_are_refused(folder: Path) -> None:
    name = WEIGHT_FILES[2]
    key = min(load_file(folder / name))
    rewrite(folder / name, lambda weights: weights.update({key: weights[key].to(torch.int32)}))
    assert "not floating point" in refusal(lambda: load_model(folder), folder)


def test_whitening_maps_that_cannot_be_used_are_refused(folder: Path) -> None:
    name = WEIGHT_FILES[1]
    rewrite(folder / name, lambda weights: weights["latent_std"].zero_())
    assert "positive everywhere" in refusal(lambda: load_model(folder), folder)
    rewrite(folder / name, lambda weights: weights.pop("latent_std"))
    assert refusal(lambda: load_model(folder), folder) == f"{name} lacks weight latent_std."


def test_file_without_a_sum_is_refused(folder: Path) -> None:
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in sums if "vcm" not in line))
    assert "SHA256SUMS has no sum for vcm.safetensors" in refusal(lambda: load_model(folder), folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "tiny"}', "\0\xff" * 10])
def test_configuration_that_cannot_be_used_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    write_sums(folder)
    assert "config.json" in refusal(lambda: load_model(folder), folder)


def test_configuration_of_other_networks_is_refused(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["adapter"]["head_channels"] = 16
    (folder / "config.json").write_text(json.dumps(values))
    write_sums(folder)
    assert "vcm.safetensors has the shape" in refusal(lambda: load_model(folder), folder)


def test_malicious_pickle_is_refused_and_not_executed(published_folder: Path, tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    archive = io.BytesIO()
    torch.save({"weight": Malice()}, archive)
    for content in (archive.getvalue(), pickle.dumps(Malice())):
        (published_folder / "vcm_weight.pt").write_bytes(content)
        message = refusal(lambda: load_reference(published_folder), published_folder)
        assert message.startswith("vcm_weight.pt was not opened")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["vcm_weight.pt", "diffusion_model.pth", "autoencoder.pth"])
def test_damaged_published_file_is_refused(published_folder: Path, name: str) -> None:
    path = published_folder / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    flipped[entry.header_offset + 30 + len(entry.filename) + entry.file_size // 2] ^= 1
    for content in (whole[: len(whole) // 2], whole[:-50], bytes(flipped), b"<html>404</html>", b"", b"junk" * 99):
        path.write_bytes(content)
        assert name in refusal(lambda: load_reference(published_folder), published_folder)


@pytest.mark.parametrize("name", ["config.json", "vcm_weight.pt", "diffusion_model.pth", "autoencoder.pth"])
def test_missing_published_file_is_named(published_folder: Path, name: str) -> None:
    (published_folder / name).unlink()
    assert refusal(lambda: load_reference(published_folder)) == f"{name} is missing."


def change_published(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    weights = dict(torch.load(path, weights_only=True))
    change(weights)
    torch.save(weights, path)


def test_published_file_with_missing_stray_or_foreign_entries_is_refused(published_folder: Path) -> None:
    path = published_folder / "diffusion_model.pth"
    load = lambda: load_reference(published_folder)  # noqa: E731
    change_published(path, lambda weights: weights.pop("conv_in.conv.bias"))
    assert refusal(load) == "diffusion_model.pth lacks weight conv_in.conv.bias."
    change_published(path, lambda w: w.update({"conv_in.conv.bias": torch.zeros(8), "stray": torch.zeros(1)}))
    assert refusal(load) == "diffusion_model.pth has an unknown weight stray."
    change_published(path, lambda weights: weights.update(stray=3))
    assert refusal(load) == "diffusion_model.pth is not a plain table of named weights."


def test_published_configuration_that_lacks_something_is_refused(published_folder: Path) -> None:
    values = json.loads((published_folder / "config.json").read_text())
    for name in ("autoencoder", "diffusion", "vcm_unet", "condition_encoder", "volume_shape", "latent_scale_factor"):
        rest = {key: value for key, value in values.items() if key != name}
        (published_folder / "config.json").write_text(json.dumps(rest))
        assert name in refusal(lambda: load_reference(published_folder), published_folder)


@torch.no_grad()
def test_published_layout_of_any_size_is_read(published_folder: Path) -> None:
    """Other channels, labels, latent shape and head width than the golden ones; a batch of two; nine steps."""
    values = json.loads((published_folder / "config.json").read_text())
    values["volume_shape"], values["latent_scale_factor"] = [16, 24, 16], 1.7
    values["autoencoder"] |= {"num_channels": [4, 8, 12], "latent_channels": 5, "norm_num_groups": 4}
    values["autoencoder"]["attention_levels"] = [False, False, False]
    values["diffusion"] |= {"in_channels": 9, "out_channels": 5, "num_channels": [8, 12], "norm_num_groups": 4}
    values["diffusion"] |= {"attention_levels": [False, True], "num_head_channels": [0, 6], "num_res_blocks": 1}
    values["condition_encoder"] |= {"in_channels": 5, "num_channels": [4, 12], "num_res_blocks": [1, 3]}
    values["condition_encoder"] |= {"norm_num_groups": 4, "attention_levels": [False, False]}
    values["vcm_unet"] |= {"in_channels": 22, "out_channels": 6, "num_channels": [4, 8], "norm_num_groups": 4}
    values["vcm_unet"] |= {"attention_levels": [False, True], "num_head_channels": [0, 4], "resblock_updown": False}
    (published_folder / "config.json").write_text(json.dumps(values))

    config = legacy.published_config(values, name="reference", head_channels=20)
    backbone, adapter = Backbone(config.backbone, config.latent_shape), VCM(config.adapter)
    files: list[tuple[nn.Module, str, str, Callable[[str], str]]] = [
        (backbone.autoencoder, "autoencoder.pth", "", legacy.published_network_name),
        (backbone.diffusion, "diffusion_model.pth", "module.", legacy.published_network_name),
        (adapter, "vcm_weight.pt", "module.", legacy.published_vcm_name),
    ]
    for seed, (module, name, prefix, published) in enumerate(files):
        randomize(module, seed)
        state = {f"{prefix}{published(key)}": tensor for key, tensor in module.state_dict().items()}
        assert len(state) == len(module.state_dict())
        torch.save(state, published_folder / name)

    loaded = load_reference(published_folder)
    assert loaded.config == config
    assert config.latent_shape == (5, 4, 6, 4)
    for mine, theirs in ((loaded.backbone, backbone), (loaded.adapter, adapter)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], tensor)
    assert_works_at_any_size(Pipeline.from_reference(published_folder, device="cpu"))


def assert_works_at_any_size(pipeline: Pipeline) -> None:
    """Nine steps of a batch of two, encoded once, are those of two batches of one; volumes come out on the grid."""
    labels = torch.randint(6, (2, *pipeline.grid.shape), generator=torch.Generator().manual_seed(5))
    one_hot = nn.functional.one_hot(labels, 6)[..., 1:].movedim(-1, 1).float()  # (2, 5, X, Y, Z)
    noise = initial_noise([1, 2], pipeline.config.latent_shape)
    context = torch.rand(2, 1, 4, generator=torch.Generator().manual_seed(6))
    calls: list[int] = []
    (encoder,) = (module for module in pipeline.adapter.modules() if isinstance(module, ConditionEncoder))
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))

    def run(chosen: slice) -> list[Tensor]:
        features = pipeline.adapter.encode_condition({"semantic": one_hot[chosen]})
        steps = list(
            trajectory(
                pipeline.backbone,
                pipeline.adapter,
                noise[chosen],
                context[chosen],
                features,
                num_inference_steps=9,
                sampler="ddim",
            )
        )
        assert [step.timestep for step in steps] == [888, 777, 666, 555, 444, 333, 222, 111, 0]
        first, last = steps[0], steps[-1]
        assert first.eps_scale is not None
        assert first.eps_shift is not None
        return [features, first.epsilon, first.eps_scale, first.eps_shift, pipeline.backbone.decode(last.latent)]

    both = run(slice(None))
    assert len(calls) == 1
    hook.remove()
    shapes = [(2, 12, 4, 6, 4)] + [(2, *pipeline.config.latent_shape)] * 3 + [(2, 1, *pipeline.grid.shape)]
    assert [tuple(tensor.shape) for tensor in both] == shapes
    for joined, first, second in zip(both, run(slice(0, 1)), run(slice(1, 2)), strict=True):
        torch.testing.assert_close(joined, torch.cat([first, second]), rtol=1e-4, atol=1e-4)
    image = torch.rand(2, 1, *pipeline.grid.shape, generator=torch.Generator().manual_seed(7))
    assert pipeline.backbone.encode(image).shape == (2, *pipeline.config.latent_shape)


def test_bundle_already_in_the_new_layout_is_read_too(reference: LoadedModel, published_folder: Path) -> None:
    torch.save(reference.backbone.diffusion.state_dict(), published_folder / "diffusion_model.pth")
    loaded = load_reference(published_folder)
    for name, tensor in reference.backbone.diffusion.state_dict().items():
        assert torch.equal(loaded.backbone.diffusion.state_dict()[name], tensor)


def test_condition_encoder_that_cannot_be_rebuilt_is_refused(published_folder: Path) -> None:
    values = json.loads((published_folder / "config.json").read_text())
    values["condition_encoder"]["attention_levels"] = [False, False, True]
    (published_folder / "config.json").write_text(json.dumps(values))
    assert "without attention" in refusal(lambda: load_reference(published_folder))


def test_reading_weights_keeps_their_values_in_full_precision(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.5], dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    torch.save({"a": torch.tensor([1.5], dtype=torch.float16)}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        weights = read_weights(tmp_path / name)
        assert weights["a"].dtype == torch.float32
        assert weights["a"].item() == 1.5


def test_model_without_whitening_keeps_no_maps(tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = build_tiny_model()
    config = replace(tiny_config, backbone=replace(tiny_config.backbone, whitening=False))
    backbone = Backbone(config.backbone, config.latent_shape)
    save_model(tmp_path, config, backbone, model.adapter)
    assert "latent_mean" not in load_file(tmp_path / "diffusion.safetensors")
    assert "latent_mean" not in load_model(tmp_path).backbone.state_dict()
