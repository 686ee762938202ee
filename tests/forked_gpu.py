"""What `spaces.GPU` is on ZeroGPU, without a GPU: each call runs in a fork, and all that crosses is pickled."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Generator
from functools import wraps
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import gradio as gr
import psutil
import torch

_context = multiprocessing.get_context("fork")
_PATIENCE_SECONDS = 60


class ForkedGPU:
    """Stands in for the decorator; `durations` are the seconds that the calls asked for."""

    def __init__(self) -> None:
        self.durations: list[float] = []

    def __call__(self, *, duration: Callable[..., float]) -> Callable[[Callable], Callable]:
        def decorate(task: Callable[..., Generator]) -> Callable[..., Generator]:
            @wraps(task)
            def call(*args: Any, **kwargs: Any) -> Generator:
                self.durations.append(duration(*args, **kwargs))
                return _run_in_fork(task, pickle.dumps((args, kwargs)))

            return call

        return decorate


def _run_in_fork(task: Callable[..., Generator], arguments: bytes) -> Generator:
    here, there = _context.Pipe()
    stop = _context.Event()
    process = _context.Process(target=_serve, args=(task, arguments, there, stop), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            try:
                kind, value = pickle.loads(here.recv_bytes())
            except EOFError:
                raise gr.Error("GPU task aborted", print_exception=False) from None
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        here.close()
        process.join(_PATIENCE_SECONDS)
        assert not process.is_alive(), "the fork did not stop"


def _serve(task: Callable[..., Generator], arguments: bytes, pipe: Connection, stop: Event) -> None:
    _leave_the_visitors_alone()
    torch.set_num_threads(1)  # a fork must not use the thread pool of its parent
    args, kwargs = pickle.loads(arguments)
    events = task(*args, **kwargs)
    try:
        for event in events:
            if stop.is_set():
                events.close()
                return
            pipe.send_bytes(pickle.dumps(("yield", event)))
        pipe.send_bytes(pickle.dumps(("end", None)))
    except BrokenPipeError:
        events.close()
    except gr.Error as error:
        pipe.send_bytes(pickle.dumps(("error", gr.Error(error.message, print_exception=False))))
    except Exception as error:  # only the classes of gr.Error carry their words across
        pipe.send_bytes(pickle.dumps(("error", gr.Error(type(error).__name__, print_exception=False))))


def _leave_the_visitors_alone() -> None:
    """Close the server's connections as ZeroGPU's workers do: one that the server closes meanwhile would stay open.

    A browser would send its next request there, and nobody would ever read it.
    """
    for connection in psutil.Process().net_connections(kind="tcp"):
        os.close(connection.fd)
