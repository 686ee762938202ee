"""Convolutions compute what torch's do, by the routine that is meant."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vcm.pipeline import Pipeline
from vcm.runtime.convolution import Conv3d, conv3d, use_fast_convolutions
from vcm.runtime.flops import count_flops

HAS_ONEDNN = torch.backends.mkldnn.is_available() and torch.cpu.get_capabilities().get("avx2", False)
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="oneDNN has no convolutions of its own for this processor")

SETTINGS = [
    {"padding": (1, 1, 1)},
    {"padding": (0, 1, 2), "stride": (2, 1, 2)},
    {"padding": (2, 2, 2), "dilation": (2, 2, 1)},
    {"padding": (1, 1, 1), "groups": 2},
]


def list_operators(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_torch(settings, with_bias):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 6, 9, 8, 7, generator=generator)
    weight = torch.randn(4, 6 // settings.get("groups", 1), 3, 3, 3, generator=generator)
    bias = torch.randn(4, generator=generator) if with_bias else None
    found, expected = [], []
    for convolve, into in ((conv3d, found), (functional.conv3d, expected)):
        given = [x.clone().requires_grad_() for x in (image, weight, bias) if x is not None]
        output = convolve(*given, **settings)
        output.square().sum().backward()
        into.extend([output.detach(), *(x.grad for x in given)])
    for ours, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-3, atol=1e-3)


@needs_onednn
def test_a_single_sample_of_a_latent_goes_to_onednn():
    layer, image = Conv3d(4, 4, 3, padding=1), torch.randn(1, 4, 10, 14, 10)
    assert "aten::mkldnn_convolution" in list_operators(lambda: layer(image))
    # Should torch itself come to do so, this file has had its time.
    assert "aten::slow_conv3d_forward" in list_operators(lambda: nn.Conv3d.forward(nn.Conv3d(4, 4, 3), image))


@needs_onednn
def test_no_step_of_the_embedded_model_takes_the_slow_way():
    pipeline = Pipeline.from_pretrained(precision="float32", device="cpu")
    noise, context = torch.randn(1, *pipeline.config.latent_shape), torch.full((1, 1, 4), 0.5)
    features = torch.randn(1, pipeline.config.adapter.encoded_channels, *noise.shape[2:])
    timesteps = torch.tensor([500])
    slow = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution.default and max(args[1].shape[2:]) > 1:
                slow.append(list(args[1].shape))
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        epsilon = pipeline.backbone.predict_epsilon(noise, timesteps, context)
        pipeline.adapter(noise, epsilon, features, timesteps)
    assert not slow


@needs_onednn
def test_what_onednn_may_not_or_cannot_take_is_left_to_torch(monkeypatch):
    weight, image = torch.randn(2, 2, 3, 3, 3), torch.randn(1, 2, 6, 6, 6)
    own = "aten::mkldnn_convolution"
    assert own in list_operators(lambda: conv3d(image, weight))
    assert own not in list_operators(lambda: conv3d(image.double(), weight.double()))
    assert own not in list_operators(lambda: conv3d(image, weight[..., :1, :1, :1].contiguous()))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert own not in list_operators(lambda: conv3d(image, weight))
    assert conv3d(image.to("meta"), weight.to("meta")).shape == (1, 2, 4, 4, 4)


def test_autocast_is_obeyed():
    weight, image = torch.randn(2, 2, 3, 3, 3), torch.randn(1, 2, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3d(image, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_layers_of_every_kind_become_ours_and_say_what_they_said(options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 3, 3, **options), nn.SiLU(), nn.Conv3d(3, 2, 1))
    image = torch.randn(1, 2, 6, 5, 4)
    before, weights = network(image), network.state_dict()
    use_fast_convolutions(network)
    assert [type(layer) for layer in network] == [Conv3d, nn.SiLU, Conv3d]
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(network(image), before)


def test_operations_are_counted_whichever_routine_does_them(monkeypatch):
    layer, image = Conv3d(4, 5, 3, padding=1), torch.randn(1, 4, 6, 7, 8)
    counted = count_flops(lambda: layer(image))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(image)
    assert counted == counter.get_total_flops() == 2 * 4 * 5 * 27 * 6 * 7 * 8
