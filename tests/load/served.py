"""The app as its users start it, in a process of its own, with its memory and its work watched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
START_SECONDS = 600  # of a machine that is busy with something else
MIB = 2**20


class Server:
    """A running `python app.py`.

    Attributes:
        url: ends with a slash.
        folder: of the files that the app keeps for its visitors.
        peak_mib: most memory seen so far.
    """

    def __init__(self, process: subprocess.Popen, url: str, folder: Path) -> None:
        self._process, self.url, self.folder = process, url, folder
        self.peak_mib = 0.0

    def memory_mib(self) -> float:
        """Resident memory now, of the server and all of its children."""
        total = 0
        for pid in [self._process.pid, *_children(self._process.pid)]:
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                continue  # a child that has just ended
        self.peak_mib = max(self.peak_mib, total / MIB)
        return total / MIB

    def files_mib(self) -> float:
        """What lies on the disk for visitors now."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / MIB

    def busy_seconds(self) -> float:
        """Processor time that the server has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_idle(self, seconds: float = 3.0) -> bool:
        """Whether the server does nothing for a while: no run is left over from those who went."""
        before = self.busy_seconds()
        time.sleep(seconds)
        return self.busy_seconds() - before < 0.2 * seconds

    def watch(self, every_seconds: float = 0.5) -> None:
        """Keep an eye on the memory until the server ends."""
        while self._process.poll() is None:
            self.memory_mib()
            time.sleep(every_seconds)


@contextmanager
def serve(*options: str) -> Iterator[Server]:
    """Start the app with the embedded model on a free port, wait until it answers, and end it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="vcm-load-") as folder:
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--device", "cpu", *options]
        environment = os.environ | {"GRADIO_TEMP_DIR": folder}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        server = Server(process, f"http://127.0.0.1:{port}/", Path(folder))
        try:
            _wait_until_it_answers(process, server.url)
            threading.Thread(target=server.watch, daemon=True).start()
            yield server
        except BaseException:
            sys.stderr.write(f"The app {'is running' if process.poll() is None else f'ended with {process.poll()}'}.\n")
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(process: subprocess.Popen, url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            httpx.get(f"{url}config", timeout=10)
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError("The app did not start.")


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found
