"""A session: stages in a process of its own, which begins with neither the model nor its parent's memory."""

import subprocess
import sys

import numpy as np

from vcm.research.benchmark.session import STAGES, measure_session
from vcm.runtime.clock import peak_memory_mib


def test_a_session_is_measured_in_processes_of_its_own(tiny_folder):
    block = np.ones(2**27)  # a gibibyte that is the parent's alone
    session = measure_session(str(tiny_folder), device="cpu", steps=2, sessions=1)
    assert tuple(session["seconds"]) == STAGES
    assert all(seconds["cpu_seconds"] > 0 for seconds in session["seconds"].values())
    assert all(len(seconds["cpu_rounds"]) == 1 for seconds in session["seconds"].values())
    assert 100 < session["peak_memory_mib"] < 2**10 < block.nbytes / 2**20 + 1 < peak_memory_mib() + 1


def test_the_module_itself_imports_nothing_heavy_so_that_imports_are_measured():
    heavy = "('torch', 'numpy', 'monai')"
    code = f"import sys, vcm.research.benchmark.session; print([n for n in {heavy} if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
