"""Which cases of a batch this process makes, by what its launcher says in the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

_ENDED_FILE = "vcm-ended"


class ShardError(ValueError):
    """An environment that names no shard; the message is one sentence."""


@dataclass(frozen=True)
class Shard:
    """One of `count` processes that share a batch without a word between them, on one machine or on several.

    Attributes:
        index: of this process, 0 to `count` - 1.
        count: of all processes.
        local_index: of this process on its machine; None where no launcher says it.
        siblings: a folder that the processes of one launch on one machine share as long as it lasts; None without one.
        num_siblings: how many those are, this one included.
    """

    index: int = 0
    count: int = 1
    local_index: int | None = None
    siblings: Path | None = None
    num_siblings: int = 1

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Return every `count`-th item: over all shards each exactly once, if all are given the same items."""
        return list(items[self.index :: self.count])

    def choose_device(self, name: str) -> str:
        """Return the device to ask for: where several processes share a machine, each takes a GPU of its own.

        Only "auto" and "cuda" leave a choice. More processes than GPUs share them evenly.
        """
        if self.local_index is None or name not in ("auto", "cuda"):
            return name
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{self.local_index % count}" if count else name

    def end(self, *, failed: bool, poll_seconds: float = 1.0) -> None:
        """Say that this process is done, and after a failure wait until its siblings are, too.

        A launcher that sees one process fail stops the others on that machine at once, so a broken mask that is met
        early would keep theirs from ever being made.
        """
        if self.siblings is None:
            return
        (self.siblings / str(self.local_index)).mkdir(exist_ok=True)
        (self.siblings / str(self.local_index) / _ENDED_FILE).touch()
        while failed and len(list(self.siblings.glob(f"*/{_ENDED_FILE}"))) < self.num_siblings:
            time.sleep(poll_seconds)


def find_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard that this process is, the only one where no launcher says otherwise.

    `accelerate launch`, `torchrun` and all that do as they do set RANK, WORLD_SIZE and LOCAL_RANK for each process.
    That is all that is needed here, so accelerate itself is not: processes that exchange nothing need no process group.

    Raises:
        ShardError: the variables contradict each other or are no numbers.
    """
    count = _read(environment, "WORLD_SIZE", 1)
    if count > 1 and not environment.get("RANK"):
        raise ShardError("WORLD_SIZE says that several processes share the work: set RANK to the number of this one.")
    index = _read(environment, "RANK", 0) if count > 1 else 0
    if count < 1 or index >= count:
        raise ShardError("RANK must be from 0 to WORLD_SIZE - 1.")
    local = _read(environment, "LOCAL_RANK", 0) if environment.get("LOCAL_RANK") else None
    # The launcher's folder for what its processes report, new with every launch: FOLDER/<local rank>/error.json
    report = environment.get("TORCHELASTIC_ERROR_FILE")
    siblings = Path(report).parent.parent if report and local is not None else None
    return Shard(index, count, local, siblings, _read(environment, "LOCAL_WORLD_SIZE", 1))


def _read(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ShardError(f"The environment variable {name} must be a whole number.")
    return int(text)
