"""Counting floating point operations, whichever routine computes a convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


@torch.no_grad()
def count_flops(call: Callable[[], Any]) -> int:
    """Return the floating point operations of a call, as torch counts them: those of products of matrices.

    A multiplication and an addition are two. The call makes no gradients.
    """
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_convolution: _count_onednn}) as counter:
        call()
    return int(counter.get_total_flops())


def _count_onednn(image: list[int], weight: list[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """Return the operations of a convolution that oneDNN was asked for, which torch's counter does not know."""
    return conv_flop_count(image, weight, list(out_shape))
