"""The linear decoder finds linear decoders exactly and keeps the axes apart."""

import pytest
import torch

from vcm.preview import LinearDecoder


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
