"""Number formats and memory layouts: chosen by the hardware, and never at the cost of a value."""

import torch
from torch import nn

from vcm.runtime.precision import autocast, has_native_bfloat16, use_channels_last


def test_networks_compute_in_bfloat16_only_where_the_hardware_does():
    convolution, image = nn.Conv3d(1, 2, 3), torch.randn(1, 1, 5, 5, 5)
    with autocast("cpu"):
        computed = convolution(image)
    native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    assert has_native_bfloat16("cpu") == native
    assert computed.dtype == (torch.bfloat16 if native else torch.float32)
    assert convolution(image).dtype == torch.float32


def test_the_layout_of_a_networks_convolutions_changes_and_what_they_compute_does_not():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv3d(4, 2, 1), nn.Flatten(), nn.Linear(16, 3))
    image = torch.randn(1, 2, 4, 4, 4)
    before = network(image)
    use_channels_last(network)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not network[0].weight.is_contiguous()
    torch.testing.assert_close(network(image), before)


def test_a_gpu_that_only_emulates_bfloat16_does_not_compute_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_native_bfloat16("cuda")
