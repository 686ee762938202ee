"""The processes of one launch that train one network together: a batch each, the same weights in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from vcm.runtime.shards import find_shard

Value = TypeVar("Value")

_PATIENCE = timedelta(days=2)
"""While the first process checks and places a user's subjects, the others wait; torch gives up after minutes. Of
processes of which one died, the launcher ends the rest."""


class Team:
    """What the processes of a launch do together; one that runs alone waits for nobody.

    `accelerate launch` and `torchrun` start them. Every process draws batches of its own, so that N of them learn from
    N times as many pairs a step; gradients are averaged, and all take the same step. Files are written by the first.
    """

    def __init__(self, device: torch.device | str) -> None:
        shard = find_shard()
        self.index = shard.index
        self.count = shard.count
        self._state: Any = None
        if self.count > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=torch.device(device).type == "cpu", timeout=_PATIENCE)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until all are here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Let the first process do something before the others do: what it keeps in a file, they find."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def share(self, value: Value) -> Value:
        """Return the first process's value in all of them."""
        if self._state is None:
            return value
        from accelerate.utils import broadcast_object_list

        shared: Value = broadcast_object_list([value], from_process=0)[0]
        return shared

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the mean of all gradients; a network part that one of them left out counts as zero there.

        A part that nobody used keeps no gradient, as with one process.
        """
        if self._state is None:
            return
        from accelerate.utils import reduce

        used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        used = reduce(used, reduction="sum")
        chosen = [p for p, count in zip(parameters, used.tolist(), strict=True) if count]
        joined = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in chosen])
        for parameter, mean in zip(
            chosen, reduce(joined, reduction="mean").split([p.numel() for p in chosen]), strict=True
        ):
            parameter.grad = mean.view_as(parameter).clone(memory_format=torch.preserve_format)


@cache
def find_team(device: torch.device | str) -> Team:
    """Return the processes of this launch."""
    return Team(device)
