"""The image compressor: what folding changes, and what it leaves as MONAI's."""

import pytest
import torch
from monai.networks.nets import AutoencoderKL

from vcm.model.autoencoder import Autoencoder, fold, unfold
from vcm.model.channel_norm import ChannelNorm

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


def test_with_a_linear_code_an_untrained_autoencoder_is_the_projection_on_principal_components() -> None:
    torch.manual_seed(0)
    # Cubes that two numbers describe: a linear code of two channels loses nothing of them.
    shapes = torch.rand(2, 64)
    cubes = 0.2 + torch.rand(40, 2) @ shapes
    images = unfold(cubes.reshape(5, 2, 2, 2, 64).permute(0, 4, 1, 2, 3), 4)
    network = Autoencoder(patch_size=2, linear_code=True, norm="channel", **SIZES).eval()
    network.set_linear_code(images)
    with torch.no_grad():
        mean, _ = network.encode(images)
        restored = network.decode(mean)
    assert mean.shape == (5, 2, 2, 2, 2)
    torch.testing.assert_close(restored, images, rtol=0, atol=1e-5)


def test_with_channel_norms_a_crop_is_encoded_as_it_is_in_the_whole_volume() -> None:
    torch.manual_seed(0)
    network = Autoencoder(patch_size=2, norm="channel", **SIZES).eval()
    image = torch.rand(1, 1, 96, 24, 24)
    with torch.no_grad():
        whole, _ = network.encode(image)
        crop, _ = network.encode(image[:, :, :72])
    torch.testing.assert_close(crop[:, :, :10], whole[:, :, :10])


def test_a_channel_norm_keeps_to_the_cell_and_to_the_number_format() -> None:
    norm = ChannelNorm(4)
    volume = torch.rand(2, 4, 3, 5, 2, dtype=torch.bfloat16)
    normal = norm(volume)
    assert normal.dtype == torch.bfloat16
    assert normal.shape == volume.shape
    torch.testing.assert_close(normal.float().mean(1), torch.zeros(2, 3, 5, 2), atol=2e-2, rtol=0)
    torch.testing.assert_close(norm(volume[:, :, :1]), normal[:, :, :1])


def test_an_unknown_norm_or_a_linear_code_of_several_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="must be group or channel"):
        Autoencoder(norm="batch", **SIZES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one channel"):
        Autoencoder(in_channels=2, linear_code=True, **SIZES)
