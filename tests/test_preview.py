"""The linear decoder finds linear decoders exactly and keeps the axes apart."""

import pytest
import torch

from vcm.runtime.preview import LinearDecoder, choose_block


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(1, 3, 5, 7, 6, generator=torch.Generator().manual_seed(0))


def test_a_decoder_that_is_linear_is_found(latent):
    convolution = torch.nn.ConvTranspose3d(3, 1, kernel_size=2, stride=2)
    with torch.no_grad():
        image = convolution(latent)
        decoder = LinearDecoder.fit(latent, image)
        torch.testing.assert_close(decoder.decode(latent), image, rtol=0, atol=0.05)
        other = torch.randn_like(latent)
        torch.testing.assert_close(decoder.decode(other), convolution(other), rtol=0, atol=0.05)


def test_voxels_stay_where_they_belong():
    latent = torch.zeros(1, 1, 4, 5, 6)
    latent[0, 0, 1, 2, 3] = 1.0
    # Each voxel of a patch has its own value, so that a swapped axis would show.
    patch = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    image = torch.nn.functional.conv_transpose3d(latent, patch, stride=2)
    decoded = LinearDecoder.fit(latent, image).decode(latent)
    assert decoded.shape == image.shape
    assert decoded.flatten().argmax() == image.flatten().argmax()


def test_a_large_volume_is_fitted_by_its_middle_alone_and_a_small_one_whole():
    latent = torch.randn(1, 3, 20, 28, 20)
    assert choose_block(latent, factor=4) is latent
    torch.testing.assert_close(choose_block(latent, factor=8), latent[:, :, 5:15, 9:19, 5:15])
    assert choose_block(torch.randn(1, 3, 4, 80, 60), factor=8).shape == (1, 3, 4, 10, 10)
