"""Freed memory stays in the process while a run lasts, a third of whose time it saves, and goes back afterwards."""

from __future__ import annotations

import ctypes
import logging
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEEP_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Ask glibc to reuse large blocks instead of mapping each afresh; returns whether it could be asked.

    The activations of a 3D network are tens of megabytes each. By default every one is mapped from the kernel and
    given back, and the page faults cost more than many of the operations. At most a gigabyte is kept at the heap's
    top. There is one heap for all threads: a server's steps run in one thread after another, and a heap for each would
    keep the same blocks many times. On other systems than Linux with glibc nothing is done.
    """
    libc = _find_glibc()
    if libc is None:
        return False
    wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEEP_BYTES), (_ARENA_MAX, 1))
    done = all(bool(libc.mallopt(*wish)) for wish in wishes)
    logger.debug("freed memory is kept: %s", done)
    return done


def give_back_freed_memory() -> bool:
    """Hand every free page to the system, in milliseconds; returns whether there was one.

    For a server, between its runs: results that are kept lie among the blocks that a run has freed, so that the next
    run's largest do not fit there any more, and the heap would grow with every run. On other systems than Linux with
    glibc nothing is done.
    """
    libc = _find_glibc()
    return libc is not None and bool(libc.malloc_trim(0))


def in_own_pages(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of an array that does not lie in the heap, for what stays when the work around it has gone.

    Kept among the blocks that a run has freed, it would leave gaps too small for the next run's.
    """
    copy = np.frombuffer(mmap.mmap(-1, max(1, array.nbytes)), array.dtype, array.size).reshape(array.shape)
    copy[...] = array
    return copy


def _find_glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        _ = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        return None
    return libc
