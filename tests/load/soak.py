"""A hundred runs, one after the other, against the real app: does its memory stay flat? Prints a table as it goes.

    python tests/load/soak.py [--runs 100] [--steps 4]

Every run has a seed of its own, so that nothing is remembered; a visitor stays for ten of them. The app keeps finished
results up to a bound, which about forty runs of the embedded model fill: from there on memory must not grow.
"""

import argparse
import tempfile
import time
from pathlib import Path

from gradio_client import Client, handle_file
from served import ROOT, serve

MASK = ROOT / "assets" / "examples" / "01-parietal" / "condition_tumor.nii.gz"
MOST_GROWTH_MIB = 100  # after the caches are full, over half of the runs; a leaked volume a run would be ten times that
RUNS_A_VISIT = 10


def soak(runs: int, steps: int) -> list[tuple[int, float, float]]:
    """Return (runs done, memory in MiB, the most so far) now and then, and print it with more as a row of the table."""
    rows = []
    with serve() as server, tempfile.TemporaryDirectory() as downloads:
        started = time.monotonic()

        def measure(runs: int) -> None:
            rows.append((runs, server.memory_mib(), server.peak_mib))
            told = (server.memory_mib(), server.peak_mib, server.files_mib(), time.monotonic() - started)
            print(f"| {runs} | {' | '.join(f'{number:.0f}' for number in told)} |", flush=True)  # noqa: T201

        print("| runs | memory, MiB | peak, MiB | files, MiB | seconds |\n|---|---|---|---|---|")  # noqa: T201
        measure(0)
        client = None
        for number in range(1, runs + 1):
            if client is None or number % RUNS_A_VISIT == 1:
                client = Client(server.url, verbose=False, download_files=downloads)
            files, _ = client.predict(
                tumor=handle_file(MASK), num_inference_steps=steps, seed=number, api_name="/generate"
            )
            assert len(files) == 4
            for file in files:
                Path(file).unlink()
            if number % 10 == 0:
                measure(number)
        assert server.is_idle()
    return rows


def main() -> None:
    """Print the table, and fail where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    rows = soak(arguments.runs, arguments.steps)
    half, last = rows[len(rows) // 2], rows[-1]
    for column, name in ((1, "memory between runs"), (2, "memory in runs")):
        growth = last[column] - half[column]
        assert growth < MOST_GROWTH_MIB, f"{name} grew by {growth:.0f} MiB over half of the runs"


if __name__ == "__main__":
    main()
