"""How the benchmark measures: seconds in turns, and the memory that a process needed."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

Name = TypeVar("Name")


class Seconds(NamedTuple):
    """What one call took: seconds of work, and seconds on the wall."""

    cpu: float
    wall: float

    def __add__(self, other: Seconds) -> Seconds:  # type: ignore[override]
        """Return what two calls took, one after the other."""
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def scaled(self, factor: float) -> Seconds:
        """Return what `factor` such calls take."""
        return Seconds(self.cpu * factor, self.wall * factor)


def clocked(device: torch.device, call: Callable[[], Any]) -> Seconds:
    """Return what a call took.

    On a CPU the work is the process's own CPU time (`time.process_time`), which other programs do not lengthen. On a
    GPU it is the time between two CUDA events, one before the call and one behind all that it started.
    """
    if device.type != "cuda":
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        return Seconds(time.process_time() - cpu, time.perf_counter() - wall)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    wall = time.perf_counter()
    before.record()
    call()
    after.record()
    torch.cuda.synchronize(device)
    return Seconds(before.elapsed_time(after) / 1000, time.perf_counter() - wall)


def take_turns(
    contestants: Mapping[Name, Callable[[], Seconds]], rounds: int, *, warm_up: bool = False
) -> dict[Name, dict[str, Any]]:
    """Let every contestant run once a round, so that a machine's moods meet them all; returns `summarize_seconds`.

    Args:
        contestants: by name, each of which runs and tells what it took.
        rounds: how many count.
        warm_up: whether a round before them does not count.
    """
    taken: dict[Name, list[Seconds]] = {name: [] for name in contestants}
    for _ in range(rounds + warm_up):
        for name, run in contestants.items():
            taken[name].append(run())
    return {name: summarize_seconds(seconds[warm_up:]) for name, seconds in taken.items()}


def summarize_seconds(rounds: Sequence[Seconds]) -> dict[str, Any]:
    """Return median, p10 and p90 of CPU and wall seconds, and the CPU seconds of every round, as JSON types."""
    summary: dict[str, Any] = {}
    for name in Seconds._fields:
        low, middle, high = np.percentile([getattr(seconds, name) for seconds in rounds], [10, 50, 90])
        summary |= {f"{name}_seconds": float(middle), f"{name}_p10": float(low), f"{name}_p90": float(high)}
    return summary | {"cpu_rounds": [seconds.cpu for seconds in rounds]}


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one thread of a CPU, so that CPU time is work and not waiting."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def peak_memory_mib() -> float:
    """Return the most memory that this process has had since it began, in MiB: all of it, not a run's alone.

    `getrusage` tells it, except on Linux, where a child begins with its parent's peak; there the kernel's own count
    for the program is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
