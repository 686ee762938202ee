"""Keep freed memory in the process, where the C library would hand it back: a third of a CPU run's time otherwise."""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEEP_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Ask glibc to reuse large blocks instead of mapping each afresh; returns whether it could be asked.

    The activations of a 3D network are tens of megabytes each. By default every one is mapped from the kernel and
    given back, and the page faults cost more than many of the operations. At most a gigabyte is kept at the heap's
    top. On other systems than Linux with glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    done = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _KEEP_BYTES))
    logger.debug("freed memory is kept: %s", done)
    return done
