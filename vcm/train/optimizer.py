"""The optimizers of a training: AdamW for all, or Muon for the kernels of a network and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_ADAMW_SIZE = 0.2
"""Root mean square of a usual update of AdamW, as a share of its rate."""

_OUTPUTS = ("out.", "heads.")
"""How the names of the last convolutions begin. They are zero at the start, and there an update of a fixed size would
be too large."""


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalised, so that a kernel learns in all directions at the same rate.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon); updates have the size that AdamW's have, as in Liu et al.
    2025 (arXiv 2502.16982), so that rates compare. `torch.optim.Muon` takes matrices alone, and computes in bfloat16: a
    processor without it needs 17 times as long for that.

    Args:
        parameters: kernels, (out, in, ...) each.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].lerp_(kernel.grad, 1 - group["momentum"])
                update = kernel.grad.lerp(momentum, group["momentum"])  # Nesterov's
                matrix = orthogonalize(update.flatten(1))
                size = _ADAMW_SIZE * max(matrix.shape) ** 0.5
                kernel.sub_(matrix.reshape(kernel.shape), alpha=group["lr"] * size)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix (M, N) with the same singular vectors whose singular values are about 1, between 0.5 and 1.5."""
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if is_tall else matrix
    found = found / (found.norm() + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if is_tall else found


def build_optimizers(
    network: nn.Module, learning_rate: float, kernel_rate: float | None, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Return the optimizers that together train all of a network that is not frozen.

    Args:
        kernel_rate: of Muon for the weights of convolutions and linear layers; None for AdamW alone.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    kernels = [
        parameter
        for name, parameter in trained.items()
        if kernel_rate is not None and name.endswith(".weight") and parameter.ndim > 1 and not name.startswith(_OUTPUTS)
    ]
    chosen = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in trained.values() if id(parameter) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if kernel_rate is not None and kernels:
        optimizers.append(Muon(kernels, kernel_rate))
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99)))
    return optimizers
