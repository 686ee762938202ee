"""Memory that is freed stays with the process on Linux until it is given back, and nothing breaks elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vcm.runtime.memory import give_back_freed_memory, in_own_pages, keep_freed_memory

PROBE = """
import resource, sys
import torch
from vcm.runtime.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(2**24)
for _ in range(4):  # the heap grows to its size
    (x + 1).sum()
counts = []
for _ in range(10):
    before = faults()
    (x + 1).sum()
    counts.append(faults() - before)
print(min(counts))  # the system may take pages back at any time
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is only on Linux")
def test_large_blocks_are_reused_instead_of_mapped_afresh():
    def count(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert count("keep") < 100
    assert count("leave") > 10_000


GIVE_BACK = """
import os
import torch
from vcm.runtime.memory import give_back_freed_memory, keep_freed_memory
torch.set_num_threads(1)
assert keep_freed_memory()
def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
before = resident_mib()
large, kept = [], []
for number in range(8):  # what is kept lies between what is freed, so that the heap's top cannot shrink
    large.append(torch.ones(2**23))
    kept.append(torch.full((2**18,), number))
large.clear()
freed = resident_mib()
assert give_back_freed_memory()
print(freed - before, resident_mib() - before, all(bool((each == n).all()) for n, each in enumerate(kept)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is only on Linux")
def test_freed_blocks_between_kept_ones_go_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True, check=True)
    with_freed, without, is_kept_whole = done.stdout.split()
    assert int(with_freed) > 256
    assert int(without) < 64
    assert is_kept_whole == "True"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    assert not give_back_freed_memory()


@pytest.mark.parametrize(
    "array",
    [np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(12).reshape(3, 4).T[::2], np.zeros((0, 3), np.uint8)],
)
def test_an_array_in_pages_of_its_own_is_the_same_and_shares_nothing(array):
    copy = in_own_pages(array)
    np.testing.assert_array_equal(copy, array)
    assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
    assert not np.shares_memory(copy, array)
    copy[...] = 7  # it can be written to


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where memory lies is read from Linux")
def test_what_is_kept_does_not_lie_in_the_heap():
    copy = in_own_pages(np.ones(1000))
    address = copy.__array_interface__["data"][0]
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    held = next(line for line in lines if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16))
    assert "[heap]" not in held
    before = len(lines)
    kept = [in_own_pages(np.ones(2**16)) for _ in range(3)]
    del copy, kept
    after = len(Path("/proc/self/maps").read_text().splitlines())
    assert after <= before + 1  # they went with the arrays
