"""The published method, number for number: every golden tensor of the public code, and its released layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vcm.model.backbone import Backbone
from vcm.model.condition_encoder import ConditionEncoder
from vcm.model.vcm import VCM
from vcm.sampler import sample, trajectory
from vcm.sampler.ddim import ddim_timesteps
from vcm.weights import legacy
from vcm.weights.checkpoint import LoadedModel, fill_published
from vcm.weights.presets import brainldm_config

SHAPES = Path(__file__).parent / "data" / "state_dict_shapes.json"
TIMESTEPS = [0, 37, 500, 999]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def encode_labels(reference: LoadedModel, golden: dict[str, Tensor]) -> Tensor:
    return reference.adapter.encode_condition({legacy.RELEASED_MODALITY: golden["labels_onehot"]})


@torch.no_grad()
def test_condition_features_are_the_published_ones(reference: LoadedModel, golden: dict[str, Tensor]) -> None:
    assert_close(encode_labels(reference, golden), golden["condition_features"], 1e-5)


@pytest.mark.parametrize("t", TIMESTEPS)
@torch.no_grad()
def test_epsilon_scale_and_shift_are_the_published_ones(
    reference: LoadedModel, golden: dict[str, Tensor], t: int
) -> None:
    timesteps = torch.tensor([t])
    epsilon = reference.backbone.predict_epsilon(golden["noise"], timesteps, golden["context"])
    eps_scale, eps_shift = reference.adapter(golden["noise"], epsilon, golden["condition_features"], timesteps)
    assert_close(epsilon, golden[f"t{t}.epsilon"], 1e-5)
    # The norm that ends the heads brings them to unit variance, and their rounding with them: with AVX-512, whose
    # convolutions add up in another order, they are 2.3e-5 away from the published ones, epsilon 8e-8.
    assert_close(eps_scale, golden[f"t{t}.gamma"], 5e-5)
    assert_close(eps_shift, golden[f"t{t}.beta"], 5e-5)


@torch.no_grad()
def test_encoder_gives_the_published_mean_and_deviation(reference: LoadedModel, golden: dict[str, Tensor]) -> None:
    mean, deviation = reference.backbone.autoencoder.encode(golden["image"])
    factor = reference.config.backbone.latent_scale_factor
    assert_close(mean, golden["image_z_mu"], 1e-5)
    assert_close(deviation, golden["image_z_sigma"], 1e-5)
    assert_close(reference.backbone.encode(golden["image"]), golden["image_z_mu"] * factor, 1e-5)


@torch.no_grad()
def test_decoder_divides_by_the_latent_scale_factor_as_published(
    reference: LoadedModel, golden: dict[str, Tensor]
) -> None:
    assert_close(reference.backbone.decode(golden["latent_controlled"]), golden["volume_controlled"], 1e-5)


def test_noise_schedule_is_the_published_one(reference: LoadedModel, golden: dict[str, Tensor]) -> None:
    noised = reference.backbone.add_noise(golden["image_z_mu"], golden["noise"], torch.tensor([500]))
    assert_close(reference.backbone.alphas_cumprod, golden["alphas_cumprod"], 1e-6)
    assert_close(noised, golden["noised_t500"], 1e-6)


@pytest.mark.parametrize("controlled", [True, False])
def test_whole_ddim_loop_ends_at_the_published_latent(
    reference: LoadedModel, golden: dict[str, Tensor], controlled: bool
) -> None:
    with torch.no_grad():
        features = encode_labels(reference, golden) if controlled else None
    latent = sample(
        reference.backbone,
        reference.adapter,
        golden["noise"],
        golden["context"],
        features,
        num_inference_steps=len(golden["ddim_timesteps"]),
        sampler="ddim",
    )
    expected = golden["latent_controlled" if controlled else "latent_uncontrolled"]
    assert float((latent - expected).norm() / expected.norm()) < 1e-4


def test_ddim_visits_the_published_timesteps(reference: LoadedModel, golden: dict[str, Tensor]) -> None:
    expected = golden["ddim_timesteps"].tolist()
    assert ddim_timesteps(reference.config.backbone.schedule, len(expected)) == expected


def test_conditions_are_encoded_once_and_each_network_runs_once_a_step(
    reference: LoadedModel, golden: dict[str, Tensor]
) -> None:
    calls: list[str] = []
    counted = {
        "encoder": next(m for m in reference.adapter.modules() if isinstance(m, ConditionEncoder)),
        "adapter": reference.adapter.unet,
        "prior": reference.backbone.diffusion,
    }
    hooks = [module.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, module in counted.items()]
    try:
        with torch.no_grad():
            features = encode_labels(reference, golden)
        steps = trajectory(
            reference.backbone, reference.adapter, golden["noise"], golden["context"], features, num_inference_steps=6
        )
        assert len(list(steps)) == 6
    finally:
        for hook in hooks:
            hook.remove()
    assert {name: calls.count(name) for name in counted} == {"encoder": 1, "adapter": 6, "prior": 6}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_released_weight_has_its_place_in_the_full_size_networks(prefix: str) -> None:
    shapes = json.loads(SHAPES.read_text())
    config = brainldm_config()
    with torch.device("meta"):
        backbone = Backbone(config.backbone, config.latent_shape)
        adapter = VCM(config.adapter)
        weights = {
            part: {f"{prefix}{name}": torch.empty(shape) for name, shape in names.items()}
            for part, names in shapes.items()
        }
    fill_published(backbone.autoencoder, legacy.strip_prefix(weights["autoencoder"]), "autoencoder.pt")
    fill_published(backbone.diffusion, legacy.strip_prefix(weights["diffusion"]), "model.pt")
    fill_published(adapter, weights["vcm"], "vcm.pt")
    millions = [
        f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f}"
        for module in (backbone.autoencoder, backbone.diffusion, adapter)
    ]
    # The released VCM counts 45.22 million with the output projections that it never applied.
    assert millions == ["13.77", "553.17", "44.83"]


_FULL_SIZE_STEP = """
import resource, torch
from vcm.model.vcm import VCM
from vcm.model.backbone import Backbone
from vcm.weights.presets import brainldm_config

config = brainldm_config()
with torch.device("meta"):
    networks = Backbone(config.backbone, config.latent_shape), VCM(config.adapter)
backbone, adapter = (network.eval() for network in networks)
for network in (backbone.autoencoder, backbone.diffusion, adapter):
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.data.uniform_(-0.03, 0.03)
labels = torch.zeros(1, 8, *config.grid.shape)
labels[:, 3, 40:80, 60:120, 40:80] = 1.0
latent, context = torch.randn(1, *config.latent_shape), torch.full((1, 1, 4), 0.5)
timesteps = torch.tensor([500])
with torch.no_grad():
    features = adapter.encode_condition({"semantic": labels})
    epsilon = backbone.predict_epsilon(latent, timesteps, context)
    eps_scale, eps_shift = adapter(latent, epsilon, features, timesteps)
assert features.shape == (1, 48, 20, 28, 20), features.shape
for tensor in (epsilon, eps_scale, eps_shift):
    assert tensor.shape == (1, 3, 20, 28, 20) and tensor.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.long
def test_one_step_at_full_size_needs_less_than_eight_gigabytes() -> None:
    """A condition of 8 labels at 160 x 224 x 160, encoded, and one step of the 553 million weights, in float32."""
    answer = subprocess.run([sys.executable, "-c", _FULL_SIZE_STEP], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) < 8e9
