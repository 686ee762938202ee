"""What went wrong, in one sentence for a visitor; the log gets the kind of failure, never a path or a name."""

from __future__ import annotations

import logging
import os

import gradio as gr

from vcm.errors import is_out_of_memory

FORESEEN = (ValueError, OSError, MemoryError, gr.Error)
"""What a visitor, a full disk or a small machine can cause; anything else is a mistake in the program."""

OUT_OF_MEMORY = "There is not enough memory for this run: try again, or compare less."
UNEXPECTED = "The model stopped unexpectedly; your drawing is kept, so please try again."

_DIED = "GPU task aborted"  # what `spaces` says where the fork that computed is gone

_log = logging.getLogger(__name__)


def explain(error: Exception) -> str:
    """Return the sentence for one of the foreseen failures."""
    if is_out_of_memory(error):
        _log.error("out of memory")
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno else "it gave no reason"
        _log.error("the disk refused: %s", reason)
        return f"The server's disk refused ({reason}); your drawing is kept, so please try again."
    if isinstance(error, gr.Error) and error.message == _DIED:
        _log.error("the worker died")
        return UNEXPECTED
    return str(error.message if isinstance(error, gr.Error) else error)
