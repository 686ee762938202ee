"""How a network is made to run fast on the processor at hand, without a change to what it computes but for rounding."""

from __future__ import annotations

from torch import nn

from vcm.runtime.convolution import use_fast_convolutions
from vcm.runtime.precision import use_channels_last
from vcm.runtime.upsampling import fuse_upsampling


def tune(network: nn.Module) -> None:
    """Choose the fastest routines and memory layout for a network's convolutions; weights and their names stay.

    A golden tensor of float32 is then met to about 3e-5, in place of 1e-5: sums are taken in another order.
    """
    fuse_upsampling(network)
    use_fast_convolutions(network)
    use_channels_last(network)
