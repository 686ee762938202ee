"""Memory that is freed stays with the process on Linux, and nothing breaks elsewhere."""

import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import torch
from vcm.memory import keep_freed_memory
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
