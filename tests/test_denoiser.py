"""The diffusion network: what the learned map adds, and what it leaves as MONAI's."""

import torch
from monai.networks.nets import DiffusionModelUNet
from tiny import randomize

from vcm.model.denoiser import Denoiser

SIZES = {
    "spatial_dims": 3,
    "out_channels": 2,
    "channels": [8, 8],
    "num_res_blocks": 1,
    "attention_levels": [False, False],
    "norm_num_groups": 4,
    "num_head_channels": [0, 8],
}


@torch.no_grad()
def test_without_a_map_it_is_monais_network_with_its_weights() -> None:
    monai = DiffusionModelUNet(in_channels=3, **SIZES).eval()
    randomize(monai, 1)
    ours = Denoiser(in_channels=3, **SIZES).eval()
    ours.load_state_dict(monai.state_dict())
    latent, timesteps = torch.randn(2, 3, 4, 4, 4), torch.tensor([5, 900])
    assert torch.equal(ours(latent, timesteps=timesteps), monai(latent, timesteps=timesteps))


def test_the_map_is_learned_everywhere_and_travels_with_the_weights() -> None:
    torch.manual_seed(0)
    network = Denoiser(in_channels=3, position_map=[5, 4, 4, 4], **SIZES)
    randomize(network, 2)
    network(torch.randn(2, 3, 4, 4, 4), timesteps=torch.tensor([5, 900])).square().mean().backward()
    assert network.position is not None
    assert network.position.grad is not None
    assert network.position.grad.abs().sum(0).gt(0).all()
    assert network.state_dict()["position"].shape == (5, 4, 4, 4)
