"""The image compressor: what folding changes, and what it leaves as MONAI's."""

import pytest
import torch
from monai.networks.nets import AutoencoderKL

from vcm.autoencoder import Autoencoder, fold, unfold

SIZES = {
    "spatial_dims": 3,
    "latent_channels": 2,
    "channels": [8, 8],
    "num_res_blocks": 1,
    "norm_num_groups": 4,
    "attention_levels": [False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
}


@torch.no_grad()
def test_without_folding_it_is_monais_network_with_its_weights() -> None:
    torch.manual_seed(0)
    monai = AutoencoderKL(in_channels=1, out_channels=1, **SIZES).eval()
    ours = Autoencoder(in_channels=1, out_channels=1, **SIZES).eval()
    ours.load_state_dict(monai.state_dict())
    image = torch.rand(1, 1, 8, 12, 8)
    mean, deviation = ours.encode(image)
    expected_mean, expected_deviation = monai.encode(image)
    assert torch.equal(mean, expected_mean)
    assert torch.equal(deviation, expected_deviation)
    assert torch.equal(ours.decode(mean), monai.decode(mean))


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_patch_makes_the_latent_coarser_and_the_image_comes_back_at_its_own_size(patch_size: int) -> None:
    network = Autoencoder(patch_size=patch_size, **SIZES).eval()
    image = torch.rand(1, 1, 16, 24, 16)
    mean, _ = network.encode(image)
    assert mean.shape == (1, 2, *(n // (2 * patch_size) for n in (16, 24, 16)))
    assert network.decode(mean).shape == image.shape


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_unfolding_undoes_folding_voxel_by_voxel(patch_size: int) -> None:
    volume = torch.rand(2, 3, 8, 12, 4)
    folded = fold(volume, patch_size)
    assert folded.shape == (2, 3 * patch_size**3, *(n // patch_size for n in (8, 12, 4)))
    assert torch.equal(unfold(folded, patch_size), volume)


def test_each_cell_holds_the_cube_of_voxels_at_its_place() -> None:
    volume = torch.rand(1, 1, 8, 12, 4)
    assert set(fold(volume, 2)[0, :, 1, 2, 0].tolist()) == set(volume[0, 0, 2:4, 4:6, 0:2].flatten().tolist())
