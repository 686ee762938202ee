"""Kernels trained by Muon learn in all directions; everything else is AdamW's."""

import pytest
import torch
from torch import nn

from vcm.train.optimizer import Muon, build_optimizers, orthogonalize


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_singular_values_become_about_one_and_their_vectors_stay(shape):
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(1.0, 30.0, len(values))
    found = orthogonalize(left @ torch.diag(values) @ right)
    rotated = left.T @ found @ right.T
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() < 1e-3
    assert rotated.diagonal().min() > 0.5
    assert rotated.diagonal().max() < 1.5


def test_an_update_has_the_size_of_the_rate_whatever_the_gradient():
    for scale in (1e-6, 1e3):
        kernel = nn.Parameter(torch.zeros(8, 4, 3, 3, 3))
        optimizer = Muon([kernel], learning_rate=0.01)
        torch.manual_seed(0)
        kernel.grad = scale * torch.randn(kernel.shape)
        optimizer.step()
        assert kernel.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)


def test_a_kernel_in_channels_last_order_gets_the_same_update():
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 4, 3, 3, 3), torch.randn(8, 4, 3, 3, 3)
    kernels = [nn.Parameter(weight.clone(memory_format=f)) for f in (torch.contiguous_format, torch.channels_last_3d)]
    for kernel in kernels:
        kernel.grad = gradient.clone()
        Muon([kernel], learning_rate=0.1).step()
    torch.testing.assert_close(*kernels)
    assert not torch.equal(kernels[0], weight)


class Network(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3, 4, 4, 4))
        self.first = nn.Conv3d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.out = nn.Conv3d(4, 1, 1)


def names_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}


def test_norms_maps_biases_and_the_output_stay_with_adamw():
    network = Network()
    kernels, others = build_optimizers(network, 1e-3, 2e-3)
    assert isinstance(kernels, Muon)
    assert names_of(kernels, network) == {"first.weight"}
    assert names_of(others, network) == {
        "position", "first.bias", "norm.weight", "norm.bias", "out.weight", "out.bias"
    }  # fmt: skip
    (alone,) = build_optimizers(network, 1e-3, None, weight_decay=0.1)
    assert names_of(alone, network) == names_of(kernels, network) | names_of(others, network)
    assert alone.param_groups[0]["weight_decay"] == 0.1
