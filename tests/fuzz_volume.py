"""Mutated NIfTI files by the ten thousand: each must end in a volume or in a VolumeError, soon and in little memory.

Not part of the default run, which has a few hundred of the same: `python tests/fuzz_volume.py --files 100000`.
"""

import argparse
import gzip
import resource
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from nifti import encode

from vcm.volume import Volume, VolumeError

SEED = 20_241_021
SLOWEST_SECONDS = 1.0
MOST_BYTES = 100 * 2**20
_HEADER_BYTES = {1: 352, 2: 544}


def mutate(rng: np.random.Generator, originals: dict[tuple[int, bool], bytes]) -> bytes:
    """Return one of the sound files with bytes of its header, or of its gzip stream, changed, cut or repeated."""
    version, is_packed = int(rng.integers(1, 3)), bool(rng.integers(2))
    data = bytearray(originals[version, False])
    # Half of the gzip files are damaged before they are packed: a wrong checksum hides what lies behind it.
    is_late = is_packed and bool(rng.integers(2))
    if is_late:
        data = bytearray(originals[version, True])
    end = len(data) if is_late else _HEADER_BYTES[version]
    for position in rng.integers(0, end, rng.integers(1, 9)):
        kind = rng.integers(4)
        if kind == 0:
            data[position] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[position] = int(rng.integers(256))
        elif kind == 2:  # a field of four bytes that is very large, very small or no number
            special = [b"\xff" * 4, b"\0" * 4, b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
            start = int(position) & ~3
            data[start : start + 4] = special[int(rng.integers(len(special)))]
        elif rng.integers(8) == 0:
            data = data[: int(rng.integers(len(data)))] if rng.integers(2) else data + bytes(data[:100])
            end = min(end, len(data))
            break
    return bytes(data) if is_late or not is_packed else gzip.compress(bytes(data), 1, mtime=0)


def fuzz(files: int, seed: int = SEED) -> dict[str, object]:
    """Load that many mutated files, and return the figures.

    Raises:
        AssertionError: a file took too long, or gave a volume that is not finite.
        Exception: any other than VolumeError is what is looked for, and passes through.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (5, 6, 4)).astype(np.int16)
    originals = {}
    for version in (1, 2):
        plain = encode(labels, version=version)
        originals |= {(version, False): plain, (version, True): gzip.compress(plain, mtime=0)}
    sentences: Counter[str] = Counter()
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(files):
            path = Path(folder) / f"{number}.nii.gz"
            path.write_bytes(mutate(rng, originals))
            started = time.process_time()
            try:
                volume = Volume.load(path, labels=bool(number % 2))
                assert np.isfinite(volume.array).all()
                sentences["loaded"] += 1
            except VolumeError as error:
                assert str(error).endswith(".")
                assert folder not in str(error)
                sentences["refused"] += 1
            slowest = max(slowest, time.process_time() - started)
            path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert slowest < SLOWEST_SECONDS, f"{slowest:.2f} s for one file"
    assert grown < MOST_BYTES, f"{grown / 2**20:.0f} MiB more memory"
    return {"files": files, **sentences, "slowest_ms": round(1000 * slowest), "grown_mib": round(grown / 2**20)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    print(fuzz(arguments.files, arguments.seed))  # noqa: T201
