"""A fused doubling is the doubling and the convolution, to the last weight, for less work."""

import pytest
import torch
from monai.networks.blocks import Convolution, UpSample
from torch import nn
from torch.nn import functional

from vcm.pipeline import Pipeline
from vcm.runtime.flops import count_flops
from vcm.runtime.upsampling import DoublingConv3d, fuse_upsampling


def build(**options):
    settings = {"mode": "nontrainable", "interp_mode": "nearest", "scale_factor": 2.0, "align_corners": None} | options
    post = Convolution(3, 3, 3, strides=1, kernel_size=3, padding=1, conv_only=True)
    return UpSample(spatial_dims=3, in_channels=3, out_channels=3, post_conv=post, **settings)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 6), (2, 3, 1, 2, 3)])
def test_values_and_gradients_are_those_of_the_two_in_turn(shape, layout):
    torch.manual_seed(0)
    network = nn.Sequential(build())
    image = torch.randn(shape, requires_grad=True)
    expected = network(image.to(memory_format=layout))
    pull = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * pull).sum(), [image, *network.parameters()])
    names = list(network.state_dict())
    fuse_upsampling(network)
    assert isinstance(network[0].postconv.conv, DoublingConv3d)
    assert list(network.state_dict()) == names
    found = network(image.to(memory_format=layout))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)
    for ours, theirs in zip(
        torch.autograd.grad((found * pull).sum(), [image, *network.parameters()]), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_each_weight_lands_where_it_did():
    """One weight at a time, in whole numbers, so that no rounding hides a wrong place."""
    image = torch.arange(1.0, 25.0).reshape(1, 1, 2, 3, 4)
    for place in range(27):
        layer = DoublingConv3d(1, 1, 3, padding=1, bias=False)
        weight = torch.zeros(27)
        weight[place] = 1.0
        layer.weight.data.copy_(weight.reshape(1, 1, 3, 3, 3))
        doubled = functional.interpolate(image, scale_factor=2.0, mode="nearest")
        assert torch.equal(layer(image), functional.conv3d(doubled, layer.weight, padding=1))


@pytest.mark.parametrize("options", [{"interp_mode": "linear", "align_corners": False}, {"scale_factor": 3.0}])
def test_another_upsampling_stays_as_it_is(options):
    network = nn.Sequential(build(**options))
    fuse_upsampling(network)
    assert type(network[0].postconv.conv) is nn.Conv3d
    assert isinstance(network[0].upsample_non_trainable, nn.Upsample)


def test_every_doubling_of_the_embedded_model_is_fused():
    pipeline = Pipeline.from_pretrained(device="cpu")
    for network in (pipeline.backbone.autoencoder, pipeline.backbone.diffusion, pipeline.adapter):
        fused = [module for module in network.modules() if isinstance(module, DoublingConv3d)]
        assert len(fused) == sum(isinstance(module, UpSample) for module in network.modules()) > 0


def test_more_than_a_convolution_behind_it_stays_as_it_is():
    for behind in (nn.Sequential(nn.Conv3d(3, 3, 3, padding=1), nn.ReLU()), nn.Conv3d(3, 3, 3, padding=1)):
        settings = {"mode": "nontrainable", "interp_mode": "nearest", "scale_factor": 2.0, "align_corners": None}
        network = nn.Sequential(UpSample(3, in_channels=3, out_channels=3, post_conv=behind, **settings))
        fuse_upsampling(network)
        assert isinstance(network[0].upsample_non_trainable, nn.Upsample)


def test_it_saves_operations():
    layer, image = DoublingConv3d(4, 4, 3, padding=1), torch.randn(1, 4, 10, 10, 10)
    assert count_flops(lambda: layer(image)) == 2 * 8 * 4 * 4 * 8 * 11**3
    plain = nn.Conv3d(4, 4, 3, padding=1)
    doubled = functional.interpolate(image, scale_factor=2.0, mode="nearest")
    assert count_flops(lambda: layer(image)) < 0.4 * count_flops(lambda: plain(doubled))
