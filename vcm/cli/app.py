"""The command `vcm` itself, which its groups of commands register with, and how a command ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from vcm.errors import is_out_of_memory

# Nothing of torch, nibabel or Gradio is imported by a group above its functions: `vcm --help` answers at once.

USER_ERROR = 2

_log = logging.getLogger(__name__)
app = typer.Typer(
    name="vcm",
    help="Control a frozen 3D diffusion model of brain MRI with what you draw. For research and teaching only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run_app(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 2 with one line on stderr for what a user can cause."""
    try:
        with _stopping_in_order():
            code = app(arguments, prog_name="vcm", standalone_mode=False)
    except _Stopped:
        fail("Stopped.", code=143)
    except TyperException as error:
        fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):  # Abort is a RuntimeError
        fail("Interrupted.", code=130)
    except (ValueError, FloatingPointError) as error:  # what a user can cause, and a training that diverged
        _log.debug("The command failed.", exc_info=True)
        fail(str(error))
    except OSError as error:
        _log.debug("The command failed.", exc_info=True)
        fail(f"The system refused: {error.strerror}." if error.strerror else str(error))
    except (MemoryError, RuntimeError) as error:  # of the machine or of its accelerator
        _log.debug("The command failed.", exc_info=True)
        if is_out_of_memory(error):
            fail("There is not enough memory for this: choose a smaller model, or close other programs.", code=1)
        fail("The model stopped unexpectedly: run the command again with vcm --verbose to see why.", code=1)
    sys.exit(code if isinstance(code, int) else 0)


class _Stopped(BaseException):
    """The system asked the command to end; not an Exception, so that nothing takes it for a failure."""


@contextmanager
def _stopping_in_order() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that files in the making are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() != own:
            os._exit(143)  # a process of a pool: its parent tidies up
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, errors in full.")] = False,
) -> None:
    """Set up logging before any command."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def fail(message: str, code: int = USER_ERROR) -> NoReturn:
    """Say one line on stderr and exit."""
    typer.echo(f"vcm: {' '.join(message.split())}", err=True)
    sys.exit(code)
